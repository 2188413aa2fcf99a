#!/usr/bin/env bash
# All figures of docs/performance.md, in one go, on a machine that does nothing else: about five minutes on two cores,
# three more with llama-bench.
#
#   benches/run.sh OUT TEXT.gguf MMPROJ.gguf [MORE.gguf …]
#
# OUT gets models.json, more-*.json, one-thread.json, kernels.json, each as a table too (*.md), and roofline.svg. A
# full-size pair with random weights comes from `ocelli synth --preset minicpm-v-4 --gguf Q4_K_M --out DIR`. THREADS
# (physical cores), REPETITIONS (2), ISA (best) and OCELLI (target/release/ocelli, built if missing) may be set;
# OCELLI_LLAMA_BENCH=PROGRAM measures that on the same files.
set -euo pipefail
out=${1:?usage: run.sh OUT TEXT.gguf MMPROJ.gguf [MORE.gguf …]}
text=${2:?the text model}
mmproj=${3:?its vision file}
shift 3
cd "$(dirname "$0")/.."
ocelli=${OCELLI:-target/release/ocelli}
[ -x "$ocelli" ] || cargo build --release --locked
mkdir -p "$out"
common=(-r "${REPETITIONS:-2}" -o json)
threads=(-t "${THREADS:-0}")

# Warm files: what is measured is not the disk. Mapped files come into memory in larger pages than those that `cat` reads.
for model in "$text" "$@"; do
    "$ocelli" bench -m "$model" --mmproj "$mmproj" -p 8 -n 1 -r 1 --no-warmup >/dev/null
done

# Runs the bench with the arguments given, keeps its rows as $1.json, and the Markdown made of them as $1.md.
bench() {
    local name=$1
    shift
    echo "== $name: ocelli bench $*" >&2
    "$ocelli" bench "$@" >"$out/$name.json.part"
    mv "$out/$name.json.part" "$out/$name.json"
    "$ocelli" bench --show "$out/$name.json" >"$out/$name.md"
}

bench models -m "$text" --mmproj "$mmproj" -p 8,32,88,512 -n 32 "${threads[@]}" "${common[@]}"
for model in "$@"; do
    bench "more-$(basename "$model" .gguf)" -m "$model" -p 88,512 -n 32 "${threads[@]}" "${common[@]}"
done
bench one-thread -m "$text" -p 88 -n 16 -t 1 "${common[@]}"
# The plot shows the formats of the model's usual files; leave --formats out for all of them.
bench kernels kernels --formats Q4_K,Q6_K,Q8_0,F16 --isa "${ISA:-best}" "${threads[@]}" "${common[@]}" \
    --plot "$out/roofline.svg" --overwrite
for f in "$out"/*.md; do
    printf '\n== %s\n' "$(basename "$f" .md)"
    cat "$f"
done
