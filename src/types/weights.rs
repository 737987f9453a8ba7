//! What the trainer says of a set of weights it wrote, and what an engine must confirm after loading them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::WeightVersion;

/// One tensor of an exported checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightTensor {
    /// Element type as safetensors names it: `BF16`, `F32`.
    pub dtype: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// CRC-32 (zlib) of the tensor's bytes as stored.
    pub crc32: u32,
}

/// Description of an exported checkpoint; written beside the weights as `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightManifest {
    /// The version these weights are.
    pub version: WeightVersion,
    /// Folder in the Hugging Face layout, or in PEFT's for adapters; complete if it exists.
    pub dir: PathBuf,
    /// The safetensors file inside it.
    pub file: PathBuf,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// By tensor name, in name order.
    pub tensors: BTreeMap<String, WeightTensor>,
    /// One number for all of it: SHA-256 over `name \0 crc32 (8 lower-case hex digits) \n` in name order, lower-case hex. Of
    /// adapters a line `base \0 base_digest \n` follows.
    pub digest: String,
    /// Of adapters: the digest of the weights that they are on. `None`: these are all weights of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_digest: Option<String>,
}
