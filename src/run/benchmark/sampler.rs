//! One sample of a benchmark: asked for, judged, recorded.

use std::sync::Arc;
use std::time::Duration;

use super::Place;
use crate::inference::{Engine, EngineError};
use crate::run::judge::Judge;
use crate::run::{RunError, record};
use crate::store::{NewBenchmarkSample, Store};
use crate::types::{BenchmarkId, Continuation, GenerateRequest, Prompt, Sampling, TokenId, Verdict};

/// Asks for one sample at a time, so that each is kept as soon as it is there.
pub struct Sampler {
    /// Where it comes from.
    pub engine: Arc<dyn Engine>,
    /// Tokens to verdict.
    pub judge: Judge,
    /// Keeps it.
    pub store: Store,
    /// Row of the benchmark.
    pub benchmark: BenchmarkId,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// The distribution.
    pub sampling: Sampling,
    /// Texts that end an answer.
    pub stop: Arc<[String]>,
    /// Tokens that end an answer.
    pub end_of_text: Arc<[TokenId]>,
    /// Time allowed for one answer.
    pub deadline: Duration,
}

impl Sampler {
    /// Samples, judges and records; the sample's tokens and verdict. The inner error is the server's refusal. `seed` names
    /// the problem.
    ///
    /// # Errors
    /// An engine that is gone, a database that cannot be written.
    ///
    /// # Cancel safety
    /// The sample is recorded or not.
    pub async fn take(
        &self,
        place: Place,
        prompt: &Prompt,
        reference: &str,
        seed: u64,
    ) -> Result<Result<(usize, Verdict), EngineError>, RunError> {
        let (file, ordinal, sample) = place;
        let request = GenerateRequest {
            affinity: seed,
            tokens: prompt.tokens.to_vec(),
            n: 1,
            max_tokens: self.max_tokens,
            sampling: self.sampling,
            stop: self.stop.clone(),
            stop_token_ids: self.end_of_text.clone(),
            seed: seed.wrapping_add(u64::from(sample)),
            retain: false,
            deadline: self.deadline,
        };
        let continuation = match self.engine.generate(request).await {
            Ok(mut continuations) => match continuations.pop() {
                Some(continuation) => continuation,
                None => {
                    return Err(EngineError::Bug {
                        invariant: "an engine gives as many answers as it is asked for".into(),
                    }
                    .into());
                }
            },
            Err(refusal) if refusal.is_refusal() => return Ok(Err(refusal)),
            Err(error) => return Err(error.into()),
        };
        let Continuation { tokens, finish, .. } = continuation;
        let (text, judged) = self.judge.judge(&tokens, reference).await;
        let row = NewBenchmarkSample {
            benchmark: self.benchmark,
            file: record::saturate(file + 1),
            ordinal: record::saturate(ordinal),
            sample,
            text,
            tokens: tokens.len() as u64,
            finish,
            verdict: judged.verdict,
            decided_by: judged.decided_by.as_str().to_owned(),
            answer: judged.answer,
        };
        self.store.record_benchmark_sample(row).await?;
        Ok(Ok((tokens.len(), judged.verdict)))
    }
}
