//! Output of commands, on standard output and standard error. All of it goes through here, so that
//! text from a bucket cannot control the terminal, and a closed stream causes no panic.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::terminal;
use crate::shown;

/// Whether anybody can still read standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reader {
    There,
    /// It was closed, as `head` does after enough lines: the command ends, without an error.
    Gone,
}

/// Writes lines for people.
///
/// # Errors
/// If it cannot be written, in words for the operator.
pub fn print(text: &str) -> Result<Reader, String> {
    write(&shown::lines(text))
}

/// Writes a JSON text and ends its line.
///
/// # Errors
/// The same.
pub fn print_json(json: &str) -> Result<Reader, String> {
    write(&format!("{}\n", shown::json(json)))
}

/// Clears the screen before the next lines, if standard output is a terminal that can; else ends a
/// block of lines with an empty one.
///
/// # Errors
/// The same.
pub fn clear() -> Result<Reader, String> {
    // CUP and ED of ECMA-48.
    write(if is_screen() { "\x1b[H\x1b[2J" } else { "\n" })
}

/// Whether standard output is a terminal that understands more than lines.
pub fn is_screen() -> bool {
    io::stdout().is_terminal() && !terminal::is_dumb()
}

fn write(text: &str) -> Result<Reader, String> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(format!("standard output: {error}")),
    }
}

/// Waits until standard output has no reader. The thread that waits ends with the process.
pub async fn gone() {
    let waiting = tokio::task::spawn_blocking(|| {
        let out = io::stdout();
        // POLLERR is always reported, even with no events requested (poll(2)).
        poll(&mut [PollFd::new(out.as_fd(), PollFlags::empty())], PollTimeout::NONE)
    });
    if let Ok(Ok(1..)) = waiting.await {
        return;
    }
    std::future::pending().await
}

/// How long a line for the operator may wait for a reader that is slow.
const PATIENCE: u16 = 1000;

/// Writes a line for the operator to standard error. If that is closed, or nobody reads it, only the
/// line is lost.
pub fn say(line: &str) {
    let stderr = io::stderr();
    if poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PATIENCE) == Ok(0) {
        return;
    }
    let _ = writeln!(io::stderr(), "{}", shown::line(line));
}
