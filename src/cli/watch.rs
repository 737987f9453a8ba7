//! `orchestrator watch`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Printer;
use super::inspect::{database, missing};
use crate::error::Failure;
use crate::report::{Glance, RunView, learning_line, run_view, step_line, view_text};
use crate::store::{FileStamp, Reader, RunStatus, StepStatus};
use crate::types::RunId;

/// Watch a run in the terminal until it is over.
///
/// Drawn anew every second; where the output is no terminal, one line per finished step. A run that was killed is watched on,
/// for it may be resumed.
///
/// Examples:
///   orchestrator watch runs/quickstart
///   orchestrator watch runs/quickstart --once
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Run folder or database file.
    #[arg(value_name = "RUN")]
    path: PathBuf,
    /// The run of the database; without it the newest.
    #[arg(long, value_name = "N")]
    run: Option<i64>,
    /// Show how it stands now, and end.
    #[arg(long)]
    once: bool,
}

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(1);

/// Runs the subcommand.
///
/// # Errors
/// A database that cannot be read, or a run that is not in it.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    super::session::runtime()?.block_on(watch(&args, printer))
}

async fn watch(args: &Args, printer: &Printer) -> Result<u8, Failure> {
    let path = database(&args.path);
    let mut reader = Reader::open(&path).await?;
    let mut identity = FileStamp::of(&path).map(|stamp| stamp.identity());
    let is_terminal = printer.rows().is_some();
    let mut shown = Shown::default();
    loop {
        // The folder may have been deleted and made anew.
        let now = FileStamp::of(&path).map(|stamp| stamp.identity());
        if now != identity {
            (reader, identity) = (Reader::open(&path).await?, now);
        }
        let run = match args.run {
            Some(run) => RunId(run),
            None => {
                let latest = reader.latest_run().await?;
                latest.ok_or_else(|| missing(&args.path, "run yet".to_owned()))?.run_id
            }
        };
        let view = run_view(&reader, run).await?;
        let view = view.ok_or_else(|| missing(&args.path, format!("run `{run}`")))?;
        let glance = Glance {
            now_ms: milliseconds(SystemTime::now()),
            written_at_ms: FileStamp::of(&path).and_then(|stamp| i64::try_from(stamp.written_at_ms()?).ok()),
            width: printer.width(),
            height: printer.rows().unwrap_or(usize::MAX),
        };
        let is_read = if is_terminal || args.once || shown.is_first() {
            shown.redraw(&view, glance, is_terminal && !args.once, printer)?
        } else {
            shown.go_on(&view, printer)?
        };
        if args.once || !is_read || view.run.status != RunStatus::Running {
            return Ok(0);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What stands in the terminal already.
#[derive(Default)]
struct Shown {
    lines: usize,
    steps: Option<usize>,
    measurements: usize,
}

impl Shown {
    fn is_first(&self) -> bool {
        self.steps.is_none()
    }

    fn remember(&mut self, view: &RunView) -> (usize, usize) {
        let done = view.steps.iter().filter(|step| step.status == StepStatus::Done).count();
        let before = (self.steps.unwrap_or(0), self.measurements);
        (self.steps, self.measurements) = (Some(done), view.learning.len());
        before
    }

    /// The whole view in place of the last one. False where nobody reads it any more.
    fn redraw(&mut self, view: &RunView, glance: Glance, is_live: bool, printer: &Printer) -> Result<bool, Failure> {
        self.remember(view);
        let text = view_text(view, glance);
        // Up to the first line of the last view, and clear from there.
        let back = if is_live && self.lines > 0 { format!("\x1b[{}A\x1b[J", self.lines) } else { String::new() };
        self.lines = text.lines().count();
        Ok(printer.piece(&(back + &text))?)
    }

    /// What is new, line by line.
    fn go_on(&mut self, view: &RunView, printer: &Printer) -> Result<bool, Failure> {
        let (steps, measurements) = self.remember(view);
        let done = view.steps.iter().filter(|step| step.status == StepStatus::Done).skip(steps).map(step_line);
        let mut lines: Vec<String> = done.collect();
        lines.extend(view.learning.iter().skip(measurements).map(learning_line));
        if view.run.status != RunStatus::Running {
            lines.push(format!("run {}: {}", view.run.run_id, view.run.status.as_str()));
        }
        if lines.is_empty() {
            return Ok(true);
        }
        Ok(printer.piece(&(lines.join("\n") + "\n"))?)
    }
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
