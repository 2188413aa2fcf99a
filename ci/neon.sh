#!/bin/sh
# Tests the NEON kernels under emulation: compiles the kernels crate for AArch64 Linux, runs its tests in qemu-user, and
# checks that they hold the instructions that the tables are made for.
#
# Needs a Debian-like system. As root it installs what is missing; otherwise it says what to install. The compiler is
# the distribution's (rustc-web), whose AArch64 standard library comes as a package, so nothing else is downloaded but
# the crates in Cargo.lock.
set -eu
cd "$(dirname "$0")/.."

packages="qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross rustc-web libstd-rust-web-dev:arm64"
have() { command -v "$1" >/dev/null 2>&1; }
if ! have qemu-aarch64 || ! have aarch64-linux-gnu-gcc || [ ! -d /usr/lib/rustlib/aarch64-unknown-linux-gnu ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing tools; as root: dpkg --add-architecture arm64 && apt-get update && apt-get install $packages" >&2
        exit 1
    fi
    dpkg --add-architecture arm64
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $packages
fi

export RUSTC="${NEON_RUSTC:-/usr/bin/rustc}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/neon"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# Static: qemu-user 7.2 hangs when a dynamically linked AArch64 glibc starts a thread. Changes linking only.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64"
export REQUIRE_ISA="${REQUIRE_ISA:-neon,neon-dotprod,neon-i8mm}"
unset RUSTC_WRAPPER RUSTUP_TOOLCHAIN RUSTFLAGS || true
target=aarch64-unknown-linux-gnu
# All tests but those between guards, which are the same ones again: of those the few that cover every kernel.
tests=--lib
for file in kernels/tests/*.rs; do
    [ "$file" = kernels/tests/guarded.rs ] || tests="$tests --test $(basename "$file" .rs)"
done
# shellcheck disable=SC2086
cargo test -p ocelli-kernels $tests --target $target "$@"
cargo test -p ocelli-kernels --test guarded --target $target -- rows_ few_tokens
binary=$(cargo test -p ocelli-kernels --test matmul --target $target --no-run 2>&1 | sed -n 's/^ *Executable.*(\(.*\))$/\1/p')
OBJDUMP=aarch64-linux-gnu-objdump bash ci/instructions.sh "$binary"
