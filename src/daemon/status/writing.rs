//! The writing half of a mount's status.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bucket::honours::Honours;
use crate::fs::Fs;
use crate::pending::State;
use crate::process;
use crate::shown::Shown;

/// Pending files and counters of a writable mount. Field names are part of the interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WritingStatus {
    /// Which conditions the store honoured in the test at the start of the mount.
    pub honours: Honours,
    pub committed: u64,
    pub failed: u64,
    /// Commits that failed after the last close, so that no program got the error.
    pub failed_untold: u64,
    pub uploads_aborted: u64,
    pub bytes_written: u64,
    /// Memory of pending files (half of `--buffer-memory`).
    pub memory_bytes: usize,
    pub memory_bytes_peak: usize,
    pub memory_bytes_cap: usize,
    /// Writes that wait for memory.
    pub writes_waiting: usize,
    /// The spool; none with `--no-spool`.
    pub spool_bytes: Option<u64>,
    pub spool_size: Option<u64>,
    pub pending: Vec<PendingStatus>,
}

/// A pending file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PendingStatus {
    pub key: String,
    pub bytes: u64,
    /// Parts that were uploaded.
    pub parts_sent: usize,
    pub state: State,
    pub age_s: f64,
    /// The process that has it open for writing, and its command, while it runs.
    pub pid: Option<u32>,
    pub command: Option<String>,
}

impl WritingStatus {
    /// `None` for a read-only mount.
    pub fn of(fs: &Fs) -> Option<WritingStatus> {
        let writing = fs.writing().ok()?;
        let writer = &writing.writer;
        let (memory, spool, commits) = (&writer.room.memory, &writer.room.spool, &writer.commits);
        let handles = fs.open_handles();
        let opener = |key: &str| {
            let of_key = |handle: &&crate::fs::handle::WriteHandle| &*handle.pending.key() == key;
            let writing = handles.iter().filter_map(|(_, handle)| handle.writing());
            writing.filter(|handle| handle.pending.writes()).find(of_key).map(|handle| handle.pid)
        };
        let pending = writing.overlay.drafts().into_iter().map(|draft| {
            let (pending, key) = (&draft.pending, draft.pending.key());
            let pid = opener(&key);
            let (process, command) = pid.and_then(process::with_command).unzip();
            PendingStatus {
                bytes: pending.size(),
                parts_sent: pending.parts_sent(),
                state: pending.state(),
                age_s: pending.age().as_secs_f64(),
                pid: process.or(pid),
                command,
                key: key.to_string(),
            }
        });
        Some(WritingStatus {
            honours: writer.honours,
            committed: commits.committed.get(),
            failed: commits.failed.get(),
            failed_untold: commits.untold.get(),
            uploads_aborted: commits.aborted_uploads.get(),
            bytes_written: commits.bytes_written.get(),
            memory_bytes: memory.held() << 10,
            memory_bytes_peak: memory.peak() << 10,
            memory_bytes_cap: memory.cap() << 10,
            writes_waiting: memory.waiting(),
            spool_bytes: spool.as_ref().map(|spool| spool.used()),
            spool_size: spool.as_ref().map(|spool| spool.size()),
            pending: pending.collect(),
        })
    }
}

impl fmt::Display for WritingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "commits      {} done, {} failed ({} after the last close), {} uploads aborted; \
             {} bytes written",
            self.committed,
            self.failed,
            self.failed_untold,
            self.uploads_aborted,
            self.bytes_written
        )?;
        let kib = |bytes: usize| bytes.div_ceil(1 << 10);
        write!(
            f,
            "pending      {} files; {} KiB in memory, {} writes waiting; peak {}, cap {}; spool ",
            self.pending.len(),
            kib(self.memory_bytes),
            self.writes_waiting,
            kib(self.memory_bytes_peak),
            kib(self.memory_bytes_cap)
        )?;
        match (self.spool_bytes, self.spool_size) {
            (Some(bytes), Some(size)) => {
                writeln!(f, "{} of {} KiB", bytes.div_ceil(1 << 10), size >> 10)?;
            }
            _ => writeln!(f, "none")?,
        }
        match self.honours.lacking() {
            None => writeln!(f, "store        honours all conditions that are relied on")?,
            Some(lacking) => writeln!(f, "store        {lacking}")?,
        }
        if !self.pending.is_empty() {
            writeln!(
                f,
                "\n{:>8}  {:15}  {:10} {:>7} {:>6}  {:>14}  PENDING KEY",
                "PID", "COMMAND", "STATE", "AGE", "PARTS", "BYTES"
            )?;
        }
        for file in &self.pending {
            writeln!(
                f,
                "{:>8}  {:15}  {:10} {:>6.0}s {:>6}  {:>14}  {}",
                file.pid.map_or("-".to_owned(), |pid| pid.to_string()),
                Shown(file.command.as_deref().unwrap_or("-")),
                format!("{:?}", file.state).to_lowercase(),
                file.age_s,
                file.parts_sent,
                file.bytes,
                Shown(&file.key)
            )?;
        }
        Ok(())
    }
}
