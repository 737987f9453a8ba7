//! What this program cannot decide, asked of Math-Verify: a pool of Python processes.
//!
//! Only the extracted answer and the reference go there, never the text around them. Each process answers one request at
//! a time; a caller waits for a free one, so the callers bound the queue. Processes start when they are first needed and
//! end with this value: one that is idle sees its input close even if this program was killed, one that computes has a
//! limit of processor time. (A parent-death signal would not do: it is bound to the thread that started the process.)
//!
//! Whatever goes wrong is no verdict on the answer. Out of time or memory is [`Verdict::Undecided`]; a process that
//! crashes or talks nonsense is replaced by a fresh one, which is asked once more, then it is [`Verdict::Error`]. Where no
//! process can be started, everything stays undecided and [`Sidecar::take_failure`] says why, once.
//!
//! Processor time, not wall time, decides what takes too long, so that a busy machine changes no verdict: a quarter of
//! `verify.timeout_s`. The whole of it, as wall time, is for processes that hang; one that only waits for a processor may
//! have it several times over.

mod process;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config::{Doubtful, VerifyConfig};
use crate::error::{FailureClass, Hint, chain};
use crate::types::Verdict;
use process::{Fault, Process, Reply};

/// The worker travels in the binary, so that it is found from any folder and always fits this client.
const WORKER: &str = include_str!("../../../inference/math_verify_worker.py");
/// Longest answer or reference that is sent. A final answer is shorter, and parsing takes more than linear time.
pub const MOST_BYTES: usize = 4096;
/// How often `verify.timeout_s` may pass while a process waits for its turn on a processor.
const MOST_WAITS: u32 = 6;
/// Starts that may fail in a row.
const MOST_STARTS: u32 = 2;

/// Math-Verify in processes of its own. Clones share them.
#[derive(Clone, Debug)]
pub struct Sidecar {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    launch: Launch,
    timeout: Duration,
    /// Whether the library's bare word counts.
    bare: bool,
    /// One for each process.
    turns: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Process>,
    /// No process can be started: nothing is tried any more.
    is_given_up: bool,
    /// Why, until it was told.
    failure: Option<SidecarError>,
}

/// How a process is started.
#[derive(Clone, Debug)]
struct Launch {
    python: PathBuf,
    script: String,
    memory_mib: u64,
    cpu: Duration,
}

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Correct, incorrect, undecided or error.
    pub verdict: Verdict,
    /// Why there is no verdict, or only the library's bare word.
    pub detail: Option<String>,
    /// Whether the verdict is that word: see [`Doubtful`].
    pub is_bare: bool,
}

impl Ruling {
    fn undecided(detail: &str) -> Ruling {
        Ruling { verdict: Verdict::Undecided, detail: Some(detail.to_owned()), is_bare: false }
    }
}

/// No process can be started.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// There is no such program, or the system does not start it.
    #[error("Math-Verify cannot be started: `{}` does not run", program.display())]
    Start {
        /// The interpreter.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The interpreter lacks the package, or the package does not work in it.
    #[error("the Python `{}` cannot use the package `math-verify`: {detail}", program.display())]
    Package {
        /// The interpreter.
        program: PathBuf,
        /// What it says.
        detail: String,
    },
    /// The process ended, hung or talked nonsense before it was ready.
    #[error("Math-Verify did not become ready in `{}`: {detail}", program.display())]
    NotReady {
        /// The interpreter.
        program: PathBuf,
        /// What was seen of it.
        detail: String,
    },
}

impl Hint for SidecarError {
    fn class(&self) -> FailureClass {
        FailureClass::Environment
    }

    fn hint(&self) -> Option<String> {
        let cure = match self {
            SidecarError::Start { .. } | SidecarError::Package { .. } => {
                "install it with `make setup` or `pip install math-verify==0.9.0`, or name a Python that has it in \
                 `verify.python`"
            }
            SidecarError::NotReady { .. } => "give it more memory (`verify.memory_mib`)",
        };
        Some(format!(
            "{cure}; with `verify.sidecar = false` it is not asked. What it would have decided stays undecided"
        ))
    }
}

impl SidecarError {
    /// Message, causes and what to do, for those whose work goes on without Math-Verify.
    pub fn notice(&self) -> String {
        [chain(self).join(": "), self.hint().unwrap_or_default()].join("; ")
    }
}

impl Sidecar {
    /// A pool by the rules of `[verify]`. Nothing is started yet.
    pub fn new(config: &VerifyConfig) -> Sidecar {
        Sidecar::with_script(config, WORKER)
    }

    /// As [`Sidecar::new`], with another program for Python in the place of the worker.
    pub fn with_script(config: &VerifyConfig, script: &str) -> Sidecar {
        let timeout = Duration::from_secs(config.timeout_s.max(1));
        let launch = Launch {
            python: python(&config.python),
            script: script.to_owned(),
            memory_mib: config.memory_mib,
            cpu: timeout / 4,
        };
        let turns = Semaphore::new(config.workers.clamp(1, Semaphore::MAX_PERMITS));
        let bare = config.doubtful == Doubtful::MathVerify;
        Sidecar { pool: Arc::new(Pool { launch, timeout, bare, turns, state: Mutex::default() }) }
    }

    /// Whether `answer` is right where `reference` is; both bare, without a box.
    ///
    /// # Cancel safety
    /// Dropping the future ends the process that was asked; the next request starts another.
    pub async fn decide(&self, answer: &str, reference: &str) -> Ruling {
        if answer.len().max(reference.len()) > MOST_BYTES {
            return Ruling::undecided("too long");
        }
        // Only an error if the semaphore was closed, which nobody does.
        let Ok(_turn) = self.pool.turns.acquire().await else { return Ruling::undecided("no turn") };
        let mut is_second = false;
        loop {
            // A second time only a fresh one: the idle ones may have died or filled up together.
            let Some(mut process) = self.pool.take(is_second).await else {
                return Ruling::undecided("Math-Verify is not there");
            };
            let is_fresh = process.is_fresh();
            let asked = self.pool.ask(&mut process, answer, reference).await;
            // A process that is not put back is ended where it goes out of scope.
            match asked {
                None => return Ruling::undecided("out of time"),
                Some(Err(Fault::OutOfProcessorTime)) => return Ruling::undecided("out of processor time"),
                Some(Err(Fault::Broken(detail))) if is_second => {
                    return Ruling { verdict: Verdict::Error, detail: Some(detail), is_bare: false };
                }
                Some(Err(Fault::Broken(detail))) => tracing::warn!(detail, "a process of Math-Verify is replaced"),
                Some(Ok(reply)) => {
                    if !reply.retire {
                        self.pool.lock().idle.push(process);
                    } else if reply.verdict == Verdict::Undecided && !is_fresh && !is_second {
                        // What was left of earlier requests must not decide what there is memory for.
                        is_second = true;
                        continue;
                    }
                    return Ruling { verdict: reply.verdict, detail: reply.detail, is_bare: reply.bare };
                }
            }
            is_second = true;
        }
    }

    /// Why no process can be started; told once.
    pub fn take_failure(&self) -> Option<SidecarError> {
        self.pool.lock().failure.take()
    }
}

impl Pool {
    /// An idle process, unless it has to be fresh, or a new one; `None` where none can be started.
    async fn take(&self, must_be_fresh: bool) -> Option<Process> {
        for attempt in 1..=MOST_STARTS {
            {
                let mut state = self.lock();
                if state.is_given_up {
                    return None;
                }
                if !must_be_fresh && let Some(process) = state.idle.pop() {
                    return Some(process);
                }
            }
            match Process::start(&self.launch).await {
                Ok(process) => return Some(process),
                Err(error) if attempt == MOST_STARTS || matches!(error, SidecarError::Start { .. }) => {
                    let mut state = self.lock();
                    if !std::mem::replace(&mut state.is_given_up, true) {
                        state.failure = Some(error);
                    }
                }
                Err(error) => tracing::warn!(%error, "Math-Verify is started once more"),
            }
        }
        None
    }

    /// What a process says; `None` where it hangs.
    async fn ask(&self, process: &mut Process, answer: &str, reference: &str) -> Option<Result<Reply, Fault>> {
        let pid = process.pid();
        let mut asked = std::pin::pin!(process.ask(answer, reference, self.bare));
        for _ in 0..MOST_WAITS {
            if let Ok(reply) = tokio::time::timeout(self.timeout, &mut asked).await {
                return Some(reply);
            }
            if !pid.is_some_and(process::is_running) {
                return None;
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The interpreter: the one that was named, else that of the environment in the working folder, else the system's.
fn python(named: &Path) -> PathBuf {
    let own = Path::new(".venv/bin/python");
    if !named.as_os_str().is_empty() {
        named.to_owned()
    } else if own.exists() {
        own.to_owned()
    } else {
        "python3".into()
    }
}
