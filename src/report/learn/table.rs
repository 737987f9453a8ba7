//! The results of a suite in Markdown.

use super::compare::{AlgorithmReport, TaskReport};
use super::curve::{Axis, Interval, RunCurve};
use crate::report::text::one_line;

/// All tables: one per task, then every run.
pub fn learn_markdown(tasks: &[TaskReport], runs: &[RunCurve]) -> String {
    let mut text = String::new();
    for task in tasks {
        text += &task_table(task, runs);
        text.push('\n');
    }
    text += "### Every run\n\n";
    text += "| task | algorithm | seed | | steps | generated tokens | before % | best % | last % (95 % over problems) | s |\n";
    text += "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for run in runs {
        text += &run_row(run);
    }
    text
}

fn task_table(task: &TaskReport, runs: &[RunCurve]) -> String {
    let mut text = format!("### {}\n\n", task.task);
    let of_task = || runs.iter().filter(|run| run.task == task.task);
    let open = of_task().filter(|run| matches!(run.standing.text(), "not begun" | "not over")).count();
    text += &format!("Up to {} generated tokens, filters included.", thousands(task.max_generated_tokens));
    match task.base_digests.as_slice() {
        [] => {}
        [digest] => text += &format!(" Weights at the beginning: `{}`.", &digest[..digest.len().min(16)]),
        several => text += &format!(" **The runs began with {} different weights.**", several.len()),
    }
    if open > 0 {
        text += &format!(" **{open} of {} runs are not over.**", of_task().count());
    }
    text += "\n\n| algorithm | runs | before % | when the tokens are spent % | best of mean % | trained tokens | s |";
    let baselines: Vec<&str> = {
        let mut names: Vec<&str> = Vec::new();
        for level in task.algorithms.iter().flat_map(|one| &one.levels) {
            if !names.contains(&level.baseline.as_str()) {
                names.push(&level.baseline);
            }
        }
        names
    };
    for name in &baselines {
        let known = task.algorithms.iter().flat_map(|one| &one.levels).find(|level| level.baseline == **name);
        let goal = known.map_or(String::new(), |level| {
            format!(" ({:.1} % at {})", 100.0 * level.accuracy, thousands(level.baseline_tokens))
        });
        text += &format!(" tokens to the best of {name}{goal} | times fewer |");
    }
    text += &format!("\n| --- |{}\n", " ---: |".repeat(6 + 2 * baselines.len()));
    for one in &task.algorithms {
        text += &algorithm_row(one, &baselines);
    }
    text
}

fn algorithm_row(one: &AlgorithmReport, baselines: &[&str]) -> String {
    let failed = if one.failed > 0 { format!(", {} failed", one.failed) } else { String::new() };
    let runs = if one.done == one.runs { one.runs.to_string() } else { format!("{} of {}", one.done, one.runs) };
    let number = |value: Option<f64>| value.map_or_else(|| "-".into(), thousands);
    let mut text = format!(
        "| {} | {runs}{failed} | {} | {} | {} | {} | {} |",
        one.algorithm,
        interval(one.base),
        interval(one.last),
        one.best_of_mean.map_or_else(|| "-".into(), |best| format!("{:.1}", 100.0 * best)),
        number(one.trained_tokens),
        number(one.seconds),
    );
    for name in baselines {
        text += &match one.levels.iter().find(|level| level.baseline == **name) {
            None => " - | - |".to_owned(),
            Some(level) => {
                let tokens = level.median_tokens.map_or_else(|| "never".into(), thousands);
                let [low, high] = level.ratio_interval;
                // Less than what is left of the tokens: the most that is known of a run that never gets there.
                let ratio = if level.median_tokens.is_some() { format!("{:.2}", level.ratio) } else { "-".into() };
                format!(" {tokens} ({} of {}) | {ratio} ({low:.2} to {high:.2}) |", level.reached, level.runs)
            }
        };
    }
    text + "\n"
}

fn run_row(run: &RunCurve) -> String {
    let percent = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{:.1}", 100.0 * value));
    let last = run
        .points
        .last()
        .map_or_else(|| "-".into(), |point| interval(Some(Interval::wilson(point.pass_at_1, point.problem_count))));
    let error =
        run.error.as_deref().map_or_else(String::new, |error| format!(": {}", one_line(error).replace('|', "/")));
    format!(
        "| {} | {} | {} | {}{error} | {} | {} | {} | {} | {last} | {} |\n",
        run.task,
        run.algorithm,
        run.seed,
        run.standing.text(),
        run.steps_done,
        thousands(run.generated_tokens as f64),
        percent(run.base()),
        percent(run.best(f64::INFINITY)),
        thousands(run.end(Axis::Seconds)),
    )
}

fn interval(value: Option<Interval>) -> String {
    value.map_or_else(
        || "-".into(),
        |value| format!("{:.1} ({:.1} to {:.1})", 100.0 * value.mean, 100.0 * value.low, 100.0 * value.high),
    )
}

/// A whole number with commas.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::compare::compare;
    use super::super::curve::tests::run;
    use super::super::read::Standing;
    use super::*;

    #[test]
    fn a_failed_run_and_one_that_never_began_are_in_the_table() {
        let mut failed = run("tree", 2, &[(0.0, 0.1), (200.0, 0.2)]);
        failed.standing = Standing::Failed;
        failed.error = Some("the | policy diverged".into());
        let mut absent = run("grpo", 2, &[(0.0, 0.1)]);
        absent.points.clear();
        absent.standing = Standing::Absent;
        let runs = [
            run("tree", 1, &[(0.0, 0.1), (1000.0, 0.5)]),
            failed,
            run("grpo", 1, &[(0.0, 0.1), (1000.0, 0.3)]),
            absent,
        ];
        let report = compare("sums", 1000, &["tree", "grpo"], &["grpo"], &runs);
        let text = learn_markdown(&[report], &runs);
        for part in [
            "| tree | 1 of 2, 1 failed | 10.0 (10.0 to 10.0) |",
            "| grpo | 1 of 2 | 10.0 (10.0 to 10.0) | 30.0 (30.0 to 30.0) | 30.0 | 500 | 10 | - | - |",
            "**1 of 4 runs are not over.**",
            "tokens to the best of grpo (30.0 % at 1,000)",
            "| sums | tree | 2 | failed: the / policy diverged | 1 | 200 |",
            "| sums | grpo | 2 | not begun |",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0.0, 999.4, 1000.0, 1_234_567.0].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
