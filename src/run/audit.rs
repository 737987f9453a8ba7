//! What the database says of things outside it: weights on disk, and that kept solutions are right. Read only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::store::{Finding, Reader, RunRow, SolutionFilter, WeightHistory};
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

/// Whether the weights that each run keeps lie on disk, whole: the newest confirmed ones and every `run.keep_every`-th.
/// `dir` is the run folder, where they are looked for if they are not where they were written. `deep` reads them all.
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
        let versions = reader.weight_history(run.row.run_id).await?;
        let done = reader.done_steps(run.row.run_id).await?;
        let newest = done.iter().filter_map(produced).max().unwrap_or(WeightVersion::INITIAL);
        for weights in kept(&versions, newest, run.config.run.keep_every) {
            let place = format!("run {}, weights {}", run.row.run_id, weights.weight_version);
            match folder_of(weights, dir, run.row.run_id) {
                None => missing.push(format!("{place}: no folder `{}`", weights.path)),
                Some(folder) => changed.extend(fault(weights, &folder, deep).map(|fault| format!("{place}: {fault}"))),
            }
        }
    }
    Ok(vec![
        Finding::of(
            "weights_kept",
            "the weights of the last finished step and every `run.keep_every`-th are on disk",
            &missing,
        ),
        Finding::of(
            "weights_whole",
            "weights on disk have the size and checksum that are recorded; looked at deeply, to the last byte",
            &changed,
        ),
    ])
}

/// `newest` are those of the last finished step: later ones, of a step that was cut off, are made again.
fn kept(versions: &[WeightHistory], newest: WeightVersion, keep_every: u32) -> Vec<&WeightHistory> {
    let is_kept = |weights: &&WeightHistory| {
        let version = weights.weight_version;
        let is_nth = keep_every > 0 && version.0.is_multiple_of(u64::from(keep_every));
        weights.is_confirmed && (version == newest || (is_nth && version < newest))
    };
    versions.iter().filter(is_kept).collect()
}

/// Where they were written, or the same place in a run folder that was moved.
fn folder_of(weights: &WeightHistory, dir: &Path, run: RunId) -> Option<PathBuf> {
    let written = PathBuf::from(&weights.path);
    let moved = dir.join(format!("run-{run}/weights")).join(written.file_name()?);
    [written, moved].into_iter().find(|folder| folder.is_dir())
}

fn fault(weights: &WeightHistory, folder: &Path, deep: bool) -> Option<String> {
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
