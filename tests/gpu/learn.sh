#!/usr/bin/env bash
# DeepSearch against DAPO for the same time on one GPU, real vLLM: both curves of held-out pass@1 over minutes and generated
# tokens. Each run is called off when its time is over, which a run takes without loss.
#
#   tests/gpu/learn.sh ORCHESTRATOR MODEL PROBLEMS HELDOUT OUT [SECTION.KEY=VALUE ...]
#
#   ORCHESTRATOR  the release binary      MODEL  folder in the Hugging Face layout      OUT  folder for runs and logs
#   PROBLEMS      JSON lines with problem and answer (GSM8K's training split), HELDOUT others that share none with them
#   MINUTES       of each run, the start of its server included (default: 12)
#   ALGORITHMS    of `run.algorithm` (default: deepsearch dapo)
#   PYTHON        interpreter with vLLM and torch (default: python3)
#   DEVICE        cuda (default) or cpu, to try the script where there is no GPU
set -euo pipefail
[ $# -ge 5 ] || { sed -n '2,14p' "$0" >&2; exit 2; }
orchestrator=$(realpath "$1") model=$(realpath "$2") problems=$(realpath "$3") held_out=$(realpath "$4") out=$5
shift 5
python=$(command -v "${PYTHON:-python3}") device=${DEVICE:-cuda} minutes=${MINUTES:-12}
mkdir -p "$out"
out=$(realpath "$out")

if [ "$device" = cuda ]; then
    dtype=bfloat16 batch=64 limit=256 micro=16384 samples=2 tokens=512
else
    dtype=float32 batch=4 limit=8 micro=2048 samples=1 tokens=96
fi
cat > "$out/config.toml" << TOML
[run]
model = "$model"
steps = 100000
problems_per_step = $batch
keep_every = 0
checkpoint_every = 0
pipeline = "overlap"
[data]
problems = "$problems"
[eval]
problems = "$held_out"
limit = $limit
every = 5
samples = $samples
[prompt]
kind = "chat"
max_tokens = 512
[curriculum]
filter = false
[search]
width = 4
step_tokens = $((tokens / 8))
max_depth = 8
trajectories = 8
[inference]
engine = "vllm"
launch = true
command = ["$python"]
device = "$device"
dtype = "$dtype"
max_model_tokens = $((tokens + 512))
[train]
device = "$device"
dtype = "$dtype"
export_dtype = "$dtype"
learning_rate = 1e-5
minibatch_problems = $((batch / 2))
micro_batch_tokens = $micro
TOML
sets=()
for setting in "$@"; do sets+=(--set "$setting"); done

for algorithm in ${ALGORITHMS:-deepsearch dapo}; do
    echo "$algorithm: $minutes minutes"
    code=0
    timeout --signal=TERM --kill-after=120 "${minutes}m" "$orchestrator" run --config "$out/config.toml" \
        --set "run.name=\"$algorithm\"" --set "run.dir=\"$out/$algorithm\"" --set "run.algorithm=$algorithm" "${sets[@]}" \
        > "$out/$algorithm.log" 2>&1 || code=$?
    case $code in
        0 | 124) tail -n 3 "$out/$algorithm.log" ;;
        *) tail -n 30 "$out/$algorithm.log" >&2 && exit "$code" ;;
    esac
    "$orchestrator" db check "$out/$algorithm"
done

{ if command -v nvidia-smi > /dev/null; then nvidia-smi -L; else grep -m1 'model name' /proc/cpuinfo; fi; } || true
"$python" - "$out" ${ALGORITHMS:-deepsearch dapo} << 'PY'
import sqlite3, sys
from pathlib import Path
out, *algorithms = sys.argv[1:]
print("algorithm | minutes of steps | step | generated tokens | trained tokens | problems | held-out pass@1 %")
for algorithm in algorithms:
    db = sqlite3.connect(f"file:{Path(out, algorithm, 'orchestrator.sqlite')}?mode=ro", uri=True)
    for wall, *counts, rate in db.execute("select wall_s, step_id, generated_tokens, trained_tokens, problem_count, "
                                          "pass_at_1 from learning_curve order by step_id, weight_version"):
        print(" | ".join([algorithm, f"{wall / 60:.1f}", *map(str, counts), "-" if rate is None else f"{100 * rate:.1f}"]))
PY
