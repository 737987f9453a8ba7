//! Worked examples for supervised training: JSON lines or parquet with a problem and a solution. Other keys are allowed, so
//! a problem file made with solutions is one, and GSM8K and DeepMath-103K are as they are published.

use std::path::Path;

use super::error::{BadRow, DataError, LISTED_ROWS};
use super::problem::{each_record, unit};
use super::published;

/// A problem and the answer that is to be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Line or row of the file, from 1.
    pub line: usize,
    /// The problem's text.
    pub problem: String,
    /// The whole answer, without what ends it.
    pub solution: String,
}

/// Reads a file of examples, in its order.
///
/// # Errors
/// [`DataError::Read`]; [`DataError::Parquet`]; [`DataError::BadExamples`] with the first ten bad lines and the number of
/// all; [`DataError::NoExamples`].
pub fn load_examples(path: &Path) -> Result<Vec<Example>, DataError> {
    let file = path.display().to_string();
    let (mut examples, mut rows, mut count) = (Vec::new(), Vec::new(), 0);
    each_record(path, published::example_columns, |line, record| {
        match record.and_then(|record| published::worked(&record)) {
            Ok((problem, solution)) => examples.push(Example { line, problem, solution }),
            Err(reason) => {
                count += 1;
                if rows.len() < LISTED_ROWS {
                    rows.push(BadRow { number: line, reason });
                }
            }
        }
    })?;
    if count > 0 {
        return Err(DataError::BadExamples { file, unit: unit(path), rows, count });
    }
    if examples.is_empty() { Err(DataError::NoExamples { file }) } else { Ok(examples) }
}
