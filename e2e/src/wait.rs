//! Waits until something is true, with a deadline, and says what was still missing when it passes.

use std::fmt::{Debug, Display};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// How often a condition that cannot be watched is asked for.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// What was waited for did not come.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not come true within {seconds} s: {missing}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub seconds: u64,
    /// What was still missing at the end.
    pub missing: String,
}

/// Asks `check` until it answers with a value. What it answers as an error is what is still missing.
pub async fn until<T, E, F>(what: &str, limit: Duration, mut check: F) -> Result<T, TimedOut>
where
    E: Display,
    F: AsyncFnMut() -> Result<T, E>,
{
    let deadline = Instant::now() + limit;
    let mut missing = "it was never asked".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, check()).await {
            Ok(Ok(value)) => return Ok(value),
            // The whole chain: the outermost error seldom says why.
            Ok(Err(error)) => missing = format!("{error:#}"),
            Err(_elapsed) => {}
        }
        // A check that never waits is never interrupted either.
        if Instant::now() >= deadline {
            return Err(TimedOut { what: what.to_owned(), seconds: limit.as_secs(), missing });
        }
        tokio::time::sleep(ASK_INTERVAL.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// Watches an object until `condition` holds for it. Between changes nothing is asked for.
pub async fn until_object<K, F>(api: Api<K>, name: &str, what: &str, limit: Duration, condition: F) -> Result<K, TimedOut>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Fn(&K) -> Result<(), String>,
{
    let mut missing = format!("{name} is not there");
    let mut changes = Box::pin(watcher::watch_object(api, name).default_backoff());
    let watch = async {
        while let Some(change) = changes.next().await {
            match change {
                Ok(Some(object)) => match condition(&object) {
                    Ok(()) => return Some(object),
                    Err(reason) => missing = reason,
                },
                Ok(None) => missing = format!("{name} is not there"),
                // The watcher starts over by itself, as when the apiserver was stopped.
                Err(error) => missing = format!("the apiserver cannot be watched: {error}"),
            }
        }
        None
    };
    match tokio::time::timeout(limit, watch).await {
        Ok(Some(object)) => Ok(object),
        _ => Err(TimedOut { what: what.to_owned(), seconds: limit.as_secs(), missing }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test]
    async fn a_condition_is_asked_until_it_holds() {
        let mut asked = 0;
        let value = until("three", Duration::from_secs(5), async || {
            asked += 1;
            if asked == 3 { Ok(asked) } else { Err(format!("only {asked}")) }
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn the_deadline_holds_for_a_check_that_never_waits() {
        let error = until("it", Duration::from_millis(300), async || Err::<(), _>("no")).await.unwrap_err();
        assert!(error.to_string().ends_with(": no"), "{error}");
    }

    #[tokio::test]
    async fn the_deadline_names_what_is_missing_even_when_the_check_hangs() {
        let mut asked = false;
        let waited = until("the answer", Duration::from_millis(300), async || {
            if std::mem::replace(&mut asked, true) {
                std::future::pending::<()>().await;
            }
            Err::<(), _>("no answer yet")
        });
        let error = waited.await.unwrap_err();
        assert!(error.to_string().contains("no answer yet"), "{error}");
    }
}
