//! Much work at once, but no more than keeps the engine busy: what is not under way yet is not even made.
//!
//! [`Room`] counts the sequences that the work under way may ask for, and work is begun only while these are fewer than the
//! engine takes and a half more. So the engine never waits for the orchestrator, what is begun never waits behind a long queue
//! of what is not, and memory goes by the engine, not by the number of problems. One room for all work of a run: a step
//! whose last trees leave it free is followed by the next one's first. Where several have work waiting, that of the lowest
//! rank goes first: what a step waits for does not stand behind trees of a later one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::RunError;

/// Room for work with an engine, shared by all who have a clone of it.
#[derive(Clone, Debug)]
pub struct Room {
    shared: Arc<Shared>,
    /// Of the work that is begun through this clone.
    rank: u32,
}

#[derive(Debug)]
struct Shared {
    /// Sequences that are asked for before nothing more is begun.
    enough: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Sequences that work under way may ask for at once.
    sequences: usize,
    /// Pieces of work under way.
    work: usize,
    most_work: usize,
    /// Flights with work that is not begun, by their rank.
    waiting: BTreeMap<u32, usize>,
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
        Room { shared: Arc::new(Shared { enough, state: Mutex::default(), changed: Notify::new() }), rank: 0 }
    }

    /// The same room for work that waits until none of a lower rank is waiting.
    pub fn ranked(&self, rank: u32) -> Room {
        Room { shared: self.shared.clone(), rank }
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

    /// Whether work of this rank may be begun.
    fn is_open(&self) -> bool {
        let state = self.lock();
        let goes_first = state.waiting.first_key_value().is_none_or(|(first, _)| *first >= self.rank);
        goes_first && state.sequences < self.shared.enough
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

/// A flight that has work waiting, until dropped.
#[derive(Debug)]
struct Place {
    room: Room,
}

impl Place {
    fn take(room: &Room) -> Place {
        *room.lock().waiting.entry(room.rank).or_default() += 1;
        Place { room: room.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let rank = self.room.rank;
        let mut state = self.room.lock();
        if let Some(count) = state.waiting.get_mut(&rank) {
            *count -= 1;
        }
        state.waiting.retain(|_, count| *count > 0);
        drop(state);
        self.room.shared.changed.notify_waiters();
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
    waiting: Option<(I, Place)>,
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
        Flight { room: room.clone(), waiting: Some((tasks.into_iter(), Place::take(room))), running: JoinSet::new() }
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
        while let Some((waiting, _)) = &mut self.waiting
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

    /// The search of a later step has most of the room and more to come when the current one draws further problems.
    #[tokio::test]
    async fn the_lowest_rank_goes_first_also_where_it_comes_later() {
        let room = Room::new(4);
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks = |rank: u32, count: usize| {
            let (room, order) = (room.ranked(rank), order.clone());
            (0..count).map(move |_| {
                let (share, order) = (room.share(2), order.clone());
                async move {
                    order.lock().unwrap().push(rank);
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    drop(share);
                    Ok(())
                }
            })
        };
        let mut later = Flight::new(&room.ranked(7), tasks(7, 9));
        later.begin();
        let first = room.ranked(6);
        let current = in_flight(&first, tasks(6, 5), async |()| Ok(()));
        let rest = async {
            while let Some(ended) = later.next().await {
                ended?;
            }
            Ok::<(), RunError>(())
        };
        tokio::try_join!(rest, current).unwrap();
        assert_eq!(*order.lock().unwrap(), [[7; 3].as_slice(), &[6; 5], &[7; 6]].concat());
        // One that is called off stands in nobody's way.
        drop(Flight::new(&room.ranked(1), tasks(1, 2)));
        in_flight(&room.ranked(7), tasks(7, 1), async |()| Ok(())).await.unwrap();
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
