//! What a command says, on standard output and standard error. Everything goes through here, so
//! that no text of a bucket drives the terminal, and a closed stream ends nothing by a panic.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::shown;

/// Whether anybody can still read standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reader {
    There,
    /// It was closed, as `head` does when it has seen enough: a reason to end, and no failure.
    Gone,
}

/// Writes lines for people.
///
/// # Errors
/// Where it cannot be written, in words for the operator.
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
        // The end of a reader is told whatever is asked for (poll(2), POLLERR).
        poll(&mut [PollFd::new(out.as_fd(), PollFlags::empty())], PollTimeout::NONE)
    });
    if let Ok(Ok(1..)) = waiting.await {
        return;
    }
    std::future::pending().await
}

/// Writes a line for the operator to standard error. If that is closed, only the line is lost.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", shown::line(line));
}
