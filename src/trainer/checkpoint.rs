//! Resume state: a folder with fp32 masters, moments and the update counter, and what is needed to trust them.
//!
//! `state.safetensors` holds the numbers; `checkpoint.json` says of which step they are, how long the file is, and the
//! CRC-32 of its header and of every tensor, and carries a digest of itself. So a file that was cut off, or in which a
//! bit has turned, is refused before anything is changed. An export is no substitute: it is rounded to the element type
//! of the engine, and has no moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::error::TrainerError;
use super::folder;
use super::model::load::TensorFiles;
use super::optim::AdamW;
use super::params::{Adapters, Parameters};
use super::tensor_file::{self, Entry};
use crate::types::{RunId, StepId, WeightVersion};

/// Version of the layout that is written and read.
const FORMAT: u32 = 1;
/// Masters and moments.
const STATE: &str = "state.safetensors";
/// What is said of them.
const DESCRIPTION: &str = "checkpoint.json";
/// Prefixes of the three copies of each parameter's shape.
const PARTS: [&str; 3] = ["master", "exp_avg", "exp_avg_sq"];

/// What a checkpoint is the state of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointMark {
    /// The run.
    pub run: RunId,
    /// The step that had just ended.
    pub step: StepId,
    /// The version as which these weights were published.
    pub version: WeightVersion,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Size of the folder's files in bytes.
    pub bytes: u64,
    /// Optimizer steps so far.
    pub updates: u64,
    /// One number for all of it: the digest in `checkpoint.json`.
    pub digest: String,
}

/// `checkpoint.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    mark: CheckpointMark,
    updates: u64,
    /// Of adapters: what they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adapters: Option<Belonging>,
    /// Size of the state file.
    state_bytes: u64,
    /// CRC-32 of the state file up to its first tensor.
    header_crc32: u32,
    /// CRC-32 of each tensor's bytes, by name.
    tensors: BTreeMap<String, u32>,
    /// SHA-256 of this description with an empty digest, as JSON without spaces, lower-case hex.
    digest: String,
}

/// What the numbers of adapters are of no use without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Belonging {
    /// Digest of the frozen weights.
    base_digest: String,
    /// alpha / rank.
    scale: f64,
}

impl Belonging {
    fn of(parameters: &Parameters) -> Option<Belonging> {
        let of =
            |adapters: &Adapters| Belonging { base_digest: adapters.base_digest.clone(), scale: adapters.spec.scale() };
        parameters.adapters().map(of)
    }
}

impl Description {
    fn own_digest(&self) -> Result<String, serde_json::Error> {
        let bare = serde_json::to_vec(&Description { digest: String::new(), ..self.clone() })?;
        Ok(Sha256::digest(bare).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Writes the state to the folder `dir`, visible only when complete and on the disk; one already there is replaced.
///
/// # Errors
/// A failure to write; `dir` is as it was then.
pub fn save(
    parameters: &Parameters,
    optimizer: &AdamW,
    dir: &Path,
    mark: CheckpointMark,
) -> Result<CheckpointInfo, TrainerError> {
    let mut entries = Vec::new();
    for ((parameter, first), second) in parameters.iter().zip(&optimizer.exp_avg).zip(&optimizer.exp_avg_sq) {
        for (part, tensor) in PARTS.into_iter().zip([&parameter.master, first, second]) {
            entries.push(Entry { name: format!("{part}.{}", parameter.name), tensor, kind: Kind::Float });
        }
    }
    folder::publish(dir, |partial| {
        let metadata = Map::from_iter([("updates".to_owned(), json!(optimizer.updates.to_string()))]);
        let written = tensor_file::write(&partial.join(STATE), &entries, metadata)?;
        let mut description = Description {
            format: FORMAT,
            mark,
            updates: optimizer.updates,
            adapters: Belonging::of(parameters),
            state_bytes: written.bytes,
            header_crc32: written.header_crc32,
            tensors: entries.iter().map(|entry| entry.name.clone()).zip(written.crc32).collect(),
            digest: String::new(),
        };
        let path = partial.join(DESCRIPTION);
        let unwritable = |error: serde_json::Error| TrainerError::Write { path: path.clone(), source: error.into() };
        description.digest = description.own_digest().map_err(unwritable)?;
        let text = serde_json::to_string_pretty(&description).map_err(unwritable)?;
        tensor_file::write_synced(&path, text.as_bytes())?;
        let bytes = written.bytes + text.len() as u64;
        Ok(CheckpointInfo { bytes, updates: description.updates, digest: description.digest })
    })
}

/// What the checkpoint in `dir` is the state of. Only `checkpoint.json` and the size of the state are looked at.
///
/// # Errors
/// [`TrainerError::Checkpoint`] or [`TrainerError::Read`] naming the file that is missing or not as it was written.
pub fn read_mark(dir: &Path) -> Result<CheckpointMark, TrainerError> {
    Ok(read_description(dir)?.mark)
}

/// Reads the state in `dir`. Everything is checked before anything is changed.
///
/// # Errors
/// [`TrainerError::Checkpoint`] or [`TrainerError::Read`] for a file that is missing or not as it was written,
/// [`TrainerError::Tensor`] for the state of another model.
pub fn load(parameters: &mut Parameters, optimizer: &mut AdamW, dir: &Path) -> Result<CheckpointMark, TrainerError> {
    let description = read_description(dir)?;
    check_belonging(dir, &description, Belonging::of(parameters))?;
    let path = dir.join(STATE);
    let files = TensorFiles::open_file(&path)?;
    check_header(&path, files.bytes(), &description)?;
    let stored = files.tensors()?;
    for (name, &expected) in &description.tensors {
        let found = stored.bytes(name).map(crc32fast::hash);
        if found != Some(expected) {
            let found = found.map_or("missing".to_owned(), |crc32| format!("{crc32:08x}"));
            let reason = format!("CRC-32 of tensor `{name}` is {found}, {expected:08x} was written");
            return Err(TrainerError::checkpoint(&path, reason));
        }
    }
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
    optimizer.updates = description.updates;
    parameters.publish();
    Ok(description.mark)
}

fn read_description(dir: &Path) -> Result<Description, TrainerError> {
    let path = dir.join(DESCRIPTION);
    let bytes = fs::read(&path).map_err(TrainerError::read(&path))?;
    let malformed = |error: serde_json::Error| TrainerError::checkpoint(&path, error.to_string());
    let description: Description = serde_json::from_slice(&bytes).map_err(malformed)?;
    if description.own_digest().map_err(malformed)? != description.digest {
        return Err(TrainerError::checkpoint(&path, "its digest is of another content"));
    }
    if description.format != FORMAT {
        let reason = format!("it has format {}, this program reads format {FORMAT}", description.format);
        return Err(TrainerError::checkpoint(&path, reason));
    }
    let path = dir.join(STATE);
    let found = match fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(TrainerError::checkpoint(&path, "it is missing"));
        }
        Err(error) => return Err(TrainerError::read(&path)(error)),
    };
    let expected = description.state_bytes;
    if found != expected {
        return Err(TrainerError::checkpoint(&path, format!("it has {found} bytes, {expected} were written")));
    }
    Ok(description)
}

/// Adapters mean nothing on other weights, and the file of their numbers does not say on which they were trained.
fn check_belonging(dir: &Path, description: &Description, wanted: Option<Belonging>) -> Result<(), TrainerError> {
    let reason = match (&description.adapters, &wanted) {
        (found, wanted) if found == wanted => return Ok(()),
        (Some(_), None) => "it holds adapters, and `train.lora` is off",
        (None, Some(_)) => "it holds whole weights, and `train.lora` is on",
        (Some(found), Some(wanted)) if found.base_digest != wanted.base_digest => {
            "its adapters were trained on a model with other weights"
        }
        _ => "its adapters have another `train.lora.alpha` / `train.lora.rank`",
    };
    Err(TrainerError::checkpoint(&dir.join(DESCRIPTION), reason))
}

/// The header says where tensors lie and of what shape they are: it is checked before it is believed.
fn check_header(path: &Path, bytes: &[u8], description: &Description) -> Result<(), TrainerError> {
    let length = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    let header = length.and_then(|length| bytes.get(..usize::try_from(length.checked_add(8)?).ok()?));
    match header {
        Some(header) if crc32fast::hash(header) == description.header_crc32 => Ok(()),
        _ => Err(TrainerError::checkpoint(path, "its header is not what was written")),
    }
}
