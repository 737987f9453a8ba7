//! A run that is killed at any instant, whose checkpoints rot or whose disk fills up, ends as if nothing had happened:
//! the same rows and, to the last bit, the same weights.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "support/scene.rs"]
mod scene;
#[path = "support/sound.rs"]
mod sound;
#[path = "support/splitmix.rs"]
mod splitmix;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use orchestrator::store::Reader;
use scene::{Content, Engine, Scene, assert_same, content_in_any_order, content_of, succeed};
use sound::assert_sound;
use splitmix::SplitMix;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

const STEPS: u32 = 5;
const KILLS: u32 = 50;
const KILLS_PER_CHAIN: u32 = 5;
/// Until a run that was signalled must have ended, on a machine that has much else to do: half of what `docker-compose.yml`
/// gives it.
const GRACE: Duration = Duration::from_secs(60);
/// Problems whose solution is in the cache from the beginning.
const SOLUTIONS: usize = 7;

/// Two rounds with a filter, kept solutions, measurements and checkpoints.
fn new_scene(more: &[&str]) -> Scene {
    let mut sets = vec![
        "run.problems_per_step=12",
        "run.checkpoint_every=2",
        "run.checkpoints_kept=2",
        "curriculum.rounds=2",
        "curriculum.filter=true",
        "curriculum.filter_samples=2",
        // A random model solves nothing or, by chance, everything: all of it is hard.
        "curriculum.max_pass_rate=1.0",
        "replay.enabled=true",
        "replay.max_pass_rate=1.0",
        "eval.every=2",
        "eval.samples=2",
        "train.minibatch_problems=2",
    ];
    sets.extend(more);
    Scene::new(Engine::Embedded, STEPS, &sets)
}

/// A scene, its unbroken run, and what came of it.
struct Unbroken {
    scene: Scene,
    eval: String,
    took: Duration,
    content: Content,
    weights: Vec<u8>,
}

impl Unbroken {
    async fn new() -> Unbroken {
        Unbroken::of(&[]).await
    }

    async fn of(more: &[&str]) -> Unbroken {
        let scene = new_scene(more);
        let problems = scene.make_problems("held_out.jsonl", 4, 6);
        let eval = format!("eval.problems={}", problems.display());
        scene.import_solutions("unbroken", SOLUTIONS);
        let started = Instant::now();
        succeed(&scene.run("unbroken", &[&eval]));
        let took = started.elapsed();
        let content = essence(&scene.database("unbroken")).await;
        for table in ["round", "round_problem", "step", "tree", "node", "trajectory", "evaluation", "metric"] {
            assert!(!content[table].is_empty(), "`{table}` is empty");
        }
        assert_eq!(content["step"].len(), STEPS as usize);
        assert_eq!(content["round"].len(), 2);
        assert!(content["weight_version"].len() > 1, "the policy was never updated");
        let weights = scene.weights("unbroken");
        Unbroken { scene, eval, took, content, weights }
    }

    /// Arguments that begin the run in the folder `name`, or go on with it where it was begun: a process that is killed
    /// early may leave no row of its run.
    async fn next_args(&self, name: &str) -> Vec<String> {
        let has_begun = match Reader::open(&self.scene.database(name)).await {
            Ok(reader) => matches!(reader.latest_run().await, Ok(Some(_))),
            Err(_) => false,
        };
        if has_begun {
            return self.scene.resume_args(name);
        }
        self.begin(name)
    }

    /// Runs to the end whatever there is of the run `name`.
    async fn finish(&self, name: &str) -> Output {
        let output = self.scene.output(&self.next_args(name).await);
        succeed(&output);
        output
    }

    /// Every row and every bit of the weights; every slot and every step once.
    async fn assert_same(&self, name: &str) {
        let database = self.scene.database(name);
        let twice = "select cast(count(*) as real) from (select 1 from tree group by run_id, step_id, slot having count(*) > 1)";
        assert_eq!(content_of(&database, twice).await, 0.0, "{name}: a slot is stored twice");
        let done = content_of(&database, "select cast(count(*) as real) from step where status = 'done'").await;
        assert_eq!(done, f64::from(STEPS), "{name}: steps done");
        assert_eq!(content_of(&database, "select cast(count(*) as real) from run").await, 1.0, "{name}: runs");
        assert_same(&self.content, &essence(&database).await, name);
        assert!(self.weights == self.scene.weights(name), "{name}: the weights differ");
        assert_sound(&self.scene.path(name), name).await;
    }

    /// Arguments of a run that begins, with its solutions in the cache.
    fn begin(&self, name: &str) -> Vec<String> {
        self.scene.import_solutions(name, SOLUTIONS);
        self.scene.run_args(name, &[&self.eval])
    }

    /// A run that was killed once its checkpoint of step 4 was complete and before it was over.
    async fn killed_after_checkpoint(&self, name: &str) {
        let mut child = self.scene.start(&self.begin(name));
        let newest = self.checkpoints(name).join("step-000004");
        let deadline = Instant::now() + 20 * self.took + Duration::from_secs(60);
        while !newest.exists() {
            assert!(Instant::now() < deadline, "{name}: no checkpoint of step 4");
            assert!(child.try_wait().unwrap().is_none(), "{name}: over before it was killed");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_sound(&self.scene.path(name), &format!("{name}, killed")).await;
    }

    fn checkpoints(&self, name: &str) -> PathBuf {
        self.scene.path(name).join("run-1/checkpoints")
    }
}

/// The content without what tells how often the process was started.
async fn essence(database: &Path) -> Content {
    let mut content = content_in_any_order(database).await;
    content.retain(|table, _| table != "run_status" && table != "run_event");
    content
}

/// Kills in chains, each compared with the unbroken run at its end; returns the number of chains. The first kill of a chain
/// falls anywhere in the life of the process, the later ones early enough that something is left for the next; a process
/// that ended first ends its chain, and another chain has the kills that were saved.
async fn kill(unbroken: &Unbroken, wanted: u32) -> u32 {
    let (mut instants, mut kills, mut chain) = (SplitMix(7), 0, 0);
    while kills < wanted {
        let name = format!("chain-{chain}");
        for turn in 0..KILLS_PER_CHAIN.min(wanted - kills) {
            // A tenth of a life for each chain, so that the whole of it is covered.
            let life_frac =
                if turn == 0 { (f64::from(chain % 10) + instants.unit()) / 10.0 } else { instants.unit() / 3.0 };
            let args = unbroken.next_args(&name).await;
            let killed_at = Instant::now() + unbroken.took.mul_f64(life_frac);
            let mut child = unbroken.scene.start(&args);
            std::thread::sleep(killed_at.saturating_duration_since(Instant::now()));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert_sound(&unbroken.scene.path(&name), &format!("{name}, turn {turn}")).await;
            if let Some(code) = status.code() {
                assert_eq!(code, 0, "{name}: ended by itself after kill {turn}");
                break;
            }
            kills += 1;
        }
        unbroken.finish(&name).await;
        unbroken.assert_same(&name).await;
        chain += 1;
        assert!(chain < wanted, "processes end before they are killed");
    }
    eprintln!("{kills} kills in {chain} chains; one run takes {:?}", unbroken.took);
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_leave_no_trace() {
    let unbroken = Unbroken::new().await;
    kill(&unbroken, KILLS).await;
    // What is done is left as it is.
    let again = unbroken.scene.resume("chain-0");
    succeed(&again);
    assert!(String::from_utf8_lossy(&again.stderr).contains("done"), "{again:?}");
    unbroken.assert_same("chain-0").await;
}

/// A step that draws further problems until its groups have a signal, which those with a cached solution have.
#[tokio::test(flavor = "multi_thread")]
async fn kills_leave_no_trace_in_dynamic_sampling() {
    let more = ["run.algorithm=dapo", "run.problems_per_step=4", "replay.enabled=true", "curriculum.filter=false"];
    let unbroken = Unbroken::of(&more).await;
    let extended = "select cast(count(*) as real) from step where problem_count > 4";
    assert!(content_of(&unbroken.scene.database("unbroken"), extended).await > 0.0, "no step drew further problems");
    kill(&unbroken, 15).await;
}

/// Trees whose nodes got their children in several portions, trained on in the next step and read back after a kill.
#[tokio::test(flavor = "multi_thread")]
async fn kills_leave_no_trace_with_lazy_siblings() {
    let more = ["search.siblings=lazy", "search.refill_width=1", "curriculum.filter=false"];
    let unbroken = Unbroken::of(&more).await;
    kill(&unbroken, 6).await;
}

/// How a phase of a run shows from outside, in the run's folder.
#[derive(Clone, Copy)]
enum Sign {
    /// Something there has a name that begins like this.
    Named(&'static str),
    /// This is there, whole.
    Whole(&'static str),
    /// The database says yes.
    Says(&'static str),
}

/// In order. `first-moment` is before the handlers of signals are there, `start-up` while the model is loaded; `update` begins
/// with the last tree of step 2, `publish` and `checkpoint` with the folder that is being written, `evaluation` with the end
/// of the checkpoint.
const PHASES: [(&str, Sign); 9] = [
    ("first-moment", Sign::Whole("")),
    ("start-up", Sign::Named("run-1/weights")),
    ("first-weights", Sign::Named("run-1/weights/v000000")),
    ("filter", Sign::Says("select count(*) > 3 from round_problem where round_id = 1 and sample_count is not null")),
    ("search", Sign::Says("select count(*) > 3 from tree where step_id = 2")),
    (
        "update",
        Sign::Says("select count(*) = (select problem_count from step where step_id = 2) from tree where step_id = 2"),
    ),
    ("publish", Sign::Named("run-1/weights/v000002")),
    ("checkpoint", Sign::Named("run-1/checkpoints/step-000002")),
    ("evaluation", Sign::Whole("run-1/checkpoints/step-000002")),
];

impl Sign {
    async fn is_there(self, folder: &Path) -> bool {
        match self {
            Sign::Named(start) => {
                let (parent, start) = start.rsplit_once('/').unwrap_or(("", start));
                let mut entries = std::fs::read_dir(folder.join(parent)).into_iter().flatten().flatten();
                entries.any(|entry| entry.file_name().to_string_lossy().starts_with(start))
            }
            Sign::Whole(path) => folder.join(path).exists(),
            Sign::Says(sql) => {
                let options = SqliteConnectOptions::new().filename(folder.join("orchestrator.sqlite")).read_only(true);
                let Ok(mut database) = SqliteConnection::connect_with(&options).await else { return false };
                // It may not be made yet.
                sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap_or(false)
            }
        }
    }
}

/// SIGTERM as a supervisor sends it, and SIGINT as a person does, in each phase: the run ends soon and in good order, says so,
/// and goes on as if nothing had happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_in_any_phase_ends_the_run_in_good_order() {
    let unbroken = Unbroken::new().await;
    for (at, (name, sign)) in PHASES.into_iter().enumerate() {
        let signal = if at % 2 == 0 { Signal::SIGTERM } else { Signal::SIGINT };
        let mut child = unbroken.scene.start(&unbroken.begin(name));
        let folder = unbroken.scene.path(name);
        let started = Instant::now();
        while !sign.is_there(&folder).await {
            assert!(child.try_wait().unwrap().is_none(), "{name}: the run was over first");
            assert!(started.elapsed() < 20 * unbroken.took + Duration::from_secs(60), "{name} did not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
        let status = end(&mut child, signal, name);
        assert!(at == 0 || status.code() == Some(130), "{name}: {status}");
        let database = unbroken.scene.database(name);
        succeed(&scene::orchestrator().args(["db", "check"]).arg(&folder).output().unwrap());
        let interrupted = "select cast(count(*) as real) from run where status = 'interrupted'";
        if at == 0 {
            // There is no run yet.
            unbroken.finish(name).await;
        } else {
            assert_eq!(content_of(&database, interrupted).await, 1.0, "{name}: the run says how it ended");
            // And once more on the way back to where it was.
            let mut child = unbroken.scene.start(&unbroken.scene.resume_args(name));
            std::thread::sleep(unbroken.took.mul_f64(0.15));
            end(&mut child, Signal::SIGTERM, name);
            unbroken.finish(name).await;
        }
        unbroken.assert_same(name).await;
    }
}

/// Sends a signal and waits for the end that it asks for: 130, or, in the first moment of a process, by the signal itself.
fn end(child: &mut Child, signal: Signal, name: &str) -> ExitStatus {
    let sent = Instant::now();
    nix::sys::signal::kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    while child.try_wait().unwrap().is_none() {
        assert!(sent.elapsed() < GRACE, "{name}: still there {} s after {signal}", GRACE.as_secs());
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = child.wait().unwrap();
    assert!(status.code() == Some(130) || status.signal() == Some(signal as i32), "{name}: {status}");
    eprintln!("{name}: {signal}, {status} after {:.2} s", sent.elapsed().as_secs_f64());
    status
}

/// Who asks twice is not kept waiting, and loses nothing either.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_leaves_at_once() {
    let unbroken = Unbroken::new().await;
    let mut child = unbroken.scene.start(&unbroken.begin("twice"));
    while !unbroken.checkpoints("twice").join("step-000002").exists() {
        assert!(child.try_wait().unwrap().is_none(), "over before it was signalled");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    end(&mut child, Signal::SIGINT, "twice");
    unbroken.finish("twice").await;
    unbroken.assert_same("twice").await;
}

fn largest_file(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_checkpoint_is_named_and_the_one_before_is_used() {
    type Damage = fn(&Path);
    let unbroken = Unbroken::new().await;
    let damages: [(&str, Damage); 3] = [
        ("truncated", |newest| {
            let file = std::fs::File::options().write(true).open(largest_file(newest)).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("flipped", |newest| {
            let path = largest_file(newest);
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }),
        ("deleted", |newest| std::fs::remove_file(largest_file(newest)).unwrap()),
    ];
    for (name, damage) in damages {
        unbroken.killed_after_checkpoint(name).await;
        damage(&unbroken.checkpoints(name).join("step-000004"));
        let output = unbroken.finish(name).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let is_named = stderr.lines().any(|line| line.contains("warning") && line.contains("step-000004"));
        assert!(is_named, "{name}: nothing names the checkpoint\n{stderr}");
        assert!(stderr.contains("from the checkpoint of step 2"), "{name}:\n{stderr}");
        unbroken.assert_same(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_checkpoints_all_updates_are_repeated() {
    let unbroken = Unbroken::new().await;
    unbroken.killed_after_checkpoint("bare").await;
    std::fs::remove_dir_all(unbroken.checkpoints("bare")).unwrap();
    let output = unbroken.finish("bare").await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("from the model it began with"), "{stderr}");
    unbroken.assert_same("bare").await;
}

/// A limit on the size of files stands for a disk that is full: writes beyond it fail. Three quarters of the weights, of
/// a checkpoint and of the database: whatever is written first is refused, each time something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_run_and_room_lets_it_go_on() {
    let unbroken = Unbroken::new().await;
    let size = |path: &Path| path.metadata().unwrap().len();
    let checkpoint = largest_file(&unbroken.checkpoints("unbroken").join("step-000004"));
    let limits = [
        ("weights", unbroken.weights.len() as u64),
        ("checkpoint", size(&checkpoint)),
        ("database", size(&unbroken.scene.database("unbroken"))),
    ];
    for (name, bytes) in limits {
        // In units of 512 bytes. Without the trap the first such write would kill the process.
        let blocks = (bytes * 3 / 4 / 512).to_string();
        let script = "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"";
        let mut command = unbroken.scene.at_home(Command::new("/bin/sh"));
        command.args(["-c", script, "sh", &blocks, env!("CARGO_BIN_EXE_orchestrator")]);
        let output = command.args(unbroken.begin(name)).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{name}: the environment is at fault\n{stderr}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{name}:\n{stderr}");
        assert!(!stderr.contains("panicked"), "{name}:\n{stderr}");
        assert_sound(&unbroken.scene.path(name), &format!("{name}, full")).await;
        unbroken.finish(name).await;
        unbroken.assert_same(name).await;
    }
}
