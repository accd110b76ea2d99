//! The control socket of a mount: `status` and `umount` ask the daemon over it.
//!
//! One request a connection: a line of JSON, answered by a text up to the end of the stream. The
//! socket lies in a directory that only its owner may enter, is named after the device number of
//! the mount, and is removed with it.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::daemon::mounts::MountEntry;
use crate::daemon::runtime_dir;

/// Clients served at one time. Each is a descriptor, as is one that waits for a place; the budget
/// counts four.
const CLIENTS: usize = 3;

/// How long a client may be silent while another waits for its place.
const SILENCE: Duration = Duration::from_millis(50);

/// A client that does not speak, or listen, is not waited for longer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// The longest request, in bytes: a path (PATH_MAX of Linux), each byte of it escaped.
const LONGEST: u64 = 6 * 4096 + 64;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Answered by a [`crate::daemon::status::Status`].
    Status,
    /// Why the name at this path below the mount point is there or not. Answered by a `Result`
    /// of an explanation or a text; may take as long as the store does.
    Explain(String),
    /// Answered, when it is unmounted, by nothing, or by why it cannot be.
    Unmount,
}

/// Makes the answer to a request other than to unmount.
pub type Answer = dyn Fn(Request) -> BoxFuture<'static, String> + Send + Sync;

/// The socket of a mount, in the folder where its daemon keeps it.
pub fn socket_of(dir: &Path, mount: &MountEntry) -> PathBuf {
    dir.join(format!("{}.sock", mount.device))
}

/// The daemon's end. Dropping it removes the socket.
pub struct Server {
    path: PathBuf,
    _clients: JoinSet<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // Other daemons of the user may have theirs in it.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

impl Server {
    /// Listens for the mount. Each wish to unmount goes to `unmount`, and its client sees the
    /// stream end with the daemon.
    ///
    /// # Errors
    /// Where there is no folder for the socket, or no socket can be made in it.
    pub fn start(
        mount: &MountEntry,
        answer: Arc<Answer>,
        unmount: mpsc::UnboundedSender<UnixStream>,
    ) -> io::Result<Server> {
        let (path, listener) = listen(mount)?;
        let mut clients = JoinSet::new();
        clients.spawn(async move {
            let room = Arc::new(Semaphore::new(CLIENTS));
            let slow = Arc::new(Semaphore::new(CLIENTS - 1));
            let mut silent = VecDeque::new();
            // Ended with the set, and so are its clients with this one.
            let mut serving = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let Some(turn) = place(&room, &mut silent).await else { return };
                while serving.try_join_next().is_some() {}
                let (answer, slow) = (answer.clone(), slow.clone());
                let unmount = unmount.clone();
                let is_silent = Arc::new(AtomicBool::new(true));
                let asking = is_silent.clone();
                let task = serving.spawn(async move {
                    let _ = serve(client, &asking, &*answer, &slow, unmount).await;
                    asking.store(false, Ordering::Relaxed);
                    drop(turn);
                });
                silent.push_back(Silent { is_silent, since: Instant::now(), task });
            }
        });
        Ok(Server { path, _clients: clients })
    }
}

fn listen(mount: &MountEntry) -> io::Result<(PathBuf, UnixListener)> {
    let dirs = runtime_dir::of_this_user();
    let mut tries = 0;
    loop {
        let path = socket_of(runtime_dir::create(&dirs, Uid::effective())?, mount);
        // The device number is ours now: one of that name was left by a crash.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        tries += 1;
        let listener = match UnixListener::bind(&path) {
            // Another daemon has ended and removed the empty folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 10 => continue,
            other => {
                other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?
            }
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        return Ok((path, listener));
    }
}

/// A client that has not sent its request yet.
struct Silent {
    /// Taken by whoever comes first: the client when it has asked, or who wants its place.
    is_silent: Arc<AtomicBool>,
    since: Instant,
    task: AbortHandle,
}

/// A place for one more client: a free one, or that of the client that has
/// been silent for the longest.
async fn place(
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

async fn serve(
    client: UnixStream,
    is_silent: &AtomicBool,
    answer: &Answer,
    slow: &Semaphore,
    unmount: mpsc::UnboundedSender<UnixStream>,
) -> io::Result<()> {
    let mut client = BufReader::new(client.take(LONGEST));
    let mut line = String::new();
    timeout(CLIENT_PATIENCE, client.read_line(&mut line)).await??;
    if !is_silent.swap(false, Ordering::Relaxed) {
        return Ok(());
    }
    let mut client = client.into_inner().into_inner();
    let says = match serde_json::from_str(&line) {
        Ok(Request::Unmount) => {
            let _ = unmount.send(client);
            return Ok(());
        }
        // One place is always left for who asks what is the matter.
        Ok(request @ Request::Explain(_)) => match slow.try_acquire() {
            Ok(_turn) => answer(request).await,
            Err(_) => r#"{"Err":"others are having it explained just now: try again"}"#.to_owned(),
        },
        Ok(request) => answer(request).await,
        Err(error) => format!("not a request: {error}\n"),
    };
    timeout(CLIENT_PATIENCE, client.write_all(says.as_bytes())).await?
}
