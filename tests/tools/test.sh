#!/bin/sh
# Every test. Warnings are errors; one build profile; nextest when it is there.
set -eu
cd "$(dirname "$0")/../.."
export TEST_ENVOY="$PWD/.cache/envoy/${ENVOY_VERSION:-1.40}/envoy"
# Schemas of custom resources are others' data; a folder of them beside this one is used when it is there.
[ -n "${TEST_CRDS:-}" ] || for crds in "$PWD"/../*/crds; do [ -d "$crds" ] && export TEST_CRDS="$crds"; done
cargo fmt --check
cargo clippy --release --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --quiet
cargo build --release --locked
# Everything runs, and then whatever failed fails.
failed=0
if command -v cargo-nextest >/dev/null; then
    # One process for the library's tests, which share what is dear to compile; one process each for those that drive
    # other programs.
    RUST_MIN_STACK=16777216 cargo test --release --locked --lib --bins --quiet || failed=1
    cargo nextest run --release --locked --no-fail-fast --test it "$@" || failed=1
    cargo test --release --locked --doc --quiet || failed=1
else
    RUST_MIN_STACK=16777216 cargo test --release --locked --no-fail-fast "$@" || failed=1
fi
exit $failed
