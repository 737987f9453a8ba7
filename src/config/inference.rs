//! `[inference]`: the server.

use serde::{Deserialize, Serialize};

/// Which logprobs the server is started with (`--logprobs-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogprobsMode {
    /// Before temperature, top-p and top-k.
    Raw,
    /// After them: the distribution that is sampled from.
    Processed,
}

/// Where a launched server computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerDevice {
    /// The GPU where there is an NVIDIA driver, else the processor.
    Auto,
    /// The processor (vLLM's CPU wheel).
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceConfig {
    /// Start and supervise a vLLM server for the time of the run.
    pub launch: bool,
    /// Base URLs of running servers, used when `launch` is false.
    pub urls: Vec<String>,
    /// Python that starts the server when `launch` is true, with arguments that go before `-m`. Empty:
    /// `.venv/bin/python` in the working folder if it is there, else `python3`.
    pub command: Vec<String>,
    /// Where the launched server computes.
    pub device: ServerDevice,
    /// Port of the launched server; 0 picks a free one.
    pub port: u16,
    /// Further flags of the launched server.
    pub extra_args: Vec<String>,
    /// Element type of the launched server's weights: `bfloat16`, `float32`, `auto`.
    pub dtype: String,
    /// Context of the launched server in tokens.
    pub max_model_tokens: usize,
    /// Memory of the launched server's KV cache in GiB when it computes on the processor.
    pub cpu_kv_cache_gib: u32,
    /// Share of the GPU's memory that the launched server takes when it computes there; the trainer needs the rest.
    pub gpu_memory_frac: f64,
    /// Logprobs of the launched server.
    pub logprobs_mode: LogprobsMode,
    /// Seconds until a launched server must answer.
    pub start_timeout_s: u64,
    /// Sequences in flight over all trees; 0 takes what the servers say they can batch.
    pub max_sequences: usize,
    /// Seconds until one generation request must have answered.
    pub request_timeout_s: u64,
    /// Seconds for each phase of a reload.
    pub reload_timeout_s: u64,
    /// Seconds over which a failed request is tried again, from its first failure.
    pub retry_timeout_s: u64,
}

impl Default for InferenceConfig {
    fn default() -> Self {
        InferenceConfig {
            launch: false,
            urls: Vec::new(),
            command: Vec::new(),
            device: ServerDevice::Auto,
            port: 0,
            extra_args: Vec::new(),
            dtype: "auto".into(),
            max_model_tokens: 18_432,
            cpu_kv_cache_gib: 2,
            gpu_memory_frac: 0.45,
            logprobs_mode: LogprobsMode::Processed,
            start_timeout_s: 600,
            max_sequences: 0,
            request_timeout_s: 600,
            reload_timeout_s: 120,
            retry_timeout_s: 120,
        }
    }
}
