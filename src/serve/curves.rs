//! The figures of a run against steps, tokens and time, column by column.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ServeError;
use crate::store::{Reader, StepStatus};
use crate::types::{RunId, StepId};

/// Columns of a step that number it or say when it was: no figures.
const NO_FIGURES: [&str; 5] = ["run_id", "step_id", "round_id", "created_at_ms", "ended_at_ms"];

/// Against what the figures can be drawn, each `[points]`.
#[derive(Debug, Default, Serialize)]
struct Axes {
    step: Vec<i64>,
    generated_tokens: Vec<u64>,
    seconds: Vec<f64>,
}

/// The newest `limit` steps, the measurements on held-out problems and the rounds. Tokens are those of filters and steps
/// until then, seconds those of the steps.
///
/// # Errors
/// The database cannot be read.
pub async fn curves(reader: &Reader, run: RunId, limit: usize) -> Result<Value, ServeError> {
    let rounds = reader.round_summary(run).await?;
    let plans = reader.rounds(run).await?;
    let first_steps: Vec<(i64, u64)> = plans
        .iter()
        .map(|plan| {
            let summary = rounds.iter().find(|round| round.round_id == plan.round_id);
            (plan.first_step_id.0, summary.map_or(0, |round| round.generated_tokens))
        })
        .collect();
    let filter_tokens = |step: i64| first_steps.iter().filter(|(first, _)| *first <= step).map(|(_, n)| n).sum::<u64>();

    let done: Vec<_> = reader.steps(run).await?.into_iter().filter(|step| step.status == StepStatus::Done).collect();
    let metrics = reader.all_metrics(run).await?;
    let wall_s: BTreeMap<StepId, f64> = metrics
        .iter()
        .filter(|metric| metric.name == "wall_s")
        .filter_map(|metric| Some((metric.step_id, metric.value?)))
        .collect();
    let mut axes = Axes::default();
    let (mut tokens, mut seconds) = (0, 0.0);
    for step in &done {
        tokens += step.generated_tokens.unwrap_or(0);
        let parts = [step.search_ms, step.train_ms, step.export_ms, step.reload_ms];
        let measured = parts.iter().flatten().sum::<u64>() as f64 / 1000.0;
        seconds += wall_s.get(&step.step_id).copied().unwrap_or(measured);
        axes.step.push(step.step_id.0);
        axes.generated_tokens.push(tokens + filter_tokens(step.step_id.0));
        axes.seconds.push(seconds);
    }
    let at_step = |step: i64| {
        let place = axes.step.iter().rposition(|known| *known <= step);
        (place.map_or(filter_tokens(step), |at| axes.generated_tokens[at]), place.map_or(0.0, |at| axes.seconds[at]))
    };

    let places: BTreeMap<StepId, usize> = done.iter().enumerate().map(|(at, step)| (step.step_id, at)).collect();
    let mut series: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    let mut set = |name: &str, step: StepId, value: Option<f64>| {
        if let (Some(at), Some(value)) = (places.get(&step), value) {
            let column = series.entry(name.to_owned()).or_insert_with(|| vec![None; done.len()]);
            column[*at] = Some(value);
        }
    };
    for step in &done {
        if let Value::Object(cells) = serde_json::to_value(step)? {
            for (name, value) in cells.iter().filter(|(name, _)| !NO_FIGURES.contains(&name.as_str())) {
                set(name, step.step_id, value.as_f64());
            }
        }
    }
    for row in reader.step_trajectories(run).await? {
        set("response_tokens_mean", row.step_id, row.response_tokens_mean);
        set("correct_trajectory_frac", row.step_id, row.correct_frac);
    }
    for metric in &metrics {
        set(&metric.name, metric.step_id, metric.value);
    }

    let learning = reader.learning_curve(run).await?;
    let held_out = json!({
        "step": learning.iter().map(|point| point.step_id.0).collect::<Vec<_>>(),
        "generated_tokens": learning.iter().map(|point| point.generated_tokens).collect::<Vec<_>>(),
        "seconds": learning.iter().map(|point| at_step(point.step_id.0).1).collect::<Vec<_>>(),
        "series": {
            "held_out_pass_at_1": learning.iter().map(|point| point.pass_at_1).collect::<Vec<_>>(),
            "held_out_pass_at_k": learning.iter().map(|point| point.pass_at_k).collect::<Vec<_>>(),
        },
    });
    // A round is measured before its first step, and its own tokens are spent then.
    let before: Vec<i64> = plans.iter().map(|plan| plan.first_step_id.0 - 1).collect();
    let of_rounds = json!({
        "step": before,
        "generated_tokens": plans.iter().map(|plan| {
            at_step(plan.first_step_id.0 - 1).0.max(filter_tokens(plan.first_step_id.0))
        }).collect::<Vec<_>>(),
        "seconds": before.iter().map(|step| at_step(*step).1).collect::<Vec<_>>(),
        "series": {
            "round_pass_rate": rounds.iter().map(|round| round.pass_rate_mean).collect::<Vec<_>>(),
            "round_hard_count": rounds.iter().map(|round| round.hard_count).collect::<Vec<_>>(),
        },
    });
    let dropped = done.len().saturating_sub(limit);
    let newest = |column: Vec<Option<f64>>| Value::from(column.into_iter().skip(dropped).collect::<Vec<_>>());
    let series: Map<String, Value> = series.into_iter().map(|(name, column)| (name, newest(column))).collect();
    Ok(json!({
        "left_out": dropped,
        "steps": {
            "step": axes.step.split_off(dropped),
            "generated_tokens": axes.generated_tokens.split_off(dropped),
            "seconds": axes.seconds.split_off(dropped),
            "series": series,
        },
        "held_out": held_out,
        "rounds": of_rounds,
    }))
}
