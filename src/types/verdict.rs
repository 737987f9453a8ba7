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
    /// The check itself failed. Recorded, left out of backup and training, never counted as wrong.
    Error,
}

impl Verdict {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Correct => "correct",
            Verdict::Incorrect => "incorrect",
            Verdict::NoAnswer => "no_answer",
            Verdict::Error => "error",
        }
    }
}
