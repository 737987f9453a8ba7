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

use tokio::sync::{mpsc, oneshot};

use super::error::{TrainerError, first_line};
use super::learner::{Learner, TrainerSpec};
use super::report::StepReport;
use super::{checkpoint, export};
use crate::types::{TokenId, TrajectoryGroup, WeightManifest, WeightVersion};

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, TrainerError>>;

/// What the thread can be asked for.
pub enum Command {
    /// One training step.
    Update(Vec<TrajectoryGroup>, Reply<StepReport>),
    /// Logprobs of a sequence at a temperature.
    Score(Vec<TokenId>, f64, Reply<Vec<f32>>),
    /// A version to disk.
    Export(PathBuf, WeightVersion, Reply<WeightManifest>),
    /// Resume state to disk.
    Save(PathBuf, Reply<()>),
    /// Resume state from disk.
    Load(PathBuf, Reply<()>),
}

/// What a started thread is reached by.
pub struct Started {
    /// Commands, in order.
    pub commands: mpsc::Sender<Command>,
    /// Set to end a step early.
    pub stop: Arc<AtomicBool>,
    /// The thread.
    pub thread: JoinHandle<()>,
}

/// Starts the thread and waits until the model is loaded.
///
/// # Errors
/// What [`Learner::load`] says, or a thread that could not be started.
pub async fn start(spec: TrainerSpec) -> Result<Started, TrainerError> {
    let model_dir = spec.model_dir.clone();
    let (loaded, ready) = oneshot::channel();
    // One command runs, one waits: more would only hide how far behind the trainer is.
    let (commands, queue) = mpsc::channel(1);
    let thread = std::thread::Builder::new()
        .name("trainer".into())
        .spawn(move || body(spec, loaded, queue))
        .map_err(|source| TrainerError::Read { path: model_dir, source })?;
    let stop = ready.await.unwrap_or(Err(TrainerError::Stopped))?;
    Ok(Started { commands, stop, thread })
}

fn body(spec: TrainerSpec, loaded: Reply<Arc<AtomicBool>>, mut queue: mpsc::Receiver<Command>) {
    let mut learner = match guarded("loading the model", || Learner::load(spec)) {
        Ok(learner) => learner,
        Err(error) => {
            let _ = loaded.send(Err(error));
            return;
        }
    };
    // A caller that has gone away is no reason to stop: the channel closes when the handle does.
    let _ = loaded.send(Ok(learner.stop_flag()));
    while let Some(command) = queue.blocking_recv() {
        let alive = match command {
            Command::Update(groups, reply) => answer(reply, guarded("a training step", || learner.update(&groups))),
            Command::Score(tokens, temperature, reply) => {
                answer(reply, guarded("scoring", || learner.score(&tokens, temperature)))
            }
            Command::Export(dir, version, reply) => {
                let spec = learner.spec().clone();
                let run = || {
                    let (source, dtype) = (&spec.model_dir, spec.config.export_dtype);
                    export::export(&learner.parameters, source, dtype, &dir, version)
                };
                answer(reply, guarded("an export", run))
            }
            Command::Save(file, reply) => {
                let run = || checkpoint::save(&learner.parameters, &learner.optimizer, &file);
                answer(reply, guarded("saving a checkpoint", run))
            }
            Command::Load(file, reply) => {
                let run = || checkpoint::load(&mut learner.parameters, &mut learner.optimizer, &file);
                answer(reply, guarded("loading a checkpoint", run))
            }
        };
        if !alive {
            return;
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
