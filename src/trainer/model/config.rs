//! config.json of a model: what of it matters, and a refusal of what is not implemented.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::trainer::error::TrainerError;

/// Decoder families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2 and others of the same layout.
    Llama,
    /// Qwen2, Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: a norm on each head of q and k.
    Qwen3,
}

/// Scaling of the rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, a smooth passage between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths beyond original / this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below original / this are high frequencies.
        high_freq_factor: f64,
        /// Context the model was first trained on, in tokens.
        original_positions: f64,
    },
}

/// Shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Family.
    pub family: Family,
    /// V, rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the gated MLP.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// epsilon of the RMS norms.
    pub norm_epsilon: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their scaling.
    pub rope_scaling: RopeScaling,
    /// The vocabulary projection is the embedding.
    pub is_tied: bool,
    /// Biases on the q, k and v projections.
    pub has_qkv_bias: bool,
    /// Bias on the o projection.
    pub has_o_bias: bool,
    /// Biases on the MLP projections.
    pub has_mlp_bias: bool,
    /// RMS norm on each head of q and k.
    pub has_qk_norm: bool,
}

impl ModelConfig {
    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// A missing file, missing or malformed keys, and [`TrainerError::Unsupported`] for what is not implemented.
    pub fn read(dir: &Path) -> Result<ModelConfig, TrainerError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(TrainerError::read(&path))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| TrainerError::malformed(&path, error.to_string()))?;
        match value {
            Value::Object(keys) => Reader { path, keys }.config(),
            _ => Err(TrainerError::malformed(&path, "not a JSON object")),
        }
    }

    /// Name of the parameter that is the vocabulary projection.
    pub fn projection(&self) -> &'static str {
        if self.is_tied { "model.embed_tokens.weight" } else { "lm_head.weight" }
    }

    /// Name and shape of every parameter, in the order of the forward pass. A tied projection is not listed.
    pub fn parameters(&self) -> Vec<(String, Vec<i64>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut list = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: Vec<i64>| list.push((format!("model.layers.{layer}.{name}"), shape));
            add("input_layernorm.weight", vec![hidden]);
            for (name, rows, columns, has_bias) in [
                ("self_attn.q_proj", q, hidden, self.has_qkv_bias),
                ("self_attn.k_proj", kv, hidden, self.has_qkv_bias),
                ("self_attn.v_proj", kv, hidden, self.has_qkv_bias),
                ("self_attn.o_proj", hidden, q, self.has_o_bias),
                ("mlp.gate_proj", inner, hidden, self.has_mlp_bias),
                ("mlp.up_proj", inner, hidden, self.has_mlp_bias),
                ("mlp.down_proj", hidden, inner, self.has_mlp_bias),
            ] {
                add(&format!("{name}.weight"), vec![rows, columns]);
                if has_bias {
                    add(&format!("{name}.bias"), vec![rows]);
                }
            }
            if self.has_qk_norm {
                add("self_attn.q_norm.weight", vec![self.head_dim]);
                add("self_attn.k_norm.weight", vec![self.head_dim]);
            }
            add("post_attention_layernorm.weight", vec![hidden]);
        }
        list.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.is_tied {
            list.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        list
    }
}

/// Typed access to the keys, with errors that name file and key.
struct Reader {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl Reader {
    fn config(&self) -> Result<ModelConfig, TrainerError> {
        let family = self.family()?;
        self.refuse_unsupported()?;
        let hidden_size = self.count("hidden_size")?;
        let heads = self.count("num_attention_heads")?;
        let kv_heads = self.optional_count("num_key_value_heads")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(self.malformed(format!(
                "`num_attention_heads` = {heads} is no multiple of `num_key_value_heads` = {kv_heads}"
            )));
        }
        let head_dim = match self.optional_count("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size % heads == 0 => hidden_size / heads,
            None => {
                let reason = format!("`hidden_size` = {hidden_size} is no multiple of `num_attention_heads` = {heads}");
                return Err(self.malformed(reason));
            }
        };
        if head_dim % 2 != 0 {
            return Err(self.malformed(format!("`head_dim` = {head_dim} is odd, rotary embeddings need pairs")));
        }
        let attention_bias = self.flag("attention_bias", false)?;
        Ok(ModelConfig {
            family,
            vocab_size: self.count("vocab_size")?,
            hidden_size,
            intermediate_size: self.count("intermediate_size")?,
            layers: self.count("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            norm_epsilon: self.number(&self.keys, "rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: self.rope_theta()?,
            rope_scaling: self.rope_scaling()?,
            is_tied: self.flag("tie_word_embeddings", false)?,
            has_qkv_bias: family == Family::Qwen2 || attention_bias,
            has_o_bias: family != Family::Qwen2 && attention_bias,
            has_mlp_bias: family == Family::Llama && self.flag("mlp_bias", false)?,
            has_qk_norm: family == Family::Qwen3,
        })
    }

    fn family(&self) -> Result<Family, TrainerError> {
        let architecture = self.keys.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
        match architecture {
            Some("LlamaForCausalLM") => Ok(Family::Llama),
            Some("Qwen2ForCausalLM") => Ok(Family::Qwen2),
            Some("Qwen3ForCausalLM") => Ok(Family::Qwen3),
            Some(other) => Err(self.unsupported(format!("architecture `{other}`"))),
            None => Err(self.malformed("`architectures` names no model")),
        }
    }

    fn refuse_unsupported(&self) -> Result<(), TrainerError> {
        if let Some(act) = self.keys.get("hidden_act").and_then(Value::as_str)
            && act != "silu"
        {
            return Err(self.unsupported(format!("`hidden_act` = `{act}`")));
        }
        if self.keys.get("quantization_config").is_some_and(|v| !v.is_null()) {
            return Err(self.unsupported("`quantization_config` is set"));
        }
        if let Some(part) = self.number(&self.keys, "partial_rotary_factor")?
            && part != 1.0
        {
            return Err(self.unsupported(format!("`partial_rotary_factor` = {part}")));
        }
        if let Some(kinds) = self.keys.get("layer_types").and_then(Value::as_array)
            && let Some(kind) = kinds.iter().find(|kind| kind.as_str() != Some("full_attention"))
        {
            return Err(self.unsupported(format!("`layer_types` holds {kind}")));
        }
        // Qwen2 files carry `sliding_window` even where it is not in use; the layers from `max_window_layers` on use it.
        let layers = self.count("num_hidden_layers")?;
        let first_windowed = self.optional_count("max_window_layers")?.unwrap_or(0);
        if self.flag("use_sliding_window", false)?
            && self.keys.get("sliding_window").is_some_and(|v| !v.is_null())
            && first_windowed < layers
        {
            return Err(self.unsupported("`use_sliding_window` is on"));
        }
        Ok(())
    }

    /// Transformers 5 writes `rope_parameters`; before it, `rope_scaling` beside `rope_theta`.
    fn rope(&self) -> Option<&Map<String, Value>> {
        ["rope_parameters", "rope_scaling"].iter().find_map(|key| self.keys.get(*key).and_then(Value::as_object))
    }

    fn rope_theta(&self) -> Result<f64, TrainerError> {
        let nested = match self.rope() {
            Some(rope) => self.number(rope, "rope_theta")?,
            None => None,
        };
        Ok(nested.or(self.number(&self.keys, "rope_theta")?).unwrap_or(10_000.0))
    }

    fn rope_scaling(&self) -> Result<RopeScaling, TrainerError> {
        let Some(rope) = self.rope() else { return Ok(RopeScaling::Default) };
        let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str).unwrap_or("default");
        let need = |key: &str| {
            self.number(rope, key)?.ok_or_else(|| self.malformed(format!("rope type `{kind}` without `{key}`")))
        };
        match kind {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_positions: need("original_max_position_embeddings")?,
            }),
            other => Err(self.unsupported(format!("rope type `{other}`"))),
        }
    }

    fn number(&self, keys: &Map<String, Value>, key: &str) -> Result<Option<f64>, TrainerError> {
        match keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.malformed(format!("`{key}` = {value} is no number"))),
            },
        }
    }

    fn optional_count(&self, key: &str) -> Result<Option<i64>, TrainerError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_i64() {
                Some(count) if count > 0 => Ok(Some(count)),
                _ => Err(self.malformed(format!("`{key}` = {value} is no positive whole number"))),
            },
        }
    }

    fn count(&self, key: &str) -> Result<i64, TrainerError> {
        self.optional_count(key)?.ok_or_else(|| self.malformed(format!("`{key}` is missing")))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, TrainerError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.malformed(format!("`{key}` = {value} is neither true nor false"))),
        }
    }

    fn malformed(&self, reason: impl Into<String>) -> TrainerError {
        TrainerError::malformed(&self.path, reason)
    }

    fn unsupported(&self, reason: impl Into<String>) -> TrainerError {
        TrainerError::Unsupported { path: self.path.clone(), reason: reason.into() }
    }
}
