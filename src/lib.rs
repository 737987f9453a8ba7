//! DeepSearch (arXiv 2509.25454): Monte Carlo tree search inside RL training.
#![deny(missing_docs)]

pub mod config;
pub mod data;
pub mod error;
pub mod inference;
pub mod report;
pub mod rng;
pub mod run;
pub mod search;
pub mod store;
pub mod trainer;
pub mod types;
pub mod verify;
