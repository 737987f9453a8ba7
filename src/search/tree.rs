//! The state machine of one search.

use std::time::Duration;

use rand_chacha::rand_core::Rng;

use crate::config::{Backtrace, SearchConfig, SearchRules, VisitRule};
use crate::rng::{self, Purpose};
use crate::types::{Continuation, NodeId, TokenId, Verdict};

use super::budget::{self, Spent, StopReason};
use super::error::SearchError;
use super::event::{Event, ScoreParts, SelectKind, Selection};
use super::frontier::Frontier;
use super::node::{Arena, Fate, Leaf, NodeRef};
use super::terminal::{self, Ending, SpecialTokens};
use super::{backup, entropy, uct};

/// What a tree wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// `n` continuations of the path to `node`, to be given to [`Tree::supply`].
    Expand {
        /// The node to expand; never terminal. It has children already only where `siblings = "lazy"` left places open.
        node: NodeId,
        /// Continuations, at least 1.
        n: u32,
    },
    /// Nothing: the search is over.
    Done(StopReason),
}

/// One continuation on its way into the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// What the engine sampled.
    pub continuation: Continuation,
    /// What the verifier said: exactly where [`Tree::is_terminal`] holds.
    pub verdict: Option<Verdict>,
    /// The text up to its end is beyond hope, so that the branch ends here: only with `stop_garbled`, and only where
    /// [`Tree::is_terminal`] does not hold.
    pub is_lost: bool,
}

impl Child {
    /// A continuation, with a verdict if it is terminal.
    pub fn new(continuation: Continuation, verdict: Option<Verdict>) -> Child {
        Child { continuation, verdict, is_lost: false }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// This node is to be expanded.
    Wants(u32),
    Done(StopReason),
}

/// The search of one problem.
#[derive(Clone, Debug)]
pub struct Tree {
    config: SearchConfig,
    rules: SearchRules,
    special: SpecialTokens,
    seed: u64,
    arena: Arena,
    frontier: Frontier,
    state: State,
    trajectories: Vec<NodeId>,
    spent: Spent,
    events: Vec<Event>,
}

impl Tree {
    /// A tree that holds only its root, the prompt. `seed` names the tree's random choices, of which there are some only
    /// with `negative = "random"`.
    ///
    /// # Errors
    /// [`SearchError::Settings`] if `config` has [`problems`](SearchConfig::problems).
    pub fn new(config: &SearchConfig, special: SpecialTokens, seed: u64) -> Result<Tree, SearchError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(SearchError::Settings { problems });
        }
        let rules = config.resolve();
        Ok(Tree {
            frontier: Frontier::new(config, &rules),
            config: config.clone(),
            rules,
            special,
            seed,
            arena: Arena::new(),
            state: State::Wants(0),
            trajectories: Vec::new(),
            spent: Spent::default(),
            events: Vec::new(),
        })
    }

    /// What the tree wants now. Asking again gives the same answer until [`supply`](Self::supply).
    pub fn next(&self) -> Next {
        match self.state {
            State::Wants(node) => Next::Expand { node: NodeId(node), n: self.portion(node) },
            State::Done(reason) => Next::Done(reason),
        }
    }

    /// Whether `continuation` of `parent` would be terminal, so that it needs a verdict: the text ended, or `max_depth`
    /// is reached.
    pub fn is_terminal(&self, parent: NodeId, continuation: &Continuation) -> bool {
        self.node(parent).is_some_and(|parent| self.ending(parent.depth() + 1, continuation).is_some())
    }

    /// Takes the continuations of the wanted node, in order, and goes on to the next want: judges, backs up and selects
    /// until a node that lacks children is current. `elapsed` is the time since the search began.
    ///
    /// # Errors
    /// Every error but the settings'; the tree is unchanged then, and still wants the same.
    pub fn supply(&mut self, node: NodeId, children: Vec<Child>, elapsed: Duration) -> Result<(), SearchError> {
        let parent = self.check_supply(node, &children)?;
        let first_child = self.arena.len() as u32;
        let count = children.len() as u32;
        for child in children {
            self.plant(parent, child);
        }
        self.frontier.grow(self.arena.len());
        self.arena.stats_mut(parent).has_room = self.portion(parent) > 0;
        self.spent.expansions += 1;
        self.spent.elapsed = elapsed;
        self.record(|| Event::Expand { node, first_child: NodeId(first_child), count });
        self.round(parent);
        // A selected node that already has all its children gets another round instead of an expansion. This ends: such a round
        // either backs up a terminal, which happens once for each, or steps down to a child, or falls back to a leaf or
        // an open place of the frontier.
        while let State::Wants(current) = self.state
            && self.portion(current) == 0
        {
            self.round(current);
        }
        if let State::Wants(current) = self.state
            && let Some(reason) = budget::exceeded(&self.config, &self.spent, self.portion(current))
        {
            self.state = State::Done(reason);
        }
        Ok(())
    }

    /// Appends the tokens from below the root to `node`, in order.
    pub fn path_tokens(&self, node: NodeId, out: &mut Vec<TokenId>) {
        for step in self.path(node) {
            out.extend_from_slice(&self.arena.body(step.0).tokens);
        }
    }

    /// The nodes from below the root to `node`, in order; empty for the root and for a node this tree does not have.
    pub fn path(&self, node: NodeId) -> Vec<NodeId> {
        if node.index() >= self.arena.len() {
            return Vec::new();
        }
        let mut path: Vec<NodeId> = self.arena.ancestry(node.0).map(NodeId).collect();
        path.pop();
        path.reverse();
        path
    }

    /// The node's place as people write it: the root is `0`, its second child `0.2`.
    pub fn tag(&self, node: NodeId) -> String {
        let mut tag = "0".to_string();
        for step in self.path(node).into_iter().filter_map(|step| self.node(step)) {
            tag.push('.');
            tag.push_str(&(step.child_index() + 1).to_string());
        }
        tag
    }

    /// Read access to a node; `None` if this tree does not have it.
    pub fn node(&self, node: NodeId) -> Option<NodeRef<'_>> {
        (node.index() < self.arena.len()).then_some(NodeRef { arena: &self.arena, id: node.0 })
    }

    /// All nodes in the order of generation, the root first.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeRef<'_>> {
        (0..self.arena.len()).map(|id| NodeRef { arena: &self.arena, id: id as u32 })
    }

    /// Leaves of the trajectories in the order of their backups.
    pub fn trajectories(&self) -> &[NodeId] {
        &self.trajectories
    }

    /// What has been used up.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Everything that happened, in order; empty unless `event_log` is on.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The settings the tree was made with.
    pub fn config(&self) -> &SearchConfig {
        &self.config
    }

    /// The node's frontier score as things stand, whether or not it is eligible; `None` for the root and for terminals.
    pub fn frontier_score(&self, node: NodeId) -> Option<f64> {
        let (parent, node) = self.scored(node)?;
        Some(self.frontier.scoring().score(self.arena.stats(parent), self.arena.stats(node)))
    }

    /// The node a global selection would take now, and its score; among nodes without children and nodes with open places
    /// if `leaves_only`, else as `frontier_leaves_only` says. The score of a place is that of the child it would hold.
    pub fn frontier_leader(&mut self, leaves_only: bool) -> Option<(NodeId, f64)> {
        self.frontier.leader(&self.arena, leaves_only).map(|(node, score)| (NodeId(node), score))
    }

    fn scored(&self, node: NodeId) -> Option<(u32, u32)> {
        self.node(node).filter(|node| !node.is_terminal())?;
        Some((self.arena.parent(node.0)?, node.0))
    }

    /// Continuations of the next expansion of `node`; 0 if it has all its children.
    fn portion(&self, node: u32) -> u32 {
        let stats = self.arena.stats(node);
        let width = self.config.width_for(stats.depth, stats.entropy_nats);
        self.config.portion(width, stats.child_count())
    }

    fn ending(&self, depth: u32, continuation: &Continuation) -> Option<Ending> {
        terminal::ending(&self.config, &self.rules, &self.special, depth, continuation)
    }

    fn record(&mut self, event: impl FnOnce() -> Event) {
        if self.config.event_log {
            self.events.push(event());
        }
    }

    /// Everything that can be wrong with a supply, before anything is changed.
    fn check_supply(&self, node: NodeId, children: &[Child]) -> Result<u32, SearchError> {
        let parent = match self.state {
            State::Wants(wanted) if wanted == node.0 => wanted,
            State::Wants(wanted) => {
                return Err(SearchError::NotWanted { supplied: node, wanted: Some(NodeId(wanted)) });
            }
            State::Done(_) => return Err(SearchError::NotWanted { supplied: node, wanted: None }),
        };
        let expected = self.portion(parent);
        if children.len() != expected as usize {
            return Err(SearchError::ContinuationCount { node, expected, got: children.len() });
        }
        // The largest id stays free, as the mark for nobody.
        if self.arena.len() + children.len() >= u32::MAX as usize {
            return Err(SearchError::TooManyNodes { nodes: self.arena.len() });
        }
        let depth = self.arena.stats(parent).depth + 1;
        for (child, Child { continuation, verdict, is_lost }) in children.iter().enumerate() {
            let (tokens, logprobs) = (continuation.tokens.len(), continuation.logprobs.len());
            if tokens != logprobs {
                return Err(SearchError::LogprobCount { node, child, tokens, logprobs });
            }
            if tokens > self.config.step_tokens as usize {
                return Err(SearchError::TooLong { node, child, tokens, limit: self.config.step_tokens });
            }
            let ending = self.ending(depth, continuation);
            if *is_lost && (ending.is_some() || !self.config.stop_garbled) {
                return Err(SearchError::LossUnexpected { node, child });
            }
            match (ending, verdict) {
                (Some(_), None) => return Err(SearchError::VerdictMissing { node, child }),
                (None, Some(_)) => return Err(SearchError::VerdictUnexpected { node, child }),
                _ => {}
            }
        }
        Ok(parent)
    }

    /// Adds one checked child.
    fn plant(&mut self, parent: u32, Child { continuation, verdict, is_lost }: Child) {
        self.spent.generated_tokens += continuation.tokens.len() as u64;
        let judged = self.ending(self.arena.stats(parent).depth + 1, &continuation).zip(verdict);
        let child = self.arena.push_child(parent, continuation);
        let Some((ending, verdict)) = judged.or(is_lost.then_some((Ending::Lost, Verdict::NoAnswer))) else { return };
        let skipped = self.special.padding.filter(|_| self.rules.entropy_skips_padding);
        let leaf = Leaf {
            ending,
            verdict,
            reward: terminal::reward(&self.config, ending, verdict),
            entropy_nats: entropy::path_entropy_nats(&self.arena, child, skipped),
            backup_order: None,
        };
        self.arena.body_mut(child).leaf = Some(leaf);
        // A failed check says nothing of the answer: such a terminal takes no part, not even as a sign that the round
        // reached an end.
        self.arena.stats_mut(child).fate = if verdict.is_settled() { Fate::Waiting } else { Fate::Dropped };
    }

    /// One round on the children of `current` that are live or waiting: visits, backups, selection.
    fn round(&mut self, current: u32) {
        if self.rules.visits == VisitRule::Candidates {
            self.visit(current);
        }
        let reached_end = self.arena.children(current).any(|child| self.arena.stats(child).fate == Fate::Waiting);
        self.frontier.touch(current);
        // A choice has the number of the backup that it leads to: two rounds may follow one expansion.
        let backups = self.trajectories.len() as u64;
        let draw = || rng::stream(self.seed, Purpose::Search, &[backups]).next_u64();
        for leaf in backup::choose(self.config.negative, &self.rules, &self.arena, current, draw) {
            self.back_up(leaf);
            if self.trajectories.len() >= self.config.trajectories as usize {
                self.state = State::Done(StopReason::Complete);
                return;
            }
        }
        if !self.rules.late_terminals {
            for index in 0..self.arena.stats(current).child_count() {
                let stats = self.arena.stats_mut(self.arena.child(current, index));
                if stats.fate == Fate::Waiting {
                    stats.fate = Fate::Dropped;
                }
            }
        }
        self.frontier.bound_stale(&self.arena);
        self.select(current, reached_end);
    }

    /// One visit of each live child of `parent`, and of nobody else.
    fn visit(&mut self, parent: u32) {
        let mut visited = Vec::new();
        for index in 0..self.arena.stats(parent).child_count() {
            let child = self.arena.child(parent, index);
            let stats = self.arena.stats_mut(child);
            if !stats.is_live() {
                continue;
            }
            stats.visits += 1;
            if stats.q_total != 0.0 && stats.has_children() {
                self.frontier.touch(child);
            }
            if self.config.event_log {
                visited.push(NodeId(child));
            }
        }
        if !visited.is_empty() {
            self.events.push(Event::Visit { nodes: visited });
        }
    }

    fn back_up(&mut self, leaf: u32) {
        let order = self.trajectories.len() as u32;
        let Some(judged) = self.arena.leaf_mut(leaf) else { return };
        judged.backup_order = Some(order);
        let (reward, entropy_nats) = (judged.reward, judged.entropy_nats);
        self.arena.stats_mut(leaf).fate = Fate::BackedUp;
        backup::apply(&self.config, &self.rules, &mut self.arena, leaf, reward);
        self.trajectories.push(NodeId(leaf));
        self.record(|| Event::Backup { leaf: NodeId(leaf), reward, entropy_nats });
    }

    /// The next current node: by UCT below `current` until a round reached an end, then as `backtrace` says.
    fn select(&mut self, current: u32, reached_end: bool) {
        let from_root = reached_end && self.config.backtrace == Backtrace::Uct;
        let by_uct = |from| uct::best_child(&self.config, &self.rules, &self.arena, from);
        let (kind, choice) = if from_root {
            (SelectKind::UctRoot, by_uct(0))
        } else if reached_end {
            (SelectKind::Global, self.frontier.leader(&self.arena, self.config.frontier_leaves_only))
        } else if let Some(child) = by_uct(current) {
            (SelectKind::UctChild, Some(child))
        } else {
            (SelectKind::Fallback, self.frontier.leader(&self.arena, true))
        };
        let Some((node, score)) = choice else {
            self.record(|| Event::Exhausted);
            self.state = State::Done(StopReason::Exhausted);
            return;
        };
        let selection = Selection { kind, score };
        let after = self.spent.expansions;
        // A sibling that is not sampled yet goes by its parent's name, and its score is not made of the parent's parts.
        let parts = Some(self.score_parts(kind, node)).filter(|parts| parts.make(score));
        let body = self.arena.body_mut(node);
        (body.selected, body.selected_after) = (Some((selection, parts)), after);
        self.record(|| Event::Select { node: NodeId(node), selection });
        self.state = State::Wants(node);
    }

    fn score_parts(&self, kind: SelectKind, node: u32) -> ScoreParts {
        let (parent, node) = (self.arena.stats(self.arena.parent(node).unwrap_or(0)), self.arena.stats(node));
        match kind {
            SelectKind::UctChild | SelectKind::UctRoot => uct::parts(&self.config, &self.rules, parent, node),
            SelectKind::Global | SelectKind::Fallback => self.frontier.scoring().parts(parent, node),
        }
    }
}
