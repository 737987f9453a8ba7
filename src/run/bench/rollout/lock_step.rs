//! The search as the released implementation drives it: all trees of a batch take one expansion, all wait for the slowest, and
//! the prefix cache is dropped before the next one.
//!
//! An engine in front of the engine, so that what is driven is the very same search. A tree is on its way to its next
//! expansion as soon as the slowest is done, without waiting for the verdicts of the others, which the released code does: the
//! comparison errs in its favour.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::inference::{Capabilities, Engine, EngineError, EngineFuture, LoadReport};
use crate::types::{Continuation, GenerateRequest, TokenId, WeightManifest};

/// An engine whose answers come all at once.
pub struct LockStep {
    inner: Arc<dyn Engine>,
    state: Mutex<State>,
    steps: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Trees of the batch that are not finished.
    live: usize,
    /// Of these, those whose answer is there.
    answered: usize,
}

impl State {
    fn is_complete(&self) -> bool {
        self.live > 0 && self.answered == self.live
    }
}

impl LockStep {
    /// Lock step in front of `inner`.
    pub fn new(inner: Arc<dyn Engine>) -> LockStep {
        LockStep { inner, state: Mutex::default(), steps: watch::Sender::new(0) }
    }

    /// A batch of `trees` begins; the one before has ended.
    pub fn begin(&self, trees: usize) {
        *self.lock() = State { live: trees, answered: 0 };
    }

    /// One tree has its answer: waits until all live ones have.
    async fn wait(&self) -> Result<(), EngineError> {
        let mut steps = self.steps.subscribe();
        let is_last = {
            let mut state = self.lock();
            state.answered += 1;
            state.is_complete()
        };
        if is_last {
            return self.next_step().await;
        }
        // The sender lives as long as `self`, so this only ever ends with a change.
        let _ = steps.changed().await;
        Ok(())
    }

    /// All wait, so nothing is in flight.
    async fn next_step(&self) -> Result<(), EngineError> {
        let dropped = self.inner.drop_cache().await;
        self.lock().answered = 0;
        self.steps.send_modify(|step| *step += 1);
        dropped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for LockStep {
    fn generate(&self, request: GenerateRequest) -> EngineFuture<'_, Vec<Continuation>> {
        Box::pin(async move {
            let answer = self.inner.generate(request).await;
            self.wait().await?;
            answer
        })
    }

    fn score<'a>(&'a self, tokens: &'a [TokenId]) -> EngineFuture<'a, Vec<Vec<f32>>> {
        self.inner.score(tokens)
    }

    fn load_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, LoadReport> {
        self.inner.load_weights(manifest)
    }

    fn confirm_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, ()> {
        self.inner.confirm_weights(manifest)
    }

    fn release(&self, affinity: u64) -> EngineFuture<'_, ()> {
        Box::pin(async move {
            self.inner.release(affinity).await?;
            let is_complete = {
                let mut state = self.lock();
                state.live = state.live.saturating_sub(1);
                state.is_complete()
            };
            if is_complete { self.next_step().await } else { Ok(()) }
        })
    }

    fn drop_cache(&self) -> EngineFuture<'_, ()> {
        self.inner.drop_cache()
    }

    fn take_counts(&self) -> EngineFuture<'_, Vec<(&'static str, f64)>> {
        self.inner.take_counts()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}
