//! A problem with its reference answer, and the file it comes from.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::{BadRow, DataError, LISTED_ROWS};
use super::published::{self, Layout, Record};
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

/// Reads a problem file: parquet if its name ends in `.parquet`, else JSON lines; or all such files of a folder, in the
/// order of their names, as large sets are published. The layouts are those of `docs/data.md`.
///
/// # Errors
/// [`DataError::BadRows`] with all bad rows counted, [`DataError::NoProblems`], or what the system said.
pub fn load_problems(path: &Path) -> Result<Vec<Problem>, DataError> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut names = HashSet::new();
    for file in files(path)? {
        // Rows without a name of their own are counted through all files.
        let mut reader = ProblemReader::new(&file.display().to_string(), unit(&file), dataset_name(&file));
        reader.offset = problems.len();
        each_record(&file, published::problem_columns, |number, record| reader.push(number, record))?;
        for problem in reader.finish()? {
            if !names.insert(problem.name.clone()) {
                return Err(DataError::NamedTwice { file, name: problem.name });
            }
            problems.push(problem);
        }
    }
    Ok(problems)
}

/// The file itself, or the problem files of a folder.
fn files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let failed = |source| DataError::Read { path: path.to_path_buf(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["parquet", "jsonl"].contains(&extension.to_ascii_lowercase().as_str()) && file.is_file() {
            files.push(file);
        }
    }
    files.sort_unstable();
    // Both splits of a set lie side by side where it is published.
    let named = |part: &str| {
        let mut names = files.iter().filter_map(|file| file.file_name()?.to_str());
        names.find(|name| name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word.eq_ignore_ascii_case(part)))
    };
    if let (Some(train), Some(held_out)) = (named("train"), named("test").or_else(|| named("validation"))) {
        let (path, train, held_out) = (path.to_path_buf(), train.to_owned(), held_out.to_owned());
        return Err(DataError::BothSplits { path, train, held_out });
    }
    if files.is_empty() { Err(DataError::NoFiles { path: path.to_path_buf() }) } else { Ok(files) }
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}

/// What a row of the file is called.
pub(super) fn unit(path: &Path) -> &'static str {
    if is_parquet(path) { "row" } else { "line" }
}

/// Gives every row of a file with its number from 1. Of a table only those columns are read that `columns` picks.
pub(super) fn each_record(
    path: &Path,
    columns: impl for<'a> Fn(&[&'a str]) -> Vec<&'a str>,
    mut take: impl FnMut(usize, Result<Record, String>),
) -> Result<(), DataError> {
    if is_parquet(path) {
        let wanted = |present: &[&str]| columns(present).into_iter().map(str::to_string).collect();
        return parquet::each_record(path, wanted, |number, record| take(number, Ok(record)));
    }
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
    jsonl::each_record(&bytes, take);
    Ok(())
}

/// Rows of one file to problems: good ones in order, bad ones with their reason, names checked for repetition. The first
/// row decides the layout.
pub(super) struct ProblemReader {
    file: String,
    unit: &'static str,
    /// The data set, for problems that do not name theirs.
    source: String,
    /// Rows before this file's first.
    offset: usize,
    layout: Option<Layout>,
    problems: Vec<Problem>,
    named_at: HashMap<String, usize>,
    bad: Vec<BadRow>,
    bad_count: usize,
}

impl ProblemReader {
    pub(super) fn new(file: &str, unit: &'static str, source: String) -> ProblemReader {
        ProblemReader {
            file: file.to_string(),
            unit,
            source,
            offset: 0,
            layout: None,
            problems: Vec::new(),
            named_at: HashMap::new(),
            bad: Vec::new(),
            bad_count: 0,
        }
    }

    /// `number` from 1.
    pub(super) fn push(&mut self, number: usize, record: Result<Record, String>) {
        let problem = record.and_then(|record| {
            let layout = self.layout.get_or_insert_with(|| Layout::of(&record));
            layout.problem(&record, self.offset + number, &self.source)
        });
        let reason = match problem {
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
            let ProblemReader { file, unit, bad, bad_count, .. } = self;
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

/// Names that say which part of a set a file is, and not which set.
const PARTS: [&str; 11] =
    ["train", "training", "test", "testing", "validation", "valid", "val", "dev", "default", "main", "data"];

/// The name of the data set that a file belongs to: its own without ending and number (`-00000-of-00010`) or, where that
/// says only which part of the set it is (`train`, `test`, `data`), that of the folder around it.
pub fn dataset_name(file: &Path) -> String {
    let stem = |name: Option<&OsStr>| name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let own = stem(file.file_stem());
    let own =
        own.split_once("-of-").and_then(|(before, _)| before.rsplit_once('-')).map_or(own.as_str(), |(name, _)| name);
    let is_part = |name: &str| PARTS.contains(&name.to_ascii_lowercase().as_str());
    if !is_part(own) {
        return own.to_string();
    }
    let mut around = file.parent().into_iter().flat_map(Path::ancestors).map(|folder| stem(folder.file_name()));
    around.find(|name| !name.is_empty() && !is_part(name)).unwrap_or_else(|| own.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_named_by_the_file_or_by_what_is_around_it() {
        let name = |path: &str| dataset_name(Path::new(path));
        assert_eq!(name("data/aime24.jsonl"), "aime24");
        assert_eq!(name("sets/gsm8k/main/test-00000-of-00001.parquet"), "gsm8k");
        assert_eq!(name("DeepMath-103K/data/train-00003-of-00010.parquet"), "DeepMath-103K");
        assert_eq!(name("MATH-500/test.jsonl"), "MATH-500");
        assert_eq!(name("train.jsonl"), "train");
        assert_eq!(name("OE_TO_maths_en_COMP.parquet"), "OE_TO_maths_en_COMP");
    }
}
