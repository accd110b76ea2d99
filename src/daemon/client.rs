//! The client of a mount's control socket: finds the mount, and asks its daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::daemon::control::{Request, socket_of};
use crate::daemon::mounts::{self, MountEntry};
use crate::daemon::runtime_dir;

/// A daemon that unmounts drains for 5 s; one that has not answered by then hangs.
const DAEMON_PATIENCE: Duration = Duration::from_secs(15);

/// Asks the daemon of a mount, and returns its answer, which ends when the daemon closes.
///
/// # Errors
/// In words for the operator.
pub async fn ask(mount: &MountEntry, request: &Request) -> Result<String, String> {
    let dirs = runtime_dir::of_this_user();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            format!(
                "no control socket of the mount at {} in {}: is its daemon run by another user, or \
                 with another XDG_RUNTIME_DIR?",
                mount.dir.display(),
                dirs.join(", ")
            )
        }
        _ => format!("the daemon of {} does not answer: {error}", mount.dir.display()),
    };
    let talk = async {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        loop {
            let mut stream = connect(&dirs, mount).await?;
            stream.write_all(line.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            // Only the end of a mount is told without a word: where many ask at one time, a client
            // that is late with its request loses its place.
            if !answer.is_empty() || *request == Request::Unmount {
                return Ok(answer);
            }
        }
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

/// The daemon may have taken another folder than this client would.
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
