//! An engine without a model: random tokens, at a server's pace for each sequence and any number of them at once. What is
//! measured with it is the orchestrator alone.

use std::time::Duration;

use crate::data::draw::below;
use crate::inference::{Capabilities, Engine, EngineError, EngineFuture, LoadReport};
use crate::rng;
use crate::types::{Continuation, FinishReason, GenerateRequest, TokenId, WeightManifest, WeightVersion};

/// Time of one token of a sequence, about that of a busy server.
const TOKEN_TIME: Duration = Duration::from_millis(5);
/// Logprob of every token.
const LOGPROB: f32 = -1.0;

/// Random tokens after a while.
pub struct MadeUpEngine {
    capabilities: Capabilities,
}

impl MadeUpEngine {
    /// Tokens below `vocab_tokens`, contexts up to `max_model_tokens`, `max_sequences` at once.
    pub fn new(vocab_tokens: usize, max_model_tokens: usize, max_sequences: usize) -> MadeUpEngine {
        let capabilities = Capabilities {
            engine: "none".to_owned(),
            max_model_tokens,
            vocab_tokens,
            max_sequences,
            // It is, but rows need not wait for their order here.
            is_reproducible: false,
        };
        MadeUpEngine { capabilities }
    }

    fn continuation(&self, request: &GenerateRequest, index: u32) -> Continuation {
        let mut draw = rng::sequence(request.seed, index);
        let vocab_tokens = self.capabilities.vocab_tokens as u64;
        let token = |_| TokenId::try_from(below(&mut draw, vocab_tokens)).unwrap_or_default();
        Continuation {
            tokens: (0..request.max_tokens).map(token).collect(),
            logprobs: vec![LOGPROB; request.max_tokens as usize],
            finish: FinishReason::Length,
            weight_version: WeightVersion::INITIAL,
        }
    }
}

impl Engine for MadeUpEngine {
    fn generate(&self, request: GenerateRequest) -> EngineFuture<'_, Vec<Continuation>> {
        Box::pin(async move {
            tokio::time::sleep(TOKEN_TIME * request.max_tokens).await;
            Ok((0..request.n).map(|index| self.continuation(&request, index)).collect())
        })
    }

    fn score<'a>(&'a self, tokens: &'a [TokenId]) -> EngineFuture<'a, Vec<Vec<f32>>> {
        Box::pin(std::future::ready(Ok(vec![vec![LOGPROB; tokens.len().saturating_sub(1)]])))
    }

    fn load_weights<'a>(&'a self, _: &'a WeightManifest) -> EngineFuture<'a, LoadReport> {
        Box::pin(std::future::ready(Err(EngineError::NoServer)))
    }

    fn confirm_weights<'a>(&'a self, _: &'a WeightManifest) -> EngineFuture<'a, ()> {
        Box::pin(std::future::ready(Err(EngineError::NoServer)))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}
