//! Between search and engine: what was asked for, what came, how much was under way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::inference::{Capabilities, Engine, EngineFuture, LoadReport};
use crate::types::{Continuation, GenerateRequest, TokenId, WeightManifest, WeightVersion};

/// An engine that counts what another one does, and may keep the requests.
pub struct Recorder {
    inner: Arc<dyn Engine>,
    keeps_requests: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    generated_tokens: u64,
    request_count: u64,
    sent_count: u64,
    /// Those that were answered, by the order of their sending.
    requests: BTreeMap<u64, GenerateRequest>,
    occupancy: Occupancy,
    trees: BTreeMap<u64, Sha256>,
}

/// What passed through a recorder.
#[derive(Debug)]
pub struct Recorded {
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Requests answered.
    pub request_count: u64,
    /// The requests that were answered, in the order of their sending, where they were to be kept. What was refused cost no
    /// token, and is not sent again.
    pub requests: Vec<GenerateRequest>,
    /// Sequences asked for, mean over time.
    pub mean_sequences: f64,
    /// SHA-256 over all that was asked and answered, tree by tree: equal where the trees are.
    pub trees_digest: String,
}

/// Sequences asked for, over time.
#[derive(Debug, Default)]
pub struct Occupancy {
    sequences: u32,
    since: Option<Instant>,
    begun: Option<Instant>,
    /// Sequences times seconds.
    area: f64,
}

impl Occupancy {
    /// So many more are asked for.
    pub fn enter(&mut self, sequences: u32) {
        self.advance();
        self.sequences += sequences;
    }

    /// So many were answered.
    pub fn leave(&mut self, sequences: u32) {
        self.advance();
        self.sequences = self.sequences.saturating_sub(sequences);
    }

    /// Mean from the first request until now.
    pub fn mean(&mut self) -> f64 {
        self.advance();
        let seconds = self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        if seconds > 0.0 { self.area / seconds } else { 0.0 }
    }

    fn advance(&mut self) {
        let now = Instant::now();
        self.begun.get_or_insert(now);
        if let Some(since) = self.since.replace(now) {
            self.area += now.duration_since(since).as_secs_f64() * f64::from(self.sequences);
        }
    }
}

impl Recorder {
    /// A recorder in front of `inner`.
    pub fn new(inner: Arc<dyn Engine>, keeps_requests: bool) -> Recorder {
        Recorder { inner, keeps_requests, state: Mutex::default() }
    }

    /// What passed so far.
    pub fn take(&self) -> Recorded {
        let mut state = std::mem::take(&mut *self.lock());
        let mut all = Sha256::new();
        for (tree, hash) in state.trees {
            all.update(tree.to_le_bytes());
            all.update(hash.finalize());
        }
        Recorded {
            generated_tokens: state.generated_tokens,
            request_count: state.request_count,
            requests: state.requests.into_values().collect(),
            mean_sequences: state.occupancy.mean(),
            trees_digest: all.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Figures of a measurement: a task that panicked ends it anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(hash: &mut Sha256, tokens: &[TokenId]) {
    hash.update((tokens.len() as u64).to_le_bytes());
    tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
}

impl Engine for Recorder {
    fn generate(&self, request: GenerateRequest) -> EngineFuture<'_, Vec<Continuation>> {
        Box::pin(async move {
            let (tree, n) = (request.affinity, request.n);
            let place = {
                let mut state = self.lock();
                state.occupancy.enter(n);
                hash(state.trees.entry(tree).or_default(), &request.tokens);
                state.sent_count += 1;
                state.sent_count
            };
            let kept = self.keeps_requests.then(|| request.clone());
            let mut answer = self.inner.generate(request).await;
            let mut state = self.lock();
            state.occupancy.leave(n);
            for continuation in answer.iter_mut().flatten() {
                state.generated_tokens += continuation.tokens.len() as u64;
                hash(state.trees.entry(tree).or_default(), &continuation.tokens);
                // Whatever a running server holds is the one version of this measurement.
                continuation.weight_version = WeightVersion::INITIAL;
            }
            if answer.is_ok() {
                state.request_count += 1;
                state.requests.extend(kept.map(|request| (place, request)));
            }
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
        self.inner.release(affinity)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::inference::EngineError;
    use crate::types::{FinishReason, Sampling};

    /// Refuses prompts that begin with an odd token, and takes the longer for the others the smaller it is.
    struct Picky(Capabilities);

    impl Engine for Picky {
        fn generate(&self, request: GenerateRequest) -> EngineFuture<'_, Vec<Continuation>> {
            Box::pin(async move {
                let first = request.tokens[0];
                if first % 2 == 1 {
                    let (url, path) = ("http://there".to_owned(), "/v1/completions".to_owned());
                    return Err(EngineError::Refused { url, path, status: 400, message: "too long".to_owned() });
                }
                tokio::time::sleep(Duration::from_millis(u64::from(20 - first))).await;
                let continuation = Continuation {
                    tokens: vec![1; 3],
                    logprobs: vec![-1.0; 3],
                    finish: FinishReason::Stop,
                    weight_version: WeightVersion(7),
                };
                Ok(vec![continuation])
            })
        }

        fn score<'a>(&'a self, _: &'a [TokenId]) -> EngineFuture<'a, Vec<Vec<f32>>> {
            Box::pin(std::future::ready(Err(EngineError::NoServer)))
        }

        fn load_weights<'a>(&'a self, _: &'a WeightManifest) -> EngineFuture<'a, LoadReport> {
            Box::pin(std::future::ready(Err(EngineError::NoServer)))
        }

        fn confirm_weights<'a>(&'a self, _: &'a WeightManifest) -> EngineFuture<'a, ()> {
            Box::pin(std::future::ready(Err(EngineError::NoServer)))
        }

        fn capabilities(&self) -> &Capabilities {
            &self.0
        }
    }

    #[tokio::test]
    async fn what_was_refused_is_not_sent_again() {
        let capabilities = Capabilities {
            engine: "test".into(),
            max_model_tokens: 8,
            vocab_tokens: 32,
            max_sequences: 8,
            is_reproducible: true,
        };
        let recorder = Recorder::new(Arc::new(Picky(capabilities)), true);
        let request = |first: TokenId| GenerateRequest {
            affinity: u64::from(first),
            tokens: vec![first],
            n: 1,
            max_tokens: 3,
            sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 },
            stop: Arc::new([]),
            stop_token_ids: Arc::new([]),
            seed: 0,
            retain: false,
            deadline: Duration::from_secs(1),
        };
        let answers =
            futures_util::future::join_all([2, 5, 8, 9, 4].map(|first| recorder.generate(request(first)))).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
        let recorded = recorder.take();
        assert_eq!((recorded.request_count, recorded.generated_tokens), (3, 9));
        let kept: Vec<TokenId> = recorded.requests.iter().map(|request| request.tokens[0]).collect();
        assert_eq!(kept, [2, 8, 4], "in the order of their sending, whatever ended first");
    }
}
