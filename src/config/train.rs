//! `[train]`: Tree-GRPO and the optimizer.

use serde::{Deserialize, Serialize};

/// Where the trainer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceChoice {
    /// CUDA where there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

/// Element type of forward and backward pass; masters and moments are always fp32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeDtype {
    /// float32: faster than bf16 on a CPU without AMX.
    Float32,
    /// bfloat16.
    Bfloat16,
}

/// Element type of exported weights, which the server loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportDtype {
    /// That of the file the model came from.
    Source,
    /// float32: the server sees every update, however small.
    Float32,
    /// bfloat16: an update below half a unit in the last place (0.2 % of a weight) reaches the server only when enough
    /// of them have added up in the fp32 masters.
    Bfloat16,
}

/// How node values become advantages. The formulas are in `trainer/advantage.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageForm {
    /// Node value, weighed by how surprising its sign is in its group, so that an advantage never has the opposite sign of
    /// the value: no correct path is pushed down, a confident mistake is pushed down even where its whole tree failed, and
    /// a tree in which everything is right has no signal.
    Signed,
    /// As `signed`, but an incorrect path pushes no node up: what it shares with a correct one counts once for each
    /// correct path, not once for each path.
    Agreeing,
    /// The default: the node's value alone, without a baseline (the rows of the paper's table 4 before any normalisation).
    /// Keeps the sign of the value as well, and teaches what is right also where the search kept nothing else.
    Value,
    /// As published: node value minus the mean terminal reward. Pushes early tokens up in a tree where everything
    /// failed, and down where everything succeeded.
    MeanOnly,
    /// As published, divided by the standard deviation of the terminal rewards.
    MeanStd,
}

/// What the value of a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenCredit {
    /// The backed-up value of its node, soft-clipped (equation 13).
    Node,
    /// The reward of its trajectory's leaf, as in GRPO.
    Outcome,
}

/// Over what the loss of a mini-batch is a mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossMean {
    /// All tokens alike (DAPO, DeepSearch).
    Token,
    /// All trajectories alike, and in each its tokens (GRPO).
    Trajectory,
}

/// The old policy of the ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldLogprobs {
    /// Computed by the trainer before the first mini-batch of a step.
    Recompute,
    /// The engine's own.
    Engine,
}

/// The projections of a block, which adapters may be put on.
pub const PROJECTIONS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The largest rank of an adapter that vLLM takes.
pub const MOST_RANK: u32 = 512;

/// `[train.lora]`: low-rank adapters (LoRA, arXiv 2106.09685). With them the model's own weights are frozen; gradients,
/// moments and fp32 masters exist of the adapters only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// r, the inner dimension of the adapters; 0 is off: all weights are trained. Changes results, as the other two do.
    pub rank: u32,
    /// An adapter adds (alpha / rank) B A x.
    pub alpha: f64,
    /// Projections with adapters, of `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj` and `down_proj`.
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// Whether there are adapters.
    pub fn is_on(&self) -> bool {
        self.rank > 0
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig { rank: 0, alpha: 32.0, targets: PROJECTIONS.map(str::to_owned).to_vec() }
    }
}

/// Tree-GRPO and the optimizer. Defaults are the paper's (appendix A), but for `advantage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Compute threads of the trainer; 0 leaves libtorch's default.
    pub threads: u32,
    /// Element type of forward and backward pass.
    pub dtype: ComputeDtype,
    /// Element type of exported weights. With `dtype = "float32"` and bfloat16 exports the server lags behind the
    /// trainer, which shows in the ratio and in the canary. Changes results.
    pub export_dtype: ExportDtype,
    /// Problems per optimizer step.
    pub minibatch_problems: u32,
    /// Most packed tokens in one forward pass.
    pub micro_batch_tokens: usize,
    /// Rows of the vocabulary projection computed at once.
    pub vocab_chunk_tokens: usize,
    /// Keep only each block's input and compute the block again in the backward pass: about a third more time, about a
    /// third of the memory. Does not change results.
    pub checkpoint_activations: bool,
    /// Memory of the device that training may take, in MiB; 0 is what is free when it starts. Where `micro_batch_tokens`
    /// would take more, it is lowered to what fits, which changes results in the last bits at most. To be set where
    /// something else takes memory later: a server on the same GPU, other programs.
    pub memory_limit_mib: u64,
    /// Keep the fp32 masters and the moments of the optimizer, 12 bytes a parameter, in the host's memory, and update them
    /// there. Changes nothing on a CPU.
    pub offload_optimizer: bool,
    /// How node values become advantages.
    pub advantage: AdvantageForm,
    /// What the value of a token is.
    pub token_credit: TokenCredit,
    /// Over what the loss is a mean.
    pub loss_mean: LossMean,
    /// Leave incorrect answers that are garbled or repeat themselves out of the update. They are recorded either way, and
    /// count as failures in the baseline.
    pub drop_defective: bool,
    /// eps_q of the soft clip tanh(q / eps_q) * q_max; 0 or less: no clip.
    pub q_temperature: f64,
    /// q_max of the soft clip.
    pub q_max: f64,
    /// Tokens before the end of the response budget from which length is penalised; 0 is off.
    pub overlong_buffer_tokens: u32,
    /// Factor of the overlong penalty.
    pub overlong_factor: f64,
    /// Lower clip of the ratio.
    pub clip_low: f64,
    /// Upper clip of the ratio.
    pub clip_high: f64,
    /// Dual clip: bound of the ratio for negative advantages.
    pub dual_clip: f64,
    /// The old policy of the ratio.
    pub old_logprobs: OldLogprobs,
    /// Cap of the truncated importance weight trainer/engine; 0 is off.
    pub importance_cap: f64,
    /// The same cap for the tokens of cached solutions, which older weights sampled; above 0.
    pub cached_importance_cap: f64,
    /// Learning rate after warm-up.
    pub learning_rate: f64,
    /// Optimizer steps of linear warm-up: update k (from 1) uses learning_rate * min(1, k / warmup_steps).
    pub warmup_steps: u32,
    /// Decoupled weight decay, on every parameter.
    pub weight_decay: f64,
    /// beta1 of AdamW.
    pub beta1: f64,
    /// beta2 of AdamW.
    pub beta2: f64,
    /// epsilon of AdamW.
    pub epsilon: f64,
    /// Largest global norm of the gradient; 0 is off.
    pub max_grad_norm: f64,
    /// Low-rank adapters in place of all weights.
    pub lora: LoraConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            device: DeviceChoice::Auto,
            threads: 0,
            dtype: ComputeDtype::Bfloat16,
            export_dtype: ExportDtype::Source,
            minibatch_problems: 32,
            micro_batch_tokens: 18_432,
            vocab_chunk_tokens: 1024,
            checkpoint_activations: true,
            memory_limit_mib: 0,
            offload_optimizer: false,
            advantage: AdvantageForm::Value,
            token_credit: TokenCredit::Node,
            loss_mean: LossMean::Token,
            drop_defective: true,
            q_temperature: 1.0,
            q_max: 1.0,
            overlong_buffer_tokens: 4096,
            overlong_factor: 1.0,
            clip_low: 0.2,
            clip_high: 0.28,
            dual_clip: 10.0,
            old_logprobs: OldLogprobs::Recompute,
            importance_cap: 2.0,
            cached_importance_cap: 2.0,
            learning_rate: 1e-6,
            warmup_steps: 10,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            lora: LoraConfig::default(),
        }
    }
}
