//! A version of the policy on disk, in the Hugging Face layout, visible only when complete.
//!
//! Everything is written and fsynced in a folder beside the target, which then takes its name by a rename. In the
//! element type of the file the model came from, version 0 has the bytes of the original: bf16 to fp32 and back is
//! exact.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::error::TrainerError;
use super::folder;
use super::model::load::{TensorFiles, Tensors};
use super::params::Parameters;
use super::tensor_file::{self, Entry, dtype_name, write_synced};
use super::{lora, peft};
use crate::config::ExportDtype;
use crate::types::{WeightManifest, WeightTensor, WeightVersion};

/// The weights' file name.
const WEIGHTS: &str = "model.safetensors";
/// The manifest's file name.
pub(super) const MANIFEST: &str = "manifest.json";

/// Writes `parameters` as `dtype` and copies of the other files in `source` (configuration, tokenizer, chat template) to `dir`.
/// A folder that is already there, from an export that was not recorded, is replaced.
///
/// # Errors
/// A failure to read the source or to write; nothing is visible under `dir` then.
pub fn export(
    parameters: &Parameters,
    source: &Path,
    dtype: ExportDtype,
    dir: &Path,
    version: WeightVersion,
) -> Result<WeightManifest, TrainerError> {
    let dir = std::path::absolute(dir).map_err(TrainerError::write(dir))?;
    folder::publish(&dir, |partial| match parameters.adapters() {
        Some(adapters) => peft::fill(parameters, adapters, source, dtype, partial, &dir, version),
        None => fill(&owned(parameters), source, dtype, partial, &dir, version),
    })
}

/// As [`export`], but adapters are added to the weights that they are on: a model like any other. For the time of the export
/// the sums are in memory, in the element type of the file.
///
/// # Errors
/// As [`export`].
pub fn export_merged(
    parameters: &Parameters,
    source: &Path,
    dtype: ExportDtype,
    dir: &Path,
    version: WeightVersion,
) -> Result<WeightManifest, TrainerError> {
    let Some(adapters) = parameters.adapters() else { return export(parameters, source, dtype, dir, version) };
    let dir = std::path::absolute(dir).map_err(TrainerError::write(dir))?;
    let merged = lora::merged(parameters, adapters, |source_kind| kind_of(dtype).unwrap_or(source_kind))?;
    for (name, tensor, _) in &merged {
        let finite =
            tensor.f_isfinite().and_then(|each| each.f_all()).map_err(TrainerError::torch("adding adapters"))?;
        if finite.int64_value(&[]) == 0 {
            let reason = "is not finite with the adapters added in this element type";
            return Err(TrainerError::tensor(&dir, name, reason));
        }
    }
    folder::publish(&dir, |partial| fill(&merged, source, dtype, partial, &dir, version))
}

/// A tensor to be written, its name and the element type of the file it came from.
pub(super) type Named = (String, Tensor, Kind);

fn owned(parameters: &Parameters) -> Vec<Named> {
    parameters.iter().map(|p| (p.name.clone(), p.master.shallow_clone(), p.source_kind)).collect()
}

/// The element type that `dtype` demands.
pub(super) fn kind_of(dtype: ExportDtype) -> Option<Kind> {
    match dtype {
        ExportDtype::Source => None,
        ExportDtype::Float32 => Some(Kind::Float),
        ExportDtype::Bfloat16 => Some(Kind::BFloat16),
    }
}

fn fill(
    weights: &[Named],
    source: &Path,
    dtype: ExportDtype,
    partial: &Path,
    dir: &Path,
    version: WeightVersion,
) -> Result<WeightManifest, TrainerError> {
    copy_companions(source, partial)?;
    let kind = kind_of(dtype);
    if let Some(kind) = kind {
        declare_dtype(&partial.join("config.json"), kind)?;
    }
    let entries: Vec<Entry<'_>> = weights
        .iter()
        .map(|(name, tensor, source_kind)| Entry { name: name.clone(), tensor, kind: kind.unwrap_or(*source_kind) })
        .collect();
    write(&entries, WEIGHTS, None, partial, dir, version)
}

/// The weights' file and its manifest.
pub(super) fn write(
    entries: &[Entry<'_>],
    file: &str,
    base_digest: Option<&str>,
    partial: &Path,
    dir: &Path,
    version: WeightVersion,
) -> Result<WeightManifest, TrainerError> {
    let metadata = Map::from_iter([("format".to_owned(), json!("pt"))]);
    let written = tensor_file::write(&partial.join(file), entries, metadata)?;
    let tensors: BTreeMap<String, WeightTensor> = entries
        .iter()
        .zip(&written.crc32)
        .map(|(entry, &crc32)| {
            let shape = entry.tensor.size().iter().map(|&n| n as u64).collect();
            (entry.name.clone(), WeightTensor { dtype: dtype_name(entry.kind).to_owned(), shape, crc32 })
        })
        .collect();
    let digest = base_digest.map_or_else(|| digest(&tensors), |base| digest_on_base(&tensors, base));
    let manifest = WeightManifest {
        version,
        dir: dir.to_path_buf(),
        file: dir.join(file),
        bytes: written.bytes,
        tensors,
        digest,
        base_digest: base_digest.map(str::to_owned),
    };
    let path = partial.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| TrainerError::Write { path: path.clone(), source: error.into() })?;
    write_synced(&path, text.as_bytes())?;
    Ok(manifest)
}

/// SHA-256 over `name \0 crc32 (8 lower-case hex digits) \n` in name order, lower-case hex.
pub fn digest(tensors: &BTreeMap<String, WeightTensor>) -> String {
    digest_of(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.crc32)))
}

/// The [`digest`] of adapters: a last line `base \0 digest of the frozen weights \n` follows.
fn digest_on_base(tensors: &BTreeMap<String, WeightTensor>, base_digest: &str) -> String {
    let mut hash = hash_of(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.crc32)));
    hash.update(format!("base\0{base_digest}\n"));
    hex(hash)
}

/// The digest of names and checksums in the order of the names.
fn digest_of<'a>(tensors: impl Iterator<Item = (&'a str, u32)>) -> String {
    hex(hash_of(tensors))
}

fn hash_of<'a>(tensors: impl Iterator<Item = (&'a str, u32)>) -> Sha256 {
    let mut hash = Sha256::new();
    for (name, crc32) in tensors {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(format!("{crc32:08x}\n"));
    }
    hash
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The [`digest`] of the weights in `dir`, a folder in the Hugging Face layout: of an export the one in its manifest.
///
/// # Errors
/// A file that is missing or not whole.
pub fn digest_of_folder(dir: &Path) -> Result<String, TrainerError> {
    let files = TensorFiles::open(dir)?;
    Ok(digest_of_tensors(&files.tensors()?))
}

/// The [`digest`] of what is in files.
pub(super) fn digest_of_tensors(tensors: &Tensors<'_>) -> String {
    digest_of(tensors.all_bytes().map(|(name, bytes)| (name, crc32fast::hash(bytes))))
}

/// Small text files and tokenizer models beside the weights.
fn copy_companions(source: &Path, target: &Path) -> Result<(), TrainerError> {
    for entry in fs::read_dir(source).map_err(TrainerError::read(source))? {
        let path = entry.map_err(TrainerError::read(source))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let is_companion = matches!(extension, "json" | "jinja" | "txt" | "model" | "tiktoken");
        if !is_companion || name == MANIFEST || name.ends_with(".index.json") || !path.is_file() {
            continue;
        }
        let content = fs::read(&path).map_err(TrainerError::read(&path))?;
        write_synced(&target.join(name), &content)?;
    }
    Ok(())
}

/// Says in config.json what the file holds: readers take the element type from there.
fn declare_dtype(path: &Path, kind: Kind) -> Result<(), TrainerError> {
    let text = fs::read_to_string(path).map_err(TrainerError::read(path))?;
    let mut config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| TrainerError::malformed(path, error.to_string()))?;
    let name = if kind == Kind::Float { "float32" } else { "bfloat16" };
    // The older spelling is read before the newer one where both are there.
    config.remove("torch_dtype");
    config.insert("dtype".to_owned(), json!(name));
    write_synced(path, format!("{:#}\n", Value::Object(config)).as_bytes())
}
