//! What a run tells whoever is watching. One closed enum: everything that can be seen is in this list.

use std::time::Duration;

use crate::types::{StepId, Verdict, WeightVersion};

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
    /// Something was lost or degraded; the run goes on.
    Warning(String),
}

/// The figures of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSummary {
    /// Step number, from 1.
    pub step: StepId,
    /// Trees grown.
    pub trees: usize,
    /// Trees with at least one correct trajectory.
    pub solved_trees: usize,
    /// Trees that failed (refused by the server) and are not trained on.
    pub failed_trees: usize,
    /// Trajectories backed up.
    pub trajectories: usize,
    /// Of these, how many differ in their tokens from the others of their tree.
    pub distinct_trajectories: usize,
    /// Correct share of all terminals that were verified, whether backed up or not: the policy's own pass rate under
    /// the search's sampling.
    pub terminal_pass_frac: f64,
    /// Mean reward of the backed-up trajectories.
    pub mean_reward: f64,
    /// Tokens sampled.
    pub generated_tokens: usize,
    /// Time of the search.
    pub search: Duration,
    /// Time of the update.
    pub train: Duration,
    /// Time of export, reload and canary.
    pub publish: Duration,
    /// Loss over the step's mini-batches, mean; `None` without an update.
    pub loss: Option<f64>,
    /// Gradient norm before clipping, mean; `None` without an update.
    pub grad_norm: Option<f64>,
    /// Mean of trainer/engine probability ratio over all sampled tokens.
    pub engine_ratio_mean: Option<f64>,
    /// Every update of the step was skipped for a gradient that is not finite.
    pub is_diverged: bool,
    /// The weights the server holds after the step.
    pub weight_version: WeightVersion,
}

impl StepSummary {
    /// Sampled tokens per second of search.
    pub fn tokens_per_s(&self) -> f64 {
        self.generated_tokens as f64 / self.search.as_secs_f64().max(1e-9)
    }
}
