//! Runs as processes of their own: one that runs out of memory or crashes takes nothing else with it, and its folder is
//! what `orchestrator run` would have left, since that is what made it.

use std::collections::VecDeque;
use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::plan::{PlannedRun, Standing, standing};
use super::recipe::create;
use super::{LearnError, LearnEvent};
use crate::error::chain;
use crate::store::{Store, StoreError};

/// Times a run is begun by one process of the suite before its being killed counts as its end.
const MOST_ATTEMPTS: u32 = 3;
/// Name of the file with all that the processes of a run said.
const CONSOLE: &str = "console.log";

/// This program with arguments, and where its words go.
pub(super) struct Called<'a> {
    pub program: &'a Path,
    pub args: Vec<String>,
    pub log: &'a Path,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With an exit code.
    Code(i32),
    /// By a signal that was not ours.
    Killed(i32),
    /// The suite was called off.
    CalledOff,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "exit code {code}"),
            Ending::Killed(signal) => write!(f, "killed by signal {signal}"),
            Ending::CalledOff => f.write_str("called off"),
        }
    }
}

impl Called<'_> {
    /// Runs it to its end. When the suite is called off it is told to stop, once, and waited for.
    pub async fn finish(self, cancel: &CancellationToken) -> Result<Ending, LearnError> {
        if cancel.is_cancelled() {
            return Ok(Ending::CalledOff);
        }
        let file = OpenOptions::new().create(true).append(true).open(self.log);
        let io = |source| LearnError::Io { action: "write", path: self.log.to_owned(), source };
        let file = file.map_err(io)?;
        let copy = file.try_clone().map_err(io)?;
        let mut command = Command::new(self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(copy).stderr(file);
        // What it would start itself again for, see `cli/session.rs`; and a group of its own, so that the interrupt key
        // reaches it through this process only.
        command.env("OMP_WAIT_POLICY", "passive").process_group(0).kill_on_drop(true);
        // SAFETY: one system call between fork and exec, which allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| {
                // Whatever ends this process ends its runs, so that they can be taken up again at once.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let start = |source| LearnError::Start { program: self.program.to_owned(), source };
        let mut child = command.spawn().map_err(start)?;
        let ended = tokio::select! {
            status = child.wait() => Some(status.map_err(start)?),
            () = cancel.cancelled() => None,
        };
        let Some(status) = ended else {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                // It may have ended meanwhile, which is as good.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
            }
            child.wait().await.map_err(start)?;
            return Ok(Ending::CalledOff);
        };
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Code(code),
            (None, signal) => Ending::Killed(signal.unwrap_or_default()),
        })
    }
}

/// Which runs are carried out, and how.
#[derive(Clone, Debug)]
pub struct Execution {
    /// This program.
    pub program: std::path::PathBuf,
    /// Runs at a time.
    pub jobs: usize,
    /// Whether runs that failed are taken up again.
    pub retries_failed: bool,
}

/// Carries out what is not over, `jobs` at a time, in order. False where it was called off. What goes wrong with one run is
/// told, and ends no other.
///
/// # Errors
/// A run that is there is not one of the suite; nothing was begun then.
pub(super) async fn carry_out(
    runs: &[PlannedRun],
    execution: &Execution,
    cancel: &CancellationToken,
    observe: &(impl Fn(LearnEvent) + Sync),
) -> Result<bool, LearnError> {
    let mut waiting = VecDeque::new();
    for (index, run) in runs.iter().enumerate() {
        let standing = match present(run).await {
            Err(LearnError::Store(error)) => {
                observe(LearnEvent::Unreadable { name: run.name(), error: chain(&error).join(": ") });
                continue;
            }
            standing => standing?,
        };
        match standing {
            Standing::Done => observe(LearnEvent::Skipped { name: run.name(), error: None }),
            Standing::Failed { error } if !execution.retries_failed => {
                observe(LearnEvent::Skipped { name: run.name(), error: Some(error) });
            }
            _ => waiting.push_back(index),
        }
    }
    let (count, mut begun) = (waiting.len(), 0);
    let mut going = FuturesUnordered::new();
    let mut is_called_off = false;
    loop {
        while going.len() < execution.jobs.max(1) && !cancel.is_cancelled() {
            let Some(index) = waiting.pop_front() else { break };
            begun += 1;
            observe(LearnEvent::Begun { name: runs[index].name(), number: begun, of: count });
            going.push(async move {
                let started = Instant::now();
                let result = one(&runs[index], &execution.program, cancel).await;
                (index, started.elapsed(), result)
            });
        }
        let Some((index, took, outcome)) = going.next().await else { break };
        let error = match outcome {
            Ok(Outcome::CalledOff) => {
                is_called_off = true;
                continue;
            }
            Ok(Outcome::Over(error)) => error,
            Err(error) => Some(chain(&error).join(": ")),
        };
        observe(LearnEvent::Ended { name: runs[index].name(), took, error });
    }
    Ok(!is_called_off && waiting.is_empty())
}

/// Where a run stands; a database of an older version of this program is brought up to date first.
async fn present(run: &PlannedRun) -> Result<Standing, LearnError> {
    match standing(run).await {
        Err(LearnError::Store(StoreError::OlderSchema { path, .. })) => {
            Store::open(&path).await?.close().await?;
            standing(run).await
        }
        standing => standing,
    }
}

enum Outcome {
    CalledOff,
    /// With an error or without.
    Over(Option<String>),
}

/// One run to its end.
async fn one(run: &PlannedRun, program: &Path, cancel: &CancellationToken) -> Result<Outcome, LearnError> {
    create(&run.dir)?;
    let log = run.dir.join(CONSOLE);
    let mut args: Vec<String> = ["run", "--config", &run.file.display().to_string()].map(str::to_owned).into();
    args.extend(run.sets.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
    // Last: what follows it would be taken for a folder. It begins a run where there is none.
    args.push("--resume".to_owned());
    for attempt in 1.. {
        let ending = Called { program, args: args.clone(), log: &log }.finish(cancel).await?;
        if ending == Ending::CalledOff {
            return Ok(Outcome::CalledOff);
        }
        let error = match (ending, standing(run).await?) {
            (Ending::Code(0), Standing::Done) => None,
            // Somebody asked that process alone to stop.
            (Ending::Killed(_), _) | (_, Standing::Unfinished) if attempt < MOST_ATTEMPTS => continue,
            (_, Standing::Failed { error }) => Some(error),
            (ending, _) => Some(format!("{ending}, see {}", log.display())),
        };
        return Ok(Outcome::Over(error));
    }
    Ok(Outcome::CalledOff)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;
    use crate::config::Config;

    /// One run leaves a file that is no database while another one is still going on, a third one had one before.
    #[tokio::test]
    async fn a_database_that_cannot_be_read_ends_no_other_run() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        // `run --config FILE --set DIR --resume`
        let script = "#!/bin/sh\n\
                      case \"$5\" in\n\
                      */broken) echo no database > \"$5/orchestrator.sqlite\" ;;\n\
                      *) n=0; until [ -e \"$5/../told\" ] || [ $n = 100 ]; do n=$((n + 1)); sleep 0.05; done\n\
                         echo over > \"$5/over\" ;;\n\
                      esac\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let run = |name: &str| {
            let place = dir.path().join(name);
            PlannedRun {
                task: "sums".into(),
                algorithm: name.into(),
                seed: 1,
                dir: place.clone(),
                file: "config.toml".into(),
                sets: vec![place.display().to_string()],
                config: Config::default(),
            }
        };
        let runs = ["damaged", "broken", "going"].map(run);
        create(&runs[0].dir).unwrap();
        std::fs::write(runs[0].database(), "no database").unwrap();
        let events = Mutex::new(Vec::new());
        let observe = |event: LearnEvent| {
            if matches!(&event, LearnEvent::Ended { name, .. } if name == "sums broken seed 1") {
                std::fs::write(dir.path().join("told"), "").unwrap();
            }
            events.lock().unwrap().push(event);
        };
        let execution = Execution { program, jobs: 2, retries_failed: false };
        assert!(carry_out(&runs, &execution, &CancellationToken::new(), &observe).await.unwrap());
        assert_eq!(std::fs::read_to_string(runs[2].dir.join("over")).unwrap(), "over\n");
        assert_eq!(std::fs::read_to_string(runs[0].database()).unwrap(), "no database");
        let events = events.into_inner().unwrap();
        let told = |run: &PlannedRun| {
            events.iter().find_map(|event| match event {
                LearnEvent::Unreadable { name, error } | LearnEvent::Ended { name, error: Some(error), .. } => {
                    (*name == run.name()).then_some(error.as_str())
                }
                _ => None,
            })
        };
        for run in &runs[..2] {
            assert!(told(run).is_some_and(|error| error.contains("is not an SQLite database")), "{events:?}");
        }
    }
}
