//! Resume state: fp32 masters, moments and the update counter in one safetensors file.
//!
//! An export is what an engine loads; it is rounded to the model's own element type. A resume needs the exact
//! masters, which is why this file exists beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Map, json};
use tch::{Kind, Tensor};

use super::error::TrainerError;
use super::model::load::TensorFiles;
use super::optim::AdamW;
use super::params::Parameters;
use super::tensor_file::{self, Entry};

/// Prefixes of the three copies of each parameter's shape.
const PARTS: [&str; 3] = ["master", "exp_avg", "exp_avg_sq"];
/// Metadata key of the update counter.
const UPDATES: &str = "updates";

/// Writes the state to `file`, visible only when complete; a file already there is replaced.
///
/// # Errors
/// A failure to write; `file` is as it was then.
pub fn save(parameters: &Parameters, optimizer: &AdamW, file: &Path) -> Result<(), TrainerError> {
    let mut entries = Vec::new();
    for ((parameter, first), second) in parameters.iter().zip(&optimizer.exp_avg).zip(&optimizer.exp_avg_sq) {
        for (part, tensor) in PARTS.into_iter().zip([&parameter.master, first, second]) {
            entries.push(Entry { name: format!("{part}.{}", parameter.name), tensor, kind: Kind::Float });
        }
    }
    let metadata = Map::from_iter([(UPDATES.to_owned(), json!(optimizer.updates.to_string()))]);
    let partial = tensor_file::temporary(file);
    let written = tensor_file::write(&partial, &entries, metadata)
        .and_then(|_| fs::rename(&partial, file).map_err(TrainerError::write(file)));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written?;
    tensor_file::sync_dir(file.parent().unwrap_or(Path::new("/")))
}

/// Reads the state from `file`. Everything is checked before anything is changed.
///
/// # Errors
/// A missing, malformed or cut-off file, or one of another model.
pub fn load(parameters: &mut Parameters, optimizer: &mut AdamW, file: &Path) -> Result<(), TrainerError> {
    let files = TensorFiles::open_file(file)?;
    let metadata = files.metadata()?;
    let updates = metadata.get(UPDATES).and_then(|text| text.parse().ok());
    let updates = updates.ok_or_else(|| TrainerError::malformed(file, "its metadata has no update counter"))?;
    let stored = files.tensors()?;
    let known: BTreeSet<String> =
        parameters.iter().flat_map(|p| PARTS.map(|part| format!("{part}.{}", p.name))).collect();
    stored.refuse_unknown(|name| known.contains(name))?;
    let mut loaded: Vec<[Tensor; 3]> = Vec::new();
    for parameter in parameters.iter() {
        let shape = parameter.master.size();
        let read = |part: &str| stored.load(&format!("{part}.{}", parameter.name), &shape);
        loaded.push([read(PARTS[0])?, read(PARTS[1])?, read(PARTS[2])?]);
    }
    tch::no_grad(|| {
        let moments = optimizer.exp_avg.iter_mut().zip(&mut optimizer.exp_avg_sq);
        for ((parameter, (first, second)), [master, exp_avg, exp_avg_sq]) in parameters.iter().zip(moments).zip(&loaded)
        {
            parameter.master.shallow_clone().copy_(master);
            first.copy_(exp_avg);
            second.copy_(exp_avg_sq);
        }
    });
    optimizer.updates = updates;
    parameters.publish();
    Ok(())
}
