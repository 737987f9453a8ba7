//! The views about rounds, kept solutions and measurements as rows. The questions are asked in `migrations/` and only
//! there.

use serde::Serialize;

use super::codec::{Cells, serialize_name};
use super::{Reader, RoundStatus, RunStatus, StoreError};
use crate::config::Algorithm;
use crate::types::{Defect, RoundId, RunId, StepId, TreeId, Verdict, WeightVersion};

/// A row of `round_summary`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundSummary {
    /// The round.
    pub round_id: RoundId,
    /// Where it stands.
    #[serde(serialize_with = "serialize_name")]
    pub status: RoundStatus,
    /// The policy that filters.
    pub weight_version: WeightVersion,
    /// Problems to choose from.
    pub candidate_count: u64,
    /// Of these, measured.
    pub measured_count: u64,
    /// Problems that the round trains on.
    pub hard_count: u64,
    /// Problems with a pass rate above the limit.
    pub easy_count: u64,
    /// Problems none of whose rollouts had a verdict.
    pub undecided_count: u64,
    /// Hard problems with a kept solution when the training began.
    pub cached_count: u64,
    /// Hard problems without one.
    pub unsolved_count: u64,
    /// Problems that were searched.
    pub searched_count: u64,
    /// Problems whose search was spared by a kept solution at least once.
    pub skipped_count: u64,
    /// Trees that are searches: a problem may come in several steps of the round.
    pub search_tree_count: u64,
    /// Trees whose search was spared by a kept solution.
    pub replay_tree_count: u64,
    /// Trees that are plain rollouts.
    pub rollout_count: u64,
    /// Hard problems with a sampled correct answer in any tree of the round.
    pub solved_count: u64,
    /// Mean pass rate of the measured problems.
    pub pass_rate_mean: Option<f64>,
    /// Tokens sampled by the filter.
    pub generated_tokens: u64,
}

/// A row of `bad_outputs`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BadOutput {
    /// The step.
    pub step_id: StepId,
    /// The tree.
    pub tree_id: TreeId,
    /// Place among the tree's trajectories.
    pub ordinal: u32,
    /// What is wrong with it.
    #[serde(serialize_with = "serialize_name")]
    pub defect: Defect,
    /// What the verifier said of it.
    pub verdict: Verdict,
    /// The problem's `id` in its own file.
    pub problem_name: String,
    /// The question.
    pub problem: String,
    /// What the policy said.
    pub response: String,
    /// Sampled tokens of the response.
    pub response_tokens: u64,
}

/// A row of `replay_use`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayUse {
    /// The step.
    pub step_id: StepId,
    /// The round.
    pub round_id: RoundId,
    /// Places in the step.
    pub slot_count: u64,
    /// Trees whose search was spared.
    pub replay_count: u64,
    /// Kept solutions in these trees.
    pub cached_count: u64,
    /// Tokens sampled for these trees.
    pub replay_tokens: u64,
    /// Mean tokens of a search of the run in the steps before this one, failed ones left out.
    pub search_tokens_mean: Option<f64>,
    /// Tokens that searches in their place would have cost more; negative if less.
    pub saved_tokens: Option<f64>,
}

/// Where the time of a run went: view `time_split`, added up over the steps that are over. `None`: nothing was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RunTime {
    /// All of it.
    pub wall_s: Option<f64>,
    /// The search.
    pub search_s: Option<f64>,
    /// Of it, while the engine was generating.
    pub generating_s: Option<f64>,
    /// The update.
    pub train_s: Option<f64>,
    /// Of it, the logprobs before the update.
    pub old_logprobs_s: Option<f64>,
    /// Of it, gradients.
    pub gradient_s: Option<f64>,
    /// Of it, the optimizer.
    pub optimizer_s: Option<f64>,
    /// Writing the weights.
    pub export_s: Option<f64>,
    /// Loading them in the engine.
    pub reload_s: Option<f64>,
    /// Comparing logprobs afterwards.
    pub canary_s: Option<f64>,
    /// The rest.
    pub other_s: Option<f64>,
}

/// A row of `learning_curve`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LearningPoint {
    /// The run.
    pub run_id: RunId,
    /// Its name.
    pub name: String,
    /// What grows its trajectories.
    #[serde(serialize_with = "serialize_name")]
    pub algorithm: Algorithm,
    /// The step after which was measured; 0 is before the first.
    pub step_id: StepId,
    /// The weights that were measured.
    pub weight_version: WeightVersion,
    /// Problems.
    pub problem_count: u64,
    /// Rollouts per problem.
    pub sample_count: u64,
    /// Problems that the engine refused: they count as not solved.
    pub refused_count: u64,
    /// Rollouts that nothing is known of: they count neither as right nor as wrong.
    pub undecided_count: u64,
    /// Mean over the problems of the share of correct rollouts.
    pub pass_at_1: Option<f64>,
    /// Share of the problems with a correct rollout.
    pub pass_at_k: Option<f64>,
    /// Tokens sampled by filters and steps until then.
    pub generated_tokens: u64,
    /// Tokens trained on until then, each time they occur.
    pub trained_tokens: u64,
    /// Time of searching until then.
    pub search_s: f64,
    /// Time of training until then.
    pub train_s: f64,
    /// Time of the steps until then (metric `wall_s`), without measurements, filters and the time the run was stopped.
    pub wall_s: f64,
}

/// A row of `run_comparison`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunComparison {
    /// The run.
    pub run_id: RunId,
    /// What grows its trajectories.
    #[serde(serialize_with = "serialize_name")]
    pub algorithm: Algorithm,
    /// Its name.
    pub name: String,
    /// Where it stands.
    #[serde(serialize_with = "serialize_name")]
    pub status: RunStatus,
    /// Steps that are over.
    pub steps_done: u64,
    /// Pass@1 of the first measurement.
    pub first_pass_at_1: Option<f64>,
    /// Pass@1 of the last measurement.
    pub last_pass_at_1: Option<f64>,
    /// The best pass@1.
    pub best_pass_at_1: Option<f64>,
    /// The step after which that was measured first.
    pub best_step_id: Option<StepId>,
    /// Tokens sampled by filters and steps.
    pub generated_tokens: u64,
    /// Tokens trained on, each time they occur.
    pub trained_tokens: u64,
    /// Hours of searching.
    pub search_hours: f64,
    /// Hours of training.
    pub train_hours: f64,
}

pub(super) const ROUND_SUMMARY: &str = "
    select round_id, status, weight_version, candidate_count, measured_count, hard_count, easy_count, undecided_count,
           cached_count, unsolved_count, searched_count, skipped_count, search_tree_count, replay_tree_count, rollout_count,
           solved_count, pass_rate_mean, generated_tokens
    from round_summary
    where run_id = ?
    order by round_id";

// `+run_id`: start at the few trajectories with a defect, not at the trees of the run.
pub(super) const BAD_OUTPUTS: &str = "
    select step_id, tree_id, ordinal, defect, verdict, problem_name, problem, response, response_tokens
    from bad_outputs
    where +run_id = ?
    order by tree_id desc, ordinal
    limit ?";

pub(super) const REPLAY_USE: &str = "
    select step_id, round_id, slot_count, replay_count, cached_count, replay_tokens, search_tokens_mean, saved_tokens
    from replay_use
    where run_id = ?
    order by step_id";

pub(super) const LEARNING_CURVE: &str = "
    select run_id, name, algorithm, step_id, weight_version, problem_count, sample_count, refused_count, undecided_count,
           pass_at_1, pass_at_k, generated_tokens, trained_tokens, search_s, train_s, wall_s
    from learning_curve
    where run_id = ?
    order by step_id";

pub(super) const TIME_SPLIT: &str = "
    select sum(wall_s) as wall_s, sum(search_s) as search_s, sum(generating_s) as generating_s, sum(train_s) as train_s,
           sum(old_logprobs_s) as old_logprobs_s, sum(gradient_s) as gradient_s, sum(optimizer_s) as optimizer_s,
           sum(export_s) as export_s, sum(reload_s) as reload_s, sum(canary_s) as canary_s, sum(other_s) as other_s
    from time_split
    where run_id = ?";

pub(super) const RUN_COMPARISON: &str = "
    select run_id, algorithm, name, status, steps_done, first_pass_at_1, last_pass_at_1, best_pass_at_1, best_step_id,
           generated_tokens, trained_tokens, search_hours, train_hours
    from run_comparison
    order by run_id";

impl Reader {
    /// The rounds of a run with their figures, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn round_summary(&self, run: RunId) -> Result<Vec<RoundSummary>, StoreError> {
        self.all(sqlx::query(ROUND_SUMMARY).bind(run.0), round_summary).await
    }

    /// Outputs that were unfit for training, newest tree first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn bad_outputs(&self, run: RunId, limit: u32) -> Result<Vec<BadOutput>, StoreError> {
        self.all(sqlx::query(BAD_OUTPUTS).bind(run.0).bind(limit), bad_output).await
    }

    /// What kept solutions spared each step of a run, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn replay_use(&self, run: RunId) -> Result<Vec<ReplayUse>, StoreError> {
        self.all(sqlx::query(REPLAY_USE).bind(run.0), replay_use).await
    }

    /// The measurements of a run against tokens and time, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn learning_curve(&self, run: RunId) -> Result<Vec<LearningPoint>, StoreError> {
        self.all(sqlx::query(LEARNING_CURVE).bind(run.0), learning_point).await
    }

    /// Where the time of a run went.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn run_time(&self, run: RunId) -> Result<Option<RunTime>, StoreError> {
        self.optional(sqlx::query(TIME_SPLIT).bind(run.0), |row| {
            Ok(RunTime {
                wall_s: row.get("wall_s")?,
                search_s: row.get("search_s")?,
                generating_s: row.get("generating_s")?,
                train_s: row.get("train_s")?,
                old_logprobs_s: row.get("old_logprobs_s")?,
                gradient_s: row.get("gradient_s")?,
                optimizer_s: row.get("optimizer_s")?,
                export_s: row.get("export_s")?,
                reload_s: row.get("reload_s")?,
                canary_s: row.get("canary_s")?,
                other_s: row.get("other_s")?,
            })
        })
        .await
    }

    /// All runs of the database side by side, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn run_comparison(&self) -> Result<Vec<RunComparison>, StoreError> {
        self.all(sqlx::query(RUN_COMPARISON), run_comparison).await
    }
}

fn round_summary(row: &Cells<'_>) -> Result<RoundSummary, StoreError> {
    Ok(RoundSummary {
        round_id: RoundId(row.get("round_id")?),
        status: row.name("status")?,
        weight_version: WeightVersion(row.int("weight_version")?),
        candidate_count: row.int("candidate_count")?,
        measured_count: row.int("measured_count")?,
        hard_count: row.int("hard_count")?,
        easy_count: row.int("easy_count")?,
        undecided_count: row.int("undecided_count")?,
        cached_count: row.int("cached_count")?,
        unsolved_count: row.int("unsolved_count")?,
        searched_count: row.int("searched_count")?,
        skipped_count: row.int("skipped_count")?,
        search_tree_count: row.int("search_tree_count")?,
        replay_tree_count: row.int("replay_tree_count")?,
        rollout_count: row.int("rollout_count")?,
        solved_count: row.int("solved_count")?,
        pass_rate_mean: row.get("pass_rate_mean")?,
        generated_tokens: row.int("generated_tokens")?,
    })
}

fn bad_output(row: &Cells<'_>) -> Result<BadOutput, StoreError> {
    Ok(BadOutput {
        step_id: StepId(row.get("step_id")?),
        tree_id: TreeId(row.get("tree_id")?),
        ordinal: row.int("ordinal")?,
        defect: row.name("defect")?,
        verdict: row.name("verdict")?,
        problem_name: row.get("problem_name")?,
        problem: row.get("problem")?,
        response: row.get("response")?,
        response_tokens: row.int("response_tokens")?,
    })
}

fn replay_use(row: &Cells<'_>) -> Result<ReplayUse, StoreError> {
    Ok(ReplayUse {
        step_id: StepId(row.get("step_id")?),
        round_id: RoundId(row.get("round_id")?),
        slot_count: row.int("slot_count")?,
        replay_count: row.int("replay_count")?,
        cached_count: row.int("cached_count")?,
        replay_tokens: row.int("replay_tokens")?,
        search_tokens_mean: row.get("search_tokens_mean")?,
        saved_tokens: row.get("saved_tokens")?,
    })
}

fn learning_point(row: &Cells<'_>) -> Result<LearningPoint, StoreError> {
    Ok(LearningPoint {
        run_id: RunId(row.get("run_id")?),
        name: row.get("name")?,
        algorithm: row.name("algorithm")?,
        step_id: StepId(row.get("step_id")?),
        weight_version: WeightVersion(row.int("weight_version")?),
        problem_count: row.int("problem_count")?,
        sample_count: row.int("sample_count")?,
        refused_count: row.int("refused_count")?,
        undecided_count: row.int("undecided_count")?,
        pass_at_1: row.get("pass_at_1")?,
        pass_at_k: row.get("pass_at_k")?,
        generated_tokens: row.int("generated_tokens")?,
        trained_tokens: row.int("trained_tokens")?,
        search_s: row.get("search_s")?,
        train_s: row.get("train_s")?,
        wall_s: row.get("wall_s")?,
    })
}

fn run_comparison(row: &Cells<'_>) -> Result<RunComparison, StoreError> {
    Ok(RunComparison {
        run_id: RunId(row.get("run_id")?),
        algorithm: row.name("algorithm")?,
        name: row.get("name")?,
        status: row.name("status")?,
        steps_done: row.int("steps_done")?,
        first_pass_at_1: row.get("first_pass_at_1")?,
        last_pass_at_1: row.get("last_pass_at_1")?,
        best_pass_at_1: row.get("best_pass_at_1")?,
        best_step_id: row.get::<Option<i64>>("best_step_id")?.map(StepId),
        generated_tokens: row.int("generated_tokens")?,
        trained_tokens: row.int("trained_tokens")?,
        search_hours: row.get("search_hours")?,
        train_hours: row.get("train_hours")?,
    })
}
