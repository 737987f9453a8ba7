//! Writing safetensors files one tensor at a time, and making files and folders visible only when complete.
//!
//! The format is a length, a JSON header and the bytes. It is written here rather than by the safetensors crate so
//! that no more than one converted tensor is in memory, the checksum comes with the same pass, and equal content
//! gives equal bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use super::error::TrainerError;

/// A tensor to be written.
pub struct Entry<'a> {
    /// Name in the file.
    pub name: String,
    /// The tensor, on any device.
    pub tensor: &'a Tensor,
    /// Element type in the file: bf16, f16 or fp32.
    pub kind: Kind,
}

/// What was written.
pub struct Written {
    /// Size of the file.
    pub bytes: u64,
    /// CRC-32 of everything before the first tensor.
    pub header_crc32: u32,
    /// CRC-32 of each tensor's bytes, in the order of the entries.
    pub crc32: Vec<u32>,
}

/// The name safetensors gives to an element type.
pub fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "BF16",
        Kind::Half => "F16",
        _ => "F32",
    }
}

/// Writes and fsyncs `path`.
///
/// # Errors
/// A failure to write, or of libtorch to convert or copy.
pub fn write(path: &Path, entries: &[Entry<'_>], metadata: Map<String, Value>) -> Result<Written, TrainerError> {
    let header = header(entries, metadata);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(TrainerError::write(path))?);
    let mut bytes = 8 + header.len() as u64;
    let header = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    file.write_all(&header).map_err(TrainerError::write(path))?;
    let mut crc32 = Vec::with_capacity(entries.len());
    let mut buffer = Vec::new();
    for entry in entries {
        copy_bytes(entry, &mut buffer).map_err(TrainerError::torch("copying a tensor"))?;
        crc32.push(crc32fast::hash(&buffer));
        bytes += buffer.len() as u64;
        file.write_all(&buffer).map_err(TrainerError::write(path))?;
    }
    let file = file.into_inner().map_err(|error| TrainerError::write(path)(error.into_error()))?;
    file.sync_all().map_err(TrainerError::write(path))?;
    Ok(Written { bytes, header_crc32: crc32fast::hash(&header), crc32 })
}

/// Writes and fsyncs a small file.
///
/// # Errors
/// A failure to write.
pub fn write_synced(path: &Path, content: &[u8]) -> Result<(), TrainerError> {
    let mut file = File::create(path).map_err(TrainerError::write(path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(TrainerError::write(path))
}

/// `path` with a suffix that no other process uses; what is written there becomes visible by a rename to `path`.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".partial-{}", std::process::id()));
    path.with_file_name(name)
}

/// Makes a rename, or new files, inside `dir` durable.
///
/// # Errors
/// A failure to open or fsync the folder.
pub fn sync_dir(dir: &Path) -> Result<(), TrainerError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(TrainerError::write(dir))
}

fn header(entries: &[Entry<'_>], metadata: Map<String, Value>) -> String {
    let mut fields = Map::new();
    fields.insert("__metadata__".into(), Value::Object(metadata));
    let mut offset = 0;
    for entry in entries {
        let end = offset + entry.tensor.numel() * entry.kind.elt_size_in_bytes();
        let info = json!({
            "dtype": dtype_name(entry.kind),
            "shape": entry.tensor.size(),
            "data_offsets": [offset, end],
        });
        fields.insert(entry.name.clone(), info);
        offset = end;
    }
    let mut text = Value::Object(fields).to_string();
    // The data starts at a multiple of 8 bytes, as readers that map the file expect.
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    text
}

fn copy_bytes(entry: &Entry<'_>, buffer: &mut Vec<u8>) -> Result<(), tch::TchError> {
    let tensor = entry.tensor.detach().f_to_kind(entry.kind)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    buffer.resize(tensor.numel() * entry.kind.elt_size_in_bytes(), 0);
    tensor.f_copy_data_u8(buffer, tensor.numel())
}
