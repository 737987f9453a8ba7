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
use tch::Kind;

use super::error::TrainerError;
use super::folder;
use super::model::load::TensorFiles;
use super::params::Parameters;
use super::tensor_file::{self, Entry, dtype_name, write_synced};
use crate::config::ExportDtype;
use crate::types::{WeightManifest, WeightTensor, WeightVersion};

/// The weights' file name.
const WEIGHTS: &str = "model.safetensors";
/// The manifest's file name.
const MANIFEST: &str = "manifest.json";

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
    folder::publish(&dir, |partial| fill(parameters, source, dtype, partial, &dir, version))
}

fn fill(
    parameters: &Parameters,
    source: &Path,
    dtype: ExportDtype,
    partial: &Path,
    dir: &Path,
    version: WeightVersion,
) -> Result<WeightManifest, TrainerError> {
    copy_companions(source, partial)?;
    let kind = match dtype {
        ExportDtype::Source => None,
        ExportDtype::Float32 => Some(Kind::Float),
        ExportDtype::Bfloat16 => Some(Kind::BFloat16),
    };
    if let Some(kind) = kind {
        declare_dtype(&partial.join("config.json"), kind)?;
    }
    let entries: Vec<Entry<'_>> = parameters
        .iter()
        .map(|p| Entry { name: p.name.clone(), tensor: &p.master, kind: kind.unwrap_or(p.source_kind) })
        .collect();
    let metadata = Map::from_iter([("format".to_owned(), json!("pt"))]);
    let written = tensor_file::write(&partial.join(WEIGHTS), &entries, metadata)?;
    let tensors: BTreeMap<String, WeightTensor> = entries
        .iter()
        .zip(&written.crc32)
        .map(|(entry, &crc32)| {
            let shape = entry.tensor.size().iter().map(|&n| n as u64).collect();
            (entry.name.clone(), WeightTensor { dtype: dtype_name(entry.kind).to_owned(), shape, crc32 })
        })
        .collect();
    let digest = digest(&tensors);
    let file = dir.join(WEIGHTS);
    let manifest = WeightManifest { version, dir: dir.to_path_buf(), file, bytes: written.bytes, tensors, digest };
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

/// The digest of names and checksums in the order of the names.
fn digest_of<'a>(tensors: impl Iterator<Item = (&'a str, u32)>) -> String {
    let mut hash = Sha256::new();
    for (name, crc32) in tensors {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(format!("{crc32:08x}\n"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The [`digest`] of the weights in `dir`, a folder in the Hugging Face layout: of an export the one in its manifest.
///
/// # Errors
/// A file that is missing or not whole.
pub fn digest_of_folder(dir: &Path) -> Result<String, TrainerError> {
    let files = TensorFiles::open(dir)?;
    let tensors = files.tensors()?;
    Ok(digest_of(tensors.all_bytes().map(|(name, bytes)| (name, crc32fast::hash(bytes)))))
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
