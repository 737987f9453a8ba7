//! A run whose next steps' trees grow beside the update, killed at any instant: after each kill the database fits together,
//! and in the end every step was done once, on trees no older than `run.max_staleness` allows. Which weights sampled a tree
//! depends on the instant, so unlike in `kill_resume.rs` two such runs are not the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "support/policy.rs"]
mod policy;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/served.rs"]
mod served;
#[path = "support/sound.rs"]
mod sound;

use std::time::{Duration, Instant};

use orchestrator::store::Reader;
use orchestrator::types::RunId;
use policy::splitmix::SplitMix;
use scene::succeed;
use served::Served;
use sound::assert_sound;

const RUN: RunId = RunId(1);
const STEPS: u32 = 6;
const MAX_STALENESS: u64 = 2;
const KILLS: u32 = 40;
const KILLS_PER_CHAIN: u32 = 5;

fn new_served(more: &[&str]) -> Served {
    let mut sets = vec![
        "run.pipeline=overlap",
        "run.max_staleness=2",
        "run.problems_per_step=4",
        "run.keep_every=2",
        "run.checkpoint_every=2",
        "run.checkpoints_kept=1",
        "train.minibatch_problems=2",
        "search.step_tokens=12",
        "eval.every=2",
        "eval.samples=2",
    ];
    sets.extend(more);
    let served = Served::new(STEPS, &sets);
    served.scene.make_problems("held_out.jsonl", 4, 6);
    served
}

/// Arguments that begin the run in the folder `name`, or go on with it where it was begun.
async fn next_args(served: &Served, name: &str) -> Vec<String> {
    let has_begun = match Reader::open(&served.scene.database(name)).await {
        Ok(reader) => matches!(reader.latest_run().await, Ok(Some(_))),
        Err(_) => false,
    };
    if has_begun {
        return served.scene.resume_args(name);
    }
    let eval = format!("eval.problems={}", served.scene.path("held_out.jsonl").display());
    served.args(name, &[&eval])
}

/// Every step once and whole, none further from its policy than it may be. Returns how many were off-policy.
async fn assert_whole(served: &Served, name: &str) -> usize {
    assert_sound(&served.scene.path(name), name).await;
    let reader = served.reader(name).await;
    let steps = reader.done_steps(RUN).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.step_id.0).collect::<Vec<_>>(), (1..=i64::from(STEPS)).collect::<Vec<_>>());
    assert_eq!(reader.unfinished_steps(RUN).await.unwrap(), [], "{name}");
    let (mut version, mut stale) = (0, 0);
    for step in steps {
        let searched = step.search_weight_version.0;
        assert!(searched <= version && searched + MAX_STALENESS >= version, "{name}, with {version}: {step:?}");
        stale += usize::from(searched < version);
        version = step.end.unwrap().produced_weight_version.map_or(version, |produced| produced.0);
    }
    let weights = reader.weight_versions(RUN).await.unwrap();
    assert_eq!(weights.last().map(|row| row.weight_version.0), Some(version), "{name}");
    assert!(weights.iter().all(|row| row.confirmed_at_ms.is_some()), "{name}: {weights:?}");
    assert_eq!(reader.evaluations(RUN).await.unwrap().len(), 4, "{name}: before the first step and after each second");
    stale
}

/// Kills in chains, as in `kill_resume.rs`.
async fn sweep(served: &Served, wanted: u32) {
    let started = Instant::now();
    succeed(&served.scene.output(&next_args(served, "unbroken").await));
    let took = started.elapsed();
    let mut stale = assert_whole(served, "unbroken").await;
    let (mut instants, mut kills, mut chain) = (SplitMix(11), 0, 0);
    while kills < wanted {
        let name = format!("chain-{chain}");
        for turn in 0..KILLS_PER_CHAIN.min(wanted - kills) {
            let life_frac =
                if turn == 0 { (f64::from(chain % 8) + instants.unit()) / 8.0 } else { instants.unit() / 2.0 };
            let args = next_args(served, &name).await;
            let killed_at = Instant::now() + took.mul_f64(life_frac);
            let mut child = served.scene.start(&args);
            tokio::time::sleep(killed_at.saturating_duration_since(Instant::now())).await;
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert_sound(&served.scene.path(&name), &format!("{name}, turn {turn}")).await;
            if let Some(code) = status.code() {
                assert_eq!(code, 0, "{name}: ended by itself after kill {turn}");
                break;
            }
            kills += 1;
        }
        succeed(&served.scene.output(&next_args(served, &name).await));
        stale += assert_whole(served, &name).await;
        chain += 1;
        assert!(chain < wanted, "processes end before they are killed");
    }
    assert!(stale > 0, "no search ran beside an update");
    eprintln!("{kills} kills in {chain} chains, {stale} steps off-policy; one run takes {took:?}");
    assert!(took < Duration::from_secs(120));
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_kills_of_an_overlapping_run_lose_nothing() {
    sweep(&new_served(&[]), KILLS).await;
}

/// The same where a step draws further problems while the next one's trees are under way.
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_an_overlapping_run_that_draws_lose_nothing() {
    let served = new_served(&["run.algorithm=dapo", "curriculum.dynamic_sampling=2", "run.max_staleness=1"]);
    sweep(&served, 15).await;
}
