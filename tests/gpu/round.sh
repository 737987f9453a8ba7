#!/usr/bin/env bash
# One round on real mathematics problems on a GPU: filter, search, updates, the next step's search beside the update.
# Prints trees per hour, tokens per second, the share of the time that generation was running, peak memory.
#
#   tests/gpu/round.sh ORCHESTRATOR MODEL PROBLEMS OUT [SECTION.KEY=VALUE ...]
#
#   ORCHESTRATOR  the release binary      MODEL  folder in the Hugging Face layout      OUT  folder for run and log
#   PROBLEMS      JSON lines with problem and answer (DeepMath-103K's hard subset)
#   PYTHON        interpreter with vLLM and torch (default: python3)
#   DEVICE        cuda (default) or cpu, to try the script where there is no GPU
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,11p' "$0" >&2; exit 2; }
orchestrator=$(realpath "$1") model=$(realpath "$2") problems=$(realpath "$3") out=$4
shift 4
python=$(command -v "${PYTHON:-python3}") device=${DEVICE:-cuda}
mkdir -p "$out"
out=$(realpath "$out")

if [ "$device" = cuda ]; then
    dtype=bfloat16 limit=512 steps=4 batch=128 micro=8192
else
    dtype=float32 limit=8 steps=2 batch=4 micro=2048
fi
cat > "$out/config.toml" << TOML
[run]
name = "round"
model = "$model"
dir = "$out/run"
steps = $steps
problems_per_step = $batch
keep_every = 0
pipeline = "overlap"
[data]
problems = "$problems"
limit = $limit
[prompt]
kind = "chat"
max_tokens = 1024
[curriculum]
filter_samples = 4
[search]
width = 8
step_tokens = 64
max_depth = 16
trajectories = 8
[inference]
engine = "vllm"
launch = true
command = ["$python"]
device = "$device"
dtype = "$dtype"
max_model_tokens = 2048
[train]
device = "$device"
dtype = "$dtype"
export_dtype = "$dtype"
minibatch_problems = $((batch < 32 ? batch : 32))
micro_batch_tokens = $micro
overlong_buffer_tokens = 256
TOML
sets=()
for setting in "$@"; do sets+=(--set "$setting"); done

memory="$out/memory.txt"
: > "$memory"
if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -l 1 > "$memory" 2> /dev/null &
    sampler=$!
    trap 'kill "$sampler" 2> /dev/null || true' EXIT
fi
"$orchestrator" run --config "$out/config.toml" "${sets[@]}" 2>&1 | tee "$out/run.log"

{ if command -v nvidia-smi > /dev/null; then nvidia-smi -L; else grep -m1 'model name' /proc/cpuinfo; fi; } || true
"$python" - "$out/run/orchestrator.sqlite" "$memory" << 'PY'
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
run = db.execute("select max(run_id) from run").fetchone()[0]
print("round | candidates | hard | cached | unsolved | searched | skipped | solved | filter tokens")
for row in db.execute("select round_id, candidate_count, hard_count, cached_count, unsolved_count, searched_count, "
                      "skipped_count, solved_count, generated_tokens from round_summary where run_id = ?", (run,)):
    print(" | ".join(map(str, row)))
print("step | trees/hour | tokens/s | generating | search s | train s | reload s | reward | ratio")
for step, trees, tokens, search, train, reload, reward, ratio in db.execute(
        "select step_id, tree_count, generated_tokens, search_ms, train_ms, reload_ms, mean_reward, ratio_mean "
        "from step_summary where run_id = ?", (run,)):
    metric = dict(db.execute("select name, value from metric where run_id = ? and step_id = ?", (run, step)))
    wall = metric["wall_s"]
    print(f"{step} | {3600 * trees / wall:.0f} | {tokens / (search / 1e3):.0f} | {metric['generating_s'] / wall:.3f} | "
          f"{search / 1e3:.1f} | {train / 1e3:.1f} | {(reload or 0) / 1e3:.1f} | {reward} | {ratio}")
used = [int(line) for line in open(sys.argv[2]) if line.strip().isdigit()]
print(f"peak GPU memory: {max(used)} MiB" if used else "peak GPU memory: not measured")
PY
