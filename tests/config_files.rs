//! The files in `configs/`: each loads, and says what it is there for.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/config.rs"]
mod support;

use std::collections::BTreeSet;

use orchestrator::config::{self, EngineKind};
use support::{differences, load, parse, repository, toml_files};

#[test]
fn every_file_in_configs_loads_and_is_valid() {
    let mut runs = BTreeSet::new();
    let mut count = 0;
    for folder in ["configs", "configs/ablations"] {
        for name in toml_files(folder) {
            let config = load(&format!("{folder}/{name}"), &[]);
            assert_eq!(format!("{}.toml", config.run.name), name);
            assert!(config.run.dir.ends_with(&config.run.name), "{name}");
            runs.insert(config.run.dir);
            count += 1;
        }
    }
    assert_eq!(runs.len(), count, "two files share a folder");
    let top = toml_files("configs");
    for needed in ["paper.toml", "quickstart.toml", "grpo.toml", "dapo.toml"] {
        assert!(top.contains(needed), "{needed} is missing");
    }
}

/// One file for each row of the paper's tables 3 and 4 and of its comparison of negatives.
#[test]
fn ablations_differ_from_the_paper_in_what_they_name() {
    let uct = "search.backtrace = \"uct\"";
    let value = "train.advantage = \"value\"";
    let rows: [(&str, &[&str]); 16] = [
        ("table3-uct-root", &[uct]),
        ("table3-value-only", &["search.depth_bonus = \"none\""]),
        ("table3-depth-log", &["search.depth_bonus = \"log\""]),
        ("table3-depth-linear", &["search.depth_bonus = \"linear\""]),
        ("table3-uncertainty", &["search.uncertainty_bonus = true"]),
        ("table3-depth-sqrt", &[]),
        (
            "table4-start",
            &[
                "curriculum.filter = false",
                "curriculum.rounds = 1",
                "run.problems_per_step = 1",
                "run.steps = 1",
                "train.learning_rate = 0.0",
                "train.minibatch_problems = 1",
            ],
        ),
        ("table4-simple-q", &[uct, "search.q_update = \"simple\"", value]),
        ("table4-outcome-scores", &[uct, value, "train.token_credit = \"outcome\""]),
        ("table4-node-scores", &[uct, value]),
        ("table4-standard-normalisation", &[uct, "train.advantage = \"mean_std\""]),
        ("table4-mean-only", &[uct]),
        ("table4-frontier", &[]),
        ("table5-random-negative", &["search.negative = \"random\""]),
        ("table5-least-confident-negative", &["search.negative = \"least_confident\""]),
        ("table5-most-confident-negative", &[]),
    ];
    let paper = load("configs/paper.toml", &[]);
    for (name, expected) in rows {
        let path = format!("configs/ablations/{name}.toml");
        assert_eq!(differences(&paper, &load(&path, &[])), expected, "{name}");
        // The header names the keys: all of them, and no others.
        let text = std::fs::read_to_string(repository(&path)).unwrap();
        let header: String = text.lines().take_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let named: BTreeSet<&str> = header.split('`').skip(1).step_by(2).collect();
        let keys: BTreeSet<&str> = expected.iter().map(|setting| setting.split(" = ").next().unwrap()).collect();
        assert_eq!(named, keys, "{name}: header");
    }
    let files: BTreeSet<String> = rows.iter().map(|(name, _)| format!("{name}.toml")).collect();
    assert_eq!(toml_files("configs/ablations"), files);
}

#[test]
fn a_baseline_is_one_line_away() {
    let paper = load("configs/paper.toml", &[]);
    let common = ["curriculum.filter = false", "replay.enabled = false", "run.algorithm = \"NAME\""];
    let outcome = ["train.advantage = \"mean_std\"", "train.token_credit = \"outcome\""];
    let grpo = ["train.clip_high = 0.2", "train.loss_mean = \"trajectory\"", "train.overlong_buffer_tokens = 0"];
    let dapo = ["curriculum.dynamic_sampling = 2"];
    for (name, own) in [("grpo", &grpo[..]), ("dapo", &dapo[..])] {
        let mut expected: Vec<String> =
            common.iter().chain(&outcome).chain(own).map(|setting| setting.replace("NAME", name)).collect();
        expected.sort();
        let file = load(&format!("configs/{name}.toml"), &[]);
        assert_eq!(differences(&paper, &file), expected);
        // The same by an argument.
        let set = load("configs/paper.toml", &[&format!("run.algorithm={name}")]);
        assert_eq!(differences(&file, &set), Vec::<String>::new());
        let back = load(&format!("configs/{name}.toml"), &["run.algorithm=deepsearch"]);
        assert_eq!(back.train.token_credit, paper.train.token_credit);
        // What is said beside the algorithm wins.
        let mixed = load("configs/paper.toml", &["train.clip_high=0.3", &format!("run.algorithm={name}")]);
        assert_eq!(mixed.train.clip_high, 0.3);
    }
}

/// Every figure of the paper's appendix A and of the released `round0.sh`. The list is written out here a second time
/// on purpose: neither the file nor a default may drift.
#[test]
fn paper_toml_has_the_papers_figures() {
    let text = std::fs::read_to_string(repository("configs/paper.toml")).unwrap();
    let written: toml::Table = toml::from_str(&text).unwrap();
    let resolved: toml::Table = toml::from_str(&config::render(&parse(&text).unwrap()).unwrap()).unwrap();
    let figures: Vec<(&str, toml::Value)> = vec![
        ("run.steps", 100.into()),
        ("run.problems_per_step", 256.into()),
        ("run.keep_every", 5.into()),
        ("run.checkpoint_every", 5.into()),
        ("curriculum.rounds", 5.into()),
        ("curriculum.filter", true.into()),
        ("curriculum.filter_samples", 4.into()),
        ("curriculum.max_pass_rate", 0.25.into()),
        ("curriculum.is_inclusive", true.into()),
        ("replay.enabled", true.into()),
        ("replay.max_pass_rate", 0.25.into()),
        ("eval.samples", 32.into()),
        ("eval.temperature", 0.6.into()),
        ("eval.top_p", 0.95.into()),
        ("prompt.kind", "chat".into()),
        ("prompt.format", "{problem} Let's think step by step and output the final answer within \\boxed{}.".into()),
        ("prompt.max_tokens", 2048.into()),
        ("search.step_tokens", 256.into()),
        ("search.max_depth", 64.into()),
        ("search.width", 8.into()),
        ("search.trajectories", 8.into()),
        ("search.uct_lambda", 2.0.into()),
        ("search.gamma_min", 0.1.into()),
        ("search.frontier_value_weight", 0.4.into()),
        ("search.frontier_entropy_weight", 0.4.into()),
        ("search.uncertainty_bonus", false.into()),
        ("search.frontier_depth_weight", 0.01.into()),
        ("search.depth_bonus", "sqrt".into()),
        ("search.backtrace", "global".into()),
        ("search.incomplete_reward", (-1.0).into()),
        ("search.temperature", 1.0.into()),
        ("search.top_p", 1.0.into()),
        ("search.top_k", 0.into()),
        ("inference.engine", "vllm".into()),
        ("inference.dtype", "bfloat16".into()),
        ("inference.max_model_tokens", 18_432.into()),
        ("train.dtype", "bfloat16".into()),
        ("train.minibatch_problems", 32.into()),
        ("train.micro_batch_tokens", 18_432.into()),
        ("train.advantage", "mean_only".into()),
        ("train.q_temperature", 1.0.into()),
        ("train.q_max", 1.0.into()),
        ("train.overlong_buffer_tokens", 4096.into()),
        ("train.overlong_factor", 1.0.into()),
        ("train.clip_low", 0.2.into()),
        ("train.clip_high", 0.28.into()),
        ("train.dual_clip", 10.0.into()),
        ("train.old_logprobs", "recompute".into()),
        ("train.importance_cap", 0.0.into()),
        ("train.learning_rate", 1e-6.into()),
        ("train.warmup_steps", 10.into()),
        ("train.weight_decay", 0.1.into()),
        ("train.max_grad_norm", 1.0.into()),
    ];
    for (name, expected) in figures {
        let (section, key) = name.split_once('.').unwrap();
        assert_eq!(written[section].get(key), Some(&expected), "{name} as written");
        assert_eq!(resolved[section].get(key), Some(&expected), "{name} as resolved");
    }
}

#[test]
fn paper_toml_explains_every_line() {
    let text = std::fs::read_to_string(repository("configs/paper.toml")).unwrap();
    let mut previous = "";
    for line in text.lines() {
        let setting =
            line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_alphanumeric() || c == '_'));
        let explained = previous.starts_with('#') || line.contains('#') || line.starts_with("name");
        assert!(!setting || explained, "no place given: {line}");
        previous = line;
    }
}

#[test]
fn the_quickstart_runs_on_both_engines() {
    let text = std::fs::read_to_string(repository("configs/quickstart.toml")).unwrap();
    let engine = |sets: &[String]| {
        let config = config::parse("quickstart.toml", &text, sets).unwrap();
        config::validate(&config).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(config::render(&config).unwrap().contains("\ncache_mib = 1024\n"));
        config.inference
    };
    let embedded = engine(&[]);
    let vllm = engine(&["inference.engine=vllm".into()]);
    assert_eq!((embedded.engine, vllm.engine), (EngineKind::Embedded, EngineKind::Vllm));
    assert_eq!(embedded, config::InferenceConfig { engine: EngineKind::Embedded, ..vllm });
}
