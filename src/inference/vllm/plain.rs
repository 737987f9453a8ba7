//! A load generator: ready-made bodies to one server, nothing else. What the engine is measured against.
//!
//! Independent of the engine's client on purpose: no replicas, no retry, no deadline, no check of weights or tokens. Only the
//! form of a request is shared, so that both ask for the same.

use serde::Deserialize;

use super::wire::{CompletionRequest, Models};
use super::{EngineError, client};
use crate::types::GenerateRequest;

/// One server, as a load generator knows it.
#[derive(Clone, Debug)]
pub struct PlainServer {
    http: reqwest::Client,
    url: String,
    model: String,
}

#[derive(Deserialize)]
struct Answer {
    usage: Usage,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u64,
}

impl PlainServer {
    /// The server at `url` and the model called `served` on it; without a name the first that it names.
    ///
    /// # Errors
    /// It does not answer, or serves nothing.
    pub async fn greet(url: &str, served: Option<&str>) -> Result<PlainServer, EngineError> {
        let mut server =
            PlainServer { http: client::http(None)?, url: url.trim_end_matches('/').to_owned(), model: String::new() };
        let path = "/v1/models";
        let answer = server.http.get(format!("{}{path}", server.url)).send().await;
        let models: Models = match answer {
            Ok(answer) => answer.json().await.map_err(|error| server.unreachable(error))?,
            Err(error) => return Err(server.unreachable(error)),
        };
        let names: Vec<String> = models.data.into_iter().map(|card| card.id).collect();
        let found = names.iter().find(|name| served.is_none_or(|served| served == **name));
        server.model = found.cloned().ok_or_else(|| server.bad_answer(path, "it does not serve the model".into()))?;
        Ok(server)
    }

    /// The body with which the engine would send `request`.
    ///
    /// # Errors
    /// [`EngineError::Bug`]: numbers and strings are always JSON.
    pub fn body(&self, request: &GenerateRequest) -> Result<Vec<u8>, EngineError> {
        let body = CompletionRequest {
            n: request.n,
            seed: request.seed & (u64::MAX >> 2),
            stop: &request.stop,
            stop_token_ids: &request.stop_token_ids,
            ..CompletionRequest::new(&self.model, &request.tokens, request.max_tokens, request.sampling, "plain")
        };
        serde_json::to_vec(&body)
            .map_err(|error| EngineError::Bug { invariant: format!("a request is JSON, but: {error}") })
    }

    /// Sends a body and returns the number of tokens that were generated for it.
    ///
    /// # Errors
    /// Anything but an answer with a count.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn send(&self, body: Vec<u8>) -> Result<u64, EngineError> {
        let path = "/v1/completions";
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        let answer = request.body(body).send().await.map_err(|error| self.unreachable(error))?;
        let (status, bytes) = (answer.status(), answer.bytes().await.map_err(|error| self.unreachable(error))?);
        if !status.is_success() {
            return Err(self.bad_answer(path, format!("status {status}")));
        }
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|error| self.bad_answer(path, error.to_string()))?;
        Ok(answer.usage.completion_tokens)
    }

    fn unreachable(&self, source: reqwest::Error) -> EngineError {
        EngineError::Unreachable { url: self.url.clone(), source: source.without_url().into() }
    }

    fn bad_answer(&self, path: &str, problem: String) -> EngineError {
        EngineError::BadAnswer { url: self.url.clone(), path: path.to_owned(), problem }
    }
}
