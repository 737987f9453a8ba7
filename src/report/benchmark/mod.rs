//! A benchmark's samples to its figures. What was drawn is in the database; here is only arithmetic, so the same samples
//! have the same figures whenever and wherever they are worked out.
//!
//! Samples that are undecided or whose check failed are neither right nor wrong. They are counted and otherwise left
//! out: a problem's rates are those of its settled samples, and a problem without any is left out of its file's means.

pub mod statistics;
mod table;
mod votes;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::store::{BenchmarkProblemRow, BenchmarkResult, BenchmarkRow, BenchmarkSampleRow, BenchmarkSummary};
use crate::types::{FinishReason, Verdict};
use crate::verify::Verifier;

use statistics::{Votes, bootstrap, mean, pass_at_k, powers_up_to};
pub use table::benchmark_table;

/// A benchmark in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchmarkReport {
    /// Folder of the model.
    pub model: String,
    /// Digest of its weights, where it is known.
    pub weights_digest: Option<String>,
    /// What its answers come from.
    pub engine: String,
    /// Version of the program that began it.
    pub program_version: String,
    /// Samples per problem.
    pub samples_per_problem: u32,
    /// Logits are divided by this; 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass.
    pub top_p: f64,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Seed of the sampling.
    pub seed: u64,
    /// Everything that changes results, by name.
    pub settings: BTreeMap<String, String>,
    /// The files, in order.
    pub files: Vec<FileReport>,
    /// Mean over the files of each figure, and sums of the counts; `None` with one file.
    pub mean: Option<Scores>,
}

/// A file of problems.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileReport {
    /// Its name without folder and ending.
    pub file: String,
    /// Its figures.
    #[serde(flatten)]
    pub scores: Scores,
    /// Its problems, in order.
    pub by_problem: Vec<ProblemReport>,
}

/// Figures of one file, or of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Problems.
    pub problems: u64,
    /// Problems with a settled sample: the others have no part in pass@k and majority@k.
    pub scored_problems: u64,
    /// Samples that are there.
    pub samples: u64,
    /// Samples that are not there: still to come, or refused by the server.
    pub missing: u64,
    /// Samples of which nothing could say whether they are right.
    pub undecided: u64,
    /// Samples whose check failed.
    pub errors: u64,
    /// Mean over the problems of the share of right samples.
    pub pass_at_1: Option<f64>,
    /// Its interval, 95 %, by a bootstrap over problems.
    pub pass_at_1_interval: Option<[f64; 2]>,
    /// Mean over the problems of the unbiased pass@k, by k.
    pub pass_at: BTreeMap<u32, f64>,
    /// Mean over the problems of the chance that the majority of k answers is right, by k.
    pub majority_at: BTreeMap<u32, f64>,
    /// Share of the samples that the token budget ended.
    pub truncated_frac: Option<f64>,
    /// Share of the samples without a final answer.
    pub no_answer_frac: Option<f64>,
    /// Mean length of a sample in tokens.
    pub tokens_mean: Option<f64>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProblemReport {
    /// Its `id` in its file.
    pub id: String,
    /// Samples that are there.
    pub samples: u32,
    /// Of these, right or wrong or without an answer.
    pub settled: u32,
    /// Right ones.
    pub correct: u32,
    /// Ones without a final answer.
    pub no_answer: u32,
    /// Ones that the token budget ended.
    pub truncated: u32,
    /// Mean length in tokens.
    pub tokens_mean: Option<f64>,
    /// The most frequent final answer, as the first sample that has it writes it.
    pub majority: Option<String>,
    /// What follows from the votes, by k.
    #[serde(skip)]
    votes: Votes,
}

/// Works out the figures of a benchmark. `summaries` names the files; `verifier` says which answers are equal.
pub fn benchmark_report(
    row: &BenchmarkRow,
    summaries: &[BenchmarkSummary],
    problems: &[BenchmarkProblemRow],
    samples: &[BenchmarkSampleRow],
    verifier: &Verifier,
) -> BenchmarkReport {
    let mut by_place: BTreeMap<(u32, u32), Vec<&BenchmarkSampleRow>> = BTreeMap::new();
    for sample in samples {
        by_place.entry((sample.file_id, sample.ordinal)).or_default().push(sample);
    }
    let files: Vec<FileReport> = summaries
        .iter()
        .map(|summary| {
            let own = problems.iter().filter(|problem| problem.file_id == summary.file_id);
            let by_problem: Vec<ProblemReport> = own
                .map(|problem| {
                    let samples = by_place.remove(&(problem.file_id, problem.ordinal)).unwrap_or_default();
                    ProblemReport::of(&problem.name, &samples, verifier)
                })
                .collect();
            let of_file = samples.iter().filter(|sample| sample.file_id == summary.file_id);
            let scores = Scores::of(&by_problem, &of_file.collect::<Vec<_>>(), row.sample_count);
            FileReport { file: summary.file.clone(), scores, by_problem }
        })
        .collect();
    let mean = (files.len() > 1).then(|| Scores::mean_of(&files));
    BenchmarkReport {
        model: row.model.clone(),
        weights_digest: row.weights_digest.clone(),
        engine: row.engine.clone(),
        program_version: row.program_version.clone(),
        samples_per_problem: row.sample_count,
        temperature: row.temperature,
        top_p: row.top_p,
        max_tokens: row.max_tokens,
        seed: row.seed,
        settings: serde_json::from_str(&row.settings_json).unwrap_or_default(),
        files,
        mean,
    }
}

impl BenchmarkReport {
    /// Samples that are not there.
    pub fn missing(&self) -> u64 {
        self.files.iter().map(|file| file.scores.missing).sum()
    }

    /// The figures that the database keeps.
    pub fn results(&self) -> Vec<BenchmarkResult> {
        let mut results = Vec::new();
        for (file, report) in (1..).zip(&self.files) {
            let scores = &report.scores;
            for (metric, values) in [("pass", &scores.pass_at), ("majority", &scores.majority_at)] {
                results.extend(values.iter().map(|(&k, &value)| {
                    let interval = scores.pass_at_1_interval.filter(|_| metric == "pass" && k == 1);
                    BenchmarkResult { file, metric, k, value, interval }
                }));
            }
        }
        results
    }
}

impl ProblemReport {
    fn of(id: &str, samples: &[&BenchmarkSampleRow], verifier: &Verifier) -> ProblemReport {
        let count = |holds: &dyn Fn(&BenchmarkSampleRow) -> bool| {
            u32::try_from(samples.iter().filter(|sample| holds(sample)).count()).unwrap_or(u32::MAX)
        };
        let (votes, answers) = votes::count(samples, verifier);
        ProblemReport {
            id: id.to_owned(),
            samples: count(&|_| true),
            settled: count(&|sample| sample.verdict.is_settled()),
            correct: count(&|sample| sample.verdict == Verdict::Correct),
            no_answer: count(&|sample| sample.verdict == Verdict::NoAnswer),
            truncated: count(&|sample| sample.finish_reason == FinishReason::Length),
            tokens_mean: tokens_mean(samples),
            majority: votes.winner().and_then(|group| answers.get(group).cloned()),
            votes,
        }
    }
}

impl Scores {
    fn of(problems: &[ProblemReport], samples: &[&BenchmarkSampleRow], wanted: u32) -> Scores {
        let count = |holds: &dyn Fn(&BenchmarkSampleRow) -> bool| samples.iter().filter(|s| holds(s)).count() as u64;
        let share = |part: u64| (!samples.is_empty()).then(|| part as f64 / samples.len() as f64);
        // A drawn subset is named by the problem's place, so that a file has the same figures in any company.
        let scored: Vec<(u64, &ProblemReport)> = (0..).zip(problems).filter(|(_, p)| p.settled > 0).collect();
        let by_k = |value: &dyn Fn(u64, &ProblemReport, u32) -> f64| -> BTreeMap<u32, f64> {
            let at =
                |k: u32| mean(&scored.iter().map(|&(place, problem)| value(place, problem, k)).collect::<Vec<_>>());
            powers_up_to(wanted).into_iter().filter_map(|k| Some((k, at(k)?))).collect()
        };
        let rates = pass_rates(problems);
        Scores {
            problems: problems.len() as u64,
            scored_problems: scored.len() as u64,
            samples: samples.len() as u64,
            missing: (problems.len() as u64 * u64::from(wanted)).saturating_sub(samples.len() as u64),
            undecided: count(&|sample| sample.verdict == Verdict::Undecided),
            errors: count(&|sample| sample.verdict == Verdict::Error),
            pass_at_1: mean(&rates),
            pass_at_1_interval: bootstrap(&[&rates]),
            pass_at: by_k(&|_, problem, k| pass_at_k(problem.settled, problem.correct, k)),
            majority_at: by_k(&|place, problem, k| problem.votes.majority_at_k(k, place)),
            truncated_frac: share(count(&|sample| sample.finish_reason == FinishReason::Length)),
            no_answer_frac: share(count(&|sample| sample.verdict == Verdict::NoAnswer)),
            tokens_mean: tokens_mean(samples),
        }
    }

    /// Files count the same, however many problems they have; one without a value is left out of that figure.
    fn mean_of(files: &[FileReport]) -> Scores {
        let scores = || files.iter().map(|file| &file.scores);
        let sum = |value: fn(&Scores) -> u64| scores().map(value).sum();
        let average = |value: fn(&Scores) -> Option<f64>| mean(&scores().filter_map(value).collect::<Vec<_>>());
        let by_k = |values: fn(&Scores) -> &BTreeMap<u32, f64>| {
            let every: std::collections::BTreeSet<u32> = scores().flat_map(|s| values(s).keys().copied()).collect();
            let at = |k: u32| mean(&scores().filter_map(|s| values(s).get(&k).copied()).collect::<Vec<_>>());
            every.into_iter().filter_map(|k| Some((k, at(k)?))).collect()
        };
        let rates: Vec<Vec<f64>> =
            files.iter().map(|file| pass_rates(&file.by_problem)).filter(|rates| !rates.is_empty()).collect();
        Scores {
            problems: sum(|s| s.problems),
            scored_problems: sum(|s| s.scored_problems),
            samples: sum(|s| s.samples),
            missing: sum(|s| s.missing),
            undecided: sum(|s| s.undecided),
            errors: sum(|s| s.errors),
            pass_at_1: average(|s| s.pass_at_1),
            pass_at_1_interval: bootstrap(&rates.iter().map(Vec::as_slice).collect::<Vec<_>>()),
            pass_at: by_k(|s| &s.pass_at),
            majority_at: by_k(|s| &s.majority_at),
            truncated_frac: average(|s| s.truncated_frac),
            no_answer_frac: average(|s| s.no_answer_frac),
            tokens_mean: average(|s| s.tokens_mean),
        }
    }
}

/// Share of right samples of each problem that has settled ones.
fn pass_rates(problems: &[ProblemReport]) -> Vec<f64> {
    let settled = problems.iter().filter(|problem| problem.settled > 0);
    settled.map(|problem| f64::from(problem.correct) / f64::from(problem.settled)).collect()
}

fn tokens_mean(samples: &[&BenchmarkSampleRow]) -> Option<f64> {
    let tokens: u64 = samples.iter().map(|sample| sample.token_count).sum();
    (!samples.is_empty()).then(|| tokens as f64 / samples.len() as f64)
}
