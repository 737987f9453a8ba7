//! A router in front of the servers, through which generation goes. All else goes straight to each server: health, metrics,
//! weights, canary.
//!
//! Invariant: an answer that came through the router counts only if it names the process that made it, if that is the
//! process in which a server of the list confirmed the weights that were asked for, and if no reload began there between
//! the request and the answer. So it does not matter where a router sends a request, what it tries again, or whether it
//! has noticed that a server was restarted: an answer of other weights is thrown away, and asked for again straight at a
//! server that holds them. The same happens with whatever the router itself has to say.
//!
//! The router is left out while a server that answers is not at the current weights, and for `inference.health_check_s`
//! after a failure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::Client;
use super::fleet::Fleet;
use super::metrics::name;
use super::replica::{Replica, Weights};
use super::wire::{Completion, CompletionRequest};
use crate::inference::EngineError;
use crate::types::Sampling;

/// Checks in a row that must fail before requests in flight are given up.
const STRIKES: u32 = 2;

/// The router of a fleet.
#[derive(Debug)]
pub(super) struct Router {
    client: Client,
    /// Between two checks, for the answer of one, and how long it is left out after a failure.
    period: Duration,
    left_out_until: Mutex<Option<Instant>>,
    /// Nothing in flight at it is waited for.
    is_silent: watch::Sender<bool>,
    routed: AtomicU64,
    unrouted: AtomicU64,
}

/// What a request through the router must be answered from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub weights: &'a Weights,
    /// Of all servers, before it was sent.
    pub epochs: &'a [u64],
    /// The tree.
    pub session: u64,
}

impl Router {
    /// The router at `client`'s address, which must lead to the servers of `fleet` and to no others.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for servers whose answers do not say who they are, and for a router that leads
    /// elsewhere; whatever the router says to a request.
    pub async fn greet(
        client: Client,
        fleet: &Fleet,
        period: Duration,
        deadline: Duration,
    ) -> Result<Router, EngineError> {
        if let Some(nameless) = fleet.replicas().iter().find(|replica| replica.process().is_none()) {
            return Err(EngineError::Unsupported {
                url: nameless.client.url().to_owned(),
                problem: "its answers do not say which process made them, so that none could be trusted through \
                          `inference.router`"
                    .into(),
                hint: "start it with `inference/start.sh`, or with `PYTHONPATH=inference` and `--middleware front.Front`; \
                       one API server process each"
                    .into(),
            });
        }
        let router = Router {
            client,
            period,
            left_out_until: Mutex::new(None),
            is_silent: watch::Sender::new(false),
            routed: AtomicU64::new(0),
            unrouted: AtomicU64::new(0),
        };
        for (session, replica) in fleet.replicas().iter().enumerate() {
            let neutral = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
            let body = CompletionRequest::new(&replica.model, &[1], 1, neutral, "probe");
            let (_, process) = router.client.complete_in_session(&body, session as u64, deadline).await?;
            if !process.is_some_and(|process| fleet.knows(&process)) {
                return Err(EngineError::Unsupported {
                    url: router.client.url().to_owned(),
                    problem: "an answer through this router does not name a server of `inference.urls`".into(),
                    hint: "give the router the same servers as `inference.urls`, and let it pass headers on".into(),
                });
            }
        }
        Ok(router)
    }

    /// Whether the next request may go through it.
    pub fn is_usable(&self) -> bool {
        !*self.is_silent.borrow() && self.left_out().is_none_or(|until| until <= Instant::now())
    }

    /// Sends a request and finds the server that answered it.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] for anything but a good answer of the weights that were asked for: it may be asked for
    /// straight at a server.
    pub async fn ask(
        &self,
        fleet: &Fleet,
        picked: &Replica,
        body: &CompletionRequest<'_>,
        asked: Asked<'_>,
        deadline: Duration,
    ) -> Result<(Completion, Arc<Replica>), EngineError> {
        let answer = tokio::select! {
            answer = self.client.complete_in_session(body, asked.session, deadline) => answer,
            () = self.silence() => Err(self.interrupted("it has stopped answering".into())),
            // Where the router sent the tree before.
            () = picked.silence() => Err(self.interrupted(format!("`{}` has stopped answering", picked.client.url()))),
        };
        match answer {
            Ok((completion, Some(process))) => match fleet.answered_by(&process, asked.weights, asked.epochs) {
                Some(replica) => {
                    replica.note_success();
                    self.routed.fetch_add(1, Ordering::Relaxed);
                    Ok((completion, Arc::clone(replica)))
                }
                None if fleet.knows(&process) => {
                    Err(self.interrupted("a server's weights were replaced meanwhile".into()))
                }
                None => {
                    // A server was restarted: each says for itself what it holds before it gets work again.
                    fleet.replicas().iter().for_each(|replica| replica.doubt());
                    Err(self
                        .leave_out("its answer was made by a process that nobody knows: a server was restarted".into()))
                }
            },
            Ok((_, None)) => Err(self.leave_out("its answer does not say which server made it".into())),
            // What a server refuses it will refuse again, and then it is told in its own words.
            Err(error @ EngineError::Refused { .. }) => Err(self.interrupted(error.to_string())),
            Err(error) => Err(self.leave_out(error.to_string())),
        }
    }

    /// One request goes straight to a server.
    pub fn note_unrouted(&self) {
        self.unrouted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts since the last call.
    pub fn take_counts(&self) -> [(&'static str, f64); 2] {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed) as f64;
        [(name::ROUTED, take(&self.routed)), (name::UNROUTED, take(&self.unrouted))]
    }

    /// Asks it from time to time whether it is there, until the task is ended.
    pub fn keep(self: Arc<Router>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut failures = 0;
            loop {
                tokio::time::sleep(self.period).await;
                failures = match self.client.health(self.period).await {
                    // A router without a server to send to answers, too.
                    Err(EngineError::Deadline { .. } | EngineError::Unreachable { .. }) => failures + 1,
                    _ => 0,
                };
                let is_silent = failures >= STRIKES;
                if self.is_silent.send_replace(is_silent) != is_silent {
                    let url = self.client.url();
                    if is_silent {
                        tracing::warn!(url, "router lost: requests go straight to the servers");
                    } else {
                        tracing::info!(url, "router back in service");
                    }
                }
            }
        })
    }

    async fn silence(&self) {
        let mut watch = self.is_silent.subscribe();
        // The sender lives as long as `self`.
        let _ = watch.wait_for(|is_silent| *is_silent).await;
    }

    /// Leaves it out for a while; the error says why.
    pub fn leave_out(&self, reason: String) -> EngineError {
        let until = Instant::now() + self.period;
        let before = self.left_out_until.lock().unwrap_or_else(PoisonError::into_inner).replace(until);
        if before.is_none_or(|before| before <= Instant::now()) {
            let left_out_s = self.period.as_secs();
            tracing::warn!(url = self.client.url(), reason, left_out_s, "router left out");
        }
        self.interrupted(reason)
    }

    fn left_out(&self) -> Option<Instant> {
        *self.left_out_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupted(&self, reason: String) -> EngineError {
        EngineError::Interrupted { url: self.client.url().to_owned(), reason }
    }
}
