//! One call to one server, with a deadline: status first, then the body. No retry and no state here.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::access::ApiKey;
use super::wire;
use crate::inference::EngineError;

/// The server closes idle connections after 5 s; ours are given up before, so that none is used as it closes.
const IDLE: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(10);
/// In every answer of a server that runs with `front.py`: the name of its process, another after each start.
const PROCESS: &str = "x-deepsearch-server";
/// What a router keeps together: requests of one tree.
const SESSION: &str = "x-session-id";

/// The HTTP client that all servers of an engine share; with `key`, every request carries it.
pub(super) fn http(key: Option<&ApiKey>) -> Result<reqwest::Client, EngineError> {
    let bug = |error: &dyn std::fmt::Display| EngineError::Bug {
        invariant: format!("an HTTP client can be made, but: {error}"),
    };
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|error| bug(&error))?;
        // Shown by nothing that prints headers.
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    // An error means that another provider is already installed, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .default_headers(headers)
        .build()
        .map_err(|error| bug(&error))
}

/// What was answered, and by which process where it says so.
struct Answer {
    body: Vec<u8>,
    process: Option<String>,
}

/// A server's base URL and its connections.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<ApiKey>,
}

impl Client {
    /// A client without any open connection yet.
    pub fn new(http: &reqwest::Client, url: &str) -> Client {
        Client { http: http.clone(), url: url.trim_end_matches('/').to_owned(), key: None }
    }

    /// The same client, whose errors never repeat `key`.
    pub fn hiding(mut self, key: Option<&ApiKey>) -> Client {
        self.key = key.cloned();
        self
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn health(&self, deadline: Duration) -> Result<(), EngineError> {
        self.call(Method::GET, "/health", None::<&()>, deadline).await.map(|_| ())
    }

    /// What each worker holds; never none.
    pub async fn worker_states(&self, verify: bool, deadline: Duration) -> Result<Vec<wire::WorkerState>, EngineError> {
        let (mut states, process) = self.call_workers("ds_state", json!({ "verify": verify }), deadline).await?;
        states.iter_mut().for_each(|state: &mut wire::WorkerState| state.process.clone_from(&process));
        Ok(states)
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self, deadline: Duration) -> Result<String, EngineError> {
        let answer = self.call(Method::GET, "/metrics", None::<&()>, deadline).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    pub async fn version(&self, deadline: Duration) -> Result<String, EngineError> {
        self.get::<wire::ServerVersion>("/version", deadline).await.map(|answer| answer.version)
    }

    pub async fn models(&self, deadline: Duration) -> Result<wire::Models, EngineError> {
        self.get("/v1/models", deadline).await
    }

    pub async fn is_paused(&self, deadline: Duration) -> Result<bool, EngineError> {
        self.get::<wire::IsPaused>("/is_paused", deadline).await.map(|answer| answer.is_paused)
    }

    pub async fn complete(
        &self,
        request: &wire::CompletionRequest<'_>,
        deadline: Duration,
    ) -> Result<wire::Completion, EngineError> {
        self.post("/v1/completions", Some(request), deadline).await
    }

    /// The same of a router, which keeps what has the same `session` together, and the process that answered.
    pub async fn complete_in_session(
        &self,
        request: &wire::CompletionRequest<'_>,
        session: u64,
        deadline: Duration,
    ) -> Result<(wire::Completion, Option<String>), EngineError> {
        let path = "/v1/completions";
        let answer = self.send(Method::POST, path, Some(request), Some(session), deadline).await?;
        Ok((self.parsed(path, &answer.body)?, answer.process))
    }

    /// Stops what is in flight (it answers `abort`) and holds back what comes later.
    pub async fn pause(&self, deadline: Duration) -> Result<(), EngineError> {
        self.post::<Value>("/pause?mode=abort", None::<&()>, deadline).await.map(|_| ())
    }

    pub async fn resume(&self, deadline: Duration) -> Result<(), EngineError> {
        self.post::<Value>("/resume", None::<&()>, deadline).await.map(|_| ())
    }

    /// Weights to the host's memory, the KV cache given up.
    pub async fn sleep(&self, deadline: Duration) -> Result<(), EngineError> {
        self.call(Method::POST, "/sleep?level=1", None::<&()>, deadline).await.map(|_| ())
    }

    /// Both again where they were.
    pub async fn wake_up(&self, deadline: Duration) -> Result<(), EngineError> {
        self.call(Method::POST, "/wake_up", None::<&()>, deadline).await.map(|_| ())
    }

    pub async fn is_sleeping(&self, deadline: Duration) -> Result<bool, EngineError> {
        self.get::<wire::IsSleeping>("/is_sleeping", deadline).await.map(|answer| answer.is_sleeping)
    }

    /// Whether the cache was dropped; blocks still held make it say no.
    pub async fn reset_prefix_cache(&self, deadline: Duration) -> Result<bool, EngineError> {
        self.post::<wire::CacheReset>("/reset_prefix_cache", None::<&()>, deadline).await.map(|answer| answer.success)
    }

    /// Calls a method of the worker extension; one result per worker, never none.
    pub async fn rpc<T: DeserializeOwned>(
        &self,
        method: &str,
        kwargs: Value,
        deadline: Duration,
    ) -> Result<Vec<T>, EngineError> {
        self.call_workers(method, kwargs, deadline).await.map(|(results, _)| results)
    }

    async fn call_workers<T: DeserializeOwned>(
        &self,
        method: &str,
        kwargs: Value,
        deadline: Duration,
    ) -> Result<(Vec<T>, Option<String>), EngineError> {
        let path = "/collective_rpc";
        let body = json!({ "method": method, "kwargs": kwargs, "timeout": deadline.as_secs_f64() });
        let answer = self.call(Method::POST, path, Some(&body), deadline).await?;
        let wire::RpcResults { results } = self.parsed(path, &answer.body)?;
        if results.is_empty() {
            return Err(self.bad_answer(path, format!("no worker answered `{method}`")));
        }
        Ok((results, answer.process))
    }

    /// Loads the adapters in `dir` under `name`, by which requests then ask for them.
    pub async fn load_adapter(&self, name: &str, dir: &str, deadline: Duration) -> Result<(), EngineError> {
        // The same name is the same content: loading it again does no harm, where vLLM would refuse it.
        let body = json!({ "lora_name": name, "lora_path": dir, "load_inplace": true });
        self.call(Method::POST, "/v1/load_lora_adapter", Some(&body), deadline).await.map(|_| ())
    }

    /// Lets go of adapters.
    pub async fn unload_adapter(&self, name: &str, deadline: Duration) -> Result<(), EngineError> {
        let body = json!({ "lora_name": name });
        self.call(Method::POST, "/v1/unload_lora_adapter", Some(&body), deadline).await.map(|_| ())
    }

    pub fn bad_answer(&self, path: &str, problem: String) -> EngineError {
        EngineError::BadAnswer { url: self.url.clone(), path: path.to_owned(), problem }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, deadline: Duration) -> Result<T, EngineError> {
        let answer = self.call(Method::GET, path, None::<&()>, deadline).await?;
        self.parsed(path, &answer.body)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
        deadline: Duration,
    ) -> Result<T, EngineError> {
        let answer = self.call(Method::POST, path, body, deadline).await?;
        self.parsed(path, &answer.body)
    }

    fn parsed<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, EngineError> {
        wire::parse(body).map_err(|error| self.bad_answer(path, error.to_string()))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        deadline: Duration,
    ) -> Result<Answer, EngineError> {
        self.send(method, path, body, None, deadline).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        session: Option<u64>,
        deadline: Duration,
    ) -> Result<Answer, EngineError> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(session) = session {
            request = request.header(SESSION, session);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let exchange = async {
            let response = request.send().await?;
            let status = response.status();
            let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
            let process = response.headers().get(PROCESS).and_then(|name| name.to_str().ok()).map(str::to_owned);
            Ok((status, retry_after, process, response.bytes().await?))
        };
        let (status, retry_after, process, bytes) = match tokio::time::timeout(deadline, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(source)) => return Err(self.transport(source)),
            Err(_) => {
                return Err(EngineError::Deadline { url: self.url.clone(), path: path.to_owned(), deadline });
            }
        };
        if status.is_success() {
            return Ok(Answer { body: bytes.to_vec(), process });
        }
        let message = wire::error_message(&bytes);
        let message = self.key.as_ref().map_or_else(|| message.clone(), |key| key.removed_from(&message));
        let (url, path) = (self.url.clone(), path.to_owned());
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(EngineError::ServerFailed { url, path, status: status.as_u16(), message, retry_after });
        }
        Err(EngineError::Refused { url, path, status: status.as_u16(), message })
    }

    fn transport(&self, source: reqwest::Error) -> EngineError {
        // The URL is in our own message already.
        EngineError::Unreachable { url: self.url.clone(), source: source.without_url().into() }
    }
}

/// `Retry-After` in seconds; the other form, a date, would need this machine's clock to agree with the server's.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds: u64 = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
