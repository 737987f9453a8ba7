//! The same search written down as plainly as possible: every selection scans the whole tree, nothing is kept between
//! steps that could be computed again, and recursion follows the text. It shares no code with the real one but the
//! configuration and the types of events.

use orchestrator::config::{
    Backtrace, DepthBonus, GammaRule, NegativeChoice, QUpdate, SearchConfig, Siblings, TerminalsKept, TieBreak,
    Unvisited, VisitRule,
};
use orchestrator::rng::{Purpose, stream};
use orchestrator::search::{Event, SelectKind, Selection, StopReason};
use orchestrator::types::{NodeId, TokenId, Verdict};
use rand_chacha::rand_core::Rng;

use super::search_policy::{Chunk, END};

struct Node {
    tag: String,
    parent: usize,
    children: Vec<usize>,
    depth: u32,
    visits: u32,
    total: f64,
    chunk: Chunk,
    /// Ended by the policy, as far as the rules notice.
    ended: bool,
    terminal: bool,
    out: bool,
}

pub struct Naive<'a> {
    config: &'a SearchConfig,
    padding: TokenId,
    seed: u64,
    nodes: Vec<Node>,
    done: Vec<usize>,
    generated_tokens: u64,
    pub events: Vec<Event>,
}

fn mean_surprisal<'a>(tokens: impl Iterator<Item = &'a f32>) -> f64 {
    let usable: Vec<f64> = tokens.filter(|logprob| logprob.is_finite()).map(|&logprob| f64::from(logprob)).collect();
    -(usable.iter().sum::<f64>() / usable.len() as f64) + 0.0
}

fn unknown_last(entropy: f64) -> f64 {
    if entropy.is_nan() { f64::INFINITY } else { entropy }
}

impl<'a> Naive<'a> {
    pub fn new(config: &'a SearchConfig, padding: TokenId, seed: u64) -> Self {
        let root = Node {
            tag: "0".into(),
            parent: 0,
            children: Vec::new(),
            depth: 0,
            visits: 0,
            total: 0.0,
            chunk: Chunk { tokens: Vec::new(), logprobs: Vec::new(), verdict: Verdict::NoAnswer, is_lost: false },
            ended: false,
            terminal: false,
            out: false,
        };
        let nodes = vec![root];
        Naive { config, padding, seed, nodes, done: Vec::new(), generated_tokens: 0, events: Vec::new() }
    }

    /// Runs to the end.
    pub fn run(&mut self, policy: impl Fn(&str) -> Chunk) -> StopReason {
        let mut current = 0;
        let mut expansions = 0;
        loop {
            while self.missing(current) == 0 {
                match self.round(current) {
                    Ok(next) => current = next,
                    Err(reason) => return reason,
                }
            }
            let sampled = self.nodes[current].children.len() as u32;
            let missing = self.missing(current);
            let width = match (self.config.siblings, self.config.refill_width) {
                (Siblings::Lazy, _) if sampled == 0 => missing.min(self.config.first_width),
                (Siblings::Lazy, 1..) => missing.min(self.config.refill_width),
                _ => missing,
            };
            let most_tokens = u64::from(width * self.config.step_tokens);
            if self.config.max_expansions > 0 && expansions == self.config.max_expansions {
                return StopReason::ExpansionBudget;
            }
            if self.config.max_generated_tokens > 0
                && self.generated_tokens + most_tokens > self.config.max_generated_tokens
            {
                return StopReason::TokenBudget;
            }
            expansions += 1;
            let first_child = NodeId(self.nodes.len() as u32);
            for index in sampled + 1..=sampled + width {
                self.add(current, index, &policy);
            }
            self.events.push(Event::Expand { node: NodeId(current as u32), first_child, count: width });
            match self.round(current) {
                Ok(next) => current = next,
                Err(reason) => return reason,
            }
        }
    }

    /// Places of `node` that are not filled.
    fn missing(&self, node: usize) -> u32 {
        let full = self.config.width_at(self.nodes[node].depth);
        let entropy = self.own_entropy(node);
        let width = match self.config.entropy_width {
            Some(adaptive) if !entropy.is_nan() => {
                let least = adaptive.min_width.min(full);
                let share = (entropy - adaptive.low_nats) / (adaptive.high_nats - adaptive.low_nats);
                least + (share.clamp(0.0, 1.0) * f64::from(full - least)).round() as u32
            }
            _ => full,
        };
        width - self.nodes[node].children.len() as u32
    }

    /// It has some of its children, but not all.
    fn has_room(&self, node: usize) -> bool {
        !self.nodes[node].children.is_empty() && self.missing(node) > 0
    }

    fn add(&mut self, parent: usize, index: u32, policy: &impl Fn(&str) -> Chunk) {
        let tag = format!("{}.{index}", self.nodes[parent].tag);
        let chunk = policy(&tag);
        let rules = self.config.resolve();
        let stopped = chunk.tokens.last() == Some(&END);
        let ended = stopped && (rules.end_in_last_slot || chunk.tokens.len() < self.config.step_tokens as usize);
        let depth = self.nodes[parent].depth + 1;
        let reaches_end = ended || depth >= self.config.max_depth;
        let chunk = match self.config.stop_garbled && chunk.is_lost && !reaches_end {
            true => Chunk { verdict: Verdict::NoAnswer, ..chunk },
            false => Chunk { is_lost: false, ..chunk },
        };
        let terminal = reaches_end || chunk.is_lost;
        self.generated_tokens += chunk.tokens.len() as u64;
        let out = terminal && chunk.verdict == Verdict::Error;
        let id = self.nodes.len();
        self.nodes[parent].children.push(id);
        self.nodes.push(Node {
            tag,
            parent,
            children: Vec::new(),
            depth,
            visits: 0,
            total: 0.0,
            chunk,
            ended,
            terminal,
            out,
        });
    }

    fn path(&self, node: usize) -> Vec<usize> {
        let mut path = if node == 0 { Vec::new() } else { self.path(self.nodes[node].parent) };
        path.push(node);
        path
    }

    fn path_entropy(&self, leaf: usize) -> f64 {
        let path = self.path(leaf);
        let mut tokens: Vec<(TokenId, f32)> = path
            .iter()
            .flat_map(|&node| {
                let chunk = &self.nodes[node].chunk;
                chunk.tokens.iter().copied().zip(chunk.logprobs.iter().copied())
            })
            .collect();
        if self.config.resolve().entropy_skips_padding {
            while tokens.last().is_some_and(|token| token.0 == self.padding) {
                tokens.pop();
            }
        }
        mean_surprisal(tokens.iter().map(|token| &token.1))
    }

    fn own_entropy(&self, node: usize) -> f64 {
        mean_surprisal(self.nodes[node].chunk.logprobs.iter())
    }

    fn is_incomplete(&self, leaf: usize) -> bool {
        !self.nodes[leaf].ended && self.nodes[leaf].chunk.verdict == Verdict::NoAnswer
    }

    fn reward(&self, leaf: usize) -> f64 {
        match self.nodes[leaf].chunk.verdict {
            Verdict::Correct => 1.0,
            _ if self.is_incomplete(leaf) => self.config.incomplete_reward,
            _ => -1.0,
        }
    }

    fn round(&mut self, current: usize) -> Result<usize, StopReason> {
        let rules = self.config.resolve();
        let children = self.nodes[current].children.clone();
        let live: Vec<usize> = children.iter().copied().filter(|&child| !self.nodes[child].terminal).collect();
        let waiting: Vec<usize> =
            children.iter().copied().filter(|&child| self.nodes[child].terminal && !self.nodes[child].out).collect();
        if rules.visits == VisitRule::Candidates && !live.is_empty() {
            for &child in &live {
                self.nodes[child].visits += 1;
            }
            self.events.push(Event::Visit { nodes: live.iter().map(|&child| NodeId(child as u32)).collect() });
        }
        for leaf in self.picked(&waiting) {
            self.back_up(leaf);
            if self.done.len() == self.config.trajectories as usize {
                return Err(StopReason::Complete);
            }
        }
        if !rules.late_terminals {
            for &leaf in &waiting {
                self.nodes[leaf].out = true;
            }
        }
        let (kind, choice) = match (waiting.is_empty(), self.config.backtrace) {
            (true, _) if !live.is_empty() || self.has_room(current) => (SelectKind::UctChild, self.best_child(current)),
            (true, _) => (SelectKind::Fallback, self.best_of_all(true)),
            (false, Backtrace::Uct) => (SelectKind::UctRoot, self.best_child(0)),
            (false, Backtrace::Global) => (SelectKind::Global, self.best_of_all(self.config.frontier_leaves_only)),
        };
        let Some((node, score)) = choice else {
            self.events.push(Event::Exhausted);
            return Err(StopReason::Exhausted);
        };
        self.events.push(Event::Select { node: NodeId(node as u32), selection: Selection { kind, score } });
        Ok(node)
    }

    fn picked(&self, waiting: &[usize]) -> Vec<usize> {
        let rules = self.config.resolve();
        let correct = |leaf: usize| self.nodes[leaf].chunk.verdict == Verdict::Correct;
        let second = |leaf: usize| {
            if rules.incomplete_ranks_last { !self.is_incomplete(leaf) } else { self.reward(leaf) == -1.0 }
        };
        let entropy = |leaf: usize| self.path_entropy(leaf);
        let mut tier: Vec<usize> = waiting.iter().copied().filter(|&leaf| correct(leaf)).collect();
        // Stable sorts keep the child order on ties.
        if !tier.is_empty() {
            tier.sort_by(|&a, &b| unknown_last(entropy(a)).total_cmp(&unknown_last(entropy(b))));
            tier.truncate(if rules.terminals_kept == TerminalsKept::AllCorrect { usize::MAX } else { 1 });
            return tier;
        }
        tier = waiting.iter().copied().filter(|&leaf| second(leaf)).collect();
        if tier.is_empty() {
            tier = waiting.to_vec();
        }
        match self.config.negative {
            NegativeChoice::MostConfident => {
                tier.sort_by(|&a, &b| unknown_last(entropy(a)).total_cmp(&unknown_last(entropy(b))));
            }
            NegativeChoice::LeastConfident => {
                tier.sort_by(|&a, &b| unknown_last(-entropy(a)).total_cmp(&unknown_last(-entropy(b))));
            }
            NegativeChoice::Random if tier.len() > 1 => {
                let bits = stream(self.seed, Purpose::Search, &[self.done.len() as u64]).next_u64();
                // The leaf into whose equal share of all 64-bit numbers this one falls.
                let share = |index: usize| ((index as u128 + 1) << 64).div_ceil(tier.len() as u128);
                let chosen = (0..tier.len()).find(|&index| u128::from(bits) < share(index));
                tier = chosen.map(|index| tier[index]).into_iter().collect();
            }
            NegativeChoice::Random => {}
        }
        tier.truncate(1);
        tier
    }

    fn back_up(&mut self, leaf: usize) {
        let reward = self.reward(leaf);
        let leaf_depth = f64::from(self.nodes[leaf].depth);
        for node in self.path(leaf) {
            let depth = f64::from(self.nodes[node].depth);
            let share = match self.config.resolve().gamma {
                GammaRule::Shifted => (depth + 1.0) / (leaf_depth + 1.0),
                GammaRule::Plain => depth / leaf_depth,
            };
            let gained = share.max(self.config.gamma_min) * reward;
            let node = &mut self.nodes[node];
            node.visits += 1;
            let is_opposite = reward < 0.0 && node.total > 0.0 || reward > 0.0 && node.total < 0.0;
            match self.config.q_update {
                _ if reward == 0.0 => {}
                QUpdate::Simple if is_opposite => node.total = (node.total + gained).max(0.0),
                QUpdate::Constrained if is_opposite && reward > 0.0 => node.total = gained,
                QUpdate::Constrained if is_opposite => {}
                _ => node.total += gained,
            }
        }
        self.nodes[leaf].out = true;
        self.done.push(leaf);
        let entropy_nats = self.path_entropy(leaf);
        self.events.push(Event::Backup { leaf: NodeId(leaf as u32), reward, entropy_nats });
    }

    fn mean(&self, node: usize) -> f64 {
        let node = &self.nodes[node];
        if node.visits == 0 { 0.0 } else { node.total / f64::from(node.visits) }
    }

    fn best_child(&self, parent: usize) -> Option<(usize, f64)> {
        let rules = self.config.resolve();
        let above = f64::from(self.nodes[parent].visits);
        let scored =
            self.nodes[parent].children.iter().copied().filter(|&child| !self.nodes[child].terminal).map(|child| {
                let visits = f64::from(self.nodes[child].visits);
                let exploration = match rules.uct_unvisited {
                    Unvisited::First if visits == 0.0 => f64::INFINITY,
                    _ if visits == 0.0 || above == 0.0 => 0.0,
                    _ => self.config.uct_lambda * (above.ln() / visits).sqrt(),
                };
                (child, self.mean(child) + exploration)
            });
        let key = |score: f64| if rules.uct_single_precision { f64::from(score as f32) } else { score };
        let mut scored: Vec<(usize, f64)> = scored.collect();
        let missing = if rules.uct_unvisited == Unvisited::First { f64::INFINITY } else { 0.0 };
        let is_beaten = |score: f64| key(score) >= key(missing);
        if self.has_room(parent) && !scored.iter().any(|&(_, score)| is_beaten(score)) {
            scored = vec![(parent, missing)];
        }
        self.first_best(scored, key, rules.uct_ties)
    }

    /// Depth-first pre-order below `node`; what is not sampled of a node's children comes last, and is called `None`.
    fn preorder(&self, node: usize, out: &mut Vec<(usize, Option<usize>)>) {
        for &child in &self.nodes[node].children {
            out.push((node, Some(child)));
            self.preorder(child, out);
        }
        if self.has_room(node) {
            out.push((node, None));
        }
    }

    fn best_of_all(&self, leaves_only: bool) -> Option<(usize, f64)> {
        let mut order = Vec::new();
        self.preorder(0, &mut order);
        let is_candidate = |&(_, child): &(usize, Option<usize>)| match child {
            Some(child) => !self.nodes[child].terminal && (!leaves_only || self.nodes[child].children.is_empty()),
            None => true,
        };
        let scored: Vec<(usize, Option<usize>, f64)> = order
            .into_iter()
            .filter(is_candidate)
            .map(|(parent, child)| (parent, child, self.frontier_score(parent, child)))
            .collect();
        let doubt = |child: Option<usize>| child.map_or(f64::INFINITY, |child| unknown_last(self.own_entropy(child)));
        let mut best: Option<(usize, Option<usize>, f64)> = None;
        for (parent, child, score) in scored {
            let is_better = best.is_none_or(|(_, leader, top)| {
                let by_confidence = self.config.resolve().frontier_ties == TieBreak::Confidence;
                score > top || (score == top && by_confidence && doubt(child) < doubt(leader))
            });
            if is_better {
                best = Some((parent, child, score));
            }
        }
        best.map(|(parent, child, score)| (child.unwrap_or(parent), score))
    }

    /// Of a child of `parent`, or of one that it does not have yet.
    fn frontier_score(&self, parent: usize, child: Option<usize>) -> f64 {
        let config = self.config;
        let depth = f64::from(self.nodes[parent].depth + 1);
        let mut quality = config.frontier_value_weight * self.mean(parent).tanh();
        if let Some(child) = child.filter(|_| config.frontier_self_value_weight > 0.0) {
            quality += config.frontier_self_value_weight * self.mean(child).tanh();
        }
        if config.uncertainty_bonus && config.frontier_entropy_weight != 0.0 {
            let entropy = match child {
                Some(child) => self.own_entropy(child),
                None => {
                    let known = self.nodes[parent].children.iter().map(|&child| self.own_entropy(child));
                    let known: Vec<f64> = known.filter(|entropy| !entropy.is_nan()).collect();
                    known.iter().sum::<f64>() / known.len() as f64
                }
            };
            quality += if entropy.is_nan() { f64::NEG_INFINITY } else { config.frontier_entropy_weight * entropy };
        }
        let bonus = match config.depth_bonus {
            DepthBonus::None => 0.0,
            DepthBonus::Linear => depth,
            DepthBonus::Log => (depth + 1.0).ln(),
            DepthBonus::Sqrt => (depth / f64::from(config.max_depth)).sqrt(),
        };
        quality + config.frontier_depth_weight * bonus
    }

    fn first_best(&self, scored: Vec<(usize, f64)>, key: impl Fn(f64) -> f64, ties: TieBreak) -> Option<(usize, f64)> {
        let top = scored.iter().map(|&(_, score)| key(score)).fold(f64::NEG_INFINITY, f64::max);
        let mut tied: Vec<(usize, f64)> = scored.into_iter().filter(|&(_, score)| key(score) == top).collect();
        if ties == TieBreak::Confidence {
            tied.sort_by(|a, b| unknown_last(self.own_entropy(a.0)).total_cmp(&unknown_last(self.own_entropy(b.0))));
        }
        tied.first().copied()
    }
}
