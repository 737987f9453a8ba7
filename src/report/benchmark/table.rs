//! A benchmark for the terminal: one line a file, and the mean over files.

use super::{BenchmarkReport, Scores};
use crate::report::listing::{Column, listing};
use crate::report::text;

/// What was measured, then one line a file; with more than one a mean over files, as papers have it.
pub fn benchmark_table(report: &BenchmarkReport, width: usize) -> String {
    let rows: Vec<(&str, &Scores)> = report
        .files
        .iter()
        .map(|file| (file.file.as_str(), &file.scores))
        .chain(report.mean.as_ref().map(|mean| ("mean", mean)))
        .collect();
    let column = |name: &'static str, rank, cell: &dyn Fn(&Scores) -> String| {
        Column::number(name, rank, rows.iter().map(|(_, scores)| cell(scores)).collect::<Vec<_>>())
    };
    let mut columns = vec![
        Column::word("file", 0, rows.iter().map(|(name, _)| text::one_line(name))),
        column("problems", 3, &|scores| scores.problems.to_string()),
        column("samples", 4, &|scores| scores.samples.to_string()),
        column("pass@1", 0, &|scores| percent(scores.pass_at_1)),
        column("95 %", 1, &|scores| match scores.pass_at_1_interval {
            Some([low, high]) => format!("{:.1}..{:.1}", 100.0 * low, 100.0 * high),
            None => "-".to_owned(),
        }),
    ];
    let last = report.samples_per_problem;
    let mut by_k = |what: &str, values: fn(&Scores) -> &std::collections::BTreeMap<u32, f64>| {
        let every: std::collections::BTreeSet<u32> =
            rows.iter().flat_map(|(_, scores)| values(scores).keys().copied()).filter(|&k| k > 1).collect();
        for k in every {
            let cells = rows.iter().map(|(_, scores)| percent(values(scores).get(&k).copied()));
            columns.push(Column::number(
                format!("{what}@{k}"),
                if k == last { 2 } else { 7 },
                cells.collect::<Vec<_>>(),
            ));
        }
    };
    by_k("pass", |scores| &scores.pass_at);
    by_k("maj", |scores| &scores.majority_at);
    columns.extend([
        column("truncated", 4, &|scores| percent(scores.truncated_frac)),
        column("no answer", 5, &|scores| percent(scores.no_answer_frac)),
        column("tokens", 5, &|scores| scores.tokens_mean.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.0}"))),
        column("unsettled", 6, &|scores| (scores.undecided + scores.errors).to_string()),
    ]);
    if report.missing() > 0 {
        columns.push(column("missing", 1, &|scores| scores.missing.to_string()));
    }
    let head = format!(
        "{}, {}: {} {} a problem, temperature {}, top-p {}, at most {} tokens, seed {}\n\n",
        text::one_line(&report.model),
        text::one_line(&report.engine),
        report.samples_per_problem,
        if report.samples_per_problem == 1 { "sample" } else { "samples" },
        report.temperature,
        report.top_p,
        report.max_tokens,
        report.seed,
    );
    head + &listing(columns, width)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}
