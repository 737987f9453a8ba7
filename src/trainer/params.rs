//! The parameters: fp32 masters, the working copy that the forward pass sees, and fp32 gradients.
//!
//! With fp32 compute the masters are the working copy and libtorch accumulates straight into their gradient. With
//! bf16 the working copy is cast down from the masters after every update, and each micro-batch's bf16 gradient is
//! added to an fp32 one, since a sum of many micro-batches in bf16 loses the small ones.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::error::TrainerError;
use super::model::ModelConfig;
use super::model::load::TensorFiles;
use crate::config::ComputeDtype;

/// One parameter.
pub struct Parameter {
    /// Hugging Face name.
    pub name: String,
    /// Element type in the file it came from.
    pub source_kind: Kind,
    /// fp32.
    pub master: Tensor,
    /// What the forward pass sees; the master itself in fp32.
    work: Tensor,
    /// Sum of the gradients since the last [`Parameters::zero_grad`], fp32.
    pub grad: Tensor,
}

/// All parameters of a model, in the order of its forward pass.
pub struct Parameters {
    list: Vec<Parameter>,
    is_mixed: bool,
}

/// What parameters are loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Training: masters and gradients in fp32.
    Training,
    /// Generation only: no gradients; the masters have the element type of the forward pass.
    Generation,
}

impl Parameters {
    /// Loads the parameters of `config` from `dir`.
    ///
    /// # Errors
    /// A missing, malformed or cut-off file; a missing, misshapen or unknown tensor.
    pub fn load(
        dir: &Path,
        config: &ModelConfig,
        dtype: ComputeDtype,
        device: Device,
        purpose: Use,
    ) -> Result<Parameters, TrainerError> {
        let files = TensorFiles::open(dir)?;
        let tensors = files.tensors()?;
        let wanted = config.parameters();
        let names: std::collections::BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        tensors.refuse_unknown(|name| {
            // Files of tied models may repeat the projection; old ones hold the rotary frequencies.
            names.contains(name)
                || (config.is_tied && name == "lm_head.weight")
                || name.ends_with("rotary_emb.inv_freq")
        })?;
        let is_mixed = dtype == ComputeDtype::Bfloat16;
        let mut list = Vec::with_capacity(wanted.len());
        for (name, shape) in wanted {
            let stored = tensors.load(&name, &shape)?;
            list.push(
                Parameter::new(name, stored, is_mixed, device, purpose)
                    .map_err(TrainerError::torch("loading the model"))?,
            );
        }
        Ok(Parameters { list, is_mixed })
    }

    /// The parameters.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    /// The parameter `name`.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|p| p.name == name)
    }

    /// The gradient of `name`, sharing storage.
    pub(crate) fn grad(&self, name: &'static str) -> Tensor {
        self.get(name).map_or_else(Tensor::new, |p| p.grad.shallow_clone())
    }

    /// Views of the working copy by name.
    pub fn work(&self) -> BTreeMap<String, Tensor> {
        self.list.iter().map(|p| (p.name.clone(), p.work.shallow_clone())).collect()
    }

    /// Zeroes all gradients.
    pub fn zero_grad(&mut self) {
        tch::no_grad(|| {
            for parameter in &mut self.list {
                let _ = parameter.grad.zero_();
            }
        });
    }

    /// Forgets a backward pass that did not come to its end, with what it may have left on the working copy.
    pub fn abandon_gradients(&mut self) {
        self.zero_grad();
        if self.is_mixed {
            tch::no_grad(|| {
                for parameter in &self.list {
                    let mut fresh = parameter.work.grad();
                    if fresh.defined() {
                        let _ = fresh.zero_();
                    }
                }
            });
        }
    }

    /// Takes up what the last backward pass left on the working copy.
    pub fn fold_gradients(&mut self) {
        if !self.is_mixed {
            return;
        }
        tch::no_grad(|| {
            for parameter in &mut self.list {
                let mut fresh = parameter.work.grad();
                if fresh.defined() {
                    let _ = parameter.grad.g_add_(&fresh.to_kind(Kind::Float));
                    let _ = fresh.zero_();
                }
            }
        });
    }

    /// The first parameter that is of no use: it holds NaN or infinity, or values whose squares are infinite in fp32, so
    /// that no norm over them is finite. One reduction over all parameters where there is none.
    pub fn first_diverged(&self) -> Option<String> {
        tch::no_grad(|| {
            let norms: Vec<Tensor> = self.list.iter().map(|p| p.master.norm()).collect();
            let is_finite = |norm: &Tensor| norm.double_value(&[]).is_finite();
            if norms.is_empty() || is_finite(&Tensor::stack(&norms, 0).sum(Kind::Double)) {
                return None;
            }
            let at = norms.iter().position(|norm| !is_finite(norm));
            at.and_then(|index| self.list.get(index)).map(|p| p.name.clone())
        })
    }

    /// Makes the working copy equal to the masters, after an update or a load.
    pub fn publish(&mut self) {
        if !self.is_mixed {
            return;
        }
        tch::no_grad(|| {
            for parameter in &mut self.list {
                parameter.work.copy_(&parameter.master);
            }
        });
    }
}

impl Parameter {
    fn new(
        name: String,
        stored: Tensor,
        is_mixed: bool,
        device: Device,
        purpose: Use,
    ) -> Result<Parameter, tch::TchError> {
        let source_kind = stored.f_kind()?;
        if purpose == Use::Generation {
            let kind = if is_mixed { Kind::BFloat16 } else { Kind::Float };
            let master = stored.f_to_device(device)?.f_to_kind(kind)?;
            return Ok(Parameter { name, source_kind, work: master.shallow_clone(), master, grad: Tensor::new() });
        }
        let master = stored.f_to_device(device)?.f_to_kind(Kind::Float)?;
        if is_mixed {
            let work = master.f_to_kind(Kind::BFloat16)?.f_set_requires_grad(true)?;
            let grad = master.f_zeros_like()?;
            return Ok(Parameter { name, source_kind, master, work, grad });
        }
        let master = master.f_set_requires_grad(true)?;
        // A gradient exists only after a first backward pass; this one brings it into being, so that the vocabulary
        // projection and the embedding can add to it by hand.
        master.f_sum(Kind::Float)?.f_backward()?;
        let mut grad = master.f_grad()?;
        let _ = grad.detach_().f_zero_()?;
        Ok(Parameter { name, source_kind, work: master.shallow_clone(), master, grad })
    }
}
