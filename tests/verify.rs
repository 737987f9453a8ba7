//! The verifier on our own cases, on hostile input, and on the large case file where it is at hand.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use orchestrator::types::Verdict;
use orchestrator::verify::Verifier;
use proptest::prelude::*;
use serde_json::Value;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn verdict(text: &str, reference: &str) -> Verdict {
    Verifier::new().check(text, reference).verdict
}

/// Lines of `verdict | reference | text`, where `\n` in the text is a line break.
#[test]
fn our_own_cases() {
    let cases = std::fs::read_to_string(repository("tests/fixtures/data/verify_cases.txt")).unwrap();
    let mut count = 0;
    for line in cases.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [expected, reference, text] = line.splitn(3, " | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
        let judged = Verifier::new().check(text, reference);
        assert_eq!(judged.verdict.as_str(), expected, "{line}\n{judged:?}");
        count += 1;
    }
    assert!(count > 100, "only {count} cases");
}

#[test]
fn the_answer_is_kept_as_written() {
    let judged = Verifier::new().check("so \\boxed{ \\frac{1}{2} }", "0.5");
    assert_eq!((judged.verdict, judged.answer.as_deref()), (Verdict::Correct, Some(" \\frac{1}{2} ")));
    assert_eq!(Verifier::new().check("nothing", "5").answer, None);
}

#[test]
fn an_empty_reference_is_an_error_not_a_wrong_answer() {
    assert_eq!(verdict("\\boxed{5}", " "), Verdict::Error);
    assert_eq!(verdict("no box", ""), Verdict::NoAnswer);
}

#[test]
fn hostile_answers_take_linear_time() {
    let deep = 100_000;
    let texts = [
        "{".repeat(10_000_000),
        "}".repeat(10_000_000),
        "\\".repeat(10_000_000),
        "\\boxed{".repeat(deep),
        format!("{}5{}", "\\boxed{".repeat(deep), "}".repeat(deep)),
        "\\boxed{5}".repeat(deep),
        format!("\\boxed{{{}}}", "9".repeat(10_000_000)),
        format!("\\boxed{{{}1{}}}", "(".repeat(deep), ")".repeat(deep)),
        format!("\\boxed{{{}1{}}}", "(".repeat(1500), ")".repeat(1500)),
        format!("\\boxed{{{}1{}}}", "\\text{".repeat(600), "}".repeat(600)),
        format!("\\boxed{{{}}}", "9^".repeat(1500)),
        format!("\\boxed{{{}}}", "\\frac{1}{9}+".repeat(300) + "1"),
        format!("\\boxed{{{}}}", "999999^{999}*".repeat(200) + "1"),
        format!("\\boxed{{{}}}", "1,".repeat(2000)),
        "\\boxed{9^{9^{9^{9}}}}".to_string(),
        "\\boxed{\\sqrt[16]{10^{4000}}}".to_string(),
        "\\boxed{10^{-999999999}}".to_string(),
        "</think>".repeat(deep),
        "\\boxed{\u{0}\u{ffff}\u{10ffff}\\}".to_string(),
    ];
    for text in &texts {
        let start = Instant::now();
        let judged = Verifier::new().check(text, "5");
        let elapsed = start.elapsed();
        let head: String = text.chars().take(30).collect();
        // Milliseconds in fact; the bound is for a machine that is busy.
        assert!(elapsed < Duration::from_secs(5), "{head} took {elapsed:?}");
        let nested_or_repeated = head.starts_with("\\boxed{\\boxed") && judged.answer.is_some() || head.contains("{5}");
        assert_eq!(judged.verdict == Verdict::Correct, nested_or_repeated, "{head}: {:?}", judged.verdict);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_integer_equals_only_itself(answer in -1000..1000i64, reference in -1000..1000i64) {
        let expected = if answer == reference { Verdict::Correct } else { Verdict::Incorrect };
        for form in [
            format!("\\boxed{{{answer}}}"),
            format!("\\boxed{{x = {answer}}}"),
            format!("\\boxed{{{answer}.0}}"),
            format!("\\boxed{{\\frac{{{}}}{{3}}}}", answer * 3),
            format!("\\boxed{{{answer} \\text{{ apples}}}}"),
        ] {
            prop_assert_eq!(verdict(&form, &reference.to_string()), expected, "{}", form);
        }
    }

    #[test]
    fn no_text_breaks_the_verifier(text in "\\PC{0,60}", answer in "\\PC{0,40}", reference in "\\PC{0,40}") {
        let _ = verdict(&text, &reference);
        let _ = verdict(&format!("\\boxed{{{answer}}}"), &reference);
    }

    #[test]
    fn an_answer_equals_itself(answer in "[A-Za-z0-9 +*/^_=,.()\\[\\]-]{0,20}[A-Za-z0-9)]") {
        prop_assert_eq!(verdict(&format!("\\boxed{{{answer}}}"), &answer), Verdict::Correct);
    }
}

/// The large case file, in the folder that `VERIFY_CASES` names or beside the checkout: no wrong answer may be
/// accepted, and right ones must be recognised at least as often as they were when this floor was measured.
#[test]
fn the_case_file() {
    let folder = std::env::var_os("VERIFY_CASES").map_or_else(|| repository("../shared/verify"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("cases.jsonl")) else {
        eprintln!("skipped: no cases.jsonl in {}", folder.display());
        return;
    };
    let show = std::env::var("VERIFY_SHOW").ok();
    let mut by_type: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    let mut false_accepts = Vec::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| row[name].as_str().unwrap_or_default();
        let judged = Verifier::new().check(field("response"), field("gold"));
        let expected = row["expected"].as_bool().unwrap();
        let said = judged.verdict == Verdict::Correct;
        let counts = by_type.entry(field("gold_type").to_string()).or_default();
        counts.0 += 1;
        counts.1 += usize::from(said == expected);
        counts.2 += usize::from(said && !expected);
        if said && !expected {
            false_accepts.push(format!("{}: {} for {:?}", field("category"), field("gold"), judged.answer));
        }
        if said != expected && show.as_deref() == Some(field("gold_type")) {
            eprintln!("{}: {} for {:?}", field("category"), field("gold"), judged.answer);
        }
    }
    let (mut all, mut right) = (0, 0);
    for (kind, (rows, correct, accepts)) in &by_type {
        eprintln!(
            "{kind:14} {rows:6} rows {:7.2} % right {accepts} false accepts",
            100.0 * *correct as f64 / *rows as f64
        );
        all += rows;
        right += correct;
    }
    let share = right as f64 / all as f64;
    eprintln!("{:14} {all:6} rows {:7.2} % right", "all", 100.0 * share);
    assert_eq!(false_accepts, Vec::<String>::new());
    for kind in ["integer", "decimal", "fraction"] {
        let (rows, correct, _) = by_type[kind];
        assert!(correct as f64 >= 0.99 * rows as f64, "{kind}: {correct} of {rows}");
    }
    assert!(share >= LEAST_SHARE, "{share}");
}

/// Measured when this was written; raise it with the verifier.
const LEAST_SHARE: f64 = 0.96;
