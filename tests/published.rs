//! Problem sets load as they are published: every layout of `docs/data.md`, from files of our own making
//! (`tests/python/make_published.py`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::path::{Path, PathBuf};

use orchestrator::data::{DataError, load_examples, load_problems};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/published").join(path)
}

/// Name, text, answer, level, topic, source.
type Row<'a> = (&'a str, &'a str, &'a str, Option<f64>, Option<&'a str>, &'a str);

fn check(path: &str, expected: &[Row<'_>]) {
    let problems = load_problems(&fixture(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let found: Vec<Row<'_>> =
        problems.iter().map(|p| (&*p.name, &*p.problem, &*p.answer, p.level, p.topic.as_deref(), &*p.source)).collect();
    assert_eq!(found, expected, "{path}");
}

#[test]
fn deepmath_loads_by_the_file_and_by_the_folder() {
    let topic = Some("Mathematics -> Precalculus -> Limits");
    let text = |n: u32| format!("Evaluate $\\lim_{{x \\to 0}} \\frac{{\\sin {n} x}}{{x}}$.");
    let texts: Vec<String> = (0..6).map(text).collect();
    let names: Vec<String> = (1..=6).map(|n| format!("deepmath-103k/{n}")).collect();
    let answers: Vec<String> = (0..6).map(|n: u32| n.to_string()).collect();
    let levels = [-1.0, 5.0, 5.5, 6.0, 6.5, 7.0];
    let rows: Vec<Row<'_>> =
        (0..6).map(|i| (&*names[i], &*texts[i], &*answers[i], Some(levels[i]), topic, "deepmath-103k")).collect();
    check("deepmath-103k/data", &rows);
    check("deepmath-103k/data/train-00000-of-00002.parquet", &rows[..3]);
}

#[test]
fn gsm8k_loads_as_a_table_and_as_lines() {
    let rows = |name: [&'static str; 2], source: &'static str| -> [Row<'static>; 2] {
        [
            (name[0], "Ann has 3 bags of 4 pears. How many pears are that?", "12", None, None, source),
            (name[1], "A firm sells 1,000 boxes and then 250 more. How many does it sell?", "1250", None, None, source),
        ]
    };
    check("gsm8k/main/test-00000-of-00001.parquet", &rows(["gsm8k/1", "gsm8k/2"], "gsm8k"));
    let names = ["grade_school_math/1", "grade_school_math/2"];
    check("grade_school_math/data/train.jsonl", &rows(names, "grade_school_math"));
}

#[test]
fn the_six_benchmarks_load() {
    check(
        "MATH-500/test.jsonl",
        &[(
            "test/prealgebra/1.json",
            "Compute $\\frac12+\\frac13$.",
            "\\frac{5}{6}",
            Some(2.0),
            Some("Prealgebra"),
            "MATH-500",
        )],
    );
    check(
        "MATH/train.jsonl",
        &[
            ("MATH/1", "What is $1+1$?", "2", Some(1.0), Some("Algebra"), "MATH"),
            ("MATH/2", "What is $2+2$?", "\\text{4}", None, Some("Algebra"), "MATH"),
        ],
    );
    check("aime_2024/data/train-00000-of-00001.parquet", &[("60", "Find $33$.", "033", None, None, "aime_2024")]);
    check(
        "AIME_2024/aime_2024_problems.parquet",
        &[("2024-II-4", "Find $33$.", "33", None, None, "aime_2024_problems")],
    );
    check(
        "AIME2025/aime2025-I.jsonl",
        &[
            ("aime2025-I/1", "Find $70$.", "70", None, None, "aime2025-I"),
            ("aime2025-I/2", "Find $588$.", "588", None, None, "aime2025-I"),
        ],
    );
    check("aime25/test.jsonl", &[("0", "Find $70$.", "70", None, None, "aime25")]);
    check(
        "aimo-validation-amc/data/train-00000-of-00001.parquet",
        &[
            ("0", "How many?", "142", None, None, "aimo-validation-amc"),
            ("1", "How much?", "0.5", None, None, "aimo-validation-amc"),
        ],
    );
    check("amc23/data/test-00000-of-00001.parquet", &[("0", "How many?", "27.0", None, None, "amc23")]);
    check("minerva_math/test.jsonl", &[("0", "How bright is it?", "3.83e35", None, Some("Astronomy"), "minerva_math")]);
    check("minervamath/test.jsonl", &[("minervamath/1", "How bright is it?", "3.83e35", None, None, "minervamath")]);
    check(
        "OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
        &[
            ("1606", "Find all $x$ with $x^2=4$.", "2,-2", None, Some("Algebra"), "OE_TO_maths_en_COMP"),
            ("1610", "Let $n$ be odd.\nDetermine $n$.", "3, $5$", None, Some("Algebra"), "OE_TO_maths_en_COMP"),
        ],
    );
}

#[test]
fn what_rl_frameworks_read_loads_as_parquet_and_as_lines() {
    let row = ("deepmath/7", "What is $6 \\cdot 7$?", "42", Some(6.0), Some("Arithmetic"), "deepmath");
    check("deepmath103k_round1/train_25.parquet", &[row]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.jsonl");
    let line = r#"{"data_source": "deepmath", "prompt": [{"role": "user", "content": "What is $6 \\cdot 7$?"}], "ability": "math", "reward_model": {"ground_truth": 42}, "extra_info": {"index": 7, "difficulty": 6.0, "topic": "Arithmetic"}}"#;
    std::fs::write(&path, line).unwrap();
    let problem = &load_problems(&path).unwrap()[0];
    assert_eq!((&*problem.name, &*problem.answer, &*problem.source), (row.0, row.2, row.5));
}

#[test]
fn worked_examples_load_as_they_are_published() {
    for file in ["gsm8k/main/test-00000-of-00001.parquet", "grade_school_math/data/train.jsonl"] {
        let examples = load_examples(&fixture(file)).unwrap();
        assert_eq!(examples[0].solution, "In all there are 3 * 4 = 12 pears.\n\\boxed{12}", "{file}");
        assert_eq!(examples[1].solution, "It sells 1000 + 250 = 1250 boxes.\n\\boxed{1250}", "{file}");
    }
    let deepmath = load_examples(&fixture("deepmath-103k/data/train-00000-of-00002.parquet")).unwrap();
    assert_eq!(deepmath[2].solution, "<think>way 1</think> \\boxed{2}");
    assert_eq!(deepmath.len(), 3);
}

#[test]
fn the_first_row_decides_and_the_others_must_be_like_it() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    let fails = |path: &Path, expected: &str| {
        let text = load_problems(path).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    };
    let gsm8k =
        write("a.jsonl", "{\"question\": \"p\", \"answer\": \"x #### 1\"}\n{\"question\": \"p\", \"answer\": \"1\"}");
    fails(&gsm8k, "line 2: `answer` does not end in `####` and an answer, as in the first row");
    let gsm8k =
        write("b.jsonl", "{\"question\": \"p\", \"answer\": \"1\"}\n{\"question\": \"p\", \"answer\": \"x #### 1\"}");
    fails(&gsm8k, "line 2: `answer` has `####` in it, which that of the first row has not");
    let math = write(
        "b.jsonl",
        "{\"problem\": \"p\", \"solution\": \"\\\\boxed{1}\"}\n{\"problem\": \"p\", \"solution\": \"1\"}",
    );
    fails(&math, "line 2: `solution` has no answer in `\\boxed{}`");
    let named =
        write("c.jsonl", "{\"id\": 1, \"problem\": \"p\", \"answer\": \"1\"}\n{\"problem\": \"p\", \"answer\": \"1\"}");
    fails(&named, "line 2: `id` is missing");
    let picture = r#"{"id": 1, "question": "p", "final_answer": ["1"], "modality": "Multimodal"}"#;
    fails(&write("d.jsonl", picture), "line 1: it is not posed by text alone: `modality`");
    fails(&write("e.jsonl", r#"{"id": 1, "question": "p", "final_answer": []}"#), "`final_answer` is empty");
    fails(&write("f.jsonl", r#"{"id": 1, "question": "p", "final_answer": null}"#), "`final_answer` is null");

    let array = write(
        "array.json",
        "[{\"id\": 1, \"problem\": \"p\", \"answer\": 2},\n {\"id\": 2, \"problem\": \"q\", \"answer\": 3}]",
    );
    assert_eq!(load_problems(&array).unwrap()[1].answer, "3");
    // Keys that mean something in one set mean nothing in another.
    let own = write("own.jsonl", r#"{"id": 1, "problem": "p", "answer": 2, "context": "c", "modality": "Multimodal"}"#);
    assert_eq!(load_problems(&own).unwrap()[0].problem, "p");

    let same = "{\"id\": 1, \"problem\": \"p\", \"answer\": 2}";
    write("twice/1.jsonl", same);
    write("twice/2.jsonl", same);
    fails(&folder.path().join("twice"), "2.jsonl` has a problem `1`, as has a file before it");
    write("splits/train-00000-of-00001.jsonl", same);
    write("splits/test-00000-of-00001.jsonl", same);
    fails(
        &folder.path().join("splits"),
        "both splits of a set, `train-00000-of-00001.jsonl` and `test-00000-of-00001.jsonl`",
    );
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(matches!(load_problems(&folder.path().join("empty")), Err(DataError::NoFiles { .. })));
}
