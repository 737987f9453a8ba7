//! What can go wrong between a tree and its driver.

use crate::error::{FailureClass, Hint};
use crate::types::NodeId;

/// Failure of a call on a [`Tree`](super::Tree). The tree is left as it was before the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// The `[search]` section cannot be searched with.
    #[error("the search settings are not usable: {}", problems.join("; "))]
    Settings {
        /// One message a problem, each naming its key.
        problems: Vec<String>,
    },
    /// Continuations came for a node that was not asked for.
    #[error("continuations came for node `{supplied}`, but the tree wants {}", wanted_text(*.wanted))]
    NotWanted {
        /// The node they came for.
        supplied: NodeId,
        /// The node that was asked for; `None` if the search is over.
        wanted: Option<NodeId>,
    },
    /// Not as many continuations as asked for.
    #[error("node `{node}` got `{got}` continuations, but `{expected}` were asked for")]
    ContinuationCount {
        /// The node being expanded.
        node: NodeId,
        /// As [`Next::Expand`](super::Next) said.
        expected: u32,
        /// As supplied.
        got: usize,
    },
    /// Tokens and logprobs of a continuation differ in number.
    #[error("continuation `{child}` of node `{node}` has `{tokens}` tokens, but `{logprobs}` logprobs")]
    LogprobCount {
        /// The node being expanded.
        node: NodeId,
        /// Index of the continuation, from 0.
        child: usize,
        /// Number of tokens.
        tokens: usize,
        /// Number of logprobs.
        logprobs: usize,
    },
    /// A continuation is longer than a node may be.
    #[error("continuation `{child}` of node `{node}` has `{tokens}` tokens, more than `search.step_tokens` = {limit}")]
    TooLong {
        /// The node being expanded.
        node: NodeId,
        /// Index of the continuation, from 0.
        child: usize,
        /// Number of tokens.
        tokens: usize,
        /// `search.step_tokens`.
        limit: u32,
    },
    /// A terminal continuation came without a verdict.
    #[error("continuation `{child}` of node `{node}` is terminal, but has no verdict")]
    VerdictMissing {
        /// The node being expanded.
        node: NodeId,
        /// Index of the continuation, from 0.
        child: usize,
    },
    /// A continuation that goes on came with a verdict.
    #[error("continuation `{child}` of node `{node}` is not terminal, but has a verdict")]
    VerdictUnexpected {
        /// The node being expanded.
        node: NodeId,
        /// Index of the continuation, from 0.
        child: usize,
    },
    /// A continuation was called lost that is terminal anyway, or although `search.stop_garbled` is off.
    #[error("continuation `{child}` of node `{node}` is called lost, but must not be")]
    LossUnexpected {
        /// The node being expanded.
        node: NodeId,
        /// Index of the continuation, from 0.
        child: usize,
    },
    /// Node ids are used up.
    #[error("the tree cannot grow beyond `{nodes}` nodes")]
    TooManyNodes {
        /// Nodes in the tree.
        nodes: usize,
    },
}

fn wanted_text(wanted: Option<NodeId>) -> String {
    wanted.map_or_else(|| "none: its search is over".into(), |node| format!("node `{node}`"))
}

impl Hint for SearchError {
    fn class(&self) -> FailureClass {
        match self {
            SearchError::Settings { .. } => FailureClass::User,
            SearchError::TooManyNodes { .. } => FailureClass::Environment,
            _ => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SearchError::TooManyNodes { .. } => Some("set `search.max_expansions` to bound the tree".into()),
            _ => None,
        }
    }
}
