//! Token sequences on their way to and from an engine. Token ids are the truth; text is a view of them.

use std::sync::Arc;
use std::time::Duration;

use super::WeightVersion;

/// Index into the model's vocabulary.
pub type TokenId = u32;

/// A problem posed to the policy: made once, never re-tokenised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids, special tokens included, as the engine receives them.
    pub tokens: Arc<[TokenId]>,
    /// The same prompt as text, for people.
    pub text: Arc<str>,
}

/// Why an engine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// End-of-text token or a stop sequence; the ending token is the last of `tokens`.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

/// How tokens are drawn from the policy's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 means greedy.
    pub temperature: f64,
    /// Nucleus mass in (0, 1]; 1 is off.
    pub top_p: f64,
    /// Number of most likely tokens kept; 0 is off.
    pub top_k: u32,
}

/// One request to an engine: `n` continuations of one token sequence.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// Requests with the same affinity go to the same replica while it is healthy, so that its prefix cache is hit.
    /// One value per tree.
    pub affinity: u64,
    /// Prompt and path so far, `[T]` token ids.
    pub tokens: Vec<TokenId>,
    /// Number of independent continuations, at least 1.
    pub n: u32,
    /// Largest number of tokens per continuation, at least 1.
    pub max_tokens: u32,
    /// The sampling distribution.
    pub sampling: Sampling,
    /// Texts that end a continuation; the token that completes one is kept in `Continuation::tokens`.
    pub stop: Arc<[String]>,
    /// Token ids that end a continuation beside the model's own end-of-text tokens.
    pub stop_token_ids: Arc<[TokenId]>,
    /// Continuation `i` draws from the stream `seed + i`; requests space their seeds by at least `n`.
    pub seed: u64,
    /// Whether the caller may extend the continuations that end by length: an engine that can keeps their keys and values.
    pub retain: bool,
    /// Time allowed for each attempt, from the moment the server has a place for it.
    pub deadline: Duration,
}

/// One sampled continuation of at most `max_tokens` tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    /// Sampled token ids, `[T]`; the end-of-text token is included when it was sampled.
    pub tokens: Vec<TokenId>,
    /// Logprob of each sampled token under the policy that sampled it, `[T]`, in nats, at most 0.
    /// NaN where the engine returned none: such a token's ratio correction is neutral, and it is counted.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// The weights that sampled it.
    pub weight_version: WeightVersion,
}
