//! `orchestrator db prune` and `db vacuum`, killed at any instant: what was not to go is there, the database fits together,
//! and the same command brings to its end what was begun.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/scene.rs"]
mod scene;
#[path = "support/sound.rs"]
mod sound;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use scene::{Content, Engine, Scene, content, orchestrator, succeed};
use sound::assert_sound;

const KILLS: u32 = 24;

fn db(args: &[&str], folder: &Path) -> Command {
    let mut command = orchestrator();
    command.arg("db").arg(args[0]).arg(folder).args(&args[1..]);
    command
}

/// A finished run that keeps all text, and can go on.
fn finished() -> Scene {
    let sets = ["run.keep_text=all", "run.checkpoint_every=2", "run.checkpoints_kept=1"];
    let scene = Scene::new(Engine::Embedded, 5, &sets);
    succeed(&scene.run("run", &[]));
    scene
}

fn copy(scene: &Scene, name: &str) -> PathBuf {
    let folder = scene.path(name);
    succeed(&Command::new("cp").arg("-r").arg(scene.path("run")).arg(&folder).output().unwrap());
    folder
}

/// What pruning leaves alone.
fn without_text(content: &Content) -> Content {
    let mut content = content.clone();
    content.retain(|table, _| table != "node_content" && table != "retention");
    content
}

/// Kills `args` on copies of the run, at instants all over its life; `seen` is shown what each kill left. Returns how
/// many commands had not ended before.
async fn sweep(scene: &Scene, args: &[&str], mut seen: impl AsyncFnMut(&str, &Path)) -> u32 {
    let folder = copy(scene, "unbroken");
    let started = Instant::now();
    succeed(&db(args, &folder).output().unwrap());
    let took = started.elapsed();
    let mut kills = 0;
    for turn in 0..KILLS {
        let name = format!("killed-{turn}");
        let folder = copy(scene, &name);
        let killed_at = Instant::now() + took.mul_f64(f64::from(turn) / f64::from(KILLS));
        let mut child = db(args, &folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(killed_at.saturating_duration_since(Instant::now()));
        child.kill().unwrap();
        kills += u32::from(child.wait().unwrap().code().is_none());
        assert_sound(&folder, &name).await;
        seen(&name, &folder.join("orchestrator.sqlite")).await;
        let output = db(args, &folder).output().unwrap();
        succeed(&output);
        assert_sound(&folder, &format!("{name}, again")).await;
        let (whole, unbroken) =
            (content(&folder.join("orchestrator.sqlite")).await, content(&scene.database("unbroken")).await);
        assert!(whole == unbroken, "{name}: not as without a kill");
    }
    assert!(took < Duration::from_secs(60));
    kills
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_is_killed_takes_nothing_else() {
    let scene = finished();
    let before = content(&scene.database("run")).await;
    let args = ["prune", "--keep", "none", "--drop-logprobs"];
    let kills = sweep(&scene, &args, async |name, database| {
        let left = content(database).await;
        assert!(without_text(&left) == without_text(&before), "{name}: more than text was dropped");
        let texts = &before["node_content"];
        assert!(left["node_content"].iter().all(|row| texts.contains(row)), "{name}: a text was changed");
    })
    .await;
    assert!(kills >= KILLS / 4, "{kills} kills");
    // A resume repeats what is after the checkpoint, and comes to the same weights.
    for name in ["killed-3", "killed-12", "run"] {
        let mut more = scene.resume_args(name);
        more.extend(["--set".to_owned(), "run.steps=6".to_owned()]);
        succeed(&scene.output(&more));
        assert_sound(&scene.path(name), name).await;
    }
    assert!(scene.weights("killed-3") == scene.weights("run") && scene.weights("killed-12") == scene.weights("run"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_that_is_killed_loses_nothing() {
    let scene = finished();
    // Something to give back.
    succeed(&db(&["prune", "--keep", "trained"], &scene.path("run")).output().unwrap());
    let before = content(&scene.database("run")).await;
    let kills = sweep(&scene, &["vacuum"], async |name, database| {
        assert!(content(database).await == before, "{name}: a row was lost");
    })
    .await;
    assert!(kills >= KILLS / 4, "{kills} kills");
}
