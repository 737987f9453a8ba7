//! `[verify]`: what a final answer is, and when it is right. Every key changes the reward.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Finding and comparing final answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// Where the final answer stands.
    pub extraction: Extraction,
    /// What counts where no box was found; empty: nothing, which is right for training.
    pub fallbacks: Vec<Fallback>,
    /// What `%` means in an answer.
    pub percent: PercentRule,
    /// Whether `3,5` may be the decimal 3.5 where the reference is a decimal.
    pub decimal_comma: bool,
    /// An answer that is a decimal with at least this many places is right if it is the reference, rounded to its places; 0:
    /// only exact answers are.
    pub rounded_places: u32,
    /// Steps of algebra that one comparison may take. It does not depend on the machine, so neither does the verdict.
    pub budget_steps: u64,
    /// Whether what is undecided goes to Math-Verify, in Python processes of our own.
    pub sidecar: bool,
    /// What an answer becomes that still has no proof either way.
    pub doubtful: Doubtful,
    /// Python with the package `math-verify`; empty: the program of `inference.command` if there is one, else
    /// `.venv/bin/python` in the working folder if it is there, else `python3`.
    pub python: PathBuf,
    /// Processes of Math-Verify.
    pub workers: usize,
    /// Longest time of one answer there; then it stays undecided. A quarter of it may be processor time; only that
    /// is counted where the machine is busy with something else.
    pub timeout_s: u64,
    /// Memory of one process.
    pub memory_mib: u64,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        VerifyConfig {
            extraction: Extraction::LastBox,
            fallbacks: Vec::new(),
            percent: PercentRule::Either,
            decimal_comma: false,
            rounded_places: 0,
            budget_steps: 20_000,
            sidecar: true,
            doubtful: Doubtful::Undecided,
            python: PathBuf::new(),
            workers: 1,
            timeout_s: 10,
            memory_mib: 1024,
        }
    }
}

/// Where a final answer stands in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extraction {
    /// In the last box of the answer part.
    LastBox,
    /// Where Math-Verify looks: boxes close together and joined by a comma, "and" or "or" are one set; without a box,
    /// formulas and numbers of the text count. References are read the same way.
    MathVerify,
}

/// What counts as a final answer without a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// What follows the last phrase such as "the answer is".
    Phrase,
    /// The last number of the text.
    LastNumber,
}

/// What becomes of an answer that neither this program nor the careful use of Math-Verify proves right or wrong, half a
/// percent of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubtful {
    /// Undecided: recorded, and left out of training and of accuracies.
    Undecided,
    /// What Math-Verify itself says, as others report it, if it says so without an exception and in time. It takes `n>2`
    /// for a wrong answer to `n\ge3`, and `8/21` for a right one to `8:7:3`.
    MathVerify,
}

/// What `%` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PercentRule {
    /// `8%` is 0.08, and also answers a reference `8`, whose question asked for percents.
    Either,
    /// `8%` is 0.08 and nothing else.
    Value,
}
