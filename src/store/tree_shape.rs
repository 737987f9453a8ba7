//! One tree as it is drawn: its nodes without texts, and the texts of some of them.

use serde::Serialize;

use super::codec::{Cells, Named, logprobs_from_blob, tokens_from_blob};
use super::tree::{NodeContent, SelectionKind};
use super::{Reader, StoreError};
use crate::types::{FinishReason, NodeId, TreeId, Verdict};

/// A tree's nodes without texts, column by column: node `i` is the `i`-th of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeColumns {
    /// Parents; `None` for the root.
    pub parent: Vec<Option<u32>>,
    /// Visits.
    pub visits: Vec<u32>,
    /// Backed-up sums.
    pub q_total: Vec<f64>,
    /// Mean -logprob of the node's own tokens, in nats.
    pub entropy_nats: Vec<Option<f64>>,
    /// Own tokens.
    pub token_count: Vec<u32>,
    /// Why the engine stopped.
    pub finish_reason: Vec<Option<&'static str>>,
    /// Whether it ends a response.
    pub is_terminal: Vec<bool>,
    /// What the verifier said.
    pub verdict: Vec<Option<Verdict>>,
    /// The weights that sampled it.
    pub weight_version: Vec<Option<u64>>,
    /// When it was chosen for the last time, counted in selections.
    pub selected_order: Vec<Option<u32>>,
    /// By which rule.
    pub selected_kind: Vec<Option<&'static str>>,
    /// With which score.
    pub selected_score: Vec<Option<f64>>,
    /// Whether its text was kept.
    pub is_kept: Vec<bool>,
}

pub(super) const NODE_COLUMNS: &str = "
    select n.parent_node_id, n.visits, n.q_total, n.entropy_nats, n.token_count, n.finish_reason, n.is_terminal,
           n.verdict, n.weight_version, n.selected_order, n.selected_kind, n.selected_score,
           exists (select 1 from node_content c where c.tree_id = n.tree_id and c.node_id = n.node_id) as is_kept
    from node n
    where n.tree_id = ?
    order by n.node_id";

pub(super) const NODE_PATH: &str = "
    with recursive path (node_id, parent_node_id) as (
        select node_id, parent_node_id from node where tree_id = ?1 and node_id = ?2
        union all
        select n.node_id, n.parent_node_id
        from path p
        join node n on n.tree_id = ?1 and n.node_id = p.parent_node_id
    )
    select p.node_id, c.tokens, c.logprobs, c.text
    from path p
    left join node_content c on c.tree_id = ?1 and c.node_id = p.node_id
    order by p.node_id";

pub(super) const KEPT_CONTENT: &str =
    "select node_id, tokens, logprobs, text from node_content where tree_id = ? order by node_id";

impl Reader {
    /// The nodes of a tree without texts.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn node_columns(&self, tree: TreeId) -> Result<NodeColumns, StoreError> {
        let mut columns = NodeColumns::default();
        for node in self.all(sqlx::query(NODE_COLUMNS).bind(tree.0), node_cells).await? {
            columns.push(node);
        }
        Ok(columns)
    }

    /// The nodes from the root to `node` with what was kept of them; empty if there is no such node.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn node_path(
        &self,
        tree: TreeId,
        node: NodeId,
    ) -> Result<Vec<(NodeId, Option<NodeContent>)>, StoreError> {
        self.all(sqlx::query(NODE_PATH).bind(tree.0).bind(node.0), node_content).await
    }

    /// The nodes of a tree whose texts were kept.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn kept_content(&self, tree: TreeId) -> Result<Vec<(NodeId, Option<NodeContent>)>, StoreError> {
        self.all(sqlx::query(KEPT_CONTENT).bind(tree.0), node_content).await
    }
}

/// A row of [`NODE_COLUMNS`].
struct NodeCells {
    parent: Option<u32>,
    visits: u32,
    q_total: f64,
    entropy_nats: Option<f64>,
    token_count: u32,
    finish_reason: Option<FinishReason>,
    is_terminal: bool,
    verdict: Option<Verdict>,
    weight_version: Option<u64>,
    selected_order: Option<u32>,
    selected_kind: Option<SelectionKind>,
    selected_score: Option<f64>,
    is_kept: bool,
}

fn node_cells(row: &Cells<'_>) -> Result<NodeCells, StoreError> {
    Ok(NodeCells {
        parent: row.int_option("parent_node_id")?,
        visits: row.int("visits")?,
        q_total: row.get("q_total")?,
        entropy_nats: row.get("entropy_nats")?,
        token_count: row.int("token_count")?,
        finish_reason: row.name_option("finish_reason")?,
        is_terminal: row.get("is_terminal")?,
        verdict: row.name_option("verdict")?,
        weight_version: row.int_option("weight_version")?,
        selected_order: row.int_option("selected_order")?,
        selected_kind: row.name_option("selected_kind")?,
        selected_score: row.get("selected_score")?,
        is_kept: row.get("is_kept")?,
    })
}

impl NodeColumns {
    fn push(&mut self, node: NodeCells) {
        self.parent.push(node.parent);
        self.visits.push(node.visits);
        self.q_total.push(node.q_total);
        self.entropy_nats.push(node.entropy_nats);
        self.token_count.push(node.token_count);
        self.finish_reason.push(node.finish_reason.map(Named::name));
        self.is_terminal.push(node.is_terminal);
        self.verdict.push(node.verdict);
        self.weight_version.push(node.weight_version);
        self.selected_order.push(node.selected_order);
        self.selected_kind.push(node.selected_kind.map(SelectionKind::as_str));
        self.selected_score.push(node.selected_score);
        self.is_kept.push(node.is_kept);
    }
}

fn node_content(row: &Cells<'_>) -> Result<(NodeId, Option<NodeContent>), StoreError> {
    let content = match row.get::<Option<&[u8]>>("tokens")? {
        Some(tokens) => Some(NodeContent {
            tokens: tokens_from_blob(tokens),
            logprobs: row.get::<Option<&[u8]>>("logprobs")?.map(logprobs_from_blob),
            text: row.get("text")?,
        }),
        None => None,
    };
    Ok((NodeId(row.int("node_id")?), content))
}
