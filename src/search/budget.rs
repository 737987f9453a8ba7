//! What a tree may spend, and why a search ended. Time is passed in, never read.

use std::time::Duration;

use crate::config::SearchConfig;

/// Why a search is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// As many terminals were backed up as asked for.
    Complete,
    /// No node is left that the rules in force could select; the trajectories found stand.
    Exhausted,
    /// `max_expansions` are done.
    ExpansionBudget,
    /// A further expansion could exceed `max_generated_tokens`.
    TokenBudget,
    /// `max_seconds` have passed.
    TimeBudget,
}

impl StopReason {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::Complete => "complete",
            StopReason::Exhausted => "exhausted",
            StopReason::ExpansionBudget => "expansion_budget",
            StopReason::TokenBudget => "token_budget",
            StopReason::TimeBudget => "time_budget",
        }
    }
}

/// What a tree has used up so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Times that a node got children.
    pub expansions: u64,
    /// Tokens sampled, those of unused terminals included.
    pub generated_tokens: u64,
    /// Time since the search began, as last told.
    pub elapsed: Duration,
}

/// Why an expansion of `count` continuations may not begin; `None` if it may.
pub(super) fn exceeded(config: &SearchConfig, spent: &Spent, count: u32) -> Option<StopReason> {
    let worst_tokens = u64::from(count) * u64::from(config.step_tokens);
    if config.max_expansions != 0 && spent.expansions >= config.max_expansions {
        Some(StopReason::ExpansionBudget)
    } else if config.max_generated_tokens != 0 && spent.generated_tokens + worst_tokens > config.max_generated_tokens {
        Some(StopReason::TokenBudget)
    } else if config.max_seconds > 0.0 && spent.elapsed.as_secs_f64() >= config.max_seconds {
        Some(StopReason::TimeBudget)
    } else {
        None
    }
}
