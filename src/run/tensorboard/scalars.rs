//! Rows of the store to figures with the names that people look for in TensorBoard: `train/loss`, `rollout/solved`,
//! `eval/pass@1/<set>`, `time/search_s`.
//!
//! Only what is committed and final is taken, and every figure once: a step that is over, a measurement, a round whose
//! problems are decided. What was not finite is null in the store, and no point in a curve.

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::dataset_name;
use crate::store::{EvaluationRow, MetricRow, Reader, RoundStatus, StepSummary, StoreError};
use crate::types::{RoundId, RunId, StepId};

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// Its name; what stands before the first `/` groups it.
    pub tag: String,
    /// The step; 0 is before the first.
    pub step: u64,
    /// When it was recorded, in seconds since 1970.
    pub wall_s: f64,
    /// Its value.
    pub value: f64,
}

/// How far figures have been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    step: StepId,
    evaluation: StepId,
    round: RoundId,
}

impl Default for Cursor {
    fn default() -> Self {
        // A measurement may belong to step 0.
        Cursor { step: StepId(0), evaluation: StepId(-1), round: RoundId(0) }
    }
}

/// Beginnings of the names of metrics, and the group that they are shown in; the first that fits counts.
const GROUPS: [(&str, &str); 14] = [
    ("terminal_pass_frac", "rollout"),
    ("trajectories_dropped", "train"),
    ("trajectories_defective", "train"),
    ("trajectories", "rollout"),
    ("distinct_trajectories", "rollout"),
    ("distinct_tokens", "train"),
    ("unpacked_tokens", "train"),
    ("update", "train"),
    ("ratio_", "ratio"),
    ("searches_skipped", "cache"),
    ("cache", "cache"),
    ("tokens_saved", "cache"),
    ("held_", "reload"),
    ("server_", "server"),
];

/// The name of a metric in TensorBoard.
pub fn metric_tag(name: &str) -> String {
    if name == "wall_s" {
        return "time/step_s".to_owned();
    }
    if name.ends_with("_s") {
        return format!("time/{name}");
    }
    match GROUPS.iter().find(|(beginning, _)| name.starts_with(beginning)) {
        // A group that is named as the beginning is not named twice.
        Some((beginning, group)) if beginning.strip_suffix('_') == Some(group) => {
            format!("{group}/{}", name.strip_prefix(beginning).unwrap_or(name))
        }
        Some((_, group)) => format!("{group}/{name}"),
        None => format!("other/{name}"),
    }
}

/// The figures of a step from its own columns.
fn step_values(step: &StepSummary) -> Vec<(&'static str, Option<f64>)> {
    let count = |count: u64| Some(count as f64);
    let optional = |count: Option<u64>| count.map(|count| count as f64);
    let seconds = |ms: Option<u64>| ms.map(|ms| ms as f64 / 1000.0);
    vec![
        ("train/loss", step.loss),
        ("train/grad_norm", step.grad_norm),
        ("train/clip_frac", step.clip_frac),
        ("train/entropy_nats", step.entropy_nats),
        ("train/trained_tokens", optional(step.trained_tokens)),
        ("train/packed_tokens", optional(step.packed_tokens)),
        ("train/groups_skipped", optional(step.skipped_group_count)),
        ("train/weight_version", optional(step.produced_weight_version.map(|version| version.0))),
        ("ratio/mean", step.ratio_mean),
        ("ratio/p99", step.ratio_p99),
        ("ratio/outside_frac", step.ratio_outside_frac),
        ("ratio/nan_count", optional(step.ratio_nan_count)),
        ("rollout/reward", step.mean_reward),
        ("rollout/solved", step.solved_frac),
        ("rollout/trees", count(step.tree_count)),
        ("rollout/trees_solved", count(step.solved_count)),
        ("rollout/trees_exhausted", count(step.exhausted_count)),
        ("rollout/trees_failed", count(step.failed_count)),
        ("rollout/trees_replayed", count(step.replay_count)),
        ("rollout/undecided_answers", count(step.undecided_count)),
        ("rollout/generated_tokens", optional(step.generated_tokens)),
        ("time/search_s", seconds(step.search_ms)),
        ("time/train_s", seconds(step.train_ms)),
        ("time/export_s", seconds(step.export_ms)),
        ("time/reload_s", seconds(step.reload_ms)),
        ("time/generated_tokens_per_s", step.generated_tokens_per_s),
    ]
}

/// Names of the held-out problems in tags: the data set of `eval.problems`.
fn held_out_name(config_toml: &str) -> String {
    let config: toml::Table = config_toml.parse().unwrap_or_default();
    let path = config.get("eval").and_then(|eval| eval.get("problems")).and_then(toml::Value::as_str);
    path.filter(|path| !path.is_empty()).map_or_else(|| "held-out".to_owned(), |path| dataset_name(Path::new(path)))
}

/// The figures that are final and have not been taken yet; the cursor is moved behind them.
///
/// # Errors
/// The database cannot be read.
pub async fn since(reader: &Reader, run: RunId, cursor: &mut Cursor) -> Result<Vec<Scalar>, StoreError> {
    let mut scalars = Vec::new();
    let mut add = |tag: String, step: i64, at_ms: i64, value: Option<f64>| {
        if let Some(value) = value {
            let step = u64::try_from(step).unwrap_or(0);
            scalars.push(Scalar { tag, step, wall_s: at_ms as f64 / 1000.0, value });
        }
    };

    let rounds = reader.rounds(run).await?;
    let known = *cursor;
    if rounds.iter().any(|round| round.round_id > known.round && round.status != RoundStatus::Filtering) {
        let summaries = reader.round_summary(run).await?;
        for round in rounds.iter().filter(|round| round.round_id > known.round) {
            let Some(summary) = summaries.iter().find(|summary| summary.round_id == round.round_id) else { continue };
            if round.status == RoundStatus::Filtering {
                break;
            }
            let (before, at_ms) = (round.first_step_id.0 - 1, round.filtered_at_ms.unwrap_or(round.created_at_ms));
            for (tag, value) in [
                ("curriculum/pass_rate", summary.pass_rate_mean),
                ("curriculum/problems", Some(summary.candidate_count as f64)),
                ("curriculum/problems_hard", Some(summary.hard_count as f64)),
                ("curriculum/problems_cached", Some(summary.cached_count as f64)),
                ("curriculum/generated_tokens", Some(summary.generated_tokens as f64)),
            ] {
                add(tag.to_owned(), before, at_ms, value);
            }
            cursor.round = round.round_id;
        }
    }

    let steps = reader.done_steps_since(run, known.step).await?;
    if let Some(last) = steps.last().map(|step| step.step_id) {
        let trajectories = reader.step_trajectories_since(run, known.step).await?;
        let mut metrics: BTreeMap<StepId, Vec<MetricRow>> = BTreeMap::new();
        for metric in reader.metrics_since(run, known.step).await? {
            metrics.entry(metric.step_id).or_default().push(metric);
        }
        for step in &steps {
            let (id, at_ms) = (step.step_id, step.ended_at_ms.unwrap_or(step.created_at_ms));
            for (tag, value) in step_values(step) {
                add(tag.to_owned(), id.0, at_ms, value);
            }
            if let Some(found) = trajectories.iter().find(|found| found.step_id == id) {
                add("rollout/response_tokens".to_owned(), id.0, at_ms, found.response_tokens_mean);
                add("rollout/correct".to_owned(), id.0, at_ms, found.correct_frac);
            }
            for metric in metrics.get(&id).into_iter().flatten() {
                add(metric_tag(&metric.name), id.0, at_ms, metric.value);
            }
        }
        cursor.step = last;
    }

    let evaluations = reader.evaluations(run).await?;
    if evaluations.last().is_some_and(|newest| newest.step_id > known.evaluation) {
        let name = held_out_name(&reader.run(run).await?.map_or_else(String::new, |row| row.config_toml));
        for row in evaluations.iter().filter(|row| row.step_id > known.evaluation) {
            for (tag, value) in evaluation_values(row) {
                add(format!("eval/{tag}/{name}"), row.step_id.0, row.created_at_ms, value);
            }
            cursor.evaluation = row.step_id;
        }
    }
    Ok(scalars)
}

fn evaluation_values(row: &EvaluationRow) -> Vec<(String, Option<f64>)> {
    let rollouts = f64::from(row.problem_count) * f64::from(row.sample_count);
    let mut values = vec![("pass@1".to_owned(), row.pass_at_1)];
    if row.sample_count > 1 {
        values.push((format!("pass@{}", row.sample_count), row.pass_at_k));
    }
    values.push(("response_tokens".to_owned(), (rollouts > 0.0).then(|| row.generated_tokens as f64 / rollouts)));
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_grouped() {
        for (name, tag) in [
            ("wall_s", "time/step_s"),
            ("reload_pause_s", "time/reload_pause_s"),
            ("ratio_p50", "ratio/p50"),
            ("server_prefix_hit_frac", "server/prefix_hit_frac"),
            ("cached_ratio_p99", "cache/cached_ratio_p99"),
            ("updates_done", "train/updates_done"),
            ("trajectories", "rollout/trajectories"),
            ("trajectories_dropped", "train/trajectories_dropped"),
            ("whatever_comes", "other/whatever_comes"),
        ] {
            assert_eq!(metric_tag(name), tag);
        }
        assert_eq!(held_out_name("[eval]\nproblems = \"sets/gsm8k/main/test-00000-of-00001.parquet\""), "gsm8k");
        assert_eq!(held_out_name("[eval]\nproblems = \"\""), "held-out");
    }
}
