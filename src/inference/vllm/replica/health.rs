//! Whether a server answers: what is known of that, and who is told.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::metrics::Seen;
use super::{Condition, Gate, Replica, TRUST};
use crate::inference::EngineError;

impl Replica {
    /// What is to be done about it.
    pub fn condition(&self) -> Condition {
        let state = self.state.borrow();
        match &state.gate {
            Gate::Fenced(_) => Condition::Fenced,
            Gate::Reloading => Condition::Reloading,
            Gate::Open if state.down.is_some() => Condition::Down,
            Gate::Open => Condition::Open,
        }
    }

    /// Whether it answers and does not ask to be left alone.
    pub fn is_up(&self) -> bool {
        let state = self.state.borrow();
        state.down.is_none() && state.busy_until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether it has stopped answering, whatever it holds.
    pub fn is_down(&self) -> bool {
        self.state.borrow().down.is_some()
    }

    /// Why it gets no work.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.borrow();
        let fenced = match &state.gate {
            Gate::Fenced(reason) => Some(reason.clone()),
            _ => None,
        };
        fenced.or_else(|| state.down.clone())
    }

    /// Time since its last answer; `None` after a failure.
    pub fn quiet(&self) -> Option<Duration> {
        self.state.borrow().heard.map(|at| at.elapsed())
    }

    /// Waits until something about it changes.
    pub fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut watch = self.state.subscribe();
        async move {
            let _ = watch.changed().await;
        }
    }

    /// Waits until it is so long silent that nothing in flight is waited for.
    pub async fn silence(&self) {
        let mut watch = self.state.subscribe();
        while !watch.borrow_and_update().is_silent {
            // The sender lives as long as `self`.
            let _ = watch.changed().await;
        }
    }

    /// The error of one that has fallen silent while it was asked at `path`.
    pub fn silent(&self, path: &str, deadline: Duration) -> EngineError {
        EngineError::Deadline { url: self.client.url().to_owned(), path: path.to_owned(), deadline }
    }

    /// The server answered.
    pub fn note_success(&self) {
        let mut was_down = false;
        self.state.send_if_modified(|state| {
            state.heard = Some(Instant::now());
            was_down = state.down.take().is_some();
            state.is_silent = false;
            false
        });
        if was_down {
            self.note_return();
        }
    }

    /// It answered something that says nothing of its weights: it cannot have restarted since the answer before.
    pub fn note_life(&self) {
        self.state.send_if_modified(|state| {
            if state.heard.is_some_and(|at| at.elapsed() < TRUST) {
                state.heard = Some(Instant::now());
            }
            false
        });
    }

    /// The server failed: it is asked what it holds before it gets work again, and others are preferred until then.
    pub fn note_failure(&self, error: &EngineError) {
        match error {
            EngineError::Unreachable { .. } => self.mark_down("it cannot be reached", false),
            EngineError::ServerFailed { status: 429, retry_after, .. } => {
                let until = retry_after.map(|pause| Instant::now() + pause);
                self.state.send_if_modified(|state| {
                    state.busy_until = until;
                    false
                });
            }
            EngineError::ServerFailed { status, message, .. } => {
                self.mark_down(&format!("it failed ({status}): {message}"), false);
            }
            EngineError::Deadline { .. } => {
                self.state.send_if_modified(|state| {
                    state.heard = None;
                    state.failed = Some(Instant::now());
                    false
                });
            }
            _ => {}
        }
    }

    /// It is left alone until it answers again; `is_silent`: nothing in flight at it is waited for either.
    pub fn mark_down(&self, reason: &str, is_silent: bool) {
        let mut was_up = false;
        self.state.send_if_modified(|state| {
            state.heard = None;
            state.failed = Some(Instant::now());
            let was_known = state.down.replace(reason.to_owned()).is_some();
            was_up = !was_known && !matches!(state.gate, Gate::Fenced(_));
            let is_news = !was_known || (is_silent && !state.is_silent);
            state.is_silent |= is_silent;
            is_news
        });
        if was_up {
            tracing::warn!(url = self.client.url(), reason, "server lost");
            self.outages.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is in service again.
    pub fn note_return(&self) {
        tracing::info!(url = self.client.url(), "server back in service");
        self.returns.fetch_add(1, Ordering::Relaxed);
    }

    /// Times that it was lost and came back since the last call.
    pub fn take_outages(&self) -> (u64, u64) {
        (self.outages.swap(0, Ordering::Relaxed), self.returns.swap(0, Ordering::Relaxed))
    }

    /// What its metrics said.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        // Every change of it leaves it whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
