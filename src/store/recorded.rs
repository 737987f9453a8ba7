//! Recorded trees as the trainer wants them: a step that was cut off trains on them as if it had never stopped.

use std::collections::BTreeMap;

use super::codec::{Cells, logprobs_from_blob, tokens_from_blob};
use super::tree::{TrajectoryRow, TreeStatus};
use super::tree_read::tree_status;
use super::{Reader, StoreError};
use crate::types::{
    GroupNode, NodeId, ProblemId, Prompt, RunId, StepId, Trajectory, TrajectoryGroup, TreeId, TreeKind, WeightVersion,
};

/// A tree that a resumed step need not grow again.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedTree {
    /// The tree.
    pub tree_id: TreeId,
    /// Place in the step's batch.
    pub slot: u32,
    /// How its trajectories came about.
    pub kind: TreeKind,
    /// How it ended.
    pub status: TreeStatus,
    /// Tokens sampled for it.
    pub generated_tokens: u64,
    /// Time from its first request to its end.
    pub wall_ms: u64,
    /// Sampled nodes with a settled verdict: the leaves of kept solutions are not among them.
    pub terminals: u32,
    /// Of these, the ones with the verdict `correct`.
    pub correct_terminals: u32,
    /// Its trajectories, equal in every field to what was recorded: nodes in the order in which the trajectories, one
    /// after the other, come to them.
    pub group: TrajectoryGroup,
}

pub(super) const RECORDED_TREES: &str = "
    select t.tree_id, t.slot, t.kind, t.problem_id, t.status, t.error, t.generated_tokens, t.wall_ms,
           (
               select count(*)
               from node n
               where n.tree_id = t.tree_id and n.verdict in ('correct', 'incorrect', 'no_answer')
           ) - (
               select count(*) from trajectory j where j.tree_id = t.tree_id and j.provenance = 'cached'
           ) as terminals,
           (select count(*) from node n where n.tree_id = t.tree_id and n.verdict = 'correct') - (
               select count(*)
               from trajectory j
               where j.tree_id = t.tree_id and j.provenance = 'cached' and j.verdict = 'correct'
           ) as correct_terminals
    from tree t
    where t.run_id = ? and t.step_id = ?
    order by t.slot";

pub(super) const GROUP_NODES: &str = "
    select n.node_id, n.depth, n.q_total, n.weight_version, c.tokens, c.logprobs, c.text
    from node n
    join node_content c on c.tree_id = n.tree_id and c.node_id = n.node_id
    where n.tree_id = ?
    order by n.node_id";

pub(super) const MEAN_SEARCH_TOKENS: &str = "
    select avg(generated_tokens) as mean_tokens
    from tree
    where run_id = ? and step_id < ? and kind = 'search' and status <> 'failed'";

/// What `run.keep_text` and `run.keep_logprobs` are about.
pub(super) const CONTENT: &str = "content of node";

impl Reader {
    /// The recorded trees of a step, by slot.
    ///
    /// # Errors
    /// The database cannot be read, or holds a tree whose rows do not fit together.
    pub async fn recorded_trees(&self, run: RunId, step: StepId) -> Result<Vec<RecordedTree>, StoreError> {
        let mut trees = self.all(sqlx::query(RECORDED_TREES).bind(run.0).bind(step.0), recorded_row).await?;
        for tree in &mut trees {
            let nodes = self.all(sqlx::query(GROUP_NODES).bind(tree.tree_id.0), stored_node).await?;
            let rows = self.trajectories(tree.tree_id).await?;
            fill(&mut tree.group, tree.tree_id, nodes, rows)?;
        }
        Ok(trees)
    }

    /// Mean number of tokens sampled per tree search in the steps before `before`, failed ones left out; `None` if there
    /// was none. View `replay_use` has the same figure.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn mean_search_tokens(&self, run: RunId, before: StepId) -> Result<Option<f64>, StoreError> {
        let query = sqlx::query(MEAN_SEARCH_TOKENS).bind(run.0).bind(before.0);
        let mean = self.optional(query, |row| row.get::<Option<f64>>("mean_tokens")).await?;
        Ok(mean.flatten())
    }
}

/// A tree whose group still lacks prompt, nodes and trajectories.
fn recorded_row(row: &Cells<'_>) -> Result<RecordedTree, StoreError> {
    let tree_id = TreeId(row.get("tree_id")?);
    Ok(RecordedTree {
        tree_id,
        slot: row.int("slot")?,
        kind: row.name("kind")?,
        status: tree_status(row)?,
        generated_tokens: row.int("generated_tokens")?,
        wall_ms: row.int("wall_ms")?,
        terminals: row.int("terminals")?,
        correct_terminals: row.int("correct_terminals")?,
        group: TrajectoryGroup {
            problem: ProblemId(row.get("problem_id")?),
            tree: Some(tree_id),
            prompt: Prompt { tokens: Vec::new().into(), text: String::new().into() },
            nodes: Vec::new(),
            trajectories: Vec::new(),
        },
    })
}

struct StoredNode {
    node: GroupNode,
    text: String,
}

fn stored_node(row: &Cells<'_>) -> Result<StoredNode, StoreError> {
    Ok(StoredNode {
        node: GroupNode {
            node: NodeId(row.int("node_id")?),
            parent: None,
            depth: row.int("depth")?,
            tokens: tokens_from_blob(row.get("tokens")?),
            logprobs: row.get::<Option<&[u8]>>("logprobs")?.map(logprobs_from_blob).unwrap_or_default(),
            weight_version: WeightVersion(row.int_option("weight_version")?.unwrap_or_default()),
            q_total: row.get("q_total")?,
        },
        text: row.get("text")?,
    })
}

fn fill(
    group: &mut TrajectoryGroup,
    tree: TreeId,
    nodes: Vec<StoredNode>,
    rows: Vec<TrajectoryRow>,
) -> Result<(), StoreError> {
    let missing = |node: NodeId| StoreError::NotFound { what: CONTENT, id: format!("{node} of tree {tree}") };
    let mut nodes: BTreeMap<NodeId, StoredNode> = nodes.into_iter().map(|stored| (stored.node.node, stored)).collect();
    let root = nodes.remove(&NodeId::ROOT).ok_or_else(|| missing(NodeId::ROOT))?;
    group.prompt = Prompt { tokens: root.node.tokens.into(), text: root.text.into() };
    let mut positions: BTreeMap<NodeId, usize> = BTreeMap::new();
    for row in rows {
        let mut path = Vec::with_capacity(row.path.len());
        for id in &row.path {
            let position = match positions.get(id) {
                Some(position) => *position,
                None => {
                    let stored = nodes.remove(id).ok_or_else(|| missing(*id))?;
                    // Logprobs may have been dropped alone.
                    if stored.node.logprobs.len() != stored.node.tokens.len() {
                        return Err(missing(*id));
                    }
                    group.nodes.push(GroupNode { parent: path.last().copied(), ..stored.node });
                    positions.insert(*id, group.nodes.len() - 1);
                    group.nodes.len() - 1
                }
            };
            path.push(position);
        }
        let entropy_nats = row.entropy_nats.unwrap_or_else(|| not_finite_entropy(group, &path));
        group.trajectories.push(Trajectory {
            path,
            verdict: row.verdict,
            reward: row.reward,
            entropy_nats,
            response_tokens: row.response_tokens as usize,
            provenance: row.provenance,
            defect: row.defect,
        });
    }
    Ok(())
}

/// An entropy that was not finite is stored as null; which one it was follows from the logprobs it is the mean of.
fn not_finite_entropy(group: &TrajectoryGroup, path: &[usize]) -> f64 {
    let mut logprobs = path.iter().filter_map(|&index| group.nodes.get(index)).flat_map(|node| &node.logprobs);
    if logprobs.any(|logprob| *logprob == f32::NEG_INFINITY) { f64::INFINITY } else { f64::NAN }
}
