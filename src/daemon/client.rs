//! The client of a mount's control socket: finds the mount, and sends requests to its daemon.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, getsockopt};
use nix::unistd::Uid;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::bucket::explain::Explanation;
use crate::daemon::mounts::{self, MountEntry, Pulse};
use crate::daemon::protocol::{self, Reply, Request, socket_of};
use crate::daemon::runtime_dir;
use crate::daemon::status::Status;

/// Longer than the 5 s for which a daemon drains before it unmounts: one that has not answered by
/// then hangs.
const DAEMON_PATIENCE: Duration = Duration::from_secs(15);

/// How long a daemon that lives takes to answer a request for its status, on a host under load.
const PULSE: Duration = Duration::from_secs(5);

/// How long requests are retried if the daemon closes the connection without a reply, and the pause
/// between tries.
const RETRIED: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Why a request to a daemon failed.
#[derive(Debug)]
pub enum Failure {
    /// The daemon refused, for this reason.
    Refused(String),
    /// It cannot be reached, or its reply cannot be read by this version.
    Unanswered(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Refused(text) | Failure::Unanswered(text)) = self;
        f.write_str(text)
    }
}

/// # Errors
/// See [`Failure`].
pub async fn status(mount: &MountEntry) -> Result<Status, Failure> {
    ask(mount, &Request::Status, Some(DAEMON_PATIENCE)).await
}

/// The status without the open handles.
///
/// # Errors
/// See [`Failure`].
pub async fn summary(mount: &MountEntry) -> Result<Status, Failure> {
    ask(mount, &Request::Summary, Some(DAEMON_PATIENCE)).await
}

/// Explains why the name at this path below the mount point is visible or not.
///
/// # Errors
/// See [`Failure`].
pub async fn explain(mount: &MountEntry, path: String) -> Result<Explanation, Failure> {
    // The mount's own timeout limits it.
    ask(mount, &Request::Explain(path), None).await
}

/// What the mount logs, after a change to `new` if there is one.
///
/// # Errors
/// See [`Failure`].
pub async fn log_filter(mount: &MountEntry, new: Option<String>) -> Result<String, Failure> {
    ask(mount, &Request::Log(new), Some(DAEMON_PATIENCE)).await
}

/// Returns when it is unmounted. `waits` is called once if that takes long: the daemon lives, and commits
/// what programs have closed.
///
/// # Errors
/// See [`Failure`]. A daemon that ends before it has answered is [`Failure::Unanswered`]. Files that could
/// not be committed are [`Failure::Refused`], with the mount gone.
pub async fn unmount(mount: &MountEntry, waits: impl FnOnce()) -> Result<(), Failure> {
    let unmounted = ask(mount, &Request::Unmount, None);
    tokio::pin!(unmounted);
    let mut waits = Some(waits);
    loop {
        if let Ok(answer) = timeout(DAEMON_PATIENCE, &mut unmounted).await {
            return answer;
        }
        // One that unmounts answers other requests, up to its end.
        if let Err(why) = ask::<Status>(mount, &Request::Summary, Some(PULSE)).await {
            return timeout(PULSE, unmounted).await.unwrap_or(Err(why));
        }
        waits.take().into_iter().for_each(|waits| waits());
    }
}

/// Whether the daemon of a mount is known to be gone: the kernel says so; or it does not answer, and its
/// control socket has no listener, or one that was killed and cannot end.
pub fn has_lost_its_daemon(mount: &MountEntry) -> bool {
    match mount.pulse() {
        Pulse::Alive => return false,
        Pulse::Dead => return true,
        Pulse::None => {}
    }
    let dirs = runtime_dir::of_this_user();
    let private = dirs.iter().filter(|dir| runtime_dir::is_private(dir, Uid::effective()));
    let connected = private.map(|dir| connect_at_once(&socket_of(dir, mount)));
    let found = connected.filter(|tried| match tried {
        Err(error) => error.kind() != io::ErrorKind::NotFound,
        Ok(_) => true,
    });
    match found.into_iter().next() {
        Some(Ok(socket)) => {
            getsockopt(&socket, PeerCredentials).is_ok_and(|peer| is_dying(peer.pid()))
        }
        Some(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        None => false,
    }
}

/// Fails with EAGAIN if so many clients wait already that connect(2) would: a stopped daemon accepts none.
fn connect_at_once(socket: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let client = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(client.as_raw_fd(), &UnixAddr::new(socket)?)?;
    Ok(client)
}

/// Whether a process was killed; a thread of it may still wait in the kernel (proc_pid_status(5)).
fn is_dying(process: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let killed = |name| {
        let mask = field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
        mask & 1 << (libc::SIGKILL - 1) != 0
    };
    let is_zombie = field("State:").is_some_and(|state| state.starts_with(['Z', 'X']));
    is_zombie || killed("SigPnd:") || killed("ShdPnd:")
}

async fn ask<T: DeserializeOwned>(
    mount: &MountEntry,
    request: &Request,
    patience: Option<Duration>,
) -> Result<T, Failure> {
    let dirs = runtime_dir::of_this_user();
    let dir = mount.dir.display();
    let answer = match patience {
        None => talk(&dirs, mount, request).await,
        Some(patience) => timeout(patience, talk(&dirs, mount, request))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    };
    let answer = answer.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            Failure::Unanswered(format!(
                "no control socket of the mount at {dir} in {}: is its daemon run by another user, \
                 or with another XDG_RUNTIME_DIR?",
                dirs.join(", ")
            ))
        }
        _ => Failure::Unanswered(format!("the daemon of {dir} does not answer: {error}")),
    })?;
    let reply: serde_json::Result<Reply<T>> = serde_json::from_str(&answer);
    reply.map_err(|error| not_understood(mount, &answer, &error))?.map_err(Failure::Refused)
}

/// A reply of another version: a line of text if the daemon cannot read the request, or JSON with
/// other fields.
fn not_understood(mount: &MountEntry, answer: &str, error: &serde_json::Error) -> Failure {
    let is_json = serde_json::from_str::<IgnoredAny>(answer).is_ok();
    let why = if is_json { error.to_string() } else { answer.trim_end().to_owned() };
    Failure::Unanswered(format!(
        "the daemon's answer cannot be read: {} and this command are of different versions: {why}",
        mount.dir.display()
    ))
}

/// Sends the request, and receives the answer up to the end of the stream.
async fn talk(dirs: &[PathBuf], mount: &MountEntry, request: &Request) -> io::Result<String> {
    let line = protocol::encode(request)?;
    let started = Instant::now();
    loop {
        let mut stream = connect(dirs, mount).await?;
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        // With many concurrent clients, one that is late with its request is disconnected without a
        // reply.
        if !answer.is_empty() {
            return Ok(answer);
        }
        // A daemon of a version that cannot read the request does the same each time.
        if started.elapsed() >= RETRIED {
            let why = "it closes the connection: is it of another version of expirefs?";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The daemon may use another folder than the one this client prefers.
async fn connect(dirs: &[PathBuf], mount: &MountEntry) -> io::Result<UnixStream> {
    let mut failure = io::ErrorKind::NotFound.into();
    for dir in dirs.iter().filter(|dir| runtime_dir::is_private(dir, Uid::effective())) {
        let path = socket_of(dir, mount);
        match UnixStream::connect(&path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                failure = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            }
        }
    }
    Err(failure)
}

/// The expirefs mount that a path lies in, and the path below its mount point. The path itself need
/// not exist: `explain` also explains missing names.
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
    let below = below.ok_or_else(|| format!("{}: no key can have this name", path.display()))?;
    Ok((mount, below.to_owned()))
}

/// The path without symbolic links, and the expirefs mount that its last component lies in, if any.
/// That component is not resolved, which would make the kernel look it up.
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

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::net::UnixListener;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_to_a_daemon_that_never_answers_are_not_retried_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let mount =
            mounts::parse(b"36 35 0:99 / /mnt rw - fuse.expirefs expirefs:s3://b rw").unwrap();
        let listener = UnixListener::bind(socket_of(folder.path(), &mount)).unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let mut daemon = JoinSet::new();
        daemon.spawn({
            let asked = asked.clone();
            async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    // Like a daemon that cannot read the line: closes without a reply.
                    let _ = client.read(&mut [0; 100]).await;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let dirs = [folder.path().to_owned()];
        for request in [Request::Explain("f".to_owned()), Request::Status] {
            let error = talk(&dirs, &mount, &request).await.unwrap_err();
            assert!(error.to_string().contains("another version"), "{error}");
        }
        let (asked, most) =
            (asked.load(Ordering::Relaxed), 2 * (RETRIED.div_duration_f64(PAUSE) as u64 + 1));
        assert!((4..=most).contains(&asked), "{asked} requests");
    }
}
