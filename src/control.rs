//! The control socket of a mount: `status` and `umount` ask the daemon over it.
//!
//! One request a connection: a line of JSON, answered by a text up to the end of the stream. The
//! socket lies in a directory that only its owner may enter, is named after the device number of
//! the mount, and is removed with it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::runtime_dir;
use crate::mounts::{self, MountEntry};

/// Clients served at one time: each is a descriptor, and the budget counts three.
const CLIENTS: usize = 3;

/// A client that does not speak, or listen, is not waited for longer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// A daemon that unmounts drains for 5 s; one that has not answered by then hangs.
const DAEMON_PATIENCE: Duration = Duration::from_secs(15);

/// The longest request, in bytes: a path (PATH_MAX of Linux), each byte of it escaped.
const LONGEST: u64 = 6 * 4096 + 64;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Answered by a [`crate::status::Status`].
    Status,
    /// Why the name at this path below the mount point is there or not. Answered by a `Result`
    /// of an explanation or a text; may take as long as the store does.
    Explain(String),
    /// Answered, when it is unmounted, by nothing, or by why it cannot be.
    Unmount,
}

/// Makes the answer to a request other than to unmount.
pub type Answer = dyn Fn(Request) -> BoxFuture<'static, String> + Send + Sync;

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
    /// Listens for the mount. Each wish to unmount goes to `unmount`, and its client sees the
    /// stream end with the daemon.
    pub fn start(
        mount: &MountEntry,
        answer: Arc<Answer>,
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
            let slow = Arc::new(Semaphore::new(CLIENTS - 1));
            // Ended with the set, and so are its clients with this one.
            let mut serving = JoinSet::new();
            while let Ok(turn) = room.clone().acquire_owned().await {
                let Ok((client, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                while serving.try_join_next().is_some() {}
                let (answer, slow) = (answer.clone(), slow.clone());
                let unmount = unmount.clone();
                serving.spawn(async move {
                    let _ = serve(client, &*answer, &slow, unmount).await;
                    drop(turn);
                });
            }
        });
        Ok(Server { path, _clients: clients })
    }
}

async fn serve(
    client: UnixStream,
    answer: &Answer,
    slow: &Semaphore,
    unmount: mpsc::UnboundedSender<UnixStream>,
) -> io::Result<()> {
    let mut client = BufReader::new(client.take(LONGEST));
    let mut line = String::new();
    timeout(CLIENT_PATIENCE, client.read_line(&mut line)).await??;
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

/// Asks the daemon of a mount, and returns its answer, which ends when the daemon closes.
///
/// # Errors
/// In words for the operator.
pub async fn ask(mount: &MountEntry, request: &Request) -> Result<String, String> {
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
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = match request {
        // The mount's own timeout ends it.
        Request::Explain(_) => talk.await,
        Request::Status | Request::Unmount => timeout(DAEMON_PATIENCE, talk)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    };
    answer.map_err(failed)
}

/// The expirefs mount that a path lies in, and the path below its mount point. The path itself
/// need not exist: that is what one may want to have explained.
///
/// # Errors
/// In words for the operator.
pub fn path_in_mount(path: &Path) -> Result<(MountEntry, String), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let (whole, mount) = match within_ours(path).map_err(failed)? {
        Some(found) => found,
        None => {
            let whole = mounts::absolute_or_missing(path).map_err(failed)?;
            let mount = mount_at(&whole, true)?;
            (whole, mount)
        }
    };
    let below = whole.strip_prefix(&mount.dir).ok().and_then(Path::to_str);
    let below = below.ok_or_else(|| format!("{}: no key is named so", path.display()))?;
    Ok((mount, below.to_owned()))
}

/// The path without symbolic links and the mount of ours that its last component lies in, if one
/// does. The kernel is not asked for that component: it would look it up.
fn within_ours(path: &Path) -> io::Result<Option<(PathBuf, MountEntry)>> {
    let path = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let parent = mounts::absolute_or_missing(parent)?;
    let mount = mounts::containing(&parent)?.filter(MountEntry::is_ours);
    Ok(mount.map(|mount| (parent.join(name), mount)))
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
