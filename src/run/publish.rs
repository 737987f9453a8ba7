//! New weights on their way into the server: export, record, reload, confirm. Owner of the current version.
//!
//! The version row is committed before the server is touched, so that after a stop at any instant the store says which
//! weights the server should hold; it is confirmed only after checksums and canary agree. Older versions go once the step
//! that made the new one is committed, and the store is told before they do: so what it says is kept lies on disk at every
//! instant, whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::config::Config;
use crate::inference::{Engine, LoadReport};
use crate::store::Store;
use crate::trainer::{Trainer, folder};
use crate::types::{RunId, StepId, TokenId, WeightManifest, WeightVersion};

use super::restore::described;
use super::{Event, Observer, RunError, record};

/// Publishes weights and knows which version the server holds.
pub struct Publisher {
    engine: Arc<dyn Engine>,
    trainer: Arc<Trainer>,
    store: Store,
    run: RunId,
    /// Folder with one sub-folder per version.
    dir: PathBuf,
    /// A fixed token sequence whose logprobs the server and the trainer must agree on.
    canary: Vec<TokenId>,
    tolerance_nats: f64,
    /// Every n-th version is kept, 0: none but the newest.
    keep_every: u32,
    /// What the server was last confirmed to hold.
    held: Option<WeightManifest>,
    /// Held while a server is being loaded: a run is not called off in between, which would leave servers paused.
    gate: Arc<Mutex<()>>,
    observer: Observer,
}

/// How one publication went.
#[derive(Clone, Debug)]
pub struct Published {
    /// What was written.
    pub manifest: WeightManifest,
    /// How the server took it.
    pub load: LoadReport,
    /// Time of the export.
    pub export: Duration,
    /// Time of the canary.
    pub canary: Duration,
    /// Mean absolute difference of the canary's logprobs, server against trainer.
    pub canary_mean_nats: f64,
    /// Largest absolute difference.
    pub canary_max_nats: f64,
}

/// What a [`Publisher`] needs beside the parts.
#[derive(Clone)]
pub struct PublishSettings {
    /// Row of the run.
    pub run: RunId,
    /// Folder for the weights.
    pub dir: PathBuf,
    /// Token sequence for the canary, at least 2.
    pub canary: Vec<TokenId>,
    /// `run.canary_tolerance_nats`.
    pub tolerance_nats: f64,
    /// `run.keep_every`.
    pub keep_every: u32,
    /// Locked while a server is being loaded.
    pub gate: Arc<Mutex<()>>,
    /// Who watches.
    pub observer: Observer,
}

impl Publisher {
    /// A publisher that has published nothing yet.
    pub fn new(engine: Arc<dyn Engine>, trainer: Arc<Trainer>, store: Store, settings: PublishSettings) -> Publisher {
        Publisher {
            engine,
            trainer,
            store,
            run: settings.run,
            dir: settings.dir,
            canary: settings.canary,
            tolerance_nats: settings.tolerance_nats,
            keep_every: settings.keep_every,
            held: None,
            gate: settings.gate,
            observer: settings.observer,
        }
    }

    /// The version the server holds and the next search runs on.
    pub fn current(&self) -> WeightVersion {
        self.held.as_ref().map_or(WeightVersion::INITIAL, |held| held.version)
    }

    /// Folder of a version.
    pub fn version_dir(&self, version: WeightVersion) -> PathBuf {
        self.dir.join(format!("v{:06}", version.0))
    }

    /// Writes the trainer's weights as `version` and brings the server to them.
    ///
    /// # Errors
    /// The first part that failed; [`Self::current`] is unchanged then. After a failed load the engine has fenced the
    /// server off; after a failed canary it has not, and the run must not go on.
    pub async fn publish(&mut self, version: WeightVersion, step: Option<StepId>) -> Result<Published, RunError> {
        // The row of a step that was cut off between this and its end is there already, and may be of other bits.
        self.bring(version, step, true).await
    }

    /// Publishes a version that was published before, after a restart: the trainer has been brought to it again, by a
    /// checkpoint or by `repeated` updates. Those may differ in their last bits on another device or number of threads; then
    /// the version is recorded anew, with a warning.
    ///
    /// # Errors
    /// As [`Self::publish`]; other weights than those recorded though nothing was repeated.
    pub async fn publish_again(
        &mut self,
        version: WeightVersion,
        step: Option<StepId>,
        repeated: u32,
    ) -> Result<Published, RunError> {
        if repeated > 0 {
            self.announce(version, step).await?;
        }
        self.bring(version, step, repeated > 0).await
    }

    /// Records the bits of repeated updates, unconfirmed, where they are others than those recorded: before they take the
    /// place of those on disk.
    async fn announce(&self, version: WeightVersion, step: Option<StepId>) -> Result<(), RunError> {
        let Some(recorded) = self.store.reader().weight_version(self.run, version).await? else { return Ok(()) };
        let described = described(&self.trainer, &self.dir, version).await?;
        if described.digest == recorded.digest {
            return Ok(());
        }
        self.warn_of_other_bits(version, &recorded.digest);
        let manifest = WeightManifest { dir: absolute(&self.version_dir(version)), ..described };
        self.store.record_weight_version(record::weight_version(self.run, step, &manifest, true)).await?;
        Ok(())
    }

    fn warn_of_other_bits(&self, version: WeightVersion, recorded: &str) {
        (self.observer)(Event::Warning(format!(
            "the repeated update gave other bits for weight version {version} than were recorded ({recorded}): recorded anew. A \
             GPU, another processor or another `train.threads` does that"
        )));
    }

    async fn bring(
        &mut self,
        version: WeightVersion,
        step: Option<StepId>,
        may_differ: bool,
    ) -> Result<Published, RunError> {
        let export_started = Instant::now();
        let manifest = self.trainer.export(&self.version_dir(version), version).await?;
        let export = export_started.elapsed();
        let recorded = self.store.reader().weight_version(self.run, version).await?;
        if let Some(recorded) = recorded.filter(|recorded| recorded.digest != manifest.digest) {
            if !may_differ {
                return Err(RunError::OtherWeights { version, dir: manifest.dir });
            }
            self.warn_of_other_bits(version, &recorded.digest);
        }
        self.store.record_weight_version(record::weight_version(self.run, step, &manifest, may_differ)).await?;
        let load = {
            let _loading = self.gate.lock().await;
            self.engine.load_weights(&manifest).await?
        };
        for outage in &load.missing {
            (self.observer)(Event::Warning(format!(
                "the server at `{}` did not take weight version {version} and gets no work until it does: {}",
                outage.url, outage.reason
            )));
        }
        let canary_started = Instant::now();
        let (canary_mean_nats, canary_max_nats) = self.canary(version).await?;
        let canary = canary_started.elapsed();
        let published = Published { manifest, load, export, canary, canary_mean_nats, canary_max_nats };
        self.store.confirm_weight_version(self.run, version, record::confirmation(&published)).await?;
        tracing::info!(
            weight_version = version.0,
            reload_ms = record::millis(published.load.elapsed),
            canary_mean_nats,
            canary_max_nats,
            "weights confirmed"
        );
        self.held = Some(published.manifest.clone());
        Ok(published)
    }

    /// Whether the server still holds the current weights, so that what was sampled since then is theirs.
    ///
    /// # Errors
    /// The server holds others, or does not answer.
    pub async fn confirm(&self) -> Result<(), RunError> {
        match &self.held {
            Some(manifest) => Ok(self.engine.confirm_weights(manifest).await?),
            None => Ok(()),
        }
    }

    /// Mean and largest absolute difference between the server's and the trainer's logprobs of the fixed sequence, of
    /// the replica that is furthest off.
    async fn canary(&self, version: WeightVersion) -> Result<(f64, f64), RunError> {
        let (servers, trainer) =
            tokio::join!(self.engine.score(&self.canary), self.trainer.score(self.canary.clone(), 1.0));
        let (servers, trainer) = (servers?, trainer?);
        let (mean_nats, max_nats) = servers
            .iter()
            .map(|server| difference(server, &trainer))
            .reduce(|a, b| if a.0 >= b.0 || a.0.is_nan() { a } else { b })
            .unwrap_or((f64::NAN, f64::NAN));
        // A NaN is no agreement.
        if mean_nats <= self.tolerance_nats {
            Ok((mean_nats, max_nats))
        } else {
            Err(RunError::Canary { version, mean_nats, max_nats, tolerance_nats: self.tolerance_nats })
        }
    }

    /// Lets every version go but the current one and those that are kept, when what made the current one is committed.
    ///
    /// # Errors
    /// The store cannot be written, or a folder not be removed; a later call goes on.
    pub async fn prune(&self) -> Result<(), RunError> {
        let newest = self.current();
        let is_kept = |version: WeightVersion| {
            let is_nth = self.keep_every > 0 && version.0.is_multiple_of(u64::from(self.keep_every));
            version == newest || (version < newest && is_nth)
        };
        let gone: Vec<_> = self.versions()?.into_iter().filter(|(version, _)| !is_kept(*version)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let versions = gone.iter().map(|(version, _)| *version).collect();
        self.store.drop_weight_versions(self.run, versions).await?;
        for (_, dir) in gone {
            folder::remove(&dir)?;
        }
        Ok(())
    }

    fn versions(&self) -> Result<Vec<(WeightVersion, PathBuf)>, RunError> {
        let failed = |source| RunError::Io { action: "read", path: self.dir.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(version) = name.strip_prefix('v').and_then(|number| number.parse().ok()) {
                found.push((WeightVersion(version), path));
            }
        }
        Ok(found)
    }
}

/// Makes the folder for exported weights and clears what an earlier process left unfinished in it.
///
/// # Errors
/// It cannot be made or read.
pub fn weights_dir(config: &Config, run: RunId, run_dir: &Path) -> Result<PathBuf, RunError> {
    let run_config = &config.run;
    let dir = if run_config.weights_dir.as_os_str().is_empty() {
        run_dir.join("weights")
    } else {
        // The folder of the run keeps runs of the same name and number apart.
        let home = crc32fast::hash(absolute(run_dir).as_os_str().as_encoded_bytes());
        run_config.weights_dir.join(format!("{}-run-{run}-{home:08x}", run_config.name))
    };
    super::create_dir(&dir)?;
    folder::sweep(&dir)?;
    Ok(dir)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn difference(a: &[f32], b: &[f32]) -> (f64, f64) {
    if a.len() != b.len() || a.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut sum = 0.0;
    let mut max: f64 = 0.0;
    for (a, b) in a.iter().zip(b) {
        let d = (f64::from(*a) - f64::from(*b)).abs();
        sum += d;
        // `f64::max` would swallow a NaN.
        max = if d > max || d.is_nan() { d } else { max };
    }
    (sum / a.len() as f64, max)
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn difference_is_mean_and_max_and_never_hides_nan() {
        assert_eq!(difference(&[-1.0, -2.0], &[-1.5, -2.0]), (0.25, 0.5));
        assert!(difference(&[-1.0], &[f32::NAN]).0.is_nan());
        assert!(difference(&[f32::NAN, -1.0], &[-1.0, -1.0]).1.is_nan());
        assert!(difference(&[-1.0], &[-1.0, -2.0]).0.is_nan());
        assert!(difference(&[], &[]).0.is_nan());
    }
}
