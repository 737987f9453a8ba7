//! Many requests at once, but not all: what is not under way yet is not even made.

use tokio::task::JoinSet;

use super::RunError;

/// Requests under way at once: enough for any engine, few enough for the memory.
pub const MOST_IN_FLIGHT: usize = 1024;

/// Runs `tasks`, at most [`MOST_IN_FLIGHT`] of them at a time and begun in their order, and hands each outcome to `done`
/// as it comes, one after the other.
///
/// # Errors
/// The first failure of a task or of `done`; the tasks under way are called off.
///
/// # Cancel safety
/// Dropping the future calls off the tasks under way.
pub async fn in_flight<T, F>(
    tasks: impl IntoIterator<Item = F>,
    mut done: impl AsyncFnMut(T) -> Result<(), RunError>,
) -> Result<(), RunError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, RunError>> + Send + 'static,
{
    let mut waiting = tasks.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < MOST_IN_FLIGHT {
            let Some(task) = waiting.next() else { break };
            running.spawn(task);
        }
        let Some(result) = running.join_next().await else { return Ok(()) };
        done(result.map_err(RunError::Task)??).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn all_are_done_and_never_too_many_at_once() {
        let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = 3 * MOST_IN_FLIGHT;
        let tasks = (0..count).map(|number| {
            let (at_once, most) = (at_once.clone(), most.clone());
            async move {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                at_once.fetch_sub(1, Ordering::SeqCst);
                Ok(number)
            }
        });
        let mut seen = vec![false; count];
        in_flight(tasks, async |number: usize| {
            seen[number] = true;
            Ok(())
        })
        .await
        .unwrap();
        assert!(seen.iter().all(|seen| *seen));
        assert!((2..=MOST_IN_FLIGHT).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    #[tokio::test]
    async fn the_first_failure_ends_it() {
        let failing = |number: usize| async move {
            if number == 5 { Err(RunError::NothingToResume { dir: "five".into() }) } else { Ok(number) }
        };
        let result = in_flight((0..10).map(failing), async |_| Ok(())).await;
        assert!(matches!(result, Err(RunError::NothingToResume { .. })));
    }
}
