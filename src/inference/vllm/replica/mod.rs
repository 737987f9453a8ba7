//! One server: whether its weights are trusted, whether it answers, and what is in flight at it.
//!
//! Invariants: a replica that is not [`Gate::Open`] is sent no work; an answer counts only if no reload began between
//! its request and its arrival. A vLLM server that restarts comes back with the weights of its start, and a restart
//! can pass unnoticed between two requests. It takes far longer than [`TRUST`], so a replica not heard from for that
//! long is asked what it holds before it is given work.

mod health;
mod weights;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Plain};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::admission::{Admission, Load, Permit, Queue};
use super::client::Client;
use super::metrics::Seen;
use super::wire::WorkerState;
use crate::inference::EngineError;
use crate::types::WeightVersion;

pub(super) use weights::Weights;

/// A server cannot have restarted within this time of its last answer.
pub(super) const TRUST: Duration = Duration::from_secs(10);

/// Whether a replica may be given work.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// A reload is under way: work waits.
    Reloading,
    /// The weights are in doubt, for this reason: work is refused.
    Fenced(String),
}

#[derive(Clone, Debug)]
struct State {
    gate: Gate,
    weights: Weights,
    /// Name of the process that said it holds them.
    process: Option<String>,
    /// Reloads begun and fences put up so far.
    epoch: u64,
    /// Last answer; `None` after a failure.
    heard: Option<Instant>,
    /// Last failure.
    failed: Option<Instant>,
    /// Why it is left alone while others work, until it answers again.
    down: Option<String>,
    /// It is so long silent that nothing in flight is waited for.
    is_silent: bool,
    /// It asked to be left alone until then.
    busy_until: Option<Instant>,
}

/// What is to be done about a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It works.
    Open,
    /// New weights are on their way into it.
    Reloading,
    /// Its weights are in doubt: it has to be brought to those of the others.
    Fenced,
    /// It does not answer.
    Down,
}

/// One server.
#[derive(Debug)]
pub(super) struct Replica {
    pub client: Client,
    /// Name under which the model is served.
    pub model: String,
    /// Most sequences in flight.
    pub capacity: u32,
    pub admission: Arc<Admission>,
    /// Held by whoever loads weights into it.
    pub turn: Mutex<()>,
    /// As it was found; without our worker extension made up.
    pub found: WorkerState,
    /// A server without our worker extension, which cannot say what it holds.
    is_plain: bool,
    state: watch::Sender<State>,
    confirming: Mutex<()>,
    seen: Plain<Seen>,
    outages: AtomicU64,
    returns: AtomicU64,
    salt: String,
    deadline: Duration,
}

/// Leave to send one request, and what to compare afterwards.
#[derive(Debug)]
pub(super) struct Ticket {
    pub version: WeightVersion,
    /// Name by which the weights are asked for.
    pub model: String,
    /// Salt of the prefix cache: entries of other weights are never met.
    pub salt: String,
    pub weights: Weights,
    epoch: u64,
    _permit: Permit,
}

/// What a replica is made from beside the server itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// Most sequences in flight.
    pub capacity: u32,
    /// Tokens whose keys and values the server has room for, where it says so.
    pub room_tokens: Option<u64>,
    /// Names the run in the prefix cache.
    pub salt: &'a str,
    /// For one question.
    pub deadline: Duration,
}

impl Replica {
    /// A replica as found: trusted if it holds the weights it was started with, fenced off if it has loaded others.
    pub fn new(client: Client, model: String, found: WorkerState, terms: Terms<'_>) -> Self {
        let weights = Weights { version: WeightVersion(found.version), digest: found.digest.clone(), adapter: None };
        let gate = match &weights.digest {
            None => Gate::Open,
            Some(_) => Gate::Fenced(format!(
                "it holds version {} of an earlier run; the weights of this run must be loaded first",
                weights.version
            )),
        };
        let state = State {
            gate,
            weights,
            process: found.process.clone(),
            epoch: 0,
            heard: Some(Instant::now()),
            failed: None,
            down: None,
            is_silent: false,
            busy_until: None,
        };
        Replica {
            client,
            model,
            capacity: terms.capacity,
            admission: Admission::new(terms.capacity, terms.room_tokens),
            turn: Mutex::new(()),
            found,
            is_plain: false,
            state: watch::Sender::new(state),
            confirming: Mutex::new(()),
            seen: Plain::default(),
            outages: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            salt: terms.salt.to_owned(),
            deadline: terms.deadline,
        }
    }

    /// The same replica, trusted with whatever it holds; `is_plain`: it cannot say what that is.
    pub fn trusted(mut self, is_plain: bool) -> Replica {
        self.is_plain = is_plain;
        self.state.send_modify(|state| state.gate = Gate::Open);
        self
    }

    /// Waits for room (in order) and for a reload to end, and confirms the weights of a replica not heard from for a
    /// while. `None`: it is fenced off, or, unless `insist`, it does not answer: another may do.
    ///
    /// # Errors
    /// Why the weights could not be confirmed.
    pub async fn take(&self, want: Load, queue: Queue, insist: bool) -> Result<Option<Ticket>, EngineError> {
        let permit = self.admission.acquire(want, queue).await?;
        let mut watch = self.state.subscribe();
        loop {
            let state = watch.borrow_and_update().clone();
            match state.gate {
                Gate::Fenced(_) => return Ok(None),
                Gate::Reloading => {
                    // The sender lives as long as `self`, so this only ever ends with a change.
                    let _ = watch.changed().await;
                    continue;
                }
                Gate::Open if state.down.is_some() && !insist => return Ok(None),
                Gate::Open => {}
            }
            if state.heard.is_some_and(|at| at.elapsed() < TRUST) {
                let version = state.weights.version;
                let digest =
                    state.weights.digest.as_deref().map_or("initial", |digest| digest.get(..16).unwrap_or(digest));
                let salt = format!("{}:{version}:{digest}", self.salt);
                let model = state.weights.adapter.clone().unwrap_or_else(|| self.model.clone());
                let weights = state.weights;
                return Ok(Some(Ticket { version, model, salt, weights, epoch: state.epoch, _permit: permit }));
            }
            self.confirm(self.deadline).await?;
        }
    }

    /// Whether what was answered under `ticket` may be used.
    pub fn check(&self, ticket: &Ticket) -> Result<(), EngineError> {
        if self.state.borrow().epoch == ticket.epoch {
            return Ok(());
        }
        Err(self.interrupted("its weights were replaced meanwhile"))
    }

    /// Asks a server not heard from for a while what it holds, once for all who wait; fences it off if that is not what
    /// it should hold.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn confirm(&self, deadline: Duration) -> Result<(), EngineError> {
        let began = Instant::now();
        let _one = self.confirming.lock().await;
        let state = self.state.borrow().clone();
        if state.heard.is_some_and(|at| at.elapsed() < TRUST) {
            return Ok(());
        }
        if state.failed.is_some_and(|at| at > began) {
            // Who waited does not ask again in turn, each for as long as a silent server takes.
            return Err(self.interrupted("it did not say what it holds"));
        }
        if self.is_plain {
            self.client.health(deadline).await.inspect_err(|error| self.note_failure(error))?;
            self.note_success();
            return Ok(());
        }
        let workers = self.client.worker_states(false, deadline).await.inspect_err(|error| self.note_failure(error))?;
        let wrong = workers.iter().find(|worker| !worker.intact || !state.weights.is_in(worker));
        let found = match wrong {
            Some(worker) => Some(format!("version {}", worker.version)),
            None if self.serves(&state.weights).await? => None,
            None => Some(format!("version {} without adapters", WeightVersion::INITIAL)),
        };
        match found {
            None => {
                let process = workers.into_iter().find_map(|worker| worker.process);
                self.state.send_if_modified(|state| {
                    state.process = process;
                    false
                });
                self.note_success();
            }
            Some(found) => self.fence(
                state.epoch,
                format!(
                    "it holds {found} where {} was loaded: it was restarted, or another program loads weights",
                    state.weights.version
                ),
            ),
        }
        Ok(())
    }

    /// Sends it no more work, unless a reload began after `epoch`. One that is fenced off already is so for this reason now.
    pub fn fence(&self, epoch: u64, reason: String) {
        let mut was_open = false;
        self.state.send_if_modified(|state| {
            if state.epoch == epoch && state.gate != Gate::Reloading {
                was_open = state.gate == Gate::Open;
                // What is still to be answered is void.
                state.epoch += u64::from(was_open);
                state.gate = Gate::Fenced(reason.clone());
            }
            was_open
        });
        if was_open {
            tracing::warn!(url = self.client.url(), reason, "replica fenced off");
            self.outages.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reloads begun and fences put up so far.
    pub fn epoch(&self) -> u64 {
        self.state.borrow().epoch
    }

    /// Whether the server has our worker extension.
    pub fn can_say_what_it_holds(&self) -> bool {
        !self.is_plain
    }

    /// Whether the server still knows the adapters of `weights`; true where those are none.
    pub async fn serves(&self, weights: &Weights) -> Result<bool, EngineError> {
        let Some(name) = &weights.adapter else { return Ok(true) };
        let models = self.client.models(self.deadline).await.inspect_err(|error| self.note_failure(error))?;
        Ok(models.data.iter().any(|card| card.id == *name))
    }

    /// The name of the adapters that requests now ask for.
    pub fn adapter(&self) -> Option<String> {
        self.state.borrow().weights.adapter.clone()
    }

    /// What each worker of the server holds.
    pub async fn worker_states(&self, verify: bool) -> Result<Vec<WorkerState>, EngineError> {
        self.client.worker_states(verify, self.deadline).await
    }

    /// Whether this very process answered, holds `weights`, and has held them since the count of its reloads was `epoch`.
    pub fn answered_as(&self, process: &str, weights: &Weights, epoch: u64) -> bool {
        let state = self.state.borrow();
        state.process.as_deref() == Some(process)
            && state.gate == Gate::Open
            && state.epoch == epoch
            && state.weights == *weights
    }

    /// Name of the process that said what it holds.
    pub fn process(&self) -> Option<String> {
        self.state.borrow().process.clone()
    }

    /// Whether it answers, and may answer from weights that are not those of the others.
    pub fn is_in_doubt(&self) -> bool {
        let state = self.state.borrow();
        state.gate != Gate::Open && state.down.is_none()
    }

    /// Has it asked what it holds before it gets work again.
    pub fn doubt(&self) {
        self.state.send_if_modified(|state| {
            state.heard = None;
            false
        });
    }

    /// Closes the gate for a reload. Every answer to an earlier request is void from here on.
    pub fn begin_reload(&self) -> Reloading<'_> {
        self.state.send_modify(|state| {
            state.epoch += 1;
            state.gate = Gate::Reloading;
        });
        Reloading { replica: self, done: false }
    }

    pub fn interrupted(&self, reason: &str) -> EngineError {
        EngineError::Interrupted { url: self.client.url().to_owned(), reason: reason.to_owned() }
    }

    /// The error of a replica that is fenced off.
    pub fn fenced(&self) -> EngineError {
        let reason = self.trouble().unwrap_or_else(|| "its weights are in doubt".into());
        EngineError::Fenced { url: self.client.url().to_owned(), reason }
    }
}

/// A reload under way. Dropped without a word, it leaves the replica fenced off.
pub(super) struct Reloading<'a> {
    replica: &'a Replica,
    done: bool,
}

impl Reloading<'_> {
    /// The replica holds `weights`, as `process` confirmed, and nothing cached of others.
    pub fn open(mut self, weights: Weights, process: Option<String>) {
        self.done = true;
        self.replica.state.send_modify(|state| {
            state.weights = weights;
            state.process = process;
            state.gate = Gate::Open;
            state.heard = Some(Instant::now());
            state.down = None;
            state.is_silent = false;
        });
    }

    /// The weights are in doubt.
    pub fn fence(mut self, reason: String) {
        self.done = true;
        self.close(reason);
    }

    fn close(&self, reason: String) {
        tracing::warn!(url = self.replica.client.url(), reason, "replica fenced off");
        self.replica.outages.fetch_add(1, Ordering::Relaxed);
        self.replica.state.send_modify(|state| state.gate = Gate::Fenced(reason));
    }
}

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.close("a reload was broken off".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica() -> Replica {
        let found: WorkerState =
            serde_json::from_value(serde_json::json!({"protocol": 1, "vllm": "0.26.0", "version": 0,
            "digest": null, "intact": true, "max_num_seqs": 4, "vocab_size": 8}))
            .expect("state");
        let http = super::super::client::http(None).expect("client");
        let terms = Terms { capacity: 4, room_tokens: None, salt: "run", deadline: Duration::from_secs(1) };
        Replica::new(Client::new(&http, "http://127.0.0.1:1"), "m".into(), found, terms)
    }

    fn weights(version: u64) -> Weights {
        Weights { version: WeightVersion(version), digest: Some("d".into()), adapter: None }
    }

    async fn take(replica: &Replica) -> Result<Option<Ticket>, EngineError> {
        replica.take(Load { sequences: 1, tokens: 1 }, Queue::New, true).await
    }

    #[tokio::test]
    async fn a_reload_dropped_half_way_fences_the_replica() {
        let replica = replica();
        drop(replica.begin_reload());
        assert_eq!(replica.condition(), Condition::Fenced);
        assert!(take(&replica).await.expect("no failure").is_none());
        replica.begin_reload().open(weights(3), None);
        assert_eq!(take(&replica).await.expect("open").expect("a ticket").version, WeightVersion(3));
    }

    #[tokio::test]
    async fn an_answer_from_before_a_reload_is_void() {
        let replica = replica();
        let ticket = take(&replica).await.expect("open").expect("a ticket");
        replica.check(&ticket).expect("nothing happened");
        replica.begin_reload().open(weights(1), None);
        assert!(matches!(replica.check(&ticket), Err(EngineError::Interrupted { .. })));
    }

    #[tokio::test]
    async fn a_replica_not_heard_from_for_long_is_asked_before_it_gets_work() {
        let replica = replica();
        take(&replica).await.expect("heard from just now");
        replica.state.send_modify(|state| state.heard = Instant::now().checked_sub(TRUST));
        replica.note_life();
        assert!(replica.quiet().is_some_and(|quiet| quiet >= TRUST), "a sign of life comes too late by then");
        // Nobody listens there, so that the question fails.
        let error = take(&replica).await.expect_err("it has to be asked");
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
        assert_eq!(replica.condition(), Condition::Down);
        let want = Load { sequences: 1, tokens: 1 };
        assert!(replica.take(want, Queue::New, false).await.expect("no failure").is_none(), "another may do");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_server_that_is_silent() {
        let replica = replica();
        let mut silence = Box::pin(replica.silence());
        assert!(futures_util::poll!(&mut silence).is_pending());
        replica.mark_down("silent", true);
        silence.await;
        replica.note_success();
        assert!(futures_util::poll!(Box::pin(replica.silence())).is_pending());
        assert_eq!(replica.take_outages(), (1, 1));
    }
}
