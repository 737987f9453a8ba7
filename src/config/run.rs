//! `[run]`: what is trained, where it is written, how long.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The run itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Name shown by `inspect`.
    pub name: String,
    /// Folder in the Hugging Face layout: config.json, tokenizer.json, *.safetensors.
    pub model: PathBuf,
    /// Folder of the run: database, weights, server log. Created if missing.
    pub dir: PathBuf,
    /// Folder for exported weights, which every server must see under the same path; empty is the run's own folder.
    /// Shared memory (`/dev/shm/...`) spares the disk two copies of the model.
    pub weights_dir: PathBuf,
    /// Seed of every random stream. Changes results.
    pub seed: u64,
    /// Training steps.
    pub steps: u32,
    /// Problems searched per step (the paper: 256).
    pub problems_per_step: u32,
    /// Keep the exported weights of every n-th step beside the newest; 0 keeps only the newest (the paper: 5).
    pub keep_every: u32,
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
            seed: 1,
            steps: 100,
            problems_per_step: 256,
            keep_every: 5,
            canary_tolerance_nats: 0.15,
        }
    }
}
