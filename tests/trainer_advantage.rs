//! Advantages against the published code (recorded traces), against vectors of our own, and by their properties.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "support/search_policy.rs"]
mod search_policy;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use orchestrator::config::{AdvantageForm, NegativeChoice, QUpdate, Rules, SearchConfig, TokenCredit};
use orchestrator::search::harvest;
use orchestrator::trainer::advantage::{
    AdvantageSettings, Overlong, advantages, has_signal, overlong_penalty, soft_clip,
};
use orchestrator::types::{
    GroupNode, NodeId, ProblemId, Prompt, Provenance, Trajectory, TrajectoryGroup, Verdict, WeightVersion,
};
use proptest::prelude::*;
use search_policy::{END, PADDING, Policy, run, special};
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
    AdvantageSettings {
        form,
        credit: TokenCredit::Node,
        drop_defective: true,
        q_temperature: 1.0,
        q_max: 1.0,
        overlong: None,
    }
}

/// With every token credited with its trajectory's reward.
fn outcome(form: AdvantageForm) -> AdvantageSettings {
    AdvantageSettings { credit: TokenCredit::Outcome, ..settings(form) }
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
            let ours = advantages(&group, &AdvantageSettings { q_temperature, q_max, overlong, ..settings(form) });
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
    let rewards = vec![vec![1.0, 1.0], vec![-1.0, -1.0]];
    assert_all_close(&advantages(&two, &outcome(AdvantageForm::MeanOnly)), &rewards, "outcome");
    assert_all_close(&advantages(&two, &settings(AdvantageForm::Value)), &expected, "the mean is 0: values alone");

    // A single trajectory is not centred.
    let one = group(&[(vec![-0.3, -1.0], -1.0, 9)]);
    let expected = vec![vec![-0.291_312_612_45, -1.0]];
    assert_all_close(&advantages(&one, &settings(AdvantageForm::MeanOnly)), &expected, "single");
}

#[test]
fn a_published_value_after_the_soft_clip() {
    // The value of a node at depth 2 after leaves (4, -1), (4, +1), (5, -1), (6, +1).
    assert!((soft_clip(&[0.6 + 3.0 / 7.0, 1.0], 1.0, 1.0)[0] - 0.773_335).abs() < 5e-7);
}

const FORMS: [AdvantageForm; 5] = [
    AdvantageForm::Signed,
    AdvantageForm::Agreeing,
    AdvantageForm::Value,
    AdvantageForm::MeanOnly,
    AdvantageForm::MeanStd,
];
/// Those that claim what the module's page lists.
const OURS: [AdvantageForm; 2] = [AdvantageForm::Signed, AdvantageForm::Agreeing];

#[test]
fn where_everything_failed_mean_only_pushes_early_tokens_up_and_signed_down() {
    let paths = vec![(vec![-0.1, -1.0], -1.0, 9); 8];
    let published = advantages(&group(&paths), &settings(AdvantageForm::MeanOnly));
    assert!(published.iter().all(|row| row[0] > 0.9 && row[1] == 0.0), "{published:?}");
    let mut mixed = paths.clone();
    mixed[0] = (vec![0.1, 1.0], 1.0, 9);
    for form in OURS {
        let failed = advantages(&group(&paths), &settings(form));
        // p = 1 / 10: a fifth of the value.
        let expected = vec![vec![-0.2 * 0.1_f64.tanh(), -0.2]; 8];
        assert_all_close(&failed, &expected, "all failed");
        assert!(has_signal(&failed));
        let mixed = advantages(&group(&mixed), &settings(form));
        assert_close(mixed[0][1], 1.75, "the lone success");
        assert_close(mixed[1][1], -0.25, "a failure beside it");
    }
}

#[test]
fn where_everything_succeeded_mean_only_pushes_early_tokens_down_and_signed_nothing() {
    let solved = group(&vec![(vec![0.4, 1.0], 1.0, 9); 4]);
    let published = advantages(&solved, &settings(AdvantageForm::MeanOnly));
    assert!(published.iter().all(|row| row[0] < -0.6 && row[1] == 0.0), "{published:?}");
    for form in OURS {
        assert_eq!(advantages(&solved, &settings(form)), vec![vec![0.0; 2]; 4]);
    }
}

#[test]
fn groups_without_signal_are_known() {
    let failed = group(&vec![(vec![-1.0], -1.0, 9); 4]);
    for form in [AdvantageForm::MeanOnly, AdvantageForm::MeanStd] {
        assert!(!has_signal(&advantages(&failed, &settings(form))), "{form:?}");
    }
    let solved = group(&vec![(vec![0.4, 1.0], 1.0, 9); 4]);
    for form in OURS {
        assert!(has_signal(&advantages(&failed, &settings(form))));
        assert!(!has_signal(&advantages(&group(&[]), &settings(form))));
        assert!(!has_signal(&advantages(&solved, &settings(form))), "a solved problem is left alone");
        assert!(!has_signal(&advantages(&solved, &outcome(form))));
        // Cut off without an answer, where that is worth nothing.
        assert!(!has_signal(&advantages(&group(&vec![(vec![0.0, 0.0], 0.0, 9); 4]), &settings(form))));
    }
}

#[test]
fn a_single_trajectory() {
    for form in OURS {
        let alone = |reward: f64| advantages(&group(&[(vec![0.5 * reward, reward], reward, 9)]), &settings(form));
        assert_eq!(alone(1.0), [[0.0, 0.0]], "nothing failed beside it");
        assert_all_close(&alone(-1.0), &[vec![-2.0 / 3.0 * 0.5_f64.tanh(), -2.0 / 3.0]], "one failure");
        assert_all_close(&alone(-0.5), &[vec![-2.0 / 3.0 * 0.25_f64.tanh(), -1.0 / 3.0]], "one cut off");
    }
}

/// A prefix over one success and seven failures.
#[test]
fn a_shared_prefix_counts_once_for_each_path_or_once_for_each_success() {
    let mut shared = group(&[(vec![0.1, 1.0], 1.0, 9)]);
    for _ in 0..7 {
        let failure = group(&[(vec![-1.0], -1.0, 9)]);
        shared.nodes.push(GroupNode { parent: Some(0), depth: 2, ..failure.nodes[0].clone() });
        shared
            .trajectories
            .push(Trajectory { path: vec![0, shared.nodes.len() - 1], ..failure.trajectories[0].clone() });
    }
    let sum = |settings: AdvantageSettings| advantages(&shared, &settings).iter().map(|row| row[0]).sum::<f64>();
    assert_close(sum(settings(AdvantageForm::Signed)), 8.0 * 1.75 * 0.1_f64.tanh(), "signed");
    assert_close(sum(settings(AdvantageForm::Agreeing)), 1.75 * 0.1_f64.tanh(), "agreeing");
    assert_close(sum(outcome(AdvantageForm::Agreeing)), 0.0, "outcomes alone");
}

/// A group with cached solutions: flat paths of one node, one of them twice.
#[test]
fn cached_solutions_and_direct_rollouts_are_plain_grpo() {
    let flat: Vec<Path1> = [1.0, 1.0, -1.0, -1.0, -1.0, 1.0, -1.0, -1.0].map(|r| (vec![r], r, 9)).to_vec();
    let mut cached = group(&flat);
    cached.trajectories[0].provenance = Provenance::Cached;
    cached.trajectories[1] = cached.trajectories[0].clone();
    let expected: Vec<Vec<f64>> = flat.iter().map(|(_, reward, _)| vec![reward + 0.25]).collect();
    for form in [AdvantageForm::Signed, AdvantageForm::Agreeing, AdvantageForm::MeanOnly] {
        assert_all_close(&advantages(&cached, &settings(form)), &expected, "node credit");
        assert_all_close(&advantages(&cached, &outcome(form)), &expected, "outcome credit");
    }
}

/// What a real search leaves of a made-up policy.
fn harvested(q_update: QUpdate) -> impl Strategy<Value = TrajectoryGroup> {
    let frac = |values: &'static [f64]| prop::sample::select(values);
    let policy = (any::<u64>(), frac(&[0.05, 0.3]), frac(&[0.0, 0.1, 0.5, 1.0]), frac(&[0.0, 0.5]));
    let options = (
        prop::sample::select(vec![Rules::Paper, Rules::Released]),
        prop::sample::select(vec![NegativeChoice::MostConfident, NegativeChoice::Random]),
        frac(&[-1.0, -0.5, 0.0]),
    );
    (policy, options).prop_map(move |((seed, end_frac, correct_frac, no_answer_frac), options)| {
        let (rules, negative, incomplete_reward) = options;
        let policy = Policy { seed, end_frac, correct_frac, no_answer_frac, ..Policy::default() };
        let config = SearchConfig {
            rules,
            negative,
            q_update,
            incomplete_reward,
            width: 3,
            step_tokens: 4,
            max_depth: 6,
            trajectories: 8,
            ..SearchConfig::default()
        };
        let (tree, _) = run(&config, special(PADDING, END), seed, END, |tag| policy.chunk(tag, 4)).unwrap();
        harvest(&tree, ProblemId(1), None, Prompt { tokens: [1].into(), text: "".into() })
    })
}

fn any_update() -> impl Strategy<Value = TrajectoryGroup> {
    prop_oneof![harvested(QUpdate::Constrained), harvested(QUpdate::Simple), harvested(QUpdate::Sum)]
}

fn credit() -> impl Strategy<Value = TokenCredit> {
    prop::sample::select(vec![TokenCredit::Node, TokenCredit::Outcome])
}

fn is_correct(trajectory: &Trajectory) -> bool {
    trajectory.verdict == Verdict::Correct
}

proptest! {
    #[test]
    fn no_node_of_a_correct_path_is_pushed_down(group in harvested(QUpdate::Constrained)) {
        let on_correct: Vec<usize> = group.trajectories.iter().filter(|t| is_correct(t)).flat_map(|t| t.path.clone()).collect();
        for form in OURS {
            for (row, trajectory) in advantages(&group, &settings(form)).iter().zip(&group.trajectories) {
                for (advantage, node) in row.iter().zip(&trajectory.path) {
                    if on_correct.contains(node) {
                        prop_assert!(*advantage >= 0.0, "{form:?}: {advantage}");
                    } else {
                        prop_assert!(*advantage <= 0.0, "{form:?}: {advantage}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_trajectory_goes_one_way_where_signs_must_agree(group in any_update(), credit in credit()) {
        let settings = AdvantageSettings { credit, ..settings(AdvantageForm::Agreeing) };
        let signed = AdvantageSettings { form: AdvantageForm::Signed, ..settings };
        let rows = advantages(&group, &settings);
        for ((row, other), trajectory) in rows.iter().zip(advantages(&group, &signed)).zip(&group.trajectories) {
            for (advantage, signed) in row.iter().zip(other) {
                prop_assert!(advantage * trajectory.reward >= 0.0, "{advantage} in a trajectory of {}", trajectory.reward);
                prop_assert!(*advantage == signed || *advantage == 0.0);
            }
        }
    }

    #[test]
    fn a_tree_that_failed_is_pushed_down_and_a_solved_one_left_alone(group in any_update(), credit in credit()) {
        let correct = group.trajectories.iter().filter(|t| is_correct(t)).count();
        for form in OURS {
            let rows = advantages(&group, &AdvantageSettings { credit, ..settings(form) });
            if correct == group.trajectories.len() {
                prop_assert!(!has_signal(&rows));
                prop_assert!(rows.iter().flatten().all(|advantage| *advantage == 0.0));
            }
            for (row, trajectory) in rows.iter().zip(&group.trajectories) {
                let last = row[row.len() - 1];
                prop_assert_eq!(last < 0.0, trajectory.reward < 0.0, "a wrong answer is always pushed down");
                prop_assert_eq!(last > 0.0, is_correct(trajectory) && correct < group.trajectories.len());
                if correct == 0 {
                    prop_assert!(row.iter().all(|advantage| *advantage <= 0.0), "something went up where all failed");
                }
            }
        }
    }

    #[test]
    fn a_worse_answer_is_never_better_off(group in any_update(), credit in credit()) {
        for form in OURS {
            let rows = advantages(&group, &AdvantageSettings { credit, ..settings(form) });
            let ends: Vec<(f64, f64)> =
                rows.iter().zip(&group.trajectories).map(|(row, t)| (t.reward, row[row.len() - 1])).collect();
            for (reward, advantage) in &ends {
                prop_assert!(ends.iter().all(|(other, its)| other < reward || its >= advantage));
            }
        }
    }

    #[test]
    fn neither_order_nor_repetition_matters(group in any_update(), credit in credit(), turn in 0..8usize) {
        let has_success = group.trajectories.iter().any(is_correct);
        for form in OURS {
            let settings = AdvantageSettings { credit, ..settings(form) };
            let mut expected = advantages(&group, &settings);
            let mut turned = group.clone();
            let turn = turn % group.trajectories.len().max(1);
            turned.trajectories.rotate_left(turn);
            expected.rotate_left(turn);
            assert_all_close(&advantages(&turned, &settings), &expected, "turned");
            // Without a success the imagined outcomes weigh less beside twice as many real ones.
            if has_success {
                turned.trajectories.extend(turned.trajectories.clone());
                expected.extend(expected.clone());
                assert_all_close(&advantages(&turned, &settings), &expected, "twice");
            }
        }
    }

    #[test]
    fn a_shared_node_rises_once_for_each_success_that_it_led_to(group in harvested(QUpdate::Constrained)) {
        let n = group.trajectories.len() as f64;
        let p = group.trajectories.iter().filter(|t| is_correct(t)).count() as f64 / n;
        let rows = advantages(&group, &settings(AdvantageForm::Agreeing));
        for (index, node) in group.nodes.iter().enumerate() {
            let through = |t: &Trajectory| t.path[..t.path.len() - 1].contains(&index);
            let successes = group.trajectories.iter().filter(|t| through(t) && is_correct(t)).count() as f64;
            if successes > 0.0 {
                let total: f64 = rows.iter().zip(&group.trajectories).filter(|(_, t)| through(t)).map(|(row, t)| {
                    row[t.path.iter().position(|&at| at == index).unwrap()]
                }).sum();
                assert_close(total, successes * 2.0 * (1.0 - p) * node.q_total.tanh(), "total of a shared node");
            }
        }
    }
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
    fn a_length_penalty_only_lowers_and_what_all_share_is_none(paths in searched(), buffer in 1u32..90, credit in credit()) {
        let overlong = Some(Overlong { response_budget_tokens: 100, buffer_tokens: buffer, factor: 1.0 });
        for form in OURS {
            let without = AdvantageSettings { credit, ..settings(form) };
            let with = AdvantageSettings { overlong, ..without };
            let plain = advantages(&group(&paths), &without);
            for (a, b) in advantages(&group(&paths), &with).iter().flatten().zip(plain.iter().flatten()) {
                prop_assert!(a <= b && *a >= b - 1.0);
            }
            let alike: Vec<Path1> = paths.iter().map(|path| (path.0.clone(), path.1, 99)).collect();
            assert_all_close(&advantages(&group(&alike), &with), &plain, "all as long");
        }
    }

    #[test]
    fn advantages_of_the_terminals_sum_to_zero(paths in searched(), credit in credit()) {
        let has_success = paths.iter().any(|(_, reward, _)| *reward > 0.0);
        for form in FORMS {
            if form == AdvantageForm::Value || (OURS.contains(&form) && !has_success) {
                continue;
            }
            let rows = advantages(&group(&paths), &AdvantageSettings { credit, ..settings(form) });
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
