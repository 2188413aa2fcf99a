#!/usr/bin/env bash
# Checks that a release binary holds the instructions its kernel tables are made for: a table that was silently compiled
# to plain code would still give right answers, slowly. OBJDUMP names the disassembler for another machine's binary.
set -euo pipefail
binary=${1:?usage: instructions.sh BINARY}
objdump=${OBJDUMP:-objdump}
listing=$(mktemp)
trap 'rm -f "$listing"' EXIT
"$objdump" -d --no-show-raw-insn "$binary" >"$listing"
case $("$objdump" -f "$binary") in
*x86-64*) wanted='vpmaddubsw.*%ymm vpmaddwd.*%ymm vfmadd.*%ymm vcvtph2ps.*%ymm vpdpbusd.*%zmm vpdpbusd.*%ymm vpdpwssd.*%zmm vpdpwssd.*%ymm' ;;
*aarch64*) wanted='sdot fmla smmla' ;;
*) echo "instructions.sh: $binary: unknown architecture" >&2; exit 1 ;;
esac
for w in $wanted; do
    n=$(grep -cE "\s$w" "$listing" || true)
    printf '%-24s %s\n' "$w" "$n"
    [ "$n" -gt 0 ] || { echo "instructions.sh: $binary holds no $w" >&2; exit 1; }
done
