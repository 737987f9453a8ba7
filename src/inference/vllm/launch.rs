//! A vLLM server of our own: started, watched, and never left behind.
//!
//! The server and every process it starts are in one process group whose leader is a small watcher, a shell that waits
//! on a pipe from this program. When this program goes away, whatever the reason (SIGKILL included), the pipe closes
//! and the watcher ends the group. A parent-death signal would not do: it is bound to the thread that started the
//! child, and it does not reach the server's own children.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::access::ApiKey;
use super::client::Client;
use crate::config::{InferenceConfig, LogprobsMode, ServerDevice};
use crate::inference::EngineError;

/// The worker extension and the middleware travel in the binary, so that it is found from any folder and always fits this client.
const EXTENSION: [(&str, &str); 2] = [
    ("worker.py", include_str!("../../../inference/worker.py")),
    ("front.py", include_str!("../../../inference/front.py")),
];
/// Its place: a module name and class for `--worker-extension-cls`, and for `--middleware`.
pub(super) const EXTENSION_CLASS: &str = "worker.DeepSearchWorker";
const MIDDLEWARE_CLASS: &str = "front.Front";
/// Names the only folder that the extension loads weights from.
const WEIGHTS_ROOT: &str = "DEEPSEARCH_WEIGHTS_ROOT";
/// Waits until its input closes, then ends its own process group.
const WATCHER: &str = "trap '' TERM INT HUP; read -r _; kill -TERM 0; sleep 10; kill -KILL 0";
/// Time between SIGTERM and SIGKILL. A vLLM server takes 3 to 4 s to end.
const GRACE: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(200);
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 65_536;

/// A server process that lives no longer than this value.
#[derive(Debug)]
pub(super) struct Server {
    url: String,
    log: PathBuf,
    /// Where this server's part of the log begins.
    log_start: u64,
    processes: Mutex<Processes>,
}

/// The folders of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The model that it starts with.
    pub model: &'a Path,
    /// For its log and its extension.
    pub run_dir: &'a Path,
    /// The only one that weights are loaded from; `None`: any.
    pub weights_root: Option<&'a Path>,
}

#[derive(Debug)]
struct Processes {
    server: Child,
    /// Leader of the process group; holds the other end of the pipe that it waits on.
    watcher: Child,
    ended: bool,
}

impl Server {
    /// Starts the server, for adapters of `adapter_rank` too, and waits until it answers. Files go to the run's folder:
    /// `server.log`, and `server/*.py`. `key` is what `/v1` wants from then on.
    ///
    /// # Errors
    /// [`EngineError::Launch`], [`EngineError::ServerExited`], [`EngineError::NotReady`] or [`EngineError::File`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the server.
    pub async fn start(
        http: &reqwest::Client,
        config: &InferenceConfig,
        place: Place<'_>,
        adapter_rank: Option<u32>,
        key: Option<&ApiKey>,
    ) -> Result<Server, EngineError> {
        let server = Server::spawn(config, place, adapter_rank, key)?;
        let client = Client::new(http, &server.url).hiding(key);
        let deadline = Duration::from_secs(config.start_timeout_s);
        let start = Instant::now();
        tracing::info!(url = server.url, log = %server.log.display(), "starting a vLLM server");
        loop {
            server.check_alive()?;
            if client.health(Duration::from_secs(2)).await.is_ok() {
                tracing::info!(elapsed_s = start.elapsed().as_secs_f64(), "the vLLM server is ready");
                return Ok(server);
            }
            if start.elapsed() > deadline {
                return Err(EngineError::NotReady { deadline, log: server.log.clone(), tail: server.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn spawn(
        config: &InferenceConfig,
        place: Place<'_>,
        adapter_rank: Option<u32>,
        key: Option<&ApiKey>,
    ) -> Result<Server, EngineError> {
        let Place { model, run_dir, weights_root } = place;
        let extension_dir = absolute(&run_dir.join("server"))?;
        let write = |path: &Path, result: std::io::Result<()>| {
            result.map_err(|source| EngineError::File { path: path.to_owned(), source })
        };
        write(&extension_dir, std::fs::create_dir_all(&extension_dir))?;
        for (name, text) in EXTENSION {
            let file = extension_dir.join(name);
            write(&file, std::fs::write(&file, text))?;
        }
        let log = absolute(&run_dir.join("server.log"))?;
        let file_error = |source| EngineError::File { path: log.clone(), source };
        let log_file = OpenOptions::new().create(true).append(true).open(&log).map_err(file_error)?;
        let log_start = log_file.metadata().map_err(file_error)?.len();
        let port = if config.port == 0 { free_port()? } else { config.port };
        // Whatever answers on a port that is taken would be taken for our server.
        if let Err(source) = TcpListener::bind(("127.0.0.1", port)) {
            return Err(EngineError::PortInUse { port, source });
        }

        let mut watcher = Command::new("/bin/sh")
            .args(["-c", WATCHER])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| EngineError::Launch { program: "/bin/sh".into(), source })?;
        let mut command = command(config, model, port, &extension_dir, adapter_rank);
        match key {
            // Not as a flag: the command line of a process can be read by all users of a machine.
            Some(key) => command.env("VLLM_API_KEY", key.expose()),
            // Inherited, it would have the server want a key that nobody sends.
            None => command.env_remove("VLLM_API_KEY"),
        };
        match weights_root {
            Some(root) => command.env(WEIGHTS_ROOT, absolute(root)?),
            None => command.env_remove(WEIGHTS_ROOT),
        };
        let program = command.get_program().to_string_lossy().into_owned();
        let spawned = log_file.try_clone().and_then(|copy| {
            command.process_group(pid(&watcher).as_raw()).stdin(Stdio::null()).stdout(copy).stderr(log_file).spawn()
        });
        match spawned {
            Ok(server) => {
                let processes = Mutex::new(Processes { server, watcher, ended: false });
                Ok(Server { url: format!("http://127.0.0.1:{port}"), log, log_start, processes })
            }
            Err(source) => {
                let _ = killpg(pid(&watcher), Signal::SIGKILL);
                let _ = watcher.wait();
                Err(EngineError::Launch { program, source })
            }
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// # Errors
    /// [`EngineError::ServerExited`] with the end of the log, if the server has ended by itself.
    pub fn check_alive(&self) -> Result<(), EngineError> {
        let status = self.lock().server.try_wait();
        match status {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(EngineError::ServerExited {
                status: status.to_string(),
                log: self.log.clone(),
                tail: self.log_tail(),
            }),
            Err(source) => Err(EngineError::Launch { program: "wait for the server".into(), source }),
        }
    }

    /// Ends the server: SIGTERM to its process group, SIGKILL after a grace period, and waits for it. Idempotent.
    pub fn end(&self) {
        let mut processes = self.lock();
        if std::mem::replace(&mut processes.ended, true) {
            return;
        }
        let group = pid(&processes.watcher);
        // Errors mean that there is no such process any more.
        let _ = killpg(group, Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < GRACE && matches!(processes.server.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = processes.server.wait();
        let _ = processes.watcher.wait();
        // Grandchildren are not ours to wait for, but a killed process still holds its memory for a moment.
        while start.elapsed() < GRACE && killpg(group, None).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last lines of the server's log, and before them lines that name an error further up, where the cause of a
    /// failed start usually is.
    fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.log_start.max(length.saturating_sub(TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        match read() {
            Ok(text) => tail(&text),
            Err(error) => format!("(the log cannot be read: {error})"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let (before, last) = lines.split_at(lines.len().saturating_sub(TAIL_LINES));
    let is_error = |line: &&&str| line.contains("Error: ") || line.contains("Exception: ");
    let mut shown: Vec<&str> = before.iter().rev().filter(is_error).take(3).copied().collect();
    shown.reverse();
    if !shown.is_empty() {
        shown.push("...");
    }
    shown.extend(last);
    shown.join("\n")
}

fn command(
    config: &InferenceConfig,
    model: &Path,
    port: u16,
    extension_dir: &Path,
    adapter_rank: Option<u32>,
) -> Command {
    let mut words = config.command.iter().map(String::as_str);
    let mut command = match words.next() {
        Some(program) => Command::new(program),
        None if Path::new(".venv/bin/python").exists() => Command::new(".venv/bin/python"),
        None => Command::new("python3"),
    };
    command.args(words);
    // Not `vllm serve`: the CPU wheel is installed under another name than that command looks for.
    command.args(["-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "policy"]);
    command.arg("--port").arg(port.to_string());
    command.arg("--model").arg(model);
    command.arg("--dtype").arg(&config.dtype);
    command.arg("--max-model-len").arg(config.max_model_tokens.to_string());
    // Sampling defaults come from here, not from the checkpoint's generation_config.json.
    command.args(["--generation-config", "vllm", "--worker-extension-cls", EXTENSION_CLASS]);
    command.args(["--middleware", MIDDLEWARE_CLASS]);
    command.arg("--logprobs-mode").arg(match config.logprobs_mode {
        LogprobsMode::Raw => "raw_logprobs",
        LogprobsMode::Processed => "processed_logprobs",
    });
    command.arg("--disable-uvicorn-access-log");
    if config.max_sequences > 0 {
        command.arg("--max-num-seqs").arg(config.max_sequences.to_string());
    }
    if is_cpu(config.device) {
        // Compilation gains nothing here and costs 20 to 40 s at every start.
        command.arg("--enforce-eager").env("TORCHDYNAMO_DISABLE", "1");
        // A prompt that is read in two steps rewinds the generator of its seed in between, which no CPU generator can: the
        // server would die as soon as the prompts that come together exceed the tokens of one step.
        command.arg("--no-enable-chunked-prefill");
        command.env("VLLM_CPU_KVCACHE_SPACE", config.cpu_kv_cache_gib.to_string());
    } else {
        command.arg("--gpu-memory-utilization").arg(config.gpu_memory_frac.to_string());
        if config.sleep_while_training {
            command.arg("--enable-sleep-mode");
        }
    }
    if let Some(rank) = adapter_rank {
        // One in use, and room for the next beside it.
        command.args(["--enable-lora", "--max-loras", "1", "--max-cpu-loras", "2", "--max-lora-rank"]);
        command.arg(served_rank(rank).to_string()).env("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1");
    }
    command.args(&config.extra_args);
    // Last, so that it holds: whoever reaches the server can replace its model.
    command.args(["--host", "127.0.0.1"]);
    if model.is_dir() {
        command.env("HF_HUB_OFFLINE", "1");
    }
    let mut python_path = vec![extension_dir.to_owned()];
    python_path.extend(std::env::var_os("PYTHONPATH").iter().flat_map(std::env::split_paths));
    if let Ok(joined) = std::env::join_paths(python_path) {
        command.env("PYTHONPATH", joined);
    }
    command.env("VLLM_SERVER_DEV_MODE", "1").env("VLLM_NO_USAGE_STATS", "1");
    // Without bytecode files every start compiles vLLM, transformers and torch three times over.
    command.env_remove("PYTHONDONTWRITEBYTECODE");
    command
}

/// The smallest of the ranks that vLLM makes room for which adapters of `rank` fit into.
pub(super) fn served_rank(rank: u32) -> u32 {
    const RANKS: [u32; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];
    RANKS.into_iter().find(|&served| served >= rank).unwrap_or(rank)
}

fn is_cpu(device: ServerDevice) -> bool {
    match device {
        ServerDevice::Cpu => true,
        ServerDevice::Cuda => false,
        ServerDevice::Auto => !Path::new("/dev/nvidiactl").exists() && !Path::new("/dev/dxg").exists(),
    }
}

/// A port that was free a moment ago; the server fails with a clear log if another program was faster.
fn free_port() -> Result<u16, EngineError> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|source| EngineError::Launch { program: "a server on a free port".into(), source })
}

fn absolute(path: &Path) -> Result<PathBuf, EngineError> {
    std::path::absolute(path).map_err(|source| EngineError::File { path: path.to_owned(), source })
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_shows_the_cause_from_further_up() {
        let mut text = String::from("start\nModuleNotFoundError: No module named 'worker'\n");
        text.extend((0..30).map(|i| format!("line {i}\n")));
        let shown = tail(&text);
        assert!(shown.starts_with("ModuleNotFoundError: No module named 'worker'\n...\nline 15\n"), "{shown}");
        assert!(shown.ends_with("line 29"));
        assert_eq!(tail("only\n\n"), "only");
    }

    #[test]
    fn flags_of_a_launched_server() {
        let config = InferenceConfig {
            command: vec!["py".into(), "-X".into()],
            device: ServerDevice::Cpu,
            max_sequences: 7,
            extra_args: vec!["--block-size".into(), "32".into()],
            ..InferenceConfig::default()
        };
        let command = command(&config, Path::new("/nowhere/m"), 81, Path::new("/ext"), None);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(
            words.join(" "),
            "-X -m vllm.entrypoints.openai.api_server --served-model-name policy --port 81 \
             --model /nowhere/m --dtype auto --max-model-len 18432 --generation-config vllm --worker-extension-cls \
             worker.DeepSearchWorker --middleware front.Front --logprobs-mode processed_logprobs \
             --disable-uvicorn-access-log --max-num-seqs 7 --enforce-eager --no-enable-chunked-prefill --block-size 32 --host 127.0.0.1"
        );
        assert_eq!(command.get_program(), "py");
    }

    #[test]
    fn a_server_for_adapters_has_room_for_their_rank() {
        let config = InferenceConfig { device: ServerDevice::Cpu, ..InferenceConfig::default() };
        let command = command(&config, Path::new("/nowhere/m"), 81, Path::new("/ext"), Some(9));
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert!(words.join(" ").contains("--enable-lora --max-loras 1 --max-cpu-loras 2 --max-lora-rank 16"));
        let allowed = command.get_envs().find(|(name, _)| *name == "VLLM_ALLOW_RUNTIME_LORA_UPDATING");
        assert_eq!(allowed.and_then(|(_, value)| value), Some("1".as_ref()));
        assert_eq!([1, 2, 8, 300, 512].map(served_rank), [1, 8, 8, 320, 512]);
    }
}
