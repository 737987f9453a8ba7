//! Grouped-query self-attention over the rows of a packed batch.

use tch::Tensor;

use super::config::ModelConfig;
use super::rope::RopeTables;
use super::tree_attention::TreeAttention;
use super::{Between, Linear, RmsNorm, Weights};

/// What attention needs beside the rows: the same for every block of a forward pass.
pub struct Context {
    /// Angles of the rows.
    pub rope: RopeTables,
    /// How the rows see each other.
    pub form: Form,
}

/// How attention over the rows is computed.
pub enum Form {
    /// Chain by chain, forward and backward by hand: linear in the rows of a tree of given depth, without a mask.
    Chains(TreeAttention),
    /// One call with an additive mask [T, T]: 0 where a row sees another, -inf elsewhere.
    Masked(Tensor),
    /// One causal call: the rows are one sequence, and there is no kernel for [`Form::Chains`].
    Causal,
}

/// One attention layer.
pub struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    head_dim: i64,
    is_grouped: bool,
}

impl Attention {
    /// The layer whose parameters start with `prefix`.
    pub fn new(config: &ModelConfig, weights: &Weights<'_>, prefix: &str) -> Attention {
        let norm = |name: &str| config.has_qk_norm.then(|| RmsNorm::new(config, weights, &format!("{prefix}.{name}")));
        Attention {
            q: Linear::new(weights, &format!("{prefix}.q_proj"), config.has_qkv_bias),
            k: Linear::new(weights, &format!("{prefix}.k_proj"), config.has_qkv_bias),
            v: Linear::new(weights, &format!("{prefix}.v_proj"), config.has_qkv_bias),
            o: Linear::new(weights, &format!("{prefix}.o_proj"), config.has_o_bias),
            q_norm: norm("q_norm"),
            k_norm: norm("k_norm"),
            head_dim: config.head_dim,
            is_grouped: config.heads != config.kv_heads,
        }
    }

    /// Queries [heads, T, head_dim], keys and values [kv_heads, T, head_dim] of rows [T, hidden]; queries and keys are
    /// rotated to their positions.
    pub fn project(&self, x: &Tensor, rope: &RopeTables, between: &impl Between) -> [Tensor; 3] {
        let rows = x.size()[0];
        let heads = |y: Tensor, norm: Option<&RmsNorm>| {
            let y = y.view([rows, -1, self.head_dim]);
            let y = norm.map_or_else(|| y.shallow_clone(), |norm| between.norm(norm, &y));
            y.transpose(0, 1)
        };
        let q = between.rotate(rope, heads(between.linear(&self.q, x), self.q_norm.as_ref()));
        let k = between.rotate(rope, heads(between.linear(&self.k, x), self.k_norm.as_ref()));
        let v = heads(between.linear(&self.v, x), None);
        [q, k, v]
    }

    /// Attention of the rows over each other in one call of libtorch: see [`super::Between::mix`]. `mask` as in
    /// [`Form::Masked`]; `None`: causal.
    pub fn mix(&self, [q, k, v]: [Tensor; 3], mask: Option<&Tensor>) -> Tensor {
        // On CUDA no fused kernel takes both a mask and fewer key heads; repeating them keeps off the slow one.
        let repeats = mask.is_some() && self.is_grouped && q.device().is_cuda();
        let (k, v) = if repeats {
            let times = q.size()[0] / k.size()[0];
            (k.repeat_interleave_self_int(times, 0, None), v.repeat_interleave_self_int(times, 0, None))
        } else {
            (k, v)
        };
        let mixed = Tensor::scaled_dot_product_attention(
            &q.unsqueeze(0),
            &k.unsqueeze(0),
            &v.unsqueeze(0),
            mask,
            0.0,
            mask.is_none(),
            None,
            self.is_grouped && !repeats,
        );
        mixed.squeeze_dim(0).transpose(0, 1)
    }

    /// The output projection: [T, heads, head_dim] to [T, hidden].
    pub fn output(&self, mixed: &Tensor, between: &impl Between) -> Tensor {
        between.linear(&self.o, &mixed.reshape([mixed.size()[0], -1]))
    }
}
