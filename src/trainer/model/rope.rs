//! Rotary position embeddings in the rotate-half form, with tables computed in fp32.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

use super::config::{ModelConfig, RopeScaling};

/// The inverse frequencies of a model, [head_dim / 2].
pub struct Rope {
    inverse_frequencies: Tensor,
}

/// cos and sin of each row's angles, [T, head_dim] each, in the dtype of the forward pass.
pub struct RopeTables {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl Rope {
    /// Frequencies of `config`.
    pub fn new(config: &ModelConfig, device: Device) -> Rope {
        let exponents = Tensor::arange_start_step(0, config.head_dim, 2, (Kind::Float, Device::Cpu)) / config.head_dim;
        let base = Tensor::from(config.rope_theta as f32);
        let plain = base.pow(&exponents).reciprocal();
        let scaled = match config.rope_scaling {
            RopeScaling::Default => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let wavelength = plain.reciprocal() * TAU;
                let long = wavelength.gt(original_positions / low_freq_factor);
                let short = wavelength.lt(original_positions / high_freq_factor);
                let divided = &plain / factor;
                let smooth = (wavelength.reciprocal() * original_positions - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                let between = (1.0 - &smooth) * &divided + &smooth * &plain;
                divided.where_self(&long, &plain.where_self(&short, &between))
            }
        };
        Rope { inverse_frequencies: scaled.to_device(device) }
    }

    /// Tables for rows at `positions` `[T]`.
    pub fn tables(&self, positions: &Tensor, kind: Kind) -> RopeTables {
        let angles = positions.to_kind(Kind::Float).outer(&self.inverse_frequencies);
        let angles = Tensor::cat(&[&angles, &angles], -1);
        RopeTables { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) }
    }
}

impl RopeTables {
    /// The rows `index` `[T]` of these tables.
    pub fn select(&self, index: &Tensor) -> RopeTables {
        RopeTables { cos: self.cos.index_select(0, index), sin: self.sin.index_select(0, index) }
    }

    /// Rotates queries or keys [heads, T, head_dim].
    pub fn rotate(&self, x: &Tensor) -> Tensor {
        let halves = x.chunk(2, -1);
        let turned = Tensor::cat(&[&halves[1].neg(), &halves[0]], -1);
        x * &self.cos + turned * &self.sin
    }
}
