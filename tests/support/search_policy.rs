//! A made-up language model and verifier for search tests: what a node says depends on its tag and a seed only.
#![allow(dead_code)]

use std::time::Duration;

use orchestrator::config::SearchConfig;
use orchestrator::search::{Child, Next, SearchError, SpecialTokens, StopReason, Tree};
use orchestrator::types::{Continuation, FinishReason, NodeId, TokenId, Verdict, WeightVersion};

pub const PADDING: TokenId = 0;
pub const END: TokenId = 1;

/// One chunk of text with its outcome, should it turn out to be terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    pub tokens: Vec<TokenId>,
    pub logprobs: Vec<f32>,
    pub verdict: Verdict,
    /// It would be called lost where it goes on.
    pub is_lost: bool,
}

/// Shares are fractions of all chunks, or of all outcomes, that are like this.
#[derive(Clone, Debug)]
pub struct Policy {
    pub seed: u64,
    pub end_frac: f64,
    /// Of the chunks that end: those whose last slot holds the end of text.
    pub full_end_frac: f64,
    pub correct_frac: f64,
    pub no_answer_frac: f64,
    pub error_frac: f64,
    pub empty_frac: f64,
    pub nan_frac: f64,
    pub lost_frac: f64,
    /// Number of different logprobs: few make many ties.
    pub levels: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            seed: 1,
            end_frac: 0.3,
            full_end_frac: 0.2,
            correct_frac: 0.2,
            no_answer_frac: 0.2,
            error_frac: 0.0,
            empty_frac: 0.0,
            nan_frac: 0.0,
            lost_frac: 0.0,
            levels: 32,
        }
    }
}

/// Splitmix64 over the bytes of a name.
struct Dice(u64);

impl Dice {
    fn named(seed: u64, name: &str) -> Dice {
        let mut dice = Dice(seed);
        for byte in name.bytes() {
            dice.0 ^= u64::from(byte);
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 ^= mixed;
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, frac: f64) -> bool {
        (self.below(1_000_000) as f64) < frac * 1e6
    }
}

impl Policy {
    pub fn chunk(&self, tag: &str, step_tokens: u32) -> Chunk {
        let mut dice = Dice::named(self.seed, tag);
        let full = u64::from(step_tokens);
        let ends = dice.chance(self.end_frac);
        let fills = dice.chance(self.full_end_frac);
        let short = 1 + dice.below(full.saturating_sub(1).max(1));
        let length = if dice.chance(self.empty_frac) {
            0
        } else if ends && !fills {
            short
        } else {
            full
        };
        let mut tokens: Vec<TokenId> = (0..length).map(|_| 2 + dice.below(30) as TokenId).collect();
        if ends && let Some(last) = tokens.last_mut() {
            *last = END;
        }
        let logprobs = (0..length)
            .map(|_| {
                let level = 1 + dice.below(self.levels);
                if dice.chance(self.nan_frac) { f32::NAN } else { -(level as f32) / 64.0 }
            })
            .collect();
        let verdict = if dice.chance(self.error_frac) {
            Verdict::Error
        } else if dice.chance(self.correct_frac) {
            Verdict::Correct
        } else if dice.chance(self.no_answer_frac) {
            Verdict::NoAnswer
        } else {
            Verdict::Incorrect
        };
        Chunk { tokens, logprobs, verdict, is_lost: dice.chance(self.lost_frac) }
    }
}

impl Chunk {
    pub fn continuation(&self, end: TokenId) -> Continuation {
        let finish = if self.tokens.last() == Some(&end) { FinishReason::Stop } else { FinishReason::Length };
        Continuation {
            tokens: self.tokens.clone(),
            logprobs: self.logprobs.clone(),
            finish,
            weight_version: WeightVersion(3),
        }
    }
}

pub fn special(padding: TokenId, end: TokenId) -> SpecialTokens {
    SpecialTokens { end_of_text: vec![end], padding: Some(padding) }
}

/// The next continuations of `node`, each with a verdict where the tree says it is terminal.
pub fn children(tree: &Tree, node: NodeId, n: u32, end: TokenId, mut chunk: impl FnMut(&str) -> Chunk) -> Vec<Child> {
    let tag = tree.tag(node);
    let sampled = tree.node(node).map_or(0, |node| node.children().len()) as u32;
    (sampled + 1..=sampled + n)
        .map(|index| {
            let chunk = chunk(&format!("{tag}.{index}"));
            let continuation = chunk.continuation(end);
            let is_terminal = tree.is_terminal(node, &continuation);
            let is_lost = chunk.is_lost && !is_terminal && tree.config().stop_garbled;
            Child { is_lost, ..Child::new(continuation, is_terminal.then_some(chunk.verdict)) }
        })
        .collect()
}

/// One expansion; `None` when the search is over. A tick of 1 s passes with each.
pub fn step(tree: &mut Tree, end: TokenId, chunk: impl FnMut(&str) -> Chunk) -> Result<Option<NodeId>, SearchError> {
    let Next::Expand { node, n } = tree.next() else { return Ok(None) };
    let children = children(tree, node, n, end, chunk);
    let elapsed = tree.spent().elapsed + Duration::from_secs(1);
    tree.supply(node, children, elapsed)?;
    Ok(Some(node))
}

/// Runs a search to its end.
pub fn run(
    config: &SearchConfig,
    special: SpecialTokens,
    seed: u64,
    end: TokenId,
    mut chunk: impl FnMut(&str) -> Chunk,
) -> Result<(Tree, StopReason), SearchError> {
    let mut tree = Tree::new(config, special, seed)?;
    loop {
        if let Next::Done(reason) = tree.next() {
            return Ok((tree, reason));
        }
        step(&mut tree, end, &mut chunk)?;
    }
}
