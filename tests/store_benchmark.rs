//! Benchmarks in the database: what is recorded, what the views say of it, what is refused.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use orchestrator::report::benchmark_report;
use orchestrator::store::{BenchmarkResult, Store};
use orchestrator::types::Verdict;
use orchestrator::verify::Verifier;
use support::*;

#[tokio::test]
async fn samples_come_back_and_the_views_leave_out_what_is_not_settled() {
    let (_folder, store) = fresh().await;
    assert_eq!(store.reader().latest_benchmark().await.unwrap(), None);
    let id = benchmark(&store).await;
    let reader = store.reader();
    let row = reader.latest_benchmark().await.unwrap().unwrap();
    assert_eq!((row.benchmark_id, row.seed, row.weights_digest, row.ended_at_ms), (id, u64::MAX, None, None));

    let summary = reader.benchmark_summary(id).await.unwrap().remove(0);
    assert_eq!((summary.file.as_str(), summary.problem_count, summary.scored_count), ("sums", 3, 2));
    assert_eq!((summary.sample_count, summary.missing_count, summary.unsettled_count), (5, 1, 2));
    // 1 of 2, 0 of 1, and a problem of which nothing is known.
    assert_eq!(summary.pass_at_1, Some(0.25));
    assert_eq!((summary.truncated_frac, summary.no_answer_frac), (Some(0.2), Some(0.2)));
    assert_eq!(summary.tokens_mean, Some(10.4));

    // A sample that is recorded stays as it is.
    store.record_benchmark_sample(new_sample(id, 0, 0, Verdict::Incorrect)).await.unwrap();
    let samples = reader.benchmark_samples(id).await.unwrap();
    assert_eq!((samples.len(), samples[0].verdict, samples[0].answer.as_deref()), (5, Verdict::Correct, Some("2")));
    let problems = reader.benchmark_problems(id).await.unwrap();
    assert_eq!(problems.iter().map(|problem| problem.name.as_str()).collect::<Vec<_>>(), ["add-1", "add-2", "add-3"]);
}

#[tokio::test]
async fn a_report_counts_what_is_not_settled_and_scores_without_it() {
    let (_folder, store) = fresh().await;
    let id = benchmark(&store).await;
    let reader = store.reader();
    let report = benchmark_report(
        &reader.latest_benchmark().await.unwrap().unwrap(),
        &reader.benchmark_summary(id).await.unwrap(),
        &reader.benchmark_problems(id).await.unwrap(),
        &reader.benchmark_samples(id).await.unwrap(),
        &Verifier::default(),
    );
    let scores = &report.files[0].scores;
    assert_eq!((scores.problems, scores.scored_problems, scores.samples, scores.missing), (3, 2, 5, 1));
    assert_eq!((scores.undecided, scores.errors), (1, 1));
    assert_eq!(scores.pass_at_1, Some(0.25));
    assert_eq!(scores.pass_at.iter().map(|(&k, &value)| (k, value)).collect::<Vec<_>>(), [(1, 0.25), (2, 0.5)]);
    // The right and the wrong answer are written alike, and are none the less two: one of two frequent ones is drawn. The
    // other problem has no answer that could win.
    assert_eq!(scores.majority_at[&2], 0.25);
    assert_eq!((report.missing(), report.mean.is_none()), (1, true));
    let unknown = &report.files[0].by_problem[2];
    assert_eq!((unknown.samples, unknown.settled, unknown.majority.as_deref()), (2, 0, None));
}

#[tokio::test]
async fn results_are_replaced_and_the_first_end_is_kept() {
    let (_folder, store) = fresh().await;
    let id = benchmark(&store).await;
    let ended = async |store: &Store| store.reader().latest_benchmark().await.unwrap().unwrap().ended_at_ms;
    assert_eq!(ended(&store).await, None);
    let one = || vec![BenchmarkResult { file: 1, metric: "pass", k: 1, value: 1.0, interval: None }];
    store.record_benchmark_results(id, one(), true).await.unwrap();
    let first = ended(&store).await;
    assert!(first.is_some());
    store.record_benchmark_results(id, one(), true).await.unwrap();
    assert_eq!(ended(&store).await, first);

    for wrong in [
        BenchmarkResult { file: 2, metric: "pass", k: 1, value: 0.5, interval: None },
        BenchmarkResult { file: 1, metric: "guess", k: 1, value: 0.5, interval: None },
        BenchmarkResult { file: 1, metric: "pass", k: 1, value: 1.5, interval: None },
        BenchmarkResult { file: 1, metric: "pass", k: 1, value: 0.5, interval: Some([0.6, 0.4]) },
    ] {
        assert!(store.record_benchmark_results(id, vec![wrong.clone()], true).await.is_err(), "{wrong:?}");
    }
    assert!(store.record_benchmark_sample(new_sample(id, 3, 0, Verdict::Correct)).await.is_err(), "no such problem");
    let mut silent = new_sample(id, 1, 1, Verdict::Correct);
    silent.answer = None;
    assert!(store.record_benchmark_sample(silent).await.is_err(), "right without an answer");
    assert_eq!(ended(&store).await, first, "what was refused left nothing");
}
