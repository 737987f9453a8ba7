//! The engine on vLLM servers: HTTP, one or many replicas.
//!
//! Invariants: a replica whose weights are in doubt gets no work; no answer mixes weight versions; no request is ever
//! served from a prefix cache of other weights (salted by version and digest, and dropped at every load). Deliberately
//! absent: restarting a server that died. Whoever started it does that, and then it is brought to the current weights.

mod access;
mod admission;
mod client;
mod fleet;
mod greet;
mod keeper;
mod launch;
mod metrics;
mod places;
mod plain;
mod probe;
mod reload;
mod replica;
mod router;
mod score;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::plain::PlainServer;

use self::access::ApiKey;
use self::admission::{Load, Queue};
use self::client::Client;
use self::fleet::Fleet;
use self::greet::{Terms, combine, greet};
use self::launch::{Place, Server};
use self::reload::Patience;
use self::replica::{Replica, Ticket};
use self::router::{Asked, Router};
use self::wire::{Completion, CompletionRequest, Flaw};
use super::retry::retry;
use super::{Capabilities, Engine, EngineError, EngineFuture, LoadReport};
use crate::config::InferenceConfig;
use crate::types::{Continuation, GenerateRequest, Sampling, TokenId, WeightManifest};

/// vLLM whose answers this client was written for.
const SUPPORTED: &str = "0.26.";
/// What `worker.py` must answer.
const PROTOCOL: u32 = 1;
/// How long one of several servers is waited for where the others have answered.
const PATIENCE: Duration = Duration::from_secs(3);

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
    /// The folder that a launched server may load weights from; `None`: any.
    pub weights_root: Option<&'a Path>,
}

/// One or many vLLM servers.
#[derive(Debug)]
pub struct VllmEngine {
    fleet: Arc<Fleet>,
    /// In front of the servers.
    router: Option<Arc<Router>>,
    /// One task per server and one for the router, which end with the engine.
    keepers: Vec<JoinHandle<()>>,
    capabilities: Capabilities,
    /// The server we started, if we did.
    server: Option<Arc<Server>>,
    request_timeout: Duration,
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
        let key = ApiKey::of(config)?;
        let http = client::http(key.as_ref())?;
        let (server, urls) = if config.launch {
            let place = Place { model: setup.model, run_dir: setup.run_dir, weights_root: setup.weights_root };
            let server = Server::start(&http, config, place, setup.adapter_rank, key.as_ref()).await?;
            let urls = vec![server.url().to_owned()];
            (Some(Arc::new(server)), urls)
        } else {
            (None, config.urls.clone())
        };
        if urls.is_empty() {
            return Err(EngineError::NoServer);
        }
        for url in &urls {
            access::check_url(url, config.allow_public).await?;
        }
        let retry_window = Duration::from_secs(config.retry_timeout_s);
        let (server_ref, setup_ref) = (server.as_deref(), &setup);
        let greetings = urls.iter().map(|url| {
            let client = Client::new(&http, url).hiding(key.as_ref());
            retry(retry_window, move |_| greet(client.clone(), setup_ref, terms, server_ref))
        });
        let found = join_all(greetings).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let capabilities = combine(&found, terms)?;
        let all_sequences = found.iter().map(greet::Greeting::sequences).sum();
        let replicas: Vec<Replica> =
            found.into_iter().map(|greeting| greeting.replica(&setup, terms, all_sequences)).collect();
        let max_sequences = replicas.iter().map(|replica| replica.capacity as usize).sum();
        let period = Duration::from_secs(config.health_check_s.max(1));
        let patience = Patience { phase: Duration::from_secs(config.reload_timeout_s), check: period };
        let fleet = Arc::new(Fleet::new(replicas, patience, capabilities.max_model_tokens));
        let router = match config.router.as_str() {
            "" => None,
            url => {
                access::check_url(url, config.allow_public).await?;
                let client = Client::new(&http, url).hiding(key.as_ref());
                let fleet = &fleet;
                let greeted =
                    retry(retry_window, move |_| Router::greet(client.clone(), fleet, period, patience.phase));
                Some(Arc::new(greeted.await?))
            }
        };
        let keep = |replica: &Arc<Replica>| keeper::keep(Arc::clone(&fleet), Arc::clone(replica), period);
        let keepers = fleet.replicas().iter().map(keep).chain(router.clone().map(Router::keep)).collect();
        Ok(VllmEngine {
            fleet,
            router,
            keepers,
            capabilities: Capabilities { max_sequences, ..capabilities },
            server,
            request_timeout: Duration::from_secs(config.request_timeout_s),
            retry_window,
        })
    }

    /// Base URLs of the replicas.
    pub fn urls(&self) -> Vec<String> {
        self.fleet.replicas().iter().map(|replica| replica.client.url().to_owned()).collect()
    }

    /// Digest of the weights that were loaded into the servers; `None` where they hold those of their start, or cannot say
    /// what they hold.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn weights_digest(&self) -> Result<Option<String>, EngineError> {
        let mut found = None;
        for replica in self.fleet.replicas().iter().filter(|replica| replica.can_say_what_it_holds()) {
            let states = retry(self.retry_window, |_| replica.worker_states(false)).await?;
            found = found.or(states.into_iter().find_map(|state| state.digest));
        }
        Ok(found)
    }

    /// Ends the launched server, if there is one; requests still in flight fail. Dropping the engine does the same, but
    /// blocks.
    pub async fn stop(&self) {
        self.end_keepers();
        if let Some(server) = &self.server {
            let server = Arc::clone(server);
            // A panic in it would have left the work to Drop.
            let _ = tokio::task::spawn_blocking(move || server.end()).await;
        }
    }

    fn end_keepers(&self) {
        self.keepers.iter().for_each(JoinHandle::abort);
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

    /// The first attempt goes through the router, if there is one and all is well; what fails there goes straight to a server.
    async fn generate_once(&self, request: &GenerateRequest, attempt: u32) -> Result<Vec<Continuation>, EngineError> {
        self.check_server()?;
        let want = Load::of(request.tokens.len(), request.n, request.max_tokens);
        let (replica, ticket) = loop {
            let picked = self.fleet.pick(request.affinity)?;
            // Lost while we waited: `pick` knows whether there is another.
            if let Some(ticket) = picked.replica.take(want, picked.queue, picked.is_last_resort).await? {
                break (picked.replica, ticket);
            }
        };
        let body = CompletionRequest {
            n: request.n,
            // The server reads it as a signed number and adds the sample's index: there must be room for that.
            seed: request.seed & (u64::MAX >> 2),
            stop: &request.stop,
            stop_token_ids: &request.stop_token_ids,
            ..CompletionRequest::new(&ticket.model, &request.tokens, request.max_tokens, request.sampling, &ticket.salt)
        };
        let is_routed = |router: &&Arc<Router>| attempt == 1 && router.is_usable() && self.fleet.is_of_one_mind();
        if let Some(router) = self.router.as_ref().filter(is_routed) {
            return self.generate_routed(router, request, &replica, &ticket, &body).await;
        }
        if let Some(router) = &self.router {
            router.note_unrouted();
        }
        // From here, not from the call: waiting for a seat behind other trees is no failure of the server.
        let answer = match self.ask(&replica, &body, Instant::now() + request.deadline).await {
            Err(EngineError::Deadline { .. }) if self.fleet.has_other(&replica) => {
                replica.mark_down("it did not answer in time", false);
                return Err(replica.interrupted("it did not answer in time, and there are others"));
            }
            // Waiting for as long as it asks would be for nothing.
            Err(EngineError::ServerFailed { status: 429, retry_after: Some(_), .. })
                if self.fleet.has_other(&replica) =>
            {
                return Err(replica.interrupted("it asks to be left alone, and there are others"));
            }
            other => other?,
        };
        replica.check(&ticket)?;
        self.continuations(answer, request.n, &ticket, &replica)
    }

    async fn generate_routed(
        &self,
        router: &Router,
        request: &GenerateRequest,
        picked: &Replica,
        ticket: &Ticket,
        body: &CompletionRequest<'_>,
    ) -> Result<Vec<Continuation>, EngineError> {
        let epochs = self.fleet.epochs();
        picked.check(ticket)?;
        let asked = Asked { weights: &ticket.weights, epochs: &epochs, session: request.affinity };
        let deadline = request.deadline.min(self.request_timeout);
        let (answer, replica) = router.ask(&self.fleet, picked, body, asked, deadline).await?;
        // What is in flight is counted where it is.
        self.fleet.found_at(request.affinity, &replica);
        let found = self.continuations(answer, request.n, ticket, &replica);
        // A router may have written it anew: the server says it once more itself.
        found.map_err(|error| if error.is_transient() { error } else { router.leave_out(error.to_string()) })
    }

    fn continuations(
        &self,
        answer: Completion,
        n: u32,
        ticket: &Ticket,
        replica: &Replica,
    ) -> Result<Vec<Continuation>, EngineError> {
        answer.into_continuations(n, self.capabilities.vocab_tokens, ticket.version).map_err(|flaw| match flaw {
            Flaw::Aborted => replica.interrupted("it was aborted by the server"),
            Flaw::Malformed(problem) => replica.client.bad_answer("/v1/completions", problem),
        })
    }

    async fn score_once(&self, replica: &Replica, tokens: &[TokenId]) -> Result<Vec<f32>, EngineError> {
        self.check_server()?;
        let want = Load::of(tokens.len(), 1, 1);
        let Some(ticket) = replica.take(want, Queue::Begun, true).await? else { return Err(replica.fenced()) };
        let body = score::request(&ticket.model, tokens, &ticket.salt);
        let answer = self.ask(replica, &body, Instant::now() + self.request_timeout).await?;
        replica.check(&ticket)?;
        score::prompt_logprobs(answer, tokens).map_err(|flaw| match flaw {
            Flaw::Aborted => replica.interrupted("it was aborted by the server"),
            Flaw::Malformed(problem) => replica.client.bad_answer("/v1/completions", problem),
        })
    }

    /// One row per server in service. One that is lost meanwhile has none: it says what it holds before it gets work again.
    async fn score_all(&self, tokens: &[TokenId]) -> Result<Vec<Vec<f32>>, EngineError> {
        let serving = self.fleet.in_service();
        let patience = if serving.len() > 1 { PATIENCE.min(self.retry_window) } else { Duration::ZERO };
        let asked = serving.iter().map(|replica| retry(patience, move |_| self.score_once(replica, tokens)));
        let (mut rows, mut lost) = (Vec::new(), None);
        for row in join_all(asked).await {
            match row {
                Ok(row) => rows.push(row),
                Err(error)
                    if error.is_outage() || error.is_transient() || matches!(error, EngineError::Fenced { .. }) =>
                {
                    lost = lost.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        match (rows.first(), lost) {
            (Some(row), _) => self.fleet.note_canary(tokens, row),
            (None, Some(error)) => return Err(error),
            (None, None) => return Err(self.fleet.none_left()),
        }
        Ok(rows)
    }

    async fn ask(
        &self,
        replica: &Replica,
        body: &CompletionRequest<'_>,
        deadline: Instant,
    ) -> Result<Completion, EngineError> {
        let left = deadline.saturating_duration_since(Instant::now()).min(self.request_timeout);
        let answer = tokio::select! {
            answer = replica.client.complete(body, left) => answer,
            () = replica.silence() => return Err(replica.interrupted("it has stopped answering")),
        };
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
            retry(self.retry_window, |attempt| self.generate_once(&request, attempt)).await
        })
    }

    fn score<'a>(&'a self, tokens: &'a [TokenId]) -> EngineFuture<'a, Vec<Vec<f32>>> {
        Box::pin(async move {
            self.check_tokens(tokens)?;
            retry(self.retry_window, |_| self.score_all(tokens)).await
        })
    }

    fn load_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, LoadReport> {
        Box::pin(async move {
            let start = Instant::now();
            let load = tokio::sync::Mutex::new(self.fleet.begin_load().await);
            let loaded = retry(self.retry_window, |_| async {
                self.check_server()?;
                let result = load.lock().await.attempt(manifest).await;
                match result {
                    Ok(loaded) => Ok(loaded),
                    Err(error) => Err(self.last_words(error).await),
                }
            })
            .await?;
            for outage in &loaded.missing {
                tracing::warn!(url = outage.url, reason = outage.reason, "server without the new weights");
            }
            Ok(LoadReport {
                version: manifest.version,
                elapsed: start.elapsed(),
                phases: loaded.phases,
                held: loaded.held,
                replicas: loaded.replicas,
                missing: loaded.missing,
            })
        })
    }

    fn confirm_weights<'a>(&'a self, manifest: &'a WeightManifest) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            retry(self.retry_window, |_| async {
                self.check_server()?;
                self.fleet.confirm(manifest).await
            })
            .await
        })
    }

    fn release(&self, affinity: u64) -> EngineFuture<'_, ()> {
        self.fleet.release(affinity);
        Box::pin(std::future::ready(Ok(())))
    }

    fn take_counts(&self) -> EngineFuture<'_, Vec<(&'static str, f64)>> {
        Box::pin(async move {
            // Counters up to now; what is in use at this moment says nothing.
            join_all(self.fleet.replicas().iter().map(|replica| keeper::poll(replica, false))).await;
            let mut counts = self.fleet.take_counts();
            counts.extend(self.router.iter().flat_map(|router| router.take_counts()));
            Ok(counts)
        })
    }

    fn rest(&self) -> EngineFuture<'_, ()> {
        Box::pin(async move {
            self.check_server()?;
            let deadline = self.fleet.patience.phase;
            let asleep = self.fleet.replicas().iter().map(|replica| replica.client.sleep(deadline));
            match join_all(asleep).await.into_iter().collect() {
                Ok(()) => Ok(()),
                Err(error) => Err(self.last_words(error).await),
            }
        })
    }

    fn wake(&self) -> EngineFuture<'_, ()> {
        Box::pin(async move {
            self.check_server()?;
            let deadline = self.fleet.patience.phase;
            // Whatever is thought of a server: one that was told to sleep must not be loaded in its sleep.
            let woken = self.fleet.replicas().iter().map(|replica| async move {
                replica.client.wake_up(deadline).await?;
                replica.note_success();
                // Sleep gives the cache up, and with it what prefixes it held; this makes sure that the server knows.
                reload::reset_cache(replica, deadline).await
            });
            match join_all(woken).await.into_iter().collect() {
                Ok(()) => Ok(()),
                Err(error) => Err(self.last_words(error).await),
            }
        })
    }

    fn drop_cache(&self) -> EngineFuture<'_, ()> {
        Box::pin(async move {
            self.check_server()?;
            let serving = self.fleet.in_service();
            let dropped = serving.iter().map(|replica| reload::reset_cache(replica, self.fleet.patience.phase));
            join_all(dropped).await.into_iter().collect()
        })
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

impl Drop for VllmEngine {
    fn drop(&mut self) {
        self.end_keepers();
    }
}
