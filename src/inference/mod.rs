//! Engines: what generates continuations and takes new weights. Nothing of HTTP and nothing of tensors here.
//!
//! Invariant: a [`Continuation`] carries the version of the weights that sampled it, and
//! no engine answers from a prefix cache of other weights. A server whose weights are in doubt answers with
//! [`EngineError::Fenced`] until it has confirmed a load; the embedded engine lets requests wait from an update until the
//! new weights have a version.

pub mod error;
mod retry;
pub mod vllm;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use error::EngineError;

use crate::types::{Continuation, GenerateRequest, TokenId, WeightManifest, WeightVersion};

/// What every engine call returns.
pub type EngineFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>;

/// A server or an in-process sampler.
pub trait Engine: Send + Sync {
    /// Samples `request.n` continuations, in order, all under one weight version.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request; nothing of it is kept.
    fn generate(&self, request: GenerateRequest) -> EngineFuture<'_, Vec<Continuation>>;

    /// Logprobs of `tokens[1..]` given what precedes each, `[T - 1]`, in nats, at temperature 1, under the weights now
    /// held: one row per replica in service, computed without any cache. Used as the canary after a load.
    fn score<'a>(&'a self, tokens: &'a [TokenId]) -> EngineFuture<'a, Vec<Vec<f32>>>;

    /// Replaces the weights and returns only when every replica in service has confirmed version and checksums and holds
    /// no cache of older weights; one that did not is out of service until it does. Requests in flight are stopped and
    /// sampled again under the new weights.
    ///
    /// # Cancel safety
    /// Not cancel safe: a replica whose reload was dropped half way is fenced off.
    fn load_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, LoadReport>;

    /// Asks every replica in service whether it still holds the weights of `manifest`: another program may have loaded its own into
    /// a server that is shared, or restarted it.
    fn confirm_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, ()>;

    /// Frees the memory of the device for an update: nothing is in flight, and nothing is sampled until [`Self::wake`].
    fn rest(&self) -> EngineFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Takes the memory again, with the weights of before.
    fn wake(&self) -> EngineFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The tree of `affinity` is finished: what is cached for it alone may go.
    fn release(&self, affinity: u64) -> EngineFuture<'_, ()> {
        let _ = affinity;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Drops what is cached of prompts and paths, so that a measurement begins with nothing; waits until the requests in flight
    /// are done where the engine cannot do it beside them.
    fn drop_cache(&self) -> EngineFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Counts of the engine's own since the last call, by metric name.
    fn take_counts(&self) -> EngineFuture<'_, Vec<(&'static str, f64)>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// What the engine can do, as found at start.
    fn capabilities(&self) -> &Capabilities;
}

/// What an engine said of itself at start.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// Name and version of the engine, for the record: `vllm 0.26.0`.
    pub engine: String,
    /// Largest number of prompt and generated tokens together.
    pub max_model_tokens: usize,
    /// Size of the vocabulary; every token id is below it.
    pub vocab_tokens: usize,
    /// Largest number of sequences that are worth having in flight.
    pub max_sequences: usize,
    /// The same request has the same answer to the bit under the same weights, whatever else is in flight.
    pub is_reproducible: bool,
}

/// How a load of weights went.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadReport {
    /// The version every replica in service now holds.
    pub version: WeightVersion,
    /// From the pause to the confirmation of the last replica.
    pub elapsed: Duration,
    /// Time of each phase in order, the slowest replica's.
    pub phases: Vec<(ReloadPhase, Duration)>,
    /// How much of the weights was compared with the model itself, on the replica where least was.
    pub held: HeldWeights,
    /// How many replicas hold it.
    pub replicas: usize,
    /// Those that do not, and get no work until they do.
    pub missing: Vec<ReplicaOutage>,
}

/// A replica that is out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaOutage {
    /// Its base URL.
    pub url: String,
    /// Why.
    pub reason: String,
}

/// A phase of a reload, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadPhase {
    /// No new work; requests in flight are stopped.
    Pause,
    /// The worker checks the file, then replaces the weights.
    Load,
    /// The worker says what the model now holds.
    Verify,
    /// The prefix cache of the old weights is dropped.
    ResetCache,
    /// Work goes on.
    Resume,
}

impl ReloadPhase {
    /// The name used in SQL, JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            ReloadPhase::Pause => "pause",
            ReloadPhase::Load => "load",
            ReloadPhase::Verify => "verify",
            ReloadPhase::ResetCache => "reset_cache",
            ReloadPhase::Resume => "resume",
        }
    }
}

impl std::fmt::Display for ReloadPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the loaded weights were compared with what the model holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldWeights {
    /// Tensors compared bit for bit with the model's own memory.
    pub bitwise_tensors: u64,
    /// Their size in the file.
    pub bitwise_bytes: u64,
    /// Tensors that the engine repacked, of which sampled columns were read back bit for bit.
    pub probed_tensors: u64,
    /// Size of those columns.
    pub probed_bytes: u64,
    /// Tensors known to be loaded only because the load read them.
    pub unchecked_tensors: u64,
    /// Their size in the file.
    pub unchecked_bytes: u64,
    /// Size of the file where the engine samples from the very memory that it was written from: nothing to compare.
    pub shared_bytes: u64,
}
