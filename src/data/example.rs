//! Worked examples for supervised training: JSON lines with `problem` and `solution`. Other keys are allowed, so a
//! problem file made with solutions is one.

use std::path::Path;

use serde_json::Value;

use super::error::{BadRow, DataError, LISTED_ROWS};
use super::jsonl::{kind, lines, object_of, text_of};

/// A problem and the answer that is to be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Line of the file, from 1.
    pub line: usize,
    /// The problem's text.
    pub problem: String,
    /// The whole answer, without what ends it.
    pub solution: String,
}

/// Reads a file of examples, in its order.
///
/// # Errors
/// [`DataError::Read`]; [`DataError::BadRows`] with the first ten bad lines and the number of all;
/// [`DataError::NoExamples`].
pub fn load_examples(path: &Path) -> Result<Vec<Example>, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
    let file = path.display().to_string();
    let (mut examples, mut rows, mut count) = (Vec::new(), Vec::new(), 0);
    for (line, text) in lines(&bytes) {
        match parse_line(line, text) {
            Ok(example) => examples.push(example),
            Err(reason) => {
                count += 1;
                if rows.len() < LISTED_ROWS {
                    rows.push(BadRow { number: line, reason });
                }
            }
        }
    }
    if count > 0 {
        return Err(DataError::BadExamples { file, rows, count });
    }
    if examples.is_empty() { Err(DataError::NoExamples { file }) } else { Ok(examples) }
}

fn parse_line(line: usize, text: &[u8]) -> Result<Example, String> {
    let value: Value = object_of(text)?;
    let Value::Object(object) = value else { return Err(format!("{}, expected an object", kind(&value))) };
    Ok(Example { line, problem: text_of(&object, "problem")?, solution: text_of(&object, "solution")? })
}
