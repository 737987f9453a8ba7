//! Logprobs of given tokens, and whether two servers agree on them.

use std::time::Duration;

use super::client::Client;
use super::wire::{Choice, Completion, CompletionRequest, Flaw};
use crate::inference::EngineError;
use crate::types::{Sampling, TokenId};

/// Largest mean difference between two servers that hold the same weights, in nats: bf16 on other batches or other
/// hardware stays below.
const TOLERANCE_NATS: f64 = 0.1;

/// The last tokens that were scored under the current weights, and their logprobs.
#[derive(Clone, Debug)]
pub(super) struct Canary {
    pub tokens: Vec<TokenId>,
    pub logprobs: Vec<f32>,
}

/// Body of a request for the logprobs of `tokens`. Asking for them makes the server compute the whole prompt, whatever
/// its cache holds.
pub(super) fn request<'a>(model: &'a str, tokens: &'a [TokenId], salt: &'a str) -> CompletionRequest<'a> {
    let neutral = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
    CompletionRequest { prompt_logprobs: Some(0), ..CompletionRequest::new(model, tokens, 1, neutral, salt) }
}

impl Canary {
    /// Whether the server at `client`, which is said to hold the same weights as `model`, agrees.
    ///
    /// # Errors
    /// [`EngineError::WeightsDiffer`] if not; else as the call.
    pub async fn check(&self, client: &Client, model: &str, deadline: Duration) -> Result<(), EngineError> {
        let answer = client.complete(&request(model, &self.tokens, "canary"), deadline).await?;
        let found = prompt_logprobs(answer, &self.tokens).map_err(|flaw| match flaw {
            Flaw::Aborted => EngineError::Interrupted {
                url: client.url().to_owned(),
                reason: "it was aborted by the server".to_owned(),
            },
            Flaw::Malformed(problem) => client.bad_answer("/v1/completions", problem),
        })?;
        let sum: f64 = found.iter().zip(&self.logprobs).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum();
        let mean = sum / self.logprobs.len().max(1) as f64;
        // A NaN is no agreement.
        if mean <= TOLERANCE_NATS {
            return Ok(());
        }
        Err(EngineError::WeightsDiffer {
            what: "mean of the canary's logprobs".to_owned(),
            expected: format!("within {TOLERANCE_NATS} nats of the other servers"),
            found: format!("{mean:.3} nats off"),
        })
    }
}

/// Logprobs of `tokens[1..]` from an answer with `prompt_logprobs`.
pub(super) fn prompt_logprobs(answer: Completion, tokens: &[TokenId]) -> Result<Vec<f32>, Flaw> {
    let malformed = |problem: String| Flaw::Malformed(problem);
    let [choice] = <[Choice; 1]>::try_from(answer.choices)
        .map_err(|choices| malformed(format!("{} choices, asked for 1", choices.len())))?;
    if choice.finish_reason.as_deref() == Some("abort") {
        return Err(Flaw::Aborted);
    }
    let positions = choice.prompt_logprobs.ok_or_else(|| malformed("no prompt_logprobs, though asked for".into()))?;
    if positions.len() != tokens.len() {
        return Err(malformed(format!("{} prompt_logprobs for {} tokens", positions.len(), tokens.len())));
    }
    let pairs = positions.iter().zip(tokens).enumerate().skip(1);
    pairs
        .map(|(i, (position, token))| {
            let found = position.as_ref().and_then(|by_token| by_token.get(&token.to_string()));
            let value = found.ok_or_else(|| malformed(format!("no logprob for token {token} at position {i}")))?;
            Ok(value.logprob.map_or(f32::NAN, |logprob| logprob as f32))
        })
        .collect()
}
