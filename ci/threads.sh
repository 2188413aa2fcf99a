#!/usr/bin/env bash
# Runs the thread pool's tests under the thread sanitizer, with the standard library compiled for it too: its locks would
# be reported otherwise. That needs the library's source. Where the compiler in use has it (`rustup component add rust-src`)
# that compiler is taken; else the distribution's (Debian: rustc-web and rust-web-src, installed when run as root) with
# the sanitizer's runtime of the compiler in use. Where neither is to be had, says so in a line that begins with `skipped:`.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
runtime=$(rustc --print target-libdir)/librustc-stable_rt.tsan.a
flags="-Zsanitizer=thread"

has_source() { [ -d "$("$1" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" ]; }
if ! has_source rustc; then
    if ! has_source /usr/bin/rustc && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends rustc-web rust-web-src || true
    fi
    if ! has_source /usr/bin/rustc || [ ! -f "$runtime" ]; then
        echo "skipped: thread sanitizer for the pool (needs the standard library's source: rustup component add rust-src)"
        exit 0
    fi
    export RUSTC=/usr/bin/rustc
    # Before everything else on the linker's command line, where the compiler would put its own.
    flags+=" -Zexternal-clangrt -Zpre-link-args=-Wl,--whole-archive,$runtime,--no-whole-archive"
fi
unset RUSTC_WRAPPER RUSTUP_TOOLCHAIN || true

# RUSTC_BOOTSTRAP lets a stable compiler take the options that this needs. Without optimisation, since instrumenting
# kernels that are inlined into one another takes many minutes, and the pool's tests do not need them fast.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" TSAN_OPTIONS="halt_on_error=1"
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_INCREMENTAL=0
cargo test -Zbuild-std --target "$host" --target-dir "${CARGO_TARGET_DIR:-target}/threads" --locked \
    -p ocelli-kernels --lib "$@" -- pool
