//! Rounds, the cache of solutions, the baselines and training from a database, as a person runs them: the real binary, a
//! tiny random model, solutions that were brought in.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/scene.rs"]
mod scene;

use orchestrator::store::{Reader, SolutionFilter, TreeFilter};
use orchestrator::types::{Provenance, RoundId, RunId, StepId, TreeKind};
use scene::{Engine, Scene, content_of, orchestrator, succeed};

const RUN: RunId = RunId(1);

fn rounds_scene(sets: &[&str]) -> Scene {
    let mut all = vec![
        "run.problems_per_step=8",
        "curriculum.filter_samples=2",
        // A random model solves nothing: all of it is hard.
        "curriculum.max_pass_rate=1.0",
        "train.minibatch_problems=2",
    ];
    all.extend(sets);
    Scene::new(Engine::Embedded, 6, &all)
}

async fn reader(scene: &Scene, name: &str) -> Reader {
    Reader::open(&scene.database(name)).await.unwrap()
}

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn rounds_count_hard_cached_skipped_and_unsolved_problems() {
    let scene = rounds_scene(&["curriculum.rounds=3"]);
    scene.import_solutions("run", 6);
    succeed(&scene.run("run", &[]));
    let reader = reader(&scene, "run").await;
    let rounds = reader.round_summary(RUN).await.unwrap();
    assert_eq!(rounds.iter().map(|round| round.round_id).collect::<Vec<_>>(), [RoundId(1), RoundId(2), RoundId(3)]);
    let mut places = 0;
    for round in &rounds {
        assert_eq!((round.candidate_count, round.hard_count, round.easy_count), (24, 24, 0));
        assert_eq!((round.cached_count, round.unsolved_count, round.measured_count), (6, 18, 24));
        assert_eq!(round.pass_rate_mean, Some(0.0));
        assert!(round.generated_tokens > 0);
        places += round.searched_count + round.skipped_count;
        assert_eq!(round.solved_count, 0, "a cached solution is no merit of the policy");
    }
    assert_eq!(places, 6 * 8, "no problem comes twice in a round of two steps: each was searched or spared");
    assert!(rounds.iter().map(|round| round.skipped_count).sum::<u64>() > 0);

    // Every problem with a solution was spared its search, and no other.
    let mut replays = 0;
    for tree in reader.trees(TreeFilter::of(RUN)).await.unwrap() {
        let is_cached = !reader.cached_solutions(RUN, tree.problem_id).await.unwrap().is_empty();
        assert_eq!(tree.kind == TreeKind::Replay, is_cached, "{tree:?}");
        assert_eq!(tree.kind == TreeKind::Search, !is_cached);
        if !is_cached {
            continue;
        }
        replays += 1;
        let trajectories = reader.trajectories(tree.tree_id).await.unwrap();
        let cached: Vec<_> = trajectories.iter().filter(|t| t.provenance == Provenance::Cached).collect();
        assert_eq!((trajectories.len(), cached.len()), (4, 1), "one incorrect rollout gave way");
        assert!(cached[0].solution.is_some());
        assert!(trajectories.iter().all(|t| t.provenance != Provenance::Search));
    }
    let uses = reader.replay_use(RUN).await.unwrap();
    assert_eq!(uses.iter().map(|step| step.replay_count).sum::<u64>(), replays);
    for (name, expected) in [("searches_skipped", replays as f64), ("cache_hits", replays as f64)] {
        let sql = match name {
            "searches_skipped" => "select sum(value) from metric where name = 'searches_skipped'",
            _ => "select sum(value) from metric where name = 'cache_hits'",
        };
        assert_eq!(content_of(&scene.database("run"), sql).await, expected, "{name}");
    }
    let shown = orchestrator().args(["inspect", "rounds"]).arg(scene.path("run")).output().unwrap();
    let shown = if shown.status.success() {
        shown
    } else {
        orchestrator().arg("inspect").arg(scene.path("run")).arg("rounds").output().unwrap()
    };
    succeed(&shown);
    assert!(text(&shown).contains("cached") && text(&shown).contains("skipped"), "{}", text(&shown));
}

#[tokio::test]
async fn an_easy_problem_is_left_out_and_a_round_without_hard_ones_ends_the_run() {
    let scene = rounds_scene(&["curriculum.is_inclusive=false", "curriculum.max_pass_rate=0"]);
    let output = scene.run("run", &[]);
    succeed(&output);
    assert!(text(&output).contains("no hard problem is left"), "{}", text(&output));
    let rounds = reader(&scene, "run").await.round_summary(RUN).await.unwrap();
    assert_eq!((rounds[0].hard_count, rounds[0].easy_count), (0, 24));
}

#[tokio::test]
async fn the_filter_alone_writes_the_hard_problems_and_can_be_gone_on_with() {
    let scene = rounds_scene(&["run.steps=2"]);
    let out = scene.path("hard.jsonl");
    let mut args = scene.run_args("run", &[]);
    args[0] = "filter".to_owned();
    args.extend(["--out".to_owned(), out.display().to_string()]);
    succeed(&scene.output(&args));
    let lines: Vec<serde_json::Value> =
        std::fs::read_to_string(&out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 24);
    assert!(lines.iter().all(|line| line["pass_rate"] == 0.0 && line["samples"] == 2 && line["problem"].is_string()));
    let sampled = "select cast(sum(generated_tokens) as real) from round_problem";
    let before = content_of(&scene.database("run"), sampled).await;
    succeed(&scene.resume("run"));
    assert_eq!(content_of(&scene.database("run"), sampled).await, before, "nothing is measured twice");
    assert_eq!(reader(&scene, "run").await.done_steps(RUN).await.unwrap().len(), 2);
    // The subset is a problem file.
    let sets = [format!("data.problems={}", out.display()), "curriculum.filter=false".to_owned()];
    succeed(&scene.run("again", &[&sets[0], &sets[1]]));
}

#[tokio::test]
async fn baselines_roll_out_and_dynamic_sampling_draws_further_problems() {
    let scene = rounds_scene(&["run.steps=2"]);
    succeed(&scene.run("grpo", &["run.algorithm=grpo", "train.overlong_buffer_tokens=0"]));
    let grpo = reader(&scene, "grpo").await;
    let trees = grpo.trees(TreeFilter::of(RUN)).await.unwrap();
    assert_eq!(trees.len(), 16);
    assert!(trees.iter().all(|tree| tree.kind == TreeKind::Rollout && tree.trajectory_count == 4));

    succeed(&scene.run("dapo", &["run.algorithm=dapo", "train.overlong_buffer_tokens=0"]));
    let dapo = reader(&scene, "dapo").await;
    // Nothing is solved, so nothing has a signal: all further problems are drawn, each once, and there is no update.
    for step in [1, 2] {
        let slots = dapo.step_slots(RUN, StepId(step)).await.unwrap();
        assert_eq!(slots.len(), 24, "8 problems and twice 8 more");
        let mut problems: Vec<i64> = slots.iter().map(|slot| slot.problem_id.0).collect();
        problems.sort_unstable();
        problems.dedup();
        assert_eq!(problems.len(), 24);
    }
    let steps = dapo.steps(RUN).await.unwrap();
    assert!(steps.iter().all(|step| step.update_skip_reason.is_some() && step.tree_count == 24));
    // The first batch is what the other baseline works on: one data order.
    let first = |slots: Vec<orchestrator::store::StepSlot>| -> Vec<_> {
        slots.into_iter().take(8).map(|slot| slot.problem_id).collect()
    };
    assert_eq!(
        first(dapo.step_slots(RUN, StepId(1)).await.unwrap()),
        first(grpo.step_slots(RUN, StepId(1)).await.unwrap())
    );
}

#[tokio::test]
async fn updates_repeat_from_the_database_to_the_bit() {
    let scene = rounds_scene(&["run.steps=4", "run.checkpoint_every=2"]);
    scene.import_solutions("run", 6);
    succeed(&scene.run("run", &[]));
    let train = |steps: &str, more: &[&str]| {
        let mut command = orchestrator();
        command.args(["train", "--from-db"]).arg(scene.path("run")).args(["--steps", steps]).args(more);
        command.output().unwrap()
    };
    for steps in ["1..4", "2", "3..4"] {
        let output = train(steps, &[]);
        succeed(&output);
        assert!(text(&output).contains("the same as recorded, to the bit"), "{steps}: {}", text(&output));
    }
    let other = scene.path("other");
    let output = train("3..4", &["--set", "train.learning_rate=1e-2", "--out", other.to_str().unwrap()]);
    succeed(&output);
    assert!(text(&output).contains("not those recorded"), "{}", text(&output));
    assert!(other.join("model.safetensors").exists() && other.join("config.json").exists());
    let left: Vec<_> = std::fs::read_dir(scene.path("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".offline")), "{left:?}");
    for bad in ["0..2", "3..9", "4..3"] {
        let output = train(bad, &[]);
        assert_eq!(output.status.code(), Some(2), "{bad}: {}", text(&output));
        assert!(text(&output).contains("finished steps"), "{}", text(&output));
    }
}

#[tokio::test]
async fn solutions_travel_from_folder_to_folder() {
    let scene = rounds_scene(&[]);
    scene.import_solutions("a", 5);
    let export = scene.path("export.jsonl");
    let solutions = |args: &[&str]| orchestrator().arg("solutions").args(args).output().unwrap();
    let path = |name: &str| scene.path(name).display().to_string();
    succeed(&solutions(&["export", &path("a"), "--out", export.to_str().unwrap()]));
    let import =
        ["import", &path("b"), "--from", export.to_str().unwrap(), "--config", &path("config.toml")].map(str::to_owned);
    let import: Vec<&str> = import.iter().map(String::as_str).collect();
    let output = solutions(&import);
    succeed(&output);
    assert!(text(&output).contains("5 solutions imported, 0 known already"), "{}", text(&output));
    assert!(text(&solutions(&import)).contains("0 solutions imported, 5 known already"));
    let of = |name: &'static str| {
        let scene = &scene;
        async move { reader(scene, name).await.all_solutions(SolutionFilter::default()).await.unwrap() }
    };
    let (a, b) = (of("a").await, of("b").await);
    assert_eq!(a.len(), 5);
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(
            (&a.tokens, &a.text, &a.answer, &a.tokens_sha256),
            (&b.tokens, &b.text, &b.answer, &b.tokens_sha256)
        );
        assert_eq!((a.provenance, a.run_id, a.weight_version), (Provenance::Imported, None, None));
    }

    let good = std::fs::read_to_string(&export).unwrap();
    let line = good.lines().next().unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut object: serde_json::Value = serde_json::from_str(line).unwrap();
        object[key] = value;
        format!("{line}\n{object}\n")
    };
    for (content, expected) in [
        (with("answer", "no such number".into()), "line 2"),
        (with("tokens", serde_json::json!([4_000_000])), "line 2"),
        (with("tokens", serde_json::json!([])), "it has no tokens"),
        (with("logprobs", serde_json::json!([-1.0])), "`logprobs`"),
        (format!("{line}\nnonsense\n"), "line 2"),
    ] {
        std::fs::write(&export, content).unwrap();
        let output =
            solutions(&["import", &path("c"), "--from", export.to_str().unwrap(), "--config", &path("config.toml")]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
    assert!(!scene.database("c").exists(), "nothing was imported");
}
