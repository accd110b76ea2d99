//! The signals that end a mount.

use std::fs;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM, SIGHUP (the terminal was closed) and SIGQUIT. One that was ignored when the
/// process started stays ignored, as nohup(1) and a shell that starts a job with `&` expect;
/// SIGTERM is always handled.
pub struct Signals(Vec<Signal>);

impl Signals {
    /// # Errors
    /// In words for the operator.
    pub fn new() -> Result<Signals, String> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        let is_ignored = |kind: &SignalKind| ignored & 1 << (kind.as_raw_value() - 1) != 0;
        let kinds = [SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
        let heard = kinds.into_iter().filter(|kind| !is_ignored(kind));
        let heard = heard.chain([SignalKind::terminate()]).map(signal).collect::<Result<_, _>>();
        // With a handler, a write beyond `ulimit -f` fails; without one it ends the process, which
        // leaves its temporary file, or its mount (setrlimit(2)).
        let heard = signal(SignalKind::from_raw(libc::SIGXFSZ)).and(heard);
        heard.map(Signals).map_err(|e| format!("no signal handler: {e}"))
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) {
        let next = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(next).await;
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
