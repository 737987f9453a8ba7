//! Where tracing goes: JSON lines into the run folder, nothing on the terminal (the command line draws that itself).

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// Appends every event at the level of `ORCHESTRATOR_LOG` (default `info`) to `path` as one JSON object a line.
///
/// # Errors
/// The file cannot be opened. A subscriber that is already set stays and is no error.
pub fn log_to_file(path: &Path) -> std::io::Result<()> {
    let file: File = OpenOptions::new().create(true).append(true).open(path)?;
    let filter =
        EnvFilter::try_from_env("ORCHESTRATOR_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,hyper=warn"));
    let layer = tracing_subscriber::fmt::layer().json().with_writer(Mutex::new(file)).with_filter(filter);
    let _ = tracing_subscriber::registry().with(layer).try_init();
    Ok(())
}
