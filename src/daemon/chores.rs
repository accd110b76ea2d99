//! The background tasks of a mount, each of which can be left out.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use crate::daemon::scrape::{Expose, Listener};
use crate::fd_budget::{self, Peak};
use crate::fs::Fs;
use crate::fs::inode::Idle;
use crate::process;

/// Names invalidated in one blocking call: the task can be ended between two calls.
const IDLE_NAMES: usize = 64;

/// Tasks that end when this value is dropped.
#[derive(Default)]
pub struct Chores(JoinSet<()>);

impl Chores {
    /// Records the highest number of open descriptors in `peak`.
    pub fn keep_peak(&mut self, peak: Arc<Peak>) {
        self.0.spawn(keep_peak(peak));
    }

    /// Makes the kernel drop names: those beyond the limits, and those that may be outdated.
    pub fn drop_names(&mut self, fs: Arc<Fs>, notifier: Notifier) {
        self.0.spawn(drop_names(fs, notifier));
    }

    /// Logs each body that is held open for this long without a read (`--idle-warn`).
    pub fn report_idle_bodies(&mut self, fs: Arc<Fs>, after: Duration) {
        self.0.spawn(report_idle_bodies(fs, after));
    }

    /// Serves the metrics over HTTP (`--metrics`).
    pub fn serve_metrics(&mut self, listener: Listener, expose: Arc<Expose>) {
        self.0.spawn(listener.serve(expose));
    }

    /// Logs descriptors that are open and not accounted for. Those that are open now count as
    /// accounted for, so this starts last.
    pub fn audit_descriptors(&mut self, fs: Arc<Fs>) {
        self.0.spawn(audit_descriptors(fs));
    }
}

/// Invalidates names in the kernel: those beyond the limits, and those that may be outdated.
async fn drop_names(fs: Arc<Fs>, notifier: Notifier) {
    loop {
        let first = fs.idle().await;
        let (fs, notifier) = (fs.clone(), notifier.clone());
        // FUSE_NOTIFY_INVAL_ENTRY waits for the lock of the directory.
        let dropped = tokio::task::spawn_blocking(move || {
            let more = std::iter::from_fn(|| fs.idle_now()).take(IDLE_NAMES);
            for Idle { parent, name } in std::iter::once(first).chain(more) {
                // The kernel may have dropped it already.
                let _ = notifier.inval_entry(INodeNo(parent), OsStr::new(&name));
            }
        });
        if dropped.await.is_err() {
            return;
        }
    }
}

/// Logs once each body that is held open without a read, so that a leak is noticed early.
async fn report_idle_bodies(fs: Arc<Fs>, after: Duration) {
    let pause = (after / 10).clamp(Duration::from_millis(100), Duration::from_secs(60));
    loop {
        tokio::time::sleep(pause).await;
        for handle in fs.newly_idle(after) {
            let Ok(handle) = handle.reading() else { continue };
            let reader = &handle.reader;
            let held = Duration::from_secs(handle.held_for().unwrap_or(after).as_secs());
            let (pid, command) = process::with_command(handle.pid).unzip();
            warn!(
                key = %reader.version().key,
                pid = pid.unwrap_or(handle.pid),
                command = command.unwrap_or_else(|| "gone".to_owned()),
                offset = reader.offset(),
                age = %humantime::format_duration(Duration::from_secs(reader.age().as_secs())),
                "a body is held open and has not been read for {}",
                humantime::format_duration(held)
            );
        }
    }
}

/// Descriptors that may be open for a moment during a check: clients of the control socket, DNS
/// queries, sockets about to be closed.
const UNACCOUNTED: usize = 16;

/// Compares the open descriptors of this process with those accounted for. Others are a leak and
/// are logged.
async fn audit_descriptors(fs: Arc<Fs>) {
    let accounted = || {
        let metrics = fs.metrics();
        let closed = metrics.connections_closed.get();
        metrics.connections_opened.get().saturating_sub(closed) as usize
    };
    let Ok(start) = fd_budget::in_use() else { return };
    let others = start.fds.saturating_sub(accounted());
    let (mut before, mut reported) = (0, UNACCOUNTED);
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let Ok(now) = fd_budget::in_use() else { continue };
        let account = others + accounted();
        let more = now.fds.saturating_sub(account);
        // Twice in a row, and more than at the last report.
        if more.min(before) > reported {
            reported = more;
            warn!(
                "{} descriptors are open and {account} accounted for: please report this leak, \
                 with the output of `ls -l /proc/{}/fd` and `expirefs status`",
                now.fds,
                std::process::id()
            );
        }
        before = more;
    }
}

/// Records the highest number of open descriptors. Counting takes longer the more there are, so it
/// is limited to 1 % of the time.
async fn keep_peak(peak: Arc<Peak>) {
    loop {
        let started = Instant::now();
        // It is looked at again soon.
        let _ = peak.look();
        let pause = Duration::from_secs(1).max(100 * started.elapsed());
        tokio::time::sleep(pause).await;
    }
}
