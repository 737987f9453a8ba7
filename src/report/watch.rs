//! A run at a glance, drawn again and again while it goes on.

use std::fmt::Write as _;

use super::table::{decimal, duration, percent, steps_table, took};
use super::text;
use crate::store::{
    LearningPoint, Reader, RoundStatus, RoundSummary, RunRow, RunStatus, StepStatus, StepSummary, StoreError,
};
use crate::types::RunId;

/// A database that nobody has written to for so long is shown as perhaps left behind by a process that was killed.
const QUIET_MS: i64 = 60_000;

/// What is known of a run now.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    /// The run.
    pub run: RunRow,
    /// Its steps, oldest first.
    pub steps: Vec<StepSummary>,
    /// Its measurements, oldest first.
    pub learning: Vec<LearningPoint>,
    /// Its newest round.
    pub round: Option<RoundSummary>,
}

/// When a view is looked at, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Now, in milliseconds since 1970.
    pub now_ms: i64,
    /// When the database was written to last.
    pub written_at_ms: Option<i64>,
    /// Columns of the terminal.
    pub width: usize,
    /// Rows of the terminal.
    pub height: usize,
}

/// Reads what is known of a run; `None` if there is none of that number.
///
/// # Errors
/// The database cannot be read.
pub async fn run_view(reader: &Reader, run: RunId) -> Result<Option<RunView>, StoreError> {
    let Some(row) = reader.run(run).await? else { return Ok(None) };
    Ok(Some(RunView {
        run: row,
        steps: reader.steps(run).await?,
        learning: reader.learning_curve(run).await?,
        round: reader.round_summary(run).await?.pop(),
    }))
}

/// A few lines about the run, then as many of its newest steps as fit.
pub fn view_text(view: &RunView, glance: Glance) -> String {
    let heading: String = heading(view, glance).lines().map(|line| text::cut(line, glance.width) + "\n").collect();
    // The table has a line of its own above the steps, and the cursor one below.
    let room = glance.height.saturating_sub(heading.lines().count() + 3).max(1);
    let newest = &view.steps[view.steps.len().saturating_sub(room)..];
    if newest.is_empty() { heading } else { heading + "\n" + &steps_table(newest, glance.width) }
}

fn heading(view: &RunView, glance: Glance) -> String {
    let run = &view.run;
    let done = view.steps.iter().filter(|step| step.status == StepStatus::Done).count();
    let planned = run.planned_steps().map_or_else(|| "?".to_owned(), |steps| steps.to_string());
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "run {} {} ({}): {}, step {done} of {planned}, {}",
        run.run_id,
        text::one_line(&run.name),
        run.algorithm.as_str(),
        state(run, glance),
        took(run.created_at_ms, run.ended_at_ms.or(Some(glance.now_ms))),
    );
    if let Some(error) = &run.error {
        let _ = writeln!(out, "error     {}", text::one_line(error));
    }
    if let Some(round) = &view.round {
        let measured = match round.status {
            RoundStatus::Filtering => format!("{} of {} measured, ", round.measured_count, round.candidate_count),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "round {}   {}, {measured}{} hard, {} cached, {} solved",
            round.round_id,
            round.status.as_str(),
            round.hard_count,
            round.cached_count,
            round.solved_count
        );
    }
    if let Some(step) = view.steps.iter().rev().find(|step| step.status == StepStatus::Running) {
        let _ = writeln!(
            out,
            "step {:<4} [{}] {} of {} trees, {} solved",
            step.step_id,
            bar(step.tree_count, step.problem_count, 24),
            step.tree_count,
            step.problem_count,
            step.solved_count
        );
    }
    if let (Some(first), Some(last)) = (view.learning.first(), view.learning.last()) {
        let _ = writeln!(
            out,
            "held out  pass@1 {} after step {}, {} at first",
            percent(last.pass_at_1),
            last.step_id,
            percent(first.pass_at_1)
        );
    }
    out
}

/// Where the run stands; one whose process was killed says so only by its silence.
fn state(run: &RunRow, glance: Glance) -> String {
    let quiet_ms = glance.written_at_ms.map_or(0, |written| glance.now_ms - written);
    match run.status {
        RunStatus::Running if quiet_ms > QUIET_MS => {
            format!("running, nothing written for {}", duration(u64::try_from(quiet_ms).ok()))
        }
        status => status.as_str().to_owned(),
    }
}

fn bar(done: u64, all: u64, width: usize) -> String {
    let filled = (done as f64 / all.max(1) as f64 * width as f64).round().min(width as f64) as usize;
    format!("{}{}", "#".repeat(filled), ".".repeat(width - filled))
}

/// One finished step on one line, for output that cannot be drawn anew.
pub fn step_line(step: &StepSummary) -> String {
    format!(
        "step {}: solved {} of {}, reward {}, loss {}, ratio {}, search {}, train {}",
        step.step_id,
        step.solved_count,
        step.tree_count,
        decimal(step.mean_reward),
        decimal(step.loss),
        decimal(step.ratio_mean),
        duration(step.search_ms),
        duration(step.train_ms)
    )
}

/// One measurement on one line.
pub fn learning_line(point: &LearningPoint) -> String {
    format!("held out after step {}: pass@1 {}", point.step_id, percent(point.pass_at_1))
}
