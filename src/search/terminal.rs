//! Is this continuation a leaf, why, and what is it worth.

use crate::config::{SearchConfig, SearchRules};
use crate::types::{Continuation, FinishReason, TokenId, Verdict};

/// Reward of a correct answer (eq. 4).
pub const CORRECT_REWARD: f64 = 1.0;
/// Reward of a wrong one.
pub(super) const INCORRECT_REWARD: f64 = -1.0;

/// The token ids with a meaning of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Tokens after which nothing follows.
    pub end_of_text: Vec<TokenId>,
    /// Padding; only [`entropy_skips_padding`](SearchConfig::entropy_skips_padding) asks for it.
    pub padding: Option<TokenId>,
}

/// Why a node is terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The policy ended the text, or a stop sequence did.
    EndOfText,
    /// `max_depth` was reached in mid-text.
    DepthLimit,
    /// The text is garbled or in an endless loop, and [`stop_garbled`](SearchConfig::stop_garbled) is on.
    Lost,
}

impl Ending {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::EndOfText => "end_of_text",
            Ending::DepthLimit => "depth_limit",
            Ending::Lost => "lost",
        }
    }
}

/// Why a continuation at `depth` is terminal; `None` if it can be continued.
///
/// With `end_in_last_slot` off, a text that ends exactly where the chunk is full counts as going on, as the published
/// code has it: there the end is recognised by the padding behind it.
pub(super) fn ending(
    config: &SearchConfig,
    rules: &SearchRules,
    special: &SpecialTokens,
    depth: u32,
    continuation: &Continuation,
) -> Option<Ending> {
    let ended = if rules.end_in_last_slot {
        let last = continuation.tokens.last();
        continuation.finish == FinishReason::Stop || last.is_some_and(|token| special.end_of_text.contains(token))
    } else {
        continuation.finish == FinishReason::Stop && continuation.tokens.len() < config.step_tokens as usize
    };
    if ended { Some(Ending::EndOfText) } else { (depth >= config.max_depth).then_some(Ending::DepthLimit) }
}

/// Cut off by the budget, or because it was lost, without an answer.
pub(super) fn is_incomplete(ending: Ending, verdict: Verdict) -> bool {
    ending != Ending::EndOfText && verdict == Verdict::NoAnswer
}

/// What a terminal is worth: +1 correct, `incomplete_reward` if cut off without an answer, else -1 (eq. 4). Not to be
/// used where the verdict is not settled: such a terminal has no reward.
pub fn reward(config: &SearchConfig, ending: Ending, verdict: Verdict) -> f64 {
    if verdict == Verdict::Correct {
        CORRECT_REWARD
    } else if is_incomplete(ending, verdict) {
        config.incomplete_reward
    } else {
        INCORRECT_REWARD
    }
}
