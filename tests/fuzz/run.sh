#!/usr/bin/env bash
# Fuzzes the verifier: run.sh [SECONDS] [TARGET...]. Needs a C++ compiler and no nightly: the coverage passes are in the
# stable compiler, RUSTC_BOOTSTRAP unlocks the flag that turns them on. What is learned is kept in target/fuzz.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${CARGO_TARGET_DIR:-$here/../../target}/fuzz
seconds=${1:-60}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(extract compare)
host=$(rustc -vV | sed -n 's/^host: //p')

coverage="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares"

# With --target the flags do not reach build scripts and macros.
RUSTC_BOOTSTRAP=1 RUSTFLAGS=$coverage cargo build --quiet --release --locked --manifest-path "$here/Cargo.toml" \
    --target "$host" --target-dir "$out"

for target in "${targets[@]}"; do
    mkdir -p "$out/corpus/$target" "$out/artifacts"
    echo "== $target, $seconds s"
    # A run of ten seconds is a failure, whatever else the machine does; the slowest is printed at the end and kept if it took more than 1 s.
    "$out/$host/release/$target" -max_total_time="$seconds" -timeout=10 -report_slow_units=1 -max_len="${MAX_LEN:-512}" \
        -dict="$here/latex.dict" -print_final_stats=1 -artifact_prefix="$out/artifacts/$target-" \
        "$out/corpus/$target" "$here/seeds/$target" 2>"$out/$target.log" || { tail -30 "$out/$target.log"; exit 1; }
    grep -a -E '^Done|stat::(average|slowest)|cov:' "$out/$target.log" | tail -4
done
