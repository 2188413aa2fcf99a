#!/usr/bin/env bash
# Runs the thread pool's tests under the thread sanitizer, with the standard library compiled for it too: its locks would
# be reported otherwise. Needs the library's source (`rustup component add rust-src`) and compiles it, a minute or two;
# RUSTC_BOOTSTRAP lets the stable compiler take the options that this needs.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
[ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || rustup component add rust-src
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread" TSAN_OPTIONS="halt_on_error=1"
cargo test -Zbuild-std --target "$host" --target-dir "${CARGO_TARGET_DIR:-target}/threads" \
    -p ocelli-kernels --lib "$@" -- pool
