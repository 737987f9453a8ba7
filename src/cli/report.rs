//! `orchestrator report`.

use std::path::{Path, PathBuf};

use super::Printer;
use super::inspect::{database, missing};
use crate::error::Failure;
use crate::report::{run_summary, summary_markdown};
use crate::run::RunError;
use crate::serve::page_file;
use crate::store::Reader;
use crate::types::RunId;

/// A run as one file to send to a colleague, and as a summary in Markdown.
///
/// The page is that of `orchestrator serve` with its data inside: it needs no server and loads nothing. Without --out and
/// --markdown the summary goes to standard output.
///
/// Examples:
///   orchestrator report runs/quickstart
///   orchestrator report runs/quickstart --out quickstart.html --markdown quickstart.md
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Run folder or database file.
    #[arg(value_name = "RUN")]
    path: PathBuf,
    /// The run of the database; without it the newest.
    #[arg(long, value_name = "N")]
    run: Option<i64>,
    /// Write the page to this file. Replaced when it exists.
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Write the summary to this file. Replaced when it exists.
    #[arg(long, value_name = "FILE.md")]
    markdown: Option<PathBuf>,
    /// About how large the page may become; the trees in which search helped least are left out.
    #[arg(long, value_name = "MB", default_value_t = 10)]
    max_mb: usize,
}

/// Runs the subcommand.
///
/// # Errors
/// A database that cannot be read, a run that is not in it, or a file that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    super::session::runtime()?.block_on(report(&args, printer))
}

async fn report(args: &Args, printer: &Printer) -> Result<u8, Failure> {
    let path = database(&args.path);
    let reader = Reader::open(&path).await?;
    let row = match args.run {
        Some(run) => reader.run(RunId(run)).await?,
        None => reader.latest_run().await?,
    };
    let row = row.ok_or_else(|| missing(&args.path, "such run".to_owned()))?;
    let run = row.run_id;
    if let Some(out) = &args.out {
        let label = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let page = page_file(&reader, row, &label.unwrap_or_default(), args.max_mb.saturating_mul(1_000_000)).await?;
        write(out, &page.html)?;
        printer.note(&format!(
            "{}: {:.1} MB, {} of {} trees",
            out.display(),
            page.html.len() as f64 / 1e6,
            page.trees,
            page.trees_total
        ));
    }
    if args.out.is_none() || args.markdown.is_some() {
        let summary = run_summary(&reader, run).await?;
        let summary = summary.ok_or_else(|| missing(&args.path, format!("run `{run}`")))?;
        let text = summary_markdown(&summary);
        match &args.markdown {
            Some(file) => write(file, &text)?,
            None => printer.data(&text)?,
        }
    }
    Ok(0)
}

fn write(path: &Path, text: &str) -> Result<(), RunError> {
    std::fs::write(path, text).map_err(|source| RunError::Io { action: "write", path: path.to_owned(), source })
}
