//! Recorded searches: continuations and verdicts in, the whole course of the search out.
//!
//! Two sets. Our own, in `tests/fixtures/search/`, cover both rule sets and every option; `UPDATE_SNAPSHOTS=1` writes
//! them anew, to be reviewed as a diff. The reference set is what the published code did; it is read from the file
//! that `SEARCH_TRACES` names, else from beside the repository where it is present.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "support/search_policy.rs"]
mod search_policy;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orchestrator::config::{
    Backtrace, DepthBonus, DynamicWidth, GammaRule, NegativeChoice, QUpdate, Rules, SearchConfig, TerminalsKept,
    TieBreak, Unvisited, VisitRule,
};
use orchestrator::search::{Event, StopReason, Tree, harvest};
use orchestrator::types::{NodeId, ProblemId, Prompt, TokenId, Verdict};
use search_policy::{Chunk, END, PADDING, Policy, run, special};
use serde_json::{Map, Value, json};

/// Of all recorded searches; those of the published code draw no number.
const SEED: u64 = 7;

/// |expected - actual| <= 1e-9 * max(1, |expected|), as the reference set asks; integers, text and order exactly.
fn compare(at: &str, expected: &Value, actual: &Value) {
    match (expected, actual) {
        (Value::Array(expected), Value::Array(actual)) => {
            for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                compare(&format!("{at}[{index}]"), expected, actual);
            }
            assert_eq!(expected.len(), actual.len(), "{at}: number of entries");
        }
        (Value::Object(expected), Value::Object(actual)) => {
            assert_eq!(expected.keys().collect::<BTreeSet<_>>(), actual.keys().collect(), "{at}: keys");
            for (key, expected) in expected {
                compare(&format!("{at}.{key}"), expected, &actual[key]);
            }
        }
        (Value::Number(expected), Value::Number(actual)) if expected.is_f64() => {
            let (expected, actual) = (expected.as_f64().unwrap(), actual.as_f64().unwrap());
            assert!((expected - actual).abs() <= 1e-9 * expected.abs().max(1.0), "{at}: {expected} but got {actual}");
        }
        _ => assert_eq!(expected, actual, "{at}"),
    }
}

fn events_json(tree: &Tree) -> Value {
    let tags = |nodes: &mut dyn Iterator<Item = NodeId>| -> Value { nodes.map(|node| tree.tag(node)).collect() };
    tree.events()
        .iter()
        .map(|event| match event {
            Event::Expand { node, first_child, count } => {
                let children = &mut (first_child.0..first_child.0 + count).map(NodeId);
                json!({"expand": tree.tag(*node), "children": tags(children)})
            }
            Event::Visit { nodes } => json!({"visit": tags(&mut nodes.iter().copied())}),
            Event::Backup { leaf, reward, entropy_nats } => {
                json!({"backup": {"leaf": tree.tag(*leaf), "value": reward, "entropy": entropy_nats}})
            }
            Event::Select { node, selection } => {
                json!({"select": tree.tag(*node), "kind": selection.kind.as_str(), "score": selection.score})
            }
            Event::Exhausted => json!({"exhausted": true}),
        })
        .collect()
}

fn final_json(tree: &Tree, reason: StopReason) -> Value {
    let nodes: Map<String, Value> = tree
        .nodes()
        .map(|node| {
            let state = json!({
                "visits": node.visits(),
                "value": node.q_total(),
                "q": node.q_mean(),
                "terminal": node.is_terminal(),
            });
            (tree.tag(node.id()), state)
        })
        .collect();
    let prompt = Prompt { tokens: Arc::new([7]), text: Arc::from("") };
    let group = harvest(tree, ProblemId(1), None, prompt);
    let distinct: BTreeSet<NodeId> = group.nodes.iter().map(|node| node.node).collect();
    assert_eq!(distinct.len(), group.nodes.len(), "a node is harvested once");
    let trajectories: Vec<Value> = group
        .trajectories
        .iter()
        .enumerate()
        .map(|(order, trajectory)| {
            let leaf = group.nodes[*trajectory.path.last().unwrap()].node;
            let mut path = vec![NodeId::ROOT];
            path.extend(trajectory.path.iter().map(|&position| group.nodes[position].node));
            assert_eq!(path[1..], tree.path(leaf));
            assert_eq!(tree.node(leaf).unwrap().backup_order(), Some(order as u32));
            for (&above, &below) in trajectory.path.iter().zip(&trajectory.path[1..]) {
                assert_eq!(group.nodes[below].parent, Some(above));
            }
            json!({
                "leaf": tree.tag(leaf),
                "path": path.iter().map(|&node| tree.tag(node)).collect::<Vec<_>>(),
                "values": trajectory.path.iter().map(|&at| group.nodes[at].q_total).collect::<Vec<_>>(),
                "valid_length": trajectory.response_tokens,
                "entropy": trajectory.entropy_nats,
                "outcome": outcome(trajectory.verdict),
                "reward": trajectory.reward,
            })
        })
        .collect();
    json!({
        "nodes": nodes,
        "trajectories": trajectories,
        "expansions": tree.spent().expansions,
        "iterations": tree.spent().expansions + 1,
        "status": reason.as_str(),
    })
}

fn outcome(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NoAnswer => "none",
        other => other.as_str(),
    }
}

fn verdict(outcome: &Value) -> Verdict {
    match outcome.as_str() {
        Some("correct") => Verdict::Correct,
        Some("incorrect") => Verdict::Incorrect,
        Some("error") => Verdict::Error,
        _ => Verdict::NoAnswer,
    }
}

/// A recorded policy; a node it does not have is a divergence.
fn recorded(policy: &Value) -> impl FnMut(&str) -> Chunk + '_ {
    |tag| {
        let node = policy["nodes"].get(tag).unwrap_or_else(|| panic!("the recorded search has no node `{tag}`"));
        Chunk {
            tokens: node["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as TokenId).collect(),
            logprobs: node["logprobs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|logprob| logprob.as_f64().map_or(f32::NAN, |logprob| logprob as f32))
                .collect(),
            verdict: verdict(&node["outcome"]),
            is_lost: false,
        }
    }
}

/// Replays one recorded search; gives the final state for further checks.
fn check(id: &str, config: &SearchConfig, padding: TokenId, end: TokenId, trace: &Value) -> Value {
    let (tree, reason) = run(config, special(padding, end), SEED, end, recorded(&trace["policy"])).unwrap();
    compare(&format!("{id}: events"), &trace["events"], &events_json(&tree));
    assert_eq!(trace["policy"]["nodes"].as_object().unwrap().len() + 1, tree.nodes().len(), "{id}: nodes");
    final_json(&tree, reason)
}

// The reference set.

fn reference_config(trace: &Value) -> SearchConfig {
    let config = &trace["config"];
    let integer = |key: &str| config[key].as_u64().unwrap() as u32;
    let float = |key: &str| config[key].as_f64().unwrap();
    SearchConfig {
        rules: Rules::Released,
        width: integer("expansion_width"),
        step_tokens: integer("step_response_length"),
        max_depth: integer("max_depth"),
        trajectories: integer("terminate_num"),
        uct_lambda: float("uct_lambda"),
        gamma_min: float("gamma_min"),
        frontier_value_weight: float("lambda1"),
        frontier_entropy_weight: float("lambda2"),
        frontier_depth_weight: float("lambda3"),
        frontier_self_value_weight: float("lambda4"),
        depth_bonus: serde_json::from_value(config["depth_bonus_type"].clone()).unwrap(),
        uncertainty_bonus: config["involve_uncertainty_bonus"].as_bool().unwrap(),
        frontier_leaves_only: config["force_to_frontier"].as_bool().unwrap(),
        backtrace: serde_json::from_value(config["backtrace_method"].clone()).unwrap(),
        incomplete_reward: float("incomplete_score"),
        dynamic_width: config["dynamic_width_config"].as_object().map(|dynamic| DynamicWidth {
            min_width: dynamic["min_width"].as_u64().unwrap() as u32,
            decay: dynamic["decay_factor"].as_u64().unwrap() as u32,
        }),
        event_log: true,
        ..SearchConfig::default()
    }
}

/// Adds what the reference set says of rewards: soft clip and overlong penalty.
fn add_rewards(config: &Value, state: &mut Value) {
    let float = |key: &str| config[key].as_f64().unwrap();
    for trajectory in state["trajectories"].as_array_mut().unwrap() {
        let mut clipped: Vec<f64> =
            trajectory["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        let inner = clipped.len() - 1;
        if float("adv_temperature") > 0.0 {
            for value in &mut clipped[..inner] {
                *value = (*value / float("adv_temperature")).tanh() * float("q_value_max");
            }
        }
        let over = trajectory["valid_length"].as_f64().unwrap() - (float("response_length") - float("overlong_len"));
        let penalty = if config["overlong_enable"].as_bool().unwrap() {
            (-over / float("overlong_len") * float("overlong_penalty_factor")).min(0.0)
        } else {
            0.0
        };
        trajectory["overlong_penalty"] = json!(penalty);
        trajectory["node_rewards"] = clipped.iter().map(|value| value + penalty).collect();
        trajectory["soft_clipped"] = json!(clipped);
    }
}

fn advantages(state: &Value) -> Value {
    let rewards: Vec<Vec<f64>> = state["trajectories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trajectory| {
            trajectory["node_rewards"].as_array().unwrap().iter().map(|reward| reward.as_f64().unwrap()).collect()
        })
        .collect();
    let last: Vec<f64> = rewards.iter().map(|rewards| *rewards.last().unwrap()).collect();
    let count = last.len() as f64;
    let (mean, deviation) = if last.len() <= 1 {
        (0.0, 1.0)
    } else {
        let mean = last.iter().sum::<f64>() / count;
        (mean, (last.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / count).sqrt())
    };
    let each = |form: &dyn Fn(f64) -> f64| -> Vec<Vec<f64>> {
        rewards.iter().map(|rewards| rewards.iter().map(|&reward| form(reward)).collect()).collect()
    };
    json!({"mean_only": each(&|reward| reward - mean), "mean_std": each(&|reward| (reward - mean) / (deviation + 1e-6))})
}

fn reference_file() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SEARCH_TRACES") {
        return Some(named.into());
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/search_reference/traces.jsonl.gz");
    beside.exists().then_some(beside)
}

#[test]
fn the_published_code_is_reproduced() {
    let Some(file) = reference_file() else {
        println!("skipped: set SEARCH_TRACES to the reference traces to compare with the published code");
        return;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()).read_to_string(&mut text).unwrap();
    let mut by_category: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        let trace: Value = serde_json::from_str(line).unwrap();
        let config = &trace["config"];
        let token = |key: &str| config[key].as_u64().unwrap() as TokenId;
        let id = format!("{} ({})", trace["id"].as_str().unwrap(), trace["category"].as_str().unwrap());
        let mut state = check(&id, &reference_config(&trace), token("pad_token_id"), token("eos_token_id"), &trace);
        add_rewards(config, &mut state);
        compare(&format!("{id}: final"), &trace["final"], &state);
        compare(&format!("{id}: advantages"), &trace["advantages"], &advantages(&state));
        *by_category.entry(trace["category"].as_str().unwrap().to_string()).or_default() += 1;
    }
    println!("{} traces reproduced: {by_category:?}", by_category.values().sum::<usize>());
    assert!(!by_category.is_empty(), "no traces in `{}`", file.display());
}

// Our own set.

struct Case {
    id: &'static str,
    config: SearchConfig,
    padding: TokenId,
    policy: Policy,
}

fn cases() -> Vec<Case> {
    let small = SearchConfig {
        width: 3,
        step_tokens: 4,
        max_depth: 5,
        trajectories: 4,
        uncertainty_bonus: false,
        event_log: true,
        ..SearchConfig::default()
    };
    let released = SearchConfig { rules: Rules::Released, ..small.clone() };
    let uct = |config: &SearchConfig| SearchConfig { backtrace: Backtrace::Uct, ..config.clone() };
    let case = |id, config, policy| Case { id, config, padding: PADDING, policy };
    let policy = |seed| Policy { seed, ..Policy::default() };
    let shrinking = Some(DynamicWidth { min_width: 1, decay: 1 });
    vec![
        case("released/global", released.clone(), policy(95)),
        case("released/uct", uct(&released), policy(94)),
        case("released/dynamic_width", SearchConfig { dynamic_width: shrinking, ..released.clone() }, policy(80)),
        case(
            "released/run_out",
            SearchConfig { trajectories: 40, ..released.clone() },
            Policy { end_frac: 0.7, ..policy(93) },
        ),
        case("released/all_wrong", released.clone(), Policy { correct_frac: 0.0, ..policy(95) }),
        case("released/all_correct", released.clone(), Policy { correct_frac: 1.0, ..policy(98) }),
        case("released/entropy_ties", released.clone(), Policy { levels: 1, ..policy(90) }),
        Case {
            padding: END,
            ..case("released/pad_is_eos", released.clone(), Policy { full_end_frac: 0.5, ..policy(89) })
        },
        case("released/eos_fills_chunk", released.clone(), Policy { full_end_frac: 1.0, ..policy(91) }),
        case(
            "released/zero_incomplete",
            SearchConfig { incomplete_reward: 0.0, max_depth: 3, ..released.clone() },
            Policy { no_answer_frac: 0.7, end_frac: 0.1, ..policy(98) },
        ),
        case("released/width_one", SearchConfig { width: 1, trajectories: 1, ..released.clone() }, policy(21)),
        case(
            "released/wide_mix",
            SearchConfig {
                width: 4,
                frontier_leaves_only: false,
                frontier_self_value_weight: 0.3,
                frontier_entropy_weight: -0.3,
                uncertainty_bonus: true,
                depth_bonus: DepthBonus::Log,
                ..released.clone()
            },
            Policy { levels: 2, ..policy(89) },
        ),
        case(
            "released/late_sibling",
            SearchConfig { trajectories: 8, frontier_leaves_only: false, ..uct(&released) },
            Policy { end_frac: 0.6, ..policy(56) },
        ),
        case("released/verifier_errors", released.clone(), Policy { error_frac: 0.4, end_frac: 0.6, ..policy(190) }),
        case("released/missing_logprobs", released.clone(), Policy { nan_frac: 0.6, empty_frac: 0.1, ..policy(94) }),
        case("paper/global", small.clone(), policy(98)),
        case("paper/uct", uct(&small), policy(93)),
        case("paper/all_correct_kept", small.clone(), Policy { correct_frac: 0.8, end_frac: 0.6, ..policy(56) }),
        case("paper/all_wrong", small.clone(), Policy { correct_frac: 0.0, no_answer_frac: 0.5, ..policy(98) }),
        case("paper/eos_fills_chunk", small.clone(), Policy { full_end_frac: 1.0, ..policy(90) }),
        case(
            "paper/run_out",
            SearchConfig { trajectories: 40, ..small.clone() },
            Policy { end_frac: 0.7, ..policy(75) },
        ),
        case("paper/entropy_ties", small.clone(), Policy { levels: 1, ..policy(80) }),
        case(
            "paper/uncertainty_bonus",
            SearchConfig { uncertainty_bonus: true, depth_bonus: DepthBonus::Linear, ..small.clone() },
            policy(93),
        ),
        case(
            "paper/all_live_nodes",
            SearchConfig { frontier_leaves_only: false, frontier_self_value_weight: 0.5, ..small.clone() },
            policy(93),
        ),
        case("paper/max_depth_one", SearchConfig { max_depth: 1, ..small.clone() }, policy(40)),
        case("paper/verifier_errors", small.clone(), Policy { error_frac: 0.4, end_frac: 0.6, ..policy(291) }),
        case("paper/missing_logprobs", small.clone(), Policy { nan_frac: 0.6, empty_frac: 0.1, ..policy(98) }),
        case("paper/expansion_budget", SearchConfig { max_expansions: 5, ..small.clone() }, policy(98)),
        case("paper/token_budget", SearchConfig { max_generated_tokens: 50, ..small.clone() }, policy(80)),
        case("paper/time_budget", SearchConfig { max_seconds: 4.0, ..small.clone() }, policy(93)),
        case(
            "paper/simple_update",
            SearchConfig { q_update: QUpdate::Simple, trajectories: 6, ..small.clone() },
            policy(159),
        ),
        case(
            "paper/sum_update",
            SearchConfig { q_update: QUpdate::Sum, trajectories: 6, ..small.clone() },
            policy(159),
        ),
        case(
            "paper/random_negative",
            SearchConfig { negative: NegativeChoice::Random, trajectories: 6, ..small.clone() },
            Policy { correct_frac: 0.1, end_frac: 0.4, no_answer_frac: 0.0, ..policy(4) },
        ),
        case(
            "paper/least_confident_negative",
            SearchConfig { negative: NegativeChoice::LeastConfident, trajectories: 6, ..small.clone() },
            Policy { correct_frac: 0.1, end_frac: 0.4, no_answer_frac: 0.0, ..policy(4) },
        ),
        case(
            "mixed/released_with_paper_gamma_and_ties",
            SearchConfig {
                gamma: Some(GammaRule::Plain),
                uct_ties: Some(TieBreak::Confidence),
                end_in_last_slot: Some(true),
                ..released.clone()
            },
            policy(93),
        ),
        case(
            "mixed/paper_with_released_visits",
            SearchConfig {
                visits: Some(VisitRule::Candidates),
                uct_unvisited: Some(Unvisited::Zero),
                terminals_kept: Some(TerminalsKept::One),
                late_terminals: Some(true),
                ..uct(&small)
            },
            Policy { end_frac: 0.5, ..policy(90) },
        ),
    ]
}

fn own_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/search/traces.jsonl")
}

/// Searches a case and records it in the form of the reference set, with our own configuration.
fn record(case: &Case) -> Value {
    let mut nodes = Map::new();
    let (tree, reason) = run(&case.config, special(case.padding, END), SEED, END, |tag| {
        let chunk = case.policy.chunk(tag, case.config.step_tokens);
        let node = json!({
            "token_ids": chunk.tokens,
            "logprobs": chunk.logprobs,
            "outcome": outcome(chunk.verdict),
        });
        nodes.insert(tag.to_string(), node);
        chunk
    })
    .unwrap();
    json!({
        "id": case.id,
        "search": case.config.resolved(),
        "padding": case.padding,
        "end_of_text": END,
        "policy": {"nodes": nodes},
        "events": events_json(&tree),
        "final": final_json(&tree, reason),
    })
}

#[test]
fn our_own_traces_are_reproduced() {
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        let lines: Vec<String> = cases().iter().map(|case| record(case).to_string() + "\n").collect();
        std::fs::write(own_file(), lines.concat()).unwrap();
    }
    let text = std::fs::read_to_string(own_file()).unwrap();
    let mut seen = Vec::new();
    for line in text.lines() {
        let trace: Value = serde_json::from_str(line).unwrap();
        let id = trace["id"].as_str().unwrap();
        let config: SearchConfig = serde_json::from_value(trace["search"].clone()).unwrap();
        let token = |key: &str| trace[key].as_u64().unwrap() as TokenId;
        let state = check(id, &config, token("padding"), token("end_of_text"), &trace);
        compare(&format!("{id}: final"), &trace["final"], &state);
        seen.push(id.to_string());
    }
    let expected: Vec<&str> = cases().iter().map(|case| case.id).collect();
    assert_eq!(seen, expected, "the file does not hold the cases of this test: run with UPDATE_SNAPSHOTS=1");
}
