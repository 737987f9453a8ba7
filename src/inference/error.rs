//! What can go wrong between the orchestrator and an engine.

use std::time::Duration;

use crate::error::{FailureClass, Hint};

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
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused the request: a bug or a bad problem.
    #[error("the server at `{url}` refused the request ({status}): {message}")]
    Refused {
        /// Base URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's own words.
        message: String,
    },
    /// No answer within the deadline.
    #[error("no answer from the server at `{url}` within {} s", deadline.as_secs())]
    Deadline {
        /// Base URL.
        url: String,
        /// Time allowed.
        deadline: Duration,
    },
}

impl Hint for EngineError {
    fn class(&self) -> FailureClass {
        match self {
            EngineError::Refused { .. } => FailureClass::User,
            _ => FailureClass::Environment,
        }
    }
}
