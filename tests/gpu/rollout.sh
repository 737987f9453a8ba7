#!/usr/bin/env bash
# Search speed on a GPU: real vLLM, the search of a step against lock step and against a plain load generator at the same
# lengths and concurrency, and vLLM's own `bench serve` on the same server. Prints the tables, trees per hour, the share of
# prompt tokens that the prefix cache had, the orchestrator's processor time.
#
#   tests/gpu/rollout.sh ORCHESTRATOR MODEL PROBLEMS OUT [OPTION ...]
#
#   ORCHESTRATOR  the release binary      MODEL  folder in the Hugging Face layout      OUT  folder for results and logs
#   PROBLEMS      JSON lines with problem and answer; - is prompts of random tokens
#   OPTION        of `orchestrator bench rollout`, such as --trees 512 or --rounds 3
#   PYTHON        interpreter with vLLM (default: python3)
#   DEVICE        cuda (default) or cpu, to try the script where there is no GPU
#   PEER          0: without `vllm bench serve`
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,14p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
orchestrator=$(realpath "$1") model=$(realpath "$2") problems=$3 out=$4
shift 4
python=$(command -v "${PYTHON:-python3}") device=${DEVICE:-cuda}
mkdir -p "$out"
out=$(realpath "$out")

if [ "$device" = cuda ]; then
    dtype=bfloat16 context=4096 peer_requests=2000 peer_tokens=64
    # Text that a chat model writes in steps of 64 tokens; the search of the paper with shorter steps and paths.
    options=(--trees 256 --rounds 2 --set search.width=8 --set search.step_tokens=64 --set search.max_depth=16
        --set search.trajectories=8)
    server=(--gpu-memory-utilization 0.85 --max-num-seqs 512)
else
    dtype=float32 context=1024 peer_requests=40 peer_tokens=16
    options=(--trees 8 --prompt-tokens 48 --set search.width=4 --set search.step_tokens=16 --set search.max_depth=4
        --set search.trajectories=4)
    server=(--enforce-eager --block-size 32 --no-enable-chunked-prefill)
    export TORCHDYNAMO_DISABLE=1 VLLM_CPU_KVCACHE_SPACE=1
fi
if [ "$problems" != - ]; then
    options+=(--problems "$(realpath "$problems")" --set 'prompt.kind="chat"')
    for i in "${!options[@]}"; do
        if [ "${options[i]-}" = --prompt-tokens ]; then unset "options[i]" "options[i + 1]"; fi
    done
fi

# A free port on the loopback device; the development routes drop the prefix cache between the modes.
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_SERVER_DEV_MODE=1
PYTHONPATH="$root/inference${PYTHONPATH:+:$PYTHONPATH}" "$python" -m vllm.entrypoints.openai.api_server \
    --model "$model" --served-model-name policy --host 127.0.0.1 --port "$port" --dtype "$dtype" \
    --max-model-len "$context" --worker-extension-cls worker.DeepSearchWorker "${server[@]}" > "$out/vllm.log" 2>&1 &
vllm=$!
memory="$out/memory.txt"
: > "$memory"
if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -l 1 > "$memory" 2> /dev/null &
    sampler=$!
fi
trap 'kill "$vllm" ${sampler:+"$sampler"} 2> /dev/null || true; wait "$vllm" 2> /dev/null || true' EXIT
for ((i = 0; ; i++)); do
    if "$python" -c "import urllib.request as u; u.urlopen('$url/health', timeout=5)" 2> /dev/null; then break; fi
    if [ "$i" -ge 600 ] || ! kill -0 "$vllm" 2> /dev/null; then tail -n 30 "$out/vllm.log" >&2; exit 1; fi
    sleep 1
done

# The server's own counters, of which the difference counts.
metrics() { "$python" -c "import urllib.request as u; print(u.urlopen('$url/metrics').read().decode())" > "$out/$1.txt"; }
metrics before
COLUMNS=220 "$orchestrator" bench rollout --model "$model" --server "$url" "${options[@]}" "$@" \
    2> >(tee "$out/rollout.log" >&2) | tee "$out/rollout.txt"
metrics after

if [ "${PEER:-1}" = 1 ]; then
    # As many at once as the server takes, each answer as long as one step.
    at_once=$("$python" -c 'import json, sys; print(json.loads(open(sys.argv[1]).readlines()[-1])["max_sequences"])' "$out/rollout.txt")
    if "$python" -c 'import vllm.benchmarks.serve' 2> /dev/null; then
        "$python" - "$out/peer.json" bench serve --backend openai --base-url "$url" --endpoint /v1/completions --model policy \
            --tokenizer "$model" --dataset-name random --random-input-len 256 --random-output-len "$peer_tokens" \
            --num-prompts "$peer_requests" --max-concurrency "$at_once" --ignore-eos << 'PY' 2>&1 | tee "$out/peer.log" || echo "vllm bench serve failed: see peer.log" >&2
import argparse, asyncio, inspect, json, sys
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
arguments = parser.parse_args(sys.argv[4:])
found = main(arguments)
if inspect.iscoroutine(found): found = asyncio.run(found)
PY
    else
        echo "vllm bench serve is not installed here" >&2
    fi
fi

{ if command -v nvidia-smi > /dev/null; then nvidia-smi -L; else grep -m1 'model name' /proc/cpuinfo; fi; } || true
"$python" - "$out" << 'PY'
import json, sys
out = sys.argv[1]
def total(when, name):
    lines = open(f"{out}/{when}.txt").read().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))
def spent(name): return total("after", name) - total("before", name)
bench = json.loads(open(f"{out}/rollout.txt").readlines()[-1])
for mode in bench["modes"]:
    print(f"{mode['mode']:10} {mode['tokens_per_s']:10.0f} tokens/s {mode['trees_per_hour']:10.0f} trees/h "
          f"{mode['mean_sequences']:8.0f} sequences {min(filter(None, mode['processor_s']), default=0):8.2f} processor s")
for name in ("search_to_plain", "search_to_saturated", "search_to_lock_step", "processor_percent"):
    if bench[name]: print(f"{name:22} {bench[name]['value']:.4f} (aim {bench[name]['aim']})")
queries, hits = spent("vllm:prefix_cache_queries_total"), spent("vllm:prefix_cache_hits_total")
print(f"prefix cache, all modes: {100 * hits / max(queries, 1):.1f} % of {queries:.0f} tokens; "
      f"preemptions: {spent('vllm:num_preemptions_total'):.0f}; server's generated tokens: {spent('vllm:generation_tokens_total'):.0f}")
used = [int(line) for line in open(f"{out}/memory.txt") if line.strip().isdigit()]
print(f"peak GPU memory: {max(used)} MiB" if used else "peak GPU memory: not measured")
PY
