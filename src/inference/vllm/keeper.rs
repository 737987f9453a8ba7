//! Looks after one server for as long as the engine lives: is it there, how full is it, and if it was lost, what does it
//! take to have it back.
//!
//! A server with work is asked for its metrics once a second, which is also a sign of life. One without is asked every
//! `inference.health_check_s` what it holds. One that does not answer is asked again after pauses that double, and one
//! whose weights are in doubt is brought to those of the others. Nothing is asked of a server that works, is idle and
//! has just answered: there is no loop that only turns.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fleet::{Fleet, Target};
use super::metrics;
use super::replica::{Condition, Replica, TRUST};
use crate::inference::EngineError;

/// Between two readings of the metrics while there is work.
const POLL: Duration = Duration::from_secs(1);
/// For one reading.
const POLL_DEADLINE: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts to have a server back.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Checks in a row that must fail before requests in flight are given up: a server may be busy for a while.
const STRIKES: u32 = 2;

/// Looks after `replica` until the task is ended.
pub(super) fn keep(fleet: Arc<Fleet>, replica: Arc<Replica>, period: Duration) -> JoinHandle<()> {
    tokio::spawn(Keeper { fleet, replica, period, failures: 0, checked: Instant::now() }.run())
}

struct Keeper {
    fleet: Arc<Fleet>,
    replica: Arc<Replica>,
    /// Between two checks of a server that works.
    period: Duration,
    /// In a row.
    failures: u32,
    /// Last check of a server that works.
    checked: Instant,
}

impl Keeper {
    async fn run(mut self) {
        let mut target = self.fleet.target.subscribe();
        loop {
            // Before its condition is looked at, so that no change is missed.
            let changed = self.replica.watch();
            let wanted = target.borrow_and_update().clone();
            match (self.replica.condition(), wanted) {
                (Condition::Open, _) => self.work(changed).await,
                (Condition::Down, _) => {
                    tokio::select! {
                        () = tokio::time::sleep(self.pause()) => {}
                        () = changed => continue,
                    }
                    let answer = self.replica.confirm(self.period).await;
                    self.count(&answer);
                }
                (Condition::Fenced, Target::Held(manifest)) => {
                    if self.failures > 0 {
                        tokio::select! {
                            () = tokio::time::sleep(self.pause()) => {}
                            // Other weights may be taken where these were refused.
                            _ = target.changed() => continue,
                        }
                    }
                    let answer = self.fleet.bring_back(&self.replica, &manifest).await;
                    self.count(&answer);
                }
                (Condition::Fenced | Condition::Reloading, _) => {
                    tokio::select! {
                        () = changed => {}
                        changed = target.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    /// A server that works: waits for the time of the next question, and asks it.
    async fn work(&mut self, changed: impl Future<Output = ()>) {
        let is_busy = self.replica.admission.is_busy();
        let due = self.checked + self.period;
        let next = if is_busy { due.min(Instant::now() + POLL) } else { due };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = self.replica.admission.begins(), if !is_busy => return,
            () = changed => return,
        }
        if is_busy && poll(&self.replica, true).await {
            self.failures = 0;
            self.checked = Instant::now();
            return;
        }
        if self.checked + self.period > Instant::now() {
            return;
        }
        let is_quiet = self.replica.quiet().is_none_or(|quiet| quiet >= TRUST);
        let answer = if is_quiet {
            self.replica.confirm(self.period).await
        } else {
            self.replica.client.health(self.period).await.inspect(|()| self.replica.note_life())
        };
        self.checked = Instant::now();
        self.count(&answer);
    }

    fn count(&mut self, answer: &Result<(), EngineError>) {
        let Err(error) = answer else {
            self.failures = 0;
            return;
        };
        self.failures = self.failures.saturating_add(1);
        let url = self.replica.client.url();
        tracing::debug!(url, failures = self.failures, %error, cause = ?std::error::Error::source(error), "no answer yet");
        if error.is_outage() && self.failures == STRIKES && self.replica.condition() != Condition::Fenced {
            self.replica.mark_down(&error.to_string(), true);
        }
    }

    fn pause(&self) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        doubled.min(LONGEST_PAUSE)
    }
}

/// Reads the metrics of a server that has any, and fits the bound on what is in flight to them. Whether it answered.
pub(super) async fn poll(replica: &Replica, is_busy: bool) -> bool {
    if !replica.seen().has_metrics() {
        return false;
    }
    let Ok(text) = replica.client.metrics(POLL_DEADLINE).await else { return false };
    replica.note_life();
    if let Some(reading) = metrics::parse(&text) {
        let pressure = replica.seen().note(reading, is_busy);
        if is_busy {
            replica.admission.adjust(pressure);
        }
    }
    true
}
