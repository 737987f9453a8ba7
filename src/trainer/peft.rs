//! Adapters on disk as the library PEFT lays them out, which vLLM reads as well: `adapter_config.json` and
//! `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Number, Value, json};
use tch::{Device, Kind};

use super::error::TrainerError;
use super::export::{self, kind_of};
use super::lora::AdapterSpec;
use super::model::ModelConfig;
use super::model::load::TensorFiles;
use super::params::{Adapters, Parameters, Placement};
use super::tensor_file::{Entry, write_synced};
use crate::config::{ComputeDtype, ExportDtype};
use crate::types::{WeightManifest, WeightTensor, WeightVersion};

/// Name of the file with the adapters.
const WEIGHTS: &str = "adapter_model.safetensors";
/// Name of the file that says how they are applied.
const CONFIG: &str = "adapter_config.json";
/// PEFT wraps the model twice.
const PREFIX: &str = "base_model.model.";

/// Writes the adapters to `partial`, the later `dir`. They are small and began in fp32, so that is what
/// [`ExportDtype::Source`] means here.
pub(super) fn fill(
    parameters: &Parameters,
    adapters: &Adapters,
    source: &Path,
    dtype: ExportDtype,
    partial: &Path,
    dir: &Path,
    version: WeightVersion,
) -> Result<WeightManifest, TrainerError> {
    let kind = kind_of(dtype).unwrap_or(Kind::Float);
    let path = partial.join(CONFIG);
    write_synced(&path, format!("{:#}\n", config(&adapters.spec, source)).as_bytes())?;
    let entries: Vec<Entry<'_>> =
        parameters.iter().map(|p| Entry { name: format!("{PREFIX}{}", p.name), tensor: &p.master, kind }).collect();
    export::write(&entries, WEIGHTS, Some(&adapters.base_digest), partial, dir, version)
}

fn config(spec: &AdapterSpec, base: &Path) -> Value {
    // PEFT and vLLM call it a whole number.
    let whole = spec.alpha as i64;
    let alpha = if whole as f64 == spec.alpha { Some(Number::from(whole)) } else { Number::from_f64(spec.alpha) };
    json!({
        "base_model_name_or_path": std::path::absolute(base).unwrap_or_else(|_| base.to_owned()).to_string_lossy(),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": spec.rank,
        "target_modules": spec.targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    })
}

/// What is read of a configuration of PEFT's.
#[derive(Deserialize)]
struct Config {
    peft_type: String,
    r: i64,
    lora_alpha: f64,
    target_modules: Vec<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What of the manifest beside adapters is of interest.
#[derive(Deserialize)]
struct Origin {
    base_digest: Option<String>,
    #[serde(default)]
    tensors: BTreeMap<String, WeightTensor>,
}

/// The adapters in `dir` on the model in `model_dir`, in fp32 on the processor.
///
/// # Errors
/// Files that are missing or malformed; adapters of a kind that is not implemented, of other shapes than the model's, or with
/// a manifest that names other weights than the model's.
pub fn load(model_dir: &Path, dir: &Path) -> Result<Parameters, TrainerError> {
    let model = ModelConfig::read(model_dir)?;
    let spec = read_config(&dir.join(CONFIG))?;
    let placement = Placement { dtype: ComputeDtype::Float32, device: Device::Cpu, is_offloaded: false };
    let parameters = Parameters::load_adapted(model_dir, &model, placement, spec)?;
    let files = TensorFiles::open_file(&dir.join(WEIGHTS))?;
    let tensors = files.tensors()?;
    let manifest = dir.join(export::MANIFEST);
    if manifest.exists() {
        let text = fs::read(&manifest).map_err(TrainerError::read(&manifest))?;
        let origin: Origin =
            serde_json::from_slice(&text).map_err(|error| TrainerError::malformed(&manifest, error.to_string()))?;
        let found = parameters.adapters().map(|adapters| adapters.base_digest.clone());
        if origin.base_digest.is_some() && origin.base_digest != found {
            let reason = format!("its adapters were trained on other weights than those in `{}`", model_dir.display());
            return Err(TrainerError::malformed(&manifest, reason));
        }
        for (name, written) in &origin.tensors {
            if tensors.bytes(name).is_none_or(|bytes| crc32fast::hash(bytes) != written.crc32) {
                return Err(TrainerError::tensor(dir, name, "is not what was written: its checksum is another"));
            }
        }
    }
    tensors.refuse_unknown(|name| name.strip_prefix(PREFIX).is_some_and(|name| parameters.get(name).is_some()))?;
    for parameter in parameters.iter() {
        let values = tensors.load(&format!("{PREFIX}{}", parameter.name), &parameter.master.size())?;
        tch::no_grad(|| parameter.master.shallow_clone().f_copy_(&values).map(|_| ()))
            .map_err(TrainerError::torch("loading adapters"))?;
    }
    Ok(parameters)
}

/// Writes the model in `model_dir` with the adapters in `adapter_dir` added to `out`, in the Hugging Face layout.
///
/// # Errors
/// What [`load`] says, or a failure to write; nothing is visible under `out` then.
pub fn merge(
    model_dir: &Path,
    adapter_dir: &Path,
    dtype: ExportDtype,
    out: &Path,
) -> Result<WeightManifest, TrainerError> {
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        let reason = "the folder is not empty, and what is in it would be lost";
        return Err(TrainerError::Setting { key: "out", value: out.display().to_string(), reason });
    }
    let parameters = load(model_dir, adapter_dir)?;
    export::export_merged(&parameters, model_dir, dtype, out, WeightVersion::INITIAL)
}

fn read_config(path: &Path) -> Result<AdapterSpec, TrainerError> {
    let text = fs::read(path).map_err(TrainerError::read(path))?;
    let config: Config =
        serde_json::from_slice(&text).map_err(|error| TrainerError::malformed(path, error.to_string()))?;
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(patterns) => patterns.is_empty(),
        Value::Array(names) => names.is_empty(),
        Value::String(text) => text == "none",
        _ => false,
    };
    let kinds = [
        "use_rslora",
        "use_dora",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "bias",
        "fan_in_fan_out",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "corda_config",
        "eva_config",
        "loftq_config",
    ];
    let fault = kinds.iter().find(|key| config.rest.get(**key).is_some_and(|value| !is_off(value)));
    // These change the weights under the adapters as well.
    let start = config.rest.get("init_lora_weights").and_then(Value::as_str).map(str::to_lowercase);
    let changes_base =
        start.filter(|start| ["pissa", "olora", "corda", "loftq"].iter().any(|other| start.starts_with(other)));
    let reason = match fault {
        _ if changes_base.is_some() => {
            Some("adapters whose `init_lora_weights` changes the model under them are not implemented".to_owned())
        }
        Some(key) => Some(format!("adapters with `{key}` are not implemented")),
        None if config.peft_type != "LORA" => Some(format!("`peft_type` is `{}`, must be `LORA`", config.peft_type)),
        None => None,
    };
    if let Some(reason) = reason {
        return Err(TrainerError::malformed(path, reason));
    }
    let spec = AdapterSpec { rank: config.r, alpha: config.lora_alpha, targets: config.target_modules, seed: 0 };
    spec.checked().map_err(|error| match error {
        TrainerError::Setting { key, value, reason } => {
            let key = match key {
                "train.lora.rank" => "r",
                "train.lora.alpha" => "lora_alpha",
                _ => "target_modules",
            };
            TrainerError::malformed(path, format!("`{key}` = {value}: {reason}"))
        }
        other => other,
    })
}
