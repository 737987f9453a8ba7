//! How fast the search is: the same trees grown in several ways on the same engine, side by side.
//!
//! `search` is the searching half of a training step as a run does it, verdicts and database included. `lock-step` is the same
//! search driven as the released implementation does it. `plain` and `saturated` send the requests of `search` again with
//! nothing in between. The modes take turns, each begins with an empty prefix cache, and ratios are between modes of one round.

mod figures;
mod ground;
mod lock_step;
mod made_up;
mod recorder;
mod replay;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;

use super::{BenchError, machine};
use crate::config::{Config, EngineKind};
use crate::inference::Engine;
use crate::inference::vllm::PlainServer;
use crate::run::RunError;
use crate::run::engine::SamplingEngine;
use crate::run::flight::Room;
use crate::run::shutdown::{Interruptible, until};
use crate::store::Store;
use crate::types::GenerateRequest;

pub use figures::{ModeFigures, Ratio, RolloutBench};

use figures::Round;
use ground::{Folder, Ground};
use lock_step::LockStep;
use made_up::MadeUpEngine;
use recorder::Recorder;
use replay::{Replay, Target};

/// Sequences of the engine without a model where the configuration names no number: vLLM's own default.
const MADE_UP_SEQUENCES: usize = 256;

/// A way to drive an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// As a run does: every tree at its own pace.
    Search,
    /// A batch of trees takes one expansion, waits for the slowest, drops the prefix cache.
    LockStep,
    /// The requests of the search again, those of a tree one after the other.
    Plain,
    /// The same requests, all independent.
    Saturated,
}

impl Mode {
    /// All of them, in the order of their turns.
    pub const ALL: [Mode; 4] = [Mode::Search, Mode::LockStep, Mode::Plain, Mode::Saturated];

    /// The name in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Search => "search",
            Mode::LockStep => "lock-step",
            Mode::Plain => "plain",
            Mode::Saturated => "saturated",
        }
    }

    fn is_replay(self) -> bool {
        matches!(self, Mode::Plain | Mode::Saturated)
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct RolloutBenchSpec {
    /// Model, engine, search, prompts, verifier, seed.
    pub config: Config,
    /// No engine at all: random tokens at a server's pace.
    pub without_model: bool,
    /// What the model is called on a running server.
    pub served: Option<String>,
    /// Problems to search, from the first on and over again; without, prompts are made up.
    pub problems: Option<PathBuf>,
    /// Tokens of a made-up prompt.
    pub prompt_tokens: usize,
    /// Trees to grow.
    pub trees: usize,
    /// In which ways.
    pub modes: Vec<Mode>,
    /// How many times.
    pub rounds: u32,
    /// Trees of a batch in lock step.
    pub lock_step_trees: usize,
    /// Folder for database and server log, which is kept; without, one that is removed.
    pub dir: Option<PathBuf>,
}

/// Grows the trees in every mode and measures; `observe` is told what happens, for people. `None` if it was called off.
///
/// # Errors
/// Files that cannot be used, an engine that does not start, refuses all trees or goes away.
pub async fn bench_rollout(
    spec: &RolloutBenchSpec,
    observe: impl Fn(&str),
    cancel: &CancellationToken,
) -> Result<Option<RolloutBench>, BenchError> {
    if let Some(mode) = spec.modes.iter().find(|mode| mode.is_replay() && !spec.modes.contains(&Mode::Search)) {
        return Err(BenchError::NothingToReplay { mode: mode.as_str() });
    }
    let mut ground = Ground::prepare(spec)?;
    let mut config = spec.config.clone();
    let prompt_tokens = ground.longest_prompt_tokens();
    let response_tokens = config.search.response_budget_tokens() as usize;
    // No more than is needed: it is what a server reserves memory for.
    config.inference.max_model_tokens = prompt_tokens + response_tokens;
    let folder = Folder::make(spec.dir.as_deref())?;
    observe("starting the engine");
    let starting = start(spec, &config, &ground, &folder);
    let subject = match until(cancel.cancelled(), starting).await {
        Interruptible::Finished(subject) => subject?,
        Interruptible::Interrupted => return Ok(None),
    };
    let context_tokens = subject.engine.capabilities().max_model_tokens;
    let measuring = async {
        if context_tokens < prompt_tokens + response_tokens {
            let error = RunError::Context { prompt_tokens, response_tokens, context_tokens };
            return Err(BenchError::Run(error));
        }
        let store = ground.open(folder.path()).await?;
        let bench = Bench { spec, ground: &ground, subject: &subject, store: &store };
        let measured = match until(cancel.cancelled(), bench.measure(&observe)).await {
            Interruptible::Finished(rounds) => rounds.map(Some),
            Interruptible::Interrupted => Ok(None),
        };
        let closed = store.close().await;
        // What went wrong before matters more than how the database was closed.
        let measured = measured?;
        closed.map_err(RunError::from)?;
        Ok(measured)
    };
    let measured = measuring.await;
    subject.stop().await;
    Ok(measured?.map(|rounds| figures::figures(spec, subject.engine.capabilities(), prompt_tokens, rounds)))
}

/// What is measured.
struct Subject {
    engine: Arc<dyn Engine>,
    target: Target,
    sampling: Option<SamplingEngine>,
}

impl Subject {
    async fn stop(&self) {
        if let Some(sampling) = &self.sampling {
            sampling.stop().await;
        }
    }
}

async fn start(
    spec: &RolloutBenchSpec,
    config: &Config,
    ground: &Ground,
    folder: &Folder,
) -> Result<Subject, BenchError> {
    if spec.without_model {
        let inference = &config.inference;
        let sequences = if inference.max_sequences == 0 { MADE_UP_SEQUENCES } else { inference.max_sequences };
        let engine: Arc<dyn Engine> =
            Arc::new(MadeUpEngine::new(ground.vocab_tokens(), inference.max_model_tokens, sequences));
        return Ok(Subject { engine: engine.clone(), target: Target::MadeUp(engine), sampling: None });
    }
    let served = spec.served.as_deref();
    let sampling = SamplingEngine::start(config, ground.tokenizer(), served, folder.path()).await?;
    let target = match &sampling.trainer {
        Some(trainer) => Target::Trainer(trainer.clone()),
        None => {
            let urls = sampling.urls();
            let greeted = try_join_all(urls.iter().map(|url| PlainServer::greet(url, served))).await;
            if greeted.is_err() {
                sampling.stop().await;
            }
            Target::Servers(greeted.map_err(RunError::Engine)?.into())
        }
    };
    Ok(Subject { engine: sampling.engine.clone(), target, sampling: Some(sampling) })
}

/// The requests of a search, and how many of its trees were under way at once.
struct Sent {
    requests: Vec<GenerateRequest>,
    trees_at_once: usize,
}

struct Bench<'a> {
    spec: &'a RolloutBenchSpec,
    ground: &'a Ground,
    subject: &'a Subject,
    store: &'a Store,
}

impl Bench<'_> {
    async fn measure(&self, observe: &impl Fn(&str)) -> Result<Vec<Round>, BenchError> {
        let mut rounds = Vec::new();
        let mut sent = None;
        for number in 1..=self.spec.rounds {
            for mode in Mode::ALL.into_iter().filter(|mode| self.spec.modes.contains(mode)) {
                let round = match (mode, &sent) {
                    (Mode::Search, None) if self.spec.modes.iter().any(|mode| mode.is_replay()) => {
                        let (round, requests) = self.search(number, true).await?;
                        sent = Some(Sent { requests, trees_at_once: round.most_trees });
                        round
                    }
                    (Mode::Search, _) => self.search(number, false).await?.0,
                    (Mode::LockStep, _) => self.lock_step(number).await?,
                    (Mode::Plain | Mode::Saturated, Some(sent)) => self.replay(number, mode, sent).await?,
                    (Mode::Plain | Mode::Saturated, None) => {
                        return Err(BenchError::NothingToReplay { mode: mode.as_str() });
                    }
                };
                observe(&round.line(self.spec.rounds));
                rounds.push(round);
            }
        }
        Ok(rounds)
    }

    async fn search(&self, number: u32, keeps: bool) -> Result<(Round, Vec<GenerateRequest>), BenchError> {
        let recorder = Arc::new(Recorder::new(self.subject.engine.clone(), keeps));
        let room = Room::new(recorder.capabilities().max_sequences);
        let field = self.ground.begin(self.store, recorder.clone(), room).await?;
        let mut clock = self.clock(number, Mode::Search).await?;
        clock.start();
        let failed = field.grow(0, field.trees()).await?;
        clock.stop();
        field.end().await?;
        let recorded = recorder.take();
        let counts = self.counts().await?;
        let mut round = clock.round(field.trees(), counts);
        round.recorded(&recorded, failed, field.room.take_most_work());
        Ok((round, recorded.requests))
    }

    async fn lock_step(&self, number: u32) -> Result<Round, BenchError> {
        let recorder = Arc::new(Recorder::new(self.subject.engine.clone(), false));
        let engine = Arc::new(LockStep::new(recorder.clone()));
        // The whole batch is under way, whatever the engine takes.
        let field = self.ground.begin(self.store, engine.clone(), Room::new(usize::MAX / 4)).await?;
        let (trees, batch) = (field.trees(), self.spec.lock_step_trees.max(1));
        let mut failed = 0;
        let mut clock = self.clock(number, Mode::LockStep).await?;
        clock.start();
        for first in (0..trees).step_by(batch) {
            engine.begin(batch.min(trees - first));
            failed += field.grow(first, batch).await?;
        }
        clock.stop();
        field.end().await?;
        let counts = self.counts().await?;
        let mut round = clock.round(trees, counts);
        round.recorded(&recorder.take(), failed, field.room.take_most_work());
        Ok(round)
    }

    async fn replay(&self, number: u32, mode: Mode, sent: &Sent) -> Result<Round, BenchError> {
        let trees_at_once = (mode == Mode::Plain).then_some(sent.trees_at_once);
        let max_sequences = self.subject.engine.capabilities().max_sequences;
        let replay = Replay::new(self.subject.target.clone(), &sent.requests, max_sequences, trees_at_once)?;
        let mut clock = self.clock(number, mode).await?;
        clock.start();
        let replayed = replay.run().await?;
        clock.stop();
        let counts = self.counts().await?;
        let mut round = clock.round(self.spec.trees, counts);
        round.generated_tokens = replayed.generated_tokens;
        round.request_count = replayed.request_count;
        round.mean_sequences = replayed.mean_sequences;
        round.most_trees = trees_at_once.unwrap_or(0);
        Ok(round)
    }

    /// An empty cache, counts from nought, and a clock that stands.
    async fn clock(&self, number: u32, mode: Mode) -> Result<Clock, BenchError> {
        let engine = &self.subject.engine;
        engine.drop_cache().await.map_err(RunError::Engine)?;
        engine.take_counts().await.map_err(RunError::Engine)?;
        machine::forget_peak();
        Ok(Clock { number, mode, begun: Instant::now(), begun_processor_s: None, wall_s: 0.0, processor_s: None })
    }

    async fn counts(&self) -> Result<Vec<(&'static str, f64)>, BenchError> {
        Ok(self.subject.engine.take_counts().await.map_err(RunError::Engine)?)
    }
}

/// Time of one mode in one round.
struct Clock {
    number: u32,
    mode: Mode,
    begun: Instant,
    begun_processor_s: Option<f64>,
    wall_s: f64,
    processor_s: Option<f64>,
}

impl Clock {
    fn start(&mut self) {
        self.begun_processor_s = machine::processor_s();
        self.begun = Instant::now();
    }

    fn stop(&mut self) {
        self.wall_s = self.begun.elapsed().as_secs_f64();
        self.processor_s = machine::processor_s().zip(self.begun_processor_s).map(|(after, before)| after - before);
    }

    fn round(self, trees: usize, counts: Vec<(&'static str, f64)>) -> Round {
        Round {
            number: self.number,
            mode: self.mode,
            trees,
            wall_s: self.wall_s,
            processor_s: self.processor_s,
            peak_resident_bytes: machine::resident_bytes("VmHWM"),
            counts: counts.into_iter().collect(),
            ..Round::new(self.mode)
        }
    }
}

/// Whether the engine computes in this process, so that its processor time is not the orchestrator's alone.
fn is_in_process(spec: &RolloutBenchSpec) -> bool {
    !spec.without_model && spec.config.inference.engine == EngineKind::Embedded
}
