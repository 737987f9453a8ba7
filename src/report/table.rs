//! Listings of runs, steps, trees, weights and tokens.

use std::fmt::Write as _;

use super::listing::{Column, listing};
use super::text;
use crate::store::{
    ConfidentMistake, LearningPoint, ProblemRow, RoundSummary, RunRow, SolutionRow, StepSummary, TokenUse, TreeRow,
    WeightHistory,
};

/// Runs, one per line.
pub fn runs_table(runs: &[RunRow], width: usize) -> String {
    let columns = vec![
        Column::number("run", 0, runs.iter().map(|run| run.run_id.to_string())),
        Column::text("name", 0, runs.iter().map(|run| run.name.as_str())),
        Column::word("status", 0, runs.iter().map(|run| run.status.as_str().to_owned())),
        Column::word("started (UTC)", 1, runs.iter().map(|run| utc(run.created_at_ms))),
        Column::number("took", 2, runs.iter().map(|run| took(run.created_at_ms, run.ended_at_ms))),
        Column::text("model", 3, runs.iter().map(|run| run.model.as_str())),
        Column::number("seed", 4, runs.iter().map(|run| run.seed.to_string())),
        Column::word("config", 5, runs.iter().map(|run| run.config_sha256.chars().take(8).collect())),
        Column::text("error", 2, runs.iter().map(|run| run.error.as_deref().unwrap_or(""))),
    ];
    listing(columns, width)
}

/// Steps, one per line.
pub fn steps_table(steps: &[StepSummary], width: usize) -> String {
    let columns = vec![
        Column::number("step", 0, steps.iter().map(|step| step.step_id.to_string())),
        Column::word("status", 2, steps.iter().map(|step| step.status.as_str().to_owned())),
        Column::number("trees", 1, steps.iter().map(|step| format!("{}/{}", step.tree_count, step.problem_count))),
        Column::number("solved", 0, steps.iter().map(|step| percent(step.solved_frac))),
        Column::number("reward", 0, steps.iter().map(|step| decimal(step.mean_reward))),
        Column::number("loss", 1, steps.iter().map(|step| decimal(step.loss))),
        Column::number("grad", 2, steps.iter().map(|step| decimal(step.grad_norm))),
        Column::number("nats", 2, steps.iter().map(|step| decimal(step.entropy_nats))),
        Column::number("ratio", 3, steps.iter().map(|step| decimal(step.ratio_mean))),
        Column::number("p99", 4, steps.iter().map(|step| decimal(step.ratio_p99))),
        Column::number("clip", 4, steps.iter().map(|step| percent(step.clip_frac))),
        Column::number("tok/s", 3, steps.iter().map(|step| whole(step.generated_tokens_per_s))),
        Column::number("search", 2, steps.iter().map(|step| duration(step.search_ms))),
        Column::number("train", 2, steps.iter().map(|step| duration(step.train_ms))),
        Column::number("reload", 3, steps.iter().map(|step| duration(step.reload_ms))),
        Column::word("weights", 3, steps.iter().map(weights_of)),
        Column::text("skipped", 1, steps.iter().map(|step| step.update_skip_reason.as_deref().unwrap_or(""))),
    ];
    listing(columns, width)
}

/// Rounds, one per line: the paper's table 6 and where the problems went.
pub fn rounds_table(rounds: &[RoundSummary], width: usize) -> String {
    let number = |name, rank, value: fn(&RoundSummary) -> u64| {
        Column::number(name, rank, rounds.iter().map(|round| value(round).to_string()).collect::<Vec<_>>())
    };
    let columns = vec![
        Column::number("round", 0, rounds.iter().map(|round| round.round_id.to_string())),
        Column::word("status", 2, rounds.iter().map(|round| round.status.as_str().to_owned())),
        number("problems", 1, |round| round.candidate_count),
        Column::number("pass rate", 1, rounds.iter().map(|round| percent(round.pass_rate_mean))),
        number("easy", 2, |round| round.easy_count),
        number("hard", 0, |round| round.hard_count),
        number("cached", 0, |round| round.cached_count),
        number("unsolved", 0, |round| round.unsolved_count),
        number("searched", 1, |round| round.searched_count),
        number("skipped", 1, |round| round.skipped_count),
        number("solved", 1, |round| round.solved_count),
        number("filter tokens", 3, |round| round.generated_tokens),
    ];
    listing(columns, width)
}

/// Accuracy on held-out problems against what had been spent, one measurement per line.
pub fn learning_table(points: &[LearningPoint], width: usize) -> String {
    let samples = points.first().map_or(1, |point| point.sample_count);
    let columns = vec![
        Column::word("run", 0, points.iter().map(|point| format!("{} {}", point.run_id, point.algorithm.as_str()))),
        Column::number("step", 0, points.iter().map(|point| point.step_id.to_string())),
        Column::number("held-out pass@1", 0, points.iter().map(|point| percent(point.pass_at_1))),
        Column::number("solved in any", 1, points.iter().map(|point| percent(point.pass_at_k))),
        Column::number("generated tokens", 0, points.iter().map(|point| point.generated_tokens.to_string())),
        Column::number("trained tokens", 1, points.iter().map(|point| point.trained_tokens.to_string())),
        Column::number("search s", 1, points.iter().map(|point| format!("{:.1}", point.search_s))),
        Column::number("train s", 1, points.iter().map(|point| format!("{:.1}", point.train_s))),
        Column::number("wall s", 2, points.iter().map(|point| format!("{:.1}", point.wall_s))),
        Column::number("problems", 3, points.iter().map(|point| format!("{} x {samples}", point.problem_count))),
    ];
    listing(columns, width)
}

/// Cached solutions, one per line.
pub fn solutions_table(rows: &[(SolutionRow, ProblemRow)], width: usize) -> String {
    let run = |row: &SolutionRow| row.run_id.map_or_else(|| "-".to_owned(), |run| run.to_string());
    let version =
        |row: &SolutionRow| row.weight_version.map_or_else(|| "-".to_owned(), |version| format!("v{version}"));
    let columns = vec![
        Column::number("solution", 0, rows.iter().map(|(row, _)| row.solution_id.to_string())),
        Column::number("run", 1, rows.iter().map(|(row, _)| run(row))),
        Column::text("problem", 0, rows.iter().map(|(_, problem)| problem.name.as_str())),
        Column::word("origin", 1, rows.iter().map(|(row, _)| row.provenance.as_str().to_owned())),
        Column::word("weights", 2, rows.iter().map(|(row, _)| version(row))),
        Column::number("tokens", 2, rows.iter().map(|(row, _)| row.tokens.len().to_string())),
        Column::text("text", 0, rows.iter().map(|(row, _)| row.text.as_str())),
    ];
    listing(columns, width)
}

/// Trees, one per line.
pub fn trees_table(trees: &[TreeRow], width: usize) -> String {
    let columns = vec![
        Column::number("tree", 0, trees.iter().map(|tree| tree.tree_id.to_string())),
        Column::number("step", 1, trees.iter().map(|tree| tree.step_id.to_string())),
        Column::number("slot", 4, trees.iter().map(|tree| tree.slot.to_string())),
        Column::text("problem", 0, trees.iter().map(|tree| tree.problem_name.as_str())),
        Column::word("status", 1, trees.iter().map(|tree| tree.status.as_str().to_owned())),
        Column::word("solved", 0, trees.iter().map(|tree| if tree.is_solved { "yes" } else { "no" }.to_owned())),
        Column::number("paths", 2, trees.iter().map(|tree| tree.trajectory_count.to_string())),
        Column::number("nodes", 2, trees.iter().map(|tree| tree.node_count.to_string())),
        Column::number("expanded", 3, trees.iter().map(|tree| tree.expansion_count.to_string())),
        Column::number("tokens", 1, trees.iter().map(|tree| tree.generated_tokens.to_string())),
        Column::number("took", 3, trees.iter().map(|tree| duration(Some(tree.wall_ms)))),
    ];
    listing(columns, width)
}

/// Weights, one set per line.
pub fn weights_table(weights: &[WeightHistory], width: usize) -> String {
    let or_dash = |step: Option<String>| step.unwrap_or_else(|| "-".to_owned());
    let columns = vec![
        Column::number("weights", 0, weights.iter().map(|w| w.weight_version.to_string())),
        Column::number("step", 1, weights.iter().map(|w| or_dash(w.step_id.map(|step| step.to_string())))),
        Column::word("live", 0, weights.iter().map(|w| if w.is_confirmed { "yes" } else { "no" }.to_owned())),
        Column::number("reload", 1, weights.iter().map(|w| duration(w.reload_ms))),
        Column::number("canary mean", 2, weights.iter().map(|w| decimal(w.canary_mean_abs_nats))),
        Column::number("canary max", 2, weights.iter().map(|w| decimal(w.canary_max_abs_nats))),
        Column::number("MB", 3, weights.iter().map(|w| format!("{:.1}", w.size_bytes as f64 / 1e6))),
        Column::word("digest", 3, weights.iter().map(|w| w.digest.chars().take(12).collect())),
        Column::text("path", 2, weights.iter().map(|w| w.path.as_str())),
    ];
    listing(columns, width)
}

/// Where the tokens went, one step per line and the whole run last.
pub fn token_use_table(tokens: &[TokenUse], width: usize) -> String {
    let step = |row: &TokenUse| row.step_id.map_or_else(|| "all".to_owned(), |step| step.to_string());
    let columns = vec![
        Column::number("step", 0, tokens.iter().map(step)),
        Column::number("generated", 0, tokens.iter().map(|row| row.generated_tokens.to_string())),
        Column::number("on paths", 0, tokens.iter().map(|row| row.trajectory_tokens.to_string())),
        Column::number("overhead", 1, tokens.iter().map(|row| factor(row.search_overhead))),
        Column::number("trained", 2, tokens.iter().map(|row| row.trained_tokens.to_string())),
        Column::number("computed", 2, tokens.iter().map(|row| row.packed_tokens.to_string())),
        Column::number("sharing", 3, tokens.iter().map(|row| factor(row.sharing_factor))),
    ];
    listing(columns, width)
}

/// Confident mistakes with their texts, one paragraph each.
pub fn mistakes_text(mistakes: &[ConfidentMistake]) -> String {
    let mut out = String::new();
    for mistake in mistakes {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "tree {}, step {}, problem {}: {:.3} nats over {} tokens",
            mistake.tree_id,
            mistake.step_id,
            text::one_line(&mistake.problem_name),
            mistake.entropy_nats,
            mistake.response_tokens
        );
        let _ = writeln!(out, "  problem   {}", indented(&mistake.problem));
        let _ = writeln!(out, "  reference {}", indented(&mistake.reference_answer));
        let _ = writeln!(out, "  response  {}\n", indented(&mistake.response));
    }
    out
}

fn indented(foreign: &str) -> String {
    text::lines(foreign).trim_end().replace('\n', "\n            ")
}

fn weights_of(step: &StepSummary) -> String {
    let produced = step.produced_weight_version.map_or_else(|| "-".to_owned(), |version| version.to_string());
    format!("{}>{produced}", step.search_weight_version)
}

/// A value with three decimals; `-` where there is none.
pub(super) fn decimal(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn whole(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}

fn factor(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}x"))
}

pub(super) fn percent(frac: Option<f64>) -> String {
    frac.map_or_else(|| "-".to_owned(), |frac| format!("{:.1}%", frac * 100.0))
}

pub(super) fn took(from_ms: i64, to_ms: Option<i64>) -> String {
    duration(to_ms.and_then(|to_ms| u64::try_from(to_ms - from_ms).ok()))
}

/// `340ms`, `12.5s`, `3m20s`, `5h07m`; `-` where there is none.
pub(super) fn duration(ms: Option<u64>) -> String {
    let Some(ms) = ms else { return "-".to_owned() };
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{:.1}s", (ms / 100) as f64 / 10.0),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{}h{:02}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// `2026-03-01 09:30:00`. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
pub(super) fn utc(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_735_689_599_999), "2024-12-31 23:59:59");
        assert_eq!(utc(-1), "1969-12-31 23:59:59");
        let durations = [999, 1000, 59_999, 60_000, 3_599_999, 3_600_000, 18_420_000].map(|ms| duration(Some(ms)));
        assert_eq!(durations, ["999ms", "1.0s", "59.9s", "1m00s", "59m59s", "1h00m", "5h07m"]);
        assert_eq!(duration(None), "-");
    }
}
