//! Checkpoints of a run: every n steps, the newest m, complete or not there at all.
//!
//! One folder per checkpoint in the run's own. Older ones go only after a newer one is complete, and a checkpoint is
//! taken after its step was committed: so the store is never behind a checkpoint, and what lies between the newest
//! checkpoint and the last step is repeated from the stored trees.

use std::path::{Path, PathBuf};

use crate::trainer::{CheckpointMark, Trainer, checkpoint, folder};
use crate::types::{RunId, StepId, WeightVersion};

use super::RunError;

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    run: RunId,
    every: u32,
    kept: usize,
}

impl Checkpoints {
    /// Those of `run` below its folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(run_dir: &Path, run: RunId, every: u32, kept: u32) -> Result<Checkpoints, RunError> {
        let dir = run_dir.join("checkpoints");
        super::create_dir(&dir)?;
        Ok(Checkpoints { dir, run, every, kept: kept.max(1) as usize })
    }

    /// Removes what an earlier process left unfinished.
    ///
    /// # Errors
    /// The folder cannot be read, or something in it not removed.
    pub fn sweep(&self) -> Result<(), RunError> {
        folder::sweep(&self.dir)?;
        Ok(())
    }

    /// Removes all of them, for a run that begins.
    ///
    /// # Errors
    /// As [`Self::sweep`].
    pub fn clear(&self) -> Result<(), RunError> {
        self.sweep()?;
        for (_, dir) in self.all()? {
            folder::remove(&dir)?;
        }
        Ok(())
    }

    /// Those that are there, for reading only.
    pub fn existing(run_dir: &Path, run: RunId) -> Checkpoints {
        Checkpoints { dir: run_dir.join("checkpoints"), run, every: 0, kept: usize::MAX }
    }

    /// Takes a checkpoint if one is due after this step, and lets the oldest go. Returns whether it was.
    ///
    /// # Errors
    /// It could not be written; the older ones are as they were.
    pub async fn take(&self, trainer: &Trainer, step: StepId, version: WeightVersion) -> Result<bool, RunError> {
        if self.every == 0 || !step.0.unsigned_abs().is_multiple_of(u64::from(self.every)) {
            return Ok(false);
        }
        let mark = CheckpointMark { run: self.run, step, version };
        trainer.save_checkpoint(&self.dir.join(format!("step-{:06}", step.0)), mark).await?;
        for (_, old) in self.all()?.into_iter().skip(self.kept) {
            folder::remove(&old)?;
        }
        Ok(true)
    }

    /// Steps and folders of what is there, newest first; whether they are whole is for the trainer to say.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(&self) -> Result<Vec<(StepId, PathBuf)>, RunError> {
        let failed = |source| RunError::Io { action: "read", path: self.dir.clone(), source };
        let mut found = Vec::new();
        if !self.dir.exists() {
            return Ok(found);
        }
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(step) = name.strip_prefix("step-").and_then(|number| number.parse().ok()) {
                found.push((StepId(step), path));
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }

    /// Reads what a checkpoint says of itself, which has to be what it is looked for as.
    ///
    /// # Errors
    /// It says nothing readable, or belongs to another run, step or version.
    pub fn mark(&self, dir: &Path, step: StepId, version: WeightVersion) -> Result<CheckpointMark, RunError> {
        let mark = checkpoint::read_mark(dir)?;
        if mark != (CheckpointMark { run: self.run, step, version }) {
            return Err(RunError::ForeignCheckpoint { dir: dir.to_owned(), mark });
        }
        Ok(mark)
    }
}
