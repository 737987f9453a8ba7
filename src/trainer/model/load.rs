//! Safetensors files of a model, sharded or single, to parameters.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::trainer::error::TrainerError;

/// The tensors of a checkpoint folder, memory-mapped.
pub struct TensorFiles {
    files: Vec<(PathBuf, Mmap)>,
    dir: PathBuf,
}

impl TensorFiles {
    /// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// A missing or unreadable file; the content is checked by [`TensorFiles::tensors`].
    pub fn open(dir: &Path) -> Result<TensorFiles, TrainerError> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let names = if single.exists() || !index.exists() { vec![single] } else { shard_paths(dir, &index)? };
        let files = names.into_iter().map(map).collect::<Result<_, _>>()?;
        Ok(TensorFiles { files, dir: dir.to_path_buf() })
    }

    /// Maps one file.
    ///
    /// # Errors
    /// A missing or unreadable file.
    pub fn open_file(path: &Path) -> Result<TensorFiles, TrainerError> {
        let dir = path.parent().unwrap_or(Path::new(".")).to_path_buf();
        Ok(TensorFiles { files: vec![map(path.to_path_buf())?], dir })
    }

    /// The content of the first file.
    pub fn bytes(&self) -> &[u8] {
        self.files.first().map_or(&[], |(_, bytes)| bytes)
    }

    /// Views of all tensors by name.
    ///
    /// # Errors
    /// A file that is no safetensors file or is cut off: the error names the first tensor that is not all there.
    pub fn tensors(&self) -> Result<Tensors<'_>, TrainerError> {
        let mut views = BTreeMap::new();
        for (path, bytes) in &self.files {
            let parsed = SafeTensors::deserialize(bytes).map_err(|error| diagnose(path, bytes, &error))?;
            for (name, view) in parsed.iter() {
                let view = View {
                    path,
                    dtype: view.dtype(),
                    shape: view.shape().iter().map(|&n| n as i64).collect(),
                    bytes: view.data(),
                };
                views.insert(name.to_owned(), view);
            }
        }
        Ok(Tensors { views, dir: &self.dir })
    }
}

/// Views of all tensors of a checkpoint.
pub struct Tensors<'a> {
    views: BTreeMap<String, View<'a>>,
    dir: &'a Path,
}

struct View<'a> {
    path: &'a Path,
    dtype: Dtype,
    shape: Vec<i64>,
    bytes: &'a [u8],
}

impl Tensors<'_> {
    /// Names and bytes of all tensors, in the order of the names.
    pub fn all_bytes(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.views.iter().map(|(name, view)| (name.as_str(), view.bytes))
    }

    /// The bytes of the tensor `name`.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.views.get(name).map(|view| view.bytes)
    }

    /// The tensor `name` as it is stored, on the CPU.
    ///
    /// # Errors
    /// [`TrainerError::Tensor`] if it is missing, has another shape, or is not a float of at most 32 bits.
    pub fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, TrainerError> {
        let view = self.views.get(name).ok_or_else(|| TrainerError::tensor(self.dir, name, "is missing"))?;
        if view.shape != shape {
            let reason = format!("has shape {:?}, config.json says {shape:?}", view.shape);
            return Err(TrainerError::tensor(view.path, name, reason));
        }
        let kind = match view.dtype {
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F16 => Kind::Half,
            Dtype::F32 => Kind::Float,
            other => {
                let reason = format!("is {other:?}; supported are BF16, F16 and F32");
                return Err(TrainerError::tensor(view.path, name, reason));
            }
        };
        let loading = |error| TrainerError::torch("loading a tensor")(error);
        let tensor = Tensor::f_from_data_size(view.bytes, shape, kind).map_err(loading)?;
        let is_finite = tensor.f_isfinite().and_then(|finite| finite.f_all()).map_err(loading)?;
        if !bool::try_from(is_finite).unwrap_or(false) {
            return Err(TrainerError::tensor(view.path, name, "holds NaN or infinite values"));
        }
        Ok(tensor)
    }

    /// The first tensor whose name `is_known` refuses.
    ///
    /// # Errors
    /// [`TrainerError::Tensor`] naming it: the model has a part that would be lost.
    pub fn refuse_unknown(&self, is_known: impl Fn(&str) -> bool) -> Result<(), TrainerError> {
        match self.views.iter().find(|(name, _)| !is_known(name)) {
            Some((name, view)) => {
                Err(TrainerError::tensor(view.path, name, "has no place in the model that config.json describes"))
            }
            None => Ok(()),
        }
    }
}

fn map(path: PathBuf) -> Result<(PathBuf, Mmap), TrainerError> {
    let file = File::open(&path).map_err(TrainerError::read(&path))?;
    // SAFETY: the file is only read, and a checkpoint is never changed in place (new ones come by rename).
    let bytes = unsafe { Mmap::map(&file) }.map_err(TrainerError::read(&path))?;
    Ok((path, bytes))
}

fn shard_paths(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, TrainerError> {
    let text = std::fs::read_to_string(index).map_err(TrainerError::read(index))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| TrainerError::malformed(index, error.to_string()))?;
    let Some(weight_map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(TrainerError::malformed(index, "`weight_map` is missing"));
    };
    let mut names: Vec<&str> = weight_map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(TrainerError::malformed(index, format!("shard `{name}` is not a plain file name")));
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Says which tensor a cut-off file ends in, where its header can still be read.
fn diagnose(path: &Path, bytes: &[u8], error: &safetensors::SafeTensorError) -> TrainerError {
    cut_tensor(bytes).map_or_else(
        || TrainerError::malformed(path, format!("not a whole safetensors file: {error}")),
        |(name, end)| {
            let reason = format!("is cut off: the file has {} bytes, the tensor ends at {end}", bytes.len());
            TrainerError::tensor(path, &name, reason)
        },
    )
}

/// The tensor that comes first in the file among those that reach past its end, and where it ends.
fn cut_tensor(bytes: &[u8]) -> Option<(String, u64)> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let data_start = length.checked_add(8)?;
    let header: Value = serde_json::from_slice(bytes.get(8..usize::try_from(data_start).ok()?)?).ok()?;
    header
        .as_object()?
        .iter()
        .filter_map(|(name, info)| {
            let end = info.get("data_offsets")?.get(1)?.as_u64()?.checked_add(data_start)?;
            (end > bytes.len() as u64).then(|| (name.clone(), end))
        })
        .min_by_key(|(_, end)| *end)
}
