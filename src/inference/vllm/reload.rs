//! New weights into a running server: pause, load, verify, drop the prefix cache, resume.
//!
//! The pause stops what is in flight (vLLM's mode `abort`): it returns at once, while waiting for the longest answer
//! has no bound, and letting requests live through the load would give answers from two policies without a mark. What
//! was stopped is sampled again under the new weights.
//!
//! Adapters go another way in: vLLM loads them by name beside those before, the requests of the next version name the new
//! ones, and then the old ones are let go. The weights that they are on stay as they are, and cannot be replaced on such a
//! server. What the workers hold is not compared with the file there: vLLM has no way to read adapters back, so the proof is
//! that the server knows the name (with the digest in it), and the canary of the run.

use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fleet::Target;
use super::replica::{Replica, Weights};
use super::score::Canary;
use super::wire::{LoadAnswer, WorkerState};
use crate::inference::{EngineError, HeldWeights, ReloadPhase};
use crate::types::WeightManifest;

/// Pause between two attempts to drop the cache while the server lets go of the stopped requests.
const CACHE_PAUSE: Duration = Duration::from_millis(50);

/// Checks in a row without any answer after which a reload is given up.
const STRIKES: u32 = 2;

/// How long a server is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For one phase of a reload, while the server answers other questions.
    pub phase: Duration,
    /// Between two such questions, and for the answer.
    pub check: Duration,
}

/// How one replica's reload went.
#[derive(Debug)]
pub(super) struct Reloaded {
    pub phases: Vec<(ReloadPhase, Duration)>,
    pub held: HeldWeights,
}

/// What a replica that comes back has to agree with before it goes into service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others<'a> {
    /// What all are to hold, by then.
    pub target: &'a watch::Sender<Target>,
    /// What those in service answered.
    pub canary: Option<&'a Canary>,
}

/// Loads `manifest` into one replica, each phase within its time, which ends early where the server answers nothing at
/// all: one that hangs holds nobody up for longer than it takes to know. With `others`, it goes into service only if it
/// agrees with them.
///
/// # Errors
/// [`EngineError::Reload`] naming the phase; the replica is fenced off. Weights that were refused before the model
/// was touched leave the server running on the old ones, other failures leave it paused.
///
/// # Cancel safety
/// Dropped half way, the replica is fenced off.
pub(super) async fn reload(
    replica: &Replica,
    manifest: &WeightManifest,
    patience: Patience,
    others: Option<Others<'_>>,
) -> Result<Reloaded, EngineError> {
    let deadline = patience.phase;
    let before = replica.adapter();
    let gate = replica.begin_reload();
    let mut phases = Vec::new();
    let mut current = ReloadPhase::Pause;
    let mut loaded = tokio::select! {
        loaded = run(replica, manifest, deadline, &mut current, &mut phases) => loaded,
        error = silence(replica, patience.check) => Err(error),
    };
    if let (Ok(_), Some(canary)) = (&loaded, others.and_then(|others| others.canary)) {
        current = ReloadPhase::Verify;
        let model = Weights::of(manifest).adapter.unwrap_or_else(|| replica.model.clone());
        if let Err(error) = canary.check(&replica.client, &model, deadline).await {
            loaded = Err(error);
        }
    }
    match loaded {
        Ok((held, process)) => {
            let weights = Weights::of(manifest);
            let after = weights.adapter.clone();
            {
                // Held over the opening: who changes the target afterwards finds this replica in service.
                let wanted = others.map(|others| others.target.borrow());
                if wanted.is_some_and(|wanted| !wanted.is(manifest)) {
                    let reason = format!("version {} was superseded while it was loaded", manifest.version);
                    gate.fence(reason.clone());
                    return Err(replica.interrupted(&reason));
                }
                gate.open(weights, process);
            }
            if let Some(old) = before.filter(|old| Some(old) != after.as_ref())
                && let Err(error) = replica.client.unload_adapter(&old, deadline).await
            {
                // They take memory and are asked for by nobody.
                tracing::warn!(url = replica.client.url(), adapter = old, %error, "old adapters are still loaded");
            }
            Ok(Reloaded { phases, held })
        }
        Err(source) => {
            let version = manifest.version;
            let refused = matches!(source, EngineError::WeightsRefused { .. });
            // The model is the old one: nothing speaks against letting other users of the server go on.
            let resumed = refused && replica.client.resume(deadline).await.is_ok();
            let left = if resumed { ", it still holds the version before" } else { "" };
            gate.fence(format!("loading version {version} failed in phase `{current}`{left}"));
            if source.is_outage() {
                replica.mark_down(&source.to_string(), false);
            }
            let url = replica.client.url().to_owned();
            Err(EngineError::Reload { url, version, phase: current, source: Box::new(source) })
        }
    }
}

/// Ends, with the error to tell, when the server has left checks unanswered. One that refuses connections is no case of
/// it: that is seen by whoever asks.
async fn silence(replica: &Replica, check: Duration) -> EngineError {
    let mut strikes = 0;
    loop {
        if strikes == 0 {
            tokio::time::sleep(check).await;
        }
        match replica.client.health(check).await {
            Err(error @ EngineError::Deadline { .. }) => {
                strikes += 1;
                if strikes == STRIKES {
                    return error;
                }
            }
            _ => strikes = 0,
        }
    }
}

async fn run(
    replica: &Replica,
    manifest: &WeightManifest,
    deadline: Duration,
    current: &mut ReloadPhase,
    phases: &mut Vec<(ReloadPhase, Duration)>,
) -> Result<(HeldWeights, Option<String>), EngineError> {
    let mut held = (HeldWeights::default(), None);
    let order =
        [ReloadPhase::Pause, ReloadPhase::Load, ReloadPhase::Verify, ReloadPhase::ResetCache, ReloadPhase::Resume];
    for phase in order {
        *current = phase;
        let start = Instant::now();
        match phase {
            ReloadPhase::Pause => replica.client.pause(deadline).await?,
            ReloadPhase::Load => load(replica, manifest, deadline).await?,
            ReloadPhase::Verify => held = verify(replica, manifest).await?,
            ReloadPhase::ResetCache => reset_cache(replica, deadline).await?,
            ReloadPhase::Resume => replica.client.resume(deadline).await?,
        }
        phases.push((phase, start.elapsed()));
    }
    Ok(held)
}

async fn load(replica: &Replica, manifest: &WeightManifest, deadline: Duration) -> Result<(), EngineError> {
    if let Some(name) = Weights::of(manifest).adapter {
        return load_adapter(replica, manifest, &name, deadline).await;
    }
    let path = manifest.dir.join(&manifest.file);
    let path = std::path::absolute(&path).map_err(|source| EngineError::File { path: path.clone(), source })?;
    let kwargs = json!({
        "path": path.to_string_lossy(),
        "version": manifest.version.0,
        "tensors": manifest.tensors,
    });
    let answers: Vec<LoadAnswer> = replica.client.rpc("ds_load", kwargs, deadline).await?;
    // A worker that broke outweighs one that only refused.
    if let Some(broken) = answers.iter().find(|answer| !answer.intact) {
        return Err(EngineError::WeightsBroken { message: broken.error.clone().unwrap_or_default() });
    }
    match answers.iter().find(|answer| !answer.ok) {
        // On several workers some may have loaded while others refused: together they are no model.
        Some(answer) if answers.iter().all(|other| !other.ok) => {
            Err(EngineError::WeightsRefused { message: answer.error.clone().unwrap_or_default() })
        }
        Some(answer) => Err(EngineError::WeightsBroken {
            message: format!("only some workers loaded: {}", answer.error.clone().unwrap_or_default()),
        }),
        None => Ok(()),
    }
}

async fn load_adapter(
    replica: &Replica,
    manifest: &WeightManifest,
    name: &str,
    deadline: Duration,
) -> Result<(), EngineError> {
    let dir = std::path::absolute(&manifest.dir)
        .map_err(|source| EngineError::File { path: manifest.dir.clone(), source })?;
    match replica.client.load_adapter(name, &dir.to_string_lossy(), deadline).await {
        Err(EngineError::Refused { url, status: 404, message, .. }) if message == "Not Found" => {
            let problem = "it takes no adapters while it runs".to_owned();
            let hint =
                "start it with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1` and `--enable-lora --max-lora-rank N`, or set \
                        `inference.launch = true`"
                    .to_owned();
            Err(EngineError::Unsupported { url, problem, hint })
        }
        // It answered, and has not touched what it serves.
        Err(EngineError::Refused { message, .. } | EngineError::ServerFailed { message, .. }) => {
            Err(EngineError::WeightsRefused { message })
        }
        other => other,
    }
}

/// Whether the workers of a replica still say that they hold these weights. Compares what they say, not the model: a
/// round trip, cheap enough for every step.
pub(super) async fn confirm(replica: &Replica, manifest: &WeightManifest) -> Result<(), EngineError> {
    confirmed_by(replica, manifest).await.map(|_| ())
}

/// The same, and by which process.
async fn confirmed_by(replica: &Replica, manifest: &WeightManifest) -> Result<Option<String>, EngineError> {
    let workers = replica.worker_states(false).await?;
    for worker in &workers {
        same_weights(worker, manifest)?;
    }
    serves(replica, manifest).await?;
    Ok(workers.into_iter().find_map(|worker| worker.process))
}

/// Whether a server holds the weights of its start, as it does after a restart.
pub(super) async fn is_of_the_start(replica: &Replica) -> bool {
    let states = replica.worker_states(false).await;
    states.is_ok_and(|states| states.iter().all(|state| state.intact && state.digest.is_none()))
}

async fn serves(replica: &Replica, manifest: &WeightManifest) -> Result<(), EngineError> {
    let weights = Weights::of(manifest);
    if replica.serves(&weights).await? {
        return Ok(());
    }
    Err(EngineError::WeightsDiffer {
        what: "name of the adapters".to_owned(),
        expected: weights.adapter.unwrap_or_default(),
        found: "no such adapters".to_owned(),
    })
}

fn same_weights(worker: &WorkerState, manifest: &WeightManifest) -> Result<(), EngineError> {
    let differs = |what: &str, expected: String, found: String| {
        Err(EngineError::WeightsDiffer { what: what.to_owned(), expected, found })
    };
    if manifest.base_digest.is_some() {
        return match &worker.digest {
            None => Ok(()),
            Some(digest) => differs("weights under the adapters", "those of the start".into(), digest.clone()),
        };
    }
    if worker.version != manifest.version.0 {
        return differs("weight version", manifest.version.to_string(), worker.version.to_string());
    }
    if worker.digest.as_deref() != Some(manifest.digest.as_str()) {
        let found = worker.digest.clone().unwrap_or_default();
        return differs("digest of the weights", manifest.digest.clone(), found);
    }
    Ok(())
}

/// What was compared, and the process that holds it.
async fn verify(replica: &Replica, manifest: &WeightManifest) -> Result<(HeldWeights, Option<String>), EngineError> {
    if manifest.base_digest.is_some() {
        let process = confirmed_by(replica, manifest).await?;
        let unchecked_tensors = manifest.tensors.len() as u64;
        let held = HeldWeights { unchecked_tensors, unchecked_bytes: manifest.bytes, ..HeldWeights::default() };
        return Ok((held, process));
    }
    let mut least: Option<HeldWeights> = None;
    let mut process = None;
    for worker in replica.worker_states(true).await? {
        let differs = |what: &str, expected: String, found: String| {
            Err(EngineError::WeightsDiffer { what: what.to_owned(), expected, found })
        };
        same_weights(&worker, manifest)?;
        process = process.or(worker.process);
        let Some(held) = worker.held.filter(|_| worker.intact) else {
            return differs("state of the model", "whole".into(), "not comparable with the file".into());
        };
        if !held.different.is_empty() {
            return differs("held weights", "the file's values".into(), held.different.join(", "));
        }
        let held = HeldWeights {
            bitwise_tensors: held.bitwise_tensors,
            bitwise_bytes: held.bitwise_bytes,
            probed_tensors: held.probed_tensors,
            probed_bytes: held.probed_bytes,
            unchecked_tensors: held.unchecked_tensors,
            unchecked_bytes: held.unchecked_bytes,
            shared_bytes: 0,
        };
        if least.is_none_or(|other| held.bitwise_bytes + held.probed_bytes < other.bitwise_bytes + other.probed_bytes) {
            least = Some(held);
        }
    }
    least
        .map(|held| (held, process))
        .ok_or_else(|| EngineError::Bug { invariant: "a server has at least one worker".into() })
}

/// Drops the prefix cache; tried again while blocks are held by requests in flight.
pub(super) async fn reset_cache(replica: &Replica, deadline: Duration) -> Result<(), EngineError> {
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if replica.client.reset_prefix_cache(left).await? {
            return Ok(());
        }
        if Instant::now() + CACHE_PAUSE >= end {
            let problem = "it did not drop its prefix cache: blocks are still held".to_owned();
            return Err(replica.client.bad_answer("/reset_prefix_cache", problem));
        }
        tokio::time::sleep(CACHE_PAUSE).await;
    }
}
