//! Engines: what generates continuations and takes new weights. Nothing of HTTP and nothing of tensors here.
//!
//! Invariant: a [`Continuation`](crate::types::Continuation) carries the version of the weights that sampled it, and
//! no engine answers from a prefix cache of other weights. An engine whose weights are in doubt answers with
//! [`EngineError::Fenced`] until it has confirmed a load.

pub mod error;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use error::EngineError;

use crate::types::{Continuation, GenerateRequest, TokenId, WeightManifest, WeightVersion};

/// What every engine call returns.
pub type EngineFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>;

/// A server or an in-process sampler.
pub trait Engine: Send + Sync {
    /// Samples `request.n` continuations, in order.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request; nothing of it is kept.
    fn generate(&self, request: GenerateRequest) -> EngineFuture<'_, Vec<Continuation>>;

    /// Logprobs of `tokens[1..]` given what precedes each, [T - 1], in nats, at temperature 1, under the weights now
    /// held. Used as the canary after a load.
    fn score<'a>(&'a self, tokens: &'a [TokenId]) -> EngineFuture<'a, Vec<f32>>;

    /// Replaces the weights and returns only when every replica has confirmed version and checksums and holds no
    /// cache of older weights.
    fn load_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, LoadReport>;

    /// What the engine can do, as found at start.
    fn capabilities(&self) -> &Capabilities;
}

/// What an engine said of itself at start.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// Largest number of prompt and generated tokens together.
    pub max_model_tokens: usize,
    /// Largest number of sequences that are worth having in flight.
    pub max_sequences: usize,
    /// Sampled-token logprobs are those of the distribution that is sampled from, at the configured sampling.
    pub logprobs_match_sampling: bool,
}

/// How a load of weights went.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadReport {
    /// The version every replica now holds.
    pub version: WeightVersion,
    /// From the pause to the confirmation of the last replica.
    pub elapsed: Duration,
    /// Time of each phase, in order: pause, load, verify, reset cache, resume.
    pub phases: Vec<(String, Duration)>,
}
