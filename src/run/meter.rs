//! How long generation was running: the one thing a run should wait for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Measures the time during which at least one request was with the engine.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: u32,
    /// Since when, while something is in flight.
    since: Option<Instant>,
    busy: Duration,
}

/// A request in flight, until dropped.
#[derive(Debug)]
pub struct InFlight {
    meter: Meter,
}

impl Meter {
    /// A request goes out.
    pub fn enter(&self) -> InFlight {
        let mut state = self.lock();
        state.in_flight += 1;
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        InFlight { meter: self.clone() }
    }

    /// Time with a request in flight since the last call.
    pub fn take(&self) -> Duration {
        let mut state = self.lock();
        if let Some(since) = &mut state.since {
            let now = Instant::now();
            let elapsed = now.duration_since(std::mem::replace(since, now));
            state.busy += elapsed;
        }
        std::mem::take(&mut state.busy)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change below leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.meter.lock();
        state.in_flight -= 1;
        if state.in_flight == 0
            && let Some(since) = state.since.take()
        {
            state.busy += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_requests_count_once_and_idle_time_never() {
        let meter = Meter::default();
        assert_eq!(meter.take(), Duration::ZERO);
        let started = Instant::now();
        let first = meter.enter();
        let second = meter.enter();
        std::thread::sleep(Duration::from_millis(4));
        drop(first);
        std::thread::sleep(Duration::from_millis(4));
        let part = meter.take();
        drop(second);
        let elapsed = started.elapsed();
        std::thread::sleep(Duration::from_millis(4));
        let whole = part + meter.take();
        assert!(part >= Duration::from_millis(8) && whole <= elapsed, "{part:?} {whole:?} {elapsed:?}");
        assert_eq!(meter.take(), Duration::ZERO);
    }
}
