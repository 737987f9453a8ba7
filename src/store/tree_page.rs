//! Lists of trees for people: filtered, ordered, cut into pages.

use serde::Serialize;

use super::tree_read::{bound, tree_row};
use super::{Reader, StoreError, TreeFilter, TreeRow};

/// In which order trees are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TreeOrder {
    /// Newest first.
    #[default]
    Newest,
    /// Those first in which search helped most: see [`TreeItem::gain_frac`].
    Gain,
    /// Largest first.
    Nodes,
}

/// Which trees a page lists, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreePageFilter {
    /// Which, and at most how many.
    pub trees: TreeFilter,
    /// In which order.
    pub order: TreeOrder,
    /// Leave out so many.
    pub offset: u32,
}

impl TreePageFilter {
    /// The first of the trees, newest first.
    pub fn of(trees: TreeFilter) -> TreePageFilter {
        TreePageFilter { trees, order: TreeOrder::Newest, offset: 0 }
    }
}

/// A tree in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TreeItem {
    /// The tree.
    #[serde(flatten)]
    pub tree: TreeRow,
    /// Share of direct rollouts that solved its problem when the round began; `None` where none were made.
    pub direct_pass_rate: Option<f64>,
    /// What search added, as view `gain_from_search` defines it: the share of correct answers in the tree less that of the
    /// direct rollouts. `None` for a tree that is no search, that has no answers, or where no rollouts were made.
    pub gain_frac: Option<f64>,
}

/// Trees of one page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TreePage {
    /// How many there are on all pages.
    pub total: u64,
    /// Those of this page.
    pub trees: Vec<TreeItem>,
}

// The gain of each tree is asked of the view, so that there is one definition of it.
macro_rules! tree_page {
    ($order:literal) => {
        concat!(
            "select t.tree_id, t.run_id, t.round_id, t.step_id, t.slot, t.kind, t.problem_id, t.problem_name, t.rules,
                    t.uct_lambda, t.status, t.error, t.seed, t.expansion_count, t.generated_tokens, t.node_count,
                    t.trajectory_tokens, t.trajectory_count, t.is_solved, t.wall_ms, t.weight_version_min,
                    t.weight_version_max, t.created_at_ms,
                    cast(r.correct_count as real) / nullif(r.sample_count - r.error_count, 0) as direct_pass_rate,
                    (select g.gain_frac from gain_from_search g where g.tree_id = t.tree_id) as gain_frac
             from tree_summary t
             left join round_problem r
                 on r.run_id = t.run_id and r.round_id = t.round_id and r.problem_id = t.problem_id
             where t.run_id = ?1
               and t.step_id between ?2 and ?3
               and (?4 is null or t.problem_id = ?4)
               and (?5 is null or t.is_solved = ?5)
               and (?6 is null or exists (select 1 from trajectory j where j.tree_id = t.tree_id and j.verdict = ?6))
               and (?7 is null or t.kind = ?7)
             order by ",
            $order,
            " limit ?8 offset ?9"
        )
    };
}

pub(super) const TREE_PAGE_NEWEST: &str = tree_page!("t.step_id desc, t.slot desc");
pub(super) const TREE_PAGE_GAIN: &str = tree_page!("gain_frac desc nulls last, t.node_count desc, t.tree_id");
pub(super) const TREE_PAGE_NODES: &str = tree_page!("t.node_count desc, t.tree_id");

pub(super) const TREE_TOTAL: &str = "
    select count(*) as total
    from tree t
    where t.run_id = ?1
      and t.step_id between ?2 and ?3
      and (?4 is null or t.problem_id = ?4)
      and (?5 is null or t.is_solved = ?5)
      and (?6 is null or exists (select 1 from trajectory j where j.tree_id = t.tree_id and j.verdict = ?6))
      and (?7 is null or t.kind = ?7)";

impl Reader {
    /// One page of trees.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn tree_page(&self, filter: TreePageFilter) -> Result<TreePage, StoreError> {
        let statement = match filter.order {
            TreeOrder::Newest => TREE_PAGE_NEWEST,
            TreeOrder::Gain => TREE_PAGE_GAIN,
            TreeOrder::Nodes => TREE_PAGE_NODES,
        };
        let total = self.optional(bound(TREE_TOTAL, &filter.trees), |row| row.int("total")).await?.unwrap_or(0);
        let query = bound(statement, &filter.trees).bind(filter.trees.limit()).bind(filter.offset);
        let trees = self.all(query, |row| {
            Ok(TreeItem {
                tree: tree_row(row)?,
                direct_pass_rate: row.get("direct_pass_rate")?,
                gain_frac: row.get("gain_frac")?,
            })
        });
        Ok(TreePage { total, trees: trees.await? })
    }
}
