//! Clients of a socket, a few at the same time. If all places are taken, a new client gets that of the
//! one that has been silent for the longest.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a client may be silent while another one waits for a place.
const SILENCE: Duration = Duration::from_millis(50);

/// The pause after a failed accept(2), as without a free descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that clients connect to.
pub trait Listen: Sync {
    type Client: Send;

    fn next(&self) -> impl Future<Output = io::Result<Self::Client>> + Send;
}

impl Listen for UnixListener {
    type Client = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(client, _)| client)
    }
}

impl Listen for TcpListener {
    type Client = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(client, _)| client)
    }
}

/// Whether a client is still silent. Ended by the first of two: the client, when it has sent its
/// request, or the next client, which takes its place.
#[derive(Clone)]
pub struct Silence(Arc<AtomicBool>);

impl Silence {
    pub fn new() -> Silence {
        Silence(Arc::new(AtomicBool::new(true)))
    }

    pub fn lasts(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether this call has ended it.
    pub fn end(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// A client that may be silent still.
struct Served {
    silence: Silence,
    since: Instant,
    task: AbortHandle,
}

/// Serves all clients that connect, at most `clients` at the same time, until it is dropped.
pub async fn serve<L: Listen, T: Future<Output = ()> + Send + 'static>(
    listener: L,
    clients: usize,
    talk: impl Fn(L::Client, Silence) -> T,
) {
    let room = Arc::new(Semaphore::new(clients));
    let mut served = VecDeque::new();
    // Ended with this task.
    let mut serving = JoinSet::new();
    loop {
        let Ok(client) = listener.next().await else {
            sleep(PAUSE).await;
            continue;
        };
        let Some(place) = place(&room, &mut served).await else { return };
        while serving.try_join_next().is_some() {}
        let silence = Silence::new();
        let (talking, ended) = (talk(client, silence.clone()), silence.clone());
        let task = serving.spawn(async move {
            talking.await;
            ended.end();
            drop(place);
        });
        served.push_back(Served { silence, since: Instant::now(), task });
    }
}

/// A place for one more client: a free one, or that of the client that has been silent for the longest.
async fn place(
    room: &Arc<Semaphore>,
    served: &mut VecDeque<Served>,
) -> Option<OwnedSemaphorePermit> {
    loop {
        served.retain(|client| client.silence.lasts());
        let free = room.clone().acquire_owned();
        let Some(first) = served.front() else { return free.await.ok() };
        tokio::select! {
            biased;
            place = free => return place.ok(),
            () = sleep_until(first.since + SILENCE) => {}
        }
        if let Some(longest) = served.pop_front()
            && longest.silence.end()
        {
            longest.task.abort();
        }
    }
}
