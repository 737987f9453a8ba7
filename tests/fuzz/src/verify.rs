//! The parts of the verifier that start no process, as `src/verify/mod.rs` has them.

#[path = "../../../src/verify/algebra/mod.rs"]
pub mod algebra;
#[path = "../../../src/verify/answer.rs"]
pub mod answer;
#[path = "../../../src/verify/budget.rs"]
pub mod budget;
#[path = "../../../src/verify/compare/mod.rs"]
pub mod compare;
#[path = "../../../src/verify/expr.rs"]
pub mod expr;
#[path = "../../../src/verify/extract/mod.rs"]
pub mod extract;
#[path = "../../../src/verify/latex.rs"]
pub mod latex;
#[path = "../../../src/verify/parse/mod.rs"]
pub mod parse;
#[path = "../../../src/verify/quality/mod.rs"]
pub mod quality;
#[path = "../../../src/verify/verifier.rs"]
pub mod verifier;

pub use quality::defect;
pub use verifier::{DecidedBy, Judged, Verifier};
