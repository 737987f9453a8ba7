//! A finished tree becomes a group of trajectories for the trainer.

use std::collections::BTreeMap;

use crate::types::{GroupNode, NodeId, ProblemId, Prompt, Provenance, Trajectory, TrajectoryGroup, TreeId};

use super::Tree;
use super::node::NodeRef;

/// The trajectories of `tree` in the order of their backups, and each node on any of them once, with its q_total as it
/// stands. A tree without trajectories gives an empty group. A path without a usable logprob has a NaN entropy; one
/// whose continuations were all empty has no tokens.
pub fn harvest(tree: &Tree, problem: ProblemId, tree_id: Option<TreeId>, prompt: Prompt) -> TrajectoryGroup {
    let mut positions: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut nodes: Vec<GroupNode> = Vec::new();
    let mut trajectories = Vec::with_capacity(tree.trajectories().len());
    for leaf in tree.trajectories().iter().filter_map(|&leaf| tree.node(leaf)) {
        let (Some(verdict), Some(reward)) = (leaf.verdict(), leaf.reward()) else { continue };
        let mut path = Vec::with_capacity(leaf.depth() as usize);
        let mut parent = None;
        for node in tree.path(leaf.id()).into_iter().filter_map(|node| tree.node(node)) {
            let position = *positions.entry(node.id()).or_insert_with(|| {
                nodes.push(group_node(node, parent));
                nodes.len() - 1
            });
            path.push(position);
            parent = Some(position);
        }
        trajectories.push(Trajectory {
            path,
            verdict,
            reward,
            entropy_nats: leaf.path_entropy_nats().unwrap_or(f64::NAN),
            response_tokens: usize::try_from(leaf.path_tokens_count()).unwrap_or(usize::MAX),
            provenance: Provenance::Search,
            // Search sees no text; the caller does.
            defect: None,
        });
    }
    TrajectoryGroup { problem, tree: tree_id, prompt, nodes, trajectories }
}

fn group_node(node: NodeRef<'_>, parent: Option<usize>) -> GroupNode {
    GroupNode {
        node: node.id(),
        parent,
        depth: node.depth(),
        tokens: node.tokens().to_vec(),
        logprobs: node.logprobs().to_vec(),
        weight_version: node.weight_version().unwrap_or(crate::types::WeightVersion::INITIAL),
        q_total: node.q_total(),
    }
}
