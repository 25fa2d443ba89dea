#!/bin/sh
# Every test. Warnings are errors; one build profile; nextest when it is there.
set -eu
cd "$(dirname "$0")/../.."
export TEST_ENVOY="$PWD/.cache/envoy/${ENVOY_VERSION:-1.40}/envoy"
cargo fmt --check
cargo clippy --release --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --quiet
cargo build --release --locked
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --release --locked --no-fail-fast "$@"
    cargo test --release --locked --doc --quiet
else
    cargo test --release --locked --no-fail-fast "$@"
fi
