//! A problem with its reference answer, and the file it comes from.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use super::error::{BadRow, DataError, LISTED_ROWS};
use super::{jsonl, parquet};

/// One problem whose answer can be checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// The problem's own name, unique within its file; `id` in the file.
    #[serde(rename = "id")]
    pub name: String,
    /// The problem's text, as it stands in the file.
    pub problem: String,
    /// The reference answer: a number, LaTeX or text. Never empty, no white space around it.
    pub answer: String,
    /// How hard it is, by its publisher's scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<f64>,
    /// The subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The data set; the file's name where the file does not say.
    pub source: String,
}

/// Reads a problem file: parquet if its name ends in `.parquet`, else JSON lines.
///
/// # Errors
/// [`DataError::BadRows`] with all bad rows counted, [`DataError::NoProblems`], or what the system said.
pub fn load_problems(path: &Path) -> Result<Vec<Problem>, DataError> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        return parquet::load_parquet(path);
    }
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
    jsonl::parse_jsonl(&path.display().to_string(), &bytes)
}

/// Gathers the rows of one file: good ones in order, bad ones with their reason, names checked for repetition.
pub(super) struct Rows {
    file: String,
    unit: &'static str,
    problems: Vec<Problem>,
    named_at: HashMap<String, usize>,
    bad: Vec<BadRow>,
    bad_count: usize,
}

impl Rows {
    pub(super) fn new(file: &str, unit: &'static str) -> Rows {
        Rows {
            file: file.to_string(),
            unit,
            problems: Vec::new(),
            named_at: HashMap::new(),
            bad: Vec::new(),
            bad_count: 0,
        }
    }

    /// `number` from 1.
    pub(super) fn push(&mut self, number: usize, row: Result<Problem, String>) {
        let reason = match row {
            Ok(problem) => match self.named_at.get(&problem.name) {
                Some(first) => format!("`id` `{}` is already that of {} {first}", shown(&problem.name), self.unit),
                None => {
                    self.named_at.insert(problem.name.clone(), number);
                    self.problems.push(problem);
                    return;
                }
            },
            Err(reason) => reason,
        };
        self.bad_count += 1;
        if self.bad.len() < LISTED_ROWS {
            self.bad.push(BadRow { number, reason });
        }
    }

    pub(super) fn finish(self) -> Result<Vec<Problem>, DataError> {
        if self.bad_count > 0 {
            let Rows { file, unit, bad, bad_count, .. } = self;
            return Err(DataError::BadRows { file, unit, rows: bad, count: bad_count });
        }
        if self.problems.is_empty() {
            return Err(DataError::NoProblems { file: self.file });
        }
        Ok(self.problems)
    }
}

/// A value in a message: at most 60 characters.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// A difficulty written as text: `3`, `7.5`, `Level 5`.
pub(super) fn level_of_text(text: &str) -> Option<f64> {
    let number = text.trim().trim_start_matches("Level ").trim();
    number.parse().ok().filter(|level: &f64| level.is_finite())
}

/// The file's name without folder and extension.
pub(super) fn stem(file: &str) -> String {
    Path::new(file).file_stem().map_or_else(|| file.to_string(), |stem| stem.to_string_lossy().into_owned())
}
