//! A run as Markdown: what it was, what came of it, its best trees and its surest mistakes.

use std::fmt::Write as _;

use super::table::{decimal, duration, percent, took, utc};
use super::text;
use super::watch::{RunView, run_view};
use crate::store::{
    ConfidentMistake, Reader, StepStatus, StepSummary, StoreError, TreeFilter, TreeItem, TreeOrder, TreePageFilter,
};
use crate::types::RunId;

/// Rows of the table of steps: the first, the last, and evenly between.
const STEPS: usize = 12;
/// Trees and mistakes that are shown.
const EXAMPLES: u32 = 10;
/// Characters of a text that are shown.
const EXCERPT: usize = 1200;

/// What the summary is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// The run with its steps and measurements.
    pub view: RunView,
    /// The trees in which search helped most.
    pub best: Vec<TreeItem>,
    /// The wrong answers that the policy was surest of.
    pub mistakes: Vec<ConfidentMistake>,
}

/// Reads a run for its summary; `None` if there is none of that number.
///
/// # Errors
/// The database cannot be read.
pub async fn run_summary(reader: &Reader, run: RunId) -> Result<Option<RunSummary>, StoreError> {
    let Some(view) = run_view(reader, run).await? else { return Ok(None) };
    let solved = TreeFilter { is_solved: Some(true), limit: Some(EXAMPLES), ..TreeFilter::of(run) };
    let order = TreePageFilter { order: TreeOrder::Gain, ..TreePageFilter::of(solved) };
    let mut best = reader.tree_page(order).await?.trees;
    // Those without a gain come last.
    best.retain(|item| item.gain_frac.is_some());
    let mistakes = reader.confident_mistakes(run, EXAMPLES).await?;
    Ok(Some(RunSummary { view, best, mistakes }))
}

/// The summary as Markdown. Texts of models and problems stand in indented blocks and escaped cells, so that they stay
/// text.
pub fn summary_markdown(summary: &RunSummary) -> String {
    let RunView { run, steps, learning, round } = &summary.view;
    let done: Vec<&StepSummary> = steps.iter().filter(|step| step.status == StepStatus::Done).collect();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# Run {} ({})\n", run.run_id, cell(&run.name));
    let planned = run.planned_steps().map_or_else(|| "?".to_owned(), |steps| steps.to_string());
    let facts = [
        ("algorithm", run.algorithm.as_str().to_owned()),
        ("model", cell(&run.model)),
        ("status", run.status.as_str().to_owned()),
        ("error", run.error.as_deref().map(cell).unwrap_or_default()),
        ("steps", format!("{} of {planned}", done.len())),
        ("begun (UTC)", utc(run.created_at_ms)),
        ("took", took(run.created_at_ms, run.ended_at_ms)),
        ("seed", run.seed.to_string()),
        ("settings (SHA-256)", format!("`{}`", run.config_sha256)),
        ("program", format!("{} {}", cell(&run.program_version), cell(run.git_commit.as_deref().unwrap_or("")))),
    ];
    out.push_str("| | |\n| --- | --- |\n");
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(out, "| {name} | {} |", value.trim_end());
    }
    if let Some(round) = round {
        let _ = writeln!(
            out,
            "\nRound {}: {} of {} problems hard, {} with a kept solution, {} solved.",
            round.round_id, round.hard_count, round.candidate_count, round.cached_count, round.solved_count
        );
    }
    if !done.is_empty() {
        out.push_str(
            "\n## Steps\n\n| step | solved | reward | entropy, nats | ratio | loss | tokens/s | search | train |\n",
        );
        out.push_str("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
        for step in spread(&done) {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                step.step_id,
                percent(step.solved_frac),
                decimal(step.mean_reward),
                decimal(step.entropy_nats),
                decimal(step.ratio_mean),
                decimal(step.loss),
                step.generated_tokens_per_s.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")),
                duration(step.search_ms),
                duration(step.train_ms)
            );
        }
    }
    if !learning.is_empty() {
        out.push_str("\n## Held-out problems\n\n| after step | pass@1 | solved in any sample | generated tokens |\n");
        out.push_str("| ---: | ---: | ---: | ---: |\n");
        for point in learning {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} |",
                point.step_id,
                percent(point.pass_at_1),
                percent(point.pass_at_k),
                point.generated_tokens
            );
        }
    }
    best_trees(&mut out, &summary.best);
    mistakes(&mut out, &summary.mistakes);
    out
}

fn best_trees(out: &mut String, trees: &[TreeItem]) {
    if trees.is_empty() {
        return;
    }
    out.push_str("\n## Trees in which search helped most\n\n");
    out.push_str(
        "Gain: the share of correct answers in the tree, less that of direct rollouts of the same problem.\n\n",
    );
    out.push_str("| tree | step | problem | direct rollouts | gain | nodes | expansions | tokens |\n");
    out.push_str("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n");
    for item in trees {
        let tree = &item.tree;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            tree.tree_id,
            tree.step_id,
            cell(&tree.problem_name),
            percent(item.direct_pass_rate),
            percent(item.gain_frac),
            tree.node_count,
            tree.expansion_count,
            tree.generated_tokens
        );
    }
}

fn mistakes(out: &mut String, mistakes: &[ConfidentMistake]) {
    if mistakes.is_empty() {
        return;
    }
    out.push_str("\n## Most confident mistakes\n");
    for mistake in mistakes {
        let _ = writeln!(
            out,
            "\nTree {}, step {}, problem {}: {:.3} nats per token over {} tokens.\n",
            mistake.tree_id,
            mistake.step_id,
            cell(&mistake.problem_name),
            mistake.entropy_nats,
            mistake.response_tokens
        );
        let parts =
            [("problem", &mistake.problem), ("reference", &mistake.reference_answer), ("answer", &mistake.response)];
        for (name, part) in parts {
            for (line, number) in text::lines(&excerpt(part)).lines().zip(0..) {
                let _ = writeln!(out, "    {:<10}{line}", if number == 0 { name } else { "" });
            }
        }
    }
}

fn spread<'a>(steps: &[&'a StepSummary]) -> Vec<&'a StepSummary> {
    let count = steps.len().min(STEPS);
    let last = steps.len().saturating_sub(1);
    (0..count).filter_map(|k| steps.get(k * last / count.saturating_sub(1).max(1)).copied()).collect()
}

fn excerpt(text: &str) -> String {
    let mut kept: String = text.chars().take(EXCERPT).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    kept
}

/// Foreign text in a line of Markdown: nothing in it has a meaning.
pub(super) fn cell(foreign: &str) -> String {
    let mut out = String::new();
    for c in text::one_line(foreign).chars() {
        if c.is_ascii_punctuation() && !matches!(c, '.' | ',' | ':' | '/' | '-' | ' ') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_has_no_meaning_in_markdown() {
        assert_eq!(cell("a|b <b>*x*</b> [l](u) `c`\n#d"), r"a\|b \<b\>\*x\*\</b\> \[l\]\(u\) \`c\`⏎\#d");
    }
}
