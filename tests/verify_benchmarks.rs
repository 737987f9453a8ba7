//! The answers of the benchmarks themselves, in the folder that `BENCHMARK_DATA` names or beside the checkout: each is
//! right for itself, and no two different ones of a file are right for each other. Without them nothing is tested, or,
//! with `REQUIRE_VERIFY_CASES=1`, the tests fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use orchestrator::types::Verdict;
use orchestrator::verify::Verifier;
use serde_json::Value;

const FILES: [&str; 6] = ["aime24", "aime25", "amc23", "math500", "minerva", "olympiad"];

/// Different texts of one file that answer each other, joined into groups, and why they may.
const SAME: [(&str, &[&str], &str); 21] = [
    ("math500", &["90^\\circ", "90"], DEGREES),
    ("math500", &["5", "x=5"], NAME),
    ("math500", &["\\pi", "180^\\circ"], "the same angle"),
    ("math500", &["1,-2", "(-2,1)", "-2,1"], "a list without brackets has no order, and that of a tuple answers it"),
    ("math500", &["120^\\circ", "120"], DEGREES),
    ("math500", &["36", "36^\\circ", "\\$36"], "a number answers for degrees and for dollars"),
    ("math500", &["\\frac{1}{4}", "\\frac14"], NOTATION),
    ("math500", &["30^\\circ", "30"], DEGREES),
    ("math500", &["10,\\!080", "10080"], NOTATION),
    ("math500", &["15", "15\\mbox{ cm}^2"], "a number answers for a quantity"),
    ("math500", &["2 \\sqrt{5}", "2\\sqrt{5}"], NOTATION),
    ("minerva", &["2", "+2"], NOTATION),
    ("olympiad", &["$2n$", "$2 n$"], NOTATION),
    ("olympiad", &["$k=1$", "1", "$f(x)=1$"], NAME),
    ("olympiad", &["3", "$k=3$"], NAME),
    ("olympiad", &["4", "$4^{\\circ}$"], DEGREES),
    ("olympiad", &["8", "$8 \\%$"], "with `percent = \"either\"` a number answers for percents"),
    ("olympiad", &["2,3,4", "2,4,3"], ORDER),
    ("olympiad", &["45", "$45^{\\circ}$"], DEGREES),
    ("olympiad", &["$1/3$", "$\\frac{1}{3}$"], NOTATION),
    ("olympiad", &["$44^{\\circ}$", "44"], DEGREES),
];

const DEGREES: &str = "a number answers for degrees";
const NAME: &str = "the value of a name is that of the equation";
const NOTATION: &str = "the same in another notation";
const ORDER: &str = "a list without brackets has no order";

/// The different answers of a file, in order of first appearance.
fn answers(file: &str) -> Option<Vec<String>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("BENCHMARK_DATA").map_or_else(beside, PathBuf::from);
    let path = folder.join(file).with_extension("jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        let is_required = std::env::var_os("REQUIRE_VERIFY_CASES").is_some_and(|value| value == "1");
        assert!(!is_required, "`REQUIRE_VERIFY_CASES` is set, and there is no {}", path.display());
        eprintln!("skipped: no {}", path.display());
        return None;
    };
    let mut seen = BTreeSet::new();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let answers = rows.map(|row| row["answer"].as_str().unwrap().to_string());
    Some(answers.filter(|answer| seen.insert(answer.clone())).collect())
}

#[test]
fn an_answer_is_right_for_itself() {
    let verifier = Verifier::default();
    let mut refused = Vec::new();
    for file in FILES {
        for answer in answers(file).into_iter().flatten() {
            let judged = verifier.check(&format!("So it is \\boxed{{{answer}}}."), &answer);
            if judged.verdict != Verdict::Correct {
                refused.push(format!("{file}: {} for `{answer}`", judged.verdict.as_str()));
            }
        }
    }
    assert_eq!(refused, Vec::<String>::new());
}

#[test]
fn different_answers_are_not_right_for_each_other() {
    let verifier = Verifier::default();
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for file in FILES {
        let Some(answers) = answers(file) else { continue };
        let start = Instant::now();
        let (mut pairs, mut undecided) = (0u32, 0u32);
        let mut groups: Vec<BTreeSet<usize>> = Vec::new();
        for (at, one) in answers.iter().enumerate() {
            let mut same = BTreeSet::from([at]);
            for (other_at, other) in answers.iter().enumerate().filter(|(other_at, _)| *other_at != at) {
                pairs += 1;
                match verifier.compare(one, other).0 {
                    Verdict::Correct => drop(same.insert(other_at)),
                    Verdict::Undecided => undecided += 1,
                    _ => {}
                }
            }
            match groups.iter_mut().find(|group| !group.is_disjoint(&same)) {
                _ if same.len() == 1 => {}
                Some(group) => group.extend(same),
                None => groups.push(same),
            }
        }
        eprintln!("{file:9} {pairs:7} pairs, {undecided:6} undecided, {:.2} s", start.elapsed().as_secs_f64());
        let texts = |group: &BTreeSet<usize>| group.iter().map(|at| answers[*at].clone()).collect();
        found.extend(groups.iter().map(|group| (file.to_string(), texts(group))));
    }
    let at_hand: BTreeSet<&str> = FILES.into_iter().filter(|file| answers(file).is_some()).collect();
    let expected: Vec<(String, Vec<String>)> = SAME
        .iter()
        .filter(|(file, _, _)| at_hand.contains(file))
        .map(|(file, group, _)| (file.to_string(), group.iter().map(|answer| answer.to_string()).collect()))
        .collect();
    for (file, group) in found.iter().filter(|group| !expected.contains(group)) {
        eprintln!("{file}: {group:?}");
    }
    assert_eq!(found, expected);
}
