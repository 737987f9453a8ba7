//! Decoder-only models of the Llama, Qwen2 and Qwen3 families as a function of their parameters.
//!
//! Rows are the tokens of a packed forest (or of one sequence); there is no batch dimension. The vocabulary
//! projection is not here: `logprob.rs` applies it in chunks.

pub mod attention;
pub mod config;
pub mod flash;
pub mod init;
pub mod load;
pub mod mlp;
pub mod rope;
pub mod tree_attention;

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

pub use attention::{Context, Form};
pub use config::{Family, ModelConfig, RopeScaling};
pub use init::{ModelSpec, init_model};

use attention::Attention;
use mlp::Mlp;
use rope::{Rope, RopeTables};
use tree_attention::TreeAttention;

use super::logprob::upload;
use super::lora;
use super::pack::PackedBatch;

/// Parameters by Hugging Face name, as loaded: complete and of the right shapes, see [`load`]. Those of adapters have PEFT's
/// names.
pub struct Weights<'a> {
    /// By name.
    pub tensors: &'a BTreeMap<String, Tensor>,
    /// alpha / rank of the adapters; nothing where there are none.
    pub adapter_scale: f64,
}

impl Weights<'_> {
    /// A view of the parameter (the same storage and gradient).
    fn get(&self, name: &str) -> Tensor {
        self.tensors[name].shallow_clone()
    }

    /// The adapter on the projection `prefix`, if there is one.
    fn adapter(&self, prefix: &str) -> Option<Adapter> {
        let [down, up] = lora::names(prefix).map(|name| self.tensors.get(&name).map(Tensor::shallow_clone));
        Some(Adapter { down: down?, up: up?, scale: self.adapter_scale })
    }
}

/// What a low-rank adapter adds to a projection: scale * B A x (arXiv 2106.09685, equation 3).
pub struct Adapter {
    /// A, [rank, in].
    pub down: Tensor,
    /// B, [out, rank].
    pub up: Tensor,
    /// alpha / rank.
    pub scale: f64,
}

impl Adapter {
    /// [.., in] to [.., out].
    fn forward(&self, x: &Tensor) -> Tensor {
        (x.linear(&self.down, None::<Tensor>) * self.scale).linear(&self.up, None::<Tensor>)
    }
}

/// y = x W^T + b, and what the adapter adds.
pub struct Linear {
    /// [out, in].
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
    /// Trained in place of the weight.
    pub adapter: Option<Adapter>,
}

impl Linear {
    fn new(weights: &Weights<'_>, prefix: &str, has_bias: bool) -> Linear {
        let bias = has_bias.then(|| weights.get(&format!("{prefix}.bias")));
        Linear { weight: weights.get(&format!("{prefix}.weight")), bias, adapter: weights.adapter(prefix) }
    }

    /// [.., in] to [.., out].
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let y = x.linear(&self.weight, self.bias.as_ref());
        match &self.adapter {
            Some(adapter) => y + adapter.forward(x),
            None => y,
        }
    }
}

/// Root mean square norm, computed in fp32 and cast back before the gain, as transformers does.
pub struct RmsNorm {
    /// Gain of each number of a row, `[width]`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl RmsNorm {
    fn new(config: &ModelConfig, weights: &Weights<'_>, prefix: &str) -> RmsNorm {
        RmsNorm { weight: weights.get(&format!("{prefix}.weight")), epsilon: config.norm_epsilon }
    }

    /// [.., width] to [.., width].
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let x = x.to_kind(Kind::Float);
        let variance = x.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
        (&x * (variance + self.epsilon).rsqrt()).to_kind(kind) * &self.weight
    }
}

/// One decoder block.
pub struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

impl Block {
    fn new(config: &ModelConfig, weights: &Weights<'_>, layer: i64) -> Block {
        let prefix = format!("model.layers.{layer}");
        Block {
            attention_norm: RmsNorm::new(config, weights, &format!("{prefix}.input_layernorm")),
            attention: Attention::new(config, weights, &format!("{prefix}.self_attn")),
            mlp_norm: RmsNorm::new(config, weights, &format!("{prefix}.post_attention_layernorm")),
            mlp: Mlp::new(config, weights, &format!("{prefix}.mlp")),
        }
    }

    /// [T, hidden] to [T, hidden].
    pub fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        self.forward_with(x, &context.rope, &mut InLibtorch { block: self, context })
    }

    /// The same with every operation done by `between`.
    pub fn forward_with(&self, x: &Tensor, rope: &RopeTables, between: &mut impl Between) -> Tensor {
        let projected = self.before_attention(x, rope, between);
        let mixed = between.mix(projected);
        self.after_attention(x, &mixed, between)
    }

    /// The part before attention: what [`Between::mix`] takes.
    pub fn before_attention(&self, x: &Tensor, rope: &RopeTables, between: &impl Between) -> [Tensor; 3] {
        let normed = between.norm(&self.attention_norm, x);
        self.attention.project(&normed, rope, between)
    }

    /// The part after attention, from what [`Between::mix`] gives; `x` is the block's input.
    pub fn after_attention(&self, x: &Tensor, mixed: &Tensor, between: &impl Between) -> Tensor {
        let x = between.add(x, self.attention.output(mixed, between));
        let normed = between.norm(&self.mlp_norm, &x);
        let down = self.mlp.forward_with(&normed, between);
        between.add(&x, down)
    }
}

/// The operations of a block, which only says in which order they come. The default is libtorch, on any device.
pub trait Between {
    /// Queries [heads, T, head_dim], keys and values [kv_heads, T, head_dim] to what the rows see, [T, heads, head_dim].
    fn mix(&mut self, projected: [Tensor; 3]) -> Tensor;

    /// A matrix product, [T, in] to [T, out].
    fn linear(&self, linear: &Linear, x: &Tensor) -> Tensor {
        linear.forward(x)
    }

    /// The norm of rows [.., width].
    fn norm(&self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        norm.forward(x)
    }

    /// Rotates [heads, T, head_dim] to the rows' positions.
    fn rotate(&self, rope: &RopeTables, x: Tensor) -> Tensor {
        rope.rotate(&x)
    }

    /// silu(gate) * up, [T, intermediate].
    fn gate(&self, gate: Tensor, up: &Tensor) -> Tensor {
        gate.silu() * up
    }

    /// The residual sum, [T, hidden].
    fn add(&self, x: &Tensor, y: Tensor) -> Tensor {
        x + y
    }
}

/// Everything in libtorch, with a graph for the backward pass.
pub(super) struct InLibtorch<'a> {
    /// Whose attention it is.
    pub block: &'a Block,
    /// Rows and how they see each other.
    pub context: &'a Context,
}

impl Between for InLibtorch<'_> {
    fn mix(&mut self, projected: [Tensor; 3]) -> Tensor {
        match &self.context.form {
            Form::Chains(tree) => tree.forward(&projected).output,
            Form::Masked(mask) => self.block.attention.mix(projected, Some(mask)),
            Form::Causal => self.block.attention.mix(projected, None),
        }
    }
}

/// Which [`Form`] a decoder takes where it has a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FormChoice {
    /// The faster one, by measurement.
    #[default]
    Fastest,
    /// [`Form::Chains`] wherever there is a kernel for it.
    Chains,
    /// One call of libtorch with its own gradient, [`Form::Masked`] or [`Form::Causal`]: the reference in tests and
    /// measurements.
    OneCall,
}

/// A decoder without its vocabulary projection.
pub struct Decoder {
    /// How attention over trees is computed.
    pub form: FormChoice,
    head_dim: i64,
    embedding: Tensor,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
}

impl Decoder {
    /// The decoder over `weights`; it shares their storage, so an optimizer step is seen at once.
    pub fn new(config: &ModelConfig, weights: &Weights<'_>) -> Decoder {
        let embedding = weights.get("model.embed_tokens.weight");
        let device = embedding.device();
        Decoder {
            form: FormChoice::Fastest,
            head_dim: config.head_dim,
            embedding,
            blocks: (0..config.layers).map(|layer| Block::new(config, weights, layer)).collect(),
            norm: RmsNorm::new(config, weights, "model.norm"),
            rope: Rope::new(config, device),
        }
    }

    /// Device of the parameters.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// Element type of the forward pass.
    pub fn kind(&self) -> Kind {
        self.embedding.kind()
    }

    /// Angles of rows at `positions` `[T]`.
    pub fn rope(&self, positions: &[u32]) -> RopeTables {
        self.rope.tables(&self.index(positions), self.kind())
    }

    /// Numbers of rows or tokens as a tensor on the model's device, `[T]`.
    pub fn index(&self, values: &[u32]) -> Tensor {
        let wide: Vec<i64> = values.iter().map(|&value| i64::from(value)).collect();
        upload(Tensor::from_slice(&wide), self.device())
    }

    /// Angles of a batch, and how its rows see each other.
    pub fn context(&self, batch: &PackedBatch) -> Context {
        Context { rope: self.rope(&batch.positions), form: self.form_of(batch) }
    }

    fn form_of(&self, batch: &PackedBatch) -> Form {
        let (kind, device) = (self.kind(), self.device());
        let is_chain = batch.is_chain();
        if flash::has_kernel(device, kind, self.head_dim) {
            let chains = batch.chains();
            let by_chains = match self.form {
                FormChoice::Chains => true,
                FormChoice::OneCall => false,
                FormChoice::Fastest => is_chain || tree_attention::pays(&chains, batch.len(), device),
            };
            if by_chains {
                return Form::Chains(TreeAttention::new(chains, device));
            }
        }
        if is_chain {
            return Form::Causal;
        }
        let size = batch.len() as i64;
        let visible = upload(Tensor::from_slice(&batch.visibility()).view([size, size]), device);
        let mut mask = Tensor::zeros([size, size], (kind, device));
        Form::Masked(mask.masked_fill_(&visible.logical_not(), f64::NEG_INFINITY))
    }

    /// Embeddings of token ids `[T]`, [T, hidden].
    pub fn embed(&self, token_ids: &Tensor) -> Tensor {
        self.embedding.index_select(0, token_ids)
    }

    /// The last norm, [T, hidden] to [T, hidden].
    pub fn finish(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x)
    }

    /// Hidden states before the vocabulary projection, [T, hidden], without a graph.
    pub fn hidden(&self, batch: &PackedBatch) -> Tensor {
        tch::no_grad(|| {
            let context = self.context(batch);
            let embedded = self.embed(&self.index(&batch.tokens));
            self.finish(&self.blocks.iter().fold(embedded, |x, block| block.forward(&x, &context)))
        })
    }
}
