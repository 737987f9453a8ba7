//! DeepSearch (arXiv 2509.25454): Monte Carlo tree search inside RL training of small reasoning models.
//!
//! This page is the architecture. The paper's idea in one sentence: where ordinary RL draws independent samples for a
//! problem, this searches a tree of partial answers, and trains on the branches that turned out right and on the most
//! confident of those that turned out wrong.
//!
//! # The loop
//!
//! ```text
//! problem -> prompt -> tree: choose a leaf -> generate -> verify -> back up, until enough answers are backed up
//!         -> trajectories with a value per node -> advantages -> packed batch -> policy update
//!         -> weights on disk, numbered and checksummed -> reload, confirmed by the server -> next problem
//! ```
//!
//! # Tiers
//!
//! A file imports from its own part and from lower tiers. Parts of one tier do not know each other; what they exchange
//! are the nouns in [`types`], and only [`run`] knows two neighbours. `tests/architecture.rs` checks it.
//!
//! | tier | parts | |
//! | --- | --- | --- |
//! | 3 | cli, main | parse, call, print |
//! | 2 | [`run`], [`report`] | the loop; reading results back |
//! | 1 | [`search`] [`verify`] [`inference`] [`trainer`] [`store`] [`data`] | one job each |
//! | 0 | [`types`] [`config`] [`rng`] [`error`] | plain data: no files, no network, no async |
//!
//! # What is deliberately absent
//!
//! - [`search`] never waits, reads no clock, draws no number of its own and sees no text: it says what it wants and is
//!   given it. Same seed and same continuations, same tree.
//! - Only [`trainer`] knows libtorch, only [`store`] knows SQL, only [`inference`] knows HTTP, and only
//!   `inference/retry.rs` names `backoff`.
//! - Nobody reads a shared "current version" of the weights: a [`types::WeightVersion`] travels as a value with all
//!   that was made under it.
//! - What a model wrote, and what a problem says, is data: it can be recorded as bad, and never ends a run.
//!
//! # To change
//!
//! The score of a leaf: [`search`]. What a correct answer is: [`verify`]. The objective: [`trainer`]. Another server:
//! one more [`inference::Engine`]. A column: a new migration and its file in [`store`]. A setting: its struct in
//! [`config`] and the files in `configs/`. A question of the data: a view and [`report`].
//!
//! # Map
//!
//! ```text
//! main.rs                  the `orchestrator` command
//! lib.rs                   this page
//!
//! types/mod.rs             the nouns that travel between parts
//! types/ids.rs             ids and step numbers as types of their own
//! types/tokens.rs          prompts, continuations, what is asked of an engine
//! types/trajectory.rs      root-to-leaf paths with a value per node, in groups of one tree
//! types/verdict.rs         correct, incorrect, no answer, error
//! types/weights.rs         weight versions, and what was written for one
//! config/mod.rs            the sections of the configuration
//! config/{data,inference,run,search,train}.rs   one section each
//! error.rs                 failure classes, exit codes, hints
//! rng.rs                   the only place where randomness starts
//!
//! search/mod.rs            the tree of one problem
//! verify/mod.rs            is this answer right
//! inference/mod.rs         the trait Engine: generate, load weights
//! inference/error.rs       what can go wrong with a server
//! trainer/mod.rs           the policy's parameters and their update
//! store/mod.rs             SQLite
//! data/mod.rs              problems and prompts
//!
//! run/mod.rs               rounds and steps
//! report/mod.rs            reading results back
//! ```
#![deny(missing_docs)]

pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod inference;
pub mod report;
pub mod rng;
pub mod run;
pub mod search;
pub mod store;
pub mod telemetry;
pub mod trainer;
pub mod types;
pub mod verify;
