//! Supervised warm start: the loss and its gradient, the examples, and `orchestrator sft` as a person types it.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod trainer_support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use orchestrator::config::{PromptConfig, PromptKind, TrainConfig};
use orchestrator::data::{
    GenerateSpec, ModelTokenizer, ProblemKind, Prompter, Share, Split, answer_tokens, generate, generate_worked,
    load_examples, load_problems, with_guesses, with_slips, write_jsonl,
};
use orchestrator::trainer::loss::Objective;
use orchestrator::trainer::{Family, Learner, SupervisedBatch, TokenExample, TrainerError, TrainerSpec};
use orchestrator::types::{GroupNode, TrajectoryGroup};
use trainer_support::*;

// -------------------------------------------------------------------------------------------------------- the step

fn still(dir: &Path, micro_batch_tokens: usize) -> Learner {
    let config = TrainConfig { learning_rate: 0.0, max_grad_norm: 0.0, micro_batch_tokens, ..config() };
    learner(dir, config)
}

/// Prompts and responses of different lengths.
fn examples() -> Vec<TokenExample> {
    let group = random_group(11, 512, 9, (1, 7));
    let prompt = |index: usize| group.prompt.tokens[index % 6..].to_vec();
    group
        .nodes
        .iter()
        .enumerate()
        .map(|(i, n)| TokenExample { prompt: prompt(i), response: n.tokens.clone() })
        .collect()
}

/// An example as a group of one trajectory.
fn as_group(example: &TokenExample) -> TrajectoryGroup {
    let mut group = random_group(1, 512, 6, (1, 2));
    group.prompt.tokens = example.prompt.clone().into();
    let node = GroupNode {
        tokens: example.response.clone(),
        logprobs: vec![f32::NAN; example.response.len()],
        ..group.nodes[0].clone()
    };
    group.nodes = vec![node];
    group.trajectories.truncate(1);
    group.trajectories[0].path = vec![0];
    group
}

#[test]
fn the_gradient_is_that_of_advantage_one_at_ratio_one() {
    let dir = tiny(Family::Qwen3, |_| {});
    let examples = examples();
    let groups: Vec<_> = examples.iter().map(as_group).collect();
    let weights = vec![vec![vec![1.0]]; groups.len()];
    let tokens = pairs(&groups);
    let objective = Objective {
        clip_low: 0.2,
        clip_high: 0.28,
        dual_clip: 10.0,
        importance_cap: 0.0,
        cached_importance_cap: 2.0,
        denominator: tokens as f64,
    };
    let spec = TrainerSpec { temperature: 1.0, ..spec(dir.path(), config()) };
    let mut reference = Learner::load(spec).unwrap();
    reference.parameters.zero_grad();
    for batch in pack_all(&groups, &weights, 1) {
        reference.accumulate(&batch, &objective, None);
    }
    let mut neg_logprob = 0.0;
    for example in &examples {
        let scores = reference.score(&[&example.prompt[..], &example.response].concat(), 1.0).unwrap();
        neg_logprob -= scores[example.prompt.len() - 1..].iter().map(|&s| f64::from(s)).sum::<f64>();
    }
    // All in one micro-batch, some, and each alone.
    for budget in [4096, 40, 1] {
        let mut learner = still(dir.path(), budget);
        let report =
            learner.supervise(&SupervisedBatch { examples: examples.clone(), learning_rate_frac: 1.0 }).unwrap();
        assert_eq!(report.response_tokens, tokens);
        assert_eq!(report.packed_tokens, examples.iter().map(|e| e.prompt.len() + e.response.len()).sum::<usize>());
        let expected = neg_logprob / tokens as f64;
        assert!((report.loss_nats - expected).abs() < 1e-5, "budget {budget}: {} and {expected}", report.loss_nats);
        let error = relative_l2(gradients(&learner).into_iter().zip(gradients(&reference)));
        assert!(error < 2e-5, "budget {budget}: gradients differ by {error:e}");
    }
}

#[test]
fn a_step_lowers_the_loss_at_the_given_rate() {
    let dir = tiny(Family::Llama, |_| {});
    let mut learner = learner(dir.path(), TrainConfig { warmup_steps: 4, ..config() });
    let mut reports = Vec::new();
    for learning_rate_frac in [1.0, 0.5, 1.0, 0.25] {
        reports.push(learner.supervise(&SupervisedBatch { examples: examples(), learning_rate_frac }).unwrap());
    }
    let rates: Vec<f64> = reports.iter().map(|r| r.learning_rate).collect();
    assert_eq!(rates, [0.25e-3, 0.25e-3, 0.75e-3, 0.25e-3], "warm-up times fraction");
    assert!(reports.windows(2).all(|w| w[1].loss_nats < w[0].loss_nats), "{reports:?}");
    // Reinforcement learning afterwards has its own rate.
    let report = learner.update(&[random_group(3, 512, 6, (2, 5))]).unwrap();
    assert_eq!(report.updates[0].learning_rate, 1e-3);
}

#[test]
fn a_batch_that_cannot_be_learnt_is_refused_unchanged() {
    let dir = tiny(Family::Qwen2, |_| {});
    let mut learner = learner(dir.path(), config());
    let mut check = |change: &dyn Fn(&mut Vec<TokenExample>), expected: &str| {
        let mut examples = examples();
        change(&mut examples);
        match learner.supervise(&SupervisedBatch { examples, learning_rate_frac: 1.0 }) {
            Err(TrainerError::Request { reason }) => assert!(reason.contains(expected), "`{reason}`"),
            other => panic!("expected `{expected}`, got {other:?}"),
        }
    };
    check(&|e| e.clear(), "no example has a response");
    check(&|e| e[3].prompt.clear(), "the prompt of example 3 has no tokens");
    check(&|e| e[2].response[0] = 512, "token 512 of example 2 is outside the vocabulary of 512");
    assert_eq!(learner.optimizer.updates, 0);
}

// ---------------------------------------------------------------------------------------------------- the examples

/// The value of `12 + 3 * 4`-like texts: numbers and one kind of operator.
fn value(expression: &str) -> i64 {
    let mut words = expression.split(' ');
    let number = |words: &mut std::str::Split<char>| words.next().unwrap().parse::<i64>().unwrap();
    let mut value = number(&mut words);
    while let Some(operator) = words.next() {
        let right = number(&mut words);
        value = match operator {
            "+" => value + right,
            "-" => value - right,
            "*" => value * right,
            "/" => value / right,
            other => panic!("`{other}`"),
        };
    }
    value
}

#[test]
fn every_step_of_a_made_up_solution_is_right_and_it_ends_in_the_answer() {
    for digits in 1..=3 {
        let mix = ProblemKind::ALL.into_iter().map(|kind| Share { kind, digits, weight: 1 }).collect();
        let spec = GenerateSpec { seed: 4, count: 300, mix, split: Split::Train };
        let worked = generate_worked(&spec).unwrap();
        let problems: Vec<_> = worked.iter().map(|worked| worked.problem.clone()).collect();
        assert_eq!(generate(&spec).unwrap(), problems);
        for worked in &worked {
            let (steps, last) = worked.solution.rsplit_once(", ").unwrap();
            assert_eq!(last, format!("\\boxed{{{}}}", worked.problem.answer), "{worked:?}");
            for step in steps.split(", ") {
                let (left, right) = step.split_once(" = ").unwrap();
                assert_eq!(value(left), value(right), "{worked:?}");
                assert!(value(right) >= 0, "{worked:?}");
            }
        }
    }
}

#[test]
fn guesses_replace_a_share_of_the_solutions_and_nothing_else() {
    let mix = vec![Share { kind: ProblemKind::Sum, digits: 3, weight: 1 }];
    let worked = generate_worked(&GenerateSpec { seed: 4, count: 2000, mix, split: Split::Train }).unwrap();
    assert_eq!(with_guesses(worked.clone(), 0.0, 4), worked);
    let guessed = with_guesses(worked.clone(), 0.85, 4);
    assert_eq!(guessed, with_guesses(worked.clone(), 0.85, 4));
    assert_ne!(guessed, with_guesses(worked.clone(), 0.85, 5));
    let mut distances = [0; 11];
    for (before, after) in worked.iter().zip(&guessed) {
        assert_eq!(before.problem, after.problem);
        if before.solution == after.solution {
            continue;
        }
        let boxed = after.solution.strip_prefix("\\boxed{").and_then(|rest| rest.strip_suffix('}')).unwrap();
        let (guess, answer): (i64, i64) = (boxed.parse().unwrap(), before.problem.answer.parse().unwrap());
        distances[usize::try_from(guess - answer + 5).unwrap()] += 1;
    }
    let total: i32 = distances.iter().sum();
    assert!((1640..1760).contains(&total), "{total} of 2000");
    assert!(distances.iter().all(|count| (110..200).contains(count)), "{distances:?}");
    assert!(with_guesses(worked, 1.0, 4).iter().all(|example| example.solution.starts_with("\\boxed{")));
}

#[test]
fn slips_are_in_a_share_of_the_steps_of_chains() {
    let mix = ["chain@4", "equation@4", "sum@2"].map(|text| text.parse().unwrap()).to_vec();
    let worked = generate_worked(&GenerateSpec { seed: 4, count: 1500, mix, split: Split::Train }).unwrap();
    assert_eq!(with_slips(worked.clone(), 0.0, 4), worked);
    let slipped = with_slips(worked.clone(), 0.2, 4);
    assert_eq!(slipped, with_slips(worked.clone(), 0.2, 4));
    let (mut steps, mut slips) = (0, 0);
    for (before, after) in worked.iter().zip(&slipped) {
        assert_eq!(before.problem, after.problem);
        if before.problem.topic.as_deref() == Some("sum") {
            assert_eq!(before, after);
            continue;
        }
        let (way, last) = after.solution.rsplit_once(", ").unwrap();
        for step in way.split(", ") {
            let (left, right) = step.split_once(" = ").unwrap();
            steps += 1;
            slips += i32::from(value(left).max(0) != value(right));
        }
        let (_, made) = way.rsplit_once(" = ").unwrap();
        assert_eq!(last, format!("\\boxed{{{made}}}"), "{after:?}");
    }
    assert!((steps / 6..steps / 4).contains(&slips), "{slips} of {steps}");
}

#[test]
fn a_file_with_solutions_holds_problems_and_examples() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worked.jsonl");
    let spec = GenerateSpec::easy(2, 20, Split::Train);
    let worked = generate_worked(&spec).unwrap();
    write_jsonl(&path, &worked).unwrap();
    assert_eq!(load_problems(&path).unwrap(), generate(&spec).unwrap());
    let examples = load_examples(&path).unwrap();
    for (number, (example, worked)) in (1..).zip(examples.iter().zip(&worked)) {
        assert_eq!((example.line, &example.problem), (number, &worked.problem.problem));
        assert_eq!(example.solution, worked.solution);
    }
}

#[test]
fn an_answer_ends_as_a_run_expects_it() {
    let dir = tiny(Family::Qwen2, |_| {});
    let tokenizer = Arc::new(ModelTokenizer::load(dir.path()).unwrap());
    let posed = |kind: PromptKind, format: &str| {
        let config = PromptConfig { kind, format: format.into(), ..PromptConfig::default() };
        Prompter::new(&config, tokenizer.clone()).unwrap().pose("1 + 1").unwrap().prompt
    };
    let answer = |prompt, kind, solution: &str, end| {
        let tokens = answer_tokens(&tokenizer, prompt, kind, solution, end).unwrap();
        let (last, before) = tokens.split_last().unwrap();
        (tokenizer.decode(before).unwrap(), *last)
    };
    let newline = tokenizer.encode("\n").unwrap()[0];
    let plain = posed(PromptKind::Plain, "Q: {problem}\nA:");
    assert_eq!(answer(&plain, PromptKind::Plain, "2", Some("\n")), (" 2".into(), newline));
    assert_eq!(answer(&plain, PromptKind::Plain, " 2", None), (" 2".into(), 2));
    let apart = posed(PromptKind::Plain, "{problem}\n");
    assert_eq!(answer(&apart, PromptKind::Plain, "2", Some("\n")), ("2".into(), newline));
    let chat = posed(PromptKind::Chat, "{problem}");
    assert_eq!(answer(&chat, PromptKind::Chat, "2", None), ("2".into(), 2));
    // A solution is data: it cannot end its own turn.
    let sly = answer_tokens(&tokenizer, &chat, PromptKind::Chat, "a<|im_end|>b", None).unwrap();
    assert_eq!(sly.iter().filter(|&&token| token == 2).count(), 1);
    assert_eq!(tokenizer.decode(&sly).unwrap(), "a<|im_end|>b");
}

// ----------------------------------------------------------------------------------------------------- the command

struct Desk {
    model: tempfile::TempDir,
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let model = tiny(Family::Qwen3, |spec| {
            spec.std = 0.02;
            spec.max_positions = 128;
        });
        let desk = Desk { model, folder: tempfile::tempdir().unwrap() };
        let worked = generate_worked(&GenerateSpec::easy(2, 40, Split::Train)).unwrap();
        write_jsonl(&desk.path("data.jsonl"), &worked).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sft(&self, data: &Path, out: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.arg("sft").arg("--model").arg(self.model.path()).arg("--data").arg(data).arg("--out").arg(out);
        command.args(["--epochs", "2", "--batch", "8", "--learning-rate", "3e-3", "--warmup-steps", "2"]);
        for set in ["train.threads=1", "train.device=cpu", "prompt.kind=plain", "prompt.format={problem}\n"] {
            command.args(["--set", set]);
        }
        command.args(["--set", "prompt.stop=[\"\\n\"]"]).args(more).output().unwrap()
    }
}

fn remarks(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_the_model_has_learnt() {
    let desk = Desk::new();
    let data = desk.path("data.jsonl");
    let mut weights = Vec::new();
    for (name, seed) in [("a", "7"), ("b", "7"), ("c", "8")] {
        let out = desk.path(name);
        let output = desk.sft(&data, &out, &["--seed", seed]);
        let text = remarks(&output);
        assert!(output.status.success(), "{text}");
        let losses: Vec<f64> =
            text.lines().filter_map(|line| line.split_once("loss ")?.1.split_once(" nats")?.0.parse().ok()).collect();
        assert!(losses.len() >= 2 && losses[losses.len() - 1] < losses[0] - 0.5, "{text}");
        assert!(text.contains("epoch 2/2: 40 examples, loss ") && text.contains(" tokens/s"), "{text}");
        weights.push(std::fs::read(out.join("model.safetensors")).unwrap());
        ModelTokenizer::load(&out).unwrap();
        learner(&out, config());
    }
    assert!(weights[0] == weights[1], "the same seed, other bytes");
    assert!(weights[0] != weights[2], "another seed, the same bytes");
}

#[test]
fn what_cannot_be_learnt_is_refused_before_anything_is_written() {
    let desk = Desk::new();
    let check = |content: &str, out: &Path, expected: &str| {
        let data = desk.path("bad.jsonl");
        std::fs::write(&data, content).unwrap();
        let output = desk.sft(&data, out, &[]);
        let text = remarks(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected) && text.contains("hint: "), "`{expected}` is not in:\n{text}");
    };
    let out = desk.path("out");
    let good = r#"{"problem": "What is 1 + 1?", "solution": "\\boxed{2}"}"#;
    check("", &out, "bad.jsonl` has no examples");
    check("\n\n", &out, "bad.jsonl` has no examples");
    check(&format!("{good}\n{{}}\n"), &out, "line 2: `problem` is missing");
    check(&format!("{good}\n\n{{\"problem\": \"x\"}}"), &out, "line 3: `solution` is missing");
    check(r#"{"problem": "x", "solution": 4}"#, &out, "line 1: `solution` is a number, expected a text");
    check("[1]", &out, "line 1: an array, expected an object");
    check("{\"problem", &out, "line 1: not JSON");
    let long = "1".repeat(140);
    let line = format!("{good}\n{{\"problem\": \"x\", \"solution\": \"{long}\"}}");
    check(&line, &out, "line 2 of `");
    check(&line, &out, "has 2 tokens of problem and 141 of solution, the model's context has 128");
    assert!(!out.exists());
    check(good, desk.model.path(), "is not empty");
    let names: Vec<_> = std::fs::read_dir(desk.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "data.jsonl" || name == "bad.jsonl"), "{names:?}");
}
