//! Rows of `tree`, `node`, `node_content`, `trajectory` and `trajectory_node`: one transaction per finished tree.

use serde::Serialize;
use sqlx::QueryBuilder;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Named, int, logprobs_to_blob, now_ms, serialize_name, serialize_name_option, tokens_to_blob};
use super::solution::{self, NewSolution};
use super::step;
use super::writer::Write;
use super::{Store, StoreError};
use crate::config::Rules;
use crate::types::{
    Defect, FinishReason, NodeId, ProblemId, Provenance, RunId, SolutionId, StepId, TokenId, TreeId, TreeKind, Verdict,
    WeightVersion,
};

/// How a tree ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum TreeStatus {
    /// It has all its trajectories.
    Complete,
    /// No node was left to expand.
    Exhausted,
    /// Expansions, tokens or time were spent.
    Budget,
    /// The search could not go on.
    Failed {
        /// Why, for a person.
        error: String,
    },
}

impl TreeStatus {
    /// The name used in SQL and JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            TreeStatus::Complete => "complete",
            TreeStatus::Exhausted => "exhausted",
            TreeStatus::Budget => "budget",
            TreeStatus::Failed { .. } => "failed",
        }
    }
}

/// A tree that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTree {
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: StepId,
    /// Place in the step's batch.
    pub slot: u32,
    /// The problem.
    pub problem: ProblemId,
    /// How its trajectories came about.
    pub kind: TreeKind,
    /// Rule set of the search.
    pub rules: Rules,
    /// lambda of UCT.
    pub uct_lambda: f64,
    /// How it ended.
    pub status: TreeStatus,
    /// Seed of its random stream.
    pub seed: u64,
    /// Expansions asked of the engine.
    pub expansion_count: u32,
    /// Tokens sampled for it, dropped ones included.
    pub generated_tokens: u64,
    /// From the first want to the end, in milliseconds.
    pub wall_ms: u64,
}

/// Why the search chose a node for expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectionKind {
    /// The best child of the node just expanded, by UCT.
    UctChild,
    /// The best child of the root, by UCT.
    UctRoot,
    /// The best node of the whole tree, by frontier score.
    Global,
    /// As `Global`, because all children were terminal.
    Fallback,
}

impl Named for SelectionKind {
    const ALL: &'static [Self] =
        &[SelectionKind::UctChild, SelectionKind::UctRoot, SelectionKind::Global, SelectionKind::Fallback];

    fn name(self) -> &'static str {
        match self {
            SelectionKind::UctChild => "uct_child",
            SelectionKind::UctRoot => "uct_root",
            SelectionKind::Global => "global",
            SelectionKind::Fallback => "fallback",
        }
    }
}

impl SelectionKind {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        self.name()
    }
}

/// When and why the search chose a node for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Selection {
    /// Count of expansions of the tree before it.
    pub order: u32,
    /// By which rule.
    #[serde(serialize_with = "serialize_name")]
    pub kind: SelectionKind,
    /// Its score under that rule.
    pub score: Option<f64>,
    /// What the score was made of; the parts that are there add up to it.
    pub parts: ScoreParts,
}

/// The parts of a score. `None` where one does not take part, or was not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ScoreParts {
    /// Of values: the node's own under UCT, its parent's in the frontier's score.
    pub value: Option<f64>,
    /// Of being little visited: UCT only.
    pub exploration: Option<f64>,
    /// Of the policy's entropy.
    pub entropy: Option<f64>,
    /// Of the depth: frontier only.
    pub depth: Option<f64>,
}

/// Tokens and text of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeContent {
    /// Token ids, `[T]`; the prompt's for the root.
    pub tokens: Vec<TokenId>,
    /// Logprobs, `[T]`, in nats, NaN where the engine gave none; `None` for the root.
    pub logprobs: Option<Vec<f32>>,
    /// The part of the decoded text that belongs to these tokens; the texts along a path join to the whole.
    pub text: String,
}

/// One node. Node `i` of a tree is the `i`-th row; node 0 is the prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeRow {
    /// Its index in the tree.
    pub node_id: NodeId,
    /// Its parent; `None` for the root.
    pub parent_node_id: Option<NodeId>,
    /// `0` for the root, `T.k` for the k-th child of `T`, k from 1.
    pub tag: String,
    /// 0 for the root.
    pub depth: u32,
    /// Visits.
    pub visits: u32,
    /// Backed-up sum.
    pub q_total: f64,
    /// Mean -logprob of its own tokens, in nats.
    pub entropy_nats: Option<f64>,
    /// Number of its own tokens.
    pub token_count: u32,
    /// Why the engine stopped; `None` for the root.
    #[serde(serialize_with = "serialize_name_option")]
    pub finish_reason: Option<FinishReason>,
    /// It ends a response.
    pub is_terminal: bool,
    /// What the verifier said, where it was asked.
    pub verdict: Option<Verdict>,
    /// The weights that sampled it; `None` for the root.
    pub weight_version: Option<WeightVersion>,
    /// When the search chose it; `None` if never.
    pub selection: Option<Selection>,
    /// Tokens and text; always there for the root and for nodes on a trajectory.
    pub content: Option<NodeContent>,
}

/// One trajectory. Trajectory `i` of a tree is the `i`-th that was backed up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrajectoryRow {
    /// Its nodes from depth 1 to the leaf; never empty.
    pub path: Vec<NodeId>,
    /// What the verifier said of the leaf.
    pub verdict: Verdict,
    /// The leaf's reward.
    pub reward: f64,
    /// Mean -logprob over all sampled tokens of the path, in nats.
    pub entropy_nats: Option<f64>,
    /// Sampled tokens on the path.
    pub response_tokens: u32,
    /// Where it came from.
    #[serde(serialize_with = "serialize_name")]
    pub provenance: Provenance,
    /// What makes its text unfit for training.
    pub defect: Option<Defect>,
    /// The kept solution that it is; `None` if it was sampled in this tree.
    pub solution: Option<SolutionId>,
}

impl Store {
    /// Records a finished tree with everything that belongs to it.
    ///
    /// # Errors
    /// The slot is taken ([`StoreError::TreeExists`]), the rows do not fit together ([`StoreError::BadTree`]), the step is
    /// not running, or the database cannot be written. In each case nothing of the tree is kept.
    pub async fn record_tree(
        &self,
        tree: NewTree,
        nodes: Vec<NodeRow>,
        trajectories: Vec<TrajectoryRow>,
        solutions: Vec<NewSolution>,
    ) -> Result<TreeId, StoreError> {
        check(&nodes, &trajectories)?;
        self.write(RecordTree { tree, nodes, trajectories, solutions }).await
    }
}

/// What the schema cannot say of a tree's rows.
fn check(nodes: &[NodeRow], trajectories: &[TrajectoryRow]) -> Result<(), StoreError> {
    let bad = |reason: String| Err(StoreError::BadTree { reason });
    for (index, node) in nodes.iter().enumerate() {
        if node.node_id.index() != index {
            return bad(format!("node `{}` is row `{index}`", node.node_id));
        }
        let parent_depth = node.parent_node_id.and_then(|parent| nodes.get(parent.index())).map(|parent| parent.depth);
        if parent_depth.is_some_and(|depth| depth + 1 != node.depth) {
            return bad(format!("node `{}` at depth `{}` is not one below its parent", node.tag, node.depth));
        }
        if let Some(content) = &node.content
            && content.tokens.len() != node.token_count as usize
        {
            return bad(format!("node `{}` has `{}` tokens of `{}`", node.tag, content.tokens.len(), node.token_count));
        }
    }
    for (ordinal, trajectory) in trajectories.iter().enumerate() {
        if trajectory.path.is_empty() {
            return bad(format!("trajectory `{ordinal}` is empty"));
        }
        let mut above = NodeId::ROOT;
        for id in &trajectory.path {
            let Some(node) = nodes.get(id.index()).filter(|node| node.parent_node_id == Some(above)) else {
                return bad(format!(
                    "trajectory `{ordinal}` goes from node `{above}` to `{id}`, which is no child of it"
                ));
            };
            if node.content.is_none() {
                return bad(format!("node `{}` is on trajectory `{ordinal}` but comes without tokens", node.tag));
            }
            above = *id;
        }
    }
    Ok(())
}

/// Rows per insert statement. Each statement is a round trip to the connection's thread, which costs more than a row: with
/// 1 row per statement 43 trees/s, with 64 rows 263 (medians of 5 and 10 runs of the throughput test on 2 busy cores).
pub(super) const ROWS_PER_INSERT: usize = 64;

struct RecordTree {
    tree: NewTree,
    nodes: Vec<NodeRow>,
    trajectories: Vec<TrajectoryRow>,
    solutions: Vec<NewSolution>,
}

impl Write for RecordTree {
    type Output = TreeId;

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<TreeId, StoreError> {
        step::require_running(conn, self.tree.run, self.tree.step).await?;
        let id = self.insert_tree(conn).await?;
        insert_nodes(conn, id, &self.nodes).await?;
        insert_contents(conn, id, &self.nodes).await?;
        insert_trajectories(conn, id, &self.trajectories).await?;
        solution::insert(conn, self.tree.run, self.tree.problem, Some(id), &self.solutions).await?;
        Ok(id)
    }
}

impl RecordTree {
    /// Which nodes are on a trajectory that `is_meant`.
    fn on_paths(&self, is_meant: impl Fn(&TrajectoryRow) -> bool) -> Vec<bool> {
        let mut on_path = vec![false; self.nodes.len()];
        for id in self.trajectories.iter().filter(|row| is_meant(row)).flat_map(|row| &row.path) {
            if let Some(mark) = on_path.get_mut(id.index()) {
                *mark = true;
            }
        }
        on_path
    }

    /// The nodes that were sampled in this tree: all but those that only a kept solution brought.
    fn sampled_nodes(&self) -> impl Iterator<Item = &NodeRow> {
        let cached = self.on_paths(|row| row.provenance == Provenance::Cached);
        let sampled = self.on_paths(|row| row.provenance != Provenance::Cached);
        let nodes = self.nodes.iter().zip(cached.into_iter().zip(sampled));
        nodes.filter(|(_, (cached, sampled))| *sampled || !cached).map(|(node, _)| node)
    }

    /// The weights that sampled the tree's own nodes. Those of a kept solution may be older, or none of this run.
    fn sampled_versions(&self) -> Vec<WeightVersion> {
        self.sampled_nodes().filter_map(|node| node.weight_version).collect()
    }

    /// Tokens of the nodes on any trajectory, each node once.
    fn trajectory_tokens(&self) -> u64 {
        self.nodes
            .iter()
            .zip(self.on_paths(|_| true))
            .filter(|(_, on_path)| *on_path)
            .map(|(node, _)| u64::from(node.token_count))
            .sum()
    }

    async fn insert_tree(&self, conn: &mut SqliteConnection) -> Result<TreeId, StoreError> {
        let tree = &self.tree;
        // A kept solution is no merit of the policy.
        let is_solved = self.sampled_nodes().any(|node| node.verdict == Some(Verdict::Correct));
        let versions = self.sampled_versions();
        let error = match &tree.status {
            TreeStatus::Failed { error } => Some(error),
            _ => None,
        };
        let inserted = sqlx::query_scalar(
            "insert into tree (run_id, step_id, slot, problem_id, kind, rules, uct_lambda, status, error, seed,
                               expansion_count, generated_tokens, node_count, trajectory_tokens, is_solved, wall_ms,
                               weight_version_min, weight_version_max, created_at_ms)
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             returning tree_id",
        )
        .bind(tree.run.0)
        .bind(tree.step.0)
        .bind(tree.slot)
        .bind(tree.problem.0)
        .bind(tree.kind.name())
        .bind(tree.rules.name())
        .bind(tree.uct_lambda)
        .bind(tree.status.as_str())
        .bind(error)
        .bind(tree.seed.to_string())
        .bind(tree.expansion_count)
        .bind(int(tree.generated_tokens))
        .bind(self.nodes.len() as i64)
        .bind(int(self.trajectory_tokens()))
        .bind(is_solved)
        .bind(int(tree.wall_ms))
        .bind(versions.iter().min().map(|version| int(version.0)))
        .bind(versions.iter().max().map(|version| int(version.0)))
        .bind(now_ms())
        .fetch_one(conn)
        .await
        .map_err(StoreError::from);
        match inserted {
            Ok(id) => Ok(TreeId(id)),
            Err(error) if error.constraint() == Some("tree.run_id, tree.step_id, tree.slot") => {
                Err(StoreError::TreeExists { run: tree.run, step: tree.step, slot: tree.slot })
            }
            Err(error) => Err(error),
        }
    }
}

async fn insert_nodes(conn: &mut SqliteConnection, tree: TreeId, nodes: &[NodeRow]) -> Result<(), StoreError> {
    for rows in nodes.chunks(ROWS_PER_INSERT) {
        QueryBuilder::new(
            "insert into node (tree_id, node_id, parent_node_id, tag, depth, visits, q_total, entropy_nats, token_count,
                               finish_reason, is_terminal, verdict, weight_version, selected_order, selected_kind,
                               selected_score, selected_value, selected_exploration, selected_entropy,
                               selected_depth) ",
        )
        .push_values(rows, |mut row, node| {
            row.push_bind(tree.0)
                .push_bind(node.node_id.0)
                .push_bind(node.parent_node_id.map(|parent| parent.0))
                .push_bind(&node.tag)
                .push_bind(node.depth)
                .push_bind(node.visits)
                .push_bind(node.q_total)
                .push_bind(node.entropy_nats)
                .push_bind(node.token_count)
                .push_bind(node.finish_reason.map(Named::name))
                .push_bind(node.is_terminal)
                .push_bind(node.verdict.map(Named::name))
                .push_bind(node.weight_version.map(|version| int(version.0)))
                .push_bind(node.selection.map(|selection| selection.order))
                .push_bind(node.selection.map(|selection| selection.kind.name()))
                .push_bind(node.selection.and_then(|selection| selection.score))
                .push_bind(node.selection.and_then(|selection| selection.parts.value))
                .push_bind(node.selection.and_then(|selection| selection.parts.exploration))
                .push_bind(node.selection.and_then(|selection| selection.parts.entropy))
                .push_bind(node.selection.and_then(|selection| selection.parts.depth));
        })
        .build()
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

async fn insert_contents(conn: &mut SqliteConnection, tree: TreeId, nodes: &[NodeRow]) -> Result<(), StoreError> {
    let contents: Vec<_> = nodes.iter().filter_map(|node| Some((node.node_id, node.content.as_ref()?))).collect();
    for rows in contents.chunks(ROWS_PER_INSERT) {
        QueryBuilder::new("insert into node_content (tree_id, node_id, tokens, logprobs, text) ")
            .push_values(rows, |mut row, (node, content)| {
                row.push_bind(tree.0)
                    .push_bind(node.0)
                    .push_bind(tokens_to_blob(&content.tokens))
                    .push_bind(content.logprobs.as_deref().map(logprobs_to_blob))
                    .push_bind(&content.text);
            })
            .build()
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn insert_trajectories(
    conn: &mut SqliteConnection,
    tree: TreeId,
    trajectories: &[TrajectoryRow],
) -> Result<(), StoreError> {
    let numbered: Vec<_> = trajectories.iter().enumerate().map(|(ordinal, row)| (ordinal as i64, row)).collect();
    for rows in numbered.chunks(ROWS_PER_INSERT) {
        QueryBuilder::new(
            "insert into trajectory (tree_id, ordinal, leaf_node_id, verdict, reward, entropy_nats, response_tokens,
                                     provenance, defect, solution_id) ",
        )
        .push_values(rows, |mut row, (ordinal, trajectory)| {
            row.push_bind(tree.0)
                .push_bind(ordinal)
                .push_bind(trajectory.path.last().map(|leaf| leaf.0))
                .push_bind(trajectory.verdict.name())
                .push_bind(trajectory.reward)
                .push_bind(trajectory.entropy_nats)
                .push_bind(trajectory.response_tokens)
                .push_bind(trajectory.provenance.name())
                .push_bind(trajectory.defect.map(Named::name))
                .push_bind(trajectory.solution.map(|solution| solution.0));
        })
        .build()
        .execute(&mut *conn)
        .await?;
    }
    let places: Vec<_> = numbered
        .iter()
        .flat_map(|(ordinal, row)| row.path.iter().zip(1_i64..).map(move |(node, depth)| (*ordinal, depth, node.0)))
        .collect();
    for rows in places.chunks(ROWS_PER_INSERT) {
        QueryBuilder::new("insert into trajectory_node (tree_id, ordinal, depth, node_id) ")
            .push_values(rows, |mut row, (ordinal, depth, node)| {
                row.push_bind(tree.0).push_bind(ordinal).push_bind(depth).push_bind(node);
            })
            .build()
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
