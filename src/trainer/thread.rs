//! The OS thread that owns model and optimizer: runs commands in order, and turns a panic into an error.
//!
//! libtorch keeps gradient mode and its OpenMP team per thread, and its tensors are not shared between threads; so one
//! named thread does all of it. After a panic (how tch reports most libtorch failures) the state is in doubt: the
//! caller gets the reason, and the thread ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::checkpoint::{self, CheckpointInfo, CheckpointMark};
use super::error::{TrainerError, first_line};
use super::export;
use super::generate::{Generator, GeneratorReport};
use super::learner::{Learner, TrainerSpec};
use super::memory::Plan;
use super::operator;
use super::report::StepReport;
use super::supervise::{SupervisedBatch, SupervisedReport};
use crate::types::{Continuation, GenerateRequest, TokenId, TrajectoryGroup, WeightManifest, WeightVersion};

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, TrainerError>>;

/// What the thread can be asked for.
pub enum Command {
    /// One training step.
    Update(Vec<TrajectoryGroup>, Reply<StepReport>),
    /// One supervised step.
    Supervise(SupervisedBatch, Reply<SupervisedReport>),
    /// Logprobs of a sequence at a temperature.
    Score(Vec<TokenId>, f64, Reply<Vec<f32>>),
    /// A version to disk.
    Export(PathBuf, WeightVersion, Reply<WeightManifest>),
    /// A version to disk, adapters added to the weights.
    ExportMerged(PathBuf, WeightVersion, Reply<WeightManifest>),
    /// Continuations.
    Generate(Box<GenerateRequest>, Reply<Vec<Continuation>>),
    /// Logprobs of a sequence as generation computes them.
    ScoreGenerated(Vec<TokenId>, Reply<Vec<f32>>),
    /// The version of the weights as they are.
    NameWeights(WeightVersion, Reply<()>),
    /// The version that generation samples from.
    GeneratingVersion(Reply<Option<WeightVersion>>),
    /// A tree is finished.
    Release(u64),
    /// Nothing cached of prompts and paths stays but what is in use.
    DropCache(Reply<()>),
    /// What generation has done.
    GeneratorReport(Reply<GeneratorReport>),
    /// Memory that is held for later, to the device.
    YieldMemory(Reply<()>),
    /// Resume state to disk.
    Save(PathBuf, CheckpointMark, Reply<CheckpointInfo>),
    /// Resume state from disk.
    Load(PathBuf, Reply<CheckpointMark>),
}

/// Commands that may wait; more are back-pressure.
const QUEUED_COMMANDS: usize = 1024;
/// The longest wait for the requests that follow on answers, as a part of the last step of decoding. A tree takes some
/// microseconds to ask again; without the wait it would sit out a whole step.
const GRACE_FRAC: f64 = 0.05;

/// What a started thread is reached by.
pub struct Started {
    /// Commands, in order.
    pub commands: mpsc::Sender<Command>,
    /// Set to end a step early.
    pub stop: Arc<AtomicBool>,
    /// The thread.
    pub thread: JoinHandle<()>,
    /// What was loaded.
    pub facts: Facts,
}

/// What others may know of a loaded model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// V.
    pub vocab_tokens: usize,
    /// Whether it computes on the processor.
    pub is_on_processor: bool,
    /// Memory of the keys and values of one token; 0 without a generator.
    pub token_bytes: u64,
    /// The token budget of training; `None` where nothing is trained.
    pub memory_plan: Option<Plan>,
}

/// Starts the thread and waits until the model is loaded.
///
/// # Errors
/// What [`Learner::load`] says, or a thread that could not be started.
pub async fn start(spec: TrainerSpec) -> Result<Started, TrainerError> {
    let model_dir = spec.model_dir.clone();
    let (loaded, ready) = oneshot::channel();
    // Room for a request of every tree that may be in flight, so that all of them join the same step of decoding.
    let (commands, queue) = mpsc::channel(QUEUED_COMMANDS);
    let thread = std::thread::Builder::new()
        .name("trainer".into())
        .spawn(move || body(spec, loaded, queue))
        .map_err(|source| TrainerError::Read { path: model_dir, source })?;
    let (stop, facts) = ready.await.unwrap_or(Err(TrainerError::Stopped))?;
    Ok(Started { commands, stop, thread, facts })
}

fn body(spec: TrainerSpec, loaded: Reply<(Arc<AtomicBool>, Facts)>, mut queue: mpsc::Receiver<Command>) {
    let load = || {
        let learner = Learner::load(spec)?;
        let generator = learner.generator()?;
        Ok(Worker { learner, generator, exported: None, decoding_steps: 0 })
    };
    let mut worker = match guarded("loading the model", load) {
        Ok(worker) => worker,
        Err(error) => {
            let _ = loaded.send(Err(error));
            return;
        }
    };
    // A caller that has gone away is no reason to stop: the channel closes when the handle does.
    let _ = loaded.send(Ok((worker.learner.stop_flag(), worker.facts())));
    // Commands first, in the order they came; between two of them, while there is something to generate, one step of
    // decoding. So an update waits for one step at most, and no token is sampled during an update.
    loop {
        let is_generating = worker.generator.as_ref().is_some_and(Generator::has_work);
        let command = if is_generating {
            match queue.try_recv() {
                Ok(command) => Some(command),
                Err(mpsc::error::TryRecvError::Empty) => None,
                Err(mpsc::error::TryRecvError::Disconnected) => return,
            }
        } else {
            match queue.blocking_recv() {
                Some(command) => Some(command),
                None => return,
            }
        };
        let is_alive = match command {
            Some(command) => worker.obey(command),
            None => worker.tick(&queue),
        };
        if !is_alive {
            return;
        }
    }
}

/// What the thread owns.
struct Worker {
    learner: Learner,
    generator: Option<Generator>,
    /// The version as which the weights were last exported, if they have not changed since: the only name that
    /// generation may give them.
    exported: Option<WeightVersion>,
    /// Since something else had its turn.
    decoding_steps: u64,
}

impl Worker {
    fn facts(&self) -> Facts {
        Facts {
            vocab_tokens: usize::try_from(self.learner.model.vocab_size).unwrap_or_default(),
            is_on_processor: self.learner.policy().decoder.device() == tch::Device::Cpu,
            token_bytes: self.generator.as_ref().map_or(0, Generator::token_bytes),
            memory_plan: self.learner.memory_plan().cloned(),
        }
    }

    /// One step of decoding; then waits a moment for the requests that follow on the answers. False if the thread must
    /// end: what failed is in doubt.
    fn tick(&mut self, queue: &mpsc::Receiver<Command>) -> bool {
        let Some(generator) = &mut self.generator else { return true };
        let started = Instant::now();
        let answers = match guarded("generation", || generator.tick(self.learner.policy())) {
            Ok(answers) => answers,
            Err(error) => {
                generator.fail_all(&error);
                return false;
            }
        };
        self.decoding_steps += 1;
        let grace = started.elapsed().mul_f64(GRACE_FRAC);
        let waiting = Instant::now();
        while queue.len() < answers && waiting.elapsed() < grace {
            std::thread::sleep(Duration::from_micros(50));
        }
        true
    }

    /// Says when something else than generation takes its turn.
    fn turn(&mut self, turn: &'static str) {
        tracing::debug!(after_decoding_steps = self.decoding_steps, turn, "libtorch's turn");
        self.decoding_steps = 0;
    }

    fn weights_changed(&mut self) {
        self.exported = None;
        if let Some(generator) = &mut self.generator {
            generator.weights_changed();
        }
    }

    fn generating<T>(
        &mut self,
        run: impl FnOnce(&mut Generator, &Learner) -> Result<T, TrainerError>,
    ) -> Result<T, TrainerError> {
        let generator = self.generator.as_mut().ok_or(TrainerError::NoGenerator)?;
        guarded("generation", || run(generator, &self.learner))
    }

    /// Carries out a command; false if the thread must end.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Update(groups, reply) => {
                self.turn("update");
                let result = guarded("a training step", || self.learner.update(&groups));
                let is_unchanged = match &result {
                    Ok(report) => report.updates_done() == 0,
                    Err(error) => matches!(error, TrainerError::Group { .. } | TrainerError::Frozen),
                };
                if !is_unchanged {
                    self.weights_changed();
                }
                answer(reply, result)
            }
            Command::Supervise(batch, reply) => {
                self.turn("supervised step");
                let result = guarded("a supervised step", || self.learner.supervise(&batch));
                self.weights_changed();
                answer(reply, result)
            }
            Command::Score(tokens, temperature, reply) => {
                answer(reply, guarded("scoring", || self.learner.score(&tokens, temperature)))
            }
            Command::Generate(request, reply) => {
                let Some(generator) = &mut self.generator else {
                    return answer(reply, Err(TrainerError::NoGenerator));
                };
                generator.submit(*request, reply);
                true
            }
            Command::ScoreGenerated(tokens, reply) => {
                let score = |generator: &mut Generator, learner: &Learner| {
                    generator.score(learner.policy(), &tokens, learner.spec().config.vocab_chunk_tokens)
                };
                answer(reply, self.generating(score))
            }
            Command::NameWeights(version, reply) => {
                self.turn("new weight version");
                let exported = self.exported;
                let name = |generator: &mut Generator, _: &Learner| {
                    if exported != Some(version) {
                        return Err(TrainerError::NotThese { version, exported });
                    }
                    generator.name_weights(version);
                    Ok(())
                };
                answer(reply, self.generating(name))
            }
            Command::GeneratingVersion(reply) => answer(reply, self.generating(|generator, _| Ok(generator.version()))),
            Command::Release(affinity) => {
                if let Some(generator) = &mut self.generator {
                    generator.release(affinity);
                }
                true
            }
            Command::DropCache(reply) => {
                let drop_cache = |generator: &mut Generator, _: &Learner| {
                    generator.drop_cache();
                    Ok(())
                };
                answer(reply, self.generating(drop_cache))
            }
            Command::GeneratorReport(reply) => {
                answer(reply, self.generating(|generator, _| Ok(generator.take_report())))
            }
            Command::Export(dir, version, reply) => {
                self.turn("export");
                let export = || {
                    self.learner.check_trained()?;
                    let spec = self.learner.spec();
                    let (source, dtype) = (&spec.model_dir, spec.config.export_dtype);
                    export::export(&self.learner.parameters, source, dtype, &dir, version)
                };
                let result = guarded("an export", export);
                if result.is_ok() {
                    self.exported = Some(version);
                }
                answer(reply, result)
            }
            Command::ExportMerged(dir, version, reply) => {
                self.turn("merged export");
                let export = || {
                    self.learner.check_trained()?;
                    let spec = self.learner.spec();
                    let (source, dtype) = (&spec.model_dir, spec.config.export_dtype);
                    export::export_merged(&self.learner.parameters, source, dtype, &dir, version)
                };
                answer(reply, guarded("a merged export", export))
            }
            Command::YieldMemory(reply) => answer(reply, operator::empty_device_cache()),
            Command::Save(dir, mark, reply) => {
                self.turn("save checkpoint");
                let save = || {
                    self.learner.check_trained()?;
                    checkpoint::save(&self.learner.parameters, &self.learner.optimizer, &dir, mark)
                };
                answer(reply, guarded("saving a checkpoint", save))
            }
            Command::Load(dir, reply) => {
                self.turn("load checkpoint");
                let result = guarded("loading a checkpoint", || self.learner.load_checkpoint(&dir));
                if result.is_ok() {
                    self.weights_changed();
                }
                answer(reply, result)
            }
        }
    }
}

/// Sends the result; false if the thread must end. A reply nobody waits for is dropped.
fn answer<T>(reply: Reply<T>, result: Result<T, TrainerError>) -> bool {
    let alive = !matches!(result, Err(TrainerError::Panicked { .. }));
    let _ = reply.send(result);
    alive
}

fn guarded<T>(operation: &'static str, run: impl FnOnce() -> Result<T, TrainerError>) -> Result<T, TrainerError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(TrainerError::Panicked { operation, message: first_line(text) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_one_line_and_ends_the_thread() {
        let result: Result<(), _> = guarded("a test", || {
            let _ = tch::Tensor::from_slice(&[1.0f32, 2.0]).mm(&tch::Tensor::from_slice(&[1.0f32]));
            Ok(())
        });
        let Err(TrainerError::Panicked { operation: "a test", message }) = &result else { panic!("{result:?}") };
        assert!(message.contains("must be a matrix") && !message.contains('\n'), "{message}");
        let (reply, answered) = oneshot::channel();
        assert!(!answer(reply, result), "state in doubt: the thread must end");
        assert!(matches!(answered.blocking_recv(), Ok(Err(TrainerError::Panicked { .. }))));
        let (reply, _) = oneshot::channel();
        assert!(answer(reply, Ok(())), "a caller that went away ends nothing");
    }
}
