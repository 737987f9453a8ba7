//! Which logprobs does this server return? Found by asking, not by reading a flag, since a wrong answer would bias
//! the ratio trainer/server in every update without any error.
//!
//! One token is drawn twice after the same prompt, with its most likely alternatives: once at temperature 1 without
//! truncation, where raw and processed logprobs agree, once as configured. Differences between two tokens' logprobs
//! do not depend on normalisation: raw ones stay as they were, processed ones are divided by the temperature.

use std::collections::HashMap;
use std::time::Duration;

use super::client::Client;
use super::wire::CompletionRequest;
use crate::config::LogprobsMode;
use crate::inference::EngineError;
use crate::types::{Sampling, TokenId};

/// Alternatives asked for; the server's default limit is 20.
const ALTERNATIVES: u32 = 10;
/// Largest root mean square error of the better explanation, in nats: bf16 under load stays below.
const TOLERANCE_NATS: f64 = 0.1;
/// Temperatures nearer to 1 than this bias the ratio by less than bf16 noise, and cannot be told apart.
const NEUTRAL_TEMPERATURE: f64 = 1e-3;
const NEUTRAL: Sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };

/// Refuses sampling settings that no server can return fitting logprobs for.
pub(super) fn check_sampling(sampling: Sampling) -> Result<(), EngineError> {
    if !sampling.temperature.is_finite() || sampling.temperature <= 0.0 {
        return Err(EngineError::Biased {
            problem: format!("`search.temperature` is {}, and greedy sampling explores nothing", sampling.temperature),
            hint: "set `search.temperature` above 0; the paper uses 1.0".into(),
        });
    }
    if sampling.top_p < 1.0 || sampling.top_k > 0 {
        return Err(EngineError::Biased {
            problem: format!(
                "`search.top_p` is {} and `search.top_k` is {}: tokens would be drawn from a truncated distribution \
                 that the trainer does not score, which biases the ratio of every token",
                sampling.top_p, sampling.top_k
            ),
            hint: "set `search.top_p = 1.0` and `search.top_k = 0`, as the paper does".into(),
        });
    }
    Ok(())
}

/// Finds which logprobs the server returns at `sampling`; `None` where raw and processed are the same.
///
/// # Errors
/// [`EngineError::Biased`] if neither explains what the server returns; else as the calls.
pub(super) async fn logprobs_mode(
    client: &Client,
    model: &str,
    vocab_tokens: usize,
    sampling: Sampling,
    deadline: Duration,
) -> Result<Option<LogprobsMode>, EngineError> {
    let (mut raw, mut processed, mut count) = (0.0, 0.0, 0);
    for first in [1, 3, 7] {
        let prompt: Vec<TokenId> = (0..8).map(|i| (first * (i + 5) * 11 % vocab_tokens as u64) as TokenId).collect();
        let base = top_logprobs(client, model, &prompt, NEUTRAL, deadline).await?;
        let configured = top_logprobs(client, model, &prompt, sampling, deadline).await?;
        let mut common: Vec<(f64, f64)> =
            base.iter().filter_map(|(id, &b)| configured.get(id).map(|&c| (b, c))).collect();
        common.sort_by(|a, b| b.0.total_cmp(&a.0));
        if let Some((&(top_base, top_configured), rest)) = common.split_first() {
            for &(b, c) in rest {
                let (before, after) = (top_base - b, top_configured - c);
                raw += (after - before).powi(2);
                processed += (after - before / sampling.temperature).powi(2);
                count += 1;
            }
        }
    }
    let is_neutral = (sampling.temperature - 1.0).abs() <= NEUTRAL_TEMPERATURE;
    if count == 0 && is_neutral {
        // Weights left behind by a run that diverged: at temperature 1 there is nothing to tell apart.
        return Ok(None);
    }
    let error = |sum: f64| if count == 0 { f64::INFINITY } else { (sum / f64::from(count)).sqrt() };
    let (raw, processed) = (error(raw), error(processed));
    tracing::debug!(raw_error_nats = raw, processed_error_nats = processed, pairs = count, "logprobs probed");
    if raw.min(processed) > TOLERANCE_NATS {
        return Err(EngineError::Biased {
            problem: format!(
                "the server at `{}` returns neither raw nor processed logprobs at temperature {} (errors {raw:.3} and \
                 {processed:.3} nats over {count} pairs of tokens)",
                client.url(),
                sampling.temperature
            ),
            hint: "start the server with `--logprobs-mode processed_logprobs`".into(),
        });
    }
    if is_neutral {
        return Ok(None);
    }
    Ok(Some(if raw < processed { LogprobsMode::Raw } else { LogprobsMode::Processed }))
}

/// Refuses a server whose logprobs do not belong to the distribution that is sampled from.
pub(super) fn check_mode(url: &str, mode: Option<LogprobsMode>, sampling: Sampling) -> Result<(), EngineError> {
    if mode != Some(LogprobsMode::Raw) {
        return Ok(());
    }
    Err(EngineError::Biased {
        problem: format!(
            "the server at `{url}` returns raw logprobs, but `search.temperature` is {}: they are not those of the \
             distribution that is sampled from, which biases the ratio of every token",
            sampling.temperature
        ),
        hint: "start the server with `--logprobs-mode processed_logprobs` (`inference.logprobs_mode = \"processed\"` \
               for a launched one), or set `search.temperature = 1.0`"
            .into(),
    })
}

/// Logprobs of the most likely first tokens after `prompt`, by `token_id:N`.
async fn top_logprobs(
    client: &Client,
    model: &str,
    prompt: &[TokenId],
    sampling: Sampling,
    deadline: Duration,
) -> Result<HashMap<String, f64>, EngineError> {
    let request = CompletionRequest {
        logprobs: ALTERNATIVES,
        return_tokens_as_token_ids: true,
        ..CompletionRequest::new(model, prompt, 1, sampling, "probe")
    };
    let answer = client.complete(&request, deadline).await?;
    let found = answer
        .choices
        .into_iter()
        .next()
        .and_then(|choice| choice.logprobs)
        .and_then(|logprobs| logprobs.top_logprobs)
        .and_then(|positions| positions.into_iter().next().flatten())
        .ok_or_else(|| client.bad_answer("/v1/completions", "no `top_logprobs`, though asked for".into()))?;
    Ok(found.into_iter().filter_map(|(id, value)| value.filter(|v| *v > -9000.0).map(|v| (id, v))).collect())
}
