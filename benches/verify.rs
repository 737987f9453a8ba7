//! What one verdict costs: finding the answer in a whole response and comparing it with the reference, on one core.
//!
//! The rows are those of the large case file (the folder that `VERIFY_CASES` names or beside the checkout; else our own
//! small file) that are decided without Math-Verify. Printed before the benchmark: the times of single rows, each the
//! median of several calls.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orchestrator::config::{Extraction, VerifyConfig};
use orchestrator::verify::Verifier;
use serde_json::Value;

/// Calls per row for its time.
const CALLS: usize = 7;

struct Row {
    verifier: Verifier,
    response: String,
    gold: String,
}

impl Row {
    fn new(category: &str, response: &str, gold: &str) -> Row {
        let as_library = matches!(category, "test_multi_box" | "test_no_box");
        let extraction = if as_library { Extraction::MathVerify } else { Extraction::LastBox };
        let verifier = Verifier::new(VerifyConfig { extraction, ..VerifyConfig::default() });
        Row { verifier, response: response.to_string(), gold: gold.to_string() }
    }

    fn is_decided(&self) -> bool {
        self.verifier.check(&self.response, &self.gold).verdict.is_settled()
    }

    /// The median time of a call.
    fn time(&self) -> Duration {
        let mut times = [Duration::ZERO; CALLS];
        for time in &mut times {
            let start = Instant::now();
            std::hint::black_box(self.verifier.check(&self.response, &self.gold));
            *time = start.elapsed();
        }
        times.sort();
        times[CALLS / 2]
    }
}

/// All rows, and the name of where they are from.
fn rows() -> (Vec<Row>, &'static str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var_os("VERIFY_CASES").map_or_else(|| here.join("../shared/verify"), PathBuf::from);
    if let Ok(text) = std::fs::read_to_string(folder.join("cases.jsonl")) {
        let row = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| row[name].as_str().unwrap().to_string();
            Row::new(&field("category"), &field("response"), &field("gold"))
        };
        return (text.lines().map(row).collect(), "cases");
    }
    let text = std::fs::read_to_string(here.join("tests/fixtures/data/verify_cases.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.filter_map(|line| line.split_once(" | ")?.1.split_once(" | "));
    (parts.map(|(gold, response)| Row::new("", response, gold)).collect(), "own")
}

fn verdicts(criterion: &mut Criterion) {
    let (mut rows, name) = rows();
    let all = rows.len();
    rows.retain(Row::is_decided);
    let mut times: Vec<(Duration, &Row)> = rows.iter().map(|row| (row.time(), row)).collect();
    times.sort_by_key(|(time, _)| *time);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |share: f64| micros(times[((times.len() - 1) as f64 * share) as usize].0);
    let total: Duration = times.iter().map(|(time, _)| *time).sum();
    println!(
        "{name}: {} of {all} rows decided, {:.0} pairs/s a core; p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us",
        times.len(),
        times.len() as f64 / total.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    for (time, row) in times.iter().rev().take(5) {
        let gold: String = row.gold.chars().take(60).collect();
        let answer = row.verifier.check(&row.response, &row.gold).answer.unwrap_or_default();
        let answer: String = answer.chars().take(60).collect();
        println!("{:10.1} us  {answer:?} for {gold:?}, {} bytes of response", micros(*time), row.response.len());
    }

    let mut group = criterion.benchmark_group("verify");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for row in &rows {
                std::hint::black_box(row.verifier.check(&row.response, &row.gold));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, verdicts);
criterion_main!(benches);
