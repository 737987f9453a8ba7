//! `orchestrator train`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::Printer;
use super::session::{quiet_compute_threads, runtime};
use crate::error::Failure;
use crate::run::offline::{OfflineJob, RepeatedStep, train};
use crate::run::{Event, resumable};
use crate::types::RunId;

/// Repeats the updates of recorded steps from the trees in the database, without a server.
///
/// Example: orchestrator train --from-db runs/quickstart --steps 3..5
///
/// Example: orchestrator train --from-db runs/quickstart --steps 3..5 --set train.advantage=mean_only --out models/other
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the run, which holds the database.
    #[arg(long, value_name = "DIR")]
    from_db: PathBuf,
    /// Which run of the folder; the newest where it is left out.
    #[arg(long, value_name = "NUMBER")]
    run: Option<i64>,
    /// Steps, both included: `a..b`, or one.
    #[arg(long, value_name = "A..B")]
    steps: Steps,
    /// Folder to write the weights to, in the Hugging Face layout; without it they are only compared.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace one setting of the run, for example `--set train.advantage=mean_only`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
}

#[derive(Clone, Debug)]
struct Steps(RangeInclusive<u32>);

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Steps, String> {
        let number =
            |text: &str| text.trim().parse::<u32>().map_err(|_| "two step numbers are needed, as in `3..5`".to_owned());
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        Ok(Steps(number(first)?..=number(last.trim_start_matches('='))?))
    }
}

/// Runs the subcommand.
///
/// # Errors
/// Steps that are not recorded, a run that cannot be read, a failing update.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let runtime = runtime()?;
    quiet_compute_threads(printer);
    let found = runtime.block_on(resumable(&args.from_db, args.run.map(RunId)))?;
    let name = format!("configuration of run {} in {}", found.row.run_id, args.from_db.display());
    let mut recorded = super::recorded_config(&name, &found.row.config_toml, &[])?;
    let mut config = super::recorded_config(&name, &found.row.config_toml, &args.sets)?;
    recorded.run.dir.clone_from(&args.from_db);
    config.run.dir = args.from_db;
    let (first, last) = args.steps.0.into_inner();
    let job = OfflineJob { recorded, config, run: found.row.run_id, first, last, out: args.out };
    let observer: crate::run::Observer = Arc::new(|event| {
        if let Event::Warning(text) = event {
            Printer::new().note(&format!("warning: {text}"));
        }
    });
    let outcome = runtime.block_on(train(&job, &observer, |step| printer.note(&line(step))))?;
    let same = match &outcome.recorded_digest {
        Some(recorded) if *recorded == outcome.digest => "the same as recorded, to the bit".to_owned(),
        Some(recorded) => format!("not those recorded ({recorded})"),
        None => "nothing recorded to compare with".to_owned(),
    };
    printer.note(&format!("weights after step {last} (version {}): {}, {same}", outcome.version, outcome.digest));
    if let Some(out) = outcome.out {
        printer.note(&format!("weights in {}", out.display()));
    }
    Ok(0)
}

fn line(step: &RepeatedStep) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.6}"));
    format!(
        "step {:>3}  loss {} (recorded {})  grad {} (recorded {})",
        step.step,
        number(step.loss),
        number(step.recorded_loss),
        number(step.grad_norm),
        number(step.recorded_grad_norm)
    )
}
