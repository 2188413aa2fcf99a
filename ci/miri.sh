#!/usr/bin/env bash
# Runs the codecs, the GGUF reader, the thread pool and the plain kernels in Miri, which sees every access out of bounds, every
# data race and every broken rule of references. Miri comes with nightly compilers only (`rustup +nightly component add miri
# rust-src`). Where it is not installed, says so in a line that begins with `skipped:`.
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=${MIRI_TOOLCHAIN:-nightly}
if ! cargo "+$toolchain" miri --version >/dev/null 2>&1; then
    echo "skipped: Miri for codecs, reader and pool (not installed: rustup +$toolchain component add miri rust-src)"
    exit 0
fi
# Temporary files and the clock are the system's; threads take turns in the order of one seed, the same every time.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/miri"
unset RUSTFLAGS RUSTC_WRAPPER || true
cargo "+$toolchain" miri test --locked -p ocelli-quant -p ocelli-gguf --lib "$@"
cargo "+$toolchain" miri test --locked -p ocelli-kernels --lib "$@" -- pool:: scalar::
