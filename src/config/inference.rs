//! `[inference]`: what samples continuations, a vLLM server or the trainer's own process.

use serde::{Deserialize, Serialize};

/// What samples continuations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// vLLM, by HTTP: one that is launched for the run, or running servers.
    Vllm,
    /// The trainer's own model in this process, on the device of `train.device`: no server, no Python, no second copy of
    /// the weights, and the same run again for the same seed.
    Embedded,
}

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

/// Sequences in flight of the embedded engine where the configuration names no number: beyond it a step of decoding on a
/// processor takes about as much longer as it brings.
pub const EMBEDDED_SEQUENCES: usize = 64;

/// The engine. Keys that say `vLLM` are ignored by the embedded one, and the other way round, so that one file serves
/// both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceConfig {
    /// What samples continuations.
    pub engine: EngineKind,
    /// vLLM: start and supervise a server for the time of the run.
    pub launch: bool,
    /// vLLM: base URLs of running servers, used when `launch` is false.
    pub urls: Vec<String>,
    /// vLLM: base URL of a router in front of exactly the servers of `urls`: generation goes through it, with the tree in the
    /// header `X-Session-ID`, and all else straight to the servers. Empty: no router.
    pub router: String,
    /// vLLM: Python that starts the server when `launch` is true, with arguments that go before `-m`. Empty:
    /// `.venv/bin/python` in the working folder if it is there, else `python3`.
    pub command: Vec<String>,
    /// vLLM: where the launched server computes.
    pub device: ServerDevice,
    /// vLLM: port of the launched server; 0 picks a free one.
    pub port: u16,
    /// vLLM: further flags of the launched server.
    pub extra_args: Vec<String>,
    /// vLLM: element type of the launched server's weights: `bfloat16`, `float32`, `auto`.
    pub dtype: String,
    /// Both: largest number of prompt and generated tokens together; the context of a launched server.
    pub max_model_tokens: usize,
    /// Embedded: largest size in MiB of the keys and values of all sequences and prefixes. Beyond it prefixes that nobody
    /// reads are dropped, and computed again when they are needed.
    pub cache_mib: u64,
    /// vLLM: memory of the launched server's KV cache in GiB when it computes on the processor.
    pub cpu_kv_cache_gib: u32,
    /// vLLM: share of the GPU's memory that the launched server takes when it computes there; the trainer needs the rest.
    pub gpu_memory_frac: f64,
    /// vLLM: the server and the trainer have one GPU in turns: the server sleeps while there is an update, its weights in
    /// the host's memory and its KV cache given up, and `gpu_memory_frac` may be most of the GPU.
    pub sleep_while_training: bool,
    /// vLLM: logprobs of the launched server.
    pub logprobs_mode: LogprobsMode,
    /// vLLM: seconds until a launched server must answer.
    pub start_timeout_s: u64,
    /// Both: sequences in flight over all trees; 0 takes what the servers say they can batch, and 64 with the embedded
    /// engine.
    pub max_sequences: usize,
    /// vLLM: seconds until one generation request must have answered.
    pub request_timeout_s: u64,
    /// vLLM: seconds for each phase of a reload.
    pub reload_timeout_s: u64,
    /// vLLM: seconds over which a failed request is tried again, from its first failure.
    pub retry_timeout_s: u64,
    /// vLLM: seconds between two looks at a server that works, and until such a look must be answered. Requests at a server
    /// that fails two in a row go on at another.
    pub health_check_s: u64,
    /// vLLM: environment variable that holds the servers' API key; a launched server is given it, too. Empty: no key. The
    /// key itself never goes into the configuration.
    pub api_key_env: String,
    /// vLLM: use servers at public addresses. Whoever reaches such a server can replace its model, key or not.
    pub allow_public: bool,
}

impl Default for InferenceConfig {
    fn default() -> Self {
        InferenceConfig {
            engine: EngineKind::Vllm,
            launch: false,
            urls: Vec::new(),
            router: String::new(),
            command: Vec::new(),
            device: ServerDevice::Auto,
            port: 0,
            extra_args: Vec::new(),
            dtype: "auto".into(),
            max_model_tokens: 18_432,
            cache_mib: 1024,
            cpu_kv_cache_gib: 2,
            gpu_memory_frac: 0.45,
            sleep_while_training: false,
            logprobs_mode: LogprobsMode::Processed,
            start_timeout_s: 600,
            max_sequences: 0,
            request_timeout_s: 600,
            reload_timeout_s: 120,
            retry_timeout_s: 120,
            health_check_s: 10,
            api_key_env: String::new(),
            allow_public: false,
        }
    }
}
