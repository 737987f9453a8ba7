//! What a run tells whoever is watching. One closed enum: everything that can be seen is in this list.

use std::time::Duration;

use crate::types::{RoundId, StepId, Verdict, WeightVersion};

/// Receives events; must return quickly. Called from many tasks.
pub type Observer = std::sync::Arc<dyn Fn(Event) + Send + Sync>;

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A phase of the start began, in words.
    Starting(String),
    /// The server answers and holds the weights that the run starts from.
    Ready {
        /// Time from the start of the run.
        elapsed: Duration,
        /// Sequences that may be in flight.
        max_sequences: usize,
    },
    /// A run goes on where it was.
    Resumed {
        /// Steps that are done.
        steps_done: u32,
        /// The checkpoint that was loaded; `None`: the model that the run began with.
        checkpoint: Option<StepId>,
        /// Updates that were repeated from stored trees, since then.
        repeated: u32,
    },
    /// The pass rate of a round's problems is being measured.
    FilterStarted {
        /// The round.
        round: RoundId,
        /// Problems left to measure.
        problems: usize,
    },
    /// One problem was measured.
    Filtered,
    /// A round knows its problems.
    RoundStarted {
        /// The round.
        round: RoundId,
        /// Of how many.
        rounds: u32,
        /// Problems it began with.
        candidates: usize,
        /// Those it works on.
        hard: usize,
        /// Of these, how many have a cached solution.
        cached: usize,
    },
    /// The policy is being measured on held-out problems.
    EvaluationStarted {
        /// After this step; 0 is before the first.
        step: StepId,
        /// Problems.
        problems: usize,
    },
    /// The policy was measured.
    Evaluated(Evaluation),
    /// The search of a step began.
    SearchStarted {
        /// Step number, from 1.
        step: StepId,
        /// Trees to grow.
        trees: usize,
        /// The weights that search.
        weight_version: WeightVersion,
    },
    /// One expansion came back.
    Expanded {
        /// Tokens sampled by it.
        tokens: usize,
    },
    /// One tree is finished and stored.
    TreeFinished {
        /// The step that it belongs to: the last trees of one may end beside the first of the next.
        step: StepId,
        /// A correct trajectory was found.
        solved: bool,
        /// Verdicts of its trajectories.
        verdicts: Vec<Verdict>,
    },
    /// The trainer has the step's trajectories.
    UpdateStarted {
        /// Step number.
        step: StepId,
    },
    /// The new weights are on their way to the server.
    PublishStarted {
        /// Step number.
        step: StepId,
        /// The version being published.
        weight_version: WeightVersion,
    },
    /// A step is complete and stored.
    StepFinished(Box<StepSummary>),
    /// A benchmark samples, or goes on to.
    BenchmarkStarted {
        /// Problems of all files.
        problems: usize,
        /// Of these, those whose samples are all there.
        problems_done: usize,
        /// Samples that are still to come.
        samples: usize,
        /// Verdicts of the samples that are there.
        verdicts: Vec<Verdict>,
    },
    /// A sample of a benchmark is there, and recorded.
    Sampled {
        /// Its tokens.
        tokens: usize,
        /// What the verifier says of it.
        verdict: Verdict,
        /// It is the last one of its problem.
        is_last: bool,
    },
    /// Something was lost or degraded; the run goes on.
    Warning(String),
}

/// Accuracy on held-out problems.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// After this step; 0 is before the first.
    pub step: StepId,
    /// The weights.
    pub weight_version: WeightVersion,
    /// Problems.
    pub problems: usize,
    /// Rollouts per problem.
    pub samples: u32,
    /// Mean over the problems of the share of correct rollouts; `None` where nothing is known of any.
    pub pass_at_1: Option<f64>,
    /// Share of the problems with a correct rollout; `None` where nothing is known of any.
    pub pass_at_k: Option<f64>,
    /// Time it took.
    pub elapsed: Duration,
}

/// The figures of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSummary {
    /// The round it belongs to, from 1.
    pub round: RoundId,
    /// Step number, from 1.
    pub step: StepId,
    /// Trees grown.
    pub trees: usize,
    /// Trees with at least one correct trajectory.
    pub solved_trees: usize,
    /// Trees that failed (refused by the server) and are not trained on.
    pub failed_trees: usize,
    /// Trees whose search was spared since a solution was cached.
    pub replays: usize,
    /// Tokens that those searches would have taken, by the mean of the run's searches, less what was sampled instead.
    pub tokens_saved: f64,
    /// Trajectories from the cache.
    pub cached_trajectories: usize,
    /// Trajectories that are garbled or repeat themselves; the incorrect ones are left out of the update.
    pub defective_trajectories: usize,
    /// Trajectories backed up.
    pub trajectories: usize,
    /// Of these, how many differ in their tokens from the others of their tree.
    pub distinct_trajectories: usize,
    /// Correct share of all terminals that were verified, whether backed up or not: the policy's own pass rate under
    /// the search's sampling.
    pub terminal_pass_frac: f64,
    /// Mean reward of the trajectories that were sampled in this step.
    pub mean_reward: f64,
    /// Tokens sampled.
    pub generated_tokens: usize,
    /// Time of the search.
    pub search: Duration,
    /// Time of the update.
    pub train: Duration,
    /// Time of export, reload and canary.
    pub publish: Duration,
    /// Since the step before ended.
    pub wall: Duration,
    /// The part of `wall` during which at least one request was with the engine.
    pub generating: Duration,
    /// Loss over the step's mini-batches, mean; `None` without an update.
    pub loss: Option<f64>,
    /// Gradient norm before clipping, mean; `None` without an update.
    pub grad_norm: Option<f64>,
    /// Mean of trainer/engine probability ratio over all sampled tokens.
    pub engine_ratio_mean: Option<f64>,
    /// Groups without a signal, which are not trained on.
    pub groups_skipped: usize,
    /// Every update of the step was skipped for a gradient that is not finite.
    pub is_diverged: bool,
    /// The weights when the search began; a restart or a reload beside it may have brought newer ones.
    pub search_version: WeightVersion,
    /// The weights the server holds after the step.
    pub weight_version: WeightVersion,
}

impl StepSummary {
    /// Sampled tokens per second of search.
    pub fn tokens_per_s(&self) -> f64 {
        self.generated_tokens as f64 / self.search.as_secs_f64().max(1e-9)
    }
}
