//! Many writers at once, and a process that is killed while it writes.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use orchestrator::store::{NewStep, Reader, Store, TreeFilter};
use orchestrator::types::{ProblemId, RunId, StepId, TreeId};
use support::*;

/// Set for the process that is to be killed: its database.
const VICTIM: &str = "ORCHESTRATOR_TEST_VICTIM_DATABASE";

const NODES: u32 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_tasks_write_while_readers_read() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (reader, over) = (store.reader().clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let (mut reads, mut seen) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    let trees =
                        reader.trees(TreeFilter { step: Some(StepId(3)), ..TreeFilter::of(made.run) }).await.unwrap();
                    assert!(trees.len() >= seen, "a tree went away");
                    seen = trees.len();
                    // A tree that is listed is there with all its nodes.
                    if let Some(tree) = trees.first() {
                        assert_eq!(reader.nodes(tree.tree_id).await.unwrap().len() as u32, tree.node_count);
                    }
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let writers: Vec<_> = (0..50)
        .map(|task| {
            let (store, problem) = (store.clone(), made.problems[task as usize % 3]);
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for slot in [task * 2, task * 2 + 1] {
                    let (nodes, trajectories) = bulk_tree(NODES, 8);
                    let tree = new_tree(made.run, 3, slot, problem);
                    ids.push((slot, store.record_tree(tree, nodes, trajectories, vec![]).await.unwrap()));
                }
                ids
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "a reader was kept waiting by the writers");
    }
    acknowledged.sort();
    let recorded = store.reader().recorded_trees(made.run, StepId(3)).await.unwrap();
    assert_eq!(recorded.iter().map(|tree| (tree.slot, tree.tree_id)).collect::<Vec<_>>(), acknowledged);
    store.close().await.unwrap();
}

/// Kills a writing process at five different instants, one after the other, on the same database.
#[test]
fn a_killed_process_leaves_every_acknowledged_tree_whole_and_once() {
    if let Some(path) = std::env::var_os(VICTIM) {
        return write_until_killed(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut acknowledged: Vec<(i64, i64)> = Vec::new();
    for extra_us in [0, 700, 1900, 4300, 9100] {
        acknowledged.extend(run_victim(&path, 12, Duration::from_micros(extra_us)));
        runtime.block_on(check_after_kill(&path, &acknowledged));
    }
    assert!(acknowledged.len() >= 60);
}

/// Starts the victim, waits for `count` acknowledgements and a little more, kills it; returns (slot, tree) of every
/// acknowledgement it had sent.
fn run_victim(path: &Path, count: usize, extra: Duration) -> Vec<(i64, i64)> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_leaves_every_acknowledged_tree_whole_and_once", "--nocapture"])
        .env(VICTIM, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let mut parse = |line: String| {
        // The test harness prints lines of its own.
        let Some((slot, tree)) = line.strip_prefix("tree ").and_then(|rest| rest.split_once(' ')) else { return };
        // Only the last line can be cut off.
        if let (Ok(slot), Some(tree)) = (slot.parse(), tree.strip_suffix('.')) {
            acknowledged.push((slot, tree.parse().unwrap()));
        }
    };
    let mut seen = 0;
    while seen < count {
        let line = lines.next().expect("the victim ended by itself").unwrap();
        seen += usize::from(line.starts_with("tree "));
        parse(line);
    }
    let killed_at = Instant::now() + extra;
    while Instant::now() < killed_at {
        std::thread::yield_now();
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    lines.map_while(Result::ok).for_each(parse);
    acknowledged
}

/// Several tasks record trees without end; each says so on stdout once it is acknowledged.
fn write_until_killed(path: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(path).await.unwrap();
        let (run, problem) = take_up(&store).await;
        let first = store.reader().recorded_trees(run, StepId(1)).await.unwrap().last().map_or(0, |row| row.slot + 1);
        let tasks: Vec<_> = (0..4)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    for turn in 0.. {
                        let slot = first + turn * 4 + task;
                        let (nodes, trajectories) = bulk_tree(NODES, 16);
                        let tree = new_tree(run, 1, slot, problem);
                        let id = store.record_tree(tree, nodes, trajectories, vec![]).await.unwrap();
                        let line = format!("tree {slot} {id}.\n");
                        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn take_up(store: &Store) -> (RunId, ProblemId) {
    let run = match store.reader().latest_run().await.unwrap() {
        Some(run) => run.run_id,
        None => store.create_run(new_run()).await.unwrap(),
    };
    let problem = store.insert_problems(vec![new_problem("add-1", "What is 1 + 1?", "2")]).await.unwrap()[0];
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    if store.reader().unfinished_steps(run).await.unwrap().is_empty() {
        let slots = (0..1000).map(|slot| new_slot(slot, problem)).collect();
        store.begin_step(NewStep { slots, ..new_step(run, 1, &[]) }).await.unwrap();
    }
    (run, problem)
}

async fn check_after_kill(path: &Path, acknowledged: &[(i64, i64)]) {
    // A mere reader sees it too, before a writer has put the log in order.
    let reader = Reader::open(path).await.unwrap();
    let listed = reader.recorded_trees(RunId(1), StepId(1)).await.unwrap().len();
    assert!(listed >= acknowledged.len(), "{listed} of {}", acknowledged.len());
    let store = Store::open(path).await.unwrap();
    let run = store.reader().latest_run().await.unwrap().unwrap().run_id;
    let recorded = store.reader().recorded_trees(run, StepId(1)).await.unwrap();
    for (slot, tree) in acknowledged {
        let rows = recorded.iter().filter(|row| i64::from(row.slot) == *slot).collect::<Vec<_>>();
        assert_eq!(rows.len(), 1, "slot {slot} is there {} times", rows.len());
        assert_eq!(rows[0].tree_id, TreeId(*tree));
    }
    for row in &recorded {
        let tree = store.reader().tree(row.tree_id).await.unwrap().unwrap();
        let nodes = store.reader().nodes(row.tree_id).await.unwrap();
        assert_eq!((tree.node_count, nodes.len() as u32), (NODES, NODES));
        assert!(nodes.iter().all(|node| node.content.is_some()));
        let (_, expected) = bulk_tree(NODES, 16);
        assert_eq!(store.reader().trajectories(row.tree_id).await.unwrap(), expected);
    }
    store.close().await.unwrap();
}

/// The only assertion is that every tree arrives; the figure is for the reader of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_of_trees_of_200_nodes_with_32_tokens() {
    const TREES: u32 = 200;
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let (nodes, trajectories) = bulk_tree(200, 32);
    let begun = Instant::now();
    let writes = (0..TREES).map(|slot| {
        let tree = new_tree(made.run, 3, slot, made.problems[0]);
        store.record_tree(tree, nodes.clone(), trajectories.clone(), vec![])
    });
    let results = futures_util::future::join_all(writes).await;
    let elapsed = begun.elapsed();
    assert!(results.iter().all(Result::is_ok));
    println!("{:.0} trees/s of 200 nodes with 32 tokens each", f64::from(TREES) / elapsed.as_secs_f64());
}
