//! How large the database of a run becomes: the figures of `docs/sql.md`, measured on trees of the paper's shape.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use std::collections::BTreeSet;

use orchestrator::store::{DropText, NodeContent, NodeRow, Prune, StepEnd, TrajectoryRow};
use orchestrator::types::{NodeId, StepId, Verdict};
use support::*;

const WIDTH: u32 = 8;
const STEP_TOKENS: u32 = 256;
/// Responses of some 8,000 tokens.
const DEPTH: u32 = 32;
const TRAJECTORIES: usize = 8;
/// Three tokens.
const TEXT: &str = "so that x+1";
const TREES: u32 = 4;

/// Of such a tree.
const NODES: usize = 1377;
const ON_PATHS: usize = 179;

/// A trunk of half the depth, from which each trajectory goes its own way; every node on a path has all its siblings. Nodes on
/// paths have tokens and text, the others if `all` do.
fn papers_tree(all: bool) -> (Vec<NodeRow>, Vec<TrajectoryRow>) {
    let mut nodes = vec![root()];
    let mut expand = |parent: u32| -> u32 {
        let above = nodes[parent as usize].clone();
        let first = nodes.len() as u32;
        for child in 0..WIDTH {
            let tag = format!("{}.{}", above.tag, child + 1);
            nodes.push(node(first + child, &above, &tag, STEP_TOKENS, "", 0));
        }
        first
    };
    let mut trunk = vec![];
    let mut at = 0;
    for _ in 0..DEPTH / 2 {
        at = expand(at);
        trunk.push(at);
    }
    let mut paths = Vec::new();
    for fork in (0..trunk.len()).rev().take(TRAJECTORIES) {
        // The second of the siblings leaves the trunk.
        let mut path = trunk[..fork].to_vec();
        path.push(trunk[fork] + 1);
        while path.len() < DEPTH as usize {
            path.push(expand(path[path.len() - 1]));
        }
        paths.push(path);
    }
    let on_path: BTreeSet<u32> = paths.iter().flatten().copied().collect();
    for row in &mut nodes[1..] {
        row.content = (all || on_path.contains(&row.node_id.0)).then(|| NodeContent {
            tokens: (0..STEP_TOKENS).collect(),
            logprobs: Some(vec![-0.5; STEP_TOKENS as usize]),
            text: TEXT.repeat(STEP_TOKENS as usize / 3),
        });
    }
    for path in &paths {
        let leaf = path[path.len() - 1] as usize;
        nodes[leaf] = judged(nodes[leaf].clone(), Verdict::Incorrect, -1.0);
    }
    let trajectories =
        paths.iter().map(|path| trajectory(path, Verdict::Incorrect, 0.25, DEPTH * STEP_TOKENS)).collect();
    (nodes, trajectories)
}

/// What is kept of the texts.
#[derive(Clone, Copy, PartialEq)]
enum Keep {
    All,
    Trained,
    None,
}

/// Bytes per tree.
async fn measured(keep: Keep) -> f64 {
    let (_folder, store) = fresh().await;
    let run = store.create_run(new_run()).await.unwrap();
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    let problems = store.insert_problems(vec![new_problem("a", "1 + 1", "2")]).await.unwrap();
    store.begin_step(new_step(run, 1, &[problems[0]; TREES as usize])).await.unwrap();
    for slot in 0..TREES {
        let (nodes, trajectories) = papers_tree(keep == Keep::All);
        store.record_tree(new_tree(run, 1, slot, problems[0]), nodes, trajectories, vec![]).await.unwrap();
    }
    if keep == Keep::None {
        let end = StepEnd { update_skip_reason: Some("none".into()), ..StepEnd::default() };
        store.finish_step(run, StepId(1), end, vec![]).await.unwrap();
        let prune = Prune { run, after: StepId(0), until: StepId(1), text: DropText::AllButPrompts, logprobs: false };
        let promised = store.reader().prunable(prune).await.unwrap();
        assert_eq!(store.prune(prune).await.unwrap(), promised);
        assert_eq!(promised.node_count, u64::from(TREES) * ON_PATHS as u64);
    }
    store.reader().size().await.unwrap().tree_bytes_mean.unwrap()
}

#[tokio::test]
async fn a_tree_takes_what_the_page_says() {
    let (all, trained, none) = (measured(Keep::All).await, measured(Keep::Trained).await, measured(Keep::None).await);
    let (nodes, trajectories) = papers_tree(false);
    let nodes = nodes.len();
    let on_path: BTreeSet<NodeId> = trajectories.iter().flat_map(|row| row.path.clone()).collect();
    let per_node = none / nodes as f64;
    let per_content = (all - none) / (nodes - 1) as f64;
    eprintln!(
        "{nodes} nodes, {} on paths: {all:.0} bytes with all texts, {trained:.0} with the trained ones, {none:.0} without; \
         {per_node:.0} per node, {per_content:.0} per text",
        on_path.len()
    );
    let bytes_of_content = f64::from(STEP_TOKENS) * (4.0 + 4.0) + (TEXT.len() as u32 * (STEP_TOKENS / 3)) as f64;
    assert_eq!((nodes, on_path.len()), (NODES, ON_PATHS), "the tree of the page");
    assert!(per_node < 160.0, "{per_node} bytes per node");
    assert!(per_content < 1.45 * bytes_of_content, "{per_content} bytes per text of {bytes_of_content}");
    let expected = none + per_content * on_path.len() as f64;
    assert!((trained - expected).abs() < 0.1 * expected, "{trained}, by the parts {expected}");
}
