//! The verifier without the rest of the program, and what must hold of it for any input.

#[path = "../../../src/config/verify.rs"]
mod settings;

#[path = "../../../src/types/verdict.rs"]
mod verdict;

/// The part of the configuration that the verifier reads.
pub mod config {
    pub use crate::settings::{Extraction, Fallback, PercentRule, VerifyConfig};
}

/// The types that the verifier names.
pub mod types {
    pub use crate::verdict::{Defect, Verdict};
}

pub mod verify;

#[path = "../../support/claims.rs"]
mod claims;

pub use claims::{compare, extract};
