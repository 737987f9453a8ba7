//! Is an answer right? [`Verifier`] is pure and bounded: work is counted in steps, so that a verdict depends on the text alone.
//!
//! The way of an answer: the last box of the text ([`extract`]), its tokens ([`latex`]), its structure ([`parse`] to an
//! [`answer`] around expressions, [`expr`]), and the comparison with the reference ([`compare`]), in which the [`algebra`]
//! says of two expressions that they are equal, that they differ, or that it does not know. What is not known is
//! [`Verdict::Undecided`](crate::types::Verdict::Undecided): a wrong answer that is accepted is learned at once, a right one that is refused wastes a solved
//! problem. Apart from that, a response can be bad data whatever it answers ([`quality`]). What [`Verifier`] leaves
//! undecided [`Grader`] asks of Math-Verify ([`sidecar`]), the only place here that starts processes and waits. Absent on
//! purpose: floating point, `eval`.

pub mod algebra;
pub mod answer;
pub mod budget;
pub mod compare;
pub mod expr;
pub mod extract;
pub mod grader;
pub mod latex;
pub mod parse;
pub mod quality;
pub mod sidecar;
pub mod verifier;

pub use grader::Grader;
pub use quality::{defect, lost};
pub use verifier::{DecidedBy, Judged, Verifier};
