//! Tree packing: groups of trajectories become a forest in which every shared token is computed once.
//!
//! A packed batch is one row per token: each prompt once, each node once. A row attends to exactly its ancestors and
//! sits at the position it has on its path, so hidden states equal those of separate sequences. The logprob of a
//! node's first token is read from the last row of its parent (several children may read one row), so what is scored
//! is a list of (source row, target token), one entry per sampled token. An entry carries the sum of the positive and
//! of the negative advantages of the trajectories through it: see `loss.rs` for why that is exact.
//!
//! The objective is a sum over trajectories, so a group that exceeds the budget is split by trajectories (the prompt
//! and shared nodes are then computed once per part) and any split gives the same gradient.
//!
//! Absent on purpose: tensors. The learner turns a batch into them when it is its turn.

use std::ops::Range;

use crate::types::{Provenance, TokenId, TrajectoryGroup};

use super::error::TrainerError;

/// A group and what each of its trajectories is worth.
#[derive(Clone, Copy, Debug)]
pub struct WeighedGroup<'a> {
    /// The group.
    pub group: &'a TrajectoryGroup,
    /// Advantage of every node of every trajectory, [trajectories][nodes of the path].
    pub advantages: &'a [Vec<f64>],
}

/// A run of rows: a prompt or a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its rows.
    pub rows: Range<usize>,
    /// The segment before it on the path; `None` for a prompt.
    pub parent: Option<usize>,
}

/// A run of rows without a branch, and what hangs below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its rows: each sees those before it.
    pub rows: Range<usize>,
    /// The rows right behind, each of which sees all of `rows`; empty for a leaf.
    pub descendants: Range<usize>,
}

/// One micro-batch [T rows, P scored tokens].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackedBatch {
    /// Token of each row, `[T]`.
    pub tokens: Vec<TokenId>,
    /// Place of each row on its path, from 0 at the start of the prompt, `[T]`.
    pub positions: Vec<u32>,
    /// Prompts and nodes depth-first: what descends from a segment is right behind it. Empty nodes leave no segment.
    pub segments: Vec<Segment>,
    /// Row whose logits predict the scored token, `[P]`.
    pub source_rows: Vec<u32>,
    /// The scored token, `[P]`.
    pub targets: Vec<TokenId>,
    /// Sum of the positive advantages of the trajectories through the token, `[P]`.
    pub advantage_plus: Vec<f64>,
    /// Sum of their negative advantages, `[P]`.
    pub advantage_minus: Vec<f64>,
    /// Number of trajectories through the token with a positive advantage, `[P]`.
    pub plus_count: Vec<u32>,
    /// Number of those with a negative advantage, `[P]`.
    pub minus_count: Vec<u32>,
    /// Logprob from the engine, NaN where missing, `[P]`.
    pub engine_logprobs: Vec<f32>,
    /// Whether the token is of cached solutions only: older weights sampled it, `[P]`.
    pub is_cached: Vec<bool>,
    /// False where an earlier part of a split group has scored the same token: statistics count a token once, `[P]`.
    pub is_first_use: Vec<bool>,
}

impl PackedBatch {
    /// T, the number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether the rows are one sequence, for which plain causal attention is the same and faster.
    pub fn is_chain(&self) -> bool {
        self.segments.iter().enumerate().all(|(i, s)| s.parent == i.checked_sub(1))
    }

    /// The rows as chains, depth-first, as few as there can be: a segment that is the only child of its parent goes on
    /// with it.
    pub fn chains(&self) -> Vec<Chain> {
        let mut children = vec![0usize; self.segments.len()];
        let mut ends: Vec<usize> = self.segments.iter().map(|segment| segment.rows.end).collect();
        for (index, segment) in self.segments.iter().enumerate().rev() {
            if let Some(parent) = segment.parent {
                children[parent] += 1;
                ends[parent] = ends[parent].max(ends[index]);
            }
        }
        let mut chains: Vec<Chain> = Vec::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let rows = segment.rows.clone();
            match chains.last_mut() {
                Some(chain) if segment.parent.is_some_and(|parent| children[parent] == 1) => {
                    chain.rows.end = rows.end;
                    chain.descendants.start = rows.end;
                }
                _ => chains.push(Chain { descendants: rows.end..ends[index], rows }),
            }
        }
        chains
    }

    /// One sequence, every token but the first scored with advantage 0: what `score` runs.
    pub fn sequence(tokens: &[TokenId]) -> PackedBatch {
        let scored = tokens.len().saturating_sub(1);
        PackedBatch {
            tokens: tokens.to_vec(),
            positions: (0..tokens.len() as u32).collect(),
            segments: vec![Segment { rows: 0..tokens.len(), parent: None }],
            source_rows: (0..scored as u32).collect(),
            targets: tokens.iter().skip(1).copied().collect(),
            advantage_plus: vec![0.0; scored],
            advantage_minus: vec![0.0; scored],
            plus_count: vec![0; scored],
            minus_count: vec![0; scored],
            engine_logprobs: vec![f32::NAN; scored],
            is_cached: vec![false; scored],
            is_first_use: vec![true; scored],
        }
    }

    /// Which rows a row sees: itself and its ancestors, [T * T] by rows.
    pub fn visibility(&self) -> Vec<bool> {
        let size = self.len();
        let mut visible = vec![false; size * size];
        for segment in &self.segments {
            let mut seen_by = segment.parent.and_then(|parent| self.segments[parent].rows.clone().last());
            for row in segment.rows.clone() {
                if let Some(previous) = seen_by {
                    // All that the previous row sees lies before it.
                    visible.copy_within(previous * size..previous * size + previous + 1, row * size);
                }
                visible[row * size + row] = true;
                seen_by = Some(row);
            }
        }
        visible
    }

    fn append(&mut self, part: &Part<'_>) {
        let group = part.weighed.group;
        let prompt = self.push_segment(&group.prompt.tokens, 0, None);
        // Segment and end position of each node; a node without tokens stands for its parent.
        let mut ends: Vec<Option<(usize, u32)>> = vec![None; group.nodes.len()];
        for index in depth_first(group) {
            let Some(through) = &part.nodes[index] else { continue };
            let node = &group.nodes[index];
            let (parent, start) =
                node.parent.and_then(|p| ends[p]).unwrap_or((prompt, group.prompt.tokens.len() as u32));
            if node.tokens.is_empty() {
                ends[index] = Some((parent, start));
                continue;
            }
            let predictor = self.segments[parent].rows.end - 1;
            let segment = self.push_segment(&node.tokens, start, Some(parent));
            ends[index] = Some((segment, start + node.tokens.len() as u32));
            let first_row = self.segments[segment].rows.start;
            for (offset, (&token, &logprob)) in node.tokens.iter().zip(&node.logprobs).enumerate() {
                let source = if offset == 0 { predictor } else { first_row + offset - 1 };
                self.source_rows.push(source as u32);
                self.targets.push(token);
                self.advantage_plus.push(through.plus);
                self.advantage_minus.push(through.minus);
                self.plus_count.push(through.plus_count);
                self.minus_count.push(through.minus_count);
                self.engine_logprobs.push(logprob);
                self.is_cached.push(through.is_cached);
                self.is_first_use.push(through.is_first_use);
            }
        }
    }

    /// A prompt and its response as rows of their own, every response token scored.
    pub(super) fn append_example(&mut self, prompt: &[TokenId], response: &[TokenId]) {
        let before = self.push_segment(prompt, 0, None);
        let segment = self.push_segment(response, prompt.len() as u32, Some(before));
        let rows = self.segments[segment].rows.clone();
        for (row, &token) in rows.zip(response) {
            // Responses follow their prompts, so the row before is the token before.
            self.source_rows.push(row as u32 - 1);
            self.targets.push(token);
            self.advantage_plus.push(0.0);
            self.advantage_minus.push(0.0);
            self.plus_count.push(0);
            self.minus_count.push(0);
            self.engine_logprobs.push(f32::NAN);
            self.is_cached.push(false);
            self.is_first_use.push(true);
        }
    }

    fn push_segment(&mut self, tokens: &[TokenId], start: u32, parent: Option<usize>) -> usize {
        let first = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(start..start + tokens.len() as u32);
        self.segments.push(Segment { rows: first..self.tokens.len(), parent });
        self.segments.len() - 1
    }
}

/// The nodes of a group in an order in which what descends from a node is right behind it.
fn depth_first(group: &TrajectoryGroup) -> Vec<usize> {
    let mut children = vec![Vec::new(); group.nodes.len()];
    let mut waiting = Vec::new();
    for (index, node) in group.nodes.iter().enumerate().rev() {
        node.parent.map_or(&mut waiting, |parent| &mut children[parent]).push(index);
    }
    let mut order = Vec::with_capacity(group.nodes.len());
    while let Some(index) = waiting.pop() {
        order.push(index);
        waiting.append(&mut children[index]);
    }
    order
}

/// What the trajectories of one part do to one node.
#[derive(Clone, Copy, Debug, Default)]
struct Through {
    plus: f64,
    minus: f64,
    plus_count: u32,
    minus_count: u32,
    is_cached: bool,
    is_first_use: bool,
}

/// Some trajectories of one group, small enough for a micro-batch.
struct Part<'a> {
    weighed: WeighedGroup<'a>,
    nodes: Vec<Option<Through>>,
    tokens: usize,
}

/// Checks what packing relies on: node and path order, matching lengths, finite values, token ids below
/// `vocab_size`.
///
/// # Errors
/// [`TrainerError::Group`] names the rule that does not hold.
pub fn check_group(group: &TrajectoryGroup, vocab_size: usize) -> Result<(), TrainerError> {
    let wrong = |reason: String| Err(TrainerError::Group { problem: group.problem, reason });
    if group.prompt.tokens.is_empty() {
        return wrong("its prompt has no tokens, so nothing predicts the first sampled one".into());
    }
    let too_large = |tokens: &[TokenId]| tokens.iter().copied().find(|&t| t as usize >= vocab_size);
    if let Some(token) = too_large(&group.prompt.tokens) {
        return wrong(format!("token {token} of its prompt is outside the vocabulary of {vocab_size}"));
    }
    for (index, node) in group.nodes.iter().enumerate() {
        if node.parent.is_some_and(|parent| parent >= index) {
            return wrong(format!("node {index} comes before its parent"));
        }
        if node.tokens.len() != node.logprobs.len() {
            let (tokens, logprobs) = (node.tokens.len(), node.logprobs.len());
            return wrong(format!("node {index} has {tokens} tokens and {logprobs} logprobs"));
        }
        if !node.q_total.is_finite() {
            return wrong(format!("node {index} has the value {}", node.q_total));
        }
        if let Some(token) = too_large(&node.tokens) {
            return wrong(format!("token {token} of node {index} is outside the vocabulary of {vocab_size}"));
        }
    }
    for (index, trajectory) in group.trajectories.iter().enumerate() {
        if trajectory.path.is_empty() {
            return wrong(format!("trajectory {index} has no nodes"));
        }
        if !trajectory.reward.is_finite() {
            return wrong(format!("trajectory {index} has the reward {}", trajectory.reward));
        }
        let mut parent = None;
        for &node in &trajectory.path {
            if group.nodes.get(node).is_none_or(|n| n.parent != parent) {
                return wrong(format!("trajectory {index} does not follow the tree at node {node}"));
            }
            parent = Some(node);
        }
    }
    Ok(())
}

/// Sampled tokens of a trajectory, counted from its nodes.
pub fn response_tokens(group: &TrajectoryGroup, trajectory: usize) -> usize {
    group.trajectories[trajectory].path.iter().map(|&node| group.nodes[node].tokens.len()).sum()
}

/// Packs checked groups into micro-batches of at most `budget_tokens` rows, in order. A single trajectory longer than
/// the budget is a batch of its own.
pub fn pack(groups: &[WeighedGroup<'_>], budget_tokens: usize) -> Vec<PackedBatch> {
    let mut batches: Vec<PackedBatch> = Vec::new();
    for &weighed in groups {
        for part in split(weighed, budget_tokens) {
            match batches.last_mut() {
                Some(batch) if batch.len() + part.tokens <= budget_tokens => batch.append(&part),
                _ => {
                    let mut batch = PackedBatch::default();
                    batch.append(&part);
                    batches.push(batch);
                }
            }
        }
    }
    batches
}

/// The parts of one group: trajectories in tree order (neighbours share most), as many to a part as fit.
fn split(weighed: WeighedGroup<'_>, budget_tokens: usize) -> Vec<Part<'_>> {
    let group = weighed.group;
    let mut order: Vec<usize> = (0..group.trajectories.len()).collect();
    order.sort_by(|&a, &b| group.trajectories[a].path.cmp(&group.trajectories[b].path));
    let mut used = vec![false; group.nodes.len()];
    // What a rollout of now shares with a cached solution was sampled now.
    let mut is_cached = vec![true; group.nodes.len()];
    for trajectory in group.trajectories.iter().filter(|t| t.provenance != Provenance::Cached) {
        for &node in &trajectory.path {
            is_cached[node] = false;
        }
    }
    let mut parts: Vec<Part<'_>> = Vec::new();
    for index in order {
        let path = &group.trajectories[index].path;
        let added = |nodes: &[Option<Through>]| -> usize {
            path.iter().filter(|&&n| nodes[n].is_none()).map(|&n| group.nodes[n].tokens.len()).sum()
        };
        let fits = parts.last().is_some_and(|part| part.tokens + added(&part.nodes) <= budget_tokens);
        if !fits {
            let nodes = vec![None; group.nodes.len()];
            parts.push(Part { weighed, nodes, tokens: group.prompt.tokens.len() });
        }
        let Some(part) = parts.last_mut() else { continue };
        part.tokens += added(&part.nodes);
        for (&node, &advantage) in path.iter().zip(&weighed.advantages[index]) {
            let is_first_use = !used[node];
            used[node] = true;
            let fresh = Through { is_first_use, is_cached: is_cached[node], ..Through::default() };
            let through = part.nodes[node].get_or_insert(fresh);
            if advantage > 0.0 {
                through.plus += advantage;
                through.plus_count += 1;
            } else if advantage < 0.0 {
                through.minus += advantage;
                through.minus_count += 1;
            }
        }
    }
    parts
}
