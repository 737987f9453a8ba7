//! JSON lines: one object a line. A byte order mark, CRLF and blank lines are tolerated, and so is one array of objects in
//! place of lines. Which keys hold what: `published.rs`.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::error::DataError;
use super::problem::{Problem, ProblemReader, dataset_name};
use super::published::{Record, kind};

/// Reads the bytes of a JSON lines file; `file` is for messages and for problems without a `source`.
///
/// # Errors
/// [`DataError::BadRows`] with the first ten bad lines and the number of all; [`DataError::NoProblems`].
pub fn parse_jsonl(file: &str, bytes: &[u8]) -> Result<Vec<Problem>, DataError> {
    let mut reader = ProblemReader::new(file, "line", dataset_name(Path::new(file)));
    each_record(bytes, |number, record| reader.push(number, record));
    reader.finish()
}

/// Gives every object of a file with its place from 1: its line or, in an array, its number.
pub(super) fn each_record(bytes: &[u8], mut take: impl FnMut(usize, Result<Record, String>)) {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    if bytes.trim_ascii_start().first() == Some(&b'[')
        && let Ok(values) = serde_json::from_slice::<Vec<Value>>(bytes)
        && values.iter().all(Value::is_object)
    {
        values.into_iter().enumerate().for_each(|(index, value)| take(index + 1, object_of(value)));
        return;
    }
    let numbered = bytes.split(|byte| *byte == b'\n').enumerate().map(|(index, line)| (index + 1, line.trim_ascii()));
    for (number, line) in numbered.filter(|(_, line)| !line.is_empty()) {
        take(number, value_of(line).and_then(object_of));
    }
}

/// The JSON value of one line.
fn value_of(line: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to() + 1))?;
    serde_json::from_str(text).map_err(|error| format!("not JSON: {}", json_fault(&error)))
}

fn object_of(value: Value) -> Result<Record, String> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(format!("{}, expected an object", kind(&other))),
    }
}

/// The parser's words without its own line number, which is always 1.
fn json_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let words = text.split(" at line ").next().unwrap_or(&text);
    format!("{words} at column {}", error.column())
}

/// Writes problems, with solutions or without, as JSON lines: to a temporary name beside `path`, flushed to disk, then renamed, so that `path` is
/// complete whenever it exists. The folder is created if missing.
///
/// # Errors
/// [`DataError::Write`].
pub fn write_jsonl<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), DataError> {
    let failed = |source| DataError::Write { path: path.to_path_buf(), source };
    // A rename would put a plain file in the place of a device, a pipe or a link.
    let link = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let path = link.as_path();
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a plain file")));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    write_lines(&temporary, rows).and_then(|()| std::fs::rename(&temporary, path)).map_err(|source| {
        // The failure that is reported is the first one.
        let _ = std::fs::remove_file(&temporary);
        failed(source)
    })
}

fn write_lines<T: Serialize>(path: &Path, rows: &[T]) -> std::io::Result<()> {
    let mut writer = BufWriter::new(std::fs::File::create(path)?);
    for row in rows {
        serde_json::to_writer(&mut writer, row)?;
        writer.write_all(b"\n")?;
    }
    writer.into_inner().map_err(|error| error.into_error())?.sync_all()
}
