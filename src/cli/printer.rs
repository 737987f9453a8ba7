//! The only place that writes to the terminal: data to stdout, everything else to stderr.

use std::io::Write;

use crate::error::{Failure, FailureClass, Hint};

/// Data that was asked for did not reach stdout.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct Unwritten(#[source] std::io::Error);

impl Hint for Unwritten {
    fn class(&self) -> FailureClass {
        FailureClass::Environment
    }
}

/// Writes to stdout and stderr. A closed pipe ends output silently, as a reader such as `head` expects.
#[derive(Debug, Default)]
pub struct Printer;

impl Printer {
    /// A printer on the process's own stdout and stderr.
    pub fn new() -> Printer {
        Printer
    }

    /// Columns of the terminal; where there is none, `COLUMNS`, else enough for every column.
    pub fn width(&self) -> usize {
        let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let found = || console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
        asked.or_else(found).unwrap_or(200)
    }

    /// Rows of the terminal; `None` where stdout is none.
    pub fn rows(&self) -> Option<usize> {
        console::Term::stdout().size_checked().map(|(rows, _)| usize::from(rows))
    }

    /// One block of data to stdout, a newline added if it lacks one.
    ///
    /// # Errors
    /// The data could not be written, for instance to a full disk.
    pub fn data(&self, text: &str) -> Result<(), Unwritten> {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        let mut stdout = std::io::stdout().lock();
        match write!(stdout, "{text}{newline}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(Unwritten),
        }
    }

    /// Data to stdout as it stands, at once. False where nobody reads it any more.
    ///
    /// # Errors
    /// The data could not be written, for instance to a full disk.
    pub fn piece(&self, text: &str) -> Result<bool, Unwritten> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            result => result.map(|()| true).map_err(Unwritten),
        }
    }

    /// Text to stderr without a line break, such as what a person types behind.
    pub fn ask(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }

    /// One line to stderr.
    pub fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// An error with its causes and what to do.
    pub fn failure(&self, failure: &Failure) {
        let mut lines = Vec::new();
        let mut chain = failure.chain().into_iter();
        if let Some(first) = chain.next() {
            lines.push(format!("error: {first}"));
        }
        lines.extend(chain.map(|cause| format!("  caused by: {cause}")));
        if let Some(hint) = &failure.hint {
            lines.push(format!("  hint: {hint}"));
        }
        if failure.class == FailureClass::Bug {
            lines.push("  hint: this is a bug in the orchestrator; please report it with the run folder's log".into());
        }
        self.note(&lines.join("\n"));
    }
}
