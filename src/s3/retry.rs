//! The retry policy of requests.
//!
//! The SDK retries failures that the store reports (5xx, throttling) a few times. Above it,
//! [`Retry`] retries failures that may pass by themselves but take longer: a store that restarts or
//! throttles. Only [`Retry`] retries failures to reach the store, and changes, some of which must
//! not be made twice (see [`super::write`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use backon::BackoffBuilder;
use tokio::time::{sleep, timeout};

use crate::deadline::{Deadline, pauses};
use crate::error::{Error, Result};
use crate::waits::Wait;

/// Pauses double from the first one to the last, each with random jitter of up to its own length.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(8);

/// The longest pause between tries to reach a store: a try costs the store nothing, and readers
/// wait for its restart.
const LAST_PAUSE_OF_AN_OUTAGE: Duration = Duration::from_secs(1);

/// The last failure after which a call was retried, for who waits for such calls.
#[derive(Clone, Debug, Default)]
pub struct LastFailure(Arc<Mutex<Option<Error>>>);

impl LastFailure {
    pub fn get(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, error: &Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }
}

/// How long a call is retried.
#[derive(Clone, Debug)]
pub struct Retry {
    /// For all tries of a call together.
    pub timeout: Duration,
    /// How long to retry a store that cannot be reached, at most `timeout`.
    pub outage: Duration,
    pub last_failure: LastFailure,
}

impl Retry {
    /// Sends a request, and retries it after a pause while the failure may be temporary.
    ///
    /// # Errors
    /// The last failure; `TimedOut` if there was none before the timeout.
    pub async fn run<T, F>(&self, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (by, outage) = (Deadline::after(self.timeout), Deadline::after(self.outage));
        let pauses = pauses(FIRST_PAUSE).with_max_delay(LAST_PAUSE).without_max_times();
        let mut pauses = pauses.build();
        let mut last = by.missed();
        loop {
            let Ok(answer) = timeout(by.left(), ask()).await else { return Err(last) };
            let Err(error) = answer else { return answer };
            let (bound, longest) = match error {
                Error::Throttled(_) | Error::Conflict(_) => (by, Duration::MAX),
                // A shortage of descriptors, here or on the whole host, is usually short.
                Error::Unreachable(_) | Error::Unclear(_) | Error::OutOfDescriptors(_) => {
                    (outage, LAST_PAUSE_OF_AN_OUTAGE)
                }
                _ => return Err(error),
            };
            let pause = pauses.next().unwrap_or(LAST_PAUSE).min(longest);
            if bound.left() <= pause {
                return Err(error);
            }
            self.last_failure.set(&error);
            last = error;
            Wait::Backoff.during(sleep(pause)).await;
        }
    }
}

/// Makes the SDK leave requests without an answer to [`Retry`].
#[derive(Debug)]
pub struct LeaveOutages;

impl ClassifyRetry for LeaveOutages {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.output_or_error() {
            Some(Err(error)) if error.is_connector_error() => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "LeaveOutages"
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    fn retry() -> Retry {
        Retry {
            timeout: Duration::from_secs(30),
            outage: Duration::from_secs(10),
            last_failure: LastFailure::default(),
        }
    }

    /// Runs a request that fails with `error` until `lasting` has passed. Returns the outcome, the
    /// time and the number of tries.
    async fn run(error: Error, lasting: Duration) -> (Result<()>, Duration, u32) {
        let (start, tries) = (Instant::now(), Cell::new(0));
        let retry = retry();
        let outcome = retry.run(|| {
            tries.set(tries.get() + 1);
            let error = error.clone();
            async move { if start.elapsed() < lasting { Err(error) } else { Ok(()) } }
        });
        (outcome.await, start.elapsed(), tries.get())
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_retried_about_every_second_until_it_ends() {
        for error in [Error::Unreachable("refused".into()), Error::OutOfDescriptors("".into())] {
            let (outcome, took, tries) = run(error, Duration::from_secs(8)).await;
            assert_eq!(outcome, Ok(()));
            assert!(took <= Duration::from_secs(9), "{took:?}");
            assert!((8..16).contains(&tries), "{tries} tries");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_failure_is_returned_within_the_timeout() {
        let bounds = [
            (Error::Unreachable("refused".into()), retry().outage),
            (Error::Throttled("SlowDown".into()), retry().timeout),
        ];
        for (error, bound) in bounds {
            let (outcome, took, _) = run(error.clone(), Duration::MAX).await;
            assert_eq!(outcome, Err(error));
            assert!(took <= bound && took >= bound / 3, "{took:?} of {bound:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_gets_no_answer_ends_with_the_failure_before_it() {
        let (retry, tries) = (retry(), Cell::new(0));
        let outcome = retry.run(|| {
            tries.set(tries.get() + 1);
            let first = tries.get() == 1;
            async move {
                match first {
                    true => Err(Error::Unreachable("refused".into())),
                    false => std::future::pending::<Result<()>>().await,
                }
            }
        });
        assert_eq!(outcome.await, Err(Error::Unreachable("refused".into())));
        assert_eq!(retry.last_failure.get(), Some(Error::Unreachable("refused".into())));
        let outcome: Result<()> = retry.run(std::future::pending).await;
        assert_eq!(outcome, Err(Error::TimedOut(retry.timeout)));
    }

    #[tokio::test(start_paused = true)]
    async fn lasting_failures_are_returned_at_once() {
        for error in [Error::NotFound, Error::Denied("".into()), Error::TimedOut(retry().timeout)] {
            let (outcome, took, tries) = run(error.clone(), Duration::MAX).await;
            assert_eq!((outcome, took, tries), (Err(error), Duration::ZERO, 1));
        }
    }
}
