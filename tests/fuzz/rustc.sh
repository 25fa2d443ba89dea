#!/bin/sh
# Cargo's wrapper around the compiler: our own crates, and they alone, tell the fuzzer which edges they take and what they
# compare. So the dependencies are those of the product, compiled once. There is no unsafe code to watch with a sanitizer.
case " $* " in
*" --crate-name envoy_guard "* | *" fuzz_targets/"*)
    set -- "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$@"
