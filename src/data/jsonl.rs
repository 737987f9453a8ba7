//! JSON lines: one object a line with `id`, `problem`, `answer` and optionally `level`, `topic`, `source`. Other keys
//! are allowed and ignored. A byte order mark, CRLF and blank lines are tolerated.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::error::DataError;
use super::problem::{Problem, Rows, level_of_text, shown, stem};

/// Beyond this a JSON number is not exact in the parser: 2^53.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Reads the bytes of a JSON lines file; `file` is for messages and for problems without a `source`.
///
/// # Errors
/// [`DataError::BadRows`] with the first ten bad lines and the number of all; [`DataError::NoProblems`].
pub fn parse_jsonl(file: &str, bytes: &[u8]) -> Result<Vec<Problem>, DataError> {
    let source = stem(file);
    let mut rows = Rows::new(file, "line");
    for (number, line) in lines(bytes) {
        rows.push(number, parse_line(line, &source));
    }
    rows.finish()
}

/// The lines that are not blank, trimmed, with their numbers from 1.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let numbered = bytes.split(|byte| *byte == b'\n').enumerate().map(|(index, line)| (index + 1, line.trim_ascii()));
    numbered.filter(|(_, line)| !line.is_empty())
}

/// The JSON value of one line.
pub(super) fn object_of(line: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to() + 1))?;
    serde_json::from_str(text).map_err(|error| format!("not JSON: {}", json_fault(&error)))
}

fn parse_line(line: &[u8], source: &str) -> Result<Problem, String> {
    let value = object_of(line)?;
    let Value::Object(object) = value else { return Err(format!("{}, expected an object", kind(&value))) };
    Ok(Problem {
        name: label(&object, "id")?,
        problem: text_of(&object, "problem")?,
        answer: label(&object, "answer")?,
        level: level(&object)?,
        topic: optional_text(&object, "topic")?,
        source: optional_text(&object, "source")?.unwrap_or_else(|| source.to_string()),
    })
}

/// A non-empty text that may also be written as a number.
fn label(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    let text = match object.get(key) {
        Some(Value::Number(number)) => exact(key, number)?,
        Some(Value::String(text)) => text.trim().to_string(),
        other => return Err(wrong(key, other, "a text or a number")),
    };
    if text.is_empty() { Err(format!("`{key}` is empty")) } else { Ok(text) }
}

pub(super) fn text_of(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) if text.trim().is_empty() => Err(format!("`{key}` is empty")),
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(wrong(key, other, "a text")),
    }
}

fn optional_text(object: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        other => Err(wrong(key, other, "a text")),
    }
}

fn level(object: &Map<String, Value>) -> Result<Option<f64>, String> {
    match object.get("level") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(Value::String(text)) => match level_of_text(text) {
            Some(level) => Ok(Some(level)),
            None => Err(format!("`level` is `{}`, expected a number", shown(text))),
        },
        other => Err(wrong("level", other, "a number")),
    }
}

/// The number as written, or a refusal where the parser has rounded it.
fn exact(key: &str, number: &Number) -> Result<String, String> {
    let rounded = number.is_f64() && number.as_f64().is_none_or(|value| value.abs() >= EXACT_FLOAT);
    if rounded {
        Err(format!("`{key}` is a number too long to be exact, write it as a text"))
    } else {
        Ok(number.to_string())
    }
}

fn wrong(key: &str, found: Option<&Value>, expected: &str) -> String {
    match found {
        None => format!("`{key}` is missing"),
        Some(value) => format!("`{key}` is {}, expected {expected}", kind(value)),
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
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
