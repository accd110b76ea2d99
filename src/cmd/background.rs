//! A mount in the background. `expirefs mount` starts itself anew, waits until the mount serves or
//! has failed, and ends.
//!
//! The two talk over a socket, the daemon's standard input at its start:
//!
//! - when it serves, the daemon sends one line for the operator;
//! - the command answers with a byte. If it is interrupted or dies before, the daemon finds the end
//!   of the stream and unmounts;
//! - the daemon lets go of standard error, and sends a byte; the command prints the line and ends.
//!
//! A daemon that fails prints its error line on the standard error of both, and ends.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, dup2_stdin, setsid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::on_runtime;
use super::signals::Signals;
use crate::config::environment;
use crate::output::say;

/// As the daemon is shown by ps(1) and found by pgrep(1).
const NAME: &str = "expirefs";

/// Not resolved: a path would name another program once this one has been replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Starts the daemon with these arguments, the first of which is the name of the program, and with the
/// variables of a file, and waits until it serves or has failed.
///
/// # Errors
/// In words for the operator. What the daemon has printed itself is not in it.
pub fn start(arguments: &[OsString], env_file: Option<&Path>) -> Result<ExitCode, String> {
    let failed = |error: io::Error| format!("cannot start a daemon: {error}");
    let (ours, theirs) = StdStream::pair().map_err(failed)?;
    // The command holds the daemon's end until it is dropped.
    let child = Command::new(THIS_PROGRAM)
        .arg0(NAME)
        .arg("--in-background")
        .args(arguments.get(1..).unwrap_or_default())
        .envs(environment::of_a_daemon(env_file)?)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    on_runtime(1, wait(child, ours))
}

async fn wait(mut child: Child, stream: StdStream) -> Result<ExitCode, String> {
    let failed = |error: io::Error| format!("cannot wait for the daemon: {error}");
    let mut signals = Signals::new()?;
    stream.set_nonblocking(true).map_err(failed)?;
    let mut stream = BufReader::new(UnixStream::from_std(stream).map_err(failed)?);
    let mut line = String::new();
    let serves = async {
        stream.read_line(&mut line).await?;
        stream.write_all(b"\n").await?;
        stream.read_u8().await
    };
    // An error is the end of the daemon, and its status tells more.
    let serves = tokio::select! {
        serves = serves => serves.is_ok(),
        () = signals.next() => false,
    };
    if serves {
        say(line.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let _ = stream.shutdown().await;
    // Ends when the daemon does.
    let ended = tokio::select! {
        status = tokio::task::spawn_blocking(move || child.wait()) => status,
        () = signals.next() => return Err("interrupted; the daemon has not ended yet".to_owned()),
    };
    match ended.map_err(io::Error::other).flatten() {
        Ok(status) => outcome(status),
        Err(error) => Err(failed(error)),
    }
}

/// What a daemon that does not serve has ended with. It has printed why, unless it was killed.
fn outcome(status: ExitStatus) -> Result<ExitCode, String> {
    match (status.code(), status.signal()) {
        (_, Some(number)) => {
            let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
            Err(format!("the daemon was killed by signal {number} ({name}) before it served"))
        }
        (Some(code @ 1..=255), None) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        // It was unmounted at once.
        _ => Err("the daemon ended before it served".to_owned()),
    }
}

/// The command that has started this daemon, and waits for it.
pub struct Starter(UnixStream);

impl Starter {
    /// Gives the process its name: of `/proc/self/exe` it is `exe`. Call it before any thread is
    /// started.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn name_process() -> Result<(), String> {
        prctl::set_name(c"expirefs").map_err(|e| format!("the name of the process: {e}"))
    }

    /// Takes it from standard input, which is /dev/null then: a program that the daemon starts must
    /// not hold it. Needs the runtime.
    ///
    /// # Errors
    /// In words for the operator, if nobody waits for this daemon.
    pub fn at_standard_input() -> Result<Starter, String> {
        let stream = io::stdin().as_fd().try_clone_to_owned().and_then(|stdin| {
            let stream = StdStream::from(stdin);
            stream.peer_addr()?;
            stream.set_nonblocking(true)?;
            // Standard output is /dev/null.
            dup2_stdin(io::stdout())?;
            UnixStream::from_std(stream)
        });
        let stream =
            stream.map_err(|e| format!("--in-background is only for `expirefs mount`: {e}"))?;
        Ok(Starter(stream))
    }

    /// Waits until it is gone, or was interrupted.
    pub async fn gone(&mut self) {
        // It sends nothing before it has been told that this mount serves.
        let _ = self.0.read(&mut [0]).await;
    }

    /// Tells it that this mount serves, with a line for the operator, and lets go of the session, of
    /// standard error and of the working directory. Returns whether it has received the line:
    /// otherwise nobody knows of this mount.
    ///
    /// Until it is mounted, this process has to be in the process group of mount(8): for others, the
    /// kernel's autofs delays each access to the mount point until it is mounted.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn leave(mut self, line: &str) -> Result<bool, String> {
        let failed = |error: io::Error| format!("cannot go on in the background: {error}");
        // Fails for a leader of a process group, which a daemon that `start` has started is not.
        setsid().map_err(|e| failed(e.into()))?;
        std::env::set_current_dir(Path::new("/")).map_err(failed)?;
        let told = self.0.write_all(format!("{line}\n").as_bytes()).await.is_ok()
            && self.0.read(&mut [0]).await.is_ok_and(|read| read == 1);
        if told {
            dup2_stderr(io::stdout()).map_err(|e| failed(e.into()))?;
            let _ = self.0.write_all(b"\n").await;
        }
        Ok(told)
    }
}
