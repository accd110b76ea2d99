//! Bounds in time: until when a call may go on, and the pauses between its tries.
//!
//! A deadline is made where a call of the kernel, or a command, begins to wait, and is handed down:
//! whoever waits further down waits within it, and says so when it has passed.
//!
//! Who tries again, from the store upwards: the SDK, what the store answered with a failure;
//! `s3::retry`, a store that cannot be reached or throttles; `catalog`, what is listed and denied;
//! `body`, a response that broke before its end.

use std::time::Duration;

use backon::ExponentialBuilder;
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};

/// The instant at which a wait ends, and how long that was from its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    whole: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(whole: Duration) -> Deadline {
        let now = Instant::now();
        // What lies beyond what can be counted is never.
        let at = now.checked_add(whole).unwrap_or(now + Duration::from_secs(86_400 * 365 * 30));
        Deadline { at, whole }
    }

    /// Time left; zero once it has passed.
    pub fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// An earlier one, for a single try: where that fails, there is time for another.
    pub fn half(self) -> Deadline {
        Deadline::after(self.left() / 2)
    }

    /// The work's result, if it ends in time.
    ///
    /// # Errors
    /// `TimedOut` otherwise; the work is dropped then.
    pub async fn bound<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(self.left(), work).await.unwrap_or_else(|_| Err(self.missed()))
    }

    /// What to answer when it has passed.
    pub fn missed(self) -> Error {
        Error::TimedOut(self.whole)
    }
}

/// Pauses between tries: `first`, then each twice as long as the one before, and each with up to as
/// much again at random, so that many who failed at one time do not return at one time.
pub fn pauses(first: Duration) -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(first).with_jitter()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_is_timed_out_and_named_by_its_whole_length() {
        let deadline = Deadline::after(4 * SECOND);
        tokio::time::sleep(3 * SECOND).await;
        assert_eq!((deadline.left(), deadline.half().left()), (SECOND, SECOND / 2));
        assert_eq!(deadline.bound(async { Ok(7) }).await, Ok(7));
        let never = std::future::pending::<Result<()>>();
        let began = Instant::now();
        assert_eq!(deadline.bound(never).await, Err(Error::TimedOut(4 * SECOND)));
        assert_eq!((began.elapsed(), deadline.left()), (SECOND, Duration::ZERO));
    }

    #[tokio::test]
    async fn the_longest_duration_does_not_overflow() {
        assert!(Deadline::after(Duration::MAX).left() > 86_400 * SECOND);
    }
}
