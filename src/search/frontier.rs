//! The global frontier score, and the best node of the whole tree by it.
//!
//! The score of a node depends on its parent's value, its own entropy and depth. A full scan at every step would cost
//! time in proportion to the tree, so each node keeps the best of what lies strictly below it, and only the ancestors
//! of what changed are folded again: work in proportion to depth times width, whatever the size of the tree. Folding
//! a node, then its subtree, child by child, replacing the leader only by something better, visits candidates in
//! depth-first pre-order; so ties fall as in a full scan, without ever comparing two positions.
//!
//! The open places of a node take part as one candidate, behind its children and their subtrees, under the name of the
//! node itself.

use crate::config::{DepthBonus, SearchConfig, SearchRules, TieBreak};

use super::entropy;
use super::event::ScoreParts;
use super::node::{Arena, Stats};

/// Stale nodes after which they are folded even if nobody asks, so that no single step pays for a long history.
const STALE_LIMIT: usize = 256;

const NOBODY: u32 = u32::MAX;

/// The parts of the score that all children of one node share.
#[derive(Clone, Copy, Debug)]
struct Shared {
    quality: f64,
    depth_bonus: f64,
}

/// Weights of the score (eq. 7).
#[derive(Clone, Debug)]
pub(super) struct Scoring {
    value_weight: f64,
    self_value_weight: f64,
    /// 0 unless the uncertainty bonus is on.
    entropy_weight: f64,
    depth_weight: f64,
    depth_bonus: DepthBonus,
    max_depth: f64,
}

impl Scoring {
    pub(super) fn new(config: &SearchConfig) -> Scoring {
        Scoring {
            value_weight: config.frontier_value_weight,
            self_value_weight: config.frontier_self_value_weight,
            entropy_weight: if config.uncertainty_bonus { config.frontier_entropy_weight } else { 0.0 },
            depth_weight: config.frontier_depth_weight,
            depth_bonus: config.depth_bonus,
            max_depth: f64::from(config.max_depth),
        }
    }

    fn shared(&self, parent: &Stats) -> Shared {
        let depth = f64::from(parent.depth) + 1.0;
        let bonus = match self.depth_bonus {
            DepthBonus::None => 0.0,
            DepthBonus::Linear => depth,
            DepthBonus::Log => (depth + 1.0).ln(),
            DepthBonus::Sqrt => (depth / self.max_depth).sqrt(),
        };
        Shared { quality: self.value_weight * parent.q_mean().tanh(), depth_bonus: self.depth_weight * bonus }
    }

    /// The order of operations is that of the published code, to the last bit. A node of unknown entropy scores
    /// minus infinity where entropy counts: it is taken when nothing else is left.
    fn of(&self, shared: Shared, node: &Stats) -> f64 {
        let mut quality = shared.quality;
        if self.self_value_weight > 0.0 {
            quality += self.self_value_weight * node.q_mean().tanh();
        }
        if self.entropy_weight == 0.0 {
            return quality + shared.depth_bonus;
        }
        if node.entropy_nats.is_nan() {
            return f64::NEG_INFINITY;
        }
        quality + self.entropy_weight * node.entropy_nats + shared.depth_bonus
    }

    /// Score of a child of a node that was not sampled yet: what it would be with the mean entropy of its siblings.
    fn of_missing(&self, shared: Shared, siblings_nats: f64) -> f64 {
        if self.entropy_weight == 0.0 {
            return shared.quality + shared.depth_bonus;
        }
        if siblings_nats.is_nan() {
            return f64::NEG_INFINITY;
        }
        shared.quality + self.entropy_weight * siblings_nats + shared.depth_bonus
    }

    /// Score of `node` below `parent`.
    pub(super) fn score(&self, parent: &Stats, node: &Stats) -> f64 {
        self.of(self.shared(parent), node)
    }

    /// What [`Self::score`] adds up.
    pub(super) fn parts(&self, parent: &Stats, node: &Stats) -> ScoreParts {
        let shared = self.shared(parent);
        let own = if self.self_value_weight > 0.0 { self.self_value_weight * node.q_mean().tanh() } else { 0.0 };
        ScoreParts {
            value: shared.quality + own,
            exploration: None,
            entropy: (self.entropy_weight != 0.0).then_some(self.entropy_weight * node.entropy_nats),
            depth: Some(shared.depth_bonus),
        }
    }
}

/// The best of a set of nodes so far.
#[derive(Clone, Copy, Debug)]
struct Leader {
    score: f64,
    entropy_rank: f64,
    node: u32,
}

impl Leader {
    const NONE: Leader = Leader { score: f64::NEG_INFINITY, entropy_rank: f64::INFINITY, node: NOBODY };

    /// Takes the place of `self` only if it is better.
    fn challenge(&mut self, other: Leader, ties: TieBreak) {
        if other.node == NOBODY {
            return;
        }
        let wins = self.node == NOBODY
            || other.score > self.score
            || (other.score == self.score && ties == TieBreak::Confidence && other.entropy_rank < self.entropy_rank);
        if wins {
            *self = other;
        }
    }
}

/// The frontier of one tree. The root never takes part.
#[derive(Clone, Debug)]
pub(super) struct Frontier {
    scoring: Scoring,
    ties: TieBreak,
    leaves_only: bool,
    /// By node: the best live node without children strictly below it, or a node with open places.
    leaves: Vec<Leader>,
    /// By node: the best live node strictly below it; empty if only leaves take part.
    live: Vec<Leader>,
    /// Nodes whose children's scores or eligibility changed since they were last folded.
    stale: Vec<u32>,
    is_stale: Vec<bool>,
}

impl Frontier {
    pub(super) fn new(config: &SearchConfig, rules: &SearchRules) -> Frontier {
        let leaves_only = config.frontier_leaves_only;
        Frontier {
            scoring: Scoring::new(config),
            ties: rules.frontier_ties,
            leaves_only,
            leaves: vec![Leader::NONE],
            live: if leaves_only { Vec::new() } else { vec![Leader::NONE] },
            stale: Vec::new(),
            is_stale: vec![false],
        }
    }

    pub(super) fn scoring(&self) -> &Scoring {
        &self.scoring
    }

    /// Makes room for `nodes` nodes.
    pub(super) fn grow(&mut self, nodes: usize) {
        self.leaves.resize(nodes, Leader::NONE);
        if !self.leaves_only {
            self.live.resize(nodes, Leader::NONE);
        }
        self.is_stale.resize(nodes, false);
    }

    /// To be called for each node that got children, or whose own or whose children's value changed; an ancestor of
    /// such a node need not be named.
    pub(super) fn touch(&mut self, node: u32) {
        let mark = &mut self.is_stale[node as usize];
        if !*mark {
            *mark = true;
            self.stale.push(node);
        }
    }

    /// The best node and its score: among those without children and those with open places if `leaves_only`, else among
    /// all live nodes.
    pub(super) fn leader(&mut self, arena: &Arena, leaves_only: bool) -> Option<(u32, f64)> {
        self.refresh(arena);
        let best = if leaves_only || self.leaves_only { self.leaves[0] } else { self.live[0] };
        (best.node != NOBODY).then_some((best.node, best.score))
    }

    /// Folds what is stale if it has become much.
    pub(super) fn bound_stale(&mut self, arena: &Arena) {
        if self.stale.len() > STALE_LIMIT {
            self.refresh(arena);
        }
    }

    /// Folds every stale node and its ancestors, children before parents.
    fn refresh(&mut self, arena: &Arena) {
        for named in 0..self.stale.len() {
            let mut above = arena.parent(self.stale[named]);
            while let Some(node) = above.filter(|&node| !self.is_stale[node as usize]) {
                self.is_stale[node as usize] = true;
                self.stale.push(node);
                above = arena.parent(node);
            }
        }
        let mut stale = std::mem::take(&mut self.stale);
        stale.sort_unstable_by(|a, b| b.cmp(a));
        for &node in &stale {
            self.is_stale[node as usize] = false;
            self.fold(arena, node);
        }
        stale.clear();
        self.stale = stale;
    }

    fn fold(&mut self, arena: &Arena, parent: u32) {
        let shared = self.scoring.shared(arena.stats(parent));
        let (mut leaf, mut live) = (Leader::NONE, Leader::NONE);
        for child in arena.children(parent) {
            let stats = arena.stats(child);
            if !stats.is_live() {
                continue;
            }
            let entropy_rank = entropy::rank(stats.entropy_nats);
            if stats.has_children() {
                leaf.challenge(self.leaves[child as usize], self.ties);
            } else {
                let own = Leader { score: self.scoring.of(shared, stats), entropy_rank, node: child };
                leaf.challenge(own, self.ties);
            }
            if !self.leaves_only {
                let own = Leader { score: self.scoring.of(shared, stats), entropy_rank, node: child };
                live.challenge(own, self.ties);
                live.challenge(self.live[child as usize], self.ties);
            }
        }
        if arena.stats(parent).has_room {
            let score = self.scoring.of_missing(shared, entropy::mean_of_known(arena, parent));
            let place = Leader { score, entropy_rank: f64::INFINITY, node: parent };
            leaf.challenge(place, self.ties);
            live.challenge(place, self.ties);
        }
        self.leaves[parent as usize] = leaf;
        if !self.leaves_only {
            self.live[parent as usize] = live;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Continuation, FinishReason, WeightVersion};

    #[test]
    fn published_scores() {
        // l1 = 0.4, l3 = 0.01, maximum depth 64: mean value of the parent, depth of the node, score.
        let scoring = Scoring::new(&SearchConfig::default());
        for (q_mean, depth, published) in
            [(0.0, 1, 0.001_25), (-0.05, 2, -0.018_216), (0.5, 20, 0.190_437), (1.0, 63, 0.314_560)]
        {
            let mut arena = Arena::new();
            let child = arena.push_child(
                0,
                Continuation {
                    tokens: vec![1],
                    logprobs: vec![-1.0],
                    finish: FinishReason::Length,
                    weight_version: WeightVersion::INITIAL,
                },
            );
            let parent = arena.stats_mut(0);
            (parent.depth, parent.visits, parent.q_total) = (depth - 1, 2, 2.0 * q_mean);
            let score = scoring.score(arena.stats(0), arena.stats(child));
            assert!((score - published).abs() < 1e-6, "{q_mean} at depth {depth}: {score}, published {published}");
        }
    }
}
