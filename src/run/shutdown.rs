//! Orderly stop: one token that every wait of a run listens to.

use tokio_util::sync::CancellationToken;

/// Outcome of work that may be called off.
#[derive(Debug)]
pub enum Interruptible<T> {
    /// The work ended by itself.
    Finished(T),
    /// The run was asked to stop first; the work was dropped.
    Interrupted,
}

/// Waits for `work` or for the run to be called off, whichever is first.
pub async fn until_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Interruptible<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Interruptible::Interrupted,
        value = work => Interruptible::Finished(value),
    }
}
