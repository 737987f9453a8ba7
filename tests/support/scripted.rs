//! A scripted HTTP server in vLLM's place, for faults that a real server cannot be told to have: each path answers
//! from its queue of replies, then with what a healthy vLLM would say.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

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
    /// Never answers, until the client goes away.
    Hang,
    /// What a healthy server says, once `Scripted::release` is called.
    Held,
}

/// The state of the scripted server.
#[derive(Debug, Default)]
struct State {
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
    task: JoinHandle<()>,
}

impl Scripted {
    pub async fn start() -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let state = Arc::new(Mutex::new(State::default()));
        let gate = Arc::new(Notify::new());
        let (in_flight, most, dropped) = (Arc::default(), Arc::default(), Arc::default());
        let shared = Shared {
            state: Arc::clone(&state),
            gate: Arc::clone(&gate),
            in_flight: Arc::clone(&in_flight),
            most_in_flight: Arc::clone(&most),
            dropped: Arc::clone(&dropped),
        };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(shared.clone().serve(stream));
            }
        });
        Scripted { url, state, gate, in_flight, most_in_flight: most, dropped, task }
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

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    gate: Arc<Notify>,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

impl Shared {
    async fn serve(self, mut stream: TcpStream) {
        while let Some((path, body)) = read_request(&mut stream).await {
            let name = match body["method"].as_str() {
                Some(method) if path == "/collective_rpc" => format!("rpc:{method}"),
                _ => path.split('?').next().expect("a path").to_owned(),
            };
            let reply = {
                let mut state = self.state.lock().expect("state");
                state.seen.push((name.clone(), body.clone()));
                state.queues.get_mut(&name).and_then(VecDeque::pop_front)
            };
            let sequences = if name == "/v1/completions" { body["n"].as_u64().unwrap_or(1) as usize } else { 0 };
            let now = self.in_flight.fetch_add(sequences, Ordering::SeqCst) + sequences;
            self.most_in_flight.fetch_max(now, Ordering::SeqCst);
            let goes_on = self.answer(&mut stream, &name, &body, reply).await;
            self.in_flight.fetch_sub(sequences, Ordering::SeqCst);
            if !goes_on {
                return;
            }
        }
    }

    /// Whether the connection stays open.
    async fn answer(&self, stream: &mut TcpStream, name: &str, body: &Value, reply: Option<Reply>) -> bool {
        match reply {
            None => send(stream, 200, &self.healthy(name, body).to_string()).await,
            Some(Reply::Json(status, value)) => send(stream, status, &value.to_string()).await,
            Some(Reply::Text(text)) => send(stream, 200, &text).await,
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
                send(stream, 200, &self.healthy(name, body).to_string()).await
            }
        }
    }

    /// What a healthy server says.
    fn healthy(&self, name: &str, body: &Value) -> Value {
        let mut state = self.state.lock().expect("state");
        match name {
            "/version" => json!({"version": "0.26.0"}),
            "/v1/models" => json!({"data": [{"id": "policy", "max_model_len": 512}]}),
            "/is_paused" => json!({"is_paused": state.paused}),
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
                state.digest = Some(format!("digest-{}", state.version));
                json!({"results": [{"ok": true, "intact": true, "version": state.version, "error": null}]})
            }
            "rpc:ds_state" => {
                let held = json!({"different": [], "bitwise_tensors": 1, "bitwise_bytes": 4, "probed_tensors": 0,
                    "probed_bytes": 0, "unchecked_tensors": 0, "unchecked_bytes": 0});
                json!({"results": [{"protocol": 1, "vllm": "0.26.0", "version": state.version, "digest": state.digest,
                    "intact": true, "max_num_seqs": 8, "vocab_size": VOCAB, "held": held,
                    "logprobs_mode": "processed_logprobs"}]})
            }
            "/v1/completions" => completion(body, state.raw_logprobs),
            _ => json!({}),
        }
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

async fn send(stream: &mut TcpStream, status: u16, body: &str) -> bool {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    // One write: two would wait for each other's acknowledgement.
    stream.write_all((head + body).as_bytes()).await.is_ok()
}

/// Path and JSON body of the next request; `None` when the client is gone.
async fn read_request(stream: &mut TcpStream) -> Option<(String, Value)> {
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
    let path = String::from_utf8_lossy(&bytes).split(' ').nth(1)?.to_owned();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |value| value.trim().parse().expect("a length"));
    let mut body = bytes.split_off(head_end);
    while body.len() < length {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|&count| count > 0)?;
        body.extend_from_slice(&chunk[..count]);
    }
    Some((path, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
