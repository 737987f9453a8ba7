//! What pages about a run ask: lists cut into pages, series over the steps, the history of a problem, and whether
//! anything has changed.

use serde::Serialize;
use sqlx::SqliteConnection;
use tokio::sync::Mutex;

use super::codec::serialize_name_option;
use super::tree_read::tree_row;
use super::{MetricRow, Reader, RoundReason, StepSummary, StoreError, TreeRow, open, view};
use crate::types::{ProblemId, RoundId, RunId, StepId, TreeKind, Verdict};

/// Says whether a database has changed since it was asked last. Holds a connection of its own, since SQLite counts the
/// commits of others for each connection.
pub struct Changes {
    path: std::path::PathBuf,
    conn: Mutex<SqliteConnection>,
}

impl Changes {
    /// Watches the database at `path`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn open(path: &std::path::Path) -> Result<Changes, StoreError> {
        let conn = open::reading_connection(path).await?;
        Ok(Changes { path: path.to_owned(), conn: Mutex::new(conn) })
    }

    /// A number that is another one after every commit of whoever writes to the database. Numbers of different watchers
    /// have nothing to do with each other.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn count(&self) -> Result<i64, StoreError> {
        let mut conn = self.conn.lock().await;
        let count = sqlx::query_scalar("pragma data_version").fetch_one(&mut *conn).await;
        count.map_err(|error| StoreError::from(error).at(&self.path))
    }
}

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

/// Which trees a page lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreePageFilter {
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
    /// In which order.
    pub order: TreeOrder,
    /// Leave out so many.
    pub offset: u32,
    /// At most so many.
    pub limit: u32,
}

impl TreePageFilter {
    /// The first `limit` trees of a run, newest first.
    pub fn of(run: RunId, limit: u32) -> TreePageFilter {
        TreePageFilter {
            run,
            step: None,
            problem: None,
            kind: None,
            is_solved: None,
            verdict: None,
            order: TreeOrder::Newest,
            offset: 0,
            limit,
        }
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
    /// What search added: 1 if it found an answer, else 0, less the share of direct rollouts that did.
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

/// What the sampled trajectories of a step's trees were like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepTrajectories {
    /// The step.
    pub step_id: StepId,
    /// Sampled trajectories.
    pub trajectory_count: u64,
    /// Mean number of their sampled tokens.
    pub response_tokens_mean: Option<f64>,
    /// Share of correct ones.
    pub correct_frac: Option<f64>,
}

/// A problem in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProblemItem {
    /// The problem.
    pub problem_id: ProblemId,
    /// Its `id` in its own file.
    pub name: String,
    /// The first 300 characters of the question.
    pub text: String,
    /// The reference answer.
    pub answer: String,
    /// Trees of the run.
    pub tree_count: u64,
    /// Of these, solved.
    pub solved_count: u64,
    /// The last step that worked on it.
    pub last_step_id: Option<StepId>,
    /// Share of correct direct rollouts in the last round that measured it.
    pub direct_pass_rate: Option<f64>,
    /// Solutions that the run may use.
    pub solution_count: u64,
}

/// Problems of one page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProblemPage {
    /// How many there are on all pages.
    pub total: u64,
    /// Those of this page.
    pub problems: Vec<ProblemItem>,
}

/// A problem in a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProblemRound {
    /// The round.
    pub round_id: RoundId,
    /// Direct rollouts; `None` until measured.
    pub sample_count: Option<u32>,
    /// Correct ones.
    pub correct_count: Option<u32>,
    /// Whether the round trains on it.
    pub is_hard: Option<bool>,
    /// Why.
    #[serde(serialize_with = "serialize_name_option")]
    pub reason: Option<RoundReason>,
    /// Whether a solution was kept when the filter was over.
    pub has_solution: Option<bool>,
}

/// A problem in a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProblemEvaluation {
    /// After which step.
    pub step_id: StepId,
    /// Rollouts.
    pub sample_count: u32,
    /// Correct ones.
    pub correct_count: u32,
}

macro_rules! tree_page {
    ($order:literal) => {
        concat!(
            "select t.tree_id, t.run_id, t.round_id, t.step_id, t.slot, t.kind, t.problem_id, t.problem_name, t.rules,
                    t.uct_lambda, t.status, t.error, t.seed, t.expansion_count, t.generated_tokens, t.node_count,
                    t.trajectory_tokens, t.trajectory_count, t.is_solved, t.wall_ms, t.weight_version_min,
                    t.weight_version_max, t.created_at_ms,
                    cast(r.correct_count as real) / nullif(r.sample_count - r.error_count, 0) as direct_pass_rate,
                    t.is_solved - cast(r.correct_count as real) / nullif(r.sample_count - r.error_count, 0) as gain_frac
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
pub(super) const TREE_PAGE_GAIN: &str = tree_page!("gain_frac is null, gain_frac desc, t.node_count desc, t.tree_id");
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

pub(super) const STEP_TRAJECTORIES: &str = "
    select t.step_id, count(*) as trajectory_count, avg(j.response_tokens) as response_tokens_mean,
           avg(j.verdict = 'correct') as correct_frac
    from tree t
    join trajectory j on j.tree_id = t.tree_id
    where t.run_id = ? and j.provenance <> 'cached'
    group by t.step_id
    order by t.step_id";

pub(super) const ALL_METRICS: &str = "select step_id, name, value from metric where run_id = ? order by name, step_id";

pub(super) const LAST_STEP: &str = "select max(step_id) as step_id from step where run_id = ? and status = 'done'";

// `+t.run_id`: start at the few trees of the problem, not at those of the run.
pub(super) const PROBLEM_PAGE: &str = "
    with seen as (
        select problem_id from tree where run_id = ?1
        union
        select problem_id from round_problem where run_id = ?1
    )
    select p.problem_id, p.name, substr(p.text, 1, 300) as text, p.answer,
           (select count(*) from tree t where t.problem_id = p.problem_id and +t.run_id = ?1) as tree_count,
           (
               select coalesce(sum(t.is_solved), 0) from tree t where t.problem_id = p.problem_id and +t.run_id = ?1
           ) as solved_count,
           (select max(t.step_id) from tree t where t.problem_id = p.problem_id and +t.run_id = ?1) as last_step_id,
           (
               select cast(m.correct_count as real) / nullif(m.sample_count - m.error_count, 0)
               from round o
               join round_problem m on m.run_id = o.run_id and m.round_id = o.round_id and m.problem_id = p.problem_id
               where o.run_id = ?1 and m.sample_count is not null
               order by o.round_id desc
               limit 1
           ) as direct_pass_rate,
           (
               select count(*) from solution s
               where s.problem_id = p.problem_id and (s.run_id = ?1 or s.run_id is null)
           ) as solution_count
    from seen x
    join problem p on p.problem_id = x.problem_id
    where ?2 is null or instr(lower(p.name || ' ' || p.text), lower(?2)) > 0
    order by p.problem_id
    limit ?3 offset ?4";

pub(super) const PROBLEM_TOTAL: &str = "
    with seen as (
        select problem_id from tree where run_id = ?1
        union
        select problem_id from round_problem where run_id = ?1
    )
    select count(*) as total
    from seen x
    join problem p on p.problem_id = x.problem_id
    where ?2 is null or instr(lower(p.name || ' ' || p.text), lower(?2)) > 0";

pub(super) const PROBLEMS_NAMED: &str = "select problem_id from problem where name = ? order by problem_id";

pub(super) const PROBLEM_ROUNDS: &str = "
    select p.round_id, p.sample_count, p.correct_count, p.is_hard, p.reason, p.has_solution
    from round r
    join round_problem p on p.run_id = r.run_id and p.round_id = r.round_id and p.problem_id = ?2
    where r.run_id = ?1
    order by r.round_id";

pub(super) const PROBLEM_EVALUATIONS: &str = "
    select e.step_id, e.sample_count, p.correct_count
    from evaluation e
    join evaluation_problem p on p.run_id = e.run_id and p.step_id = e.step_id and p.problem_id = ?2
    where e.run_id = ?1
    order by e.step_id";

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
        let total = self.optional(bound(TREE_TOTAL, &filter), |row| row.int("total")).await?.unwrap_or(0);
        let query = bound(statement, &filter).bind(filter.limit).bind(filter.offset);
        let trees = self.all(query, |row| {
            Ok(TreeItem {
                tree: tree_row(row)?,
                direct_pass_rate: row.get("direct_pass_rate")?,
                gain_frac: row.get("gain_frac")?,
            })
        });
        Ok(TreePage { total, trees: trees.await? })
    }

    /// What each step's sampled trajectories were like, oldest first; steps without any are left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn step_trajectories(&self, run: RunId) -> Result<Vec<StepTrajectories>, StoreError> {
        self.all(sqlx::query(STEP_TRAJECTORIES).bind(run.0), |row| {
            Ok(StepTrajectories {
                step_id: StepId(row.get("step_id")?),
                trajectory_count: row.int("trajectory_count")?,
                response_tokens_mean: row.get("response_tokens_mean")?,
                correct_frac: row.get("correct_frac")?,
            })
        })
        .await
    }

    /// Every number without a column of its own, by name and step.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn all_metrics(&self, run: RunId) -> Result<Vec<MetricRow>, StoreError> {
        self.all(sqlx::query(ALL_METRICS).bind(run.0), |row| {
            Ok(MetricRow { step_id: StepId(row.get("step_id")?), name: row.get("name")?, value: row.get("value")? })
        })
        .await
    }

    /// The last step that is over; `None` before the first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn last_step(&self, run: RunId) -> Result<Option<StepSummary>, StoreError> {
        let step: Option<Option<i64>> =
            self.optional(sqlx::query(LAST_STEP).bind(run.0), |row| row.get("step_id")).await?;
        let Some(step) = step.flatten() else { return Ok(None) };
        self.optional(sqlx::query(view::STEP_SUMMARY).bind(run.0).bind(step).bind(step), view::step_summary).await
    }

    /// One page of the problems that a run has measured or worked on; `text` is looked for in name and question.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn problem_page(
        &self,
        run: RunId,
        text: Option<&str>,
        offset: u32,
        limit: u32,
    ) -> Result<ProblemPage, StoreError> {
        let total = sqlx::query(PROBLEM_TOTAL).bind(run.0).bind(text);
        let total = self.optional(total, |row| row.int("total")).await?.unwrap_or(0);
        let query = sqlx::query(PROBLEM_PAGE).bind(run.0).bind(text).bind(limit).bind(offset);
        let problems = self.all(query, |row| {
            Ok(ProblemItem {
                problem_id: ProblemId(row.get("problem_id")?),
                name: row.get("name")?,
                text: row.get("text")?,
                answer: row.get("answer")?,
                tree_count: row.int("tree_count")?,
                solved_count: row.int("solved_count")?,
                last_step_id: row.get::<Option<i64>>("last_step_id")?.map(StepId),
                direct_pass_rate: row.get("direct_pass_rate")?,
                solution_count: row.int("solution_count")?,
            })
        });
        Ok(ProblemPage { total, problems: problems.await? })
    }

    /// The problems with this `id` in their own files.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn problems_named(&self, name: &str) -> Result<Vec<ProblemId>, StoreError> {
        self.all(sqlx::query(PROBLEMS_NAMED).bind(name), |row| Ok(ProblemId(row.get("problem_id")?))).await
    }

    /// What the rounds of a run found out about a problem, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn problem_rounds(&self, run: RunId, problem: ProblemId) -> Result<Vec<ProblemRound>, StoreError> {
        self.all(sqlx::query(PROBLEM_ROUNDS).bind(run.0).bind(problem.0), |row| {
            Ok(ProblemRound {
                round_id: RoundId(row.get("round_id")?),
                sample_count: row.int_option("sample_count")?,
                correct_count: row.int_option("correct_count")?,
                is_hard: row.get("is_hard")?,
                reason: row.name_option("reason")?,
                has_solution: row.get("has_solution")?,
            })
        })
        .await
    }

    /// A problem in the measurements of a run, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn problem_evaluations(
        &self,
        run: RunId,
        problem: ProblemId,
    ) -> Result<Vec<ProblemEvaluation>, StoreError> {
        self.all(sqlx::query(PROBLEM_EVALUATIONS).bind(run.0).bind(problem.0), |row| {
            Ok(ProblemEvaluation {
                step_id: StepId(row.get("step_id")?),
                sample_count: row.int("sample_count")?,
                correct_count: row.int("correct_count")?,
            })
        })
        .await
    }
}

fn bound<'q>(statement: &'static str, filter: &TreePageFilter) -> super::Query<'q> {
    sqlx::query(statement)
        .bind(filter.run.0)
        .bind(filter.step.map_or(i64::MIN, |step| step.0))
        .bind(filter.step.map_or(i64::MAX, |step| step.0))
        .bind(filter.problem.map(|problem| problem.0))
        .bind(filter.is_solved)
        .bind(filter.verdict.map(Verdict::as_str))
        .bind(filter.kind.map(TreeKind::as_str))
}
