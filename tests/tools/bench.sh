#!/bin/sh
# Measures this build beside its rivals, in one run. A folder with labelled requests may be given as CORPUS.
set -eu
cd "$(dirname "$0")/../.."
command -v h2load >/dev/null || {
    [ "$(id -u)" = 0 ] && sudo= || sudo=sudo
    $sudo apt-get install -y -qq --no-install-recommends nghttp2-client
}
# Without it that rival is left out, and the bench says so.
if ! [ -e /usr/include/modsecurity/modsecurity.h ] || ! [ -d /usr/share/modsecurity-crs/rules ]; then
    [ "$(id -u)" = 0 ] && sudo= || sudo=sudo
    $sudo apt-get install -y -qq --no-install-recommends libmodsecurity3 libmodsecurity-dev modsecurity-crs ||
        echo "bench: ModSecurity could not be installed" >&2
fi
# One codegen unit each, for what is measured and for the server it is compared with: small functions are inlined as in
# the `dist` profile, and the dependencies of the tests serve again.
export CARGO_INCREMENTAL=0
one() { printf 'profile.release.package."%s".codegen-units=1' "$1"; }
cargo build --release --locked -p envoy-guard -p envoy-guard-bench --config "$(one envoy-guard)" --config "$(one envoy-guard-bench)"
exec target/release/envoy-guard-bench all target/release/envoy-guard .cache/venv/bin/python "${CORPUS:-../shared/corpora/dev.jsonl}"
