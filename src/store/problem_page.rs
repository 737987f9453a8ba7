//! Lists of problems for people, and the history of one.

use serde::Serialize;

use super::round::{RoundProblemRow, problem_row};
use super::{Reader, StoreError};
use crate::types::{ProblemId, RunId, StepId};

/// Which problems a page lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProblemFilter<'a> {
    /// That this run has measured or worked on.
    pub run: RunId,
    /// Only with this in name or question.
    pub text: Option<&'a str>,
    /// Only problems that a search has solved and no direct rollout of any round's filter.
    pub only_by_search: bool,
    /// Leave out so many.
    pub offset: u32,
    /// At most so many.
    pub limit: u32,
}

impl ProblemFilter<'_> {
    /// All problems of a run.
    pub fn of(run: RunId) -> ProblemFilter<'static> {
        ProblemFilter { run, text: None, only_by_search: false, offset: 0, limit: u32::MAX }
    }
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
    /// Of these, searches.
    pub search_solved_count: u64,
    /// The last step that worked on it.
    pub last_step_id: Option<StepId>,
    /// Share of correct direct rollouts in the last round that measured it.
    pub direct_pass_rate: Option<f64>,
    /// Direct rollouts of all rounds that were judged.
    pub rollout_count: u64,
    /// Correct ones.
    pub rollout_correct_count: u64,
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

// What a run has seen of each problem. `+t.run_id`: start at the few trees of the problem, not at those of the run; `cross
// join`: and at the few rounds, not at all problems of the run.
macro_rules! seen_problems {
    ($rest:literal) => {
        concat!(
            "
    with seen as (
        select problem_id from tree where run_id = ?1
        union
        select problem_id from round_problem where run_id = ?1
    ),
    wanted as (
        select p.problem_id
        from seen x
        join problem p on p.problem_id = x.problem_id
        where (?2 is null or instr(lower(p.name || ' ' || p.text), lower(?2)) > 0)
          and (
              ?3 = 0
              or (
                  exists (
                      select 1
                      from tree t
                      where t.problem_id = p.problem_id and +t.run_id = ?1 and t.kind = 'search' and t.is_solved = 1
                  )
                  and 0 = (
                      select max(m.correct_count)
                      from round o
                      cross join round_problem m
                          on m.run_id = o.run_id and m.round_id = o.round_id and m.problem_id = p.problem_id
                      where o.run_id = ?1 and m.sample_count > m.error_count
                  )
              )
          )
    )",
            $rest
        )
    };
}

pub(super) const PROBLEM_PAGE: &str = seen_problems!(
    "
    select p.problem_id, p.name, substr(p.text, 1, 300) as text, p.answer,
           (select count(*) from tree t where t.problem_id = p.problem_id and +t.run_id = ?1) as tree_count,
           (
               select coalesce(sum(t.is_solved), 0) from tree t where t.problem_id = p.problem_id and +t.run_id = ?1
           ) as solved_count,
           (
               select count(*)
               from tree t
               where t.problem_id = p.problem_id and +t.run_id = ?1 and t.kind = 'search' and t.is_solved = 1
           ) as search_solved_count,
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
               select coalesce(sum(m.sample_count - m.error_count), 0)
               from round o
               cross join round_problem m on m.run_id = o.run_id and m.round_id = o.round_id and m.problem_id = p.problem_id
               where o.run_id = ?1
           ) as rollout_count,
           (
               select coalesce(sum(m.correct_count), 0)
               from round o
               cross join round_problem m on m.run_id = o.run_id and m.round_id = o.round_id and m.problem_id = p.problem_id
               where o.run_id = ?1
           ) as rollout_correct_count,
           (
               select count(*) from solution s
               where s.problem_id = p.problem_id and (s.run_id = ?1 or s.run_id is null)
           ) as solution_count
    from (select problem_id from wanted order by problem_id limit ?4 offset ?5) x
    join problem p on p.problem_id = x.problem_id
    order by p.problem_id"
);

pub(super) const PROBLEM_TOTAL: &str = seen_problems!(
    "
    select count(*) as total from wanted"
);

pub(super) const PROBLEMS_NAMED: &str = "select problem_id from problem where name = ? order by problem_id";

pub(super) const PROBLEM_ROUNDS: &str = "
    select p.round_id, p.problem_id, p.sample_count, p.correct_count, p.is_hard, p.reason, p.has_solution
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
    /// One page of problems.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn problem_page(&self, filter: ProblemFilter<'_>) -> Result<ProblemPage, StoreError> {
        let asked = |statement| sqlx::query(statement).bind(filter.run.0).bind(filter.text).bind(filter.only_by_search);
        let total = self.optional(asked(PROBLEM_TOTAL), |row| row.int("total")).await?.unwrap_or(0);
        let query = asked(PROBLEM_PAGE).bind(filter.limit).bind(filter.offset);
        let problems = self.all(query, |row| {
            Ok(ProblemItem {
                problem_id: ProblemId(row.get("problem_id")?),
                name: row.get("name")?,
                text: row.get("text")?,
                answer: row.get("answer")?,
                tree_count: row.int("tree_count")?,
                solved_count: row.int("solved_count")?,
                search_solved_count: row.int("search_solved_count")?,
                last_step_id: row.get::<Option<i64>>("last_step_id")?.map(StepId),
                direct_pass_rate: row.get("direct_pass_rate")?,
                rollout_count: row.int("rollout_count")?,
                rollout_correct_count: row.int("rollout_correct_count")?,
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
    pub async fn problem_rounds(&self, run: RunId, problem: ProblemId) -> Result<Vec<RoundProblemRow>, StoreError> {
        self.all(sqlx::query(PROBLEM_ROUNDS).bind(run.0).bind(problem.0), problem_row).await
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
