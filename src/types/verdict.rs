//! What the verifier says of a finished answer.

use serde::{Deserialize, Serialize};

/// Outcome of checking one terminal against the reference answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The final answer equals the reference.
    Correct,
    /// A final answer was found and differs from the reference.
    Incorrect,
    /// No final answer was found in the text.
    NoAnswer,
    /// An answer was found, and whether it is right could not be decided. Recorded, left out of backup and training, never
    /// counted as wrong.
    Undecided,
    /// The check itself failed. Treated like [`Verdict::Undecided`].
    Error,
}

impl Verdict {
    /// Whether the verdict says something of the answer: what is not settled is neither right nor wrong.
    pub fn is_settled(self) -> bool {
        !matches!(self, Verdict::Undecided | Verdict::Error)
    }

    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Correct => "correct",
            Verdict::Incorrect => "incorrect",
            Verdict::NoAnswer => "no_answer",
            Verdict::Undecided => "undecided",
            Verdict::Error => "error",
        }
    }
}

/// What makes an answer bad data, whatever it is about (paper, section 3.4: removed since it leads to collapse).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// It repeats itself without end.
    Repetition,
    /// It is no text of any language: symbols, scripts or fragments at random.
    Garbled,
    /// Its bytes are not valid UTF-8.
    InvalidUtf8,
}

impl Defect {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Defect::Repetition => "repetition",
            Defect::Garbled => "garbled",
            Defect::InvalidUtf8 => "invalid_utf8",
        }
    }
}
