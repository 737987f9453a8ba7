//! The verifier on the large case files, in the folder that `VERIFY_CASES` names or beside the checkout. Without them
//! nothing is tested, or, with `REQUIRE_VERIFY_CASES=1`, the tests fail.
//!
//! `VERIFY_SHOW=1` prints tables by category and by type of answer; `VERIFY_SHOW=<category or type>` also the rows of one
//! that are not decided or decided wrongly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use orchestrator::config::{Doubtful, Extraction, VerifyConfig};
use orchestrator::types::Verdict;
use orchestrator::verify::{Grader, Judged, Verifier};
use serde::Deserialize;

/// At least so many of all rows with a known truth are decided without Math-Verify.
const LEAST_DECIDED: f64 = 0.9;

/// Rows whose stated truth is not ours, by identifier.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("m-219bb0219b1f8b", "1 - 1/e and 1 + 1/e differ; the library's test cuts both to 1"),
    (
        "m-4477585c54838e",
        "a formula over several lines: the test runs without the library's reading of numbers, which finds it",
    ),
    (
        "m-ae50f9a7c3188c",
        "a formula over several lines: the test runs without the library's reading of numbers, which finds it",
    ),
];

#[derive(Deserialize)]
struct Row {
    id: String,
    gold: String,
    response: String,
    expected: Option<bool>,
    gold_type: String,
    category: String,
    note: Option<String>,
}

fn rows(file: &str) -> Option<Vec<Row>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/verify");
    let path = std::env::var_os("VERIFY_CASES").map_or_else(beside, PathBuf::from).join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        let is_required = std::env::var_os("REQUIRE_VERIFY_CASES").is_some_and(|value| value == "1");
        assert!(!is_required, "`REQUIRE_VERIFY_CASES` is set, and there is no {}", path.display());
        eprintln!("skipped: no {}", path.display());
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// The rules of a row: those of a row from Math-Verify's own tests are that library's.
fn rules(row: &Row) -> VerifyConfig {
    let mut config = VerifyConfig::default();
    if matches!(row.category.as_str(), "test_multi_box" | "test_no_box") {
        config.extraction = Extraction::MathVerify;
        // The library compares numbers rounded to six places; some tests ask for fewer.
        config.rounded_places = match row.note.as_deref() {
            Some("test rounds to 2 places") => 2,
            Some("test rounds to 5 places") => 5,
            _ => 6,
        };
    }
    config
}

#[derive(Default)]
struct Counts {
    rows: usize,
    undecided: usize,
    false_accepts: usize,
    false_rejects: usize,
}

/// Judges rows with a known truth, prints what `VERIFY_SHOW` asks for, and returns the totals and the wrong decisions.
fn judge(rows: &[Row]) -> (Counts, Vec<String>) {
    let show = std::env::var("VERIFY_SHOW").ok();
    let mut tables: [BTreeMap<&str, Counts>; 2] = Default::default();
    let (mut all, mut wrong) = (Counts::default(), Vec::new());
    for row in rows {
        let Some(expected) = row.expected else { continue };
        if EXCEPTIONS.iter().any(|(id, _)| *id == row.id) {
            continue;
        }
        let Judged { verdict, answer, decided_by } = Verifier::new(rules(row)).check(&row.response, &row.gold);
        let said = verdict == Verdict::Correct;
        let is_wrong = verdict.is_settled() && said != expected;
        let line = format!(
            "{} {} {}: {} for `{}`, answered {answer:?} ({})",
            row.id,
            row.category,
            row.gold_type,
            verdict.as_str(),
            row.gold,
            decided_by.as_str()
        );
        let [by_category, by_type] = &mut tables;
        let counts =
            [by_category.entry(&row.category).or_default(), by_type.entry(&row.gold_type).or_default(), &mut all];
        for counts in counts {
            counts.rows += 1;
            counts.undecided += usize::from(!verdict.is_settled());
            counts.false_accepts += usize::from(is_wrong && said);
            counts.false_rejects += usize::from(is_wrong && !said);
        }
        let shown =
            show.as_deref().is_some_and(|show| [&row.category, &row.gold_type].into_iter().any(|name| name == show));
        if shown && (is_wrong || !verdict.is_settled()) {
            eprintln!("{line}");
        }
        if is_wrong {
            wrong.push(line);
        }
    }
    if show.is_some() {
        for (name, counts) in tables.iter().flatten() {
            print_counts(name, counts);
        }
    }
    print_counts("all", &all);
    (all, wrong)
}

fn print_counts(name: &str, counts: &Counts) {
    let Counts { rows, undecided, false_accepts, false_rejects } = counts;
    eprintln!(
        "{name:34} {rows:6} rows {undecided:5} undecided {false_rejects:4} false rejects {false_accepts:3} false accepts"
    );
}

#[test]
fn settled_rows_are_right_or_undecided() {
    let Some(rows) = rows("cases.jsonl") else { return };
    let (counts, wrong) = judge(&rows);
    assert_eq!(wrong, Vec::<String>::new());
    let decided = 1.0 - counts.undecided as f64 / counts.rows as f64;
    assert!(decided >= LEAST_DECIDED, "{decided} decided");
}

/// With Math-Verify's bare word for what has no proof, every row at the defaults agrees.
#[tokio::test]
async fn settled_rows_are_right_with_the_bare_word() {
    let Some(rows) = rows("cases.jsonl") else { return };
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let (mut asked, mut wrong) = (0, Vec::new());
    // One integral takes the library 8 s.
    let grader =
        Grader::new(VerifyConfig { doubtful: Doubtful::MathVerify, timeout_s: 120, python, ..VerifyConfig::default() });
    for row in rows.iter().filter(|row| rules(row) == VerifyConfig::default()) {
        let judged = Verifier::default().check(&row.response, &row.gold);
        if judged.verdict.is_settled() {
            continue;
        }
        asked += 1;
        let judged = grader.settle(judged, &row.gold).await;
        let expected = if row.expected == Some(true) { Verdict::Correct } else { Verdict::Incorrect };
        if judged.verdict != expected {
            wrong.push(format!("{} {:?}: {:?} for `{}`", row.id, judged.verdict, judged.answer, row.gold));
        }
    }
    eprintln!("{asked} rows asked");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn disputed_rows_of_known_truth_are_right_or_undecided() {
    let Some(rows) = rows("disputed.jsonl") else { return };
    let (_, wrong) = judge(&rows);
    assert_eq!(wrong, Vec::<String>::new());
}

/// Our policy on rows whose structure alone is in question: the share of each category that is accepted.
#[test]
fn disputed_structure_follows_the_policy() {
    let Some(rows) = rows("disputed.jsonl") else { return };
    for (category, accepted) in [
        ("st_boxed_space", true),
        ("st_escaped_double", true),
        ("st_fbox", true),
        ("st_multi_boxed_and", true),
        ("st_multi_boxed_close_last_right", true),
        ("st_no_box_right", false),
        ("st_no_box_answer_colon", false),
        ("st_think_only_box", false),
        ("st_think_unclosed", false),
        ("st_truncated_full", false),
    ] {
        let of_category: Vec<&Row> = rows.iter().filter(|row| row.category == category).collect();
        assert!(!of_category.is_empty(), "{category}");
        for row in of_category {
            let verdict = Verifier::default().check(&row.response, &row.gold).verdict;
            let as_decided = if accepted { verdict != Verdict::Incorrect } else { verdict == Verdict::NoAnswer };
            assert!(
                as_decided && verdict != Verdict::Error,
                "{category}: {verdict:?} for {} in {}",
                row.gold,
                row.response
            );
        }
    }
}

/// With both fallbacks the answers without a box are found: those after a phrase all, others where they are a number.
#[test]
fn fallbacks_find_answers_without_a_box() {
    use orchestrator::config::Fallback;
    let Some(rows) = rows("disputed.jsonl") else { return };
    let fallbacks = vec![Fallback::Phrase, Fallback::LastNumber];
    let verifier = Verifier::new(VerifyConfig { fallbacks, ..VerifyConfig::default() });
    for category in ["st_no_box_answer_colon", "st_no_box_right"] {
        let of_category: Vec<&Row> = rows.iter().filter(|row| row.category == category).collect();
        let verdicts: Vec<Verdict> =
            of_category.iter().map(|row| verifier.check(&row.response, &row.gold).verdict).collect();
        let count = |verdict: Verdict| verdicts.iter().filter(|said| **said == verdict).count();
        let (right, wrong, missing) = (count(Verdict::Correct), count(Verdict::Incorrect), count(Verdict::NoAnswer));
        eprintln!("{category}: {right} right, {wrong} wrong, {missing} without an answer of {}", verdicts.len());
        assert!(right * 10 >= verdicts.len() * 9, "{category}: {right} of {}", verdicts.len());
    }
}
