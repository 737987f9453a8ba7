//! What is tried again, and how often. The only file that names `backoff`, which is no longer maintained upstream:
//! a successor is a change of this file.

use std::future::Future;
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use tokio::time::Instant;

use super::EngineError;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Calls `attempt` with the attempt's number, from 1, until it succeeds, fails for good, or `window` has passed since
/// the first failure. Pauses grow from 0.1 to 5 s and are jittered by half, so that many trees do not come back at
/// the same instant.
///
/// # Errors
/// The last attempt's error.
///
/// # Cancel safety
/// As `attempt`'s.
pub(super) async fn retry<T, F, A>(window: Duration, mut attempt: A) -> Result<T, EngineError>
where
    A: FnMut(u32) -> F,
    F: Future<Output = Result<T, EngineError>>,
{
    let mut pauses = ExponentialBackoff {
        current_interval: FIRST_PAUSE,
        initial_interval: FIRST_PAUSE,
        multiplier: 2.0,
        randomization_factor: 0.5,
        max_interval: LONGEST_PAUSE,
        // The window below counts from the first failure: a long generation may fail late and is tried again.
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let mut first_failure = None;
    let mut number = 1;
    loop {
        let error = match attempt(number).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let since = *first_failure.get_or_insert_with(Instant::now);
        let pause = pauses.next_backoff().unwrap_or(LONGEST_PAUSE);
        // What the server asks for is a lower bound; more than the window leaves is a failure now rather than later.
        let pause = pause.max(error.retry_after().unwrap_or_default());
        if !error.is_transient() || since.elapsed() + pause > window {
            return Err(error);
        }
        tracing::debug!(attempt = number, pause_ms = pause.as_millis() as u64, %error, "attempt failed, trying again");
        tokio::time::sleep(pause).await;
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(status: u16) -> EngineError {
        EngineError::ServerFailed { url: "u".into(), path: "/p".into(), status, message: "m".into(), retry_after: None }
    }

    #[tokio::test]
    async fn transient_failures_are_tried_until_the_window_ends() {
        let start = Instant::now();
        let mut count = 0;
        let window = Duration::from_millis(1200);
        let result: Result<(), _> = retry(window, |_| {
            count += 1;
            async { Err(failed(503)) }
        })
        .await;
        assert!(matches!(result, Err(EngineError::ServerFailed { status: 503, .. })));
        // Pauses of 0.1, 0.2, 0.4 and 0.8 s, each up to half longer or shorter.
        assert!(start.elapsed() < window + Duration::from_millis(300), "took {:?}", start.elapsed());
        assert!((3..=8).contains(&count), "{count} attempts");
    }

    #[tokio::test]
    async fn a_failure_for_good_is_not_tried_again() {
        let mut count = 0;
        let result: Result<(), _> = retry(Duration::from_secs(20), |_| {
            count += 1;
            async { Err(EngineError::NoServer) }
        })
        .await;
        assert!(matches!(result, Err(EngineError::NoServer)));
        assert_eq!(count, 1);
    }

    #[tokio::test]
    async fn a_server_is_left_alone_for_as_long_as_it_asks() {
        let asked = |pause| {
            move |number| async move {
                if number > 1 {
                    return Ok(number);
                }
                let (url, path) = ("u".into(), "/p".into());
                Err(EngineError::ServerFailed { url, path, status: 429, message: "m".into(), retry_after: Some(pause) })
            }
        };
        let start = Instant::now();
        let pause = Duration::from_millis(600);
        retry(Duration::from_secs(20), asked(pause)).await.expect("second attempt");
        assert!(start.elapsed() >= pause, "{:?}", start.elapsed());
        let start = Instant::now();
        retry(Duration::from_secs(20), asked(Duration::from_secs(60))).await.expect_err("beyond the window");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn the_first_success_is_returned() {
        let result =
            retry(
                Duration::from_secs(20),
                |number| async move { if number < 3 { Err(failed(429)) } else { Ok(number) } },
            )
            .await;
        assert_eq!(result.expect("third attempt"), 3);
    }
}
