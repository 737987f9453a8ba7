#!/usr/bin/env bash
# The quickstart on a GPU: real vLLM and the trainer on one device. Prints a short table at the end: tokens/s, time of
# search, update and reload per step, agreement of server and trainer.
#
#   tests/gpu/quickstart.sh ORCHESTRATOR MODEL OUT [SECTION.KEY=VALUE ...]
#
#   ORCHESTRATOR  the release binary      MODEL  folder in the Hugging Face layout      OUT  folder for run and log
#   PYTHON        interpreter with vLLM and torch (default: python3)
#   DEVICE        cuda (default) or cpu, to try the script where there is no GPU
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,10p' "$0" >&2; exit 2; }
orchestrator=$(realpath "$1") model=$(realpath "$2") out=$3
shift 3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$(command -v "${PYTHON:-python3}") device=${DEVICE:-cuda}
mkdir -p "$out"
out=$(realpath "$out")

settings=(
    "run.model=\"$model\"" "run.dir=\"$out/run\"" "data.problems=\"$out/problems.jsonl\""
    "eval.problems=\"$out/heldout.jsonl\""
    "inference.engine=vllm" "inference.command=[\"$python\"]" "inference.device=\"$device\"" "train.device=\"$device\""
)
if [ "$device" = cuda ]; then
    # One GPU for both: vLLM takes less than half, the rest is the trainer's.
    settings+=(
        "run.problems_per_step=128" "run.steps=10" "train.dtype=\"bfloat16\"" "train.minibatch_problems=32"
        "train.micro_batch_tokens=8192" "inference.extra_args=[]"
        # One element type on both sides; learning rate 1e-5 moves bfloat16 weights slowly, 1e-6 of the paper more so.
        "inference.dtype=\"bfloat16\"" "train.export_dtype=\"bfloat16\"" "run.canary_tolerance_nats=0.15"
    )
fi
sets=()
for setting in "${settings[@]}" "$@"; do sets+=(--set "$setting"); done

"$orchestrator" problems generate --out "$out/problems.jsonl" --count 512 --mix sum=2,shopping
"$orchestrator" problems generate --out "$out/heldout.jsonl" --count 64 --held-out --mix sum=2,shopping
"$orchestrator" run --config "$root/configs/quickstart.toml" "${sets[@]}" 2>&1 | tee "$out/run.log"

{ if command -v nvidia-smi > /dev/null; then nvidia-smi -L; else grep -m1 'model name' /proc/cpuinfo; fi; } || true
"$python" - "$out/run/orchestrator.sqlite" << 'PY'
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
columns = ("step_id", "tree_count", "solved_frac", "mean_reward", "generated_tokens", "generated_tokens_per_s",
           "search_ms", "train_ms", "export_ms", "reload_ms", "ratio_mean", "ratio_outside_frac", "produced_weight_version")
print(" | ".join(columns))
rows = db.execute(f"select {', '.join(columns)} from step_summary where run_id = (select max(run_id) from run)")
for row in rows:
    print(" | ".join("-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
PY
