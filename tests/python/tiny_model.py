"""Writes a tiny randomly initialised model in the Hugging Face layout: tiny_model.py FOLDER FAMILY SEED.

Standard deviation 0.08, because a random model with small weights and tied embeddings repeats one token for ever.
"""

import os
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

folder, family, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.makedirs(folder, exist_ok=True)
vocab = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
    vocab[character] = len(vocab)
while len(vocab) < 512:
    vocab[f"<extra_{len(vocab)}>"] = len(vocab)
tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    eos_token="<|im_end|>",
    pad_token="<|endoftext|>",
    additional_special_tokens=["<|im_start|>"],
).save_pretrained(folder)
config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[family]
torch.manual_seed(seed)
model(
    config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.08,
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=0,
    )
).to(torch.float32).save_pretrained(folder)
