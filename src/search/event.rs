//! What happened in a tree, in order.

use crate::types::NodeId;

/// By which rule a node was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SelectKind {
    /// Best child of the current node by UCT: no candidate of the round was terminal.
    UctChild,
    /// Best child of the root by UCT, after a round with a terminal under [`Backtrace::Uct`](crate::config::Backtrace).
    UctRoot,
    /// Best of the frontier, after a round with a terminal under [`Backtrace::Global`](crate::config::Backtrace).
    Global,
    /// Best of the frontier because the current node has nothing left to go on with.
    Fallback,
}

impl SelectKind {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            SelectKind::UctChild => "uct_child",
            SelectKind::UctRoot => "uct_root",
            SelectKind::Global => "global",
            SelectKind::Fallback => "fallback",
        }
    }
}

/// How and with which score a node was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// By which rule.
    pub kind: SelectKind,
    /// Its score then, before any rounding; infinite for a child never visited under
    /// [`Unvisited::First`](crate::config::Unvisited).
    pub score: f64,
}

/// What a score was made of: the parts that are there add up to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreParts {
    /// Of values: q_mean under UCT; of the frontier's score what the parent's and the node's own q_mean contribute.
    pub value: f64,
    /// What UCT adds for being little visited; infinite for a child never visited under
    /// [`Unvisited::First`](crate::config::Unvisited). `None` of a frontier score.
    pub exploration: Option<f64>,
    /// Of the node's entropy; `None` where it does not take part.
    pub entropy: Option<f64>,
    /// Of the depth; `None` under UCT.
    pub depth: Option<f64>,
}

impl ScoreParts {
    /// Whether these are what `score` was made of, but for rounding.
    pub(super) fn make(&self, score: f64) -> bool {
        let others = [self.exploration, self.entropy, self.depth];
        let sum = others.into_iter().flatten().fold(self.value, |sum, part| sum + part);
        sum == score || (sum - score).abs() <= 1e-9 * score.abs().max(1.0)
    }
}

/// One entry of the event log.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A node got its children.
    Expand {
        /// The node.
        node: NodeId,
        /// Its first child; the others follow with consecutive ids.
        first_child: NodeId,
        /// How many.
        count: u32,
    },
    /// These live nodes were visited once each, apart from any backup.
    Visit {
        /// In child order, never empty.
        nodes: Vec<NodeId>,
    },
    /// A terminal was backed up to the root and became the next trajectory.
    Backup {
        /// The terminal.
        leaf: NodeId,
        /// Its reward.
        reward: f64,
        /// Mean -logprob of its path, in nats; NaN if no token had a usable logprob.
        entropy_nats: f64,
    },
    /// A node became the current one.
    Select {
        /// The node.
        node: NodeId,
        /// How.
        selection: Selection,
    },
    /// No node could be selected.
    Exhausted,
}
