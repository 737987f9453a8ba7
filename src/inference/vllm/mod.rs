//! The engine on vLLM servers: HTTP, one or many replicas.
//!
//! Invariants: a replica whose weights are in doubt gets no work; no answer mixes weight versions; no request is ever
//! served from a prefix cache of other weights (salted by version and digest, and dropped at every load). Deliberately
//! absent: restarting a server that died, since the run decides what is to be loaded into it.

mod client;
mod launch;
mod pool;
mod probe;
mod reload;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use self::client::Client;
use self::launch::Server;
use self::pool::{Pool, Replica};
use self::wire::{Completion, CompletionRequest, Flaw, WorkerState};
use super::retry::retry;
use super::{Capabilities, Engine, EngineError, EngineFuture, LoadReport};
use crate::config::InferenceConfig;
use crate::types::{Continuation, GenerateRequest, Sampling, TokenId, WeightManifest};

/// vLLM whose answers this client was written for.
const SUPPORTED: &str = "0.26.";
/// What `worker.py` must answer.
const PROTOCOL: u32 = 1;

/// What an engine is started from.
#[derive(Clone, Copy, Debug)]
pub struct VllmSetup<'a> {
    /// The section `[inference]`.
    pub config: &'a InferenceConfig,
    /// How the run samples: the server's logprobs must fit it.
    pub sampling: Sampling,
    /// The model of a launched server.
    pub model: &'a Path,
    /// The run's folder: log and extension of a launched server.
    pub run_dir: &'a Path,
    /// Names the run in the servers' prefix caches; two runs never share entries.
    pub salt: &'a str,
    /// Rank of the adapters that will be loaded in place of whole weights; `None`: whole weights.
    pub adapter_rank: Option<u32>,
}

/// One or many vLLM servers.
#[derive(Debug)]
pub struct VllmEngine {
    pool: Pool,
    capabilities: Capabilities,
    /// The server we started, if we did.
    server: Option<Arc<Server>>,
    request_timeout: Duration,
    reload_timeout: Duration,
    retry_window: Duration,
}

impl VllmEngine {
    /// Starts a server, or connects to those configured, and finds out what they can do. A server that already holds
    /// loaded weights is fenced off until [`Engine::load_weights`].
    ///
    /// # Errors
    /// [`EngineError::Biased`] for sampling that the logprobs do not fit, [`EngineError::Unsupported`] for a server
    /// without the worker extension or the development endpoints, and whatever hinders a start.
    pub async fn start(setup: VllmSetup<'_>) -> Result<VllmEngine, EngineError> {
        probe::check_sampling(setup.sampling)?;
        VllmEngine::begin(setup, Terms::Loads).await
    }

    /// As [`Self::start`], but nothing will be loaded and no logprob is looked at: the servers are taken with whatever
    /// they hold, also those without the worker extension. `served` is the name of the model on them; without it the first
    /// that they name.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a server that does not serve `served`, and whatever hinders a start.
    pub async fn start_as_it_is(setup: VllmSetup<'_>, served: Option<&str>) -> Result<VllmEngine, EngineError> {
        VllmEngine::begin(setup, Terms::AsItIs { served }).await
    }

    async fn begin(setup: VllmSetup<'_>, terms: Terms<'_>) -> Result<VllmEngine, EngineError> {
        let config = setup.config;
        let http = client::http()?;
        let (server, urls) = if config.launch {
            let server = Server::start(&http, config, setup.model, setup.run_dir, setup.adapter_rank).await?;
            let urls = vec![server.url().to_owned()];
            (Some(Arc::new(server)), urls)
        } else {
            (None, config.urls.clone())
        };
        if urls.is_empty() {
            return Err(EngineError::NoServer);
        }
        let retry_window = Duration::from_secs(config.retry_timeout_s);
        let mut found = Vec::new();
        for url in &urls {
            found
                .push(retry(retry_window, |_| greet(Client::new(&http, url), &setup, terms, server.as_deref())).await?);
        }
        let capabilities = combine(&found)?;
        let replicas = found.into_iter().map(|greeting| greeting.replica(&setup, terms, urls.len()));
        let pool = Pool::new(replicas.collect());
        let max_sequences = pool.replicas().iter().map(|replica| replica.capacity as usize).sum();
        Ok(VllmEngine {
            pool,
            capabilities: Capabilities { max_sequences, ..capabilities },
            server,
            request_timeout: Duration::from_secs(config.request_timeout_s),
            reload_timeout: Duration::from_secs(config.reload_timeout_s),
            retry_window,
        })
    }

    /// Base URLs of the replicas.
    pub fn urls(&self) -> Vec<String> {
        self.pool.replicas().iter().map(|replica| replica.client.url().to_owned()).collect()
    }

    /// Digest of the weights that were loaded into the servers; `None` where they hold those of their start, or cannot say
    /// what they hold.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn weights_digest(&self) -> Result<Option<String>, EngineError> {
        let mut found = None;
        for replica in self.pool.replicas().iter().filter(|replica| replica.can_say_what_it_holds()) {
            let states = retry(self.retry_window, |_| replica.worker_states(false)).await?;
            found = found.or(states.into_iter().find_map(|state| state.digest));
        }
        Ok(found)
    }

    /// Ends the launched server, if there is one; requests still in flight fail. Dropping the engine does the same, but
    /// blocks.
    pub async fn stop(&self) {
        if let Some(server) = &self.server {
            let server = Arc::clone(server);
            // A panic in it would have left the work to Drop.
            let _ = tokio::task::spawn_blocking(move || server.end()).await;
        }
    }

    /// vLLM looks such a token up without a check, and dies of it with all that is in flight.
    fn check_tokens(&self, tokens: &[TokenId]) -> Result<(), EngineError> {
        let vocab_tokens = self.capabilities.vocab_tokens;
        let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab_tokens) else { return Ok(()) };
        Err(EngineError::Refused {
            url: self.urls().join(", "),
            path: "/v1/completions".to_owned(),
            status: 400,
            message: format!("token {token} is outside the vocabulary of {vocab_tokens}; it was not sent"),
        })
    }

    async fn generate_once(&self, request: &GenerateRequest) -> Result<Vec<Continuation>, EngineError> {
        self.check_server()?;
        loop {
            let replica = self.pool.pick(request.affinity)?;
            let ticket = match replica.take(request.n).await {
                // Fenced off while we waited: `pick` knows whether there is another.
                Err(EngineError::Fenced { .. }) => continue,
                other => other?,
            };
            let body = CompletionRequest {
                n: request.n,
                // The server reads it as a signed number and adds the sample's index: there must be room for that.
                seed: request.seed & (u64::MAX >> 2),
                stop: &request.stop,
                stop_token_ids: &request.stop_token_ids,
                ..CompletionRequest::new(
                    &ticket.model,
                    &request.tokens,
                    request.max_tokens,
                    request.sampling,
                    &ticket.salt,
                )
            };
            // From here, not from the call: waiting for a seat behind other trees is no failure of the server.
            let answer = self.ask(&replica, &body, Instant::now() + request.deadline).await?;
            replica.check(&ticket)?;
            return answer.into_continuations(request.n, self.capabilities.vocab_tokens, ticket.version).map_err(
                |flaw| match flaw {
                    Flaw::Aborted => replica.interrupted("it was aborted by the server"),
                    Flaw::Malformed(problem) => replica.client.bad_answer("/v1/completions", problem),
                },
            );
        }
    }

    async fn score_once(&self, replica: &Replica, tokens: &[TokenId]) -> Result<Vec<f32>, EngineError> {
        self.check_server()?;
        let ticket = replica.take(1).await?;
        let neutral = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
        // Asking for prompt logprobs makes the server compute the whole prompt, whatever its cache holds.
        let body = CompletionRequest {
            prompt_logprobs: Some(0),
            ..CompletionRequest::new(&ticket.model, tokens, 1, neutral, &ticket.salt)
        };
        let answer = self.ask(replica, &body, Instant::now() + self.request_timeout).await?;
        replica.check(&ticket)?;
        prompt_logprobs(answer, tokens).map_err(|flaw| match flaw {
            Flaw::Aborted => replica.interrupted("it was aborted by the server"),
            Flaw::Malformed(problem) => replica.client.bad_answer("/v1/completions", problem),
        })
    }

    async fn ask(
        &self,
        replica: &Replica,
        body: &CompletionRequest<'_>,
        deadline: Instant,
    ) -> Result<Completion, EngineError> {
        let left = deadline.saturating_duration_since(Instant::now()).min(self.request_timeout);
        let answer = replica.client.complete(body, left).await;
        match &answer {
            Ok(_) => replica.note_success(),
            Err(error) => replica.note_failure(error),
        }
        answer
    }

    /// A reload that failed because our own server died under it is told with the server's log. The connection breaks a
    /// moment before the process is gone.
    async fn last_words(&self, error: EngineError) -> EngineError {
        for _ in 0..20 {
            if let Err(exited) = self.check_server() {
                return exited;
            }
            if self.server.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        error
    }

    /// A dead server of our own is an error at once, with its last words, rather than after many retries.
    fn check_server(&self) -> Result<(), EngineError> {
        self.server.as_ref().map_or(Ok(()), |server| server.check_alive())
    }
}

impl Engine for VllmEngine {
    fn generate(&self, request: GenerateRequest) -> EngineFuture<'_, Vec<Continuation>> {
        Box::pin(async move {
            self.check_tokens(&request.tokens)?;
            retry(self.retry_window, |_| self.generate_once(&request)).await
        })
    }

    fn score<'a>(&'a self, tokens: &'a [TokenId]) -> EngineFuture<'a, Vec<Vec<f32>>> {
        Box::pin(async move {
            self.check_tokens(tokens)?;
            let rows = self
                .pool
                .replicas()
                .iter()
                .map(|replica| retry(self.retry_window, move |_| self.score_once(replica, tokens)));
            join_all(rows).await.into_iter().collect()
        })
    }

    fn load_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, LoadReport> {
        Box::pin(async move {
            self.check_server()?;
            let start = Instant::now();
            let loads =
                self.pool.replicas().iter().map(|replica| reload::reload(replica, manifest, self.reload_timeout));
            // All are awaited, also when one fails: none is left half way.
            let mut reports = match join_all(loads).await.into_iter().collect::<Result<Vec<_>, _>>() {
                Ok(reports) => reports.into_iter(),
                Err(error) => return Err(self.last_words(error).await),
            };
            let Some(mut slowest) = reports.next() else { return Err(EngineError::NoServer) };
            for other in reports {
                for (mine, its) in slowest.phases.iter_mut().zip(other.phases) {
                    mine.1 = mine.1.max(its.1);
                }
                let checked = |held: &super::HeldWeights| held.bitwise_bytes + held.probed_bytes;
                if checked(&other.held) < checked(&slowest.held) {
                    slowest.held = other.held;
                }
            }
            let (phases, held) = (slowest.phases, slowest.held);
            Ok(LoadReport { version: manifest.version, elapsed: start.elapsed(), phases, held })
        })
    }

    fn confirm_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            self.check_server()?;
            let asked = self.pool.replicas().iter().map(|replica| reload::confirm(replica, manifest));
            join_all(asked).await.into_iter().collect()
        })
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

/// Logprobs of `tokens[1..]` from an answer with `prompt_logprobs`.
fn prompt_logprobs(answer: Completion, tokens: &[TokenId]) -> Result<Vec<f32>, Flaw> {
    let malformed = |problem: String| Flaw::Malformed(problem);
    let [choice] = <[wire::Choice; 1]>::try_from(answer.choices)
        .map_err(|choices| malformed(format!("{} choices, asked for 1", choices.len())))?;
    if choice.finish_reason.as_deref() == Some("abort") {
        return Err(Flaw::Aborted);
    }
    let positions = choice.prompt_logprobs.ok_or_else(|| malformed("no prompt_logprobs, though asked for".into()))?;
    if positions.len() != tokens.len() {
        return Err(malformed(format!("{} prompt_logprobs for {} tokens", positions.len(), tokens.len())));
    }
    let pairs = positions.iter().zip(tokens).enumerate().skip(1);
    pairs
        .map(|(i, (position, token))| {
            let found = position.as_ref().and_then(|by_token| by_token.get(&token.to_string()));
            let value = found.ok_or_else(|| malformed(format!("no logprob for token {token} at position {i}")))?;
            Ok(value.logprob.map_or(f32::NAN, |logprob| logprob as f32))
        })
        .collect()
}

/// What is expected of the servers.
#[derive(Clone, Copy, Debug)]
enum Terms<'a> {
    /// They take new weights and are trusted with nothing else.
    Loads,
    /// They answer with what they hold.
    AsItIs { served: Option<&'a str> },
}

/// What a server said of itself.
struct Greeting {
    client: Client,
    model: String,
    vllm: String,
    max_model_tokens: usize,
    worker: WorkerState,
    /// It has no worker extension: `worker` is made up.
    is_plain: bool,
}

impl Greeting {
    fn replica(self, setup: &VllmSetup<'_>, terms: Terms<'_>, replicas: usize) -> Replica {
        let sequences = match setup.config.max_sequences {
            0 => self.worker.max_num_seqs,
            total => total.div_ceil(replicas),
        };
        let capacity = u32::try_from(sequences).unwrap_or(u32::MAX).clamp(1, 1 << 20);
        let deadline = Duration::from_secs(setup.config.reload_timeout_s);
        let replica = Replica::new(self.client, self.model, capacity, &self.worker, setup.salt, deadline);
        match terms {
            Terms::Loads => replica,
            Terms::AsItIs { .. } => replica.trusted(self.is_plain),
        }
    }
}

/// Asks a server who it is and what it can do.
async fn greet(
    client: Client,
    setup: &VllmSetup<'_>,
    terms: Terms<'_>,
    server: Option<&Server>,
) -> Result<Greeting, EngineError> {
    if let Some(server) = server {
        server.check_alive()?;
    }
    let deadline = Duration::from_secs(setup.config.reload_timeout_s);
    let unsupported = |problem: String, hint: &str| EngineError::Unsupported {
        url: client.url().to_owned(),
        problem,
        hint: hint.to_owned(),
    };
    let vllm = client.version(deadline).await.map_err(|error| match error {
        EngineError::Refused { .. } | EngineError::BadAnswer { .. } => {
            unsupported(format!("it does not say which vLLM it is ({error})"), "give the base URL of a vLLM server")
        }
        other => other,
    })?;
    if !vllm.starts_with(SUPPORTED) {
        tracing::warn!(url = client.url(), found = vllm, supported = "0.26", "this vLLM has not been tried");
    }
    let worker = worker_state(&client, terms, deadline).await?;
    let is_plain = worker.is_none();
    let worker = worker.unwrap_or_else(WorkerState::unknown);
    let mut cards = client.models(deadline).await?.data;
    if let Terms::AsItIs { served: Some(served) } = terms {
        let names: Vec<String> = cards.iter().map(|card| format!("`{}`", card.id)).collect();
        cards.retain(|card| card.id == served);
        if cards.is_empty() {
            return Err(unsupported(
                format!("it does not serve `{served}`"),
                &format!("it serves {}", names.join(", ")),
            ));
        }
    }
    let card = cards.into_iter().next();
    let Some((model, max_model_tokens)) = card.and_then(|card| Some((card.id, card.max_model_len?))) else {
        return Err(client.bad_answer("/v1/models", "no model with a `max_model_len`".into()));
    };
    if let Terms::AsItIs { .. } = terms {
        // A pause is another program's, which will end it.
        return Ok(Greeting { client, model, vllm, max_model_tokens, worker, is_plain });
    }
    if client.is_paused(deadline).await? {
        // Left behind by a program that ended in the middle of a reload; the model itself is whole.
        client.resume(deadline).await?;
    }
    let mode = probe::logprobs_mode(&client, &model, worker.vocab_size, setup.sampling, deadline).await?;
    probe::check_mode(client.url(), mode, setup.sampling)?;
    Ok(Greeting { client, model, vllm, max_model_tokens, worker, is_plain })
}

/// What the workers hold, or how to start the server so that they can say it. `None` where they cannot and need not.
async fn worker_state(
    client: &Client,
    terms: Terms<'_>,
    deadline: Duration,
) -> Result<Option<WorkerState>, EngineError> {
    let is_needed = matches!(terms, Terms::Loads);
    let unsupported = |problem: &str, hint: String| EngineError::Unsupported {
        url: client.url().to_owned(),
        problem: problem.to_owned(),
        hint,
    };
    let how = format!(
        "start it with `VLLM_SERVER_DEV_MODE=1 PYTHONPATH=inference`, `--worker-extension-cls {}` and `--host 127.0.0.1`, \
         or set `inference.launch = true`",
        launch::EXTENSION_CLASS
    );
    let states: Vec<WorkerState> = match client.rpc("ds_state", serde_json::json!({}), deadline).await {
        Err(EngineError::Refused { status: 404, .. }) if !is_needed => return Ok(None),
        Err(EngineError::ServerFailed { message, .. }) if !is_needed && message.contains("ds_state") => {
            return Ok(None);
        }
        Err(EngineError::Refused { status: 404, .. }) => {
            return Err(unsupported("its development endpoints are off, so that no weights can be loaded", how));
        }
        Err(EngineError::ServerFailed { message, .. }) if message.contains("ds_state") => {
            return Err(unsupported("it runs without the worker extension, so that no weights can be loaded", how));
        }
        other => other?,
    };
    if states.iter().any(|state| state.protocol != PROTOCOL) {
        return Err(unsupported("its worker extension is of another version of this program", how));
    }
    if states.iter().any(|state| !state.intact) {
        let hint = "restart the server".into();
        return Err(unsupported("an earlier load failed half way, its model is unusable", hint));
    }
    if states.iter().any(|state| state.logprobs_mode.contains("logits")) {
        let hint = "start it with `--logprobs-mode processed_logprobs`".into();
        return Err(unsupported("it returns logits in place of logprobs", hint));
    }
    let mut states = states.into_iter();
    let Some(first) = states.next() else {
        return Err(client.bad_answer("/collective_rpc", "no worker answered".into()));
    };
    if states.any(|state| (state.version, &state.digest) != (first.version, &first.digest)) {
        return Err(unsupported("its workers hold different weights", "restart the server".into()));
    }
    Ok(Some(first))
}

/// What all servers together can do.
fn combine(found: &[Greeting]) -> Result<Capabilities, EngineError> {
    let Some(first) = found.first() else { return Err(EngineError::NoServer) };
    for other in found {
        if other.worker.vocab_size != first.worker.vocab_size {
            return Err(EngineError::Unsupported {
                url: other.client.url().to_owned(),
                problem: format!(
                    "its vocabulary has {} tokens, that of `{}` has {}",
                    other.worker.vocab_size,
                    first.client.url(),
                    first.worker.vocab_size
                ),
                hint: "start all servers with the same model".into(),
            });
        }
    }
    Ok(Capabilities {
        engine: format!("vllm {}", first.vllm),
        max_model_tokens: found.iter().map(|greeting| greeting.max_model_tokens).min().unwrap_or_default(),
        vocab_tokens: first.worker.vocab_size,
        max_sequences: 0,
        // The batch decides how its matrix products round.
        is_reproducible: false,
        // Any server of which this is not true was refused.
    })
}
