//! What the keys of `[search]` can be set to, where that is neither a number nor a switch.

use serde::{Deserialize, Serialize};

/// Named rule set: the defaults of the options that [`SearchRules`](super::SearchRules) lists, and nothing else.
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
    /// Down from the root by UCT, one child at a time.
    Uct,
}

/// D(d) of the frontier score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepthBonus {
    /// 0
    None,
    /// d (`constant` in the published code)
    #[serde(alias = "constant")]
    Linear,
    /// ln(d + 1)
    Log,
    /// sqrt(d / max_depth)
    Sqrt,
}

/// What a backup does where the sign of the reward is not that of the node's value so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QUpdate {
    /// A positive value is never lowered by a negative reward, a negative one is replaced by a positive reward (eq. 5).
    Constrained,
    /// max(q + gamma * r, 0) where the signs are opposite, the simple update of the paper's table 4.
    Simple,
    /// q + gamma * r always (eq. 3 alone).
    Sum,
}

/// Which of the terminals that are not correct is backed up where none is correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeChoice {
    /// The one with the lowest mean entropy (eq. 2).
    MostConfident,
    /// Any of the best class (incorrect before cut off without an answer), by the seed of the tree (the paper's table 5).
    Random,
    /// The one with the highest mean entropy (the paper's table 5).
    LeastConfident,
}

/// Which of several nodes with exactly equal scores is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TieBreak {
    /// The first: by child index among siblings, by depth-first pre-order in the whole tree.
    Order,
    /// The one whose own tokens have the lowest mean -logprob; nodes without a usable logprob come last; then order.
    Confidence,
}

/// What counts as a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisitRule {
    /// A backup visits every node of its path; besides, each live sibling is visited whenever it is a candidate, its
    /// ancestors are not. So N(parent) may be below N(child), and q_mean is diluted by visits that brought no value.
    Candidates,
    /// Only a backup visits, and it visits every node of its path: a visit always reaches the root, N(parent) is the
    /// sum of N over its children, and q_mean is the mean of what was backed up.
    Backups,
}

/// The exploration term of a child (or under a parent) that was never visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unvisited {
    /// 0.
    Zero,
    /// Infinite for an unvisited child: every sibling is tried once before any is tried twice.
    First,
}

/// The depth decay gamma of a backup from a leaf at depth l to a node at depth d (the root has depth 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GammaRule {
    /// max((d + 1) / (l + 1), gamma_min)
    Shifted,
    /// max(d / l, gamma_min): eq. 3, where s_1 is the first step below the prompt.
    Plain,
}

/// How many of the terminals found in one expansion are backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminalsKept {
    /// One: the most confident correct one, else the most confident of the others.
    One,
    /// Every correct one, the most confident first; if none is correct, the most confident of the others (eq. 1, 2).
    AllCorrect,
}

/// A width that shrinks with depth: `max(min_width, width - floor(d / floor(max_depth / width)) * decay)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicWidth {
    /// Smallest width, at least 1.
    pub min_width: u32,
    /// Continuations lost per band of `floor(max_depth / width)` levels.
    pub decay: u32,
}

/// When the continuations of a node are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Siblings {
    /// All of them when the node is expanded.
    Eager,
    /// Some of them when the node is expanded, the others when the node is chosen again: see [`SearchConfig::siblings`](super::SearchConfig::siblings).
    Lazy,
}

/// A width that grows with the entropy H of the node that is expanded: `min_width` up to `low_nats`, the full width from
/// `high_nats` on, on the straight line and rounded in between. A policy that was sure of what it just wrote mostly is
/// of what follows, and its siblings are then copies of each other. The prompt, whose H is unknown, has the full width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropyWidth {
    /// Smallest width, at least 1.
    pub min_width: u32,
    /// Mean -logprob of the node's own tokens up to which `min_width` is used.
    pub low_nats: f64,
    /// The same from which on the full width is used; above `low_nats`.
    pub high_nats: f64,
}
