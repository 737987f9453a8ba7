//! `orchestrator run` on a scripted server: what is published and loaded while a disk fills up, a file is torn, a server hangs or
//! the run is called off. Kills and signals of a run without a server are in `kill_resume.rs`.

// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scene::{Content, Engine, Scene, assert_same, content_in_any_order, content_of, orchestrator, succeed};
use serde_json::json;
use support::scripted::{Model, Reply, Scripted};

const STEPS: u32 = 4;
/// Until a run that was signalled must have ended, on a machine that has much else to do: half of what `docker-compose.yml`
/// gives it.
const GRACE: Duration = Duration::from_secs(60);

/// A server for the tiny model, and a scene whose runs use it. It answers everything alike, which is not what the trainer
/// would say.
async fn new_scene() -> (Scripted, Scene) {
    let server = Scripted::with(Model { vocab_size: 512, ..Model::default() }).await;
    let sets = ["run.canary_tolerance_nats=1e9", "run.checkpoint_every=1", "run.checkpoints_kept=2"];
    let scene = Scene::new(Engine::Running { url: server.url.clone() }, STEPS, &sets);
    (server, scene)
}

/// What a run stores, without what tells how it got there.
async fn essence(scene: &Scene, name: &str) -> Content {
    let mut content = content_in_any_order(&scene.database(name)).await;
    content.retain(|table, _| !["run_status", "run_event", "metric"].contains(&table.as_str()));
    content
}

/// To the end, while the server of this process goes on answering.
async fn finish(scene: &Scene, args: &[String]) -> std::process::Output {
    tokio::task::block_in_place(|| scene.output(args))
}

/// The run `name` is whole and, to the last bit, what the run `unbroken` is.
async fn assert_unbroken(scene: &Scene, unbroken: &Content, name: &str) {
    succeed(&orchestrator().args(["db", "check"]).arg(scene.path(name)).output().unwrap());
    assert_same(unbroken, &essence(scene, name).await, name);
    assert!(scene.weights("unbroken") == scene.weights(name), "{name}: the weights differ");
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// Waits for something that the run does.
async fn until(what: &str, child: &mut Child, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(child.try_wait().unwrap().is_none(), "over before {what}");
        assert!(started.elapsed() < Duration::from_secs(300), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The exit code, which must come soon.
async fn ended(child: &mut Child, what: &str) -> Option<i32> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            eprintln!("{what}: {status} after {:.2} s", started.elapsed().as_secs_f64());
            return status.code();
        }
        assert!(started.elapsed() < GRACE, "{what}: still there after {} s", GRACE.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn one_clear_message(stderr: &str) {
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// A limit on the size of files, put on the running process, stands for a disk that is full from then on.
fn fill_disk(child: &Child, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit lives for the call, and nothing is asked back.
    let result =
        unsafe { libc::prlimit(child.id().cast_signed(), libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// New weights that find no room: the server is not touched, goes on with those it has, and the run goes on once there is
/// room.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_when_weights_are_published_leaves_the_server_as_it_was() {
    let (server, scene) = new_scene().await;
    succeed(&finish(&scene, &scene.run_args("unbroken", &[])).await);
    let unbroken = essence(&scene, "unbroken").await;
    let bytes = scene.weights("unbroken").len() as u64;

    // Without the trap the first write beyond the limit would kill the process.
    let mut command = scene.at_home(Command::new("/bin/sh"));
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_orchestrator")]);
    let loads = || server.seen("rpc:ds_load").len();
    let before = loads();
    command.args(scene.run_args("full", &[]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("the first weights", &mut child, || loads() > before).await;
    fill_disk(&child, bytes * 3 / 4);
    let code = ended(&mut child, "full disk").await;
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(code, Some(3), "the environment is at fault\n{stderr}");
    one_clear_message(&stderr);
    let version = server.version();
    assert!(!server.is_paused() && version < u64::from(STEPS), "it holds version {version}");
    let newest = "select cast(max(weight_version) as real) from weight_version";
    let confirmed = "select cast(max(weight_version) as real) from weight_version where confirmed_at_ms is not null";
    let (newest, confirmed) =
        (content_of(&scene.database("full"), newest).await, content_of(&scene.database("full"), confirmed).await);
    assert!(confirmed <= version as f64 && version as f64 <= newest, "{confirmed}, {version}, {newest}");
    let partial = |path: &Path| path.to_string_lossy().contains(".partial-");
    let left = std::fs::read_dir(scene.path("full/run-1/weights"))
        .unwrap()
        .filter(|entry| partial(&entry.as_ref().unwrap().path()));
    assert_eq!(left.count(), 0, "what was half written is gone");

    succeed(&finish(&scene, &scene.resume_args("full")).await);
    assert_unbroken(&scene, &unbroken, "full").await;
}

/// The server finds another file than was written: it keeps what it has, the run says so, and exports it anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_file_of_weights_ends_the_run_with_one_message_and_is_written_again() {
    let (server, scene) = new_scene().await;
    succeed(&finish(&scene, &scene.run_args("unbroken", &[])).await);
    let unbroken = essence(&scene, "unbroken").await;
    let torn = json!({"results": [{"ok": false, "intact": true,
        "error": "ValueError: checksum of `lm_head.weight` differs: trainer `77c1a0ff`, file `9f3e5200`"}]});
    let good = server.seen("rpc:ds_load").len();
    let mut child = scene.spawn("torn", &[]);
    until("the first weights", &mut child, || server.seen("rpc:ds_load").len() > good).await;
    server.script("rpc:ds_load", [Reply::Json(200, torn)]);
    assert_eq!(ended(&mut child, "torn file").await, Some(3));
    assert!(!server.is_paused(), "it goes on with what it has");
    let output = finish(&scene, &scene.resume_args("torn")).await;
    succeed(&output);
    assert_unbroken(&scene, &unbroken, "torn").await;
}

/// A signal while a server is being loaded waits for the load, so that no server is left paused; at all other times nobody is
/// waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_at_a_server_leaves_no_server_paused_and_nothing_in_flight() {
    let (server, scene) = new_scene().await;
    succeed(&finish(&scene, &scene.run_args("unbroken", &[])).await);
    let unbroken = essence(&scene, "unbroken").await;

    // While it is greeted: it takes the connection and says nothing.
    server.hang(true);
    let asked = server.order().len();
    let mut child = scene.spawn("connect", &[]);
    until("a greeting", &mut child, || server.order().len() > asked).await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(ended(&mut child, "connect").await, Some(130));
    server.hang(false);

    // In a rollout that is not answered.
    let mut child = scene.spawn("rollout", &[]);
    let loads = server.seen("rpc:ds_load").len();
    until("the weights", &mut child, || server.seen("rpc:ds_load").len() > loads && !server.is_paused()).await;
    server.hang(true);
    until("a rollout", &mut child, || server.hanging() > 0).await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(ended(&mut child, "rollout").await, Some(130));
    support::scripted::until("its requests to be called off", || server.hanging() == 0 && server.in_flight() == 0)
        .await;
    server.hang(false);

    // In a load: it ends first.
    let mut child = scene.spawn("reload", &[]);
    let loads = server.seen("rpc:ds_load").len();
    until("the first weights", &mut child, || server.seen("rpc:ds_load").len() > loads).await;
    server.script("rpc:ds_load", [Reply::Held]);
    until("the next load", &mut child, || server.seen("rpc:ds_load").len() > loads + 1).await;
    signal(&child, Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(child.try_wait().unwrap().is_none() && server.is_paused(), "it waits for the load");
    server.release();
    assert_eq!(ended(&mut child, "reload").await, Some(130));
    assert!(!server.is_paused(), "and leaves a server that works");

    for name in ["connect", "rollout", "reload"] {
        succeed(&finish(&scene, &scene.resume_args(name)).await);
        assert_unbroken(&scene, &unbroken, name).await;
    }
}
