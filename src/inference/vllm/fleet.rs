//! All servers of an engine: which one a tree goes to, and what all are to hold.
//!
//! A tree goes to the server with the least in flight for its size when it sends its first request, and stays there, where
//! its prefixes are cached. It moves when that server is lost, and goes on elsewhere. A server that is out of service is
//! brought to what the others hold before it gets work (`keeper.rs`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use super::admission::Queue;
use super::greet;
use super::metrics::{self, name};
use super::places::Places;
use super::reload::{self, Others, Patience, Reloaded};
use super::replica::{Condition, Replica, Weights};
use super::score::Canary;
use crate::inference::{EngineError, HeldWeights, ReloadPhase, ReplicaOutage};
use crate::types::{TokenId, WeightManifest};

/// What all servers are to hold.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Nothing was loaded yet, or the last load failed: nobody knows what to bring a server to.
    Nothing,
    /// A load is under way.
    Loading,
    /// These weights.
    Held(Arc<WeightManifest>),
}

impl Target {
    pub fn is(&self, manifest: &WeightManifest) -> bool {
        match self {
            Target::Held(held) => (held.version, &held.digest) == (manifest.version, &manifest.digest),
            Target::Nothing | Target::Loading => false,
        }
    }
}

/// All servers.
#[derive(Debug)]
pub(super) struct Fleet {
    replicas: Vec<Arc<Replica>>,
    places: Mutex<Trees>,
    pub target: watch::Sender<Target>,
    /// Something was loaded into all that were there.
    has_loaded: AtomicBool,
    one_load: tokio::sync::Mutex<()>,
    /// What those in service last answered under the current weights.
    canary: Mutex<Option<Canary>>,
    pub patience: Patience,
    /// What a server must have room for in one sequence.
    max_model_tokens: usize,
}

#[derive(Debug)]
struct Trees {
    places: Places,
    moved: u64,
}

/// Where a request goes.
#[derive(Debug)]
pub(super) struct Picked {
    pub replica: Arc<Replica>,
    pub queue: Queue,
    /// No server is up: this one is tried all the same.
    pub is_last_resort: bool,
}

/// A load under way; dropped, it leaves nothing that servers are to hold.
pub(super) struct Load<'a> {
    fleet: &'a Fleet,
    _one: tokio::sync::MutexGuard<'a, ()>,
    held: Option<Arc<WeightManifest>>,
}

/// How a load went at those that took it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub replicas: usize,
    /// The slowest's.
    pub phases: Vec<(ReloadPhase, Duration)>,
    /// Of the one where least was compared.
    pub held: HeldWeights,
    pub missing: Vec<ReplicaOutage>,
}

impl Fleet {
    /// Servers that have been found alike; all of them take sequences of `max_model_tokens`.
    pub fn new(replicas: Vec<Replica>, patience: Patience, max_model_tokens: usize) -> Fleet {
        let replicas: Vec<_> = replicas.into_iter().map(Arc::new).collect();
        let places = Mutex::new(Trees { places: Places::new(replicas.len()), moved: 0 });
        Fleet {
            replicas,
            places,
            target: watch::Sender::new(Target::Nothing),
            has_loaded: false.into(),
            one_load: tokio::sync::Mutex::new(()),
            canary: Mutex::new(None),
            patience,
            max_model_tokens,
        }
    }

    pub fn replicas(&self) -> &[Arc<Replica>] {
        &self.replicas
    }

    /// Those that hold what they should, as far as is known.
    pub fn in_service(&self) -> Vec<&Arc<Replica>> {
        let is_serving =
            |replica: &&Arc<Replica>| matches!(replica.condition(), Condition::Open | Condition::Reloading);
        self.replicas.iter().filter(is_serving).collect()
    }

    /// The server for requests of this tree.
    ///
    /// # Errors
    /// [`EngineError::NoReplica`] if none can be used for the time being, [`EngineError::Fenced`] if none can be brought
    /// back either.
    pub fn pick(&self, affinity: u64) -> Result<Picked, EngineError> {
        let mut trees = self.trees();
        let place = trees.places.get(affinity);
        let queue = if place.is_some() { Queue::Begun } else { Queue::New };
        // 0: works, 1: does not answer, 2: must not be asked.
        let rank = |at: usize| match self.replicas[at].condition() {
            Condition::Fenced => 2,
            Condition::Open | Condition::Reloading if self.replicas[at].is_up() => 0,
            _ => 1,
        };
        let best = (0..self.replicas.len()).map(rank).min().unwrap_or(2);
        if best == 2 {
            return Err(self.none_left());
        }
        let at = match place.filter(|&at| rank(at) == best) {
            Some(at) => at,
            None => {
                let Some(at) = self.least_loaded(&trees.places, |at| rank(at) == best) else {
                    return Err(self.none_left());
                };
                trees.moved += u64::from(place.is_some());
                trees.places.set(affinity, at);
                at
            }
        };
        Ok(Picked { replica: Arc::clone(&self.replicas[at]), queue, is_last_resort: best == 1 })
    }

    fn least_loaded(&self, places: &Places, is_eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let key = |at: usize| {
            let replica = &self.replicas[at];
            let is_loading = replica.condition() == Condition::Reloading;
            let trees = places.trees(at) as f64 / f64::from(replica.capacity.max(1));
            (is_loading, replica.admission.relative_load(), trees)
        };
        let keyed = (0..self.replicas.len()).filter(|&at| is_eligible(at)).map(|at| (key(at), at));
        let order = |a: &((bool, f64, f64), usize), b: &((bool, f64, f64), usize)| {
            a.0.0.cmp(&b.0.0).then(a.0.1.total_cmp(&b.0.1)).then(a.0.2.total_cmp(&b.0.2))
        };
        keyed.min_by(order).map(|(_, at)| at)
    }

    /// Whether a tree could go on elsewhere than at `replica`.
    pub fn has_other(&self, replica: &Replica) -> bool {
        let url = replica.client.url();
        self.replicas.iter().any(|other| {
            other.client.url() != url
                && other.is_up()
                && matches!(other.condition(), Condition::Open | Condition::Reloading)
        })
    }

    /// Whether no server that answers may answer from other weights than the others.
    pub fn is_of_one_mind(&self) -> bool {
        !self.replicas.iter().any(|replica| replica.is_in_doubt())
    }

    /// The servers' counts of reloads, to tell later whether one began.
    pub fn epochs(&self) -> Vec<u64> {
        self.replicas.iter().map(|replica| replica.epoch()).collect()
    }

    /// The server that answered as `process`, if it has held `weights` since its count was that of `epochs`.
    pub fn answered_by(&self, process: &str, weights: &Weights, epochs: &[u64]) -> Option<&Arc<Replica>> {
        let mut counted = self.replicas.iter().zip(epochs);
        counted.find(|(replica, epoch)| replica.answered_as(process, weights, **epoch)).map(|(replica, _)| replica)
    }

    /// Whether a server has confirmed its weights as `process`.
    pub fn knows(&self, process: &str) -> bool {
        self.replicas.iter().any(|replica| replica.process().as_deref() == Some(process))
    }

    /// The tree is at this server: somebody else placed it there.
    pub fn found_at(&self, affinity: u64, replica: &Arc<Replica>) {
        let Some(at) = self.replicas.iter().position(|other| Arc::ptr_eq(other, replica)) else { return };
        let mut trees = self.trees();
        if trees.places.get(affinity) != Some(at) {
            trees.places.set(affinity, at);
        }
    }

    /// The tree is finished.
    pub fn release(&self, affinity: u64) {
        self.trees().places.remove(affinity);
    }

    /// Why nothing can be asked: for the time being, or for good.
    pub fn none_left(&self) -> EngineError {
        let is_hopeless = matches!(*self.target.borrow(), Target::Nothing)
            && self.replicas.iter().all(|replica| replica.condition() == Condition::Fenced);
        match self.replicas.first() {
            None => EngineError::NoServer,
            Some(first) if is_hopeless => first.fenced(),
            Some(_) => self.no_replica(),
        }
    }

    fn no_replica(&self) -> EngineError {
        let reasons = self.outages(|_| true).into_iter().map(|outage| format!("`{}`: {}", outage.url, outage.reason));
        EngineError::NoReplica { count: self.replicas.len(), reasons: reasons.collect() }
    }

    fn outages(&self, concerned: impl Fn(usize) -> bool) -> Vec<ReplicaOutage> {
        let concerned = self.replicas.iter().enumerate().filter(|(at, _)| concerned(*at));
        concerned
            .map(|(_, replica)| ReplicaOutage {
                url: replica.client.url().to_owned(),
                reason: replica.trouble().unwrap_or_else(|| "it does not answer".into()),
            })
            .collect()
    }

    /// Begins a load: until it is committed nothing is brought back, since nobody knows to what.
    pub async fn begin_load(&self) -> Load<'_> {
        let one = self.one_load.lock().await;
        self.target.send_replace(Target::Loading);
        *self.canary() = None;
        Load { fleet: self, _one: one, held: None }
    }

    /// Brings a server that is out of service to what the others hold.
    ///
    /// # Errors
    /// It does not answer, does not take the weights, or is not like the others; it stays out of service.
    pub async fn bring_back(&self, replica: &Replica, manifest: &WeightManifest) -> Result<(), EngineError> {
        let _turn = replica.turn.lock().await;
        if replica.condition() != Condition::Fenced || !self.target.borrow().is(manifest) {
            return Ok(());
        }
        self.check_alike(replica).await?;
        let canary = self.canary().clone();
        let others = Others { target: &self.target, canary: canary.as_ref() };
        reload::reload(replica, manifest, self.patience, Some(others)).await?;
        replica.note_return();
        Ok(())
    }

    /// Whether a server that is fenced off is still like the others; if not, that is why it is.
    async fn check_alike(&self, replica: &Replica) -> Result<(), EngineError> {
        let epoch = replica.epoch();
        // It may hang still, and these are small questions.
        greet::check_alike(replica, self.max_model_tokens, self.patience.check)
            .await
            .inspect_err(|error| replica.fence(epoch, error.to_string()))
    }

    /// Whether those in service still hold `manifest`. A server that went back to the weights of its start was restarted:
    /// it is fenced off and brought back, and what it had answered before counts, since it is asked what it holds before
    /// it answers again.
    ///
    /// # Errors
    /// A server holds other weights, or none can be asked.
    pub async fn confirm(&self, manifest: &WeightManifest) -> Result<(), EngineError> {
        let is_current = self.target.borrow().is(manifest);
        let serving = self.in_service();
        let asked = serving.iter().map(|replica| async move {
            let epoch = replica.epoch();
            let answer = tokio::select! {
                answer = reload::confirm(replica, manifest) => answer,
                // Found by its keeper, long before the answer is overdue.
                () = replica.silence() => Err(replica.silent("/collective_rpc", self.patience.check)),
            };
            if let Err(error) = &answer
                && error.is_outage()
            {
                replica.note_failure(error);
            }
            (epoch, answer)
        });
        let answers = join_all(asked).await;
        let mut first_outage = None;
        let mut confirmed = 0;
        for (replica, (epoch, answer)) in serving.iter().zip(answers) {
            match answer {
                Ok(()) => confirmed += 1,
                Err(error) if error.is_outage() => first_outage = first_outage.or(Some(error)),
                Err(EngineError::WeightsDiffer { what, found, .. })
                    if is_current && reload::is_of_the_start(replica).await =>
                {
                    replica.fence(epoch, format!("it was restarted: {what} is `{found}`"));
                }
                Err(error) => return Err(error),
            }
        }
        match first_outage {
            _ if confirmed > 0 => Ok(()),
            Some(error) => Err(error),
            None => Err(self.none_left()),
        }
    }

    /// What was seen of all since the last call.
    pub fn take_counts(&self) -> Vec<(&'static str, f64)> {
        let totals: Vec<_> = self.replicas.iter().map(|replica| replica.seen().take()).collect();
        let (mut outages, mut returns) = (0, 0);
        for (lost, back) in self.replicas.iter().map(|replica| replica.take_outages()) {
            outages += lost;
            returns += back;
        }
        let mut counts = vec![
            (name::REPLICAS, self.in_service().len() as f64),
            (name::OUTAGES, outages as f64),
            (name::RETURNS, returns as f64),
            (name::MOVED_TREES, std::mem::take(&mut self.trees().moved) as f64),
        ];
        if self.replicas.iter().any(|replica| replica.seen().has_metrics()) {
            counts.extend(metrics::counts(&totals));
        }
        let limits: Vec<u64> = self.replicas.iter().filter_map(|replica| replica.admission.token_limit()).collect();
        if !limits.is_empty() {
            counts.push((name::TOKEN_LIMIT, limits.iter().sum::<u64>() as f64));
        }
        counts
    }

    /// Notes what the servers in service answer.
    pub fn note_canary(&self, tokens: &[TokenId], logprobs: &[f32]) {
        *self.canary() = Some(Canary { tokens: tokens.to_vec(), logprobs: logprobs.to_vec() });
    }

    fn canary(&self) -> MutexGuard<'_, Option<Canary>> {
        self.canary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trees(&self) -> MutexGuard<'_, Trees> {
        // Every change of it leaves it whole.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load<'_> {
    /// One attempt: at all that answer, or at all if none does. One that takes the weights is enough; the others are out of
    /// service until they are brought to them. Only at the first load a server that answers and does not take them is a
    /// failure: it is set up wrongly.
    ///
    /// # Errors
    /// None took them.
    pub async fn attempt(&mut self, manifest: &WeightManifest) -> Result<Loaded, EngineError> {
        let fleet = self.fleet;
        let up: Vec<usize> = (0..fleet.replicas.len()).filter(|&at| !fleet.replicas[at].is_down()).collect();
        let chosen = if up.is_empty() { (0..fleet.replicas.len()).collect() } else { up };
        let is_first = !fleet.has_loaded.load(Ordering::Relaxed);
        let loads = chosen.iter().map(|&at| async move {
            let replica = &fleet.replicas[at];
            let _turn = replica.turn.lock().await;
            if !is_first && replica.condition() == Condition::Fenced {
                fleet.check_alike(replica).await?;
            }
            reload::reload(replica, manifest, fleet.patience, None).await
        });
        // All are awaited, also when one fails: none is left half way.
        let results = join_all(loads).await;
        let (mut took, mut reports, mut refusal, mut outage) = (Vec::new(), Vec::new(), None, None);
        for (&at, result) in chosen.iter().zip(results) {
            match result {
                Ok(report) => {
                    took.push(at);
                    reports.push(report);
                }
                Err(error) if error.is_outage() => outage = outage.or(Some(error)),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        if let Some(refusal) = refusal.filter(|_| is_first || reports.is_empty()) {
            return Err(refusal);
        }
        let Some((phases, held)) = slowest(reports) else {
            let only = outage.filter(|_| fleet.replicas.len() == 1);
            return Err(only.unwrap_or_else(|| fleet.no_replica()));
        };
        fleet.has_loaded.store(true, Ordering::Relaxed);
        self.held = Some(Arc::new(manifest.clone()));
        let missing = fleet.outages(|at| !took.contains(&at));
        let late = |at: &usize| !took.contains(at) && fleet.replicas[*at].condition() != Condition::Fenced;
        for replica in (0..fleet.replicas.len()).filter(late).map(|at| &fleet.replicas[at]) {
            // It may still hold what it held, and come back with that.
            replica.fence(replica.epoch(), format!("version {} was loaded while it was away", manifest.version));
        }
        Ok(Loaded { replicas: took.len(), phases, held, missing })
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.fleet.target.send_replace(self.held.take().map_or(Target::Nothing, Target::Held));
    }
}

fn slowest(reports: Vec<Reloaded>) -> Option<(Vec<(ReloadPhase, Duration)>, HeldWeights)> {
    let mut reports = reports.into_iter();
    let mut slowest = reports.next()?;
    for other in reports {
        for (mine, its) in slowest.phases.iter_mut().zip(other.phases) {
            mine.1 = mine.1.max(its.1);
        }
        let checked = |held: &HeldWeights| held.bitwise_bytes + held.probed_bytes;
        if checked(&other.held) < checked(&slowest.held) {
            slowest.held = other.held;
        }
    }
    Some((slowest.phases, slowest.held))
}
