//! One process: started, asked, ended.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Launch, SidecarError};
use crate::types::Verdict;

/// Half a second on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// From the end of its output to the end of a process.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest line of a reply.
const MOST_REPLY_BYTES: u64 = 65_536;

/// A process, ended when it is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
    /// Of the last request; a reply names the request that it is for.
    id: u64,
}

/// Why there was no reply.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system ended it for the processor time it took.
    OutOfProcessorTime,
    /// It crashed or talked nonsense.
    Broken(String),
}

#[derive(Serialize)]
struct Request<'a> {
    id: u64,
    reference: &'a str,
    answer: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bare: bool,
}

#[derive(Deserialize)]
pub(super) struct Reply {
    id: Option<u64>,
    pub verdict: Verdict,
    #[serde(default)]
    pub detail: Option<String>,
    /// Whether the verdict is the library's bare word.
    #[serde(default)]
    pub bare: bool,
    /// Whether the process wants to be replaced.
    #[serde(default)]
    pub retire: bool,
}

/// The first line.
#[derive(Deserialize)]
struct Ready {
    ready: bool,
    #[serde(default)]
    math_verify: String,
    #[serde(default)]
    detail: String,
}

impl Process {
    /// Starts a process and waits until it has loaded the library.
    pub async fn start(launch: &Launch) -> Result<Process, SidecarError> {
        let program = launch.python.clone();
        let child = Command::new(&program)
            .arg("-c")
            .arg(&launch.script)
            .args([launch.memory_mib.to_string(), launch.cpu.as_secs_f64().to_string()])
            // The order of a set must not change a verdict.
            .env("PYTHONHASHSEED", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|source| SidecarError::Start { program: program.clone(), source })?;
        let not_ready = |detail: String| SidecarError::NotReady { program: program.clone(), detail };
        let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(not_ready("it has no pipes".into()));
        };
        let mut process = Process { child, requests, replies: BufReader::new(replies), id: 0 };
        let line = match tokio::time::timeout(START_TIMEOUT, process.line()).await {
            Ok(Ok(line)) => line,
            Ok(Err(Fault::Broken(detail))) => return Err(not_ready(detail)),
            Ok(Err(Fault::OutOfProcessorTime)) => return Err(not_ready("out of processor time".into())),
            Err(_) => return Err(not_ready(format!("no word in {} s", START_TIMEOUT.as_secs()))),
        };
        match serde_json::from_slice::<Ready>(&line) {
            Ok(Ready { ready: true, math_verify, .. }) => {
                tracing::info!(program = %program.display(), math_verify, "a process of Math-Verify is ready");
                Ok(process)
            }
            Ok(Ready { detail, .. }) if detail.starts_with("MemoryError") => Err(not_ready("out of memory".into())),
            Ok(Ready { detail, .. }) => Err(SidecarError::Package { program, detail }),
            Err(_) => Err(not_ready(format!("it said {}", shown(&line)))),
        }
    }

    /// Its number, unless it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether nothing was asked of it yet.
    pub fn is_fresh(&self) -> bool {
        self.id == 0
    }

    /// Asks whether `answer` is right where `reference` is; `bare`: if need be by the library's bare word. After a fault or a future that was dropped the process is of
    /// no use any more.
    pub async fn ask(&mut self, answer: &str, reference: &str, bare: bool) -> Result<Reply, Fault> {
        self.id += 1;
        let request = Request { id: self.id, reference, answer, bare };
        let mut line = serde_json::to_vec(&request).map_err(|error| Fault::Broken(error.to_string()))?;
        line.push(b'\n');
        if self.requests.write_all(&line).await.is_err() {
            return Err(self.ended().await);
        }
        let line = self.line().await?;
        let reply: Reply =
            serde_json::from_slice(&line).map_err(|_| Fault::Broken(format!("it replied {}", shown(&line))))?;
        if reply.id != Some(self.id) || reply.verdict == Verdict::NoAnswer {
            return Err(Fault::Broken(format!("it replied {}", shown(&line))));
        }
        Ok(reply)
    }

    async fn line(&mut self) -> Result<Vec<u8>, Fault> {
        let mut line = Vec::new();
        let read = (&mut self.replies).take(MOST_REPLY_BYTES).read_until(b'\n', &mut line).await;
        match read {
            Ok(_) if line.ends_with(b"\n") => Ok(line),
            Ok(0) | Err(_) => Err(self.ended().await),
            Ok(_) => Err(Fault::Broken(format!("it replied {}", shown(&line)))),
        }
    }

    /// What became of a process whose pipe is closed.
    async fn ended(&mut self) -> Fault {
        use std::os::unix::process::ExitStatusExt;
        match tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await {
            Ok(Ok(status)) if status.signal() == Some(libc::SIGXCPU) => Fault::OutOfProcessorTime,
            Ok(Ok(status)) => Fault::Broken(format!("it ended: {status}")),
            Ok(Err(error)) => Fault::Broken(format!("it ended: {error}")),
            Err(_) => Fault::Broken("it closed its output".into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `None` once it was waited for: its number may be another's by now.
        if let Some(id) = self.child.id() {
            let _ = killpg(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// Whether a process computes or waits for a processor, rather than for anything else.
pub(super) fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, which may hold anything, ends at the last bracket.
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('R'))
}

/// The beginning of a line, for a message.
fn shown(line: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(line).chars().take(80).collect();
    format!("{text:?}")
}
