//! Requests, and what every answer must be.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::types::{Continuation, FinishReason, GenerateRequest, Sampling, TokenId};

/// The model's own distribution.
pub const NEUTRAL: Sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
/// The most likely token.
pub const GREEDY: Sampling = Sampling { temperature: 0.0, ..NEUTRAL };
/// Two ways to the same number in fp32; the order of summation differs.
pub const FP32_NATS: f32 = 1e-4;
/// Vocabulary of the tiny models.
pub const VOCAB: u32 = 512;

/// `n` continuations of 24 tokens at most, ended by nothing but the model's own end-of-text tokens.
pub fn request(tokens: &[TokenId], n: u32, seed: u64, sampling: Sampling) -> GenerateRequest {
    GenerateRequest {
        affinity: 1,
        tokens: tokens.to_vec(),
        n,
        max_tokens: 24,
        sampling,
        stop: Arc::new([]),
        stop_token_ids: Arc::new([]),
        seed,
        retain: true,
        deadline: Duration::from_secs(120),
    }
}

/// A prompt of `count` tokens for a tiny model, another for each `salt`.
pub fn prompt(count: u32, salt: u32) -> Vec<TokenId> {
    (0..count).map(|i| 3 + (i * 37 + salt * 101) % (VOCAB - 3)).collect()
}

/// `a` and then `b`.
pub fn joined(a: &[TokenId], b: &[TokenId]) -> Vec<TokenId> {
    [a, b].concat()
}

/// Tokens and the bits of their logprobs.
pub fn bits(continuations: &[Continuation]) -> Vec<(Vec<TokenId>, Vec<u32>, FinishReason)> {
    let of = |c: &Continuation| (c.tokens.clone(), c.logprobs.iter().map(|l| l.to_bits()).collect(), c.finish);
    continuations.iter().map(of).collect()
}

/// The largest difference of two rows of logprobs.
#[track_caller]
pub fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    // NaN is the largest of all, where `max` would drop it.
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.max_by(f32::total_cmp).unwrap_or(0.0)
}

#[track_caller]
pub fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    let difference = largest_difference(found, expected);
    assert!(difference < FP32_NATS, "{what} differ by {difference:e}: {found:?} and {expected:?}");
}

/// What holds for every answer of every engine.
#[track_caller]
pub fn assert_sound(continuations: &[Continuation], request: &GenerateRequest, vocab: usize, end_of_text: &[TokenId]) {
    assert_eq!(continuations.len(), request.n as usize);
    for continuation in continuations {
        let tokens = &continuation.tokens;
        assert!((1..=request.max_tokens as usize).contains(&tokens.len()), "{} tokens", tokens.len());
        assert!(tokens.iter().all(|&token| (token as usize) < vocab), "{tokens:?}");
        assert_eq!(continuation.logprobs.len(), tokens.len());
        let is_logprob = |logprob: &f32| logprob.is_finite() && *logprob <= 0.0;
        assert!(continuation.logprobs.iter().all(is_logprob), "{:?}", continuation.logprobs);
        let ends = |token: &TokenId| end_of_text.contains(token) || request.stop_token_ids.contains(token);
        let first_end = tokens.iter().position(ends);
        if let Some(first_end) = first_end {
            assert_eq!(first_end, tokens.len() - 1, "nothing follows an end: {tokens:?}");
            assert_eq!(continuation.finish, FinishReason::Stop);
        } else if request.stop.is_empty() {
            assert_eq!(continuation.finish, FinishReason::Length, "{tokens:?}");
        }
        if continuation.finish == FinishReason::Length {
            assert_eq!(tokens.len(), request.max_tokens as usize);
        }
    }
}
