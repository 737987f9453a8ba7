//! Is an answer right? Pure and bounded: time and memory grow linearly with the text, whatever the text is.
//!
//! What counts is the last box of the text ([`extract`]). Numbers are compared as exact fractions ([`number`]),
//! everything else as normalised LaTeX ([`compare`]). A right answer in an unusual form may be refused; a wrong one
//! must not be accepted, since training would learn to write it. Apart from that, a response can be bad data whatever it
//! answers ([`quality`]). Absent on purpose: algebra, floating point, `eval`.

pub mod compare;
pub mod extract;
pub mod latex;
pub mod number;
pub mod quality;

pub use quality::defect;

use crate::types::Verdict;

/// A verdict and what it was reached on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether the answer is right.
    pub verdict: Verdict,
    /// The content of the box, as written; `None` where there was no box.
    pub answer: Option<String>,
}

/// Checks answers against references.
#[derive(Clone, Debug, Default)]
pub struct Verifier {}

impl Verifier {
    /// A verifier with the rules of this module.
    pub fn new() -> Verifier {
        Verifier::default()
    }

    /// Judges the final answer of `text`, a whole response. `reference` is the bare right answer: a number, LaTeX or
    /// text, without a box.
    ///
    /// An empty reference is [`Verdict::Error`]: nothing can be said of the answer, so it must not count as wrong.
    pub fn check(&self, text: &str, reference: &str) -> Judged {
        let Some(answer) = extract::final_box(text) else {
            return Judged { verdict: Verdict::NoAnswer, answer: None };
        };
        let verdict = if reference.trim().is_empty() {
            Verdict::Error
        } else if answer.trim().is_empty() {
            Verdict::NoAnswer
        } else if compare::same(answer, reference) {
            Verdict::Correct
        } else {
            Verdict::Incorrect
        };
        Judged { verdict, answer: Some(answer.to_string()) }
    }
}
