//! Low-rank adapters (LoRA, arXiv 2106.09685): which projections have one, what they begin with, and their sum with the
//! weights.
//!
//! A projection with an adapter is y = W x + (alpha / rank) B A x, with W frozen. B begins as zero, so the first version is
//! the model itself; A begins as in PEFT (Kaiming uniform with a = sqrt 5, which is a bound of 1 / sqrt(in)), from the seed of
//! the run, so that a run that is resumed without a checkpoint begins with the same adapters.

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use tch::{Kind, Tensor};

use super::error::TrainerError;
use super::export::Named;
use super::learner::TrainerSpec;
use super::model::ModelConfig;
use super::params::{Adapters, Parameter, Parameters, Use};
use crate::config::train::{MOST_RANK, PROJECTIONS};
use crate::rng::{Purpose, stream};

/// Which adapters there are.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSpec {
    /// Inner dimension, at least 1.
    pub rank: i64,
    /// An adapter adds (alpha / rank) B A x.
    pub alpha: f64,
    /// Names of the projections, of [`PROJECTIONS`].
    pub targets: Vec<String>,
    /// Of the initial values.
    pub seed: u64,
}

impl AdapterSpec {
    /// What `[train.lora]` asks for; `None` where it is off or nothing is trained.
    pub fn of(spec: &TrainerSpec) -> Option<AdapterSpec> {
        let lora = &spec.config.lora;
        let is_on = lora.is_on() && spec.purpose == Use::Training;
        is_on.then(|| AdapterSpec {
            rank: i64::from(lora.rank),
            alpha: lora.alpha,
            targets: lora.targets.clone(),
            seed: spec.seed,
        })
    }

    /// The same, if it makes sense.
    ///
    /// # Errors
    /// [`TrainerError::Setting`].
    pub fn checked(self) -> Result<AdapterSpec, TrainerError> {
        let wrong = |key, value, reason| Err(TrainerError::Setting { key, value, reason });
        if !(1..=i64::from(MOST_RANK)).contains(&self.rank) {
            return wrong("train.lora.rank", self.rank.to_string(), "it must be at least 1 and at most 512");
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return wrong("train.lora.alpha", self.alpha.to_string(), "it must be above 0");
        }
        if self.targets.is_empty() {
            return wrong("train.lora.targets", "[]".to_owned(), "nothing would be trained");
        }
        match self.targets.iter().find(|target| !PROJECTIONS.contains(&target.as_str())) {
            Some(target) => wrong(
                "train.lora.targets",
                target.clone(),
                "the projections are `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj` and `down_proj`",
            ),
            None => Ok(self),
        }
    }

    /// alpha / rank.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// Names of A and B of the projection `prefix`.
pub fn names(prefix: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|part| format!("{prefix}.{part}.weight"))
}

/// Names and shapes of the adapters of `spec` in `config`, in the order of the forward pass: A [rank, in] and B [out, rank] of
/// every projection.
pub fn parameters(config: &ModelConfig, spec: &AdapterSpec) -> Vec<(String, Vec<i64>)> {
    let mut list = Vec::new();
    for (name, shape) in config.parameters() {
        let Some(prefix) = name.strip_suffix(".weight") else { continue };
        let is_target = prefix.rsplit('.').next().is_some_and(|last| spec.targets.iter().any(|target| target == last));
        if let (true, [outer, inner]) = (is_target, shape.as_slice()) {
            let [down, up] = names(prefix);
            list.push((down, vec![spec.rank, *inner]));
            list.push((up, vec![*outer, spec.rank]));
        }
    }
    list
}

/// The adapters before the first update, in fp32 on the processor.
pub(super) fn initial(config: &ModelConfig, spec: &AdapterSpec) -> Vec<(String, Tensor)> {
    let make = |(index, (name, shape)): (u64, (String, Vec<i64>))| {
        let count = shape.iter().product::<i64>() as usize;
        let values = if index.is_multiple_of(2) {
            let bound = 1.0 / (shape[1] as f64).sqrt();
            let mut rng = stream(spec.seed, Purpose::AdapterInit, &[index]);
            let mut uniform = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            (0..count).map(|_| (bound * (2.0 * uniform() - 1.0)) as f32).collect()
        } else {
            vec![0f32; count]
        };
        (name, Tensor::from_slice(&values).view(shape.as_slice()))
    };
    (0..).zip(parameters(config, spec)).map(make).collect()
}

/// All weights of the model with the adapters added: computed in fp32, held as `kind` of the element type of the file that
/// each came from.
///
/// # Errors
/// libtorch refused an operation.
pub(super) fn merged(
    parameters: &Parameters,
    adapters: &Adapters,
    kind: impl Fn(Kind) -> Kind,
) -> Result<Vec<Named>, TrainerError> {
    let trained: BTreeMap<&str, &Parameter> = parameters.iter().map(|p| (p.name.as_str(), p)).collect();
    let sum = |weight: &Tensor, [down, up]: [&Parameter; 2]| {
        let added = up.master.detach().f_mm(&down.master.detach())?.f_mul_scalar(adapters.spec.scale())?;
        weight.f_to_kind(Kind::Float)?.f_add(&added)
    };
    let mut list = Vec::with_capacity(adapters.frozen.len());
    for frozen in &adapters.frozen {
        let [down, up] = names(frozen.name.strip_suffix(".weight").unwrap_or_default());
        let tensor = match (trained.get(down.as_str()), trained.get(up.as_str())) {
            (Some(down), Some(up)) => sum(&frozen.work, [down, up])
                .and_then(|sum| sum.f_to_kind(kind(frozen.source_kind)))
                .map_err(TrainerError::torch("adding adapters"))?,
            _ => frozen.work.shallow_clone(),
        };
        list.push((frozen.name.clone(), tensor, frozen.source_kind));
    }
    Ok(list)
}
