//! A scripted HTTP server in vLLM's place, for faults that a real server cannot be told to have: each path answers
//! from its queue of replies, then with what a healthy vLLM would say.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

/// Size of the scripted model's vocabulary.
pub const VOCAB: u32 = 64;

/// One scripted answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status and JSON body.
    Json(u16, Value),
    /// Status 200 and this text, which need not be JSON.
    Text(String),
    /// Announces a body and closes before its end.
    CutBody,
    /// Closes without a word.
    Close,
    /// Status 429 and a `Retry-After` of so many seconds.
    RetryAfter(u64),
    /// Never answers, until the client goes away.
    Hang,
    /// What a healthy server says, once `Scripted::release` is called.
    Held,
}

/// What the scripted server was started with.
#[derive(Clone, Debug)]
pub struct Model {
    pub max_num_seqs: usize,
    pub max_model_len: usize,
    pub vocab_size: u32,
}

impl Default for Model {
    fn default() -> Model {
        Model { max_num_seqs: 8, max_model_len: 512, vocab_size: VOCAB }
    }
}

/// What the scripted server says at `/metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics {
    pub room_tokens: u64,
    pub running: u64,
    pub waiting: u64,
    pub cache_used_frac: f64,
    pub preemptions: u64,
    pub prefix_hits: u64,
    pub prefix_queries: u64,
}

/// The state of the scripted server.
#[derive(Debug, Default)]
struct State {
    model: Model,
    metrics: Option<Metrics>,
    /// Names of the adapters that were loaded.
    adapters: Vec<String>,
    /// Takes connections and says nothing.
    hung: bool,
    /// Values of the header `authorization`, by request.
    keys: Vec<Option<String>>,
    /// Says which process answers; empty: does not.
    process: String,
    queues: HashMap<String, VecDeque<Reply>>,
    seen: Vec<(String, Value)>,
    version: u64,
    digest: Option<String>,
    paused: bool,
    raw_logprobs: bool,
}

/// A running scripted server; ends when dropped.
#[derive(Debug)]
pub struct Scripted {
    pub url: String,
    state: Arc<Mutex<State>>,
    gate: Arc<Notify>,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    hanging: Arc<AtomicUsize>,
    shared: Shared,
    task: JoinHandle<()>,
}

impl Scripted {
    pub async fn start() -> Scripted {
        Scripted::with(Model::default()).await
    }

    /// A server of another size.
    pub async fn with(model: Model) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let state = Arc::new(Mutex::new(State { model, process: url.clone(), ..State::default() }));
        let gate = Arc::new(Notify::new());
        let (in_flight, most, dropped, hanging) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let shared = Shared {
            state: Arc::clone(&state),
            gate: Arc::clone(&gate),
            in_flight: Arc::clone(&in_flight),
            most_in_flight: Arc::clone(&most),
            dropped: Arc::clone(&dropped),
            hanging: Arc::clone(&hanging),
        };
        let task = tokio::spawn(shared.clone().listen(listener));
        Scripted { url, state, gate, in_flight, most_in_flight: most, dropped, hanging, shared, task }
    }

    /// The process is killed: its connections break and nobody listens any more.
    pub async fn kill(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.in_flight.store(0, Ordering::SeqCst);
        self.hanging.store(0, Ordering::SeqCst);
    }

    /// Starts it again on the same port, with the weights of its start.
    pub async fn restart(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind(&address).await.expect("its port is free again");
        {
            let mut state = self.lock();
            (state.version, state.digest, state.paused, state.hung) = (0, None, false, false);
            state.queues.clear();
            state.adapters.clear();
            state.process.push('+');
        }
        self.task = tokio::spawn(self.shared.clone().listen(listener));
    }

    /// From now on it takes requests and answers none, or answers again.
    pub fn hang(&self, hung: bool) {
        self.lock().hung = hung;
    }

    /// From now on it was started like this.
    pub fn become_model(&self, model: Model) {
        self.lock().model = model;
    }

    /// From now on it has metrics, and these.
    pub fn say(&self, metrics: Metrics) {
        self.lock().metrics = Some(metrics);
    }

    /// Values of the header `authorization`, by request.
    pub fn keys(&self) -> Vec<Option<String>> {
        self.lock().keys.clone()
    }

    /// From now on no answer says which process made it.
    pub fn become_nameless(&self) {
        self.lock().process.clear();
    }

    /// Version that it holds.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// The next answers of `path` (without its query; worker methods are `rpc:NAME`).
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        self.lock().queues.entry(path.to_owned()).or_default().extend(replies);
    }

    /// Bodies received at `path`.
    pub fn seen(&self, path: &str) -> Vec<Value> {
        self.lock().seen.iter().filter(|(at, _)| at == path).map(|(_, body)| body.clone()).collect()
    }

    /// Paths received, in order.
    pub fn order(&self) -> Vec<String> {
        self.lock().seen.iter().map(|(path, _)| path.clone()).collect()
    }

    /// From now on the server claims to hold these weights, as after a restart.
    pub fn hold(&self, version: u64, digest: Option<&str>) {
        let mut state = self.lock();
        state.version = version;
        state.digest = digest.map(str::to_owned);
    }

    /// Returns raw logprobs whatever the temperature.
    pub fn raw_logprobs(&self) {
        self.lock().raw_logprobs = true;
    }

    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Lets one request that waits at `Reply::Held` go on.
    pub fn release(&self) {
        self.gate.notify_one();
    }

    /// Sequences being answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// The most sequences that were ever answered at once.
    pub fn most_in_flight(&self) -> usize {
        self.most_in_flight.load(Ordering::SeqCst)
    }

    /// Connections that the client closed before their answer.
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    /// Sequences that it took and leaves without an answer, until their connection is closed.
    pub fn hanging(&self) -> usize {
        self.hanging.load(Ordering::SeqCst)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked in here")
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// After 10 s.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited 10 s in vain for: {what}");
}

#[derive(Clone, Debug)]
struct Shared {
    state: Arc<Mutex<State>>,
    gate: Arc<Notify>,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    hanging: Arc<AtomicUsize>,
}

impl Shared {
    /// Until it is dropped, and with it all connections.
    async fn listen(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(self.clone().serve(stream));
            while connections.try_join_next().is_some() {}
        }
    }

    async fn serve(self, mut stream: TcpStream) {
        while let Some(Asked { path, body, key, .. }) = read_request(&mut stream).await {
            let name = match body["method"].as_str() {
                Some(method) if path == "/collective_rpc" => format!("rpc:{method}"),
                _ => path.split('?').next().expect("a path").to_owned(),
            };
            let reply = {
                let mut state = self.state.lock().expect("state");
                state.seen.push((name.clone(), body.clone()));
                state.keys.push(key);
                let scripted = state.queues.get_mut(&name).and_then(VecDeque::pop_front);
                if state.hung { Some(Reply::Hang) } else { scripted }
            };
            let sequences = if name == "/v1/completions" { body["n"].as_u64().unwrap_or(1) as usize } else { 0 };
            let now = self.in_flight.fetch_add(sequences, Ordering::SeqCst) + sequences;
            self.most_in_flight.fetch_max(now, Ordering::SeqCst);
            let hanging = if matches!(reply, Some(Reply::Hang)) { sequences } else { 0 };
            self.hanging.fetch_add(hanging, Ordering::SeqCst);
            let goes_on = self.answer(&mut stream, &name, &body, reply).await;
            self.hanging.fetch_sub(hanging, Ordering::SeqCst);
            self.in_flight.fetch_sub(sequences, Ordering::SeqCst);
            if !goes_on {
                return;
            }
        }
    }

    /// Whether the connection stays open.
    async fn answer(&self, stream: &mut TcpStream, name: &str, body: &Value, reply: Option<Reply>) -> bool {
        match reply {
            None if name == "/metrics" => {
                let metrics = self.state.lock().expect("state").metrics;
                match metrics {
                    Some(metrics) => self.send(stream, 200, &metrics.text()).await,
                    None => self.send(stream, 404, r#"{"detail":"Not Found"}"#).await,
                }
            }
            None => self.send(stream, 200, &self.healthy(name, body).to_string()).await,
            Some(Reply::RetryAfter(seconds)) => {
                let head = format!("HTTP/1.1 429 X\r\nretry-after: {seconds}\r\ncontent-length: 4\r\n\r\nbusy");
                stream.write_all(head.as_bytes()).await.is_ok()
            }
            Some(Reply::Json(status, value)) => self.send(stream, status, &value.to_string()).await,
            Some(Reply::Text(text)) => self.send(stream, 200, &text).await,
            Some(Reply::CutBody) => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"choices\":").await;
                false
            }
            Some(Reply::Close) => false,
            Some(Reply::Hang) => {
                let mut byte = [0];
                if matches!(stream.read(&mut byte).await, Ok(0) | Err(_)) {
                    self.dropped.fetch_add(1, Ordering::SeqCst);
                }
                false
            }
            Some(Reply::Held) => {
                self.gate.notified().await;
                self.send(stream, 200, &self.healthy(name, body).to_string()).await
            }
        }
    }

    async fn send(&self, stream: &mut TcpStream, status: u16, body: &str) -> bool {
        let process = self.state.lock().expect("state").process.clone();
        send(stream, status, &process, body).await
    }

    /// What a healthy server says.
    fn healthy(&self, name: &str, body: &Value) -> Value {
        let mut state = self.state.lock().expect("state");
        match name {
            "/version" => json!({"version": "0.26.0"}),
            "/v1/models" => {
                let own = json!({"id": "policy", "max_model_len": state.model.max_model_len});
                let adapters = state.adapters.iter().map(|name| json!({"id": name, "parent": "policy"}));
                json!({ "data": std::iter::once(own).chain(adapters).collect::<Vec<_>>() })
            }
            "/v1/load_lora_adapter" => {
                let name = body["lora_name"].as_str().expect("a name").to_owned();
                state.adapters.push(name);
                json!({})
            }
            "/v1/unload_lora_adapter" => {
                state.adapters.retain(|name| body["lora_name"] != json!(name));
                json!({})
            }
            "/is_paused" => json!({"is_paused": state.paused}),
            "/is_sleeping" => json!({"is_sleeping": false}),
            "/pause" => {
                state.paused = true;
                json!({"status": "paused"})
            }
            "/resume" => {
                state.paused = false;
                json!({"status": "resumed"})
            }
            "/reset_prefix_cache" => json!({"success": true}),
            "rpc:ds_load" => {
                state.version = body["kwargs"]["version"].as_u64().expect("version");
                state.digest = Some(digest(&body["kwargs"]["tensors"], state.version));
                json!({"results": [{"ok": true, "intact": true, "version": state.version, "error": null}]})
            }
            "rpc:ds_state" => {
                let held = json!({"different": [], "bitwise_tensors": 1, "bitwise_bytes": 4, "probed_tensors": 0,
                    "probed_bytes": 0, "unchecked_tensors": 0, "unchecked_bytes": 0});
                json!({"results": [{"protocol": 1, "vllm": "0.26.0", "version": state.version, "digest": state.digest,
                    "intact": true, "max_num_seqs": state.model.max_num_seqs, "vocab_size": state.model.vocab_size, "held": held,
                    "logprobs_mode": "processed_logprobs"}]})
            }
            "/v1/completions" => completion(body, state.raw_logprobs),
            _ => json!({}),
        }
    }
}

/// The manifest's formula, for tensors that there are; else a name that tests know.
fn digest(tensors: &Value, version: u64) -> String {
    let Some(tensors) = tensors.as_object().filter(|tensors| !tensors.is_empty()) else {
        return format!("digest-{version}");
    };
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    let mut digest = Sha256::new();
    for name in names {
        digest.update(format!("{name}\0{:08x}\n", tensors[name]["crc32"].as_u64().expect("a checksum")));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Metrics {
    /// As vLLM writes it.
    fn text(&self) -> String {
        let Metrics { room_tokens, running, waiting, cache_used_frac, preemptions, prefix_hits, prefix_queries } = self;
        format!(
            "# TYPE vllm:num_requests_running gauge\n\
             vllm:num_requests_running{{engine=\"0\",model_name=\"policy\"}} {running}.0\n\
             vllm:num_requests_waiting{{engine=\"0\",model_name=\"policy\"}} {waiting}.0\n\
             vllm:kv_cache_usage_perc{{engine=\"0\",model_name=\"policy\"}} {cache_used_frac}\n\
             vllm:num_preemptions_total{{engine=\"0\",model_name=\"policy\"}} {preemptions}.0\n\
             vllm:prefix_cache_hits_total{{engine=\"0\",model_name=\"policy\"}} {prefix_hits}.0\n\
             vllm:prefix_cache_queries_total{{engine=\"0\",model_name=\"policy\"}} {prefix_queries}.0\n\
             vllm:cache_config_info{{block_size=\"1\",engine=\"0\",num_gpu_blocks=\"{room_tokens}\"}} 1.0\n"
        )
    }
}

/// A healthy answer: `n` choices of three tokens; alternatives whose logits are 0, -1, -2, and so on.
fn completion(body: &Value, raw: bool) -> Value {
    let temperature = if raw { 1.0 } else { body["temperature"].as_f64().expect("temperature") };
    let alternatives = body["logprobs"].as_u64().expect("logprobs") as u32;
    let logits: Vec<f64> = (0..VOCAB).map(|token| -f64::from(token) / temperature).collect();
    let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
    let top: HashMap<String, f64> =
        (0..alternatives).map(|token| (format!("token_id:{token}"), logits[token as usize] - total)).collect();
    let choices: Vec<Value> = (0..body["n"].as_u64().expect("n"))
        .map(|index| {
            json!({"index": index, "text": "", "token_ids": [3, 4, 5], "finish_reason": "length", "stop_reason": null,
                "logprobs": {"token_logprobs": [-0.5, -0.25, -0.125], "top_logprobs": [top, null, null]},
                "prompt_logprobs": prompt_logprobs(body)})
        })
        .collect();
    json!({ "choices": choices })
}

fn prompt_logprobs(body: &Value) -> Value {
    if body["prompt_logprobs"].is_null() {
        return Value::Null;
    }
    let tokens = body["prompt"].as_array().expect("prompt");
    let position = |(i, token): (usize, &Value)| match i {
        0 => Value::Null,
        _ => json!({token.to_string(): {"logprob": -(i as f64), "rank": 1, "decoded_token": "x"}}),
    };
    tokens.iter().enumerate().map(position).collect()
}

/// An answer that `process` made; of nobody's where that is empty.
pub async fn send(stream: &mut TcpStream, status: u16, process: &str, body: &str) -> bool {
    let length = body.len();
    let name = if process.is_empty() { String::new() } else { format!("x-deepsearch-server: {process}\r\n") };
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{name}content-length: {length}\r\n\r\n");
    // One write: two would wait for each other's acknowledgement.
    stream.write_all((head + body).as_bytes()).await.is_ok()
}

/// A request.
pub struct Asked {
    pub path: String,
    pub body: Value,
    /// Value of the header `authorization`.
    pub key: Option<String>,
    /// Value of the header `x-session-id`.
    pub session: Option<String>,
}

/// The next request; `None` when the client is gone.
pub async fn read_request(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|&count| count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let header =
        |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()));
    let (key, session) = (header("authorization:"), header("x-session-id:"));
    let path = String::from_utf8_lossy(&bytes).split(' ').nth(1)?.to_owned();
    let length: usize = header("content-length:").map_or(0, |value| value.parse().expect("a length"));
    let mut body = bytes.split_off(head_end);
    while body.len() < length {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|&count| count > 0)?;
        body.extend_from_slice(&chunk[..count]);
    }
    Some(Asked { path, body: serde_json::from_slice(&body).unwrap_or(Value::Null), key, session })
}
