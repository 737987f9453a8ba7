//! A server in vLLM's place that whole runs can be had with: it takes weights, and answers at random, or what a test tells
//! it to. Unlike `scripted.rs` it lives on threads of its own, beside a program that is started and killed.
#![allow(dead_code)]

#[path = "splitmix.rs"]
pub mod splitmix;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use splitmix::SplitMix;

/// A request for continuations.
pub struct Asked {
    pub prompt: Vec<u32>,
    /// How many requests of the same server came before it.
    pub number: usize,
}

/// What the server does about it.
pub enum Say {
    /// Answers at random: some end in a boxed digit.
    Anything,
    /// These answers one after the other, from the first again.
    Answers(Vec<Vec<u32>>),
    /// Status 400.
    Refuse,
    /// Nothing, until the client goes away.
    Nothing,
}

type Script = Box<dyn FnMut(&Asked) -> Say + Send>;

struct State {
    version: u64,
    digest: Option<String>,
    paused: bool,
    asked: usize,
    script: Script,
}

/// Tokens of a tokenizer that answers are made of.
#[derive(Clone)]
pub struct Words {
    pub vocab_tokens: usize,
    /// Any.
    pub filling: Vec<u32>,
    /// Whole answers.
    pub endings: Vec<Vec<u32>>,
}

/// A running server; its threads end with the process.
pub struct PolicyServer {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl PolicyServer {
    pub fn start(words: Words) -> PolicyServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script: Script = Box::new(|_| Say::Anything);
        let state = State { version: 0, digest: None, paused: false, asked: 0, script };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, words) = (shared.clone(), words.clone());
                std::thread::spawn(move || serve(stream, &state, &words));
            }
        });
        PolicyServer { url, state }
    }

    /// From now on it does what `script` says; requests are counted from 0 again.
    pub fn script(&self, script: impl FnMut(&Asked) -> Say + Send + 'static) {
        let mut state = lock(&self.state);
        (state.asked, state.script) = (0, Box::new(script));
    }

    /// Requests since the script.
    pub fn asked(&self) -> usize {
        lock(&self.state).asked
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, words: &Words) {
    let _ = stream.set_nodelay(true);
    while let Some((path, body)) = read_request(&mut stream) {
        let is_sampling =
            path == "/v1/completions" && body["prompt_logprobs"].is_null() && body["cache_salt"] != "probe";
        let say = if is_sampling {
            let prompt = body["prompt"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let mut state = lock(state);
            let asked = Asked { prompt, number: state.asked };
            state.asked += 1;
            (state.script)(&asked)
        } else {
            Say::Anything
        };
        let (status, answer) = match say {
            Say::Refuse => (400, json!({"error": {"message": "no", "type": "BadRequestError", "code": 400}})),
            Say::Nothing => {
                // Ends when the client does.
                while matches!(stream.read(&mut [0; 64]), Ok(count) if count > 0) {}
                return;
            }
            Say::Answers(answers) => (200, completion(&body, |index| answers[index % answers.len()].clone(), words)),
            Say::Anything if path == "/v1/completions" => {
                let mut random = random_of(&body);
                std::thread::sleep(Duration::from_millis(1 + random.below(12)));
                (200, completion(&body, |_| made_up(&body, words, &mut random), words))
            }
            Say::Anything => (200, about_itself(&path, &body, state, words)),
        };
        let body = answer.to_string();
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn about_itself(path: &str, body: &Value, state: &Mutex<State>, words: &Words) -> Value {
    let mut state = lock(state);
    match path.split('?').next().unwrap() {
        "/version" => json!({"version": "0.26.0"}),
        "/v1/models" => json!({"data": [{"id": "policy", "max_model_len": 512}]}),
        "/is_paused" => json!({"is_paused": state.paused}),
        "/is_sleeping" => json!({"is_sleeping": false}),
        "/pause" => {
            state.paused = true;
            json!({})
        }
        "/resume" => {
            state.paused = false;
            json!({})
        }
        "/reset_prefix_cache" => json!({"success": true}),
        "/collective_rpc" if body["method"] == "ds_load" => {
            // What it loads says of itself which weights it is.
            let file = Path::new(body["kwargs"]["path"].as_str().unwrap());
            let manifest = std::fs::read(file.with_file_name("manifest.json")).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            state.version = body["kwargs"]["version"].as_u64().unwrap();
            state.digest = manifest["digest"].as_str().map(str::to_owned);
            json!({"results": [{"ok": true, "intact": true, "version": state.version, "error": null}]})
        }
        "/collective_rpc" => {
            let held = json!({"different": [], "bitwise_tensors": 1, "bitwise_bytes": 4, "probed_tensors": 0,
                "probed_bytes": 0, "unchecked_tensors": 0, "unchecked_bytes": 0});
            json!({"results": [{"protocol": 1, "vllm": "0.26.0", "version": state.version, "digest": state.digest,
                "intact": true, "max_num_seqs": 24, "vocab_size": words.vocab_tokens, "held": held,
                "logprobs_mode": "processed_logprobs"}]})
        }
        _ => json!({}),
    }
}

fn completion(body: &Value, mut answer: impl FnMut(usize) -> Vec<u32>, words: &Words) -> Value {
    let most = body["max_tokens"].as_u64().unwrap() as usize;
    let end = body["stop_token_ids"][0].as_u64().map(|id| id as u32);
    let choices: Vec<Value> = (0..body["n"].as_u64().unwrap() as usize)
        .map(|index| {
            let mut tokens = answer(index);
            tokens.extend(end);
            let is_cut = tokens.len() > most;
            tokens.truncate(most);
            let logprobs: Vec<f64> = tokens.iter().map(|token| -1.0 - f64::from(token % 8)).collect();
            json!({"index": index, "text": "", "token_ids": tokens, "stop_reason": null,
                "finish_reason": if is_cut { "length" } else { "stop" },
                "logprobs": {"token_logprobs": logprobs, "top_logprobs": [likely(words)]},
                "prompt_logprobs": prompt_logprobs(body)})
        })
        .collect();
    json!({ "choices": choices })
}

/// The most likely tokens, which are asked for when the server is greeted.
fn likely(words: &Words) -> Value {
    let tokens = words.filling.iter().take(10).enumerate();
    tokens
        .map(|(place, token)| (format!("token_id:{token}"), json!(-1.0 - place as f64)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn prompt_logprobs(body: &Value) -> Value {
    if body["prompt_logprobs"].is_null() {
        return Value::Null;
    }
    let position = |(place, token): (usize, &Value)| match place {
        0 => Value::Null,
        _ => json!({token.to_string(): {"logprob": -6.0, "rank": 1, "decoded_token": "x"}}),
    };
    body["prompt"].as_array().unwrap().iter().enumerate().map(position).collect()
}

/// As long as it may be, or a whole answer.
fn made_up(body: &Value, words: &Words, random: &mut SplitMix) -> Vec<u32> {
    if random.below(3) == 0 {
        return words.endings[random.below(words.endings.len() as u64) as usize].clone();
    }
    let most = body["max_tokens"].as_u64().unwrap();
    (0..most).map(|_| words.filling[random.below(words.filling.len() as u64) as usize]).collect()
}

/// The same numbers for the same request.
fn random_of(body: &Value) -> SplitMix {
    let text = format!("{}{}", body["seed"], body["prompt"]);
    let mixed = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    SplitMix(text.bytes().fold(0xcbf2_9ce4_8422_2325, mixed))
}

/// Path and JSON body of the next request; `None` when the client is gone.
fn read_request(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let mut more = |bytes: &mut Vec<u8>| {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).ok().filter(|&count| count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
        Some(())
    };
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        more(&mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let path = String::from_utf8_lossy(&bytes).split(' ').nth(1)?.to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |value| value.trim().parse().unwrap());
    while bytes.len() < head_end + length {
        more(&mut bytes)?;
    }
    Some((path, serde_json::from_slice(&bytes[head_end..]).unwrap_or(Value::Null)))
}
