//! Places for clients of a socket. If all are taken, a new client gets that of the one that has been
//! silent for the longest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How long a client may be silent while another one waits for a place.
const SILENCE: Duration = Duration::from_millis(50);

/// A client that has not sent its request yet.
pub struct Silent {
    /// Cleared by the first of two: the client, when it has sent its request, or the next client,
    /// which takes its place.
    pub is_silent: Arc<AtomicBool>,
    pub since: Instant,
    pub task: AbortHandle,
}

/// A place for one more client: a free one, or that of the client that has
/// been silent for the longest.
pub async fn place(
    room: &Arc<Semaphore>,
    silent: &mut VecDeque<Silent>,
) -> Option<OwnedSemaphorePermit> {
    loop {
        silent.retain(|client| client.is_silent.load(Ordering::Relaxed));
        let free = room.clone().acquire_owned();
        let Some(first) = silent.front() else { return free.await.ok() };
        tokio::select! {
            biased;
            place = free => return place.ok(),
            () = tokio::time::sleep_until(first.since + SILENCE) => {}
        }
        if let Some(longest) = silent.pop_front()
            && longest.is_silent.swap(false, Ordering::Relaxed)
        {
            longest.task.abort();
        }
    }
}
