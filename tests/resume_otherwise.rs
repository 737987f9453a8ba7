//! Runs that go on under other circumstances than they were begun: a server that now takes what it refused, fewer or more
//! steps, other weights kept. Whatever changed, the database fits together, and nothing is lost.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/policy.rs"]
mod policy;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/served.rs"]
mod served;
#[path = "support/sound.rs"]
mod sound;

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use orchestrator::store::{Reader, RunStatus};
use orchestrator::types::{RunId, StepId};
use policy::Say;
use scene::{Engine, Scene, succeed};
use served::Served;
use sound::assert_sound;

const RUN: RunId = RunId(1);

/// Waits until `holds` of a database that may not be there yet.
async fn wait_for(database: &Path, child: &mut Child, what: &str, mut holds: impl AsyncFnMut(&Reader) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Ok(reader) = Reader::open(database).await
            && holds(&reader).await
        {
            return;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// One problem is refused and none has a signal, so that as many again are drawn; before these are grown the process is
/// killed. The server then takes all, and every answer has a signal: less is missing than was drawn, but what was drawn is
/// part of the step.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_drawn_for_a_refused_problem_is_grown() {
    let sets = [
        "run.algorithm=dapo",
        "curriculum.dynamic_sampling=2",
        "run.problems_per_step=4",
        "train.minibatch_problems=2",
        "search.step_tokens=12",
    ];
    let served = Served::new(1, &sets);
    let nothing = served.tokenizer.encode("x").unwrap();
    served.server.script(move |asked| match asked.number {
        0 => Say::Refuse,
        1..=3 => Say::Answers(vec![nothing.clone()]),
        _ => Say::Nothing,
    });
    let database = served.scene.database("run");
    let mut child = served.scene.start(&served.args("run", &[]));
    wait_for(&database, &mut child, "the draw", async |reader| {
        let slots = reader.step_slots(RUN, StepId(1)).await.unwrap_or_default().len();
        let trees = reader.recorded_trees(RUN, StepId(1)).await.unwrap_or_default().len();
        (slots, trees) == (8, 4)
    })
    .await;
    kill(child);
    assert_sound(&served.scene.path("run"), "after the kill").await;

    let problems = std::fs::read_to_string(served.scene.path("problems.jsonl")).unwrap();
    let problems: Vec<serde_json::Value> = problems.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let wrong = served.tokenizer.encode(" \\boxed{-77}").unwrap();
    let tokenizer = served.tokenizer;
    served.server.script(move |asked| {
        let text = tokenizer.decode(&asked.prompt).unwrap();
        let is_it = |problem: &&serde_json::Value| {
            text.ends_with(&format!("Question: {}\nAnswer:", problem["problem"].as_str().unwrap()))
        };
        let problem = problems.iter().find(is_it).unwrap();
        let right = tokenizer.encode(&format!(" \\boxed{{{}}}", problem["answer"].as_str().unwrap())).unwrap();
        Say::Answers(vec![right, wrong.clone()])
    });
    succeed(&served.scene.resume("run"));
    assert_sound(&served.scene.path("run"), "at the end").await;
    let reader = Reader::open(&database).await.unwrap();
    let trees = reader.recorded_trees(RUN, StepId(1)).await.unwrap();
    assert_eq!(trees.iter().map(|tree| tree.slot).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
}

/// With the next steps' trees under way a run is stopped, told to do fewer steps, then more again.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_does_fewer_steps_than_it_had_begun_and_more_again() {
    let sets = ["run.pipeline=overlap", "run.max_staleness=2", "run.problems_per_step=4", "train.minibatch_problems=2"];
    let served = Served::new(50, &sets);
    let (folder, database) = (served.scene.path("run"), served.scene.database("run"));
    let mut child = served.scene.start(&served.args("run", &[]));
    let mut is_stuck = false;
    wait_for(&database, &mut child, "two steps and the beginning of others", async |reader| {
        let done = reader.done_steps(RUN).await.unwrap_or_default().len();
        if done >= 2 && !is_stuck {
            is_stuck = true;
            served.server.script(|_| Say::Nothing);
        }
        is_stuck && reader.unfinished_steps(RUN).await.unwrap().len() >= 2
    })
    .await;
    kill(child);
    served.server.script(|_| Say::Anything);
    assert_sound(&folder, "after the kill").await;
    let reader = served.reader("run").await;
    let done = reader.done_steps(RUN).await.unwrap().len();
    let begun = reader.unfinished_steps(RUN).await.unwrap().len();

    let fewer = format!("run.steps={done}");
    succeed(&served.scene.output(&served.resume_args("run", &[&fewer])));
    assert_eq!(reader.run(RUN).await.unwrap().unwrap().status, RunStatus::Done);
    assert_eq!(reader.unfinished_steps(RUN).await.unwrap().len(), begun, "what was begun is kept");
    assert_sound(&folder, "with fewer steps").await;

    let more = format!("run.steps={}", done + begun + 1);
    succeed(&served.scene.output(&served.resume_args("run", &[&more])));
    let steps = reader.done_steps(RUN).await.unwrap();
    assert_eq!(
        steps.iter().map(|step| step.step_id.0).collect::<Vec<_>>(),
        (1..=(done + begun + 1) as i64).collect::<Vec<_>>()
    );
    assert_eq!(reader.unfinished_steps(RUN).await.unwrap(), []);
    assert_sound(&folder, "with more steps again").await;
}

/// The tokens are spent with the first step, while trees of the next ones are under way. The run is over then, says what it
/// would go on with, and goes on from those trees.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_tokens_are_spent_is_over_and_goes_on_with_more() {
    let sets = [
        "run.pipeline=overlap",
        "run.max_staleness=2",
        "run.problems_per_step=4",
        "train.minibatch_problems=2",
        "run.max_generated_tokens=1",
    ];
    let served = Served::new(5, &sets);
    let folder = served.scene.path("run");
    let said = |args: &[String]| {
        let output = served.scene.output(args);
        succeed(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    let first = said(&served.args("run", &[]));
    assert!(first.contains("done: `run.max_generated_tokens` are spent: 1 steps"), "{first}");
    let reader = served.reader("run").await;
    assert_eq!(reader.run(RUN).await.unwrap().unwrap().status, RunStatus::Done);
    assert_eq!(reader.done_steps(RUN).await.unwrap().len(), 1);
    let begun = reader.unfinished_steps(RUN).await.unwrap();
    assert!(!begun.is_empty(), "nothing was begun ahead");
    assert_sound(&folder, "with its tokens spent").await;
    let mut kept = Vec::new();
    for step in &begun {
        kept.extend(reader.recorded_trees(RUN, step.step_id).await.unwrap().into_iter().map(|tree| tree.tree_id));
    }

    for more in [&[][..], &["run.steps=9"], &["run.max_generated_tokens=2"]] {
        let over = said(&served.resume_args("run", more));
        assert!(over.contains("is done; it goes on with more: --set run.max_generated_tokens=N\n"), "{more:?}: {over}");
    }
    said(&served.resume_args("run", &["run.max_generated_tokens=0"]));
    let steps = reader.done_steps(RUN).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.step_id.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(steps[1].search_weight_version, begun[0].search_weight_version, "as it was begun");
    assert_eq!(reader.unfinished_steps(RUN).await.unwrap(), []);
    let mut trees = Vec::new();
    for step in &steps {
        trees.extend(reader.recorded_trees(RUN, step.step_id).await.unwrap().into_iter().map(|tree| tree.tree_id));
    }
    assert!(kept.iter().all(|tree| trees.contains(tree)), "{kept:?} of {trees:?}");
    assert_sound(&folder, "with more tokens").await;
    let over = said(&served.resume_args("run", &[]));
    assert!(over.contains("is done; it goes on with more: --set run.steps=N\n"), "{over}");
}

/// What was not to be kept is gone, whatever is to be kept from now on.
#[tokio::test(flavor = "multi_thread")]
async fn other_weights_are_kept_from_a_resume_on() {
    let scene = Scene::new(Engine::Embedded, 2, &["run.problems_per_step=4", "train.minibatch_problems=2"]);
    succeed(&scene.run("run", &[]));
    let folder = scene.path("run");
    assert_sound(&folder, "only the newest").await;
    let versions = || -> Vec<u64> {
        let dirs = std::fs::read_dir(folder.join("run-1/weights")).unwrap();
        let mut there: Vec<u64> =
            dirs.map(|entry| entry.unwrap().file_name().to_str().unwrap()[1..].parse().unwrap()).collect();
        there.sort_unstable();
        there
    };
    let mut before = versions();
    assert_eq!(before.len(), 1);
    for (steps, keep_every) in [(5, 1), (9, 2), (10, 0_u64)] {
        let mut args = scene.resume_args("run");
        for set in [format!("run.steps={steps}"), format!("run.keep_every={keep_every}")] {
            args.extend(["--set".to_owned(), set]);
        }
        succeed(&scene.output(&args));
        assert_sound(&folder, &format!("every {keep_every}-th")).await;
        let there = versions();
        let (first, newest) = (before[0], there[there.len() - 1]);
        assert!(newest > before[before.len() - 1], "no update");
        let is_kept = |version: &u64| *version == newest || (keep_every > 0 && version.is_multiple_of(keep_every));
        assert_eq!(there, (first..=newest).filter(is_kept).collect::<Vec<_>>(), "every {keep_every}-th");
        before = there;
    }
    // What is lost is still found.
    std::fs::remove_dir_all(folder.join(format!("run-1/weights/v{:06}", before[0]))).unwrap();
    let check = scene::orchestrator().args(["db", "check"]).arg(&folder).output().unwrap();
    assert_eq!(check.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&check.stdout).contains("weights_kept"), "{check:?}");
}

/// Weights come and go many times a second beside the check.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_is_sound_whenever_it_is_looked_at() {
    let sets = ["run.pipeline=overlap", "run.keep_every=3", "run.problems_per_step=2", "train.minibatch_problems=1"];
    let served = Served::new(40, &sets);
    let folder = served.scene.path("run");
    let mut child = served.scene.start(&served.args("run", &[]));
    let mut looks = 0;
    let status = loop {
        assert_sound(&folder, "beside the run").await;
        looks += 1;
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success() && looks > 5, "{status}, {looks} looks");
    assert_sound(&folder, "at the end").await;
    assert_eq!(served.reader("run").await.done_steps(RUN).await.unwrap().len(), 40);
}
