//! The nodes of one tree, in the order in which they were generated.
//!
//! A parent's id is always smaller than its children's. The children of one expansion have consecutive ids; a node whose
//! places are filled in several portions has several such runs, of which all but the first are kept in a side table. What the search reads at every step (counts, values, links) lies apart from
//! what it only keeps (tokens, logprobs, provenance): a walk to the root through a tree of 100,000 nodes stays in cache.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::types::{Continuation, FinishReason, NodeId, TokenId, Verdict, WeightVersion};

use super::entropy::LogprobSum;
use super::event::{ScoreParts, Selection};
use super::terminal::Ending;

/// What may still happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not terminal.
    Live,
    /// Terminal, may still be backed up.
    Waiting,
    /// Terminal and backed up.
    BackedUp,
    /// Terminal and out of the search: its check failed, or it was passed over.
    Dropped,
}

/// The hot part of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stats {
    /// Sum of what was backed up through this node.
    pub(super) q_total: f64,
    /// Mean -logprob of the node's own tokens; NaN if unknown.
    pub(super) entropy_nats: f64,
    parent: u32,
    first_child: u32,
    child_count: u32,
    pub(super) depth: u32,
    pub(super) visits: u32,
    pub(super) fate: Fate,
    /// It was expanded, and has places left for further children.
    pub(super) has_room: bool,
}

impl Stats {
    /// q_total / visits, 0 if never visited.
    pub(super) fn q_mean(&self) -> f64 {
        if self.visits == 0 { 0.0 } else { self.q_total / f64::from(self.visits) }
    }

    pub(super) fn is_live(&self) -> bool {
        self.fate == Fate::Live
    }

    pub(super) fn has_children(&self) -> bool {
        self.child_count > 0
    }

    pub(super) fn child_count(&self) -> u32 {
        self.child_count
    }
}

/// What ended a branch and how it was judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    pub(super) ending: Ending,
    pub(super) verdict: Verdict,
    pub(super) reward: f64,
    /// Of the whole path; NaN if unknown.
    pub(super) entropy_nats: f64,
    pub(super) backup_order: Option<u32>,
}

/// The cold part of a node.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) tokens: Vec<TokenId>,
    pub(super) logprobs: Vec<f32>,
    pub(super) finish: FinishReason,
    pub(super) weight_version: WeightVersion,
    /// Of all tokens from depth 1 to this node.
    pub(super) path_logprobs: LogprobSum,
    pub(super) path_tokens: u64,
    pub(super) leaf: Option<Leaf>,
    pub(super) selected: Option<(Selection, Option<ScoreParts>)>,
    /// Expansions of the tree that came before the last selection of this node.
    pub(super) selected_after: u64,
}

/// All nodes of a tree.
#[derive(Clone, Debug)]
pub(super) struct Arena {
    stats: Vec<Stats>,
    bodies: Vec<Body>,
    /// Of the nodes that were expanded again: the children that do not follow on the first ones.
    later: BTreeMap<u32, Vec<u32>>,
}

impl Arena {
    /// A root without tokens.
    pub(super) fn new() -> Arena {
        let stats = Stats {
            q_total: 0.0,
            entropy_nats: f64::NAN,
            parent: 0,
            first_child: 0,
            child_count: 0,
            depth: 0,
            visits: 0,
            fate: Fate::Live,
            has_room: false,
        };
        let body = Body {
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finish: FinishReason::Length,
            weight_version: WeightVersion::INITIAL,
            path_logprobs: LogprobSum::default(),
            path_tokens: 0,
            leaf: None,
            selected: None,
            selected_after: 0,
        };
        Arena { stats: vec![stats], bodies: vec![body], later: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.stats.len()
    }

    pub(super) fn stats(&self, node: u32) -> &Stats {
        &self.stats[node as usize]
    }

    pub(super) fn stats_mut(&mut self, node: u32) -> &mut Stats {
        &mut self.stats[node as usize]
    }

    pub(super) fn body(&self, node: u32) -> &Body {
        &self.bodies[node as usize]
    }

    pub(super) fn body_mut(&mut self, node: u32) -> &mut Body {
        &mut self.bodies[node as usize]
    }

    pub(super) fn leaf_mut(&mut self, node: u32) -> Option<&mut Leaf> {
        self.bodies[node as usize].leaf.as_mut()
    }

    /// The parent; `None` of the root.
    pub(super) fn parent(&self, node: u32) -> Option<u32> {
        (node != 0).then(|| self.stats[node as usize].parent)
    }

    /// The children in index order.
    pub(super) fn children(&self, node: u32) -> Children<'_> {
        let stats = self.stats(node);
        // Usually there is no such node at all.
        let later = if self.later.is_empty() { None } else { self.later.get(&node) };
        let later = later.map_or(&[][..], Vec::as_slice);
        let first = stats.first_child..stats.first_child + stats.child_count - later.len() as u32;
        Children { first, later }
    }

    /// The child of `node` at `index`, which must be below [`Stats::child_count`].
    pub(super) fn child(&self, node: u32, index: u32) -> u32 {
        let children = self.children(node);
        let in_first = children.first.end - children.first.start;
        match index.checked_sub(in_first) {
            None => children.first.start + index,
            Some(index) => children.later[index as usize],
        }
    }

    /// The node and its ancestors, up to and including the root.
    pub(super) fn ancestry(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(Some(node), |&node| self.parent(node))
    }

    /// Adds the next child of `parent` and returns its id.
    pub(super) fn push_child(&mut self, parent: u32, continuation: Continuation) -> u32 {
        let id = self.stats.len() as u32;
        let follows = self.children(parent).first.end == id && !self.later.contains_key(&parent);
        let above = &mut self.stats[parent as usize];
        if above.child_count == 0 {
            above.first_child = id;
        } else if !follows {
            self.later.entry(parent).or_default().push(id);
        }
        above.child_count += 1;
        let depth = above.depth + 1;
        let Continuation { tokens, logprobs, finish, weight_version } = continuation;
        let above = &self.bodies[parent as usize];
        let own_logprobs = LogprobSum::of(&logprobs);
        let path_logprobs = above.path_logprobs.plus(own_logprobs);
        let path_tokens = above.path_tokens + tokens.len() as u64;
        self.stats.push(Stats {
            q_total: 0.0,
            entropy_nats: own_logprobs.entropy_nats(),
            parent,
            first_child: 0,
            child_count: 0,
            depth,
            visits: 0,
            fate: Fate::Live,
            has_room: false,
        });
        self.bodies.push(Body {
            tokens,
            logprobs,
            finish,
            weight_version,
            path_logprobs,
            path_tokens,
            leaf: None,
            selected: None,
            selected_after: 0,
        });
        id
    }
}

/// The children of one node in index order, which is that of their ids.
#[derive(Clone, Debug)]
pub(super) struct Children<'a> {
    first: Range<u32>,
    later: &'a [u32],
}

impl Iterator for Children<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.first.next().or_else(|| {
            let (next, rest) = self.later.split_first()?;
            self.later = rest;
            Some(*next)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.first.len() + self.later.len();
        (count, Some(count))
    }
}

impl DoubleEndedIterator for Children<'_> {
    fn next_back(&mut self) -> Option<u32> {
        if let Some((last, rest)) = self.later.split_last() {
            self.later = rest;
            return Some(*last);
        }
        self.first.next_back()
    }
}

impl ExactSizeIterator for Children<'_> {}

/// Read access to one node, for recording and display.
#[derive(Clone, Copy, Debug)]
pub struct NodeRef<'a> {
    pub(super) arena: &'a Arena,
    pub(super) id: u32,
}

impl<'a> NodeRef<'a> {
    fn stats(self) -> &'a Stats {
        self.arena.stats(self.id)
    }

    fn body(self) -> &'a Body {
        self.arena.body(self.id)
    }

    /// Its id; ids count up in the order of generation.
    pub fn id(self) -> NodeId {
        NodeId(self.id)
    }

    /// The parent; `None` of the root.
    pub fn parent(self) -> Option<NodeId> {
        self.arena.parent(self.id).map(NodeId)
    }

    /// Position among its siblings, from 0; 0 of the root.
    pub fn child_index(self) -> u32 {
        let Some(parent) = self.arena.parent(self.id) else { return 0 };
        let Children { first, later } = self.arena.children(parent);
        let in_first = first.end - first.start;
        if first.contains(&self.id) {
            self.id - first.start
        } else {
            in_first + later.partition_point(|&child| child < self.id) as u32
        }
    }

    /// The children in index order; empty until expanded.
    pub fn children(self) -> impl ExactSizeIterator<Item = NodeId> + DoubleEndedIterator {
        self.arena.children(self.id).map(NodeId)
    }

    /// Steps below the prompt: 0 of the root.
    pub fn depth(self) -> u32 {
        self.stats().depth
    }

    /// N: visits as [`VisitRule`](crate::config::VisitRule) counts them.
    pub fn visits(self) -> u32 {
        self.stats().visits
    }

    /// Sum of what was backed up through this node: what is trained on.
    pub fn q_total(self) -> f64 {
        self.stats().q_total
    }

    /// q_total / visits, 0 if never visited: what the search uses.
    pub fn q_mean(self) -> f64 {
        self.stats().q_mean()
    }

    /// Mean -logprob of the node's own tokens, in nats; `None` if no token had a usable logprob.
    pub fn entropy_nats(self) -> Option<f64> {
        known(self.stats().entropy_nats)
    }

    /// Sampled tokens, `[T]`; empty of the root.
    pub fn tokens(self) -> &'a [TokenId] {
        &self.body().tokens
    }

    /// Logprobs of the tokens as the engine gave them, `[T]`, in nats; NaN where missing.
    pub fn logprobs(self) -> &'a [f32] {
        &self.body().logprobs
    }

    /// Sampled tokens from depth 1 to this node.
    pub fn path_tokens_count(self) -> u64 {
        self.body().path_tokens
    }

    /// Why the engine stopped; `None` of the root.
    pub fn finish(self) -> Option<FinishReason> {
        (self.id != 0).then(|| self.body().finish)
    }

    /// The weights that sampled the tokens; `None` of the root.
    pub fn weight_version(self) -> Option<WeightVersion> {
        (self.id != 0).then(|| self.body().weight_version)
    }

    /// Nothing can follow it.
    pub fn is_terminal(self) -> bool {
        !self.stats().is_live()
    }

    /// Why it is terminal.
    pub fn ending(self) -> Option<Ending> {
        self.body().leaf.map(|leaf| leaf.ending)
    }

    /// What the verifier said; only of terminals.
    pub fn verdict(self) -> Option<Verdict> {
        self.body().leaf.map(|leaf| leaf.verdict)
    }

    /// What a backup carries from here: only of terminals whose check did not fail.
    pub fn reward(self) -> Option<f64> {
        self.body().leaf.filter(|leaf| leaf.verdict.is_settled()).map(|leaf| leaf.reward)
    }

    /// Mean -logprob of the whole path, in nats, as it ranked this terminal; `None` if unknown or not terminal.
    pub fn path_entropy_nats(self) -> Option<f64> {
        self.body().leaf.and_then(|leaf| known(leaf.entropy_nats))
    }

    /// Its place in the order of backups, from 0; `None` if not backed up.
    pub fn backup_order(self) -> Option<u32> {
        self.body().leaf.and_then(|leaf| leaf.backup_order)
    }

    /// Expansions of the tree before this node was last selected; only of nodes that were.
    pub fn selected_after(self) -> Option<u64> {
        self.body().selected.map(|_| self.body().selected_after)
    }

    /// It was expanded, and siblings may still join its children.
    pub fn has_room(self) -> bool {
        self.stats().has_room
    }

    /// How and with which score it was last selected.
    pub fn selected(self) -> Option<Selection> {
        self.body().selected.map(|(selection, _)| selection)
    }

    /// What that score was made of; `None` also where it was that of a child that is not sampled yet.
    pub fn selected_parts(self) -> Option<ScoreParts> {
        self.body().selected.and_then(|(_, parts)| parts)
    }
}

fn known(entropy_nats: f64) -> Option<f64> {
    (!entropy_nats.is_nan()).then_some(entropy_nats)
}
