//! One supervised step: the mean negative logprob of given responses, with the packing, the backward pass and the
//! optimizer of reinforcement learning.
//!
//! The gradient is that of advantage 1 at ratio 1 with a mean over tokens; what is reported is the loss itself.

use super::error::TrainerError;
use super::learner::Learner;
use super::pack::PackedBatch;
use super::report::SkipReason;
use crate::types::TokenId;

/// A prompt and the response that is to be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenExample {
    /// Token ids, `[T]`, at least 1.
    pub prompt: Vec<TokenId>,
    /// Token ids, `[T]`, with what ends the response.
    pub response: Vec<TokenId>,
}

/// The examples of one optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub struct SupervisedBatch {
    /// Their order does not matter beyond rounding.
    pub examples: Vec<TokenExample>,
    /// The learning rate is multiplied by it beside the warm-up; 1 is none.
    pub learning_rate_frac: f64,
}

/// What one supervised step says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct SupervisedReport {
    /// Mean negative logprob of the response tokens before the update, in nats, at temperature 1.
    pub loss_nats: f64,
    /// Response tokens.
    pub response_tokens: usize,
    /// Rows computed, prompts included.
    pub packed_tokens: usize,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Why no update was made.
    pub skipped: Option<SkipReason>,
}

impl Learner {
    /// One supervised step on `batch`.
    ///
    /// # Errors
    /// [`TrainerError::Request`] for a batch without response tokens, with an empty prompt or with tokens outside the
    /// vocabulary; [`TrainerError::Diverged`]; [`TrainerError::Stopped`].
    pub fn supervise(&mut self, batch: &SupervisedBatch) -> Result<SupervisedReport, TrainerError> {
        self.check_trained()?;
        let vocab_size = self.model.vocab_size as usize;
        let response_tokens = check(&batch.examples, vocab_size)?;
        let batches = pack(&batch.examples, self.spec().config.micro_batch_tokens);
        self.parameters.zero_grad();
        let mut neg_logprob = 0.0;
        let slope = (-1.0 / response_tokens as f64) as f32;
        for batch in &batches {
            self.check_stop()?;
            self.backpropagate(batch, 1.0, &mut |_, logprobs| {
                neg_logprob -= logprobs.iter().map(|&logprob| f64::from(logprob)).sum::<f64>();
                vec![slope; logprobs.len()]
            });
        }
        self.optimizer.learning_rate_frac = batch.learning_rate_frac;
        let outcome = self.optimize();
        self.optimizer.learning_rate_frac = 1.0;
        let outcome = outcome?;
        Ok(SupervisedReport {
            loss_nats: neg_logprob / response_tokens as f64,
            response_tokens,
            packed_tokens: batches.iter().map(PackedBatch::len).sum(),
            grad_norm: outcome.grad_norm,
            learning_rate: outcome.learning_rate,
            skipped: outcome.skipped,
        })
    }
}

/// The number of response tokens of examples that can be learnt.
fn check(examples: &[TokenExample], vocab_size: usize) -> Result<usize, TrainerError> {
    let wrong = |reason: String| Err(TrainerError::Request { reason });
    for (index, example) in examples.iter().enumerate() {
        if example.prompt.is_empty() {
            return wrong(format!("the prompt of example {index} has no tokens, so nothing predicts the first one"));
        }
        let mut tokens = example.prompt.iter().chain(&example.response);
        if let Some(token) = tokens.find(|&&token| token as usize >= vocab_size) {
            return wrong(format!("token {token} of example {index} is outside the vocabulary of {vocab_size}"));
        }
    }
    match examples.iter().map(|example| example.response.len()).sum() {
        0 => wrong("no example has a response".to_owned()),
        tokens => Ok(tokens),
    }
}

/// Micro-batches of at most `budget_tokens` rows, in order; a longer example is one of its own.
fn pack(examples: &[TokenExample], budget_tokens: usize) -> Vec<PackedBatch> {
    let mut batches: Vec<PackedBatch> = Vec::new();
    for TokenExample { prompt, response } in examples.iter().filter(|example| !example.response.is_empty()) {
        let tokens = prompt.len() + response.len();
        match batches.last_mut() {
            Some(batch) if batch.len() + tokens <= budget_tokens => batch.append_example(prompt, response),
            _ => {
                let mut batch = PackedBatch::default();
                batch.append_example(prompt, response);
                batches.push(batch);
            }
        }
    }
    batches
}
