//! Much work at once, but no more than keeps the engine busy: what is not under way yet is not even made.
//!
//! [`Room`] counts the sequences that the work under way may ask for, and work is begun only while these are fewer than the
//! engine takes and a half more. So the engine never waits for the orchestrator, what is begun never waits behind a long queue
//! of what is not, and memory goes by the engine, not by the number of problems. One room for all work of a run: a step
//! whose last trees leave it free is followed by the next one's first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::RunError;

/// Room for work with an engine, shared by all who have a clone of it.
#[derive(Clone, Debug)]
pub struct Room {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Sequences that are asked for before nothing more is begun.
    enough: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Sequences that work under way may ask for at once.
    sequences: usize,
    /// Pieces of work under way.
    work: usize,
    most_work: usize,
}

/// One piece of work under way and the sequences that it may ask for, until dropped.
#[derive(Debug)]
pub struct Share {
    room: Room,
    sequences: usize,
}

impl Room {
    /// Room with an engine that takes `max_sequences` at once. The half more is what stands ready where sequences end early
    /// and while answers are judged.
    pub fn new(max_sequences: usize) -> Room {
        let enough = max_sequences.saturating_add(max_sequences.div_ceil(2)).max(1);
        Room { shared: Arc::new(Shared { enough, state: Mutex::default(), changed: Notify::new() }) }
    }

    /// Begins a piece of work that asks for `sequences` at a time.
    pub fn share(&self, sequences: u32) -> Share {
        let sequences = sequences as usize;
        let mut state = self.lock();
        state.sequences += sequences;
        state.work += 1;
        state.most_work = state.most_work.max(state.work);
        drop(state);
        Share { room: self.clone(), sequences }
    }

    /// The most pieces of work that were under way at once since the last call.
    pub fn take_most_work(&self) -> usize {
        let mut state = self.lock();
        let most = state.most_work;
        state.most_work = state.work;
        most
    }

    fn is_open(&self) -> bool {
        self.lock().sequences < self.shared.enough
    }

    async fn opened(&self) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_open() {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// The work now asks for so many sequences at a time.
    pub fn resize(&mut self, sequences: u32) {
        let sequences = sequences as usize;
        if sequences == self.sequences {
            return;
        }
        let mut state = self.room.lock();
        state.sequences = state.sequences + sequences - self.sequences;
        drop(state);
        self.sequences = sequences;
        self.room.shared.changed.notify_waiters();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.sequences -= self.sequences;
        state.work -= 1;
        drop(state);
        self.room.shared.changed.notify_waiters();
    }
}

/// Runs `tasks`, begun in their order as there is room, and hands each outcome to `done` as it comes, one after the other. A
/// task is taken from the iterator when it is begun; it has to take its [`Share`] then, not when it first runs.
///
/// # Errors
/// The first failure of a task or of `done`; the tasks under way are called off.
///
/// # Cancel safety
/// Dropping the future calls off the tasks under way.
pub async fn in_flight<T, F>(
    room: &Room,
    tasks: impl IntoIterator<Item = F>,
    mut done: impl AsyncFnMut(T) -> Result<(), RunError>,
) -> Result<(), RunError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, RunError>> + Send + 'static,
{
    let mut flight = Flight::new(room, tasks);
    while let Some(outcome) = flight.next().await {
        done(outcome?).await?;
    }
    Ok(())
}

/// Tasks under way and those to come, for who takes the outcomes one by one: see [`in_flight`]. Dropping it calls off the
/// tasks under way.
pub struct Flight<I, T> {
    room: Room,
    /// Until the last of them was begun.
    waiting: Option<I>,
    running: JoinSet<Result<T, RunError>>,
}

impl<I, F, T> Flight<I, T>
where
    I: Iterator<Item = F>,
    T: Send + 'static,
    F: Future<Output = Result<T, RunError>> + Send + 'static,
{
    /// Begins nothing yet.
    pub fn new(room: &Room, tasks: impl IntoIterator<IntoIter = I>) -> Flight<I, T> {
        Flight { room: room.clone(), waiting: Some(tasks.into_iter()), running: JoinSet::new() }
    }

    /// The outcome of the task that ends next; `None` when all have ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Result<T, RunError>> {
        loop {
            self.begin();
            let is_more = self.waiting.is_some();
            tokio::select! {
                biased;
                Some(result) = self.running.join_next() => return Some(result.map_err(RunError::Task).flatten()),
                () = self.room.opened(), if is_more => {}
                else => return None,
            }
        }
    }

    /// Begins what there is room for.
    fn begin(&mut self) {
        while let Some(waiting) = &mut self.waiting
            && self.room.is_open()
        {
            match waiting.next() {
                Some(task) => drop(self.running.spawn(task)),
                None => self.waiting = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that asks for two sequences while it runs.
    fn task(room: &Room, number: usize) -> impl Future<Output = Result<usize, RunError>> + Send + 'static {
        let share = room.share(2);
        async move {
            tokio::task::yield_now().await;
            drop(share);
            Ok(number)
        }
    }

    #[tokio::test]
    async fn all_are_done_and_no_more_at_once_than_the_engine_takes_and_a_half() {
        let room = Room::new(64);
        let mut seen = vec![false; 1000];
        in_flight(&room, (0..1000).map(|number| task(&room, number)), async |number: usize| {
            seen[number] = true;
            Ok(())
        })
        .await
        .unwrap();
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(room.take_most_work(), 96 / 2);
        assert_eq!(room.take_most_work(), 0, "nothing is left under way");
    }

    #[tokio::test]
    async fn work_that_asks_for_less_makes_room_for_more() {
        let room = Room::new(4);
        let mut first = room.share(8);
        assert!(!room.is_open());
        let next = in_flight(&room, (0..2).map(|number| task(&room, number)), async |_| Ok(()));
        tokio::pin!(next);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), &mut next).await;
        assert!(waits.is_err(), "the first one takes all there is");
        first.resize(5);
        next.await.unwrap();
    }

    #[tokio::test]
    async fn one_piece_of_work_always_has_room() {
        let room = Room::new(1);
        let large = || {
            let share = room.share(500);
            async move {
                drop(share);
                Ok(())
            }
        };
        in_flight(&room, (0..3).map(|_| large()), async |()| Ok(())).await.unwrap();
        assert_eq!(room.take_most_work(), 1);
    }

    #[tokio::test]
    async fn the_first_failure_ends_it() {
        let room = Room::new(4);
        let failing = |number: usize| async move {
            if number == 5 { Err(RunError::NothingToResume { dir: "five".into() }) } else { Ok(number) }
        };
        let result = in_flight(&room, (0..10).map(failing), async |_| Ok(())).await;
        assert!(matches!(result, Err(RunError::NothingToResume { .. })));
    }
}
