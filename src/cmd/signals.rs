//! The signals that end a mount, and the one that rotates its log.

use std::fs;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::log::Rotation;

/// SIGINT, SIGTERM, SIGQUIT, and SIGHUP of a terminal that was closed. One that was ignored when the
/// process started stays ignored, as nohup(1) and a shell that starts a job with `&` expect;
/// SIGTERM is always handled.
pub struct Signals {
    ending: Vec<Signal>,
    /// Makes it open its log file anew.
    rotating: Option<(Signal, Option<Rotation>)>,
}

impl Signals {
    /// # Errors
    /// In words for the operator.
    pub fn new() -> Result<Signals, String> {
        Signals::rotating(None, false)
    }

    /// Of a process that stays. With a log file, in the background, and as a service, SIGHUP ends
    /// nothing.
    ///
    /// # Errors
    /// The same.
    pub fn rotating(log: Option<Rotation>, no_terminal: bool) -> Result<Signals, String> {
        let failed = |e| format!("no signal handler: {e}");
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        let is_ignored = |kind: &SignalKind| ignored & 1 << (kind.as_raw_value() - 1) != 0;
        let rotates = log.is_some() || no_terminal;
        let kinds = [SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
        let heard = kinds.into_iter().filter(|kind| !is_ignored(kind));
        let heard = heard.filter(|kind| !rotates || *kind != SignalKind::hangup());
        let heard = heard.chain([SignalKind::terminate()]).map(signal).collect::<Result<_, _>>();
        // With a handler, a write beyond `ulimit -f` fails; without one it ends the process, which
        // leaves its temporary file, or its mount (setrlimit(2)).
        let heard = signal(SignalKind::from_raw(libc::SIGXFSZ)).and(heard);
        let ending = heard.map_err(failed)?;
        let rotating = match rotates {
            true => Some((signal(SignalKind::hangup()).map_err(failed)?, log)),
            false => None,
        };
        Ok(Signals { ending, rotating })
    }

    /// Waits for the next one that ends the mount, and rotates the log meanwhile.
    pub async fn next(&mut self) {
        let next = self.ending.iter_mut().map(|signal| Box::pin(signal.recv()));
        let mut ended = futures_util::future::select_all(next);
        let Some((hangup, log)) = &mut self.rotating else {
            ended.await;
            return;
        };
        loop {
            tokio::select! {
                _ = &mut ended => return,
                _ = hangup.recv() => log.iter().for_each(Rotation::now),
            }
        }
    }
}

/// The mask of ignored signals in a `/proc/PID/status` (proc_pid_status(5)): bit N - 1 is signal N.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals() {
        assert_eq!(
            ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"),
            0x1001
        );
        assert_eq!(ignored(""), 0);
    }
}
