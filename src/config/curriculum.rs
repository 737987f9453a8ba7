//! `[curriculum]`, `[replay]` and `[eval]`: which problems are worth a search, what is done where an answer is known, and
//! how the policy is measured.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Rounds and the hard-subset filter (paper, equations 8 and 9). All keys change results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CurriculumConfig {
    /// Rounds of filter and training (the paper: 5); `run.steps` is divided among them.
    pub rounds: u32,
    /// Whether a round begins by measuring the pass rate of its problems and goes on with the hard ones only. Without, a
    /// round takes all problems.
    pub filter: bool,
    /// K: direct rollouts per problem of the filter (the paper: 4).
    pub filter_samples: u32,
    /// Pass rate up to which a problem is hard (the paper: 0.25).
    pub max_pass_rate: f64,
    /// Whether a problem of exactly `max_pass_rate` is hard. The paper's text says no, the data it released yes.
    pub is_inclusive: bool,
    /// Batches of further problems that a step may draw until it has `run.problems_per_step` groups with a signal (DAPO's
    /// dynamic sampling); 0 is off.
    pub dynamic_sampling: u32,
}

impl Default for CurriculumConfig {
    fn default() -> Self {
        CurriculumConfig {
            rounds: 1,
            filter: true,
            filter_samples: 4,
            max_pass_rate: 0.25,
            is_inclusive: true,
            dynamic_sampling: 0,
        }
    }
}

/// The cache of verified solutions (paper, equations 10 to 12). All keys change results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Whether a problem with a cached solution is spared its search: direct rollouts take its place, and cached
    /// solutions that of incorrect ones.
    pub enabled: bool,
    /// Most cached solutions in one group, below `search.trajectories`.
    pub solutions_per_group: u32,
    /// A correct rollout enters the cache where the pass rate among its problem's rollouts is above 0 and at most this.
    pub max_pass_rate: f64,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        ReplayConfig { enabled: true, solutions_per_group: 1, max_pass_rate: 0.25 }
    }
}

/// Measuring the policy on problems it is not trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// JSON lines or parquet with held-out problems; empty: nothing is measured.
    pub problems: PathBuf,
    /// Use only the first n problems of the file; 0 is all.
    pub limit: usize,
    /// Steps between two measurements; 0: only before the first step and after the last.
    pub every: u32,
    /// Rollouts per problem (the paper: 32).
    pub samples: u32,
    /// Temperature (the paper: 0.6); 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass (the paper: 0.95).
    pub top_p: f64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        EvalConfig { problems: PathBuf::new(), limit: 0, every: 0, samples: 4, temperature: 0.6, top_p: 0.95 }
    }
}
