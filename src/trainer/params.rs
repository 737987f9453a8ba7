//! The parameters: fp32 masters, the working copy that the forward pass sees, and fp32 gradients.
//!
//! With fp32 compute the masters are the working copy and libtorch accumulates straight into their gradient. With
//! bf16 the working copy is cast down from the masters after every update, and each micro-batch's bf16 gradient is
//! added to an fp32 one, since a sum of many micro-batches in bf16 loses the small ones. Masters that are offloaded lie in
//! the host's memory, where the optimizer then works, and the working copy is apart from them in fp32 as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::error::TrainerError;
use super::export;
use super::lora::{self, AdapterSpec};
use super::model::ModelConfig;
use super::model::load::{TensorFiles, Tensors};
use crate::config::ComputeDtype;

/// One parameter.
pub struct Parameter {
    /// Hugging Face name.
    pub name: String,
    /// Element type in the file it came from.
    pub source_kind: Kind,
    /// fp32.
    pub master: Tensor,
    /// What the forward pass sees; the master itself in fp32, unless that is offloaded.
    work: Tensor,
    /// Sum of the gradients since the last [`Parameters::zero_grad`], fp32.
    pub grad: Tensor,
}

/// All parameters of a model that are trained, in the order of its forward pass; with adapters those are the adapters', and
/// the model's own weights are frozen.
pub struct Parameters {
    list: Vec<Parameter>,
    /// Whether the working copy is apart from the masters.
    has_copy: bool,
    adapters: Option<Adapters>,
}

/// What there is beside the trained parameters where those are adapters'.
pub struct Adapters {
    /// What was asked for.
    pub spec: AdapterSpec,
    /// Digest of the model's weights as they were read: what the adapters belong to.
    pub base_digest: String,
    /// The model's own weights, in the order of the forward pass.
    pub frozen: Vec<Frozen>,
}

/// A weight that is not trained: no gradient, no master beside it.
pub struct Frozen {
    /// Hugging Face name.
    pub name: String,
    /// Element type in the file it came from.
    pub source_kind: Kind,
    /// In the element type of the forward pass.
    pub work: Tensor,
}

/// Where parameters are, and as what they are computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Element type of forward and backward pass.
    pub dtype: ComputeDtype,
    /// Where those are computed.
    pub device: Device,
    /// Masters and moments lie in the host's memory.
    pub is_offloaded: bool,
}

impl Placement {
    fn kind(self) -> Kind {
        match self.dtype {
            ComputeDtype::Float32 => Kind::Float,
            ComputeDtype::Bfloat16 => Kind::BFloat16,
        }
    }

    fn has_copy(self) -> bool {
        self.dtype == ComputeDtype::Bfloat16 || self.is_offloaded
    }
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
        placement: Placement,
        purpose: Use,
    ) -> Result<Parameters, TrainerError> {
        let files = TensorFiles::open(dir)?;
        let tensors = files.tensors()?;
        let wanted = wanted(config, &tensors)?;
        let mut list = Vec::with_capacity(wanted.len());
        for (name, shape) in wanted {
            let stored = tensors.load(&name, &shape)?;
            list.push(
                Parameter::new(name, stored, placement, purpose).map_err(TrainerError::torch("loading the model"))?,
            );
        }
        Ok(Parameters { list, has_copy: placement.has_copy(), adapters: None })
    }

    /// Loads the parameters of `config` from `dir` as frozen weights, and makes the adapters of `spec`.
    ///
    /// # Errors
    /// As [`Parameters::load`].
    pub fn load_adapted(
        dir: &Path,
        config: &ModelConfig,
        placement: Placement,
        spec: AdapterSpec,
    ) -> Result<Parameters, TrainerError> {
        let files = TensorFiles::open(dir)?;
        let tensors = files.tensors()?;
        let mut frozen = Vec::new();
        for (name, shape) in wanted(config, &tensors)? {
            let stored = tensors.load(&name, &shape)?;
            let place = || {
                let work = stored.f_to_device(placement.device)?.f_to_kind(placement.kind())?;
                Ok(Frozen { name, source_kind: stored.f_kind()?, work })
            };
            frozen.push(place().map_err(TrainerError::torch("loading the model"))?);
        }
        let mut list = Vec::new();
        for (name, values) in lora::initial(config, &spec) {
            // Adapters are made in fp32, and no file says otherwise.
            let parameter = Parameter::new(name, values, placement, Use::Training);
            list.push(parameter.map_err(TrainerError::torch("making adapters"))?);
        }
        let adapters = Some(Adapters { spec, base_digest: export::digest_of_tensors(&tensors), frozen });
        Ok(Parameters { list, has_copy: placement.has_copy(), adapters })
    }

    /// What there is beside adapters; `None` where all weights are trained.
    pub fn adapters(&self) -> Option<&Adapters> {
        self.adapters.as_ref()
    }

    /// alpha / rank of the adapters.
    pub fn adapter_scale(&self) -> f64 {
        self.adapters.as_ref().map_or(0.0, |adapters| adapters.spec.scale())
    }

    /// The parameters.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    /// The parameter `name`.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|p| p.name == name)
    }

    /// The gradient of `name`, sharing storage; undefined where it is not trained.
    pub(crate) fn grad(&self, name: &'static str) -> Tensor {
        self.get(name).map_or_else(Tensor::new, |p| p.grad.shallow_clone())
    }

    /// Views of the working copy by name.
    pub fn work(&self) -> BTreeMap<String, Tensor> {
        let frozen = self.adapters.iter().flat_map(|adapters| &adapters.frozen);
        let frozen = frozen.map(|weight| (weight.name.clone(), weight.work.shallow_clone()));
        self.list.iter().map(|p| (p.name.clone(), p.work.shallow_clone())).chain(frozen).collect()
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
        if self.has_copy {
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
        if !self.has_copy {
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
        if !self.has_copy {
            return;
        }
        tch::no_grad(|| {
            for parameter in &mut self.list {
                parameter.work.copy_(&parameter.master);
            }
        });
    }
}

/// Names and shapes of the weights of `config`, all of which and no others are in `tensors`.
fn wanted(config: &ModelConfig, tensors: &Tensors<'_>) -> Result<Vec<(String, Vec<i64>)>, TrainerError> {
    let wanted = config.parameters();
    let names: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    tensors.refuse_unknown(|name| {
        // Files of tied models may repeat the projection; old ones hold the rotary frequencies.
        names.contains(name) || (config.is_tied && name == "lm_head.weight") || name.ends_with("rotary_emb.inv_freq")
    })?;
    Ok(wanted)
}

impl Parameter {
    fn new(name: String, stored: Tensor, placement: Placement, purpose: Use) -> Result<Parameter, tch::TchError> {
        let source_kind = stored.f_kind()?;
        let Placement { device, is_offloaded, .. } = placement;
        if purpose == Use::Generation {
            let master = stored.f_to_device(device)?.f_to_kind(placement.kind())?;
            return Ok(Parameter { name, source_kind, work: master.shallow_clone(), master, grad: Tensor::new() });
        }
        let home = if is_offloaded { Device::Cpu } else { device };
        let mut master = stored.f_to_device(home)?.f_to_kind(Kind::Float)?;
        if is_offloaded && device.is_cuda() {
            // Copied to and from without a detour.
            master = master.f_pin_memory(device)?;
        }
        if placement.has_copy() {
            let work = master.f_to_device_(device, placement.kind(), false, true)?.f_set_requires_grad(true)?;
            let grad = Tensor::f_zeros(master.size(), (Kind::Float, device))?;
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
