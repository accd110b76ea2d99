//! The mount table of the kernel, and unmounting an expirefs mount.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::{fstatvfs, statvfs};

/// The type of our mounts in `/proc/mounts`, which `PRUNEFS` of updatedb.conf(5) can name.
pub const TYPE: &str = "fuse.expirefs";

/// The prefix of the source of our mounts there.
pub const SOURCE: &str = "expirefs:";

/// A daemon that has not answered statfs(2) within this time may hang; it is not known to be dead.
const STATFS: Duration = Duration::from_secs(2);

/// One line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The kernel's number of this mount. It may be reused once this mount is gone.
    id: u64,
    /// `MAJOR:MINOR`: identifies this mount until it is gone; reading it never blocks, even if the
    /// daemon is dead.
    pub device: String,
    pub dir: PathBuf,
    kind: String,
    pub source: String,
    /// The user whose daemon serves it; `None` if it is not FUSE.
    pub user: Option<u32>,
}

/// A sign of life of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    Alive,
    Dead,
    /// No answer in time: it hangs, or nobody serves a connection that is still open.
    None,
}

impl MountEntry {
    pub fn is_ours(&self) -> bool {
        self.kind == TYPE
    }

    /// The mount as it is now: it may have been moved, or a directory above it renamed. `None` once it
    /// is gone.
    pub fn now(&self) -> io::Result<Option<MountEntry>> {
        Ok(all()?.into_iter().find(|now| now.id == self.id && now.device == self.device))
    }

    /// Asks its daemon for the size of the file system, which waits for its answer; the kernel caches
    /// none, and the store is not asked.
    ///
    /// # Errors
    /// ENOTCONN if no daemon serves it. Others if it cannot be reached: it was unmounted, or another
    /// mount lies on top of it.
    pub fn statfs(&self) -> io::Result<()> {
        let now = self.now()?.ok_or(io::ErrorKind::NotFound)?;
        fstatvfs(&self.reach(&now.dir)?)?;
        Ok(())
    }

    /// Holds the mount, without accessing it. `None` if it is gone.
    ///
    /// # Errors
    /// If another mount lies on top of it.
    pub fn hold(&self) -> io::Result<Option<Held>> {
        let Some(entry) = self.now()? else { return Ok(None) };
        match entry.reach(&entry.dir) {
            Ok(top) => Ok(Some(Held { entry, top })),
            // It was unmounted meanwhile.
            Err(_) if self.now()?.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Holds the mount, without accessing it, if it is the topmost one at `dir`.
    fn reach(&self, dir: &Path) -> io::Result<File> {
        // Whatever is mounted there from now on.
        let top = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(dir)?;
        // While it is held, no other mount gets its number.
        match mount_id(&top)? == self.id && self.now()?.is_some() {
            true => Ok(top),
            false => Err(io::Error::other("another mount lies on top of it: unmount that first")),
        }
    }

    /// What statfs(2) says of its daemon.
    pub fn pulse(&self) -> Pulse {
        let (tell, told) = mpsc::channel();
        let dir = self.dir.clone();
        // The kernel never answers statfs(2) from a cache, as it does stat(2). If the daemon hangs,
        // the call ends with this process.
        #[expect(
            clippy::disallowed_methods,
            reason = "statfs(2) cannot be cancelled if the daemon hangs"
        )]
        thread::spawn(move || tell.send(statvfs(&dir)));
        match told.recv_timeout(STATFS) {
            Ok(Err(Errno::ENOTCONN)) => Pulse::Dead,
            Ok(_) => Pulse::Alive,
            Err(_) => Pulse::None,
        }
    }

    /// Ends the connection between the kernel and the daemon, if anybody still holds it: requests that
    /// wait fail. Only for root, and for the user who has mounted.
    ///
    /// # Errors
    /// If the control file system of FUSE (`/sys/fs/fuse/connections`) is not mounted, or refuses.
    fn abort(&self) -> io::Result<()> {
        let number = self.device.rsplit(':').next().unwrap_or_default();
        fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1")
    }
}

/// `ID PARENT DEVICE ROOT DIR OPTIONS [FIELD...] - TYPE SOURCE OPTIONS`, bytes: a path need not
/// be UTF-8.
pub fn parse(line: &[u8]) -> Option<MountEntry> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let mut fields = line.split(|b| *b == b' ');
    let id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let dir = PathBuf::from(unescape(fields.nth(1)?));
    fields.find(|field| field == b"-")?;
    let kind = text(fields.next()?);
    let source = text(fields.next()?);
    let options = text(fields.next().unwrap_or_default());
    let user = options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok());
    Some(MountEntry { id, device, dir, kind, source, user })
}

/// Space, tab, newline and backslash come as `\ooo`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|o| std::str::from_utf8(o).ok());
        match octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn all() -> io::Result<Vec<MountEntry>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// The expirefs mounts that this process can see. Never accesses any of them.
///
/// # Errors
/// If the mount table cannot be read, in words for the operator.
pub fn ours() -> Result<Vec<MountEntry>, String> {
    let all = all().map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    Ok(all.into_iter().filter(MountEntry::is_ours).collect())
}

/// The mount of a FUSE connection, shown as `dir` if it is in another mount namespace, or if its number
/// is unknown: then it has no entry, and counts as gone.
pub fn of_connection(number: Option<u64>, dir: &Path) -> io::Result<MountEntry> {
    // A connection has the minor number of its superblock, which has no device (fs/fuse/inode.c).
    let device = number.map(|number| format!("0:{number}")).unwrap_or_default();
    let found = all()?.into_iter().find(|entry| entry.device == device);
    Ok(found.unwrap_or_else(|| MountEntry {
        id: 0,
        device,
        dir: dir.to_owned(),
        kind: TYPE.to_owned(),
        source: String::new(),
        user: None,
    }))
}

/// The topmost mount at exactly this directory, if there is one. Never accesses the mount itself.
pub fn at(dir: &Path) -> io::Result<Option<MountEntry>> {
    let dir = absolute(dir)?;
    Ok(all()?.into_iter().rev().find(|entry| entry.dir == dir))
}

/// The mount that `path` lies in.
pub fn containing(path: &Path) -> io::Result<Option<MountEntry>> {
    let path = absolute_or_missing(path)?;
    let within = all()?.into_iter().filter(|entry| path.starts_with(&entry.dir));
    // Of several at one directory, this takes the last one, which is on top.
    Ok(within.max_by_key(|entry| entry.dir.as_os_str().len()))
}

/// The path without symbolic links, even if its last component is a mount that does not answer.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        // A mount that is dead, or another user's, cannot be accessed; its parent can.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let path = std::path::absolute(path)?;
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Ok(path),
            }
        }
        other => other,
    }
}

/// The same for a path whose last components may be missing.
pub fn absolute_or_missing(path: &Path) -> io::Result<PathBuf> {
    match absolute(path) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            let path = std::path::absolute(path)?;
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(absolute_or_missing(parent)?.join(name)),
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// A mount whose numbers no other mount gets while this is held. What is found out about the mount
/// meanwhile is true of no other.
#[derive(Debug)]
pub struct Held {
    entry: MountEntry,
    top: File,
}

impl Deref for Held {
    type Target = MountEntry;

    fn deref(&self) -> &MountEntry {
        &self.entry
    }
}

impl Held {
    /// Detaches a mount whose daemon is gone. Requests that wait for it fail.
    ///
    /// # Errors
    /// See [`detach`].
    pub fn clear(&self) -> io::Result<()> {
        // The kernel does it by itself, unless the device is held open: by a thread of the killed daemon
        // that waits in the kernel for the answer to such a request, or by another process.
        let _ = self.abort();
        detach(self)
    }
}

/// Detaches a mount whose session has ended, if it is still there. A mount that answers is another one:
/// the kernel gives the numbers of a mount that is gone to the next one.
///
/// # Errors
/// See [`detach`].
pub fn detach_dead(entry: &MountEntry) -> io::Result<()> {
    match entry.hold()? {
        Some(mount) if mount.pulse() == Pulse::Dead => detach(&mount),
        _ => Ok(()),
    }
}

/// Detaches an expirefs mount, wherever it is now. Files that are open stay usable while its daemon
/// lives.
///
/// # Errors
/// If neither the kernel nor fusermount3 does it, or another mount lies on top of it. It is no
/// error if the mount is gone already: another mount in its place is left alone.
pub fn detach(entry: &MountEntry) -> io::Result<()> {
    let Some(Held { entry: now, top }) = entry.hold()? else { return Ok(()) };
    match umount2(format!("/proc/self/fd/{}", top.as_raw_fd()).as_str(), MntFlags::MNT_DETACH) {
        // A user other than root needs the setuid helper.
        Err(Errno::EPERM) => {
            let run = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&now.dir).output();
            let run = run.map_err(|e| io::Error::new(e.kind(), format!("fusermount3: {e}")))?;
            if run.status.success() {
                return Ok(());
            }
            Err(io::Error::other(String::from_utf8_lossy(&run.stderr).trim().to_owned()))
        }
        other => Ok(other?),
    }
}

/// The number of the mount that an open file is on (proc_pid_fdinfo(5)).
fn mount_id(file: &File) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = id.and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("the kernel shows no mnt_id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let line = b"36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime shared:1 - fuse.expirefs expirefs:s3://b rw,user_id=1000,group_id=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.user, Some(1000));
        assert_eq!((entry.device.as_str(), entry.dir.to_str()), ("98:0", Some("/a b\\c")));
        assert!(entry.is_ours());
        assert!(!parse(b"36 35 98:0 / /x rw - ext4 /dev/x rw").unwrap().is_ours());
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_root_is_mounted() {
        assert_eq!(at(Path::new("/")).unwrap().unwrap().dir, Path::new("/"));
        let proc = containing(Path::new("/proc/self/status")).unwrap().unwrap();
        assert_eq!((proc.kind.as_str(), proc.source.as_str()), ("proc", "proc"));
    }
}
