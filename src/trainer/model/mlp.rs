//! The gated MLP: down(silu(gate(x)) * up(x)).

use tch::Tensor;

use super::config::ModelConfig;
use super::{Linear, Weights};

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
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_with(x, Tensor::silu)
    }

    /// The same with another way to compute the activation [T, intermediate].
    pub fn forward_with(&self, x: &Tensor, silu: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        self.down.forward(&(silu(&self.gate.forward(x)) * self.up.forward(x)))
    }
}
