//! What can go wrong with problem files and with the text side of a model folder.

use std::fmt;
use std::path::PathBuf;

use crate::error::{FailureClass, Hint};

/// One line or row that is not a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Line of a text file or row of a table, from 1.
    pub number: usize,
    /// Why it was refused.
    pub reason: String,
}

/// How many bad rows are listed in full.
pub const LISTED_ROWS: usize = 10;

/// Failure of reading, making or posing problems.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Lines or rows that are not problems.
    #[error("`{file}` has {count} bad {unit}{}{}", if *count == 1 { "" } else { "s" }, RowList { unit, rows, count: *count })]
    BadRows {
        /// The file.
        file: String,
        /// `line` or `row`.
        unit: &'static str,
        /// The first [`LISTED_ROWS`] of them.
        rows: Vec<BadRow>,
        /// All of them.
        count: usize,
    },
    /// Lines that are not examples.
    #[error("`{file}` has {count} bad {unit}{}{}", if *count == 1 { "" } else { "s" }, RowList { unit, rows, count: *count })]
    BadExamples {
        /// The file.
        file: String,
        /// `line` or `row`.
        unit: &'static str,
        /// The first [`LISTED_ROWS`] of them.
        rows: Vec<BadRow>,
        /// All of them.
        count: usize,
    },
    /// A file of examples without an example.
    #[error("`{file}` has no examples")]
    NoExamples {
        /// The file.
        file: String,
    },
    /// A problem file without a problem.
    #[error("`{file}` has no problems")]
    NoProblems {
        /// The file.
        file: String,
    },
    /// A folder without a problem file.
    #[error("`{}` has no `.parquet` or `.jsonl` file", path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with what is trained on and what is held out.
    #[error("`{}` holds both splits of a set, `{train}` and `{held_out}`", path.display())]
    BothSplits {
        /// The folder.
        path: PathBuf,
        /// A file to train on.
        train: String,
        /// A file that is held out.
        held_out: String,
    },
    /// Two files of a folder give a problem the same name.
    #[error("`{}` has a problem `{name}`, as has a file before it", file.display())]
    NamedTwice {
        /// The later file.
        file: PathBuf,
        /// The name.
        name: String,
    },
    /// A table without any of the columns that could hold problems.
    #[error("`{}` has no column that holds problems; it has {}", path.display(), found.join(", "))]
    Columns {
        /// The file.
        path: PathBuf,
        /// The columns it has.
        found: Vec<String>,
    },
    /// A parquet file that cannot be decoded.
    #[error("`{}` is not a readable parquet file", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        #[source]
        source: ::parquet::errors::ParquetError,
    },
    /// A JSON file of the model folder that cannot be decoded.
    #[error("`{}` is not the JSON that was expected", path.display())]
    ModelJson {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// `tokenizer.json` could not be read or used.
    #[error("the tokenizer `{}` failed", path.display())]
    Tokenizer {
        /// `tokenizer.json`.
        path: PathBuf,
        /// What the tokenizer said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model has no chat template, but `prompt.kind` is `chat`.
    #[error("`{}` has no chat template", model.display())]
    NoChatTemplate {
        /// The model folder.
        model: PathBuf,
    },
    /// The chat template is not valid or refused the messages.
    #[error("the chat template of `{}` failed", model.display())]
    Template {
        /// The model folder.
        model: PathBuf,
        /// What the template engine said.
        #[source]
        source: minijinja::Error,
    },
    /// The model names no end-of-text token, so an answer could never end.
    #[error("`{}` names no end-of-text token", model.display())]
    NoEndOfText {
        /// The model folder.
        model: PathBuf,
    },
    /// Low-rank adapters where a whole model is needed.
    #[error("`{}` holds adapters (adapter_config.json) and no model of their own", model.display())]
    Adapters {
        /// Their folder.
        model: PathBuf,
    },
    /// A problem kind or mix that does not exist.
    #[error("`{text}` is not a kind of problem")]
    UnknownKind {
        /// What was asked for.
        text: String,
    },
    /// The numbers allow fewer different problems than were asked for.
    #[error("no further different `{kind}@{digits}` problem was found after {made} problems")]
    Exhausted {
        /// The kind.
        kind: &'static str,
        /// Digits of its operands, or how many operations.
        digits: u32,
        /// Problems made before it, of all kinds.
        made: usize,
    },
}

impl Hint for DataError {
    fn class(&self) -> FailureClass {
        match self {
            DataError::Write { .. } => FailureClass::Environment,
            _ => FailureClass::User,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            DataError::BadRows { .. } => {
                "a problem is one JSON object a line: {\"id\": \"p1\", \"problem\": \"...\", \"answer\": \"...\"}; sets that \
                 load as they are published are listed in docs/data.md"
            }
            DataError::BadExamples { .. } | DataError::NoExamples { .. } => {
                "an example is one JSON object a line: {\"problem\": \"...\", \"solution\": \"...\"}"
            }
            DataError::BothSplits { .. } => "name one file, or a folder with the files of one split only",
            DataError::Columns { .. } => "the layouts that load are listed in docs/data.md",
            DataError::NoChatTemplate { .. } => "use `prompt.kind = \"plain\"` with worked examples in `prompt.prefix`",
            DataError::NoEndOfText { .. } => "set `eos_token_id` in the model's generation_config.json",
            DataError::Adapters { .. } => {
                "put them into their model first: `orchestrator model merge --model MODEL --adapter FOLDER --out NEW`"
            }
            DataError::UnknownKind { .. } => "write `kind`, `kind=weight` or `kind@digits=weight`, separated by commas",
            DataError::Exhausted { .. } => "ask for fewer problems, more digits or further kinds",
            _ => return None,
        };
        Some(text.to_string())
    }
}

struct RowList<'a> {
    unit: &'a str,
    rows: &'a [BadRow],
    count: usize,
}

impl fmt::Display for RowList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.rows {
            write!(f, "\n  {} {}: {}", self.unit, row.number, row.reason)?;
        }
        match self.count - self.rows.len() {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}
