//! What a finished tree hands to the trainer: the nodes on its trajectories, once each, and the paths through them.

use super::{Defect, NodeId, ProblemId, Prompt, TokenId, TreeId, Verdict, WeightVersion};

/// How the trajectories of a problem came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TreeKind {
    /// Tree search.
    Search,
    /// Direct rollouts: every child of the root is a whole answer.
    Rollout,
    /// Direct rollouts, some of the incorrect ones replaced by solutions from the cache.
    Replay,
}

impl TreeKind {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            TreeKind::Search => "search",
            TreeKind::Rollout => "rollout",
            TreeKind::Replay => "replay",
        }
    }
}

/// Where a trajectory came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provenance {
    /// Backed up by tree search.
    Search,
    /// A direct rollout, without search.
    Rollout,
    /// A verified solution kept from earlier.
    Cached,
    /// A solution that a user brought in; only of solutions, never of a trajectory.
    Imported,
}

impl Provenance {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Provenance::Search => "search",
            Provenance::Rollout => "rollout",
            Provenance::Cached => "cached",
            Provenance::Imported => "imported",
        }
    }
}

/// One node of a [`TrajectoryGroup`]: at most `step_tokens` sampled tokens. The root (the prompt) is not a node here.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNode {
    /// The node in its tree.
    pub node: NodeId,
    /// Index of the parent in [`TrajectoryGroup::nodes`], always smaller than its own; `None` below the prompt.
    pub parent: Option<usize>,
    /// Depth in the tree; children of the root have depth 1.
    pub depth: u32,
    /// Sampled token ids, `[T]`.
    pub tokens: Vec<TokenId>,
    /// Logprobs from the engine, `[T]`, in nats; NaN where missing.
    pub logprobs: Vec<f32>,
    /// The weights that sampled these tokens.
    pub weight_version: WeightVersion,
    /// Backed-up sum when the search was over (what is trained on; the search itself used q_total / visits).
    pub q_total: f64,
}

/// One root-to-leaf path.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// Indices into [`TrajectoryGroup::nodes`], from depth 1 to the leaf. Never empty.
    pub path: Vec<usize>,
    /// What the verifier said of the leaf.
    pub verdict: Verdict,
    /// The leaf's own reward: +1 correct, -1 incorrect, `incomplete_reward` if cut off without an answer.
    pub reward: f64,
    /// Mean of -logprob over the path's sampled tokens, in nats.
    pub entropy_nats: f64,
    /// Sampled tokens on the path, end-of-text included.
    pub response_tokens: usize,
    /// Where it came from.
    pub provenance: Provenance,
    /// What makes the text unfit for training, whatever its verdict. An incorrect one is left out of the update.
    pub defect: Option<Defect>,
}

/// The trajectories of one problem that share a baseline: one group of Tree-GRPO.
#[derive(Clone, Debug, PartialEq)]
pub struct TrajectoryGroup {
    /// The problem.
    pub problem: ProblemId,
    /// The tree's row in the store; `None` where nothing was stored (tests, benchmarks).
    pub tree: Option<TreeId>,
    /// The prompt all paths start from.
    pub prompt: Prompt,
    /// Each node on any trajectory exactly once, parents before children.
    pub nodes: Vec<GroupNode>,
    /// The paths, in the order in which they were backed up.
    pub trajectories: Vec<Trajectory>,
}
