//! One tree: as data, and drawn for a terminal.

use std::fmt::Write as _;

use serde::Serialize;

use super::listing::{Column, listing};
use super::table::{decimal, duration};
use super::text;
use crate::config::Rules;
use crate::store::{NodeRow, ProblemRow, Reader, StoreError, TrajectoryRow, TreeRow, TreeStatus};
use crate::types::{TreeId, WeightVersion};

/// A tree with everything that was kept of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TreeReport {
    /// The tree.
    pub tree: TreeRow,
    /// Its problem.
    pub problem: ProblemRow,
    /// Its nodes, in order.
    pub nodes: Vec<NodeReport>,
    /// Its trajectories, in the order in which they were backed up.
    pub trajectories: Vec<TrajectoryRow>,
}

/// A node with what follows from it and its parent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeReport {
    /// The node.
    #[serde(flatten)]
    pub node: NodeRow,
    /// q_total / visits, 0 without visits.
    pub q_mean: f64,
    /// UCT at the end of the search; `None` for the root, for terminals, which are never chosen, and under the paper's
    /// rules for nodes never visited, which come before all others.
    pub uct: Option<f64>,
    /// The trajectories that pass through it, by ordinal.
    pub trajectories: Vec<u32>,
}

/// How a tree is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeStyle {
    /// Columns of the terminal.
    pub width: usize,
    /// Leave out nodes on no trajectory, and count them.
    pub only_paths: bool,
}

/// Reads one tree; `None` if there is none of that number.
///
/// # Errors
/// The database cannot be read.
pub async fn tree_report(reader: &Reader, tree: TreeId) -> Result<Option<TreeReport>, StoreError> {
    let Some(tree) = reader.tree(tree).await? else { return Ok(None) };
    let Some(problem) = reader.problem(tree.problem_id).await? else {
        return Err(StoreError::NotFound { what: "problem", id: tree.problem_id.to_string() });
    };
    let trajectories = reader.trajectories(tree.tree_id).await?;
    let nodes = node_reports(reader.nodes(tree.tree_id).await?, &trajectories, &tree);
    Ok(Some(TreeReport { tree, problem, nodes, trajectories }))
}

fn node_reports(rows: Vec<NodeRow>, trajectories: &[TrajectoryRow], tree: &TreeRow) -> Vec<NodeReport> {
    let is_released = tree.rules == Rules::Released;
    let visits: Vec<u32> = rows.iter().map(|row| row.visits).collect();
    let mut nodes: Vec<NodeReport> = rows
        .into_iter()
        .map(|node| {
            let q_mean = if node.visits > 0 { node.q_total / f64::from(node.visits) } else { 0.0 };
            let parent = node.parent_node_id.and_then(|parent| visits.get(parent.index()));
            let uct = parent
                .filter(|_| !node.is_terminal)
                .filter(|_| is_released || node.visits > 0)
                .map(|parent| q_mean + tree.uct_lambda * exploration(*parent, node.visits));
            NodeReport { node, q_mean, uct, trajectories: Vec::new() }
        })
        .collect();
    for (ordinal, trajectory) in (0..).zip(trajectories) {
        for id in &trajectory.path {
            if let Some(node) = nodes.get_mut(id.index()) {
                node.trajectories.push(ordinal);
            }
        }
    }
    nodes
}

/// sqrt(ln N(parent) / N); 0 where either was never visited. DeepSearch (arXiv 2509.25454), section 3.2.
fn exploration(parent_visits: u32, visits: u32) -> f64 {
    if parent_visits == 0 || visits == 0 {
        return 0.0;
    }
    (f64::from(parent_visits).ln() / f64::from(visits)).sqrt()
}

/// A tree for the terminal: a few lines about it, then its nodes depth first. `#2` marks the leaf of trajectory 2, `*` a
/// node on some trajectory.
pub fn tree_text(report: &TreeReport, style: TreeStyle) -> String {
    let lines = drawn_lines(report, style);
    let node = |line: &Line| line.node.and_then(|index| report.nodes.get(index));
    let cells = |show: &dyn Fn(&NodeReport) -> String| -> Vec<String> {
        lines.iter().map(|line| node(line).map(show).unwrap_or_default()).collect()
    };
    let snippet = |line: &Line| match node(line) {
        Some(node) => node.node.content.as_ref().map_or("", |content| content.text.as_str()).to_owned(),
        None => line.note.clone(),
    };
    let texts: Vec<String> = lines.iter().map(snippet).collect();
    let columns = vec![
        Column::word("", 0, cells(&|node| mark(node, &report.trajectories))),
        Column::word("node", 0, lines.iter().map(|line| line.label.clone())),
        Column::number("UCT", 2, cells(&|node| decimal(node.uct))),
        Column::number("q_total", 0, cells(&|node| decimal(Some(node.node.q_total)))),
        Column::number("q_mean", 4, cells(&|node| decimal(Some(node.q_mean)))),
        Column::number("visits", 1, cells(&|node| node.node.visits.to_string())),
        Column::number("nats", 3, cells(&|node| decimal(node.node.entropy_nats))),
        Column::number("tokens", 5, cells(&|node| node.node.token_count.to_string())),
        Column::word("verdict", 0, cells(&verdict)),
        Column::word("chosen", 6, cells(&chosen)),
        Column::text("text", 1, texts.iter().map(String::as_str)),
    ];
    let heading: String = heading(report).lines().map(|line| text::cut(line, style.width) + "\n").collect();
    heading + "\n" + &listing(columns, style.width)
}

fn heading(report: &TreeReport) -> String {
    let tree = &report.tree;
    let version = |version: Option<WeightVersion>| match version {
        Some(version) => version.to_string(),
        None => "-".to_owned(),
    };
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "tree {} (run {}, step {}, slot {}): {}, {}",
        tree.tree_id,
        tree.run_id,
        tree.step_id,
        tree.slot,
        tree.status.as_str(),
        if tree.is_solved { "solved" } else { "not solved" }
    );
    if let TreeStatus::Failed { error } = &tree.status {
        let _ = writeln!(out, "error    {}", text::one_line(error));
    }
    let _ = writeln!(out, "problem  {}: {}", text::one_line(&tree.problem_name), text::one_line(&report.problem.text));
    let _ = writeln!(out, "answer   {}", text::one_line(&report.problem.answer));
    let _ = writeln!(
        out,
        "search   {} nodes, {} expansions, {} trajectories, {} tokens ({} on trajectories), {}",
        tree.node_count,
        tree.expansion_count,
        tree.trajectory_count,
        tree.generated_tokens,
        tree.trajectory_tokens,
        duration(Some(tree.wall_ms))
    );
    let _ = writeln!(
        out,
        "weights  {} to {}, lambda {}, seed {}",
        version(tree.weight_version_min),
        version(tree.weight_version_max),
        tree.uct_lambda,
        tree.seed
    );
    out
}

fn mark(node: &NodeReport, trajectories: &[TrajectoryRow]) -> String {
    let ends =
        |ordinal: &&u32| trajectories.get(**ordinal as usize).and_then(|t| t.path.last()) == Some(&node.node.node_id);
    match node.trajectories.iter().find(ends) {
        Some(ordinal) => format!("#{ordinal}"),
        None if node.trajectories.is_empty() => String::new(),
        None => "*".to_owned(),
    }
}

fn verdict(node: &NodeReport) -> String {
    match node.node.verdict {
        Some(verdict) => verdict.as_str().to_owned(),
        None if node.node.is_terminal => "not judged".to_owned(),
        None => String::new(),
    }
}

fn chosen(node: &NodeReport) -> String {
    node.node.selection.map(|chosen| format!("{} {}", chosen.order, chosen.kind.as_str())).unwrap_or_default()
}

/// A line of the drawing: a node, or a note on nodes left out.
struct Line {
    node: Option<usize>,
    label: String,
    note: String,
}

/// The nodes to draw, depth first, with their branches. Iterative: a tree is as deep as it likes.
fn drawn_lines(report: &TreeReport, style: TreeStyle) -> Vec<Line> {
    // Labels may take this much, so that the figures of deep nodes stay in view.
    let label_width = (style.width / 3).max(12);
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); report.nodes.len()];
    let mut hidden: Vec<usize> = vec![0; report.nodes.len()];
    for (index, node) in report.nodes.iter().enumerate() {
        let Some(parent) = node.node.parent_node_id.map(|parent| parent.index()) else { continue };
        if style.only_paths && node.trajectories.is_empty() {
            if let Some(count) = hidden.get_mut(parent) {
                *count += 1;
            }
        } else if let Some(siblings) = children.get_mut(parent) {
            siblings.push(index);
        }
    }
    let mut lines = Vec::new();
    // (node, what stands before its own branch, is it the last of its siblings)
    let mut stack: Vec<(usize, String, bool)> = Vec::new();
    if !report.nodes.is_empty() {
        stack.push((0, String::new(), true));
    }
    while let Some((index, before, is_last)) = stack.pop() {
        let Some(node) = report.nodes.get(index) else { continue };
        let is_root = node.node.parent_node_id.is_none();
        let branch = if is_root { "" } else { ["├", "└"][usize::from(is_last)] };
        let label = label(&before, branch, &node.node.tag, label_width);
        lines.push(Line { node: Some(index), label, note: String::new() });
        let below = if is_root { String::new() } else { before + ["│", " "][usize::from(is_last)] };
        let shown = &children[index];
        for (place, child) in shown.iter().enumerate().rev() {
            let is_last = place + 1 == shown.len();
            stack.push((*child, below.clone(), is_last));
        }
        if hidden[index] > 0 {
            let branch = if shown.is_empty() { "└" } else { "├" };
            let note = format!("({} on no trajectory)", hidden[index]);
            lines.push(Line { node: None, label: self::label(&below, branch, "…", label_width), note });
        }
    }
    lines
}

/// Branches and tag in at most `width` columns: of a deep node the nearest branches and the end of its tag.
fn label(before: &str, branch: &str, tag: &str, width: usize) -> String {
    let tag = tail(tag, width * 2 / 3);
    let before = tail(before, width.saturating_sub(tag.chars().count() + 1));
    format!("{before}{branch}{tag}")
}

/// The last `width` characters, `…` in place of what was before.
fn tail(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(count + 1 - width.max(1))).collect()
}
