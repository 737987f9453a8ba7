//! Reading trees back, for people. What a resume needs is in `recorded`.

use serde::Serialize;

use super::codec::{Cells, logprobs_from_blob, serialize_name, tokens_from_blob};
use super::tree::{NodeContent, NodeRow, ScoreParts, Selection, TrajectoryRow, TreeStatus};
use super::{Reader, StoreError};
use crate::config::Rules;
use crate::types::{NodeId, ProblemId, RoundId, RunId, SolutionId, StepId, TreeId, TreeKind, Verdict, WeightVersion};

/// Which trees to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeFilter {
    /// Of this run.
    pub run: RunId,
    /// Only this step.
    pub step: Option<StepId>,
    /// Only this problem.
    pub problem: Option<ProblemId>,
    /// Only trees grown in this way.
    pub kind: Option<TreeKind>,
    /// Only solved, or only unsolved trees.
    pub is_solved: Option<bool>,
    /// Only trees with a trajectory of this verdict.
    pub verdict: Option<Verdict>,
    /// At most so many.
    pub limit: Option<u32>,
}

impl TreeFilter {
    /// All trees of a run.
    pub fn of(run: RunId) -> TreeFilter {
        TreeFilter { run, step: None, problem: None, kind: None, is_solved: None, verdict: None, limit: None }
    }

    /// For SQLite, to which a negative limit is none.
    pub(super) fn limit(&self) -> i64 {
        self.limit.map_or(-1, i64::from)
    }
}

/// A tree, without its nodes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TreeRow {
    /// Its number.
    pub tree_id: TreeId,
    /// The run.
    pub run_id: RunId,
    /// The round.
    pub round_id: RoundId,
    /// The step.
    pub step_id: StepId,
    /// Place in the step's batch.
    pub slot: u32,
    /// How its trajectories came about.
    #[serde(serialize_with = "serialize_name")]
    pub kind: TreeKind,
    /// The problem.
    pub problem_id: ProblemId,
    /// The problem's `id` in its own file.
    pub problem_name: String,
    /// Rule set of the search.
    pub rules: Rules,
    /// lambda of UCT.
    pub uct_lambda: f64,
    /// How it ended.
    #[serde(flatten)]
    pub status: TreeStatus,
    /// Seed of its random stream.
    pub seed: u64,
    /// Expansions asked of the engine.
    pub expansion_count: u32,
    /// Tokens sampled for it.
    pub generated_tokens: u64,
    /// Its nodes, the root included.
    pub node_count: u32,
    /// Tokens of the nodes on any trajectory, each node once.
    pub trajectory_tokens: u64,
    /// Its trajectories.
    pub trajectory_count: u32,
    /// A correct terminal was found.
    pub is_solved: bool,
    /// Time it took.
    pub wall_ms: u64,
    /// The oldest weights that sampled a node.
    pub weight_version_min: Option<WeightVersion>,
    /// The newest weights that sampled a node.
    pub weight_version_max: Option<WeightVersion>,
    /// When it was recorded.
    pub created_at_ms: i64,
}

// Bounds instead of `?2 is null or step_id = ?2`, so that the index on (run_id, step_id, slot) is used.
pub(super) const TREES: &str = "
    select tree_id, run_id, round_id, step_id, slot, kind, problem_id, problem_name, rules, uct_lambda, status, error,
           seed, expansion_count, generated_tokens, node_count, trajectory_tokens, trajectory_count, is_solved, wall_ms,
           weight_version_min, weight_version_max, created_at_ms
    from tree_summary t
    where run_id = ?1
      and step_id between ?2 and ?3
      and (?4 is null or problem_id = ?4)
      and (?5 is null or is_solved = ?5)
      and (?6 is null or exists (select 1 from trajectory j where j.tree_id = t.tree_id and j.verdict = ?6))
      and (?7 is null or kind = ?7)
    order by step_id desc, slot desc
    limit ?8";

pub(super) const TREE: &str = "
    select tree_id, run_id, round_id, step_id, slot, kind, problem_id, problem_name, rules, uct_lambda, status, error,
           seed, expansion_count, generated_tokens, node_count, trajectory_tokens, trajectory_count, is_solved, wall_ms,
           weight_version_min, weight_version_max, created_at_ms
    from tree_summary t
    where tree_id = ?";

pub(super) const TREE_IDS: &str = "select tree_id from tree where run_id = ? order by step_id, slot";

pub(super) const NODES: &str = "
    select n.node_id, n.parent_node_id, n.tag, n.depth, n.visits, n.q_total, n.entropy_nats, n.token_count,
           n.finish_reason, n.is_terminal, n.verdict, n.weight_version, n.selected_order, n.selected_kind,
           n.selected_score, n.selected_value, n.selected_exploration, n.selected_entropy, n.selected_depth,
           c.tokens, c.logprobs, c.text
    from node n
    left join node_content c on c.tree_id = n.tree_id and c.node_id = n.node_id
    where n.tree_id = ?
    order by n.node_id";

pub(super) const TRAJECTORIES: &str = "
    select j.verdict, j.reward, j.entropy_nats, j.response_tokens, j.provenance, j.defect, j.solution_id
    from trajectory j
    where j.tree_id = ?
    order by j.ordinal";

pub(super) const TRAJECTORY_NODES: &str =
    "select ordinal, node_id from trajectory_node where tree_id = ? order by ordinal, depth";

impl Reader {
    /// Trees, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn trees(&self, filter: TreeFilter) -> Result<Vec<TreeRow>, StoreError> {
        self.all(bound(TREES, &filter).bind(filter.limit()), tree_row).await
    }

    /// The trees of a run, oldest step first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn tree_ids(&self, run: RunId) -> Result<Vec<TreeId>, StoreError> {
        self.all(sqlx::query(TREE_IDS).bind(run.0), |row| Ok(TreeId(row.get("tree_id")?))).await
    }

    /// One tree, without its nodes.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn tree(&self, tree: TreeId) -> Result<Option<TreeRow>, StoreError> {
        self.optional(sqlx::query(TREE).bind(tree.0), tree_row).await
    }

    /// The nodes of a tree, in order, with the tokens and texts that were kept.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn nodes(&self, tree: TreeId) -> Result<Vec<NodeRow>, StoreError> {
        self.all(sqlx::query(NODES).bind(tree.0), node_row).await
    }

    /// The trajectories of a tree, in the order in which they were backed up.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn trajectories(&self, tree: TreeId) -> Result<Vec<TrajectoryRow>, StoreError> {
        let mut trajectories = self.all(sqlx::query(TRAJECTORIES).bind(tree.0), trajectory_row).await?;
        let steps: Vec<(usize, NodeId)> = self
            .all(sqlx::query(TRAJECTORY_NODES).bind(tree.0), |row| {
                Ok((row.int("ordinal")?, NodeId(row.int("node_id")?)))
            })
            .await?;
        for (ordinal, node) in steps {
            if let Some(trajectory) = trajectories.get_mut(ordinal) {
                trajectory.path.push(node);
            }
        }
        Ok(trajectories)
    }
}

/// A statement with what a filter says as its first seven parameters.
pub(super) fn bound<'q>(statement: &'static str, filter: &TreeFilter) -> super::Query<'q> {
    sqlx::query(statement)
        .bind(filter.run.0)
        .bind(filter.step.map_or(i64::MIN, |step| step.0))
        .bind(filter.step.map_or(i64::MAX, |step| step.0))
        .bind(filter.problem.map(|problem| problem.0))
        .bind(filter.is_solved)
        .bind(filter.verdict.map(Verdict::as_str))
        .bind(filter.kind.map(TreeKind::as_str))
}

/// The status of a tree with its error, from columns `status` and `error`.
pub(super) fn tree_status(row: &Cells<'_>) -> Result<TreeStatus, StoreError> {
    let status: String = row.get("status")?;
    let error: Option<String> = row.get("error")?;
    match status.as_str() {
        "complete" => Ok(TreeStatus::Complete),
        "exhausted" => Ok(TreeStatus::Exhausted),
        "budget" => Ok(TreeStatus::Budget),
        "failed" => Ok(TreeStatus::Failed { error: error.unwrap_or_default() }),
        _ => Err(StoreError::Value { column: "status", value: status }),
    }
}

pub(super) fn tree_row(row: &Cells<'_>) -> Result<TreeRow, StoreError> {
    Ok(TreeRow {
        tree_id: TreeId(row.get("tree_id")?),
        run_id: RunId(row.get("run_id")?),
        round_id: RoundId(row.get("round_id")?),
        step_id: StepId(row.get("step_id")?),
        slot: row.int("slot")?,
        kind: row.name("kind")?,
        problem_id: ProblemId(row.get("problem_id")?),
        problem_name: row.get("problem_name")?,
        rules: row.name("rules")?,
        uct_lambda: row.get("uct_lambda")?,
        status: tree_status(row)?,
        seed: row.seed("seed")?,
        expansion_count: row.int("expansion_count")?,
        generated_tokens: row.int("generated_tokens")?,
        node_count: row.int("node_count")?,
        trajectory_tokens: row.int("trajectory_tokens")?,
        trajectory_count: row.int("trajectory_count")?,
        is_solved: row.get("is_solved")?,
        wall_ms: row.int("wall_ms")?,
        weight_version_min: row.int_option("weight_version_min")?.map(WeightVersion),
        weight_version_max: row.int_option("weight_version_max")?.map(WeightVersion),
        created_at_ms: row.get("created_at_ms")?,
    })
}

fn node_row(row: &Cells<'_>) -> Result<NodeRow, StoreError> {
    let selection = match row.int_option("selected_order")? {
        Some(order) => Some(Selection {
            order,
            kind: row.name("selected_kind")?,
            score: row.get("selected_score")?,
            parts: ScoreParts {
                value: row.get("selected_value")?,
                exploration: row.get("selected_exploration")?,
                entropy: row.get("selected_entropy")?,
                depth: row.get("selected_depth")?,
            },
        }),
        None => None,
    };
    let content = match row.get::<Option<&[u8]>>("tokens")? {
        Some(tokens) => Some(NodeContent {
            tokens: tokens_from_blob(tokens),
            logprobs: row.get::<Option<&[u8]>>("logprobs")?.map(logprobs_from_blob),
            text: row.get("text")?,
        }),
        None => None,
    };
    Ok(NodeRow {
        node_id: NodeId(row.int("node_id")?),
        parent_node_id: row.int_option("parent_node_id")?.map(NodeId),
        tag: row.get("tag")?,
        depth: row.int("depth")?,
        visits: row.int("visits")?,
        q_total: row.get("q_total")?,
        entropy_nats: row.get("entropy_nats")?,
        token_count: row.int("token_count")?,
        finish_reason: row.name_option("finish_reason")?,
        is_terminal: row.get("is_terminal")?,
        verdict: row.name_option("verdict")?,
        weight_version: row.int_option("weight_version")?.map(WeightVersion),
        selection,
        content,
    })
}

fn trajectory_row(row: &Cells<'_>) -> Result<TrajectoryRow, StoreError> {
    Ok(TrajectoryRow {
        path: Vec::new(),
        verdict: row.name("verdict")?,
        reward: row.get("reward")?,
        entropy_nats: row.get("entropy_nats")?,
        response_tokens: row.int("response_tokens")?,
        provenance: row.name("provenance")?,
        defect: row.name_option("defect")?,
        solution: row.get::<Option<i64>>("solution_id")?.map(SolutionId),
    })
}
