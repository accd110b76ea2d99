//! Mounting: the mount point is claimed, the kernel mounts, and the session is served.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fuser::{MountOption, Notifier, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::unistd::{Gid, Uid};
use tokio::task::spawn_blocking;
use tracing::debug;

use crate::config::Config;
use crate::daemon::client;
use crate::daemon::mounts::{self, Held, MountEntry};
use crate::daemon::passed;
use crate::fuse::Fuse;

const DEVICE: &str = "/dev/fuse";

/// Read-ahead of the mount, in KiB: the largest request of FUSE. The kernel's default of 128 made
/// reads a fifth slower (measured); with more than 1024, reads come out of order.
const READ_AHEAD_KIB: u32 = 1024;

/// How long to wait for the lock of the mount point. A process that mounts there holds it for some
/// milliseconds.
const LOCKED: Duration = Duration::from_secs(5);

/// Checks whether `dir` can be mounted on, as far as possible before mounting.
///
/// # Errors
/// In words for the operator.
pub fn check(dir: &Path, replace_dead: bool) -> Result<(), String> {
    if passed::number(dir).is_some() {
        return Ok(());
    }
    match vacancy(dir, replace_dead)? {
        Vacancy::Free => open(dir).map(drop),
        Vacancy::Dead(_) => Ok(()),
    }
}

/// Mounts, and serves the mount on its own threads.
///
/// # Errors
/// In words for the operator; nothing is mounted then.
pub async fn mount(
    fuse: Fuse,
    config: &Config,
    source: &str,
) -> Result<(MountEntry, Notifier), String> {
    let (dir, replace_dead) = (config.dir.clone(), config.replace_dead);
    let shown = dir.display().to_string();
    let failed = |error: String| format!("cannot mount on {shown}: {error}");
    let mut options = fuser::Config::default();
    options.n_threads = Some(config.fuse_threads);
    if let Some(number) = passed::number(&dir) {
        let served = spawn_blocking(move || serve_passed(fuse, number, &dir, options)).await;
        return served.map_err(|panic| failed(panic.to_string()))?.map_err(failed);
    }
    let claim = spawn_blocking(move || claim(&dir, replace_dead));
    let claim = tokio::time::timeout(LOCKED, claim)
        .await
        .map_err(|_| failed("another process holds a lock on it (flock(2))".to_owned()))?
        .map_err(|panic| failed(panic.to_string()))??;

    let source = config.fsname.clone().unwrap_or_else(|| format!("{}{source}", mounts::SOURCE));
    // A comma would end the option.
    let source = source.replace(',', "_");
    if config.allow_other {
        options.acl = SessionACL::All;
    }
    let dir = config.dir.clone();
    let flags = Flags { writable: config.writing.is_some(), noexec: config.noexec };
    let mounted = spawn_blocking(move || {
        let mounted = start(fuse, &dir, &source, options, flags);
        drop(claim);
        mounted
    });
    let mounted = mounted.await.map_err(|panic| failed(panic.to_string()))?;
    let (entry, notifier) = mounted.map_err(failed)?;
    raise_read_ahead(&entry);
    Ok((entry, notifier))
}

/// Serves a mount that was made by the process that has started this one. Its options, such as who may
/// access it, are those that it was mounted with.
fn serve_passed(
    fuse: Fuse,
    number: RawFd,
    dir: &Path,
    mut options: fuser::Config,
) -> Result<(MountEntry, Notifier), String> {
    let device = passed::take(number).map_err(|e| e.to_string())?;
    let entry = passed::mount_of(&device, dir).map_err(|e| e.to_string())?;
    options.acl = SessionACL::All;
    let served = Session::from_fd(fuse, device, options.acl, options);
    let session = served.and_then(Session::spawn).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => "nothing is mounted by this descriptor yet".to_owned(),
        _ => error.to_string(),
    })?;
    let notifier = session.notifier();
    // As for a mount of our own.
    let _ = ManuallyDrop::new(session);
    raise_read_ahead(&entry);
    Ok((entry, notifier))
}

/// Flags of a mount, but for those that all have.
#[derive(Clone, Copy)]
struct Flags {
    writable: bool,
    noexec: bool,
}

/// What is at a mount point that can be used.
enum Vacancy {
    Free,
    /// A dead expirefs mount, to be replaced.
    Dead(Held),
}

/// Accesses no mount except ours.
fn vacancy(dir: &Path, replace_dead: bool) -> Result<Vacancy, String> {
    let shown = dir.display();
    let found = match mounts::at(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("mount point {shown} does not exist"));
        }
        Err(error) => return Err(format!("mount point {shown}: {error}")),
    };
    let Some(found) = found.filter(MountEntry::is_ours) else { return Ok(Vacancy::Free) };
    match found.hold().map_err(|error| format!("mount point {shown}: {error}"))? {
        // It has just been unmounted.
        None => vacancy(dir, replace_dead),
        Some(mount) if !client::has_lost_its_daemon(&mount) => {
            Err(format!("{shown} is an expirefs mount already"))
        }
        Some(mount) if replace_dead => Ok(Vacancy::Dead(mount)),
        Some(_) => Err(format!(
            "{shown} is a dead expirefs mount, left by a daemon that died: clear it with \
             `expirefs umount {shown}`, or mount with --replace-dead"
        )),
    }
}

fn open(dir: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(dir);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => {
            format!("mount point {} is not a directory", dir.display())
        }
        _ => format!("mount point {}: {error}", dir.display()),
    })
}

/// Locks the directory (flock(2)) and checks that it is free. Of several processes that mount on it
/// at the same time, one finds it free, and the others find its mount. Returns the lock, to be held
/// until it is mounted.
fn claim(dir: &Path, replace_dead: bool) -> Result<File, String> {
    loop {
        if let Vacancy::Dead(mount) = vacancy(dir, replace_dead)? {
            mount
                .clear()
                .map_err(|e| format!("cannot clear the dead mount {}: {e}", dir.display()))?;
            continue;
        }
        let lock = open(dir)?;
        lock.lock().map_err(|e| format!("cannot lock {}: {e}", dir.display()))?;
        // Another process may have mounted before the directory was opened or locked.
        if let Vacancy::Free = vacancy(dir, replace_dead)? {
            return Ok(lock);
        }
    }
}

fn start(
    fuse: Fuse,
    dir: &Path,
    source: &str,
    mut options: fuser::Config,
    flags: Flags,
) -> Result<(MountEntry, Notifier), String> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(device_error)?;
    let others = options.acl == SessionACL::All;
    // Mounts by fusermount3, which unmounts if this process dies; it can do that only with
    // `allow_other`.
    let auto_unmount = others && has_fusermount3();
    let direct = match auto_unmount {
        true => Err(Errno::EPERM),
        false => mount_directly(&device, dir, source, others, flags),
    };
    let session = match direct {
        Ok(()) => Session::from_fd(fuse, OwnedFd::from(device), options.acl, options),
        Err(Errno::EPERM) => {
            drop(device);
            options.mount_options = vec![
                MountOption::FSName(source.to_owned()),
                MountOption::Subtype("expirefs".to_owned()),
                if flags.writable { MountOption::RW } else { MountOption::RO },
                MountOption::NoDev,
                MountOption::NoSuid,
                MountOption::NoAtime,
                MountOption::DefaultPermissions,
            ];
            if flags.noexec {
                options.mount_options.push(MountOption::NoExec);
            }
            if auto_unmount {
                options.mount_options.push(MountOption::AutoUnmount);
            }
            Session::new(fuse, dir, &options).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => io::Error::other(
                    "only root mounts without fusermount3, which is missing: install the package \
                     fuse3",
                ),
                _ => error,
            })
        }
        Err(error) => return Err(error.to_string()),
    };
    let served = session.and_then(|session| {
        let session = session.spawn()?;
        let notifier = session.notifier();
        let entry = mounts::at(dir)?.filter(MountEntry::is_ours);
        let entry = entry.ok_or_else(|| io::Error::other("it was unmounted at once"))?;
        // Dropping it would unmount whatever is at that path then; `mounts::detach` checks that
        // first.
        let _ = ManuallyDrop::new(session);
        Ok((entry, notifier))
    });
    served.map_err(|error| {
        // A session that failed to start leaves a dead mount.
        if direct.is_ok()
            && let Ok(Some(entry)) = mounts::at(dir)
            && entry.is_ours()
        {
            let _ = mounts::detach(&entry);
        }
        error.to_string()
    })
}

/// mount(2), which only root may call. fuser would do the same, but with the type `fuse`.
fn mount_directly(
    device: &File,
    dir: &Path,
    source: &str,
    others: bool,
    with: Flags,
) -> Result<(), Errno> {
    let mode = fs::metadata(dir).map_or(libc::S_IFDIR, |meta| meta.mode());
    let (uid, gid) = (Uid::current(), Gid::current());
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if others {
        data += ",allow_other";
    }
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
    flags.set(MsFlags::MS_RDONLY, !with.writable);
    flags.set(MsFlags::MS_NOEXEC, with.noexec);
    nix::mount::mount(Some(source), dir, Some(mounts::TYPE), flags, Some(data.as_str()))
}

fn device_error(error: io::Error) -> String {
    match fs::metadata(DEVICE) {
        Ok(meta) => format!(
            "cannot open {DEVICE} (mode {:04o}, owner {}:{}): {error}",
            meta.permissions().mode() & 0o7777,
            meta.uid(),
            meta.gid()
        ),
        Err(_) => format!(
            "cannot open {DEVICE}: {error}: is the kernel module fuse loaded, and the device \
             passed into this container?"
        ),
    }
}

fn has_fusermount3() -> bool {
    Command::new("fusermount3").arg("-V").output().is_ok()
}

/// Needs root; without it the mount works, but is slower.
fn raise_read_ahead(entry: &MountEntry) {
    let knob = format!("/sys/class/bdi/{}/read_ahead_kb", entry.device);
    if let Err(error) = fs::write(&knob, READ_AHEAD_KIB.to_string()) {
        debug!("read-ahead is not changed: {knob}: {error}");
    }
}
