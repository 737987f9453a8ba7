//! The gated MLP: down(silu(gate(x)) * up(x)).

use tch::Tensor;

use super::config::ModelConfig;
use super::{Between, Linear, Weights};

/// One MLP layer.
pub struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Mlp {
    /// The layer whose parameters start with `prefix`.
    pub fn new(config: &ModelConfig, weights: &Weights<'_>, prefix: &str) -> Mlp {
        let linear = |name: &str| Linear::new(weights, &format!("{prefix}.{name}"), config.has_mlp_bias);
        Mlp { gate: linear("gate_proj"), up: linear("up_proj"), down: linear("down_proj") }
    }

    /// [T, hidden] to [T, hidden].
    pub fn forward_with(&self, x: &Tensor, between: &impl Between) -> Tensor {
        let (gate, up) = (between.linear(&self.gate, x), between.linear(&self.up, x));
        between.linear(&self.down, &between.gate(gate, &up))
    }
}
