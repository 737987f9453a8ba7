"""Reads a folder in the Hugging Face layout as a stranger would: card, configuration, weights, and the card's own example.

    python tests/python/read_card.py FOLDER     prints JSON
"""

import contextlib
import io
import json
import os
import re
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

from huggingface_hub import ModelCard  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

folder = sys.argv[1]
card = ModelCard.load(os.path.join(folder, "README.md"))
model = AutoModelForCausalLM.from_pretrained(folder)
AutoTokenizer.from_pretrained(folder)

code = re.search(r"```python\n(.*?)```", card.text, re.S).group(1)
code = re.sub(r'^name = ".*"$', lambda _: f"name = {folder!r}", code, flags=re.M)
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    exec(compile(code.replace("max_new_tokens=256", "max_new_tokens=4"), "card", "exec"), {})

print(json.dumps({
    "data": {key: value for key, value in card.data.to_dict().items() if key != "model-index"},
    "results": [[r.dataset_name, r.metric_type, r.metric_value] for r in card.data.eval_results or []],
    "parameters": sum(p.numel() for p in model.parameters()),
    "example_ran": printed.getvalue() != "",
}))
