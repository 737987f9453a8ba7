//! Listings and one tree of the fixture run, as text (snapshots at two widths) and as JSON.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/snapshot.rs"]
mod snapshot;
#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use orchestrator::report::*;
use orchestrator::store::{NodeRow, RunRow, StepSummary, Store, TreeFilter};
use orchestrator::types::{StepId, TreeId, Verdict, WeightVersion};
use support::*;

/// The rows without the clock's part in them.
async fn runs(store: &Store) -> Vec<RunRow> {
    let mut runs = store.reader().runs().await.unwrap();
    for run in &mut runs {
        run.created_at_ms = 1_767_225_600_000;
        run.ended_at_ms = Some(1_767_225_600_000 + 754_321);
    }
    runs
}

async fn steps(store: &Store, made: &Fixture) -> Vec<StepSummary> {
    store.reader().steps(made.run).await.unwrap()
}

#[tokio::test]
async fn listings_read_well_wide_and_narrow() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let reader = store.reader();
    let (runs, steps) = (runs(&store).await, steps(&store, &made).await);
    let trees = reader.trees(TreeFilter::of(made.run)).await.unwrap();
    let weights = reader.weight_history(made.run).await.unwrap();
    let tokens = reader.token_use(made.run).await.unwrap();
    let mut text = String::new();
    for width in [140, 50] {
        for (name, table) in [
            ("runs", runs_table(&runs, width)),
            ("steps", steps_table(&steps, width)),
            ("trees", trees_table(&trees, width)),
            ("weights", weights_table(&weights, width)),
            ("tokens", token_use_table(&tokens, width)),
        ] {
            let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{name} takes {widest} of {width} columns:\n{table}");
            text.push_str(&format!("{name} in {width} columns\n\n{table}\n"));
        }
    }
    text.push_str(&mistakes_text(&reader.confident_mistakes(made.run, 10).await.unwrap()));
    snapshot::check("listings.txt", &text);
    assert_eq!(runs_table(&[], 80), "");
}

#[tokio::test]
async fn a_tree_is_drawn() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let mut text = String::new();
    for (tree, width, only_paths) in [(0, 140, false), (0, 140, true), (0, 60, false), (2, 100, false)] {
        let report = tree_report(store.reader(), made.trees[tree]).await.unwrap().unwrap();
        text.push_str(&tree_text(&report, TreeStyle { width, only_paths }));
        text.push_str("\n---\n\n");
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "a control character got through");
    snapshot::check("tree.txt", &text);
    assert_eq!(tree_report(store.reader(), TreeId(99)).await.unwrap(), None);
}

#[tokio::test]
async fn a_deep_tree_keeps_its_figures_in_view() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let mut nodes: Vec<NodeRow> = vec![root()];
    for id in 1..=64 {
        let parent = nodes[id as usize - 1].clone();
        nodes.push(node(id, &parent, &format!("{}.1", parent.tag), 1, "so ", 1));
    }
    let last = nodes.pop().unwrap();
    nodes.push(judged(last, Verdict::NoAnswer, -1.0));
    let path: Vec<u32> = (1..=64).collect();
    let trajectories = vec![trajectory(&path, Verdict::NoAnswer, 0.5, 64)];
    let tree =
        store.record_tree(new_tree(made.run, 3, 0, made.problems[0]), nodes, trajectories, vec![]).await.unwrap();
    let report = tree_report(store.reader(), tree).await.unwrap().unwrap();
    let text = tree_text(&report, TreeStyle { width: 80, only_paths: false });
    let table: Vec<&str> = text.lines().skip_while(|line| !line.contains("q_total")).collect();
    assert_eq!(table.len(), 66);
    assert!(table.iter().all(|line| line.chars().count() <= 80), "{text}");
    assert!(table[65].contains("no_answer") && table[65].contains("-1.000"), "{}", table[65]);
}

#[tokio::test]
async fn uct_is_that_of_the_rules() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let report = tree_report(store.reader(), made.trees[0]).await.unwrap().unwrap();
    let uct: Vec<Option<f64>> = report.nodes.iter().map(|node| node.uct).collect();
    // Root: 2 visits. Node 1: q 0.5 over 2 visits. Node 2: q 0 over 1 visit. 3 and 4 are terminal.
    let ln2 = std::f64::consts::LN_2;
    assert_eq!(uct, [None, Some(0.25 + 2.0 * (ln2 / 2.0).sqrt()), Some(2.0 * ln2.sqrt()), None, None]);
    assert_eq!(report.nodes.iter().map(|node| node.q_mean).collect::<Vec<_>>(), [0.1, 0.25, 0.0, 1.0, -1.0]);
    let through: Vec<&[u32]> = report.nodes.iter().map(|node| node.trajectories.as_slice()).collect();
    assert_eq!(through, [&[][..], &[0, 1], &[], &[1], &[0]]);
}

#[tokio::test]
async fn everything_listed_is_also_json() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let reader = store.reader();
    let report = tree_report(reader, made.trees[0]).await.unwrap().unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["tree"]["status"], "complete");
    assert_eq!(json["nodes"][1]["tag"], "0.1");
    assert_eq!(json["nodes"][1]["selection"]["kind"], "uct_child");
    assert_eq!(json["nodes"][3]["verdict"], "correct");
    assert_eq!(json["nodes"][3]["finish_reason"], "stop");
    assert_eq!(json["trajectories"][1]["path"], serde_json::json!([1, 3]));
    assert_eq!(json["trajectories"][1]["provenance"], "search");

    let json = serde_json::to_value(runs(&store).await).unwrap();
    assert_eq!((&json[0]["status"], &json[0]["seed"]), (&"running".into(), &u64::MAX.into()));
    let json = serde_json::to_value(steps(&store, &made).await).unwrap();
    assert_eq!((&json[0]["status"], &json[2]["loss"]), (&"done".into(), &serde_json::Value::Null));
    let json = serde_json::to_value(reader.tree(made.trees[2]).await.unwrap()).unwrap();
    assert_eq!((&json["status"], &json["error"]), (&"failed".into(), &"the prompt is too long".into()));
    let json = serde_json::to_value(reader.weight_version(made.run, WeightVersion(1)).await.unwrap()).unwrap();
    assert_eq!(json["weight_version"], serde_json::json!(WeightVersion(1)));
    let json = serde_json::to_value(reader.step_slots(made.run, StepId(1)).await.unwrap()).unwrap();
    assert_eq!((&json[2]["slot"], &json[2]["kind"]), (&2.into(), &"search".into()));
}
