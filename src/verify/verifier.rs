//! The verifier: pure, in steps, without processes or clocks. It builds without the rest of the program (`tests/fuzz`).

use super::{compare, extract};
use crate::config::VerifyConfig;
use crate::types::Verdict;

/// A verdict and what it was reached on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether the answer is right.
    pub verdict: Verdict,
    /// What reached the verdict.
    pub decided_by: DecidedBy,
    /// The final answer as written; `None` where there was none.
    pub answer: Option<String>,
}

/// What reached a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecidedBy {
    /// There was nothing to compare: no answer, or no reference.
    Extraction,
    /// The two are the same text, or words that mean the same; or they are of kinds that are never equal.
    Text,
    /// Exact algebra.
    Exact,
    /// Interval arithmetic: the two differ by more than its width, or agree to all its digits.
    Interval,
    /// Nothing in this program: the verdict is [`Verdict::Undecided`].
    Nothing,
    /// Math-Verify, with a witness or a second computation.
    MathVerify,
    /// Math-Verify's bare word, where `verify.doubtful` takes it.
    BareMathVerify,
}

impl DecidedBy {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            DecidedBy::Extraction => "extraction",
            DecidedBy::Text => "text",
            DecidedBy::Exact => "exact",
            DecidedBy::Interval => "interval",
            DecidedBy::Nothing => "nothing",
            DecidedBy::MathVerify => "math_verify",
            DecidedBy::BareMathVerify => "bare_math_verify",
        }
    }
}

/// Checks answers against references.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    config: VerifyConfig,
}

impl Verifier {
    /// A verifier with the rules of `config`.
    pub fn new(config: VerifyConfig) -> Verifier {
        Verifier { config }
    }

    /// The rules.
    pub fn config(&self) -> &VerifyConfig {
        &self.config
    }

    /// Judges the final answer of `text`, a whole response. `reference` is the right answer: a bare number, LaTeX or text,
    /// or a text that holds it in a box (see [`extract::reference`]).
    ///
    /// An empty reference is [`Verdict::Error`]: nothing can be said of the answer, so it must not count as wrong.
    pub fn check(&self, text: &str, reference: &str) -> Judged {
        let Some(answer) = extract::final_answer(text, &self.config) else {
            return Judged { verdict: Verdict::NoAnswer, decided_by: DecidedBy::Extraction, answer: None };
        };
        let reference = extract::reference(reference, &self.config);
        let (verdict, decided_by) = if reference.trim().is_empty() {
            (Verdict::Error, DecidedBy::Extraction)
        } else if answer.trim().is_empty() {
            (Verdict::NoAnswer, DecidedBy::Extraction)
        } else {
            self.compare(&answer, &reference)
        };
        Judged { verdict, decided_by, answer: Some(answer.into_owned()) }
    }

    /// Whether `answer` is right where `reference` is; both bare, without a box.
    pub fn compare(&self, answer: &str, reference: &str) -> (Verdict, DecidedBy) {
        compare::compare(answer, reference, &self.config)
    }
}
