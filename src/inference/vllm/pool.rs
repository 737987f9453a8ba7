//! Replicas: which one a tree goes to, how many sequences it is given at once, and whether its weights are trusted.
//!
//! Invariants: a replica that is not [`Gate::Open`] is sent no work; an answer counts only if no reload began between
//! its request and its arrival. A vLLM server that restarts comes back with the weights of its start, and a restart
//! can pass unnoticed between two requests. It takes far longer than [`TRUST`], so a replica not heard from for that
//! long is asked what it holds before it is given work.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use super::client::Client;
use super::wire::WorkerState;
use crate::inference::EngineError;
use crate::types::{WeightManifest, WeightVersion};

/// A server cannot have restarted within this time of its last answer.
const TRUST: Duration = Duration::from_secs(10);
/// A replica that failed is left alone for this long while others work.
const DOWN: Duration = Duration::from_secs(5);

/// The weights a replica is known to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Weights {
    pub version: WeightVersion,
    /// Of the loaded file; `None` for the weights the server was started with.
    pub digest: Option<String>,
    /// The name by which requests ask for them, where they are adapters on the weights that the server was started with.
    pub adapter: Option<String>,
}

impl Weights {
    pub fn of(manifest: &WeightManifest) -> Weights {
        // Its digest is in the name, so that no other content ever has the same.
        let digest = &manifest.digest[..manifest.digest.len().min(16)];
        let adapter = manifest.base_digest.as_ref().map(|_| format!("policy-v{}-{digest}", manifest.version));
        Weights { version: manifest.version, digest: Some(manifest.digest.clone()), adapter }
    }

    /// What the workers say of the weights in the model itself, which adapters leave as they are.
    pub fn is_in(&self, worker: &WorkerState) -> bool {
        let (version, digest) = match self.adapter {
            Some(_) => (WeightVersion::INITIAL, &None),
            None => (self.version, &self.digest),
        };
        worker.version == version.0 && worker.digest == *digest
    }
}

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
    /// Reloads begun so far.
    epoch: u64,
    /// Last answer; `None` after a failure.
    heard: Option<Instant>,
    down_until: Option<Instant>,
}

/// One server.
#[derive(Debug)]
pub(super) struct Replica {
    pub client: Client,
    /// Name under which the model is served.
    pub model: String,
    /// Most sequences in flight.
    pub capacity: u32,
    /// A server without our worker extension, which cannot say what it holds.
    is_plain: bool,
    seats: Semaphore,
    state: watch::Sender<State>,
    confirming: Mutex<()>,
    salt: String,
    deadline: Duration,
}

/// Leave to send one request, and what to compare afterwards.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    pub version: WeightVersion,
    /// Name by which the weights are asked for.
    pub model: String,
    /// Salt of the prefix cache: entries of other weights are never met.
    pub salt: String,
    epoch: u64,
    _seats: SemaphorePermit<'a>,
}

impl Replica {
    /// A replica as found: trusted if it holds the weights it was started with, fenced off if it has loaded others.
    pub fn new(
        client: Client,
        model: String,
        capacity: u32,
        found: &WorkerState,
        salt: &str,
        deadline: Duration,
    ) -> Self {
        let weights = Weights { version: WeightVersion(found.version), digest: found.digest.clone(), adapter: None };
        let gate = match &weights.digest {
            None => Gate::Open,
            Some(_) => Gate::Fenced(format!(
                "it holds version {} of an earlier run; the weights of this run must be loaded first",
                weights.version
            )),
        };
        let state = State { gate, weights, epoch: 0, heard: Some(Instant::now()), down_until: None };
        Replica {
            client,
            model,
            capacity,
            is_plain: false,
            seats: Semaphore::new(capacity as usize),
            state: watch::Sender::new(state),
            confirming: Mutex::new(()),
            salt: salt.to_owned(),
            deadline,
        }
    }

    /// The same replica, trusted with whatever it holds; `is_plain`: it cannot say what that is.
    pub fn trusted(mut self, is_plain: bool) -> Replica {
        self.is_plain = is_plain;
        self.state.send_modify(|state| state.gate = Gate::Open);
        self
    }

    /// Waits for `sequences` seats (first come, first served) and for a reload to end, and confirms the weights of a
    /// replica not heard from for a while.
    ///
    /// # Errors
    /// [`EngineError::Fenced`], or why the weights could not be confirmed.
    pub async fn take(&self, sequences: u32) -> Result<Ticket<'_>, EngineError> {
        let wanted = sequences.clamp(1, self.capacity);
        let seats = self
            .seats
            .acquire_many(wanted)
            .await
            .map_err(|_| EngineError::Bug { invariant: "the seats of a replica are never closed".into() })?;
        let mut watch = self.state.subscribe();
        loop {
            let state = watch.borrow_and_update().clone();
            match state.gate {
                Gate::Fenced(reason) => return Err(self.fenced(reason)),
                Gate::Reloading => {
                    // The sender lives as long as `self`, so this only ever ends with a change.
                    let _ = watch.changed().await;
                    continue;
                }
                Gate::Open => {}
            }
            if state.heard.is_some_and(|at| at.elapsed() < TRUST) {
                let version = state.weights.version;
                let digest =
                    state.weights.digest.as_deref().map_or("initial", |digest| &digest[..digest.len().min(16)]);
                let salt = format!("{}:{version}:{digest}", self.salt);
                let model = state.weights.adapter.unwrap_or_else(|| self.model.clone());
                return Ok(Ticket { version, model, salt, epoch: state.epoch, _seats: seats });
            }
            self.confirm(state.epoch).await?;
        }
    }

    /// Whether what was answered under `ticket` may be used.
    pub fn check(&self, ticket: &Ticket<'_>) -> Result<(), EngineError> {
        if self.state.borrow().epoch == ticket.epoch {
            return Ok(());
        }
        Err(self.interrupted("its weights were replaced meanwhile"))
    }

    /// Asks the server what it holds, once for all who wait; fences it off if that is not what it should hold.
    async fn confirm(&self, epoch: u64) -> Result<(), EngineError> {
        let _one = self.confirming.lock().await;
        if self.state.borrow().heard.is_some_and(|at| at.elapsed() < TRUST) {
            return Ok(());
        }
        let expected = self.state.borrow().weights.clone();
        if self.is_plain {
            self.client.health(self.deadline).await.inspect_err(|error| self.note_failure(error))?;
            self.note_success();
            return Ok(());
        }
        let found = self.worker_states(false).await.inspect_err(|error| self.note_failure(error))?;
        let wrong = found.iter().find(|worker| !worker.intact || !expected.is_in(worker));
        let found = match wrong {
            Some(worker) => Some(format!("version {}", worker.version)),
            None if self.serves(&expected).await? => None,
            None => Some(format!("version {} without adapters", WeightVersion::INITIAL)),
        };
        if let Some(found) = found {
            let reason = format!(
                "it holds {found} where {} was loaded: it was restarted, or another program loads weights",
                expected.version
            );
            tracing::warn!(url = self.client.url(), reason, "replica fenced off");
            self.state.send_if_modified(|state| {
                let concerned = state.epoch == epoch && state.gate == Gate::Open;
                if concerned {
                    state.gate = Gate::Fenced(reason);
                }
                concerned
            });
        } else {
            self.note_success();
        }
        Ok(())
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
        self.client.rpc("ds_state", json!({ "verify": verify }), self.deadline).await
    }

    /// The server answered.
    pub fn note_success(&self) {
        self.state.send_if_modified(|state| {
            state.heard = Some(Instant::now());
            state.down_until = None;
            false
        });
    }

    /// The server failed: it is asked what it holds before it gets work again, and others are preferred for a while.
    pub fn note_failure(&self, error: &EngineError) {
        let is_down = match error {
            EngineError::Unreachable { .. } => true,
            EngineError::ServerFailed { status, .. } => *status != 429,
            EngineError::Deadline { .. } => false,
            _ => return,
        };
        self.state.send_if_modified(|state| {
            state.heard = None;
            if is_down {
                state.down_until = Some(Instant::now() + DOWN);
            }
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

    fn fenced(&self, reason: String) -> EngineError {
        EngineError::Fenced { url: self.client.url().to_owned(), reason }
    }
}

/// A reload under way. Dropped without a word, it leaves the replica fenced off.
pub(super) struct Reloading<'a> {
    replica: &'a Replica,
    done: bool,
}

impl Reloading<'_> {
    /// The replica holds `weights`, confirmed, and nothing cached of others.
    pub fn open(mut self, weights: Weights) {
        self.done = true;
        self.replica.state.send_modify(|state| {
            state.weights = weights;
            state.gate = Gate::Open;
            state.heard = Some(Instant::now());
            state.down_until = None;
        });
    }

    /// The weights are in doubt.
    pub fn fence(mut self, reason: String) {
        self.done = true;
        self.close(reason);
    }

    fn close(&self, reason: String) {
        tracing::warn!(url = self.replica.client.url(), reason, "replica fenced off");
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

/// All replicas.
#[derive(Debug)]
pub(super) struct Pool {
    replicas: Vec<Arc<Replica>>,
}

impl Pool {
    pub fn new(replicas: Vec<Replica>) -> Pool {
        Pool { replicas: replicas.into_iter().map(Arc::new).collect() }
    }

    pub fn replicas(&self) -> &[Arc<Replica>] {
        &self.replicas
    }

    /// The replica for requests of this affinity: always the same one while it works, and when one falls away only
    /// its own trees move (rendezvous hashing).
    ///
    /// # Errors
    /// [`EngineError::Fenced`] if every replica is.
    pub fn pick(&self, affinity: u64) -> Result<Arc<Replica>, EngineError> {
        let mut best: Option<((bool, u64), &Arc<Replica>)> = None;
        let mut fenced = None;
        let now = Instant::now();
        for replica in &self.replicas {
            let state = replica.state.borrow();
            if let Gate::Fenced(reason) = &state.gate {
                fenced.get_or_insert_with(|| replica.fenced(reason.clone()));
                continue;
            }
            let is_up = state.down_until.is_none_or(|until| until <= now);
            let rank = (is_up, weight(affinity, replica.client.url()));
            if best.is_none_or(|(top, _)| rank > top) {
                best = Some((rank, replica));
            }
        }
        match (best, fenced) {
            (Some((_, replica)), _) => Ok(Arc::clone(replica)),
            (None, Some(error)) => Err(error),
            (None, None) => Err(EngineError::NoServer),
        }
    }
}

/// Rank of a replica for an affinity: FNV-1a over the URL, mixed with the affinity by splitmix64.
fn weight(affinity: u64, url: &str) -> u64 {
    let url = url
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mut x = affinity.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ url;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: usize) -> Pool {
        let found: WorkerState = serde_json::from_value(json!({"protocol": 1, "vllm": "0.26.0", "version": 0,
            "digest": null, "intact": true, "max_num_seqs": 4, "vocab_size": 8}))
        .expect("state");
        let http = super::super::client::http().expect("client");
        let replica = |i| {
            let client = Client::new(&http, &format!("http://127.0.0.1:{}", 1 + i));
            Replica::new(client, "m".into(), 4, &found, "run", Duration::from_secs(1))
        };
        Pool::new((0..count).map(replica).collect())
    }

    fn url_of(pool: &Pool, affinity: u64) -> String {
        pool.pick(affinity).expect("open").client.url().to_owned()
    }

    #[tokio::test]
    async fn trees_spread_evenly_and_only_those_of_a_fenced_replica_move() {
        let pool = pool(4);
        let before: Vec<String> = (0..1000).map(|tree| url_of(&pool, tree)).collect();
        for replica in pool.replicas() {
            let share = before.iter().filter(|url| *url == replica.client.url()).count();
            assert!((200..300).contains(&share), "{share} of 1000 trees");
        }
        let gone = &pool.replicas()[2];
        gone.begin_reload().fence("test".into());
        for (tree, old) in before.iter().enumerate() {
            let new = url_of(&pool, tree as u64);
            assert_ne!(new, gone.client.url());
            assert!(old == gone.client.url() || *old == new, "tree {tree} moved from {old} to {new}");
        }
    }

    #[tokio::test]
    async fn a_reload_dropped_half_way_fences_the_replica() {
        let pool = pool(1);
        drop(pool.replicas()[0].begin_reload());
        assert!(matches!(pool.pick(1), Err(EngineError::Fenced { .. })));
        let weights = Weights { version: WeightVersion(3), digest: Some("d".into()), adapter: None };
        pool.replicas()[0].begin_reload().open(weights);
        let replica = pool.pick(1).expect("open again");
        assert_eq!(replica.take(1).await.expect("ticket").version, WeightVersion(3));
    }

    #[tokio::test]
    async fn an_answer_from_before_a_reload_is_void() {
        let pool = pool(1);
        let replica = pool.pick(1).expect("open");
        let ticket = replica.take(2).await.expect("ticket");
        replica.check(&ticket).expect("nothing happened");
        let weights = Weights { version: WeightVersion(1), digest: Some("d".into()), adapter: None };
        replica.begin_reload().open(weights);
        assert!(matches!(replica.check(&ticket), Err(EngineError::Interrupted { .. })));
    }

    #[tokio::test]
    async fn a_replica_not_heard_from_for_long_is_asked_before_it_gets_work() {
        let pool = pool(1);
        let replica = pool.pick(1).expect("open");
        replica.take(1).await.expect("heard from just now");
        replica.state.send_modify(|state| state.heard = Instant::now().checked_sub(TRUST));
        // Nobody listens there, so that the question fails.
        let error = replica.take(1).await.expect_err("it has to be asked");
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
    }
}
