#!/bin/sh
# What drives a real Envoy, on every version that is supported. ENVOYS="1.36 1.40" for some of them.
set -eu
cd "$(dirname "$0")/../.."
versions=${ENVOYS:-1.36 1.37 1.38 1.39 1.40}
for version in $versions; do
    ENVOY_VERSION=$version sh tests/tools/setup.sh test
done
cargo test --release --locked --no-run --test it
results=
failed=0
for version in $versions; do
    echo "== Envoy $version"
    export TEST_ENVOY="$PWD/.cache/envoy/$version/envoy"
    # Every test that starts an Envoy says so in its name or in that of its module.
    if cargo nextest run --release --locked --no-fail-fast --test it -E 'test(/envoy|proc::|chaos::|deploy::|load::/)' "$@"; then
        outcome=passed
    else
        outcome=FAILED failed=1
    fi
    results="$results$("$TEST_ENVOY" --version | grep -o '[0-9]*\.[0-9]*\.[0-9]*' | head -1) $outcome
"
done
printf '\n%s' "$results"
exit $failed
