//! What a mount that is slow to start waits for, in words for the operator.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use crate::s3::LastFailure;

/// The first line comes after this time, when a store that cannot be reached has been reported
/// (`BRIEF_OUTAGE`); the pauses double up to the longest.
const FIRST: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(30);

/// Tells now and then that the mount waits for `what`, and why. Ends only by being dropped.
pub async fn report(what: String, last_failure: LastFailure, tell: impl Fn(&str)) -> Infallible {
    let mut pause = FIRST;
    loop {
        sleep(pause).await;
        let why = last_failure.get().map_or("no answer yet".to_owned(), |error| error.to_string());
        tell(&format!("waiting for {what}: {why}"));
        pause = (2 * pause).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_is_told_at_once_and_then_less_often() {
        let (start, told) = (Instant::now(), RefCell::new(Vec::new()));
        let tell =
            |line: &str| told.borrow_mut().push((start.elapsed().as_secs(), line.to_owned()));
        let report = report("s3://b/".to_owned(), LastFailure::default(), tell);
        let _ = timeout(Duration::from_secs(100), report).await;
        let told = told.into_inner();
        assert_eq!(told[0], (4, "waiting for s3://b/: no answer yet".to_owned()));
        let times: Vec<u64> = told.into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [4, 12, 28, 58, 88]);
    }
}
