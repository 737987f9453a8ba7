//! What the database says of things outside it: weights on disk, and that kept solutions are right. Read only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Config;
use crate::store::{Finding, Reader, RunRow, SolutionFilter, WeightVersionRow};
use crate::trainer::export;
use crate::types::{RunId, Verdict, WeightManifest, WeightVersion};
use crate::verify::Grader;

use super::RunError;
use super::restore::produced;

/// A run with its recorded configuration.
#[derive(Clone, Debug)]
pub struct RecordedRun {
    /// Its row.
    pub row: RunRow,
    /// Its configuration.
    pub config: Config,
}

/// Start of the name of a folder that is being replaced or removed (`trainer/folder.rs`).
const REPLACED: &str = ".removing-";

/// Looks at the weights of a run that goes on before what was not found is believed to be lost, and the pause between two:
/// while the database was read, versions came and went.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Whether the weights that each run keeps lie on disk, whole: those of its last finished step and every
/// `run.keep_every`-th, unless they were given up. `dir` is the run folder, where they are looked for if they are not where
/// they were written. `deep` reads them all. Right also while a run goes on.
///
/// # Errors
/// The database cannot be read.
pub async fn weights_on_disk(
    reader: &Reader,
    dir: &Path,
    runs: &[RecordedRun],
    deep: bool,
) -> Result<Vec<Finding>, RunError> {
    let (mut missing, mut changed) = (Vec::new(), Vec::new());
    for run in runs {
        let mut kept = Kept::read(reader, run).await?;
        for look in 1.. {
            let found = kept.look(dir, deep);
            let is_well = found.missing.is_empty() && found.changed.is_empty();
            if !is_well && look < LOOKS {
                tokio::time::sleep(PAUSE).await;
                let now = Kept::read(reader, run).await?;
                // Of two looks under the same rows the second is right: a folder has no name while it is replaced.
                if look == 1 || now != kept {
                    kept = now;
                    continue;
                }
            }
            missing.extend(found.missing);
            changed.extend(found.changed);
            break;
        }
    }
    Ok(vec![
        Finding::of(
            "weights_kept",
            "the weights of the last finished step and every `run.keep_every`-th that was not given up are on disk",
            &missing,
        ),
        Finding::of(
            "weights_whole",
            "weights on disk have the size and checksum that are recorded; looked at deeply, to the last byte",
            &changed,
        ),
    ])
}

/// The weights of a run that should be on disk.
#[derive(PartialEq)]
struct Kept {
    run: RunId,
    versions: Vec<WeightVersionRow>,
}

/// What is wrong with them.
struct Faults {
    missing: Vec<String>,
    changed: Vec<String>,
}

impl Kept {
    async fn read(reader: &Reader, run: &RecordedRun) -> Result<Kept, RunError> {
        let id = run.row.run_id;
        // In this order: weights are given up only after a later step is over.
        let done = reader.done_steps(id).await?;
        let mut versions = reader.weight_versions(id).await?;
        let newest = done.iter().filter_map(produced).max().unwrap_or(WeightVersion::INITIAL);
        let keep_every = run.config.run.keep_every;
        versions.retain(|weights| is_kept(weights, newest, keep_every));
        Ok(Kept { run: id, versions })
    }

    fn look(&self, dir: &Path, deep: bool) -> Faults {
        let mut faults = Faults { missing: Vec::new(), changed: Vec::new() };
        for weights in &self.versions {
            let place = format!("run {}, weights {}", self.run, weights.weight_version);
            match folder_of(weights, dir, self.run) {
                None => faults.missing.push(format!("{place}: no folder `{}`", weights.path)),
                Some(folder) => {
                    faults.changed.extend(fault(weights, &folder, deep).map(|fault| format!("{place}: {fault}")));
                }
            }
        }
        faults
    }
}

/// `newest` are those of the last finished step: later ones, of a step that was cut off, are made again.
fn is_kept(weights: &WeightVersionRow, newest: WeightVersion, keep_every: u32) -> bool {
    let version = weights.weight_version;
    let is_nth = keep_every > 0 && version.0.is_multiple_of(u64::from(keep_every));
    let is_there = weights.confirmed_at_ms.is_some() && weights.dropped_at_ms.is_none();
    is_there && (version == newest || (is_nth && version < newest))
}

/// Where they were written, or the same place in a run folder that was moved. A folder that is being replaced may have been
/// left under its other name by a kill; a resume writes it anew.
fn folder_of(weights: &WeightVersionRow, dir: &Path, run: RunId) -> Option<PathBuf> {
    let written = PathBuf::from(&weights.path);
    let name = written.file_name()?.to_owned();
    let moved = dir.join(format!("run-{run}/weights")).join(&name);
    let mut aside = std::ffi::OsString::from(REPLACED);
    aside.push(&name);
    let replaced = [written.with_file_name(&aside), moved.with_file_name(&aside)];
    [written, moved].into_iter().chain(replaced).find(|folder| folder.is_dir())
}

fn fault(weights: &WeightVersionRow, folder: &Path, deep: bool) -> Option<String> {
    let manifest = folder.join("manifest.json");
    let manifest = match std::fs::read_to_string(&manifest).map(|text| serde_json::from_str::<WeightManifest>(&text)) {
        Ok(Ok(manifest)) => manifest,
        _ => return Some(format!("`{}` cannot be read", manifest.display())),
    };
    if manifest.digest != weights.digest {
        return Some(format!("checksum {} is recorded, {} on disk", weights.digest, manifest.digest));
    }
    let file = folder.join(manifest.file.file_name()?);
    let bytes = match file.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) => return Some(format!("`{}`: {error}", file.display())),
    };
    if bytes != weights.size_bytes {
        return Some(format!("{} bytes are recorded, `{}` has {bytes}", weights.size_bytes, file.display()));
    }
    // Adapters are summed up with the weights that they are on, which are not beside them.
    if !deep || manifest.base_digest.is_some() {
        return None;
    }
    match export::digest_of_folder(folder) {
        Ok(digest) if digest == weights.digest => None,
        Ok(digest) => Some(format!("checksum {} is recorded, the bytes have {digest}", weights.digest)),
        Err(error) => Some(crate::error::chain(&error).join(": ")),
    }
}

/// Whether the verifier still finds no kept solution wrong: each by the rules of the run that found it, imported ones by those
/// of the newest run. Math-Verify is not asked.
///
/// # Errors
/// The database cannot be read.
pub async fn solutions_verified(reader: &Reader, runs: &[RecordedRun]) -> Result<Finding, RunError> {
    let graders: BTreeMap<RunId, Grader> =
        runs.iter().map(|run| (run.row.run_id, Grader::with_sidecar(run.config.verify_rules(), None))).collect();
    let mut wrong = Vec::new();
    for solution in reader.all_solutions(SolutionFilter::default()).await? {
        let grader = solution.run_id.map_or_else(|| graders.values().next_back(), |run| graders.get(&run));
        let (Some(grader), Some(problem)) = (grader, reader.problem(solution.problem_id).await?) else { continue };
        let verdict = grader.grade(&solution.text, &problem.answer).await.verdict;
        if !matches!(verdict, Verdict::Correct | Verdict::Undecided) {
            wrong.push(format!("solution {}: {}", solution.solution_id, verdict.as_str()));
        }
    }
    Ok(Finding::of("solutions_verified", "the verifier finds no kept solution wrong", &wrong))
}
