//! Who may send next to one server: a bound on sequences in flight and one on tokens, first come, first served.
//!
//! A server takes whatever it is sent and queues the rest, or throws out what it has begun and computes it again
//! (preemption). So the queue is here: trees that are begun go before the first requests of new ones, which keeps the tail
//! of a step short, and within each of the two nobody is overtaken, so that a large request is not starved by small ones.
//!
//! The bound on tokens counts what a request may come to hold, its prompt once and `max_tokens` for each of its samples,
//! against the keys and values that the server has room for. Most samples end early and prefixes are shared, so the
//! true use is lower: the bound grows by [`STEP`] of the room as long as somebody is held back by it while the server
//! has nobody waiting and keys to spare, and shrinks to [`SHRINK`] of itself when the server preempts or keeps requests
//! waiting, within [`FLOOR`] and [`CEILING`] times the room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::inference::EngineError;

/// Smallest and largest bound on tokens, as a share of the server's room.
const FLOOR: f64 = 0.125;
const CEILING: f64 = 4.0;
/// What the bound grows by in one adjustment, as a share of the room.
const STEP: f64 = 1.0 / 16.0;
/// What is left of the bound after a preemption or a queue that stays.
const SHRINK: f64 = 0.75;
/// Above this share of its room a server is full enough.
const FULL: f64 = 0.8;
/// Adjustments in a row that must see requests waiting: a burst waits for a moment on an idle server, too.
const QUEUED: u32 = 2;

/// Sequences and tokens, asked for or in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub sequences: u64,
    pub tokens: u64,
}

impl Load {
    /// What a request of `samples` continuations may come to hold.
    pub fn of(prompt_tokens: usize, samples: u32, max_tokens: u32) -> Load {
        let generated = u64::from(samples) * u64::from(max_tokens);
        Load { sequences: u64::from(samples.max(1)), tokens: prompt_tokens as u64 + generated }
    }

    fn add(&mut self, other: Load) {
        self.sequences += other.sequences;
        self.tokens += other.tokens;
    }

    fn take(&mut self, other: Load) {
        self.sequences -= other.sequences;
        self.tokens -= other.tokens;
    }
}

/// Which queue a request waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// Its tree has had answers: it goes first.
    Begun,
    /// The first request of a new tree.
    New,
}

/// What a server said of its queue since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pressure {
    /// Requests that it holds back.
    pub waiting: f64,
    /// Share of its keys and values in use.
    pub cache_used_frac: f64,
    /// Requests that it threw out to make room.
    pub preemptions: f64,
}

/// The bounds of one server, and who waits.
#[derive(Debug)]
pub(super) struct Admission {
    inner: Mutex<Inner>,
    /// Told when work begins on an idle server.
    busy: Notify,
}

#[derive(Debug)]
struct Inner {
    seats: u64,
    budget: Option<Budget>,
    in_flight: Load,
    waiting: Load,
    next: u64,
    begun: VecDeque<Waiter>,
    new: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Budget {
    room_tokens: f64,
    limit_tokens: u64,
    /// Somebody was held back by it since the last adjustment.
    is_felt: bool,
    /// Adjustments in a row with requests waiting at the server.
    queued: u32,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    want: Load,
    ready: oneshot::Sender<Permit>,
}

/// Leave to have a request in flight, until dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    held: Load,
}

impl Admission {
    /// Bounds of `seats` sequences and, where the server says how many tokens it has room for, of tokens.
    pub fn new(seats: u32, room_tokens: Option<u64>) -> Arc<Admission> {
        let budget = room_tokens.filter(|&room| room > 0).map(|room| Budget {
            room_tokens: room as f64,
            limit_tokens: room,
            is_felt: false,
            queued: 0,
        });
        let inner = Inner {
            seats: u64::from(seats.max(1)),
            budget,
            in_flight: Load::default(),
            waiting: Load::default(),
            next: 0,
            begun: VecDeque::new(),
            new: VecDeque::new(),
        };
        Arc::new(Admission { inner: Mutex::new(inner), busy: Notify::new() })
    }

    /// Waits for its turn and for room. A request that is larger than the bounds is let through alone.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    pub async fn acquire(self: &Arc<Self>, want: Load, queue: Queue) -> Result<Permit, EngineError> {
        let (ready, granted) = oneshot::channel();
        let mut place = {
            let mut inner = self.lock();
            let want = Load { sequences: want.sequences.min(inner.seats), ..want };
            let id = inner.next;
            inner.next += 1;
            inner.waiting.add(want);
            inner.queue(queue).push_back(Waiter { id, want, ready });
            Place { admission: self, id, queue, is_left: false }
        };
        self.pump();
        let permit = granted.await;
        place.is_left = true;
        permit.map_err(|_| EngineError::Bug { invariant: "who waits for a server is told".into() })
    }

    /// In flight and waiting, as a share of what the server can hold: 1 is a full server without a queue.
    pub fn relative_load(&self) -> f64 {
        let inner = self.lock();
        let sequences = (inner.in_flight.sequences + inner.waiting.sequences) as f64 / inner.seats as f64;
        let tokens = inner.budget.as_ref().map_or(0.0, |budget| {
            (inner.in_flight.tokens + inner.waiting.tokens) as f64 / budget.limit_tokens.max(1) as f64
        });
        sequences.max(tokens)
    }

    /// Whether anything is in flight.
    pub fn is_busy(&self) -> bool {
        self.lock().in_flight.sequences > 0
    }

    /// Waits until work begins on an idle server.
    pub async fn begins(&self) {
        self.busy.notified().await;
    }

    /// The bound on tokens in flight.
    pub fn token_limit(&self) -> Option<u64> {
        self.lock().budget.as_ref().map(|budget| budget.limit_tokens)
    }

    /// Fits the bound on tokens to what the server said of itself.
    pub fn adjust(self: &Arc<Self>, pressure: Pressure) {
        if let Some(budget) = &mut self.lock().budget {
            budget.adjust(pressure);
        }
        self.pump();
    }

    /// Lets everybody through who fits, in order.
    fn pump(self: &Arc<Self>) {
        let mut granted = Vec::new();
        {
            let mut inner = self.lock();
            let was_idle = inner.in_flight.sequences == 0;
            while let Some(waiter) = inner.next_that_fits() {
                inner.waiting.take(waiter.want);
                inner.in_flight.add(waiter.want);
                granted.push((waiter.ready, Permit { admission: Arc::clone(self), held: waiter.want }));
            }
            if was_idle && !granted.is_empty() {
                self.busy.notify_one();
            }
        }
        for (ready, permit) in granted {
            // Who is gone by now gives it back by dropping it.
            let _ = ready.send(permit);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn queue(&mut self, queue: Queue) -> &mut VecDeque<Waiter> {
        match queue {
            Queue::Begun => &mut self.begun,
            Queue::New => &mut self.new,
        }
    }

    fn next_that_fits(&mut self) -> Option<Waiter> {
        let queue = if self.begun.is_empty() { Queue::New } else { Queue::Begun };
        let want = self.queue(queue).front()?.want;
        if self.in_flight.sequences > 0 {
            if self.in_flight.sequences + want.sequences > self.seats {
                return None;
            }
            if let Some(budget) = &mut self.budget
                && self.in_flight.tokens + want.tokens > budget.limit_tokens
            {
                budget.is_felt = true;
                return None;
            }
        }
        self.queue(queue).pop_front()
    }
}

impl Budget {
    fn adjust(&mut self, pressure: Pressure) {
        self.queued = if pressure.waiting > 0.0 { self.queued + 1 } else { 0 };
        let limit = self.limit_tokens as f64;
        let wanted = if pressure.preemptions > 0.0 || self.queued >= QUEUED {
            self.queued = 0;
            limit * SHRINK
        } else if self.is_felt && pressure.waiting == 0.0 && pressure.cache_used_frac < FULL {
            limit + self.room_tokens * STEP
        } else {
            limit
        };
        self.is_felt = false;
        self.limit_tokens = wanted.clamp(self.room_tokens * FLOOR, self.room_tokens * CEILING).max(1.0) as u64;
    }
}

/// A place in a queue, left when dropped.
struct Place<'a> {
    admission: &'a Arc<Admission>,
    id: u64,
    queue: Queue,
    is_left: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        {
            let mut inner = self.admission.lock();
            let found = inner.queue(self.queue).iter().position(|waiter| waiter.id == self.id);
            let Some(waiter) = found.and_then(|at| inner.queue(self.queue).remove(at)) else { return };
            inner.waiting.take(waiter.want);
        }
        // It may have held back others.
        self.admission.pump();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.lock().in_flight.take(self.held);
        self.admission.pump();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn load(sequences: u64, tokens: u64) -> Load {
        Load { sequences, tokens }
    }

    async fn is_held_back(admission: &Arc<Admission>, want: Load) -> bool {
        tokio::time::timeout(Duration::from_millis(10), admission.acquire(want, Queue::Begun)).await.is_err()
    }

    #[tokio::test]
    async fn tokens_are_bounded_as_sequences_are() {
        let admission = Admission::new(8, Some(100));
        let first = admission.acquire(load(1, 60), Queue::New).await.expect("room");
        assert!(is_held_back(&admission, load(1, 41)).await);
        let second = admission.acquire(load(1, 40), Queue::New).await.expect("fits exactly");
        assert_eq!(admission.relative_load(), 1.0);
        drop((first, second));
        assert_eq!(admission.relative_load(), 0.0);
        let large = admission.acquire(load(20, 1000), Queue::New).await.expect("alone");
        assert!(is_held_back(&admission, load(1, 1)).await);
        drop(large);
        assert!(!admission.is_busy());
    }

    #[tokio::test]
    async fn begun_trees_go_first_and_nobody_is_overtaken_in_a_queue() {
        let admission = Admission::new(2, None);
        let all = admission.acquire(load(2, 1), Queue::New).await.expect("room");
        let order = Arc::new(Mutex::new(Vec::new()));
        let wait = |name: &'static str, sequences: u64, queue: Queue| {
            let (admission, order) = (admission.clone(), order.clone());
            tokio::spawn(async move {
                let permit = admission.acquire(load(sequences, 1), queue).await.expect("told");
                order.lock().expect("list").push(name);
                tokio::task::yield_now().await;
                drop(permit);
            })
        };
        let mut tasks = Vec::new();
        for (name, sequences, queue) in
            [("new", 2, Queue::New), ("large", 2, Queue::Begun), ("small", 1, Queue::Begun), ("newest", 1, Queue::New)]
        {
            tasks.push(wait(name, sequences, queue));
            tokio::task::yield_now().await;
        }
        drop(all);
        for task in tasks {
            task.await.expect("ends");
        }
        assert_eq!(*order.lock().expect("list"), ["large", "small", "new", "newest"]);
    }

    #[tokio::test]
    async fn who_gives_up_holds_nobody_back() {
        let admission = Admission::new(2, None);
        let one = admission.acquire(load(1, 1), Queue::New).await.expect("room");
        let mut large = Box::pin(admission.acquire(load(2, 1), Queue::Begun));
        assert!(futures_util::poll!(&mut large).is_pending());
        let mut small = Box::pin(admission.acquire(load(1, 1), Queue::Begun));
        assert!(futures_util::poll!(&mut small).is_pending(), "it does not overtake");
        drop(large);
        let small = small.await.expect("let through");
        drop((one, small));
        assert_eq!(admission.relative_load(), 0.0);
    }

    #[tokio::test]
    async fn the_bound_follows_what_the_server_says() {
        let admission = Admission::new(100, Some(1600));
        let limit = |admission: &Arc<Admission>| admission.token_limit().expect("a bound");
        let calm = Pressure { cache_used_frac: 0.3, ..Pressure::default() };
        admission.adjust(calm);
        assert_eq!(limit(&admission), 1600, "nobody was held back");
        let held = admission.acquire(load(1, 1600), Queue::New).await.expect("room");
        for expected in [1700, 1800] {
            assert!(is_held_back(&admission, load(1, 1000)).await);
            admission.adjust(calm);
            assert_eq!(limit(&admission), expected);
        }
        assert!(is_held_back(&admission, load(1, 1000)).await);
        admission.adjust(Pressure { cache_used_frac: 0.9, ..calm });
        assert_eq!(limit(&admission), 1800, "full enough");
        let queued = Pressure { waiting: 3.0, ..calm };
        admission.adjust(queued);
        assert_eq!(limit(&admission), 1800, "it may be a burst");
        admission.adjust(queued);
        assert_eq!(limit(&admission), 1350);
        for _ in 0..20 {
            admission.adjust(Pressure { preemptions: 1.0, ..calm });
        }
        assert_eq!(limit(&admission), 200, "the floor");
        for _ in 0..100 {
            assert!(is_held_back(&admission, load(1, 10_000)).await);
            admission.adjust(calm);
        }
        assert_eq!(limit(&admission), 6400, "the ceiling");
        drop(held);
    }
}
