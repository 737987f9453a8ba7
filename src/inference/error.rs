//! What can go wrong between the orchestrator and an engine.

use std::path::PathBuf;
use std::time::Duration;

use super::ReloadPhase;
use crate::error::{FailureClass, Hint};
use crate::types::WeightVersion;

/// A cause from another library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Failure of an engine call.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The server could not be reached, or the connection broke.
    #[error("no answer from the server at `{url}`")]
    Unreachable {
        /// Base URL.
        url: String,
        /// What the transport said.
        #[source]
        source: Cause,
    },
    /// The server refused the request (4xx other than 429): a bug or a bad problem.
    #[error("the server at `{url}` refused `{path}` ({status}): {message}")]
    Refused {
        /// Base URL.
        url: String,
        /// Path of the call.
        path: String,
        /// HTTP status.
        status: u16,
        /// The server's own words.
        message: String,
    },
    /// The server is overloaded (429) or failed by itself (5xx).
    #[error("the server at `{url}` failed at `{path}` ({status}): {message}")]
    ServerFailed {
        /// Base URL.
        url: String,
        /// Path of the call.
        path: String,
        /// HTTP status.
        status: u16,
        /// The server's own words.
        message: String,
        /// How long it asks to be left alone (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// No answer within the deadline.
    #[error("no answer from the server at `{url}` to `{path}` within {} s", deadline.as_secs_f64())]
    Deadline {
        /// Base URL.
        url: String,
        /// Path of the call.
        path: String,
        /// Time allowed.
        deadline: Duration,
    },
    /// The server answered something that this program cannot use.
    #[error("unusable answer from the server at `{url}` to `{path}`: {problem}")]
    BadAnswer {
        /// Base URL.
        url: String,
        /// Path of the call.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The server stopped a request before it was done, or its weights changed meanwhile; the answer was discarded.
    #[error("the server at `{url}` did not finish the request: {reason}")]
    Interrupted {
        /// Base URL.
        url: String,
        /// Why the answer could not be used.
        reason: String,
    },
    /// The replica's weights are in doubt: it gets no work until a load is confirmed.
    #[error("the server at `{url}` is fenced off: {reason}")]
    Fenced {
        /// Base URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// A phase of a reload failed; the replica is fenced off.
    #[error("weight version {version} was not accepted by the server at `{url}`, in phase `{phase}`")]
    Reload {
        /// Base URL.
        url: String,
        /// The version that was to be loaded.
        version: WeightVersion,
        /// The phase that failed.
        phase: ReloadPhase,
        /// What failed in it.
        #[source]
        source: Box<EngineError>,
    },
    /// The worker refused the weights before it touched the model.
    #[error("the weights were refused and the old ones kept: {message}")]
    WeightsRefused {
        /// The worker's own words.
        message: String,
    },
    /// The worker failed after it had begun to replace the weights.
    #[error("the load failed half way and the model is unusable: {message}")]
    WeightsBroken {
        /// The worker's own words.
        message: String,
    },
    /// The worker holds something else than was written.
    #[error("{what} differs: trainer `{expected}`, server `{found}`")]
    WeightsDiffer {
        /// Digest, version or tensor.
        what: String,
        /// What the trainer wrote.
        expected: String,
        /// What the server holds.
        found: String,
    },
    /// The server lacks something that this program needs.
    #[error("the server at `{url}` cannot be used: {problem}")]
    Unsupported {
        /// Base URL.
        url: String,
        /// What it lacks.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// The sampling settings and the server's logprobs do not belong to one distribution, so the ratio trainer/server
    /// would be biased.
    #[error("{problem}")]
    Biased {
        /// Setting and effect.
        problem: String,
        /// What to change.
        hint: String,
    },
    /// The engine in this process.
    #[error("the embedded engine failed")]
    Embedded {
        /// Whose fault it is.
        class: FailureClass,
        /// What to do.
        hint: Option<String>,
        /// What failed.
        #[source]
        source: Cause,
    },
    /// No server can be used, though each may come back.
    #[error("none of {count} servers can be used: {}", reasons.join("; "))]
    NoReplica {
        /// How many there are.
        count: usize,
        /// What is wrong with each.
        reasons: Vec<String>,
    },
    /// A server's address that is not talked to.
    #[error("the address `{url}` cannot be used: {problem}")]
    Address {
        /// Base URL, without a password.
        url: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// There is no key where the configuration says.
    #[error("the environment variable `{variable}`, which `inference.api_key_env` names, holds no usable key")]
    NoApiKey {
        /// The variable.
        variable: String,
    },
    /// No server is configured.
    #[error("no server to generate with: `inference.launch` is false and `inference.urls` is empty")]
    NoServer,
    /// The server program could not be started.
    #[error("could not start `{program}`")]
    Launch {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The port of the server to be launched is taken.
    #[error("port {port} cannot be used for the server")]
    PortInUse {
        /// The port.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The supervised server ended by itself.
    #[error("the server ended by itself ({status}); log `{}`:\n{tail}", log.display())]
    ServerExited {
        /// How it ended.
        status: String,
        /// Its log file.
        log: PathBuf,
        /// Errors in the log and its last lines.
        tail: String,
    },
    /// The launched server did not answer in time.
    #[error("the server was not ready within {} s; log `{}`:\n{tail}", deadline.as_secs(), log.display())]
    NotReady {
        /// Time allowed.
        deadline: Duration,
        /// Its log file.
        log: PathBuf,
        /// Errors in the log and its last lines.
        tail: String,
    },
    /// A file of the run folder could not be written.
    #[error("could not write `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A broken invariant of this program.
    #[error("broken invariant: {invariant}")]
    Bug {
        /// The invariant.
        invariant: String,
    },
}

impl EngineError {
    /// Whether the engine is well and only this request cannot be met.
    pub fn is_refusal(&self) -> bool {
        matches!(self, EngineError::Refused { .. } | EngineError::Embedded { class: FailureClass::User, .. })
    }

    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            EngineError::Unreachable { .. }
            | EngineError::ServerFailed { .. }
            | EngineError::Interrupted { .. }
            | EngineError::NoReplica { .. } => true,
            EngineError::Reload { source, .. } => source.is_outage(),
            _ => false,
        }
    }

    /// Whether the server is gone or silent, rather than of another opinion.
    pub fn is_outage(&self) -> bool {
        match self {
            EngineError::Unreachable { .. } | EngineError::ServerFailed { .. } | EngineError::Deadline { .. } => true,
            EngineError::Reload { source, .. } => source.is_outage(),
            _ => false,
        }
    }

    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            EngineError::ServerFailed { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl Hint for EngineError {
    fn class(&self) -> FailureClass {
        match self {
            EngineError::Refused { .. }
            | EngineError::Biased { .. }
            | EngineError::NoServer
            | EngineError::Address { .. }
            | EngineError::NoApiKey { .. } => FailureClass::User,
            EngineError::Bug { .. } => FailureClass::Bug,
            EngineError::Embedded { class, .. } => *class,
            _ => FailureClass::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            EngineError::Unreachable { url, .. } => Some(format!("check that a vLLM server runs at `{url}`")),
            EngineError::Embedded { hint, .. } => hint.clone(),
            EngineError::Unsupported { hint, .. }
            | EngineError::Biased { hint, .. }
            | EngineError::Address { hint, .. } => Some(hint.clone()),
            EngineError::NoApiKey { variable } => {
                Some(format!("export `{variable}` with the server's key, or leave `inference.api_key_env` empty"))
            }
            EngineError::NoReplica { .. } => Some("start the servers again and then the run: it goes on".into()),
            EngineError::Refused { status: 401, .. } => {
                Some("the server wants a key: name the variable that holds it in `inference.api_key_env`".into())
            }
            EngineError::NoServer => {
                Some("set `inference.launch = true`, or name running servers in `inference.urls`".into())
            }
            EngineError::Launch { .. } => Some(
                "set `inference.command` to the Python of an environment with vLLM, or run `make setup ENGINE=vllm`"
                    .into(),
            ),
            EngineError::PortInUse { .. } => {
                Some("set `inference.port` to a free one, or to 0 to have one chosen".into())
            }
            EngineError::ServerExited { tail, .. } if tail.contains("No module named 'vllm'") => Some(
                "set `inference.command` to the Python of an environment with vLLM, or run `make setup ENGINE=vllm`"
                    .into(),
            ),
            EngineError::NotReady { .. } => Some("raise `inference.start_timeout_s` if the log shows progress".into()),
            EngineError::Reload { .. } | EngineError::Fenced { .. } => {
                Some("the server is fenced off; restart it and start the run again".into())
            }
            EngineError::Deadline { .. } => Some(
                "the server may be paused or overloaded: look at its `/is_paused`, or lower `inference.max_sequences`"
                    .into(),
            ),
            _ => None,
        }
    }
}
