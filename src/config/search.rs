//! `[search]`: the tree search of one problem.

use serde::{Deserialize, Serialize};

/// Named rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// The published code to the last digit.
    Released,
    /// What the paper's text says where the published code falls short of it.
    Paper,
}

/// How the search goes on after an expansion that contained a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backtrace {
    /// The best node of the whole tree by frontier score.
    Global,
    /// The best child of the root by UCT.
    Uct,
}

/// D(d) of the frontier score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepthBonus {
    /// d
    Constant,
    /// ln(d + 1)
    Log,
    /// sqrt(d / max_depth)
    Sqrt,
}

/// The search of one problem. Defaults are the paper's (appendix A).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// Rule set from which the options below take their defaults.
    pub rules: Rules,
    /// Continuations per expansion.
    pub width: u32,
    /// Largest number of sampled tokens in a node.
    pub step_tokens: u32,
    /// Depth at which a node is terminal; the response budget is `max_depth * step_tokens`.
    pub max_depth: u32,
    /// Backed-up terminals after which a tree is complete.
    pub trajectories: u32,
    /// lambda of UCT.
    pub uct_lambda: f64,
    /// Floor of the depth decay gamma.
    pub gamma_min: f64,
    /// l1: weight of tanh(q_mean(parent)).
    pub frontier_value_weight: f64,
    /// l2: weight of the node's entropy, used with `uncertainty_bonus`.
    pub frontier_entropy_weight: f64,
    /// l3: weight of the depth bonus.
    pub frontier_depth_weight: f64,
    /// D(d).
    pub depth_bonus: DepthBonus,
    /// Add the entropy term to the frontier score.
    pub uncertainty_bonus: bool,
    /// How the search goes on after an expansion that contained a terminal.
    pub backtrace: Backtrace,
    /// Reward of an answer cut off by the budget without a final answer.
    pub incomplete_reward: f64,
    /// Temperature of sampling. Changes results.
    pub temperature: f64,
    /// Nucleus mass; 1 is off.
    pub top_p: f64,
    /// Most likely tokens kept; 0 is off.
    pub top_k: u32,
}

impl Default for SearchConfig {
    fn default() -> Self {
        SearchConfig {
            rules: Rules::Paper,
            width: 8,
            step_tokens: 256,
            max_depth: 64,
            trajectories: 8,
            uct_lambda: 2.0,
            gamma_min: 0.1,
            frontier_value_weight: 0.4,
            frontier_entropy_weight: 0.4,
            frontier_depth_weight: 0.01,
            depth_bonus: DepthBonus::Sqrt,
            uncertainty_bonus: false,
            backtrace: Backtrace::Global,
            incomplete_reward: -1.0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
        }
    }
}
