//! What counts as bad data: our own samples on both sides, properties, and public texts that must be clean.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use orchestrator::data::load_problems;
use orchestrator::types::Defect;
use orchestrator::verify::{defect, lost};
use proptest::prelude::*;
use serde::Deserialize;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[derive(Deserialize)]
struct Sample {
    what: String,
    expected: Option<Defect>,
    is_cut: bool,
    text: String,
}

fn samples() -> Vec<Sample> {
    let lines = std::fs::read_to_string(repository("tests/fixtures/quality/samples.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn our_own_samples() {
    let mut counts: BTreeMap<Option<&str>, u32> = BTreeMap::new();
    for sample in samples() {
        let found = defect(&sample.text, sample.is_cut);
        assert_eq!(found, sample.expected, "{}:\n{}", sample.what, sample.text);
        *counts.entry(found.map(Defect::as_str)).or_default() += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|&count| count >= 8), "{counts:?}");
}

/// The budget ends an answer anywhere: what is clean stays clean when it is cut, and so does every half-written one.
#[test]
fn a_clean_sample_is_clean_at_every_cut() {
    for sample in samples().into_iter().filter(|sample| sample.expected.is_none() && !sample.text.contains('\u{fffd}'))
    {
        for (end, _) in sample.text.char_indices() {
            let cut = &sample.text[..end];
            assert_eq!(defect(cut, true), None, "{}:\n{cut}", sample.what);
            assert_eq!(lost(cut), None, "{}:\n{cut}", sample.what);
        }
        // Not within the first character: half of one and nothing else is no text.
        for end in 4..sample.text.len().max(4) {
            let cut = String::from_utf8_lossy(&sample.text.as_bytes()[..end]);
            assert_eq!(defect(&cut, true), None, "{}:\n{cut}", sample.what);
        }
    }
}

/// What ends in a loop as long as a defect may still be a matrix or a list that is being written.
#[test]
fn a_text_is_given_up_only_when_no_end_could_heal_it() {
    let row = "x_1 & x_1 & ";
    let sentence = "We go on with the next step of the proof. ";
    let noise = "#@~` x%q !? @# z~ `` %! k ";
    for (text, now, later) in [
        (row.repeat(20), Some(Defect::Repetition), None),
        (row.repeat(60), Some(Defect::Repetition), Some(Defect::Repetition)),
        (sentence.repeat(6), Some(Defect::Repetition), None),
        (sentence.repeat(20), Some(Defect::Repetition), Some(Defect::Repetition)),
        ("1, 0, ".repeat(500), Some(Defect::Repetition), None),
        (noise.repeat(3), Some(Defect::Garbled), None),
        ("a\u{fffd}b ".repeat(300), Some(Defect::InvalidUtf8), Some(Defect::Repetition)),
        ("plain words \u{fffd} and more of them".to_owned(), Some(Defect::InvalidUtf8), None),
    ] {
        assert_eq!((defect(&text, true), lost(&text)), (now, later), "{text}");
    }
    // What was a loop and has gone on since is left to the judgement of the whole.
    assert_eq!(lost(&format!("{}But let us try another way.", sentence.repeat(40))), None);
}

#[test]
fn four_times_the_text_takes_about_four_times_as_long() {
    let noise = |alphabet: &[u8]| -> String {
        let mut state = 1_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(alphabet[(state >> 33) as usize % alphabet.len()])
        };
        (0..1_000_000).map(|_| draw()).collect()
    };
    let nested: String = (0..1400).map(|length| format!("{}b", "a".repeat(length))).collect();
    // A copy of a long text, broken at ever new places: every break proposes long periods.
    let broken: String = (0..60).map(|turn| format!("{}{turn}", noise(b"abcdefgh ").get(..16_000).unwrap())).collect();
    let counted: String = (0..30_000).map(|number| format!("Step {number}: we go on with the next step.\n")).collect();
    let texts = [
        "a".repeat(1_000_000),
        "ab c".repeat(250_000),
        format!("{}{}", "a".repeat(3000), "b".repeat(3000)).repeat(160),
        noise(b"ab"),
        noise(b"0123456789+-= \n"),
        noise(b"abcdefghijklmnopqrstuvwxyz .,"),
        noise(b"abcXYZ019+/"),
        "数".repeat(330_000),
        "\u{fffd}".repeat(330_000),
        "\u{e000}x ".repeat(200_000),
        "\n".repeat(1_000_000),
        nested,
        broken,
        counted,
    ];
    let took = |text: &str| {
        let started = Instant::now();
        std::hint::black_box((defect(text, true), lost(text)));
        started.elapsed()
    };
    for text in texts {
        let part = &text[..text.floor_char_boundary(text.len() / 4)];
        // Sixteen times if anything were quadratic. Both are measured by turns and the best counts, so that what else the
        // machine does meanwhile is in both or in neither; while it is not, it is measured again. What takes no millisecond
        // is not measured well, and quadratic would be minutes.
        let (mut of_part, mut of_all) = (Duration::MAX, Duration::MAX);
        let is_linear = |part: Duration, all: Duration| all < 8 * part.max(Duration::from_millis(1));
        for turn in 0..30 {
            (of_part, of_all) = (of_part.min(took(part)), of_all.min(took(&text)));
            if turn >= 2 && is_linear(of_part, of_all) {
                break;
            }
        }
        let begin: String = text.chars().take(30).collect();
        let length = text.len();
        assert!(is_linear(of_part, of_all), "{length} bytes of `{begin}`: {of_all:?}, a fourth of them {of_part:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_is_too_strange(text in ".{0,400}", is_cut: bool) {
        defect(&text, is_cut);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..400), is_cut: bool) {
        let text = String::from_utf8_lossy(&bytes);
        let found = defect(&text, is_cut);
        if text.trim_end_matches('\u{fffd}').contains('\u{fffd}') {
            prop_assert_eq!(found, Some(Defect::InvalidUtf8));
        }
    }

    /// Whatever stands before it, however long the unit, and wherever in the unit the text was cut.
    #[test]
    fn a_loop_at_the_end_is_found(
        before in "[a-zA-Z0-9 .,=+\\\\{}]{0,2000}",
        unit in "[a-z ]{1,20}|[a-zA-Z ,.]{30,120}|[a-zA-Z0-9 =+\\\\{}.]{300,3000}",
        cut_frac in prop_oneof![Just(0.0), 0.0_f64..1.0],
    ) {
        prop_assume!(unit.bytes().any(|byte| byte.is_ascii_alphabetic()));
        let repeats = (400 / unit.len()).max(10);
        let cut = (unit.len() as f64 * cut_frac) as usize;
        let text = format!("{before}{}{}", unit.repeat(repeats), &unit[..cut]);
        prop_assert_eq!(defect(&text, true), Some(Defect::Repetition), "{}", text);
        let more = format!("{text}{}", unit.repeat(1300 / unit.len() + 9));
        prop_assume!(cut == 0);
        prop_assert_eq!(lost(&more), Some(Defect::Repetition), "{}", more);
    }

    #[test]
    fn what_is_lost_has_a_defect(unit in "[a-z&=+ ~@#%!?`.,0-9]{1,80}", repeats in 1_usize..60, end in "[a-z 0-9]{0,90}") {
        let text = format!("{}{end}", unit.repeat(repeats));
        prop_assert!(lost(&text).is_none() || defect(&text, true).is_some(), "{}", text);
    }

    #[test]
    fn arithmetic_is_clean(lines in prop::collection::vec((0_u32..5000, 0_u32..5000), 1..80)) {
        let sums: String = lines.iter().map(|(a, b)| format!("{a} + {b} = {}\n", a + b)).collect();
        prop_assert_eq!((defect(&sums, false), lost(&sums)), (None, None));
        let list: Vec<String> = lines.iter().map(|(a, _)| a.to_string()).collect();
        prop_assert_eq!(defect(&list.join(", "), true), None);
    }

    #[test]
    fn digits_are_clean(digits in "[0-9]{1,2000}") {
        prop_assert_eq!(defect(&format!("0.{digits}"), true), None);
    }
}

/// The public sets, where they lie beside the checkout (or in the folder that `PROBLEM_SETS` names): all of it was
/// written by people, and none of it is bad data.
#[test]
fn public_problems_are_clean() {
    let folder = std::env::var_os("PROBLEM_SETS").map_or_else(|| repository("../shared/data"), PathBuf::from);
    if !folder.exists() {
        eprintln!("skipped: no problem sets at {}", folder.display());
        return;
    }
    let mut count = 0;
    for set in
        ["deepmath_hard", "math500", "gsm8k_train", "gsm8k_test", "aime24", "aime25", "amc23", "minerva", "olympiad"]
    {
        for problem in load_problems(&folder.join(format!("{set}.jsonl"))).unwrap() {
            assert_eq!(defect(&problem.problem, false), None, "{}", problem.problem);
            assert_eq!(defect(&problem.answer, false), None, "{}", problem.answer);
            count += 1;
        }
    }
    assert!(count > 30_000, "only {count} problems");
}
