#!/bin/sh
# Fuzzes every target for FUZZ_SECONDS each (600), or those named. No toolchain but the usual one is needed: the fuzzer is a
# library, and the compiler's own coverage guides it. What crashes is kept in artifacts/, what teaches in corpus/; one line
# for each run is added to target/fuzz.tsv.
set -eu
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
seconds=${FUZZ_SECONDS:-600}
targets=${*:-address body check_request config documents pattern request session stream target value view}
export CARGO_TARGET_DIR="$root/target" RUSTC_WRAPPER="$PWD/rustc.sh"
# The versions that the product is built from, and the fuzzer's own.
cp "$root/Cargo.lock" Cargo.lock
cargo build --release --bins --config 'profile.release.package.envoy-guard.opt-level=2'
python3 seeds.py "$root" seeds
summary=$root/target/fuzz.tsv
status=0
for target in $targets; do
    mkdir -p "corpus/$target" "artifacts/$target" "seeds/$target"
    echo "== $target: $seconds s"
    log=artifacts/$target.log
    "$CARGO_TARGET_DIR/release/$target" "corpus/$target" "seeds/$target" -max_total_time="$seconds" -max_len=16384 \
        -dict=words.dict -timeout=20 -rss_limit_mb=4096 -artifact_prefix="artifacts/$target/" -print_final_stats=1 >"$log" 2>&1 || status=1
    tail -n 8 "$log"
    crashes=$(find "artifacts/$target" -type f | wc -l)
    stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
    progress=$(grep -E '^#[0-9]+' "$log" | tail -n 1 | sed -E 's/.* cov: ([0-9]+) ft: ([0-9]+) corp: ([0-9]+).*/\1\t\2\t\3/')
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$(date -u +%FT%TZ)" "$target" "$seconds" "$(stat number_of_executed_units)" \
        "$progress" "$(stat peak_rss_mb)" "$crashes" >>"$summary"
    [ "$crashes" = 0 ] || { echo "$target: see tests/fuzz/artifacts/$target" >&2; status=1; }
done
exit $status
