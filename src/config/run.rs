//! `[run]`: what is trained, where it is written, how long.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What grows the trajectories that are trained on. Chooses defaults elsewhere, see [`super::Config::preset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Tree search, node values, hard problems only, solutions kept.
    Deepsearch,
    /// Direct rollouts, rewards normalised in the group, one clip bound, mean over trajectories.
    Grpo,
    /// Direct rollouts with clip-higher, dynamic sampling, overlong shaping, mean over tokens.
    Dapo,
}

impl Algorithm {
    /// The name used in SQL, JSON and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Deepsearch => "deepsearch",
            Algorithm::Grpo => "grpo",
            Algorithm::Dapo => "dapo",
        }
    }
}

/// Whether the search waits for the trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pipeline {
    /// A step's trees are grown with the weights of the step before.
    Sync,
    /// The next step's trees grow beside this step's last ones and while the trainer works: at most `max_staleness` steps
    /// off-policy. Needs a server beside the trainer.
    Overlap,
}

/// Which nodes keep their tokens and text in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepText {
    /// Every node.
    All,
    /// Nodes on trajectories, and whole answers of direct rollouts.
    Trained,
    /// None but the prompts, as soon as a checkpoint has made the others needless for a resume.
    None,
}

/// The run itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Name shown by `inspect`.
    pub name: String,
    /// Folder in the Hugging Face layout: config.json, tokenizer.json, *.safetensors.
    pub model: PathBuf,
    /// Folder of the run: database, weights, server log. Created if missing, for its owner's eyes only.
    pub dir: PathBuf,
    /// Folder for exported weights, which every server must see under the same path; empty is the run's own folder.
    /// Shared memory (`/dev/shm/...`) spares the disk two copies of the model.
    pub weights_dir: PathBuf,
    /// What grows trajectories. Changes results.
    pub algorithm: Algorithm,
    /// Seed of every random stream. Changes results.
    pub seed: u64,
    /// Training steps, over all rounds.
    pub steps: u32,
    /// Sampled tokens, those of filters included, after which no further step is begun; 0 is no limit. What is measured on
    /// held-out problems does not count. Changes results; a resume may be given more.
    pub max_generated_tokens: u64,
    /// Problems searched per step (the paper: 256).
    pub problems_per_step: u32,
    /// Keep the exported weights of every n-th version beside the newest, 0 included; 0 keeps only the newest (the paper:
    /// 5).
    pub keep_every: u32,
    /// Steps between two checkpoints of weights and optimizer (the paper: 5); 0 writes none. A resume goes on from the
    /// newest one and repeats the updates since then from the stored trees.
    pub checkpoint_every: u32,
    /// Checkpoints that are kept, at least 1.
    pub checkpoints_kept: u32,
    /// Whose tokens and text the database keeps: `all` nodes'; those of the `trained` ones, on trajectories; `none`, once
    /// checkpoints make the text needless for a resume. Figures of nodes and kept solutions always stay.
    pub keep_text: KeepText,
    /// Keep the logprobs of old tokens, too, when no resume needs them any more.
    pub keep_logprobs: bool,
    /// Whether the search waits for the trainer. Changes results.
    pub pipeline: Pipeline,
    /// With `overlap`, at least 1: the most updates that may be missing in the weights that begin to search for a step. More
    /// than 1 helps where the last trees of a step take longer than a whole step. Changes results.
    pub max_staleness: u32,
    /// Largest absolute difference between a canary logprob of the server and of the trainer, mean over the
    /// sequence, in nats. bf16 against fp32 is about 0.04.
    pub canary_tolerance_nats: f64,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            name: "run".into(),
            model: PathBuf::new(),
            dir: "runs/run".into(),
            weights_dir: PathBuf::new(),
            algorithm: Algorithm::Deepsearch,
            seed: 1,
            steps: 100,
            max_generated_tokens: 0,
            problems_per_step: 256,
            keep_every: 5,
            checkpoint_every: 5,
            checkpoints_kept: 2,
            keep_text: KeepText::Trained,
            keep_logprobs: true,
            pipeline: Pipeline::Sync,
            max_staleness: 1,
            canary_tolerance_nats: 0.15,
        }
    }
}
