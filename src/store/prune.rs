//! Forgetting: tokens, logprobs and text of nodes in finished steps. Trees, nodes and their figures stay, and so do kept
//! solutions, which have tokens and text of their own.
//!
//! One transaction per step: a run that writes meanwhile waits for one of them at most.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, now_ms};
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::types::{RunId, StepId};

/// Whose tokens, logprobs and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropText {
    /// Nobody's.
    Nothing,
    /// Those of the nodes of searches that are on no trajectory.
    OffTrajectories,
    /// Those of all nodes but the prompts: such a step cannot be trained on again.
    AllButPrompts,
}

/// What is dropped from the finished steps of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prune {
    /// The run.
    pub run: RunId,
    /// Steps up to this one are left alone.
    pub after: StepId,
    /// The last step that is touched.
    pub until: StepId,
    /// Rows that go whole.
    pub text: DropText,
    /// Whether the other rows lose their logprobs.
    pub logprobs: bool,
}

/// What was dropped, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Nodes that lost tokens, logprobs and text.
    pub node_count: u64,
    /// Nodes that lost their logprobs only.
    pub logprob_count: u64,
    /// Bytes of both, as stored. The file shrinks by them when it is vacuumed.
    pub bytes: u64,
}

impl std::ops::AddAssign for Pruned {
    fn add_assign(&mut self, other: Pruned) {
        self.node_count += other.node_count;
        self.logprob_count += other.logprob_count;
        self.bytes += other.bytes;
    }
}

/// Finished steps of a range that have not lost it yet, whatever `?4` names.
const STEPS: &str = "
    select s.step_id
    from step s
    left join retention r on r.run_id = s.run_id
    where s.run_id = ?1 and s.status = 'done' and s.step_id > ?2 and s.step_id <= ?3
        and s.step_id > coalesce(case ?4 when 'off_path' then r.off_path_step_id when 'text' then r.text_step_id
                                         else r.logprobs_step_id end, 0)
    order by s.step_id";

/// Contents of a step's nodes on no trajectory of a search.
macro_rules! off_trajectories {
    () => {
        "from node_content
         where node_id > 0
             and tree_id in (select tree_id from tree where run_id = ?1 and step_id = ?2 and kind = 'search')
             and (tree_id, node_id) not in (
                 select j.tree_id, j.node_id
                 from tree t
                 join trajectory_node j on j.tree_id = t.tree_id
                 where t.run_id = ?1 and t.step_id = ?2
             )"
    };
}

/// Contents of all of a step's nodes but the prompts.
macro_rules! all_but_prompts {
    () => {
        "from node_content
         where node_id > 0 and tree_id in (select tree_id from tree where run_id = ?1 and step_id = ?2)"
    };
}

macro_rules! sized {
    ($rows:expr) => {
        concat!(
            "select count(*) as row_count,
                    coalesce(sum(length(tokens) + coalesce(length(logprobs), 0) + length(cast(text as blob))), 0) as bytes ",
            $rows
        )
    };
}

macro_rules! with_logprobs {
    () => {
        concat!(all_but_prompts!(), " and logprobs is not null")
    };
}

/// What is left of them once the nodes on no trajectory are gone.
const LOGPROBS_LEFT: &str = concat!(
    "select count(*) as row_count, coalesce(sum(length(logprobs)), 0) as bytes ",
    with_logprobs!(),
    " and (tree_id, node_id) not in (select tree_id, node_id ",
    off_trajectories!(),
    ")"
);

/// What goes of one step: how it is counted, how it is dropped, and the column that remembers it.
struct Kind {
    count: &'static str,
    drop: &'static str,
    remember: &'static str,
    name: &'static str,
}

const OFF_TRAJECTORIES: Kind = Kind {
    count: sized!(off_trajectories!()),
    drop: concat!("delete ", off_trajectories!()),
    remember: "insert into retention (run_id, off_path_step_id, created_at_ms) values (?1, ?2, ?3)
               on conflict (run_id) do update set off_path_step_id = ?2, created_at_ms = ?3",
    name: "off_path",
};

const ALL_BUT_PROMPTS: Kind = Kind {
    count: sized!(all_but_prompts!()),
    drop: concat!("delete ", all_but_prompts!()),
    remember: "insert into retention (run_id, text_step_id, created_at_ms) values (?1, ?2, ?3)
               on conflict (run_id) do update set text_step_id = ?2, created_at_ms = ?3",
    name: "text",
};

const LOGPROBS: Kind = Kind {
    count: concat!("select count(*) as row_count, coalesce(sum(length(logprobs)), 0) as bytes ", with_logprobs!()),
    drop: "update node_content set logprobs = null
           where node_id > 0 and tree_id in (select tree_id from tree where run_id = ?1 and step_id = ?2)
               and logprobs is not null",
    remember: "insert into retention (run_id, logprobs_step_id, created_at_ms) values (?1, ?2, ?3)
               on conflict (run_id) do update set logprobs_step_id = ?2, created_at_ms = ?3",
    name: "logprobs",
};

impl Prune {
    fn kinds(&self) -> Vec<&'static Kind> {
        let text = match self.text {
            DropText::Nothing => None,
            DropText::OffTrajectories => Some(&OFF_TRAJECTORIES),
            DropText::AllButPrompts => Some(&ALL_BUT_PROMPTS),
        };
        text.into_iter().chain(self.logprobs.then_some(&LOGPROBS)).collect()
    }
}

impl Kind {
    fn counted(&self, bytes: u64, rows: u64) -> Pruned {
        let is_whole = self.name != LOGPROBS.name;
        Pruned { node_count: if is_whole { rows } else { 0 }, logprob_count: if is_whole { 0 } else { rows }, bytes }
    }
}

impl Store {
    /// Drops it, step by step. Steps that are running are left alone.
    ///
    /// # Errors
    /// The database cannot be written; steps that were done already stay so.
    pub async fn prune(&self, prune: Prune) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        for kind in prune.kinds() {
            for step in self.reader().steps_to_prune(&prune, kind).await? {
                pruned += self.write(PruneStep { run: prune.run, step, kind }).await?;
            }
        }
        Ok(pruned)
    }
}

impl Reader {
    /// What [`Store::prune`] would drop.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn prunable(&self, prune: Prune) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        for kind in prune.kinds() {
            let is_left_over = kind.name == LOGPROBS.name && prune.text == DropText::OffTrajectories;
            let count = if is_left_over { LOGPROBS_LEFT } else { kind.count };
            for step in self.steps_to_prune(&prune, kind).await? {
                let query = sqlx::query(count).bind(prune.run.0).bind(step.0);
                let counted = self.optional(query, |row| Ok((row.int("bytes")?, row.int("row_count")?))).await?;
                let (bytes, rows) = counted.unwrap_or_default();
                pruned += kind.counted(bytes, rows);
            }
        }
        Ok(pruned)
    }

    async fn steps_to_prune(&self, prune: &Prune, kind: &Kind) -> Result<Vec<StepId>, StoreError> {
        let query = sqlx::query(STEPS).bind(prune.run.0).bind(prune.after.0).bind(prune.until.0).bind(kind.name);
        self.all(query, |row| Ok(StepId(row.get("step_id")?))).await
    }
}

struct PruneStep {
    run: RunId,
    step: StepId,
    kind: &'static Kind,
}

impl Write for PruneStep {
    type Output = Pruned;

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<Pruned, StoreError> {
        let row = sqlx::query(self.kind.count).bind(self.run.0).bind(self.step.0).fetch_one(&mut *conn).await?;
        let cells = Cells(&row);
        let pruned = self.kind.counted(cells.int("bytes")?, cells.int("row_count")?);
        sqlx::query(self.kind.drop).bind(self.run.0).bind(self.step.0).execute(&mut *conn).await?;
        let remember = sqlx::query(self.kind.remember).bind(self.run.0).bind(self.step.0).bind(now_ms());
        remember.execute(&mut *conn).await?;
        Ok(pruned)
    }
}
