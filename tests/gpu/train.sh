#!/usr/bin/env bash
# Training speed on a GPU: SmolLM2 and a randomly initialised Qwen2 of 1.5 B parameters (the paper's shape), one trajectory
# of 16k tokens and a tree of eight. Prints tokens per second, utilisation, peak memory and the seconds that an export takes.
#
#   tests/gpu/train.sh ORCHESTRATOR MODEL OUT [OPTION ...]
#
#   ORCHESTRATOR  the release binary      MODEL  SmolLM2 in the Hugging Face layout      OUT  folder for results and log
#   OPTION        of `orchestrator bench train`, such as --set train.micro_batch_tokens=32768
#   PEER          1: PyTorch and transformers on SmolLM2's tree as well, packed with flash attention where it is installed
#   PYTHON        interpreter with torch and transformers (default: python3)
#   DEVICE        cuda (default) or cpu, to try the script where there is no GPU
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,12p' "$0" >&2; exit 2; }
here=$(realpath "$(dirname "$0")")
orchestrator=$(realpath "$1") model=$(realpath "$2") out=$3
shift 3
python=$(command -v "${PYTHON:-python3}") device=${DEVICE:-cuda}
mkdir -p "$out"
out=$(realpath "$out")
export OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1

if [ "$device" = cuda ]; then
    shape="1536 28 12 2 8960 151936" steps=3
    chain="depth=64,tokens=256,prompt=128,trajectories=1"
    # Branches stay together for 16 nodes: 1.45 trained tokens per unique one, as in published trees.
    tree="depth=64,tokens=256,prompt=128,width=2,every=16,trajectories=8"
else
    shape="64 2 2 1 128 512" steps=1
    chain="depth=4,tokens=32,prompt=16,trajectories=1"
    tree="depth=4,tokens=16,prompt=16,width=2,every=2,trajectories=4"
fi
qwen="$out/qwen2"
[ -e "$qwen/config.json" ] || "$python" - "$qwen" "$device" $shape << 'PY'
import sys, torch
from transformers import AutoModelForCausalLM, Qwen2Config
out, device, (hidden, layers, heads, kv_heads, inner, vocab) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
torch.manual_seed(1)
config = Qwen2Config(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                     intermediate_size=inner, vocab_size=vocab, max_position_embeddings=131072, rope_theta=10000.0,
                     tie_word_embeddings=True)
with torch.device(device):
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
PY

results="$out/results.jsonl"
: > "$results"
measure() { # NAME MODEL SHAPE OPTION ...
    local name=$1 trained=$2 trees=$3
    shift 3
    rm -rf "$out/weights"
    echo "== $name" >&2
    # One that does not fit the memory must not hide the others.
    if "$orchestrator" bench train --model "$trained" --device "$device" --tree "$trees" --steps "$steps" \
        --export-weights "$out/weights" "$@" 2> >(tee -a "$out/train.log" >&2) | tee "$out/table.txt"; then
        tail -n 1 "$out/table.txt" | sed "s/^{/{\"name\":\"$name\",/" >> "$results"
    else
        echo "{\"name\":\"$name\",\"failed\":true}" >> "$results"
    fi
    rm -rf "$out/weights"
}
measure "SmolLM2, one path" "$model" "$chain" "$@"
measure "SmolLM2, tree" "$model" "$tree" --export-batch "$out/batch.json" "$@"
cp "$out/table.txt" "$out/smollm2-tree.txt"
measure "SmolLM2, tree, no sharing" "$model" "$tree" --no-sharing "$@"
measure "Qwen2, one path" "$qwen" "$chain" "$@"
measure "Qwen2, tree" "$qwen" "$tree" "$@"
if [ "${PEER:-0}" = 1 ]; then
    mode=padded
    if [ "$device" = cuda ] && "$python" -c 'import flash_attn' 2> /dev/null; then mode=packed; fi
    "$python" "$here/../measure/train_peer.py" --model "$model" --batch "$out/batch.json" --device "$device" --mode "$mode" \
        --steps "$steps" --batch-tokens 16640 --checkpoint --chunk-tokens 1024 --ours "$out/smollm2-tree.txt" \
        | tee "$out/peer.txt"
    tail -n 1 "$out/peer.txt" | sed 's/^{/{"name":"SmolLM2, tree, transformers",/' >> "$results"
fi

{ if command -v nvidia-smi > /dev/null; then nvidia-smi -L; else grep -m1 'model name' /proc/cpuinfo; fi; } || true
"$python" - "$results" << 'PY'
import json, sys
print(f"{'':30}{'trained tok/s':>14}{'unique tok/s':>14}{'TFLOP/s':>9}{'MFU':>8}{'peak GiB':>10}{'export s':>10}")
for line in open(sys.argv[1]):
    one = json.loads(line)
    if one.get("failed"):
        print(f"{one['name']:30}{'failed':>14}")
        continue
    mfu, export = one.get("mfu_frac"), one.get("export_s")
    peak = one["peak_gpu_bytes"] or one["peak_resident_bytes"]
    unique = one.get("unique_tokens_per_s", one["trained_tokens_per_s"])
    print(f"{one['name']:30}{one['trained_tokens_per_s']:14.0f}{unique:14.0f}{one['model_flops_per_s'] / 1e12:9.3f}"
          f"{'-' if mfu is None else f'{100 * mfu:.1f} %':>8}{peak / 2**30:10.2f}{'-' if export is None else f'{export:.2f}':>10}")
PY
