//! The trainer as it was after a step: a checkpoint, and the updates since then repeated from the stored trees.
//!
//! A tree in the store has all that an update needs, so a lost or torn checkpoint costs time and nothing else: without
//! any, the run's own model and all its trees give the same weights. On one processor with one number of threads they are the
//! same to the bit.

use std::path::Path;

use crate::store::{Reader, StepRow};
use crate::trainer::{StepReport, Trainer, folder};
use crate::types::{RunId, StepId, WeightManifest, WeightVersion};

use super::checkpoints::Checkpoints;
use super::step::{Selection, groups_of};
use super::{Event, Observer, RunError};

/// What restores.
pub struct Restorer<'a> {
    /// Its weights and moments are replaced. It has to hold the run's model as it was loaded.
    pub trainer: &'a Trainer,
    /// Where the trees are.
    pub reader: &'a Reader,
    /// Row of the run.
    pub run: RunId,
    /// Which groups a step trained on.
    pub selection: Selection,
    /// Folder of the run.
    pub run_dir: &'a Path,
    /// Who watches.
    pub observer: &'a Observer,
}

/// Where the trainer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The weights.
    pub version: WeightVersion,
    /// The checkpoint that was loaded; `None`: the model as the run began.
    pub checkpoint: Option<StepId>,
    /// Updates that were repeated.
    pub repeated: u32,
}

impl Restorer<'_> {
    /// Brings the trainer to where it was after the last of `done`, all finished steps in order.
    ///
    /// # Errors
    /// A stored tree that cannot be read, or a failing update. A checkpoint that cannot be used is a warning.
    pub async fn restore(&self, checkpoints: &Checkpoints, done: &[StepRow]) -> Result<Restored, RunError> {
        self.check_model().await?;
        let last = done.last().map_or(StepId(0), |step| step.step_id);
        let mut restored = Restored { version: WeightVersion::INITIAL, checkpoint: None, repeated: 0 };
        for (step, dir) in checkpoints.all()?.into_iter().filter(|(step, _)| *step <= last) {
            let version = done.iter().filter(|row| row.step_id <= step).filter_map(produced).next_back();
            let loaded = match checkpoints.mark(&dir, step, version.unwrap_or(WeightVersion::INITIAL)) {
                Ok(mark) => self.trainer.load_checkpoint(&dir).await.map(|_| mark).map_err(RunError::from),
                Err(error) => Err(error),
            };
            match loaded {
                Ok(mark) => {
                    restored = Restored { version: mark.version, checkpoint: Some(step), repeated: 0 };
                    break;
                }
                Err(error) => {
                    let causes = crate::error::chain(&error).join(": ");
                    tracing::warn!(step = step.0, %causes, "checkpoint cannot be used");
                    (self.observer)(Event::Warning(format!(
                        "the checkpoint `{}` cannot be used, going back to the one before: {causes}",
                        dir.display()
                    )));
                }
            }
        }
        let from = restored.checkpoint.unwrap_or(StepId(0));
        for step in done.iter().filter(|step| step.step_id > from) {
            self.repeat(step.step_id).await?;
            restored.repeated += 1;
            restored.version = produced(step).unwrap_or(restored.version);
        }
        Ok(restored)
    }

    /// Whether the model in the trainer is the one that the run began with.
    async fn check_model(&self) -> Result<(), RunError> {
        let version = WeightVersion::INITIAL;
        let Some(recorded) = self.reader.weight_version(self.run, version).await? else { return Ok(()) };
        let digest = digest(self.trainer, self.run_dir, version).await?;
        if digest == recorded.digest {
            return Ok(());
        }
        Err(RunError::OtherWeights { version, dir: self.run_dir.to_owned() })
    }

    /// One update from stored trees.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub async fn repeat(&self, step: StepId) -> Result<StepReport, RunError> {
        let trees = self.reader.recorded_trees(self.run, step).await?;
        let (groups, _) = self.selection.training_groups(groups_of(trees));
        Ok(self.trainer.update(groups).await?)
    }
}

/// Digest of the trainer's weights as they would be exported.
///
/// # Errors
/// As [`described`].
pub async fn digest(trainer: &Trainer, dir: &Path, version: WeightVersion) -> Result<String, RunError> {
    Ok(described(trainer, dir, version).await?.digest)
}

/// What an export of the trainer's weights would say of itself.
///
/// # Errors
/// They cannot be written to a folder of their own in `dir`, which is removed again.
pub async fn described(trainer: &Trainer, dir: &Path, version: WeightVersion) -> Result<WeightManifest, RunError> {
    let temporary = dir.join(format!(".compared.partial-{}", std::process::id()));
    let exported = trainer.export(&temporary, version).await;
    let removed = folder::remove(&temporary);
    let manifest = exported?;
    removed?;
    Ok(manifest)
}

/// The weights that a step made.
pub fn produced(step: &StepRow) -> Option<WeightVersion> {
    step.end.as_ref().and_then(|end| end.produced_weight_version)
}
