//! One supervised step: the mean negative logprob of given responses, with the packing, the backward pass and the
//! optimizer of reinforcement learning.
//!
//! The gradient is that of advantage 1 at ratio 1 with a mean over tokens; what is reported is the loss itself.

use tch::{Kind, Tensor};

use super::error::TrainerError;
use super::learner::Learner;
use super::pack::PackedBatch;
use super::report::SkipReason;
use super::retry::Sizes;
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
        let longest_tokens = batch.examples.iter().map(|e| e.prompt.len() + e.response.len()).max().unwrap_or(0);
        self.check_longest(longest_tokens)?;
        let (batches, neg_logprob) = loop {
            let batches = pack(&batch.examples, self.budget_tokens);
            let largest_tokens = batches.iter().map(PackedBatch::len).max().unwrap_or(0);
            let sizes = Sizes { longest_tokens, largest_tokens };
            let pass = |learner: &mut Learner| learner.supervised_gradients(&batches, response_tokens);
            if let Some(neg_logprob) = self.attempt(sizes, pass)? {
                break (batches, neg_logprob);
            }
        };
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

    /// The gradient of the examples, from zero; returns the sum of their negative logprobs.
    fn supervised_gradients(&mut self, batches: &[PackedBatch], response_tokens: usize) -> Result<f64, TrainerError> {
        self.parameters.zero_grad();
        let slope = -1.0 / response_tokens as f64;
        let mut sum: Option<Tensor> = None;
        for batch in batches {
            self.check_stop()?;
            self.backpropagate(batch, 1.0, &mut |_, logprobs| {
                let share = logprobs.sum(Kind::Double);
                sum = Some(sum.take().map_or_else(|| share.shallow_clone(), |sum| sum + &share));
                logprobs.full_like(slope)
            });
        }
        Ok(sum.map_or(0.0, |sum| -sum.double_value(&[])))
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
