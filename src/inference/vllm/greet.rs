//! Who is there, and what all servers together can do.

use std::time::Duration;

use super::client::Client;
use super::launch::{self, Server};
use super::metrics::{self, Reading};
use super::probe;
use super::replica::{self, Replica};
use super::wire::WorkerState;
use super::{PROTOCOL, SUPPORTED, VllmSetup};
use crate::inference::{Capabilities, EngineError};

/// For a question that a server need not answer.
const OPTIONAL_DEADLINE: Duration = Duration::from_secs(5);

/// What is expected of the servers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Terms<'a> {
    /// They take new weights and are trusted with nothing else.
    Loads,
    /// They answer with what they hold.
    AsItIs { served: Option<&'a str> },
}

/// What a server said of itself.
pub(super) struct Greeting {
    pub client: Client,
    model: String,
    vllm: String,
    max_model_tokens: usize,
    worker: WorkerState,
    /// It has no worker extension: `worker` is made up.
    is_plain: bool,
    /// Its metrics, if it has any.
    reading: Option<Reading>,
}

impl Greeting {
    /// The server as a replica, with its share of `all_sequences` that the servers can batch together.
    pub fn replica(self, setup: &VllmSetup<'_>, terms: Terms<'_>, all_sequences: usize) -> Replica {
        let own = self.worker.max_num_seqs;
        let sequences = match setup.config.max_sequences {
            0 => own,
            // By size: a server twice as large gets twice as many.
            total => (total.saturating_mul(own)).div_ceil(all_sequences.max(1)),
        };
        let made = replica::Terms {
            capacity: u32::try_from(sequences).unwrap_or(u32::MAX).clamp(1, 1 << 20),
            room_tokens: self.reading.and_then(|reading| reading.room_tokens),
            salt: setup.salt,
            deadline: Duration::from_secs(setup.config.reload_timeout_s),
        };
        let replica = Replica::new(self.client, self.model, self.worker, made);
        if let Some(reading) = self.reading {
            replica.seen().note(reading, false);
        }
        match terms {
            Terms::Loads => replica,
            Terms::AsItIs { .. } => replica.trusted(self.is_plain),
        }
    }

    /// Sequences that the server can batch.
    pub fn sequences(&self) -> usize {
        self.worker.max_num_seqs
    }
}

/// Asks a server who it is and what it can do.
pub(super) async fn greet(
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
    // Without it only sequences are bounded.
    let reading = client.metrics(OPTIONAL_DEADLINE.min(deadline)).await.ok().and_then(|text| metrics::parse(&text));
    if let Terms::AsItIs { .. } = terms {
        // A pause is another program's, which will end it.
        return Ok(Greeting { client, model, vllm, max_model_tokens, worker, is_plain, reading });
    }
    let is_sleeping = match client.is_sleeping(deadline).await {
        // Without the development endpoints; that is told by others.
        Err(EngineError::Refused { status: 404, .. }) => false,
        answer => answer?,
    };
    if is_sleeping {
        // Likewise, in the middle of an update.
        client.wake_up(deadline).await?;
    }
    if client.is_paused(deadline).await? {
        // Left behind by a program that ended in the middle of a reload; the model itself is whole.
        client.resume(deadline).await?;
    }
    let mode = probe::logprobs_mode(&client, &model, worker.vocab_size, setup.sampling, deadline).await?;
    probe::check_mode(client.url(), mode, setup.sampling)?;
    Ok(Greeting { client, model, vllm, max_model_tokens, worker, is_plain, reading })
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
    let states: Vec<WorkerState> = match client.worker_states(false, deadline).await {
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

/// Whether a server that comes back is still like the others: it may have been started anew with other settings. Each
/// question has its `deadline`.
///
/// # Errors
/// [`EngineError::Unsupported`] saying what is different; else as the calls.
pub(super) async fn check_alike(
    replica: &Replica,
    max_model_tokens: usize,
    deadline: Duration,
) -> Result<(), EngineError> {
    let unlike = |problem: String| EngineError::Unsupported {
        url: replica.client.url().to_owned(),
        problem,
        hint: "start it as it was started before".into(),
    };
    let before = &replica.found;
    for state in replica.client.worker_states(false, deadline).await? {
        if state.protocol != PROTOCOL {
            return Err(unlike("its worker extension is of another version of this program".into()));
        }
        if !state.intact {
            return Err(unlike("an earlier load failed half way, its model is unusable".into()));
        }
        if state.vocab_size != before.vocab_size {
            return Err(unlike(other_vocabulary(state.vocab_size, "before its restart", before.vocab_size)));
        }
        if state.logprobs_mode != before.logprobs_mode {
            return Err(unlike(format!(
                "it returns `{}` and returned `{}`",
                state.logprobs_mode, before.logprobs_mode
            )));
        }
    }
    let cards = replica.client.models(deadline).await?.data;
    let context = cards.iter().filter_map(|card| card.max_model_len).max().unwrap_or_default();
    if context < max_model_tokens {
        return Err(unlike(format!("it takes sequences of {context} tokens, and {max_model_tokens} are sent")));
    }
    Ok(())
}

fn other_vocabulary(its: usize, whose: &str, other: usize) -> String {
    format!("its vocabulary has {its} tokens, that {whose} has {other}")
}

/// What all servers together can do.
///
/// # Errors
/// [`EngineError::Unsupported`] naming the server that does not fit the first.
pub(super) fn combine(found: &[Greeting], terms: Terms<'_>) -> Result<Capabilities, EngineError> {
    let Some(first) = found.first() else { return Err(EngineError::NoServer) };
    let unlike = |other: &Greeting, problem: String, hint: &str| {
        Err(EngineError::Unsupported { url: other.client.url().to_owned(), problem, hint: hint.to_owned() })
    };
    let whose = format!("of `{}`", first.client.url());
    for other in found {
        let (its, that) = (other.worker.vocab_size, first.worker.vocab_size);
        if its != that {
            return unlike(other, other_vocabulary(its, &whose, that), "start all servers with the same model");
        }
        let (its, that) = (&other.worker.digest, &first.worker.digest);
        // Where weights will be loaded it does not matter what is there now.
        if matches!(terms, Terms::AsItIs { .. }) && !other.is_plain && !first.is_plain && its != that {
            let shown = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "those of its start".into());
            let problem = format!("it holds the weights `{}`, that {whose} `{}`", shown(its), shown(that));
            return unlike(other, problem, "measure servers with different weights one by one");
        }
    }
    Ok(Capabilities {
        engine: format!("vllm {}", first.vllm),
        max_model_tokens: found.iter().map(|greeting| greeting.max_model_tokens).min().unwrap_or_default(),
        vocab_tokens: first.worker.vocab_size,
        // Known once the replicas are made.
        max_sequences: 0,
        // The batch decides how its matrix products round.
        is_reproducible: false,
    })
}
