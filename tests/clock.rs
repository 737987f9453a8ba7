//! The wall clock jumps while a run works: hours forward, hours back. Durations come from the monotonic clock, and nothing
//! is ordered by what the wall clock says, so nothing but the times that are written down may differ.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/scene.rs"]
mod scene;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scene::{Engine, Scene, assert_same, content_in_any_order, content_of, succeed};

/// Where the wall clock may be read: to write down when something was, to show how long ago that is, and to see whether a file may
/// still change within the same tick.
const READERS: [&str; 5] = ["store/codec.rs", "store/stamp.rs", "cli/watch.rs", "serve/router.rs", "serve/api.rs"];

/// In place of the C library's: the wall clock is another one at every call, from nine hours ago to nine hours ahead. The
/// monotonic clocks pass.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_long calls;

static long jump(void) {
    long call = atomic_fetch_add(&calls, 1);
    return ((call * 7919) % 19 - 9) * 3600;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
"#;

/// The shim as a library, built by the compiler that also builds the bindings of libtorch.
fn shim(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    std::fs::write(&source, SHIM).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    succeed(&built.unwrap_or_else(|error| panic!("no C compiler `cc`: {error}")));
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_changes_nothing_but_the_times_written_down() {
    let sets = [
        "run.checkpoint_every=2",
        "curriculum.rounds=2",
        "curriculum.filter=true",
        "curriculum.filter_samples=2",
        "curriculum.max_pass_rate=1.0",
        "eval.every=2",
        "eval.samples=2",
    ];
    let scene = Scene::new(Engine::Embedded, 4, &sets);
    let held_out = format!("eval.problems={}", scene.make_problems("held_out.jsonl", 4, 6).display());
    succeed(&scene.run("steady", &[&held_out]));
    let library = tempfile::tempdir().unwrap();
    let library = shim(library.path()).into_os_string();
    let under_it = |args: &[String]| {
        let mut command = scene.at_home(scene::orchestrator());
        command.env("LD_PRELOAD", &library).args(args);
        command
    };
    // In two parts, so that the way back to where it was is walked under it, too.
    let mut child = under_it(&scene.run_args("jumping", &[&held_out])).spawn().unwrap();
    let checkpoint = scene.path("jumping/run-1/checkpoints/step-000002");
    let started = Instant::now();
    while !checkpoint.exists() {
        assert!(child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(300), "no checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    succeed(&under_it(&scene.resume_args("jumping")).output().unwrap());

    let database = scene.database("jumping");
    let backwards = "select cast(count(*) as real) from (select created_at_ms - lag(created_at_ms) over (order by tree_id) as \
                     passed from tree) where passed < -3600000";
    assert!(content_of(&database, backwards).await > 0.0, "the clock did not jump back");
    let mut contents = Vec::new();
    for name in ["steady", "jumping"] {
        let mut content = content_in_any_order(&scene.database(name)).await;
        content.retain(|table, _| table != "run_status" && table != "run_event");
        contents.push(content);
    }
    assert_same(&contents[0], &contents[1], "jumping");
    assert!(scene.weights("steady") == scene.weights("jumping"), "the weights differ");
    // What reads it back shows times that may be nonsense, and nothing else happens.
    for command in [vec!["db", "check"], vec!["report"], vec!["watch", "--once"]] {
        let args: Vec<String> =
            command.iter().map(ToString::to_string).chain([scene.path("jumping").display().to_string()]).collect();
        succeed(&under_it(&args).output().unwrap());
    }
    let negative = "select cast(count(*) as real) from metric where name like '%\\_s' escape '\\' and value < 0";
    assert_eq!(content_of(&database, negative).await, 0.0, "durations come from the monotonic clock");
}

/// Every `.rs` and `.sql` file below `folder`, with its path.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            found.extend(sources(&path));
        } else if matches!(extension, Some("rs" | "sql")) {
            found.push((path.clone(), std::fs::read_to_string(path).unwrap()));
        }
    }
    found
}

#[test]
fn the_wall_clock_is_read_in_few_places_and_orders_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, sql) = (sources(&root.join("src")), sources(&root.join("migrations")));
    assert!(code.len() > 100 && sql.len() > 3, "{} and {} files", code.len(), sql.len());
    for (path, text) in &code {
        let is_reader = READERS.iter().any(|reader| path.ends_with(reader));
        assert!(is_reader || !text.contains("SystemTime::now"), "`{}` reads the wall clock", path.display());
    }
    for (path, text) in code.iter().chain(&sql) {
        let text = text.to_lowercase();
        for clause in text.split("order by").skip(1) {
            let clause = &clause[..clause.find([';', ')', '"']).unwrap_or(clause.len())];
            assert!(!clause.contains("_at_ms"), "`{}` orders by the wall clock: {clause}", path.display());
        }
        for word in ["max(", "min("] {
            let mut calls = text.split(word).skip(1).map(|rest| rest.split(')').next().unwrap_or_default());
            let wrong = calls.find(|argument| argument.contains("_at_ms") && !argument.contains('|'));
            assert!(wrong.is_none(), "`{}` takes the latest by the wall clock: {wrong:?}", path.display());
        }
    }
}
