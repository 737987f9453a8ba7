//! The views about trees, steps and weights as rows. The questions are asked in `migrations/` and only there.

use serde::Serialize;

use super::codec::{Cells, serialize_name};
use super::{Reader, StepStatus, StoreError};
use crate::types::{ProblemId, RoundId, RunId, StepId, TreeId, Verdict, WeightVersion};

/// A row of `solved_per_step`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SolvedPerStep {
    /// The step.
    pub step_id: StepId,
    /// Trees recorded.
    pub tree_count: u64,
    /// Trees with a correct terminal.
    pub solved_count: u64,
    /// Their share.
    pub solved_frac: f64,
}

/// A row of `step_summary`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepSummary {
    /// The run.
    pub run_id: RunId,
    /// The step.
    pub step_id: StepId,
    /// The round.
    pub round_id: RoundId,
    /// Where it stands.
    #[serde(serialize_with = "serialize_name")]
    pub status: StepStatus,
    /// Trees planned.
    pub problem_count: u64,
    /// Trees recorded.
    pub tree_count: u64,
    /// Trees with a correct terminal.
    pub solved_count: u64,
    /// Their share of those recorded.
    pub solved_frac: Option<f64>,
    /// Trees in which no node was left to expand.
    pub exhausted_count: u64,
    /// Sampled answers that nothing is known of: neither right nor wrong.
    pub undecided_count: u64,
    /// Trees that could not go on.
    pub failed_count: u64,
    /// Trees that were spared their search by kept solutions.
    pub replay_count: u64,
    /// Mean reward of the trajectories.
    pub mean_reward: Option<f64>,
    /// Loss.
    pub loss: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Share of tokens whose ratio was clipped.
    pub clip_frac: Option<f64>,
    /// Mean ratio trainer / engine.
    pub ratio_mean: Option<f64>,
    /// 99th percentile of that ratio.
    pub ratio_p99: Option<f64>,
    /// Share of tokens with a ratio outside [0.9, 1.1].
    pub ratio_outside_frac: Option<f64>,
    /// Tokens without a usable ratio.
    pub ratio_nan_count: Option<u64>,
    /// Mean -logprob of the sampled tokens, in nats.
    pub entropy_nats: Option<f64>,
    /// The weights it searched with.
    pub search_weight_version: WeightVersion,
    /// The weights it made.
    pub produced_weight_version: Option<WeightVersion>,
    /// Why the update was skipped.
    pub update_skip_reason: Option<String>,
    /// Groups left out because they carry no signal.
    pub skipped_group_count: Option<u64>,
    /// Tokens sampled by the engine.
    pub generated_tokens: Option<u64>,
    /// Tokens on trained trajectories, each time they occur.
    pub trained_tokens: Option<u64>,
    /// Tokens the trainer computed.
    pub packed_tokens: Option<u64>,
    /// Time of the search.
    pub search_ms: Option<u64>,
    /// Time of the update.
    pub train_ms: Option<u64>,
    /// Time of the export.
    pub export_ms: Option<u64>,
    /// Time of the reload.
    pub reload_ms: Option<u64>,
    /// Sampled tokens per second of search.
    pub generated_tokens_per_s: Option<f64>,
    /// When it began.
    pub created_at_ms: i64,
    /// When it was over.
    pub ended_at_ms: Option<i64>,
}

/// A row of `weight_history`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightHistory {
    /// The version.
    pub weight_version: WeightVersion,
    /// The step that made it.
    pub step_id: Option<StepId>,
    /// Every replica held it.
    pub is_confirmed: bool,
    /// Digest of all tensors.
    pub digest: String,
    /// Folder in the Hugging Face layout.
    pub path: String,
    /// Size of the weights in bytes.
    pub size_bytes: u64,
    /// Time of the reload.
    pub reload_ms: Option<u64>,
    /// Mean absolute difference of the canary's logprobs, in nats.
    pub canary_mean_abs_nats: Option<f64>,
    /// Largest such difference.
    pub canary_max_abs_nats: Option<f64>,
}

/// A row of `best_path`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestPath {
    /// The tree.
    pub tree_id: TreeId,
    /// The problem.
    pub problem_id: ProblemId,
    /// Place among the tree's trajectories.
    pub ordinal: u32,
    /// What the verifier said of the leaf.
    pub verdict: Verdict,
    /// The leaf's reward.
    pub reward: f64,
    /// Mean -logprob of the path, in nats.
    pub entropy_nats: Option<f64>,
    /// q_total of each node from depth 1 to the leaf.
    pub q_path: Vec<f64>,
    /// The response as text.
    pub response: String,
}

/// A row of `confident_mistakes`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfidentMistake {
    /// Mean -logprob of the path, in nats: low is sure.
    pub entropy_nats: f64,
    /// The step.
    pub step_id: StepId,
    /// The tree.
    pub tree_id: TreeId,
    /// The problem's `id` in its own file.
    pub problem_name: String,
    /// The question.
    pub problem: String,
    /// The right answer.
    pub reference_answer: String,
    /// What the policy said.
    pub response: String,
    /// Sampled tokens of the response.
    pub response_tokens: u64,
}

/// Wrong answers of one page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MistakePage {
    /// How many there are on all pages.
    pub total: u64,
    /// Those of this page.
    pub mistakes: Vec<ConfidentMistake>,
}

/// A row of `token_use`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenUse {
    /// The step; `None` is the whole run.
    pub step_id: Option<StepId>,
    /// Tokens sampled for recorded trees.
    pub generated_tokens: u64,
    /// Of these, on a trajectory; each once.
    pub trajectory_tokens: u64,
    /// Tokens on trained trajectories, each time they occur.
    pub trained_tokens: u64,
    /// Tokens the trainer computed.
    pub packed_tokens: u64,
    /// Generated per token on a trajectory.
    pub search_overhead: Option<f64>,
    /// Trained per token computed.
    pub sharing_factor: Option<f64>,
}

pub(super) const SOLVED_PER_STEP: &str =
    "select step_id, tree_count, solved_count, solved_frac from solved_per_step where run_id = ? order by step_id";

pub(super) const STEP_SUMMARY: &str = "
    select run_id, step_id, round_id, status, problem_count, tree_count, solved_count, solved_frac, exhausted_count, undecided_count,
           failed_count, replay_count, mean_reward, loss, grad_norm, clip_frac, ratio_mean, ratio_p99, ratio_outside_frac, ratio_nan_count,
           entropy_nats, search_weight_version, produced_weight_version, update_skip_reason, skipped_group_count,
           generated_tokens, trained_tokens, packed_tokens, search_ms, train_ms, export_ms, reload_ms,
           generated_tokens_per_s, created_at_ms, ended_at_ms
    from step_summary
    where run_id = ?1 and step_id between ?2 and ?3
    order by step_id";

pub(super) const WEIGHT_HISTORY: &str = "
    select weight_version, step_id, is_confirmed, digest, path, size_bytes, reload_ms, canary_mean_abs_nats,
           canary_max_abs_nats
    from weight_history
    where run_id = ?
    order by weight_version";

pub(super) const BEST_PATH: &str = "
    select tree_id, problem_id, ordinal, verdict, reward, entropy_nats, q_path, response
    from best_path
    where tree_id = ?";

// `+run_id` keeps SQLite from starting at the trees of the run: it would join the texts of all their trajectories before
// sorting. Read in the order of its own index, the view stops at the limit.
pub(super) const CONFIDENT_MISTAKES: &str = "
    select entropy_nats, step_id, tree_id, problem_name, problem, reference_answer, response, response_tokens
    from confident_mistakes
    where +run_id = ?
    limit ? offset ?";

pub(super) const MISTAKE_TOTAL: &str = "
    select count(*) as total
    from tree t
    join trajectory j on j.tree_id = t.tree_id
    where t.run_id = ? and j.verdict = 'incorrect' and j.entropy_nats is not null";

pub(super) const TOKEN_USE: &str = "
    select step_id, generated_tokens, trajectory_tokens, trained_tokens, packed_tokens, search_overhead, sharing_factor
    from token_use
    where run_id = ?
    order by step_id is null, step_id";

impl Reader {
    /// Share of solved problems by step.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn solved_per_step(&self, run: RunId) -> Result<Vec<SolvedPerStep>, StoreError> {
        self.all(sqlx::query(SOLVED_PER_STEP).bind(run.0), |row| {
            Ok(SolvedPerStep {
                step_id: StepId(row.get("step_id")?),
                tree_count: row.int("tree_count")?,
                solved_count: row.int("solved_count")?,
                solved_frac: row.get("solved_frac")?,
            })
        })
        .await
    }

    /// The steps of a run, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn steps(&self, run: RunId) -> Result<Vec<StepSummary>, StoreError> {
        self.all(sqlx::query(STEP_SUMMARY).bind(run.0).bind(i64::MIN).bind(i64::MAX), step_summary).await
    }

    /// The weights of a run, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn weight_history(&self, run: RunId) -> Result<Vec<WeightHistory>, StoreError> {
        self.all(sqlx::query(WEIGHT_HISTORY).bind(run.0), |row| {
            Ok(WeightHistory {
                weight_version: WeightVersion(row.int("weight_version")?),
                step_id: row.get::<Option<i64>>("step_id")?.map(StepId),
                is_confirmed: row.get("is_confirmed")?,
                digest: row.get("digest")?,
                path: row.get("path")?,
                size_bytes: row.int("size_bytes")?,
                reload_ms: row.int_option("reload_ms")?,
                canary_mean_abs_nats: row.get("canary_mean_abs_nats")?,
                canary_max_abs_nats: row.get("canary_max_abs_nats")?,
            })
        })
        .await
    }

    /// The best trajectory of a tree; `None` if it has none.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn best_path(&self, tree: TreeId) -> Result<Option<BestPath>, StoreError> {
        self.optional(sqlx::query(BEST_PATH).bind(tree.0), best_path).await
    }

    /// Wrong answers the policy was sure of, surest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn confident_mistakes(&self, run: RunId, limit: u32) -> Result<Vec<ConfidentMistake>, StoreError> {
        self.mistakes_from(run, 0, limit).await
    }

    /// One page of the same, after the first `offset`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn mistake_page(&self, run: RunId, offset: u32, limit: u32) -> Result<MistakePage, StoreError> {
        let total = self.optional(sqlx::query(MISTAKE_TOTAL).bind(run.0), |row| row.int("total")).await?;
        Ok(MistakePage { total: total.unwrap_or(0), mistakes: self.mistakes_from(run, offset, limit).await? })
    }

    async fn mistakes_from(&self, run: RunId, offset: u32, limit: u32) -> Result<Vec<ConfidentMistake>, StoreError> {
        self.all(sqlx::query(CONFIDENT_MISTAKES).bind(run.0).bind(limit).bind(offset), |row| {
            Ok(ConfidentMistake {
                entropy_nats: row.get("entropy_nats")?,
                step_id: StepId(row.get("step_id")?),
                tree_id: TreeId(row.get("tree_id")?),
                problem_name: row.get("problem_name")?,
                problem: row.get("problem")?,
                reference_answer: row.get("reference_answer")?,
                response: row.get("response")?,
                response_tokens: row.int("response_tokens")?,
            })
        })
        .await
    }

    /// Where the tokens of a run went, by step and then in total.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn token_use(&self, run: RunId) -> Result<Vec<TokenUse>, StoreError> {
        self.all(sqlx::query(TOKEN_USE).bind(run.0), |row| {
            Ok(TokenUse {
                step_id: row.get::<Option<i64>>("step_id")?.map(StepId),
                generated_tokens: row.int("generated_tokens")?,
                trajectory_tokens: row.int("trajectory_tokens")?,
                trained_tokens: row.int("trained_tokens")?,
                packed_tokens: row.int("packed_tokens")?,
                search_overhead: row.get("search_overhead")?,
                sharing_factor: row.get("sharing_factor")?,
            })
        })
        .await
    }
}

fn best_path(row: &Cells<'_>) -> Result<BestPath, StoreError> {
    let q_path: String = row.get("q_path")?;
    Ok(BestPath {
        tree_id: TreeId(row.get("tree_id")?),
        problem_id: ProblemId(row.get("problem_id")?),
        ordinal: row.int("ordinal")?,
        verdict: row.name("verdict")?,
        reward: row.get("reward")?,
        entropy_nats: row.get("entropy_nats")?,
        q_path: serde_json::from_str(&q_path).map_err(|_| StoreError::Value { column: "q_path", value: q_path })?,
        response: row.get("response")?,
    })
}

pub(super) fn step_summary(row: &Cells<'_>) -> Result<StepSummary, StoreError> {
    Ok(StepSummary {
        run_id: RunId(row.get("run_id")?),
        step_id: StepId(row.get("step_id")?),
        round_id: RoundId(row.get("round_id")?),
        status: row.name("status")?,
        problem_count: row.int("problem_count")?,
        tree_count: row.int("tree_count")?,
        solved_count: row.int("solved_count")?,
        solved_frac: row.get("solved_frac")?,
        exhausted_count: row.int("exhausted_count")?,
        undecided_count: row.int("undecided_count")?,
        failed_count: row.int("failed_count")?,
        replay_count: row.int("replay_count")?,
        mean_reward: row.get("mean_reward")?,
        loss: row.get("loss")?,
        grad_norm: row.get("grad_norm")?,
        clip_frac: row.get("clip_frac")?,
        ratio_mean: row.get("ratio_mean")?,
        ratio_p99: row.get("ratio_p99")?,
        ratio_outside_frac: row.get("ratio_outside_frac")?,
        ratio_nan_count: row.int_option("ratio_nan_count")?,
        entropy_nats: row.get("entropy_nats")?,
        search_weight_version: WeightVersion(row.int("search_weight_version")?),
        produced_weight_version: row.int_option("produced_weight_version")?.map(WeightVersion),
        update_skip_reason: row.get("update_skip_reason")?,
        skipped_group_count: row.int_option("skipped_group_count")?,
        generated_tokens: row.int_option("generated_tokens")?,
        trained_tokens: row.int_option("trained_tokens")?,
        packed_tokens: row.int_option("packed_tokens")?,
        search_ms: row.int_option("search_ms")?,
        train_ms: row.int_option("train_ms")?,
        export_ms: row.int_option("export_ms")?,
        reload_ms: row.int_option("reload_ms")?,
        generated_tokens_per_s: row.get("generated_tokens_per_s")?,
        created_at_ms: row.get("created_at_ms")?,
        ended_at_ms: row.get("ended_at_ms")?,
    })
}
