//! The destinations of the log: standard error, a file, and the sockets of syslog and the journal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::queue::Destination;

/// The socket of the journal, for its native protocol, and that of syslog (systemd.journal-fields(7),
/// syslog(3)).
pub const JOURNAL: &str = "/run/systemd/journal/socket";
pub const SYSLOG: &str = "/dev/log";

/// Standard error, without the lock of the standard library, which is held by who writes.
pub struct Stderr;

impl Stderr {
    /// Whether a write of a line does not block.
    pub fn takes_more(&self) -> bool {
        let stderr = io::stderr();
        let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1..))
    }
}

impl Destination for Stderr {
    fn write(&mut self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            match nix::unistd::write(io::stderr(), line) {
                Ok(n) => line = &line[n..],
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A file that is appended to.
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// A part of a line was written.
    torn: bool,
}

impl LogFile {
    /// # Errors
    /// If it cannot be opened for writing.
    pub fn open(path: &Path) -> io::Result<LogFile> {
        // The daemon may change its directory.
        let path = std::path::absolute(path)?;
        Ok(LogFile { file: open(&path)?, path, torn: false })
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut how = OpenOptions::new();
    // Names of files are not for everybody. The open of a FIFO that nobody reads fails, instead of
    // waiting.
    how.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK).open(path)
}

impl Destination for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(n) if n > 0 => rest = &rest[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    self.torn = rest.len() < line.len();
                    return failed.and(Err(io::ErrorKind::WriteZero.into()));
                }
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        self.torn = false;
        Ok(())
    }
}

/// A socket that takes a datagram for each line. Each is sent to the path, so that a server that
/// is started anew gets the next one.
pub struct Datagrams {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Datagrams {
    /// # Errors
    /// If nobody listens.
    pub fn to(path: &str) -> io::Result<Datagrams> {
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Datagrams { socket: UnixDatagram::unbound()?, path: path.into() })
    }
}

impl Destination for Datagrams {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.socket.send_to(line, &self.path).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::super::queue::Queue;
    use super::*;

    #[test]
    fn a_file_is_opened_anew_and_lines_go_to_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut file = LogFile::open(&path).unwrap();
        file.write(b"a\n").unwrap();
        fs::rename(&path, &old).unwrap();
        file.write(b"b\n").unwrap();
        file.reopen().unwrap();
        file.write(b"c\n").unwrap();
        assert_eq!(
            (fs::read(&old).unwrap(), fs::read(&path).unwrap()),
            (b"a\nb\n".into(), b"c\n".into())
        );
        // A folder that is gone: the file stays open.
        fs::remove_dir_all(folder.path()).unwrap();
        assert!(file.reopen().is_err());
        file.write(b"d\n").unwrap();
    }

    #[test]
    fn what_cannot_be_a_log_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(LogFile::open(&fifo).is_err(), "nobody reads it");
        assert!(LogFile::open(folder.path()).is_err());
        assert!(LogFile::open(&folder.path().join("no/log")).is_err());
    }

    #[test]
    fn a_server_that_is_started_anew_gets_the_next_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let path = path.to_str().unwrap();
        assert!(Datagrams::to(path).is_err(), "nobody listens");
        let server = UnixDatagram::bind(path).unwrap();
        let mut datagrams = Datagrams::to(path).unwrap();
        let mut buffer = [0; 16];
        datagrams.write(b"a").unwrap();
        assert_eq!(server.recv(&mut buffer).unwrap(), 1);
        drop(server);
        assert!(datagrams.write(b"b").is_err());
        fs::remove_file(path).unwrap();
        assert!(datagrams.write(b"b").is_err());
        let server = UnixDatagram::bind(path).unwrap();
        datagrams.write(b"cc").unwrap();
        assert_eq!(server.recv(&mut buffer).unwrap(), 2);
    }

    #[test]
    fn a_server_that_reads_nothing_blocks_only_the_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let path = path.to_str().unwrap();
        let server = UnixDatagram::bind(path).unwrap();
        let queue = Queue::start(Datagrams::to(path).unwrap()).unwrap();
        // More than a socket holds (net.unix.max_dgram_qlen).
        for n in 0..5000 {
            queue.push(format!("{n:05}").as_bytes());
        }
        queue.flush(Duration::from_millis(10));
        assert!(!queue.is_idle());
        let mut buffer = [0; 16];
        for n in 0..5000 {
            let length = server.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], *format!("{n:05}").as_bytes());
        }
    }

    #[test]
    fn a_line_after_a_torn_one_begins_anew() {
        let mut full = LogFile::open(Path::new("/dev/full")).unwrap();
        assert!(full.write(b"a\n").is_err() && !full.torn);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = LogFile::open(&path).unwrap();
        file.file.write_all(b"half").unwrap();
        file.torn = true;
        file.write(b"a\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"half\na\n");
    }
}
