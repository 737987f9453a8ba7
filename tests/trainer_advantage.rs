//! Advantages against the published code (recorded traces), against vectors of our own, and by their properties.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use orchestrator::config::AdvantageForm;
use orchestrator::trainer::advantage::{
    AdvantageSettings, Overlong, advantages, has_signal, overlong_penalty, soft_clip,
};
use orchestrator::types::{
    GroupNode, NodeId, ProblemId, Prompt, Provenance, Trajectory, TrajectoryGroup, Verdict, WeightVersion,
};
use proptest::prelude::*;
use serde_json::Value;

/// One trajectory: node values from depth 1 to the leaf, reward, response tokens.
type Path1 = (Vec<f64>, f64, usize);

/// A group of paths that share nothing: advantages depend on values alone.
fn group(paths: &[Path1]) -> TrajectoryGroup {
    let mut nodes = Vec::new();
    let mut trajectories = Vec::new();
    for (values, reward, response_tokens) in paths {
        let mut path = Vec::new();
        for (index, &q_total) in values.iter().enumerate() {
            nodes.push(GroupNode {
                node: NodeId(nodes.len() as u32 + 1),
                parent: path.last().copied(),
                depth: index as u32 + 1,
                tokens: vec![1],
                logprobs: vec![-1.0],
                weight_version: WeightVersion::INITIAL,
                q_total,
            });
            path.push(nodes.len() - 1);
        }
        trajectories.push(Trajectory {
            path,
            verdict: if *reward > 0.0 { Verdict::Correct } else { Verdict::Incorrect },
            reward: *reward,
            entropy_nats: 1.0,
            response_tokens: *response_tokens,
            provenance: Provenance::Search,
            defect: None,
        });
    }
    let prompt = Prompt { tokens: [1].into(), text: "".into() };
    TrajectoryGroup { problem: ProblemId(1), tree: None, prompt, nodes, trajectories }
}

fn settings(form: AdvantageForm) -> AdvantageSettings {
    AdvantageSettings { form, q_temperature: 1.0, q_max: 1.0, overlong: None }
}

fn assert_close(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{what}: {a}, expected {b}");
}

fn assert_all_close(a: &[Vec<f64>], b: &[Vec<f64>], what: &str) {
    let lengths = |rows: &[Vec<f64>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(a), lengths(b), "{what}");
    for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
        assert_close(*a, *b, what);
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

/// The recorded traces, where they are at hand.
fn traces() -> Option<PathBuf> {
    match std::env::var_os("SEARCH_TRACES") {
        Some(path) => Some(PathBuf::from(path)),
        None => {
            let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/search_reference/traces.jsonl.gz");
            shared.exists().then_some(shared)
        }
    }
}

#[test]
fn the_published_traces() {
    let Some(path) = traces() else {
        println!("no recorded traces here (SEARCH_TRACES names the file): only the committed vectors were run");
        return;
    };
    let file = flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap());
    let mut count = 0;
    for line in BufReader::new(file).lines() {
        let trace: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let (id, config) = (trace["id"].as_str().unwrap(), &trace["config"]);
        let number = |key: &str| config[key].as_f64().unwrap();
        let count_of = |key: &str| config[key].as_u64().unwrap() as u32;
        let overlong = config["overlong_enable"].as_bool().unwrap().then(|| Overlong {
            response_budget_tokens: count_of("response_length"),
            buffer_tokens: count_of("overlong_len"),
            factor: number("overlong_penalty_factor"),
        });
        let (q_temperature, q_max) = (number("adv_temperature"), number("q_value_max"));
        let mut paths: Vec<Path1> = Vec::new();
        for trajectory in trace["final"]["trajectories"].as_array().unwrap() {
            let values = numbers(&trajectory["values"]);
            let length = trajectory["valid_length"].as_u64().unwrap() as usize;
            let clipped = soft_clip(&values, q_temperature, q_max);
            for (a, b) in clipped.iter().zip(numbers(&trajectory["soft_clipped"])) {
                assert_close(*a, b, &format!("{id} soft_clipped"));
            }
            let penalty = overlong_penalty(length, overlong);
            assert_close(penalty, trajectory["overlong_penalty"].as_f64().unwrap(), &format!("{id} overlong_penalty"));
            for (a, b) in clipped.iter().zip(numbers(&trajectory["node_rewards"])) {
                assert_close(a + penalty, b, &format!("{id} node_rewards"));
            }
            paths.push((values, trajectory["reward"].as_f64().unwrap(), length));
        }
        let group = group(&paths);
        for (form, name) in [(AdvantageForm::MeanOnly, "mean_only"), (AdvantageForm::MeanStd, "mean_std")] {
            let ours = advantages(&group, &AdvantageSettings { form, q_temperature, q_max, overlong });
            assert_all_close(&ours, &rows(&trace["advantages"][name]), &format!("{id} {name}"));
        }
        count += 1;
    }
    assert_eq!(count, 163, "traces in `{}`", path.display());
    let penalties = path.with_file_name("overlong_penalty.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(penalties).unwrap()).unwrap();
    assert_eq!(cases.len(), 159);
    for case in cases {
        let count_of = |key: &str| case[key].as_u64().unwrap() as u32;
        let overlong = Overlong {
            response_budget_tokens: count_of("response_length"),
            buffer_tokens: count_of("overlong_len"),
            factor: case["penalty_factor"].as_f64().unwrap(),
        };
        let ours = overlong_penalty(count_of("valid_length") as usize, Some(overlong));
        assert_close(ours, case["penalty"].as_f64().unwrap(), "overlong_penalty");
    }
}

#[test]
fn overlong_penalty_of_the_paper() {
    let overlong = Some(Overlong { response_budget_tokens: 16_384, buffer_tokens: 4096, factor: 1.0 });
    for (tokens, penalty) in [(0, 0.0), (12_288, 0.0), (12_289, -0.000_244_140_625), (14_336, -0.5), (16_384, -1.0)] {
        assert_close(overlong_penalty(tokens, overlong), penalty, &format!("{tokens} tokens"));
    }
    assert_eq!(overlong_penalty(16_384, None), 0.0);
}

#[test]
fn mean_only_and_mean_std_as_published() {
    // tanh(0.5) = 0.46211715726, tanh(-0.3) = -0.29131261245; mean 0, standard deviation 1.
    let two = group(&[(vec![0.5, 1.0], 1.0, 9), (vec![-0.3, -1.0], -1.0, 9)]);
    let expected = vec![vec![0.462_117_157_26, 1.0], vec![-0.291_312_612_45, -1.0]];
    assert_all_close(&advantages(&two, &settings(AdvantageForm::MeanOnly)), &expected, "mean_only");
    let scaled: Vec<Vec<f64>> = expected.iter().map(|row| row.iter().map(|a| a / 1.000_001).collect()).collect();
    assert_all_close(&advantages(&two, &settings(AdvantageForm::MeanStd)), &scaled, "mean_std");
    let outcome = vec![vec![1.0, 1.0], vec![-1.0, -1.0]];
    assert_all_close(&advantages(&two, &settings(AdvantageForm::Outcome)), &outcome, "outcome");

    // A single trajectory is not centred.
    let one = group(&[(vec![-0.3, -1.0], -1.0, 9)]);
    let expected = vec![vec![-0.291_312_612_45, -1.0]];
    assert_all_close(&advantages(&one, &settings(AdvantageForm::MeanOnly)), &expected, "single");
}

#[test]
fn where_everything_failed_mean_only_pushes_early_tokens_up_and_signed_down() {
    let paths = vec![(vec![-0.1, -1.0], -1.0, 9); 8];
    let published = advantages(&group(&paths), &settings(AdvantageForm::MeanOnly));
    assert!(published.iter().all(|row| row[0] > 0.9 && row[1] == 0.0), "{published:?}");
    let signed = advantages(&group(&paths), &settings(AdvantageForm::Signed));
    // b = -8 / 10: the leaf gets -1 + 0.8, the early node a tenth of that.
    let expected = vec![vec![-0.2 * 0.1_f64.tanh(), -0.2]; 8];
    assert_all_close(&signed, &expected, "signed");
    assert!(has_signal(&signed));

    let mut mixed = paths;
    mixed[0] = (vec![0.1, 1.0], 1.0, 9);
    let signed = advantages(&group(&mixed), &settings(AdvantageForm::Signed));
    assert_close(signed[0][1], 1.75, "the lone success");
    assert_close(signed[1][1], -0.25, "a failure beside it");
}

#[test]
fn groups_without_signal_are_known() {
    let failed = group(&vec![(vec![-1.0], -1.0, 9); 4]);
    for form in [AdvantageForm::MeanOnly, AdvantageForm::MeanStd, AdvantageForm::Outcome] {
        assert!(!has_signal(&advantages(&failed, &settings(form))), "{form:?}");
    }
    assert!(has_signal(&advantages(&failed, &settings(AdvantageForm::Signed))));
    assert!(!has_signal(&advantages(&group(&[]), &settings(AdvantageForm::Signed))));
    let solved = group(&vec![(vec![0.4, 1.0], 1.0, 9); 4]);
    assert!(!has_signal(&advantages(&solved, &settings(AdvantageForm::Signed))), "a solved problem is left alone");
}

/// Groups as a search leaves them: the sign of an inner value says whether a correct path runs through it.
fn searched() -> impl Strategy<Value = Vec<Path1>> {
    let path = (prop::collection::vec(0.0..3.0f64, 0..6), prop::bool::ANY, 1usize..100);
    prop::collection::vec(path, 1..9).prop_map(|paths| {
        paths
            .into_iter()
            .map(|(inner, correct, tokens)| {
                let reward = if correct { 1.0 } else { -1.0 };
                let mut values: Vec<f64> = inner.into_iter().map(|v| v * reward).collect();
                values.push(reward);
                (values, reward, tokens)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn signed_never_pushes_the_wrong_way(paths in searched()) {
        let group = group(&paths);
        let is_solved = paths.iter().all(|(_, reward, _)| *reward > 0.0);
        for (row, (values, _, _)) in advantages(&group, &settings(AdvantageForm::Signed)).iter().zip(&paths) {
            for (advantage, value) in row.iter().zip(values) {
                prop_assert!(advantage * value >= 0.0);
                let is_zero = *advantage == 0.0;
                prop_assert_eq!(is_zero, is_solved || *value == 0.0);
            }
        }
    }

    #[test]
    fn a_length_penalty_only_lowers(paths in searched(), buffer in 1u32..90) {
        let overlong = Some(Overlong { response_budget_tokens: 100, buffer_tokens: buffer, factor: 1.0 });
        let plain = advantages(&group(&paths), &settings(AdvantageForm::Signed));
        let with = AdvantageSettings { overlong, ..settings(AdvantageForm::Signed) };
        for (a, b) in advantages(&group(&paths), &with).iter().flatten().zip(plain.iter().flatten()) {
            prop_assert!(a <= b);
        }
    }

    #[test]
    fn advantages_of_the_terminals_sum_to_zero(paths in searched()) {
        let has_success = paths.iter().any(|(_, reward, _)| *reward > 0.0);
        for form in [AdvantageForm::MeanOnly, AdvantageForm::MeanStd, AdvantageForm::Outcome, AdvantageForm::Signed] {
            if form == AdvantageForm::Signed && !has_success {
                continue;
            }
            let rows = advantages(&group(&paths), &settings(form));
            let sum: f64 = rows.iter().map(|row| row[row.len() - 1]).sum();
            prop_assert!(paths.len() < 2 || sum.abs() < 1e-6, "{form:?}: {sum}");
        }
    }

    #[test]
    fn soft_clip_is_monotone_bounded_and_leaves_the_last(a in -9.0..9.0f64, b in -9.0..9.0f64, q_max in 0.1..3.0f64) {
        let clipped = soft_clip(&[a, b, 7.0], 1.0, q_max);
        prop_assert_eq!(clipped[2], 7.0);
        prop_assert!(clipped[0].abs() <= q_max && clipped[1].abs() <= q_max);
        prop_assert!((a <= b) == (clipped[0] <= clipped[1]) || (clipped[0] - clipped[1]).abs() < 1e-6);
        prop_assert_eq!(soft_clip(&[a, b], 0.0, q_max), vec![a, b]);
    }
}
