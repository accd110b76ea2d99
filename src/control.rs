//! The control socket of a mount: `status` and `umount` ask the daemon over it.
//!
//! One request a connection: a line with a command, answered by a text up to the end of the
//! stream. The socket lies in a directory that only its owner may enter, is named after the
//! device number of the mount, and is removed with it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::config::runtime_dir;
use crate::mounts::{self, MountEntry};

/// Clients served at one time: each is a descriptor, and the budget counts three.
const CLIENTS: usize = 3;

/// A client that does not speak is not waited for longer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// A daemon that unmounts drains for 5 s; one that has not answered by then hangs.
const DAEMON_PATIENCE: Duration = Duration::from_secs(15);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Status,
    Unmount,
}

impl Request {
    fn word(self) -> &'static str {
        match self {
            Request::Status => "status",
            Request::Unmount => "unmount",
        }
    }
}

fn socket_dir() -> PathBuf {
    runtime_dir().join("expirefs")
}

fn socket_of(mount: &MountEntry) -> PathBuf {
    socket_dir().join(format!("{}.sock", mount.device))
}

/// The daemon's end. Dropping it removes the socket.
pub struct Server {
    path: PathBuf,
    _clients: JoinSet<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Server {
    /// Listens for the mount. `status` makes the answer to that request; each wish to unmount
    /// goes to `unmount`, and its client sees the stream end with the daemon.
    pub fn start(
        mount: &MountEntry,
        status: Arc<dyn Fn() -> String + Send + Sync>,
        unmount: mpsc::UnboundedSender<UnixStream>,
    ) -> io::Result<Server> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(socket_dir())?;
        let path = socket_of(mount);
        // The device number is ours now: one of that name was left by a crash.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let mut clients = JoinSet::new();
        clients.spawn(async move {
            let room = Arc::new(Semaphore::new(CLIENTS));
            // Ended with the set, and so are its clients with this one.
            let mut serving = JoinSet::new();
            while let Ok(turn) = room.clone().acquire_owned().await {
                let Ok((client, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                while serving.try_join_next().is_some() {}
                let (status, unmount) = (status.clone(), unmount.clone());
                serving.spawn(async move {
                    let _ =
                        tokio::time::timeout(CLIENT_PATIENCE, serve(client, status, unmount)).await;
                    drop(turn);
                });
            }
        });
        Ok(Server { path, _clients: clients })
    }
}

async fn serve(
    client: UnixStream,
    status: Arc<dyn Fn() -> String + Send + Sync>,
    unmount: mpsc::UnboundedSender<UnixStream>,
) -> io::Result<()> {
    // A request is a word: no more than this is read of one.
    let mut client = BufReader::new(client.take(64));
    let mut line = String::new();
    client.read_line(&mut line).await?;
    let mut client = client.into_inner().into_inner();
    match line.trim() {
        "status" => client.write_all(status().as_bytes()).await,
        "unmount" => {
            let _ = unmount.send(client);
            Ok(())
        }
        other => client.write_all(format!("unknown request {other:?}\n").as_bytes()).await,
    }
}

/// Asks the daemon of a mount, and returns its answer, which ends when the daemon closes.
///
/// # Errors
/// In words for the operator.
pub async fn ask(mount: &MountEntry, request: Request) -> Result<String, String> {
    let path = socket_of(mount);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!(
            "no control socket of the mount at {} in {}: is its daemon run by another user, or \
             with another XDG_RUNTIME_DIR?",
            mount.dir.display(),
            socket_dir().display()
        ),
        _ => format!(
            "the daemon of {} does not answer at {}: {error}",
            mount.dir.display(),
            path.display()
        ),
    };
    let talk = async {
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(format!("{}\n", request.word()).as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let timeout = tokio::time::timeout(DAEMON_PATIENCE, talk).await;
    timeout.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)
}

/// The expirefs mount at `dir`, or the one `dir` lies in if `within`.
///
/// # Errors
/// In words for the operator.
pub fn mount_at(dir: &Path, within: bool) -> Result<MountEntry, String> {
    let found = if within { mounts::containing(dir) } else { mounts::at(dir) };
    let found = found.map_err(|error| format!("{}: {error}", dir.display()))?;
    found
        .filter(MountEntry::is_ours)
        .ok_or_else(|| format!("{}: no expirefs mount is there", dir.display()))
}
