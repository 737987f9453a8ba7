//! What `run`, `filter` and `eval` have in common: runtime, log, progress, signals.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Printer, progress::Progress};
use crate::error::Failure;
use crate::run::{Job, Observer, Outcome, RunError, create_run_dir};

/// Exit code of a run that was called off by a signal, as a shell reports SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Carries out a job with a person watching.
///
/// # Errors
/// The failure that ended the run.
pub fn carry_out(job: Job, printer: &Printer) -> Result<Outcome, Failure> {
    let (dir, steps) = (job.config.run.dir.clone(), job.config.run.steps);
    watched(&dir, steps, printer, async |observer, cancel| Ok(crate::run::run(job, observer, cancel).await?))
}

/// Does `work` with its log in `dir`, its events on the terminal, and signals calling it off; `steps` is for the events.
///
/// # Errors
/// As `work`; a folder or log that cannot be made.
pub fn watched<T>(
    dir: &Path,
    steps: u32,
    printer: &Printer,
    work: impl AsyncFnOnce(Observer, CancellationToken) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = runtime()?;
    quiet_compute_threads(printer);
    create_run_dir(dir)?;
    let log = dir.join("log.jsonl");
    crate::telemetry::log_to_file(&log).map_err(|source| RunError::Io { action: "write", path: log, source })?;
    runtime.block_on(async {
        let progress = Arc::new(Progress::new(steps));
        let cancel = CancellationToken::new();
        let telling = progress.clone();
        let tell = move || {
            let stopping = "stopping: what is finished is kept (again to leave at once)";
            telling.suspend(|| Printer::new().note(stopping));
        };
        let signals = tokio::spawn(stop_on_signal(cancel.clone(), tell));
        let observer: Observer = {
            let progress = progress.clone();
            Arc::new(move |event| progress.on(event))
        };
        let result = work(observer, cancel).await;
        signals.abort();
        progress.finish();
        result
    })
}

/// Does `work`, which signals call off.
///
/// # Errors
/// As `work`.
pub fn interruptible<T>(work: impl AsyncFnOnce(CancellationToken) -> Result<T, Failure>) -> Result<T, Failure> {
    runtime()?.block_on(async {
        let cancel = CancellationToken::new();
        let tell = || Printer::new().note("stopping (again to leave at once)");
        let signals = tokio::spawn(stop_on_signal(cancel.clone(), tell));
        let result = work(cancel).await;
        signals.abort();
        result
    })
}

/// The runtime that waits for servers, trainer and database.
///
/// # Errors
/// The system gives no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|source| RunError::Io { action: "start the runtime in", path: ".".into(), source })
}

/// Libtorch's idle compute threads spin by default, which takes the cores from what runs beside them: on a busy 2-core
/// machine a step took 40 s instead of 5, and an answer 8.5 s instead of 2.8. The OpenMP library reads the setting when it
/// is loaded, before `main`, so the program starts itself again with it. A value of the user's own is respected.
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

/// The first SIGINT or SIGTERM calls the run off in good order; the second leaves at once.
async fn stop_on_signal(cancel: CancellationToken, tell: impl Fn()) {
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
            // SAFETY: ends the process at once; what `exit` would tear down is still in use by the trainer's thread.
            unsafe { libc::_exit(i32::from(INTERRUPTED)) };
        }
        asked = true;
        tell();
        cancel.cancel();
    }
}
