//! Whether a connection makes progress with a request: it takes bytes of it, or answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use hyper_util::client::legacy::connect::CaptureConnection;
use tokio::time::{Instant, sleep_until};

use crate::deadline::Deadline;

/// How long a connection may make no progress before a request on it is given up, as an extension of
/// the request; without it, there is no limit. The time until there is a connection does not count.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub Duration);

/// The part of the timeout for which a connection may make no progress.
const STALLS: u32 = 3;

/// For a try of a request with content: if its connection makes no progress, it leaves time for another
/// one. The last try has all the time that is left, for a store that is slow to answer.
pub fn leaving_time(by: Deadline) -> impl Fn(&mut HttpRequest) {
    let most = by.whole() / STALLS;
    let is_last = by.left() < 2 * most;
    move |request| {
        if !is_last {
            request.add_extension(Patience(most));
        }
    }
}

/// A request was given up.
#[derive(Debug, thiserror::Error)]
#[error("the connection took no bytes for {0:?}, and there was no answer")]
pub struct Stalled(Duration);

/// When a connection last took or brought bytes; responses on it have a reference to it.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub fn begin() -> Progress {
        Progress(Arc::new(Mutex::new(Instant::now())))
    }

    pub fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(connection: &CaptureConnection) -> Option<Progress> {
        let mut extras = hyper::http::Extensions::new();
        connection.connection_metadata().as_ref()?.get_extras(&mut extras);
        extras.remove()
    }
}

impl Patience {
    /// The outcome of a request, unless its connection makes no progress for too long.
    pub async fn with<T>(
        self,
        mut connection: CaptureConnection,
        request: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let stalled = async {
            drop(connection.wait_for_connection_metadata().await);
            // A connection of the pool was idle until now.
            let begin = Instant::now();
            loop {
                let last = Progress::of(&connection).map_or(begin, |it| it.last().max(begin));
                match last + self.0 {
                    end if end <= Instant::now() => return Stalled(self.0),
                    end => sleep_until(end).await,
                }
            }
        };
        tokio::select! {
            biased;
            outcome = request => Ok(outcome),
            stalled = stalled => Err(stalled),
        }
    }
}
