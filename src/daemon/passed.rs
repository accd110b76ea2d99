//! A mount point `/dev/fd/N`: descriptor N is /dev/fuse, opened and mounted by the process that has
//! started this one, which therefore needs no privilege.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{fstat, major, minor};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::daemon::mounts::{self, MountEntry};

/// Of /dev/fuse (the kernel's `Documentation/admin-guide/devices.txt`).
const MISC: u64 = 10;
const FUSE: u64 = 229;

/// The N of `/dev/fd/N`.
pub fn number(dir: &Path) -> Option<RawFd> {
    let name = dir.strip_prefix("/dev/fd").ok()?.to_str()?;
    name.bytes().all(|b| b.is_ascii_digit()).then(|| name.parse().ok()).flatten()
}

/// A descriptor of the same open file, made by sending it to ourselves (unix(7), `SCM_RIGHTS`): the
/// number alone owns nothing. `/proc/self/fd/N` would open the device anew.
///
/// # Errors
/// If N is not open, or not /dev/fuse.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    let (sender, receiver) = UnixStream::pair()?;
    let (rights, byte) = ([number], [IoSlice::new(&[0])]);
    let rights = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(sender.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut received = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&receiver, &mut [IoSliceMut::new(&mut [0])], &mut received, RecvFlags::CMSG_CLOEXEC)?;
    let found = received.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let device = found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
    let kind = fstat(&device)?.st_rdev;
    match (major(kind), minor(kind)) {
        (MISC, FUSE) => Ok(device),
        _ => Err(io::Error::other("this descriptor is not /dev/fuse")),
    }
}

/// Its mount as this process sees it: it may be in another mount namespace, and then it has no entry
/// here.
pub fn mount_of(device: &OwnedFd, dir: &Path) -> io::Result<MountEntry> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", device.as_raw_fd()))?;
    // Since Linux 6.16.
    let number = info.lines().find_map(|line| line.strip_prefix("fuse_connection:"));
    let number = number.and_then(|number| number.trim().parse().ok());
    mounts::of_connection(number, dir)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn numbers() {
        let cases =
            [("/dev/fd/7", Some(7)), ("/dev/fd", None), ("/dev/fd/x", None), ("/dev/fd/7/x", None)];
        for (dir, n) in cases {
            assert_eq!(number(Path::new(dir)), n, "{dir}");
        }
        assert_eq!(number(Path::new("/dev/fd/99999999999999")), None);
        assert_eq!(number(Path::new("/mnt/7")), None);
    }

    #[test]
    fn only_a_fuse_device_is_taken() {
        let file = File::open("/dev/null").unwrap();
        assert!(take(file.as_raw_fd()).unwrap_err().to_string().contains("not /dev/fuse"));
        assert_eq!(take(9999).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
