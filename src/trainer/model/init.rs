//! A small model with random weights in the Hugging Face layout: for tests, and to try a set-up before a download.
//!
//! Its tokenizer is byte-level without merges, so any text is tokens and back. The same spec gives the same bytes.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::config::{Family, ModelConfig};
use crate::config::ComputeDtype;
use crate::rng::{Purpose, stream};
use crate::trainer::error::TrainerError;
use crate::trainer::tensor_file::{self, Entry};

/// Special tokens, from id 0.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Special tokens and the 256 bytes.
const SMALLEST_VOCABULARY: i64 = SPECIAL.len() as i64 + 256;

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
     message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}\
     {{ '<|im_start|>assistant\\n' }}{% endif %}";

/// What to make. The default is the smallest model that vLLM's CPU attention takes (heads of 32).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelSpec {
    /// Family.
    pub family: Family,
    /// Rows of the embedding, at least 259 (special tokens and bytes).
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the gated MLP.
    pub intermediate_size: i64,
    /// Blocks.
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads.
    pub kv_heads: i64,
    /// Width of a head; vLLM's CPU attention wants at least 32.
    pub head_dim: i64,
    /// Longest context in tokens.
    pub max_positions: i64,
    /// The vocabulary projection is the embedding.
    pub is_tied: bool,
    /// Standard deviation of the weights (gains: around 1). With tied embeddings, 0.1 and less repeats one token for
    /// ever under greedy decoding; 0.2 varies.
    pub std: f64,
    /// Element type of the file.
    pub dtype: ComputeDtype,
    /// Seed of the weights.
    pub seed: u64,
}

impl Default for ModelSpec {
    fn default() -> Self {
        ModelSpec {
            family: Family::Qwen2,
            vocab_size: 512,
            hidden_size: 64,
            intermediate_size: 128,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 32,
            max_positions: 2048,
            is_tied: true,
            std: 0.2,
            dtype: ComputeDtype::Bfloat16,
            seed: 0,
        }
    }
}

/// Writes a model to `dir`: config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
/// generation_config.json.
///
/// # Errors
/// Sizes that do not fit together, or a failure to write.
pub fn init_model(spec: &ModelSpec, dir: &Path) -> Result<ModelConfig, TrainerError> {
    if spec.vocab_size < SMALLEST_VOCABULARY {
        let reason = "the special tokens and the 256 bytes need 259 rows";
        return Err(TrainerError::Setting { key: "vocab_size", value: spec.vocab_size.to_string(), reason });
    }
    if spec.family == Family::Qwen2 && spec.head_dim * spec.heads != spec.hidden_size {
        let reason = "Qwen2 has no key for it: it must be hidden_size / heads";
        return Err(TrainerError::Setting { key: "head_dim", value: spec.head_dim.to_string(), reason });
    }
    if !(spec.std.is_finite() && spec.std >= 0.0) {
        let reason = "it must be a finite number, at least 0";
        return Err(TrainerError::Setting { key: "std", value: spec.std.to_string(), reason });
    }
    let sizes = [
        ("layers", spec.layers),
        ("hidden_size", spec.hidden_size),
        ("heads", spec.heads),
        ("kv_heads", spec.kv_heads),
    ];
    if let Some((key, size)) = sizes.into_iter().find(|&(_, size)| size < 1) {
        return Err(TrainerError::Setting { key, value: size.to_string(), reason: "it must be at least 1" });
    }
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let reason = "the folder is not empty, and a model in it would be lost";
        return Err(TrainerError::Setting { key: "out", value: dir.display().to_string(), reason });
    }
    fs::create_dir_all(dir).map_err(TrainerError::write(dir))?;
    write_json(&dir.join("config.json"), &config_json(spec))?;
    // Reading it back applies the checks of every other model.
    let config = ModelConfig::read(dir)?;
    write_weights(spec, &config, &dir.join("model.safetensors"))?;
    write_json(&dir.join("tokenizer.json"), &tokenizer_json(spec.vocab_size))?;
    write_json(&dir.join("tokenizer_config.json"), &tokenizer_config_json(spec))?;
    write_json(&dir.join("generation_config.json"), &json!({ "eos_token_id": 2, "pad_token_id": 0 }))?;
    Ok(config)
}

fn config_json(spec: &ModelSpec) -> Value {
    let (architecture, model_type) = match spec.family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let dtype = match spec.dtype {
        ComputeDtype::Float32 => "float32",
        ComputeDtype::Bfloat16 => "bfloat16",
    };
    let mut config = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": dtype,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.max_positions,
        "tie_word_embeddings": spec.is_tied,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default" },
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "use_cache": true,
    });
    // Qwen2 derives the width of a head; a key it does not know would only confuse.
    if spec.family != Family::Qwen2 {
        config["head_dim"] = json!(spec.head_dim);
        config["attention_bias"] = json!(false);
    }
    config
}

fn write_weights(spec: &ModelSpec, config: &ModelConfig, path: &Path) -> Result<(), TrainerError> {
    let kind = match spec.dtype {
        ComputeDtype::Float32 => Kind::Float,
        ComputeDtype::Bfloat16 => Kind::BFloat16,
    };
    let named: Vec<(String, Tensor)> = config
        .parameters()
        .into_iter()
        .enumerate()
        .map(|(index, (name, shape))| {
            let mut rng = stream(spec.seed, Purpose::ModelInit, &[index as u64]);
            let mean = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
            let count = shape.iter().product::<i64>() as usize;
            let values: Vec<f32> = (0..count).map(|_| (mean + spec.std * normal(&mut rng)) as f32).collect();
            let tensor = Tensor::from_slice(&values).view(shape.as_slice());
            (name, tensor)
        })
        .collect();
    let entries: Vec<Entry<'_>> =
        named.iter().map(|(name, tensor)| Entry { name: name.clone(), tensor, kind }).collect();
    tensor_file::write(path, &entries, Map::from_iter([("format".to_owned(), json!("pt"))])).map(|_| ())
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    // 53 bits in (0, 1]: the logarithm stays finite.
    let mut uniform = || ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), TAU * uniform());
    radius * angle.cos()
}

fn tokenizer_json(vocab_size: i64) -> Value {
    let mut vocabulary = Map::new();
    let words = SPECIAL.iter().map(|&text| text.to_owned()).chain(byte_alphabet().map(String::from));
    for (id, word) in words.enumerate() {
        vocabulary.insert(word, json!(id));
    }
    for id in SMALLEST_VOCABULARY..vocab_size {
        vocabulary.insert(format!("<extra_{id}>"), json!(id));
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, text)| {
            json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

fn tokenizer_config_json(spec: &ModelSpec) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>"],
        "clean_up_tokenization_spaces": false,
        "model_max_length": spec.max_positions,
        "chat_template": CHAT_TEMPLATE,
    })
}

/// The printable characters that stand for the 256 bytes in byte-level vocabularies, in code point order: printable
/// Latin-1 stands for itself, the rest for the code points from 256 on.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let is_printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256).filter(|byte| !is_printable(byte)).count() as u32;
    (0..256u32).filter(is_printable).chain(256..256 + others).filter_map(char::from_u32)
}

fn write_json(path: &Path, value: &Value) -> Result<(), TrainerError> {
    let text = format!("{value:#}\n");
    fs::write(path, text).map_err(TrainerError::write(path))
}
