//! Deadlines of calls, and the pauses between retries.
//!
//! A deadline is created where a request of the kernel, or a command, begins to wait, and is passed
//! down: it limits every wait below, which fails with `TimedOut` once it has passed.
//!
//! Retries, from the store upwards: the SDK retries failures that the store reports; `s3::retry` an
//! unreachable or throttling store; `catalog` a 404 for a listed object; `body` resumes a broken
//! response.

use std::time::Duration;

use backon::ExponentialBuilder;
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};

/// The instant at which a wait ends, and its length from the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    whole: Duration,
}

impl Deadline {
    /// `whole` from now.
    pub fn after(whole: Duration) -> Deadline {
        let now = Instant::now();
        // A time beyond the range of `Instant` counts as never.
        let at = now.checked_add(whole).unwrap_or(now + Duration::from_secs(86_400 * 365 * 30));
        Deadline { at, whole }
    }

    /// Time left; zero once it has passed.
    pub fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// An earlier deadline for a single try, which leaves time for a retry. Errors name its length in
    /// tenths of a second, rounded up.
    pub fn half(self) -> Deadline {
        let half = Deadline::after(self.left() / 2);
        let tenths = half.whole.as_millis().div_ceil(100) as u64;
        Deadline { whole: Duration::from_millis(100 * tenths), ..half }
    }

    /// Its length from the beginning.
    pub fn whole(self) -> Duration {
        self.whole
    }

    /// The result of `work`, if it ends in time.
    ///
    /// # Errors
    /// `TimedOut` otherwise; `work` is dropped.
    pub async fn bound<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(self.left(), work).await.unwrap_or_else(|_| Err(self.missed()))
    }

    /// The error to return once it has passed.
    pub fn missed(self) -> Error {
        Error::TimedOut(self.whole)
    }
}

/// Pauses between retries: `first`, then doubling, each with random jitter of up to its own length,
/// so that requests that failed together are not retried together.
pub fn pauses(first: Duration) -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(first).with_jitter()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_longer_times_out_with_the_whole_length_in_its_error() {
        let deadline = Deadline::after(4 * SECOND);
        tokio::time::sleep(3 * SECOND).await;
        assert_eq!((deadline.left(), deadline.half().left()), (SECOND, SECOND / 2));
        assert_eq!(deadline.bound(async { Ok(7) }).await, Ok(7));
        let never = std::future::pending::<Result<()>>();
        let began = Instant::now();
        assert_eq!(deadline.bound(never).await, Err(Error::TimedOut(4 * SECOND)));
        assert_eq!((began.elapsed(), deadline.left()), (SECOND, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_show_half_a_deadline_in_tenths_of_a_second() {
        let deadline = Deadline::after(30 * SECOND);
        tokio::time::advance(Duration::from_micros(20)).await;
        assert_eq!(deadline.half().missed().to_string(), "no answer within 15s (--timeout)");
        tokio::time::advance(SECOND).await;
        assert_eq!(deadline.half().whole(), Duration::from_millis(14_500));
    }

    #[tokio::test]
    async fn the_longest_duration_does_not_overflow() {
        assert!(Deadline::after(Duration::MAX).left() > 86_400 * SECOND);
    }
}
