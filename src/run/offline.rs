//! Training without a server: the updates of recorded steps again, from the trees in the database. What a step did to
//! the weights can be studied, or tried with other settings, without sampling a token.

use std::path::PathBuf;

use crate::config::Config;
use crate::store::{Reader, StepRow};
use crate::trainer::{CheckpointMark, Trainer, folder};
use crate::types::{RunId, StepId, WeightVersion};

use super::checkpoints::Checkpoints;
use super::engine::trainer_spec;
use super::restore::{Restorer, digest, produced};
use super::step::Selection;
use super::{DATABASE, Observer, RunError};

/// Which updates to repeat.
#[derive(Clone, Debug)]
pub struct OfflineJob {
    /// The configuration of the run.
    pub recorded: Config,
    /// The same, perhaps with other settings for the updates that are repeated.
    pub config: Config,
    /// The run.
    pub run: RunId,
    /// First step, from 1.
    pub first: u32,
    /// Last step.
    pub last: u32,
    /// Where to write the weights; `None`: they are only compared with what the run recorded.
    pub out: Option<PathBuf>,
}

/// One repeated update beside the recorded one.
#[derive(Clone, Debug, PartialEq)]
pub struct RepeatedStep {
    /// The step.
    pub step: StepId,
    /// Loss now; `None` without an update.
    pub loss: Option<f64>,
    /// Loss then.
    pub recorded_loss: Option<f64>,
    /// Norm of the gradient now.
    pub grad_norm: Option<f64>,
    /// Norm of the gradient then.
    pub recorded_grad_norm: Option<f64>,
}

/// How the weights after the last step compare with the recorded ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineOutcome {
    /// The version that the run recorded there.
    pub version: WeightVersion,
    /// Digest of the weights now.
    pub digest: String,
    /// Digest then.
    pub recorded_digest: Option<String>,
    /// Where they were written.
    pub out: Option<PathBuf>,
}

/// Repeats the updates; `on_step` sees each.
///
/// # Errors
/// Steps that are not recorded, trees that cannot be read, a failing update, an output folder that cannot be written.
pub async fn train(
    job: &OfflineJob,
    observer: &Observer,
    mut on_step: impl FnMut(&RepeatedStep),
) -> Result<OfflineOutcome, RunError> {
    let dir = &job.config.run.dir;
    let reader = Reader::open(&dir.join(DATABASE)).await?;
    let done = reader.done_steps(job.run).await?;
    let number = |step: &StepRow| u32::try_from(step.step_id.0).unwrap_or(0);
    let recorded = done.last().map_or(0, number);
    if job.first < 1 || job.first > job.last || job.last > recorded {
        return Err(RunError::NoSuchSteps { first: job.first, last: job.last, recorded });
    }
    let (before, after): (Vec<StepRow>, Vec<StepRow>) = done.into_iter().partition(|step| number(step) < job.first);
    if let Some(out) = &job.out
        && std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(RunError::NotEmpty { dir: out.clone() });
    }
    let run_dir = dir.join(format!("run-{}", job.run));
    let checkpoints = Checkpoints::existing(&run_dir, job.run);
    // What came before happened under the recorded settings, whatever is tried now.
    let mut trainer = Trainer::spawn(trainer_spec(&job.recorded, None)).await?;
    let selection = Selection::of(&job.recorded);
    let restorer =
        Restorer { trainer: &trainer, reader: &reader, run: job.run, selection, run_dir: &run_dir, observer };
    let mut version = restorer.restore(&checkpoints, &before).await?.version;
    if job.config != job.recorded {
        let handover = run_dir.join(format!(".handover.partial-{}", std::process::id()));
        let step = before.last().map_or(StepId(0), |step| step.step_id);
        let saved = trainer.save_checkpoint(&handover, CheckpointMark { run: job.run, step, version }).await;
        drop(trainer);
        trainer = Trainer::spawn(trainer_spec(&job.config, None)).await?;
        let loaded = match saved {
            Ok(_) => trainer.load_checkpoint(&handover).await.map(|_| ()),
            Err(error) => Err(error),
        };
        folder::remove(&handover)?;
        loaded?;
    }
    let selection = Selection::of(&job.config);
    let restorer =
        Restorer { trainer: &trainer, reader: &reader, run: job.run, selection, run_dir: &run_dir, observer };
    for step in after.iter().filter(|step| number(step) <= job.last) {
        let report = restorer.repeat(step.step_id).await?;
        version = produced(step).unwrap_or(version);
        let end = step.end.clone().unwrap_or_default();
        on_step(&RepeatedStep {
            step: step.step_id,
            loss: Some(report.loss()).filter(|loss| loss.is_finite()),
            recorded_loss: end.loss,
            grad_norm: Some(report.grad_norm()).filter(|norm| norm.is_finite()),
            recorded_grad_norm: end.grad_norm,
        });
    }
    let recorded_digest = reader.weight_version(job.run, version).await?.map(|row| row.digest);
    let digest = match &job.out {
        Some(out) => trainer.export(out, version).await?.digest,
        None => digest(&trainer, &run_dir, version).await?,
    };
    Ok(OfflineOutcome { version, digest, recorded_digest, out: job.out.clone() })
}
