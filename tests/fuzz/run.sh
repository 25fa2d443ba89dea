#!/bin/sh
# Fuzzes every target for FUZZ_SECONDS each (600), or those named. No toolchain but the usual one is needed: the fuzzer is a
# library, and the compiler's own coverage guides it. What crashes is kept in artifacts/, what teaches in corpus/.
set -eu
cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-600}
targets=${*:-address body check_request config target value}
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table"
triple=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, build scripts and macros are not instrumented.
RUSTFLAGS="$coverage" cargo build --release --target "$triple" --bins
status=0
for target in $targets; do
    mkdir -p "corpus/$target" "artifacts/$target"
    echo "== $target: $seconds s"
    "target/$triple/release/$target" "corpus/$target" -max_total_time="$seconds" -max_len=16384 -timeout=20 \
        -rss_limit_mb=4096 -artifact_prefix="artifacts/$target/" -print_final_stats=1 2>&1 | tail -n 12 || status=1
    [ -z "$(ls "artifacts/$target")" ] || { echo "$target: see artifacts/$target" >&2; status=1; }
done
exit $status
