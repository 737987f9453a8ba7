//! What can go wrong with the pages.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::{FailureClass, Hint};
use crate::store::StoreError;

/// Failure of the server, or of a page that is written to a file.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Others could read the runs.
    #[error("`{address}` can be reached from other machines, and the pages have no password")]
    Public {
        /// The address.
        address: SocketAddr,
    },
    /// The address is not to be had.
    #[error("cannot listen on `{address}`")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system ended the server.
    #[error("the server ended by itself")]
    Ended {
        /// What the system says.
        source: std::io::Error,
    },
    /// Nothing to show.
    #[error("there is no run in `{}`", path.display())]
    NoRun {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An answer is no JSON.
    #[error("an answer cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl Hint for ServeError {
    fn class(&self) -> FailureClass {
        match self {
            ServeError::Public { .. } | ServeError::NoRun { .. } => FailureClass::User,
            ServeError::Bind { .. } | ServeError::Ended { .. } => FailureClass::Environment,
            ServeError::Store(error) => error.class(),
            ServeError::Json(_) => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ServeError::Public { .. } => Some(
                "leave out --listen and reach it through a tunnel (ssh -L 8080:127.0.0.1:PORT HOST), or say --force"
                    .into(),
            ),
            ServeError::Bind { .. } => {
                Some("another program has the port: leave it out and a free one is taken".into())
            }
            ServeError::NoRun { .. } => {
                Some("name a run folder, its database, or a folder with run folders in it".into())
            }
            ServeError::Store(error) => error.hint(),
            ServeError::Ended { .. } | ServeError::Json(_) => None,
        }
    }
}
