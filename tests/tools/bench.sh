#!/bin/sh
# Measures this build beside its rivals, in one run. A folder with labelled requests may be given as CORPUS.
set -eu
cd "$(dirname "$0")/../.."
command -v h2load >/dev/null || {
    [ "$(id -u)" = 0 ] && sudo= || sudo=sudo
    $sudo apt-get install -y -qq --no-install-recommends nghttp2-client
}
cargo build --release --locked -p envoy-guard -p envoy-guard-bench
exec target/release/envoy-guard-bench all target/release/envoy-guard .cache/venv/bin/python "${CORPUS:-../shared/corpora/dev.jsonl}"
