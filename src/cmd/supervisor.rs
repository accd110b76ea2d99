//! systemd as the supervisor of a mount (sd_notify(3)): when it serves, what it does, and that it is
//! alive.
//!
//! It counts as alive while the kernel gets an answer to statfs(2) through the mount. That takes the
//! kernel, the threads that serve it and the reply; it never takes the store, whose health is no
//! reason to restart the mount.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::sleep;

use crate::config::environment;
use crate::daemon::mounts::MountEntry;
use crate::daemon::status::Status;
use crate::shown;

/// How often the status line is updated.
const PERIOD: Duration = Duration::from_secs(5);

/// How much longer than this moment an unmount may take.
const EXTENSION: Duration = Duration::from_secs(30);

/// The service manager that has started this process, if one has.
#[derive(Clone, Copy)]
pub struct Supervisor(());

impl Supervisor {
    pub fn find() -> Option<Supervisor> {
        environment::is_supervised().then_some(Supervisor(()))
    }

    /// What the mount waits for before it serves.
    pub fn waits(self, line: &str) {
        tell(&[NotifyState::Status(&shown::line(line))]);
    }

    /// The mount serves. The watchdog ends when the result is dropped.
    ///
    /// # Errors
    /// If the watchdog cannot be started, in words for the operator.
    pub fn serves(self, mount: MountEntry, status: &Status) -> Result<Option<Watchdog>, String> {
        let watchdog = sd_notify::watchdog_enabled().map(|limit| Watchdog::start(mount, limit / 2));
        let watchdog = watchdog.transpose().map_err(|e| format!("no watchdog: {e}"))?;
        tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
        Ok(watchdog)
    }

    /// Keeps the status line true. Ends only by being dropped.
    pub async fn report(self, status: impl Fn() -> Status) -> Infallible {
        let mut last = String::new();
        loop {
            let now = line(&status());
            if now != last {
                tell(&[NotifyState::Status(&now)]);
                last = now;
            }
            sleep(PERIOD).await;
        }
    }

    /// The mount is being unmounted, which waits for programs and for commits. Ends only by being
    /// dropped.
    pub async fn stops(self) -> Infallible {
        tell(&[NotifyState::Stopping, NotifyState::Status("unmounting: waits for open files")]);
        loop {
            let micros = EXTENSION.as_micros().try_into().unwrap_or(u32::MAX);
            tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
            sleep(PERIOD).await;
        }
    }
}

/// A service manager that does not listen is no reason to fail.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

fn line(status: &Status) -> String {
    let Status { source, dir, bodies_open, cap, handles, .. } = status;
    let what = format!("{source} on {dir}");
    let what = shown::line(&what);
    format!("serving {what}: {bodies_open} of {cap} bodies open, {handles} handles")
}

/// Tells the supervisor that the mount answers, until it is dropped.
pub struct Watchdog(#[expect(dead_code, reason = "dropping it ends the thread")] Sender<()>);

impl Watchdog {
    /// On a thread of its own: statfs(2) of a mount that does not answer never returns.
    #[expect(clippy::disallowed_methods, reason = "statfs(2) cannot be cancelled if it hangs")]
    fn start(mount: MountEntry, period: Duration) -> io::Result<Watchdog> {
        let (alive, ended) = mpsc::channel();
        let beat = move || {
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                if answers(mount.statfs()) {
                    tell(&[NotifyState::Watchdog]);
                }
            }
        };
        tell(&[NotifyState::Watchdog]);
        thread::Builder::new().name("watchdog".to_owned()).spawn(beat)?;
        Ok(Watchdog(alive))
    }
}

/// Whether a mount with this answer is alive. One that is covered by another mount, or detached, cannot
/// be asked, and ends by itself or goes on.
fn answers(asked: io::Result<()>) -> bool {
    !asked.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_without_a_daemon_is_dead() {
        let error = |number| Err(io::Error::from_raw_os_error(number));
        assert!(!answers(error(libc::ENOTCONN)));
        assert!(answers(Ok(())) && answers(error(libc::ENOENT)));
        assert!(answers(Err(io::Error::other("covered"))));
    }
}
