//! Orderly stop: every wait of a run ends when the run is called off.

/// Outcome of work that may be called off.
#[derive(Debug)]
pub enum Interruptible<T> {
    /// The work ended by itself.
    Finished(T),
    /// The run was asked to stop first; the work was dropped.
    Interrupted,
}

/// Waits for `work` or until `called_off` is over, whichever is first. The work goes on while `called_off` waits.
pub async fn until<T, C>(called_off: impl Future<Output = C>, work: impl Future<Output = T>) -> Interruptible<T> {
    tokio::select! {
        biased;
        _ = called_off => Interruptible::Interrupted,
        value = work => Interruptible::Finished(value),
    }
}
