#!/usr/bin/env bash
# Runs the kernels' tests under the address sanitizer, which also sees what lies on the stack and inside of larger buffers;
# `kernels/tests/guarded.rs` runs them between inaccessible pages, which needs no special compiler, and with full optimisation.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
if [ ! -f "$(rustc --print target-libdir)/librustc-stable_rt.asan.a" ]; then
    echo "skipped: address sanitizer for the kernels (this compiler has no runtime for it)"
    exit 0
fi
# RUSTC_BOOTSTRAP lets a stable compiler take the option. One step of optimisation: more takes many minutes to compile.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_INCREMENTAL=0
export CARGO_PROFILE_DEV_OPT_LEVEL="${OPT_LEVEL:-1}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/address"
# Not those between guards, whose allocator takes the place of the sanitizer's; nor the unit tests, for which everything would
# be compiled twice.
tests=()
for file in kernels/tests/*.rs; do
    [ "$file" = kernels/tests/guarded.rs ] || tests+=(--test "$(basename "$file" .rs)")
done
cargo test --locked --target "$host" -p ocelli-kernels "${tests[@]}" --no-fail-fast "$@"
