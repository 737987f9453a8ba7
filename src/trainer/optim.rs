//! AdamW on fp32 masters: PyTorch's fused kernel, one call for all parameters, where the masters are. Gradients come there.
//!
//! tch does not expose `_fused_adamw_`, so it is called by name, see `operator.rs`. A loop of tch operations takes some
//! ten times as long.

use tch::{Device, Kind, Tensor};

use super::error::TrainerError;
use super::operator::Call;
use super::params::{Parameter, Parameters};
use super::report::SkipReason;
use crate::config::TrainConfig;

/// Settings of AdamW. Weight decay is decoupled and applies to every parameter, as in PyTorch's default grouping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// After warm-up.
    pub learning_rate: f64,
    /// Update k (from 1) uses learning_rate * min(1, k / warmup_steps).
    pub warmup_steps: u32,
    /// Decay per step, times the learning rate.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Largest global norm of the gradient; 0 is off.
    pub max_grad_norm: f64,
}

impl From<&TrainConfig> for AdamSettings {
    fn from(config: &TrainConfig) -> Self {
        AdamSettings {
            learning_rate: config.learning_rate,
            warmup_steps: config.warmup_steps,
            weight_decay: config.weight_decay,
            beta1: config.beta1,
            beta2: config.beta2,
            epsilon: config.epsilon,
            max_grad_norm: config.max_grad_norm,
        }
    }
}

/// What one call of [`AdamW::step`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// Global norm before clipping.
    pub grad_norm: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Why nothing was changed.
    pub skipped: Option<SkipReason>,
}

/// Moments and counter.
pub struct AdamW {
    /// Settings.
    pub settings: AdamSettings,
    /// Updates done; skipped ones do not count.
    pub updates: u64,
    /// What the learning rate is multiplied by beside the warm-up: 1 in reinforcement learning.
    pub learning_rate_frac: f64,
    /// First moments, in the order of the parameters, fp32.
    pub exp_avg: Vec<Tensor>,
    /// Second moments, likewise.
    pub exp_avg_sq: Vec<Tensor>,
}

impl AdamW {
    /// Fresh moments for `parameters`.
    pub fn new(settings: AdamSettings, parameters: &Parameters) -> AdamW {
        let zeros = || parameters.iter().map(|p| p.master.detach().zeros_like()).collect();
        AdamW { settings, updates: 0, learning_rate_frac: 1.0, exp_avg: zeros(), exp_avg_sq: zeros() }
    }

    /// Without moments: for weights that are not trained.
    pub fn unused(settings: AdamSettings) -> AdamW {
        AdamW { settings, updates: 0, learning_rate_frac: 1.0, exp_avg: Vec::new(), exp_avg_sq: Vec::new() }
    }

    /// Clips the gradients and updates masters and moments, unless a gradient is not finite.
    ///
    /// # Errors
    /// libtorch refused the kernel.
    pub fn step(&mut self, parameters: &mut Parameters) -> Result<StepOutcome, TrainerError> {
        let learning_rate = self.learning_rate(self.updates + 1);
        tch::no_grad(|| {
            let grad_norm = global_norm(parameters);
            if !grad_norm.is_finite() {
                let parameter = first_non_finite(parameters);
                let skipped = Some(SkipReason::NonFiniteGradient { parameter });
                return Ok(StepOutcome { grad_norm, learning_rate, skipped });
            }
            let limit = self.settings.max_grad_norm;
            if limit > 0.0 && grad_norm > limit {
                // The small term is PyTorch's.
                let factor = (limit / (grad_norm + 1e-6)).min(1.0);
                for parameter in parameters.iter() {
                    let _ = parameter.grad.shallow_clone().g_mul_scalar_(factor);
                }
            }
            if learning_rate == 0.0 {
                // The kernel would turn a weight of -0 into 0; a learning rate of 0 promises identical bits.
                self.update_moments(parameters);
            } else {
                self.fused_step(parameters, learning_rate)?;
            }
            self.updates += 1;
            Ok(StepOutcome { grad_norm, learning_rate, skipped: None })
        })
    }

    /// Learning rate of update `update`, from 1.
    pub fn learning_rate(&self, update: u64) -> f64 {
        let warmup = f64::from(self.settings.warmup_steps.max(1));
        self.settings.learning_rate * self.learning_rate_frac * (update as f64 / warmup).min(1.0)
    }

    fn update_moments(&mut self, parameters: &Parameters) {
        let moments = self.exp_avg.iter_mut().zip(&mut self.exp_avg_sq);
        for (grad, (first, second)) in gradients_at_home(parameters).iter().zip(moments) {
            let _ = first.lerp_(grad, 1.0 - self.settings.beta1);
            let _ = second.lerp_(&grad.square(), 1.0 - self.settings.beta2);
        }
    }

    fn fused_step(&mut self, parameters: &Parameters, learning_rate: f64) -> Result<(), TrainerError> {
        let Some(device) = parameters.iter().next().map(|p| p.master.device()) else { return Ok(()) };
        let step = Tensor::from((self.updates + 1) as f32).to_kind(Kind::Float).to_device(device);
        let s = &self.settings;
        let mut call = Call::new("the AdamW kernel");
        call.tensors(parameters.iter().map(|p| &p.master))?;
        call.tensors(gradients_at_home(parameters).iter())?;
        call.tensors(self.exp_avg.iter())?;
        call.tensors(self.exp_avg_sq.iter())?;
        call.tensors(std::iter::empty::<&Tensor>())?;
        call.tensors(std::iter::repeat_n(&step, self.exp_avg.len()))?;
        for value in [learning_rate, s.beta1, s.beta2, s.weight_decay, s.epsilon] {
            call.word(value.to_bits());
        }
        // amsgrad, maximize: false; grad_scale, found_inf: absent.
        for _ in 0..4 {
            call.word(0);
        }
        call.run(c"aten::_fused_adamw_", c"", 0).map(drop)
    }
}

/// The gradients where the masters are: the same tensors, or copies in the host's memory.
fn gradients_at_home(parameters: &Parameters) -> Vec<Tensor> {
    // Copies off a GPU that nothing waits for go to pinned memory, all in a row; then one wait.
    let home = |p: &Parameter| p.grad.to_device_(p.master.device(), Kind::Float, true, false);
    let gradients = parameters.iter().map(home).collect();
    if let Some((Device::Cuda(index), Device::Cpu)) =
        parameters.iter().next().map(|p| (p.grad.device(), p.master.device()))
    {
        tch::Cuda::synchronize(index as i64);
    }
    gradients
}

fn global_norm(parameters: &Parameters) -> f64 {
    let norms: Vec<Tensor> = parameters.iter().map(|p| p.grad.norm()).collect();
    if norms.is_empty() { 0.0 } else { Tensor::stack(&norms, 0).norm().double_value(&[]) }
}

fn first_non_finite(parameters: &Parameters) -> String {
    let is_bad = |grad: &Tensor| grad.isfinite().all().int64_value(&[]) == 0;
    // Each gradient may be finite and their norm still overflow.
    parameters.iter().find(|p| is_bad(&p.grad)).map_or_else(|| "the global norm".to_owned(), |p| p.name.clone())
}
