//! The trainer and the engine of a run, and the engine that is the trainer itself.
//!
//! Tier 1's siblings do not know each other: the trait is in `inference`, the sampler in `trainer`, and this file joins
//! them. The embedded engine holds a handle of the trainer's thread, no tensor; what it samples from are the trainer's
//! own weights, so loading a version means to give them its name.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::inference::EMBEDDED_SEQUENCES;
use crate::config::{ComputeDtype, Config, EngineKind, InferenceConfig, ServerDevice};
use crate::data::ModelTokenizer;
use crate::inference::vllm::{VllmEngine, VllmSetup};
use crate::inference::{Capabilities, Engine, EngineError, EngineFuture, HeldWeights, LoadReport, ReloadPhase};
use crate::trainer::free_memory::GpuMemory;
use crate::trainer::{GeneratorSpec, Neighbor, Trainer, TrainerError, TrainerSpec, Use};
use crate::types::{Continuation, GenerateRequest, RunId, Sampling, TokenId, WeightManifest};

use super::memory_plan::MemoryPlan;
use super::{Event, Observer, RunError};

/// Trainer and engine of a run.
pub struct Parts {
    /// Updates the policy.
    pub trainer: Arc<Trainer>,
    /// Samples from it.
    pub engine: Arc<dyn Engine>,
    /// The engine again where it is servers: one that we launched has to be stopped.
    servers: Option<Arc<VllmEngine>>,
}

impl Parts {
    /// Starts both as `config` says; a server loads while the trainer does.
    ///
    /// # Errors
    /// The first part that did not start.
    pub async fn start(
        config: &Config,
        tokenizer: &Arc<ModelTokenizer>,
        run: RunId,
        run_dir: &Path,
    ) -> Result<Parts, RunError> {
        match config.inference.engine {
            EngineKind::Vllm => {
                let trainer = async { Trainer::spawn(trainer_spec(config, None)).await.map_err(RunError::from) };
                let salt = format!("{}-{run}", config.run.name);
                let elsewhere = config.run.weights_dir.as_path();
                let weights_root = if elsewhere.as_os_str().is_empty() { run_dir } else { elsewhere };
                let setup = VllmSetup {
                    config: &config.inference,
                    sampling: sampling(config),
                    model: &config.run.model,
                    run_dir,
                    salt: &salt,
                    adapter_rank: config.train.lora.is_on().then_some(config.train.lora.rank),
                    weights_root: Some(weights_root),
                };
                let servers = async { VllmEngine::start(setup).await.map_err(RunError::from) };
                let (trainer, servers) = if config.inference.sleep_while_training {
                    // What is free tells the trainer what it may take, and the server wants its share in one piece.
                    let trainer = trainer.await?;
                    trainer.yield_memory().await?;
                    (trainer, servers.await?)
                } else {
                    tokio::try_join!(trainer, servers)?
                };
                let servers = Arc::new(servers);
                Ok(Parts { trainer: Arc::new(trainer), engine: servers.clone(), servers: Some(servers) })
            }
            EngineKind::Embedded => {
                let generator = generator_spec(config, tokenizer);
                let trainer = Arc::new(Trainer::spawn(trainer_spec(config, Some(generator.clone()))).await?);
                let engine = EmbeddedEngine::new(trainer.clone(), config, &generator);
                Ok(Parts { trainer, engine: Arc::new(engine), servers: None })
            }
        }
    }

    /// Says how the GPU is shared, where a server is started on the one that trains.
    pub fn plan_memory(&self, config: &Config, observer: &Observer) {
        if self.trainer.is_on_processor() || neighbor(&config.inference) == Neighbor::None {
            return;
        }
        let Some((gpu, plan)) = GpuMemory::read().zip(self.trainer.memory_plan()) else { return };
        let plan = MemoryPlan::new(&config.inference, gpu, plan);
        observer(if plan.fits() { Event::Starting(plan.to_string()) } else { Event::Warning(plan.to_string()) });
    }

    /// Whether the largest request of a search fits the memory for keys and values, rather than finding out at depth.
    ///
    /// # Errors
    /// [`TrainerError::CacheTooSmall`].
    pub fn check_memory(&self, config: &Config, longest_prompt_tokens: usize) -> Result<(), RunError> {
        if config.inference.engine != EngineKind::Embedded {
            return Ok(());
        }
        let search = &config.search;
        let [width, depth, step_tokens] = [search.width, search.max_depth, search.step_tokens].map(u64::from);
        let prompt_tokens = longest_prompt_tokens as u64;
        let path_tokens = prompt_tokens + depth.saturating_sub(1) * step_tokens;
        let expansion_tokens = path_tokens + width * step_tokens.saturating_sub(1);
        let rollouts = u64::from(config.most_rollouts());
        let rollout_tokens = prompt_tokens + rollouts * (depth * step_tokens).saturating_sub(1);
        let need_bytes = expansion_tokens.max(rollout_tokens) * self.trainer.token_bytes();
        let bound_bytes = config.inference.cache_mib << 20;
        if need_bytes > bound_bytes {
            return Err(TrainerError::CacheTooSmall { need_bytes, bound_bytes }.into());
        }
        Ok(())
    }

    /// Ends a server that was launched for the run.
    pub async fn stop(&self) {
        if let Some(servers) = &self.servers {
            servers.stop().await;
        }
    }
}

/// What a model is sampled with where nothing is trained.
pub struct SamplingEngine {
    /// Samples.
    pub engine: Arc<dyn Engine>,
    /// What the embedded engine stands on; `None` with servers.
    pub trainer: Option<Arc<Trainer>>,
    servers: Option<Arc<VllmEngine>>,
}

impl SamplingEngine {
    /// Starts the engine of `config`: the embedded one, a server of our own, or running servers as they are, on which the
    /// model is called `served`.
    ///
    /// # Errors
    /// The engine does not start.
    pub async fn start(
        config: &Config,
        tokenizer: &Arc<ModelTokenizer>,
        served: Option<&str>,
        dir: &Path,
    ) -> Result<SamplingEngine, RunError> {
        match config.inference.engine {
            EngineKind::Vllm => {
                let setup = VllmSetup {
                    config: &config.inference,
                    sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 },
                    model: &config.run.model,
                    run_dir: dir,
                    salt: "eval",
                    adapter_rank: None,
                    weights_root: Some(dir),
                };
                let servers = Arc::new(VllmEngine::start_as_it_is(setup, served).await?);
                Ok(SamplingEngine { engine: servers.clone(), trainer: None, servers: Some(servers) })
            }
            EngineKind::Embedded => {
                let generator = generator_spec(config, tokenizer);
                let spec = TrainerSpec { purpose: Use::Generation, ..trainer_spec(config, Some(generator.clone())) };
                let trainer = Arc::new(Trainer::spawn(spec).await?);
                let answer_tokens = u64::try_from(config.inference.max_model_tokens).unwrap_or(u64::MAX);
                let need_bytes = answer_tokens.saturating_mul(trainer.token_bytes());
                if need_bytes > generator.cache_bytes {
                    return Err(TrainerError::CacheTooSmall { need_bytes, bound_bytes: generator.cache_bytes }.into());
                }
                let engine = Arc::new(EmbeddedEngine::new(trainer.clone(), config, &generator));
                Ok(SamplingEngine { engine, trainer: Some(trainer), servers: None })
            }
        }
    }

    /// Base URLs of the servers; none with the embedded engine.
    pub fn urls(&self) -> Vec<String> {
        self.servers.as_ref().map_or_else(Vec::new, |servers| servers.urls())
    }

    /// Digest of the weights that were loaded into a running server, where it says so.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn weights_digest(&self) -> Result<Option<String>, RunError> {
        match &self.servers {
            Some(servers) => Ok(servers.weights_digest().await?),
            None => Ok(None),
        }
    }

    /// Ends a server that was launched.
    pub async fn stop(&self) {
        if let Some(servers) = &self.servers {
            servers.stop().await;
        }
    }
}

/// The trainer of a run; with `generator` it is what samples, too.
pub(super) fn trainer_spec(config: &Config, generator: Option<GeneratorSpec>) -> TrainerSpec {
    TrainerSpec {
        config: config.train.clone(),
        model_dir: config.run.model.clone(),
        temperature: config.search.temperature,
        response_budget_tokens: config.search.response_budget_tokens(),
        generator,
        purpose: Use::Training,
        seed: config.run.seed,
        neighbor: neighbor(&config.inference),
    }
}

/// Who else takes memory of the GPU, where that is up to us.
fn neighbor(inference: &InferenceConfig) -> Neighbor {
    if inference.engine != EngineKind::Vllm || !inference.launch || inference.device == ServerDevice::Cpu {
        return Neighbor::None;
    }
    if inference.sleep_while_training {
        Neighbor::InTurns
    } else {
        Neighbor::Beside { frac: inference.gpu_memory_frac }
    }
}

fn generator_spec(config: &Config, tokenizer: &Arc<ModelTokenizer>) -> GeneratorSpec {
    let inference = &config.inference;
    let tokenizer = tokenizer.clone();
    // Beyond its own context a model's rotations mean nothing, and nothing would say so.
    let context_tokens = tokenizer.context_tokens().unwrap_or(usize::MAX);
    GeneratorSpec {
        max_sequences: if inference.max_sequences == 0 { EMBEDDED_SEQUENCES } else { inference.max_sequences },
        cache_bytes: inference.cache_mib << 20,
        max_model_tokens: inference.max_model_tokens.min(context_tokens),
        end_of_text: tokenizer.end_of_text().to_vec(),
        // A text that cannot be decoded has no stop string; the verifier meets the same failure and records it.
        decode: Arc::new(move |tokens| tokenizer.decode(tokens).unwrap_or_default()),
    }
}

/// How the run samples.
pub fn sampling(config: &Config) -> Sampling {
    Sampling { temperature: config.search.temperature, top_p: config.search.top_p, top_k: config.search.top_k }
}

/// The engine in this process: the trainer's thread, between its other work.
pub struct EmbeddedEngine {
    trainer: Arc<Trainer>,
    capabilities: Capabilities,
}

impl EmbeddedEngine {
    /// The engine over `trainer`, which was started with `generator`.
    pub fn new(trainer: Arc<Trainer>, config: &Config, generator: &GeneratorSpec) -> EmbeddedEngine {
        let capabilities = Capabilities {
            engine: format!("embedded {}", env!("CARGO_PKG_VERSION")),
            max_model_tokens: generator.max_model_tokens,
            vocab_tokens: trainer.vocab_tokens(),
            max_sequences: generator.max_sequences,
            // Other devices and element types have matrix products whose rows depend on the batch.
            is_reproducible: trainer.is_on_processor() && config.train.dtype == ComputeDtype::Float32,
        };
        EmbeddedEngine { trainer, capabilities }
    }
}

impl Engine for EmbeddedEngine {
    fn generate(&self, request: GenerateRequest) -> EngineFuture<'_, Vec<Continuation>> {
        Box::pin(async move { self.trainer.generate(request).await.map_err(failed) })
    }

    fn score<'a>(&'a self, tokens: &'a [TokenId]) -> EngineFuture<'a, Vec<Vec<f32>>> {
        Box::pin(async move { Ok(vec![self.trainer.score_generated(tokens.to_vec()).await.map_err(failed)?]) })
    }

    fn load_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, LoadReport> {
        Box::pin(async move {
            let start = Instant::now();
            self.trainer.name_weights(manifest.version).await.map_err(failed)?;
            let elapsed = start.elapsed();
            // Nothing to compare: what the manifest was made from is what is sampled from.
            let held = HeldWeights { shared_bytes: manifest.bytes, ..HeldWeights::default() };
            let phases = vec![(ReloadPhase::Load, elapsed), (ReloadPhase::ResetCache, Duration::ZERO)];
            Ok(LoadReport { version: manifest.version, elapsed, phases, held, replicas: 1, missing: Vec::new() })
        })
    }

    fn confirm_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let version = self.trainer.generating_version().await.map_err(failed)?;
            if version == Some(manifest.version) {
                return Ok(());
            }
            Err(EngineError::WeightsDiffer {
                what: "weight version".to_owned(),
                expected: manifest.version.to_string(),
                found: version.map_or_else(|| "none".to_owned(), |version| version.to_string()),
            })
        })
    }

    fn release(&self, affinity: u64) -> EngineFuture<'_, ()> {
        Box::pin(async move { self.trainer.release(affinity).await.map_err(failed) })
    }

    fn drop_cache(&self) -> EngineFuture<'_, ()> {
        Box::pin(async move { self.trainer.drop_cache().await.map_err(failed) })
    }

    fn take_counts(&self) -> EngineFuture<'_, Vec<(&'static str, f64)>> {
        Box::pin(async move {
            let report = self.trainer.take_generator_report().await.map_err(failed)?;
            Ok(vec![
                ("engine_decoding_steps", report.ticks as f64),
                ("engine_sampled_tokens", report.sampled_tokens as f64),
                ("engine_prefill_tokens", report.prefill_tokens as f64),
                ("engine_reused_tokens", report.reused_tokens as f64),
                ("engine_evictions", report.evictions as f64),
                ("engine_cache_peak_bytes", report.peak_bytes as f64),
            ])
        })
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

pub(super) fn failed(source: TrainerError) -> EngineError {
    use crate::error::Hint;
    EngineError::Embedded { class: source.class(), hint: source.hint(), source: Box::new(source) }
}
