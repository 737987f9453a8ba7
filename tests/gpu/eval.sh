#!/usr/bin/env bash
# A model on the six benchmarks of the paper (table 1) on a GPU: vLLM started for it, 4 samples a problem. Prints the table,
# tokens per second over the whole of it, peak memory. Killed and started again it goes on where it was.
#
#   tests/gpu/eval.sh ORCHESTRATOR MODEL PROBLEMS OUT [OPTION ...]
#
#   ORCHESTRATOR  the release binary      MODEL  folder in the Hugging Face layout      OUT  folder for results and log
#   PROBLEMS      folder with aime24, aime25, amc23, math500, minerva and olympiad as .jsonl
#   OPTION        of `orchestrator eval`, such as --samples 32
#   PYTHON        interpreter with vLLM and torch (default: python3)
#   DEVICE        cuda (default) or cpu, to try the script where there is no GPU
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,12p' "$0" >&2; exit 2; }
orchestrator=$(realpath "$1") model=$(realpath "$2") problems=$(realpath "$3") out=$4
shift 4
python=$(command -v "${PYTHON:-python3}") device=${DEVICE:-cuda}
mkdir -p "$out"
out=$(realpath "$out")

if [ "$device" = cuda ]; then
    options=(--samples 4 --max-tokens 16384 --set 'inference.dtype="bfloat16"')
else
    options=(--samples 2 --max-tokens 64 --limit 2)
fi
files=()
for name in aime24 aime25 amc23 math500 minerva olympiad; do files+=("$problems/$name.jsonl"); done

memory="$out/memory.txt"
: > "$memory"
if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -l 1 > "$memory" 2> /dev/null &
    sampler=$!
    trap 'kill "$sampler" 2> /dev/null || true' EXIT
fi
# Of an option that is given twice the script's own gives way.
for option in "$@"; do
    for i in "${!options[@]}"; do
        if [ "$option" = "${options[i]-}" ] && [ "$option" != --set ]; then unset "options[i]" "options[i + 1]"; fi
    done
done
COLUMNS=200 "$orchestrator" eval "$model" "${files[@]}" --engine vllm --out "$out/eval" --json "$out/eval.json" \
    --set "inference.command=[\"$python\"]" --set "inference.device=\"$device\"" "${options[@]}" "$@" \
    2> >(tee "$out/eval.log" >&2) | tee "$out/table.txt"

{ if command -v nvidia-smi > /dev/null; then nvidia-smi -L; else grep -m1 'model name' /proc/cpuinfo; fi; } || true
"$python" - "$out/eval/orchestrator.sqlite" "$memory" << 'PY'
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
tokens, samples, first, last = db.execute(
    "select sum(token_count), count(*), min(created_at_ms), max(created_at_ms) from benchmark_sample").fetchone()
begun = db.execute("select max(created_at_ms) from benchmark").fetchone()[0]
seconds = (last - begun) / 1e3
print(f"{samples} samples, {tokens} tokens in {seconds:.0f} s (of an unbroken run): {tokens / max(seconds, 1e-9):.0f} tokens/s")
used = [int(line) for line in open(sys.argv[2]) if line.strip().isdigit()]
print(f"peak GPU memory: {max(used)} MiB" if used else "peak GPU memory: not measured")
PY
