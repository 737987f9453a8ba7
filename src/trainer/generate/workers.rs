//! The threads that help with the sampler's kernels.
//!
//! A decoding step asks for help some hundred times, a fraction of a millisecond each: a thread that is woken by the
//! system every time would come when half of the work is done. After some work a helper therefore looks out for more
//! for `WATCH` before it sleeps. Nothing depends on when a helper comes: all take their share from a common counter,
//! and one that has not come when the work is done is not waited for.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a helper without work stays awake.
const WATCH: Duration = Duration::from_micros(50);

/// Looks at the state of a seat between two looks at the clock.
const LOOKS: usize = 64;

/// What is run: by the caller with 0, by helper `i` with `i`.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// Nothing to do; the helper is awake.
const IDLE: u8 = 0;
/// Nothing to do; the helper sleeps, or is about to.
const ASLEEP: u8 = 1;
/// There is work, which the helper has not begun.
const OFFERED: u8 = 2;
/// The helper is at work.
const BUSY: u8 = 3;
/// The helper shall end.
const CLOSED: u8 = 4;

/// Where the caller and one helper meet.
struct Seat {
    state: AtomicU8,
    work: Mutex<Option<&'static Work<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

struct Helper {
    seat: Arc<Seat>,
    thread: JoinHandle<()>,
}

/// The calling thread and its helpers.
pub struct Workers {
    helpers: Vec<Helper>,
    /// Held while there is work: two callers take turns.
    turn: Mutex<()>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Workers {
    /// `threads` threads, the caller's among them (0 counts as 1).
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn new(threads: usize) -> std::io::Result<Workers> {
        let mut workers = Workers { helpers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads.max(1) {
            let state = AtomicU8::new(IDLE);
            let seat = Arc::new(Seat { state, work: Mutex::new(None), panic: Mutex::new(None) });
            let own = Arc::clone(&seat);
            let thread = thread::Builder::new().name(format!("kernel-{index}")).spawn(move || own.serve(index))?;
            workers.helpers.push(Helper { seat, thread });
        }
        Ok(workers)
    }

    /// How many threads work, the caller's among them.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work(0)` here and `work(i)` on helper `i`, for those who come in time; returns when all have returned.
    /// `work` must get everything done whoever comes, and must not call this again.
    pub fn run(&self, work: &Work<'_>) {
        if self.helpers.is_empty() {
            return work(0);
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: only the lifetime changes. A helper sees the reference only after it has moved its seat from `OFFERED`
        // to `BUSY`, and drops it before it moves it on. `Recall` below, dropped before this function returns or
        // unwinds, leaves no seat in either state.
        let lasting = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        let recall = Recall { helpers: &self.helpers };
        for helper in &self.helpers {
            *helper.seat.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(lasting);
            if helper.seat.state.swap(OFFERED, Ordering::AcqRel) == ASLEEP {
                helper.thread.thread().unpark();
            }
        }
        work(0);
        drop(recall);
        drop(turn);
        for helper in &self.helpers {
            let panic = helper.seat.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(panic) = panic {
                resume_unwind(panic);
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for Helper { seat, thread } in self.helpers.drain(..) {
            seat.state.store(CLOSED, Ordering::Release);
            thread.thread().unpark();
            // A panic of the work has been handed to its caller.
            let _ = thread.join();
        }
    }
}

/// Takes the work back from who has not begun, and waits for who has.
struct Recall<'a> {
    helpers: &'a [Helper],
}

impl Drop for Recall<'_> {
    fn drop(&mut self) {
        for Helper { seat, .. } in self.helpers {
            if seat.state.compare_exchange(OFFERED, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                *seat.work.lock().unwrap_or_else(PoisonError::into_inner) = None;
                continue;
            }
            // It is in the middle of its last share, unless the system has taken its core away.
            let mut looks = 0;
            while seat.state.load(Ordering::Acquire) == BUSY {
                looks += 1;
                if looks < 100 * LOOKS { std::hint::spin_loop() } else { thread::yield_now() }
            }
        }
    }
}

impl Seat {
    /// The life of a helper.
    fn serve(&self, index: usize) {
        loop {
            if self.state.compare_exchange(OFFERED, BUSY, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    if let Some(work) = work {
                        work(index);
                    }
                }));
                if let Err(panic) = outcome {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                }
                // Nobody else changes the state of a helper at work.
                self.state.store(IDLE, Ordering::Release);
            }
            match self.watch() {
                CLOSED => return,
                IDLE => self.sleep(),
                _ => {}
            }
        }
    }

    /// Waits for a while until there is something to do.
    fn watch(&self) -> u8 {
        let mut until = None;
        loop {
            for _ in 0..LOOKS {
                let state = self.state.load(Ordering::Acquire);
                if state != IDLE {
                    return state;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now > *until.get_or_insert(now + WATCH) {
                return IDLE;
            }
        }
    }

    fn sleep(&self) {
        if self.state.compare_exchange(IDLE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            while self.state.load(Ordering::Acquire) == ASLEEP {
                thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// 10,000 rounds, some at once and some after the helpers went to sleep: every share is done once.
    #[test]
    fn all_shares_are_done_once_whoever_comes() {
        for threads in [0, 1, 2, 5] {
            let workers = Workers::new(threads).unwrap();
            assert_eq!(workers.threads(), threads.max(1));
            for round in 0..2_500 {
                let (next, done) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 20]);
                workers.run(&|_| {
                    while let Some(share) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                        share.fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(done.iter().all(|share| share.load(Ordering::Relaxed) == 1));
                if round % 100 == 0 {
                    thread::sleep(2 * WATCH);
                }
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_ends_nothing() {
        let workers = Workers::new(3).unwrap();
        for who in [0, 1, 2] {
            let came = AtomicUsize::new(0);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                workers.run(&|index| {
                    came.fetch_add(1, Ordering::SeqCst);
                    while came.load(Ordering::SeqCst) < 3 {
                        thread::yield_now();
                    }
                    assert!(index != who, "of a worker");
                });
            }));
            assert!(outcome.is_err(), "the panic of {who}");
        }
        let count = AtomicUsize::new(0);
        workers.run(&|_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        assert!(count.into_inner() >= 1);
    }
}
