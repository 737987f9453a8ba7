//! `orchestrator run`.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Printer, progress::Progress};
use crate::config::Config;
use crate::error::Failure;
use crate::run::{Ended, Outcome, RunError};

/// Trains a model by tree search.
///
/// Example: orchestrator run --config configs/quickstart.toml --set run.steps=5
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Replace one setting, for example `--set train.learning_rate=1e-5`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Print the resolved configuration and stop.
    #[arg(long)]
    dry_run: bool,
}

/// Exit code of a run that was called off by a signal, as a shell reports SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs the subcommand.
///
/// # Errors
/// A configuration that cannot be used, or the failure that ended the run.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let config = super::load_config(&args.config, &args.sets)?;
    if args.dry_run {
        printer.data(&crate::config::render(&config).map_err(RunError::Config)?)?;
        return Ok(0);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|source| RunError::Io {
        action: "start the runtime for",
        path: config.run.dir.clone(),
        source,
    })?;
    quiet_compute_threads(printer);
    let dir = &config.run.dir;
    std::fs::create_dir_all(dir).map_err(|source| RunError::Io { action: "create", path: dir.clone(), source })?;
    let log = dir.join("log.jsonl");
    crate::telemetry::log_to_file(&log).map_err(|source| RunError::Io { action: "write", path: log, source })?;
    let outcome = runtime.block_on(train(config, printer))?;
    match outcome.ended {
        Ended::AllSteps => Ok(0),
        Ended::Interrupted => Ok(INTERRUPTED),
    }
}

/// Libtorch's idle compute threads spin by default, which takes the cores from what runs beside them: on a busy 2-core
/// machine a step took 40 s instead of 5, and an answer 8.5 s instead of 2.8. The OpenMP library reads the setting when it is loaded, before `main`, so the
/// program starts itself again with it. A value of the user's own is respected.
pub fn quiet_compute_threads(printer: &Printer) {
    use std::os::unix::process::CommandExt;
    const POLICY: &str = "OMP_WAIT_POLICY";
    if std::env::var_os(POLICY).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next()) else { return };
    // Returns only where it fails.
    let error = std::process::Command::new(program).arg0(name).args(arguments).env(POLICY, "passive").exec();
    printer.note(&format!("warning: compute threads may spin while they wait ({error})"));
}

async fn train(config: Config, printer: &Printer) -> Result<Outcome, Failure> {
    let progress = Arc::new(Progress::new(config.run.steps));
    let cancel = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(cancel.clone(), progress.clone()));
    let observer = {
        let progress = progress.clone();
        Arc::new(move |event| progress.on(event))
    };
    let result = crate::run::run(config, observer, cancel).await;
    signals.abort();
    progress.finish();
    let outcome = result?;
    printer.note(&closing_lines(&outcome));
    Ok(outcome)
}

/// The first SIGINT or SIGTERM calls the run off in good order; the second leaves at once.
async fn stop_on_signal(cancel: CancellationToken, progress: Arc<Progress>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the default action ends the process, which the store survives.
        return;
    };
    let mut asked = false;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if asked {
            std::process::exit(i32::from(INTERRUPTED));
        }
        asked = true;
        progress.suspend(|| Printer::new().note("stopping: what is finished is kept (again to leave at once)"));
        cancel.cancel();
    }
}

fn closing_lines(outcome: &Outcome) -> String {
    let how = match outcome.ended {
        Ended::AllSteps => "done",
        Ended::Interrupted => "interrupted",
    };
    let weights = match &outcome.weights {
        Some(dir) => format!("weights in {}", dir.display()),
        None => "no weights confirmed".to_owned(),
    };
    format!("{how}: {} steps, {weights}\nlook: orchestrator inspect {}", outcome.steps_done, outcome.dir.display())
}
