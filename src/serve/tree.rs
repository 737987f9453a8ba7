//! One tree as the page draws it.

use serde_json::{Value, json};

use super::ServeError;
use crate::store::{Reader, TreeFilter, TreePageFilter};
use crate::types::TreeId;

/// Other trees of the same problem that a tree can be compared with.
const SIBLINGS: u32 = 100;

/// A tree, its problem, its nodes column by column, its trajectories, and the other trees of the problem; `None` if the
/// run has no such tree.
///
/// # Errors
/// The database cannot be read.
pub async fn tree(reader: &Reader, run: crate::types::RunId, tree: TreeId) -> Result<Option<Value>, ServeError> {
    let Some(row) = reader.tree(tree).await?.filter(|row| row.run_id == run) else { return Ok(None) };
    let problem = reader.problem(row.problem_id).await?;
    let nodes = reader.node_columns(tree).await?;
    let trajectories = reader.trajectories(tree).await?;
    let same = TreeFilter { problem: Some(row.problem_id), limit: Some(SIBLINGS), ..TreeFilter::of(run) };
    let siblings: Vec<Value> = reader
        .tree_page(TreePageFilter::of(same))
        .await?
        .trees
        .iter()
        .filter(|item| item.tree.tree_id != tree)
        .map(|item| {
            json!({
                "tree_id": item.tree.tree_id, "step_id": item.tree.step_id, "kind": item.tree.kind.as_str(),
                "is_solved": item.tree.is_solved, "node_count": item.tree.node_count,
            })
        })
        .collect();
    Ok(Some(json!({
        "tree": row, "problem": problem, "nodes": nodes, "trajectories": trajectories, "siblings": siblings,
    })))
}
