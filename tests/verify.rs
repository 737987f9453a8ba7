//! The verifier on our own cases and on hostile input. The large case files are in `verify_cases.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use orchestrator::config::{Extraction, Fallback, VerifyConfig};
use orchestrator::types::Verdict;
use orchestrator::verify::Verifier;
use proptest::prelude::*;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn verdict(text: &str, reference: &str) -> Verdict {
    Verifier::default().check(text, reference).verdict
}

/// Lines of `verdict | reference | text`, where `\n` in the text is a line break.
#[test]
fn our_own_cases() {
    let cases = std::fs::read_to_string(repository("tests/fixtures/data/verify_cases.txt")).unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for line in cases.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [expected, reference, text] = line.splitn(3, " | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
        let judged = Verifier::default().check(text, reference);
        if judged.verdict.as_str() != expected {
            wrong.push(format!("{line}: {} ({})", judged.verdict.as_str(), judged.decided_by.as_str()));
        }
        count += 1;
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(count > 250, "only {count} cases");
}

#[test]
fn the_answer_is_kept_as_written() {
    let judged = Verifier::default().check("so \\boxed{ \\frac{1}{2} }", "0.5");
    assert_eq!((judged.verdict, judged.answer.as_deref()), (Verdict::Correct, Some(" \\frac{1}{2} ")));
    assert_eq!(Verifier::default().check("nothing", "5").answer, None);
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
        let judged = Verifier::default().check(text, "5");
        let elapsed = start.elapsed();
        let head: String = text.chars().take(30).collect();
        // Milliseconds in fact; the bound is for a machine that is busy.
        assert!(elapsed < Duration::from_secs(5), "{head} took {elapsed:?}");
        let nested_or_repeated = head.starts_with("\\boxed{\\boxed") && judged.answer.is_some() || head.contains("{5}");
        assert_eq!(judged.verdict == Verdict::Correct, nested_or_repeated, "{head}: {:?}", judged.verdict);
    }
}

/// Finding an answer takes linear time under every option, also where nothing that opens is ever closed.
#[test]
fn hostile_texts_take_linear_time() {
    let units = [
        "$",
        "$$ ",
        "\\( ",
        "\\[ ",
        " [ ",
        "\\frac{1}{",
        "answer is ",
        "final answer: ",
        "####",
        "Answer: 1 ",
        "1 ",
        "1 + ",
        "(",
        "1,000,",
        "-",
        "**",
        "\\boxed ",
        "\\boxed{1}, ",
        "$1$, ",
        "$1$ and ",
        "\\\\boxed{",
        "= ",
        "é",
        "</think>",
        "<think>",
        "1/",
        "%",
        "\n",
    ];
    let library = VerifyConfig { extraction: Extraction::MathVerify, ..VerifyConfig::default() };
    let fallbacks = vec![Fallback::Phrase, Fallback::LastNumber];
    for config in [library, VerifyConfig { fallbacks, ..VerifyConfig::default() }] {
        let verifier = Verifier::new(config);
        for unit in units {
            let text = unit.repeat(1_000_000 / unit.len());
            let start = Instant::now();
            let _ = orchestrator::verify::extract::final_answer(&text, verifier.config());
            let elapsed = start.elapsed();
            assert!(elapsed < Duration::from_secs(5), "`{unit}` took {elapsed:?}");
        }
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
        let library = VerifyConfig { extraction: Extraction::MathVerify, ..VerifyConfig::default() };
        let _ = Verifier::new(library).check(&text, &reference);
        let fallbacks = vec![Fallback::Phrase, Fallback::LastNumber];
        let _ = Verifier::new(VerifyConfig { fallbacks, ..VerifyConfig::default() }).check(&text, &reference);
    }

    #[test]
    fn an_answer_equals_itself(answer in "[A-Za-z0-9 +*/^_=,.()\\[\\]-]{0,20}[A-Za-z0-9)]") {
        prop_assert_eq!(verdict(&format!("\\boxed{{{answer}}}"), &answer), Verdict::Correct);
    }
}
