//! The status of a mount: one structure, as JSON and as text.

mod exposition;
mod families;
mod writing;

use std::fmt;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::body::State;
use crate::clock::Clock;
use crate::fd_budget::{Budget, InUse};
use crate::fs::Fs;
use crate::fs::handle::ReadHandle;
use crate::metrics::{ByKind, Cache, CacheCounts, Caches, OpenedCounts, Requests};
use crate::process;
use crate::shown::Shown;
pub use exposition::{Family, Format};
pub use writing::{PendingStatus, WritingStatus};

/// The state of a mount. Field names are part of the interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub source: String,
    pub dir: String,
    pub uptime_s: f64,
    /// When it began to serve, in seconds since 1970, by the clock of this host.
    pub started_unix_s: f64,
    /// Where its metrics are served (`--metrics`).
    pub metrics_at: Option<String>,
    /// The cap on open bodies, and how it was computed.
    pub cap: usize,
    pub cap_derivation: String,
    pub bodies_open: usize,
    pub bodies_parked: usize,
    pub bodies_peak: usize,
    /// Bodies that broke before their end and were requested again from there.
    pub bodies_resumed: u64,
    /// Bodies held open without a read for longer than `--idle-warn`.
    pub bodies_forgotten: usize,
    pub opens_waiting: usize,
    /// Reads that wait for memory.
    pub reads_waiting: usize,
    pub handles: usize,
    pub inodes: usize,
    pub fd_limit: usize,
    /// Descriptors and sockets of the daemon now, and the highest numbers seen (checked once a
    /// second).
    pub fds: usize,
    pub fds_peak: usize,
    pub sockets: usize,
    pub sockets_peak: usize,
    /// Connections opened, and responses received over a reused one.
    pub connections_opened: u64,
    pub connections_reused: u64,
    /// Memory of buffers between the store and the kernel (`--buffer-memory`).
    pub buffer_bytes: usize,
    pub buffer_bytes_peak: usize,
    pub buffer_bytes_cap: usize,
    /// Bytes fetched with lookups and cached for opens (`--probe-cache`).
    pub probe_bytes: usize,
    /// Requests of the kernel, and the tries of requests to the store, by kind. Those that never occurred
    /// are left out.
    pub operations: ByKind,
    pub answers: ByKind,
    pub requests: Requests<u64>,
    /// By the list prices of S3 Standard in us-east-1.
    pub usd: f64,
    pub caches: Caches<CacheCounts>,
    /// Files opened for reading, by the seconds until they expire.
    pub opened: OpenedCounts,
    /// Throttling responses of the store (503 SlowDown, 429).
    pub throttled: u64,
    /// Object versions with cached expiry headers (`--index-memory`).
    pub versions_known: usize,
    /// Bytes of objects received from the store, and given to the kernel.
    pub bytes_received: u64,
    pub bytes_read: u64,
    pub expired_hidden: u64,
    pub unparsable: u64,
    pub unnameable: u64,
    /// The store's clock minus this host's.
    pub clock_offset_ms: i64,
    pub handles_detail: Vec<HandleStatus>,
    /// None for a read-only mount.
    pub writing: Option<WritingStatus>,
}

/// An open file handle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandleStatus {
    pub handle: u64,
    pub key: String,
    /// Offset after the last byte read, and the object's size.
    pub offset: u64,
    pub length: u64,
    pub age_s: f64,
    /// Since the last read; none before the first.
    pub idle_s: Option<f64>,
    /// Until the object expires; negative if it has, none if it does not.
    pub expires_in_s: Option<f64>,
    pub state: State,
    pub ino: u64,
    /// The process that opened it, and its command, while it runs.
    pub pid: u32,
    pub command: Option<String>,
}

/// When a mount began to serve. The local time is kept, so that it is the same in each status: another
/// one means another daemon.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    at: Instant,
    unix: Duration,
}

impl Started {
    pub fn now(clock: &Clock) -> Started {
        let unix = clock.local_now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Started { at: Instant::now(), unix }
    }
}

impl Status {
    /// `now` and `peak` are the use of descriptors; `source` and `dir` name the mount.
    pub fn of(
        fs: &Fs,
        idle_warn: Option<Duration>,
        budget: &Budget,
        (now, peak): (InUse, InUse),
        source: &str,
        dir: &str,
        started: Started,
    ) -> Status {
        let (accounts, metrics) = (fs.accounts(), fs.metrics());
        let bodies = &accounts.bodies;
        let handles = fs.open_handles();
        let forgotten = |handle: &&ReadHandle| {
            idle_warn.is_some_and(|warn| handle.held_for().is_some_and(|held| held >= warn))
        };
        let reading = || handles.iter().filter_map(|(_, handle)| handle.reading().ok());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            source: source.to_owned(),
            dir: dir.to_owned(),
            uptime_s: started.at.elapsed().as_secs_f64(),
            started_unix_s: started.unix.as_secs_f64(),
            metrics_at: None,
            cap: bodies.cap(),
            cap_derivation: budget.to_string(),
            bodies_open: bodies.held(),
            bodies_parked: reading().filter(|h| h.reader.state() == State::Parked).count(),
            bodies_peak: bodies.peak(),
            bodies_forgotten: reading().filter(forgotten).count(),
            bodies_resumed: accounts.resumed.get(),
            opens_waiting: bodies.waiting(),
            reads_waiting: accounts.memory.waiting(),
            handles: reading().count(),
            inodes: fs.inode_count(),
            fd_limit: budget.limit,
            fds: now.fds,
            fds_peak: peak.fds,
            sockets: now.sockets,
            sockets_peak: peak.sockets,
            connections_opened: metrics.connections_opened.get(),
            connections_reused: metrics.connections_reused.get(),
            buffer_bytes: accounts.memory.held() << 10,
            buffer_bytes_peak: accounts.memory.peak() << 10,
            buffer_bytes_cap: accounts.memory.cap() << 10,
            probe_bytes: fs.probed_bytes(),
            operations: metrics.operations.now(errno_name),
            answers: metrics.answers.now(),
            requests: metrics.requests.now(),
            usd: metrics.requests.now().usd(),
            caches: metrics.caches.map(Cache::now),
            opened: metrics.opened.now(),
            throttled: metrics.throttled.get(),
            versions_known: fs.index().len(),
            bytes_received: metrics.bytes_received.get(),
            bytes_read: metrics.bytes_read.get(),
            expired_hidden: metrics.expired_hidden.get(),
            unparsable: metrics.unparsable.get(),
            unnameable: metrics.unnameable.get(),
            clock_offset_ms: fs.clock().offset_ms(),
            handles_detail: Vec::new(),
            writing: WritingStatus::of(fs),
        }
    }

    /// The same with the open handles, whose processes it looks up.
    pub fn with_handles(self, fs: &Fs) -> Status {
        let (handles, now) = (fs.open_handles(), fs.clock().now());
        let reading = handles.iter().filter_map(|(n, handle)| Some((*n, handle.reading().ok()?)));
        let detail = reading.map(|(number, handle)| {
            let reader = &handle.reader;
            let (pid, command) = process::with_command(handle.pid).unzip();
            HandleStatus {
                handle: number,
                key: reader.version().key.to_string(),
                offset: reader.offset(),
                length: reader.version().size,
                age_s: reader.age().as_secs_f64(),
                idle_s: reader.unread_for().map(|d| d.as_secs_f64()),
                expires_in_s: handle.file().expiry.instant().map(|at| seconds_until(at, now)),
                state: reader.state(),
                ino: handle.ino,
                pid: pid.unwrap_or(handle.pid),
                command,
            }
        });
        Status { handles_detail: detail.collect(), ..self }
    }
}

/// Negative if it has passed.
fn seconds_until(at: SystemTime, now: SystemTime) -> f64 {
    match at.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(passed) => -passed.duration().as_secs_f64(),
    }
}

/// `ENOENT` for 2.
fn errno_name(errno: i32) -> String {
    format!("{:?}", Errno::from_raw(errno))
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = humantime::format_duration(Duration::from_secs(self.uptime_s as u64));
        let (source, dir) = (Shown(&self.source), Shown(&self.dir));
        writeln!(f, "{source} on {dir}, pid {}, up {up}", self.pid)?;
        writeln!(
            f,
            "bodies       {} open ({} forgotten), {} parked, {} opens waiting, {} resumed; \
             peak {}, cap {}",
            self.bodies_open,
            self.bodies_forgotten,
            self.bodies_parked,
            self.opens_waiting,
            self.bodies_resumed,
            self.bodies_peak,
            self.cap
        )?;
        writeln!(f, "cap          {}", self.cap_derivation)?;
        writeln!(f, "handles      {}; {} inodes", self.handles, self.inodes)?;
        writeln!(
            f,
            "descriptors  {} of {}, {} of them sockets; peak {}, {}",
            self.fds, self.fd_limit, self.sockets, self.fds_peak, self.sockets_peak
        )?;
        let Requests { get, head, list, .. } = self.requests;
        write!(f, "requests     {get} GET, {head} HEAD, {list} LIST")?;
        let Requests { put, copy, rename, delete, .. } = self.requests;
        let Requests {
            create_upload, upload_part, copy_part, complete_upload, abort_upload, ..
        } = self.requests;
        if self.writing.is_some() {
            write!(f, ", {put} PUT, {copy} COPY, {rename} RENAME, {delete} DELETE, ")?;
            write!(f, "{create_upload} + {complete_upload} + {abort_upload} of uploads, ")?;
            write!(f, "{upload_part} + {copy_part} of parts")?;
        }
        writeln!(f, "; {} throttled", self.throttled)?;
        writeln!(f, "versions     {} with cached expiry headers", self.versions_known)?;
        writeln!(
            f,
            "connections  {} new, {} times one was reused",
            self.connections_opened, self.connections_reused
        )?;
        let kib = |bytes: usize| bytes.div_ceil(1 << 10);
        writeln!(
            f,
            "memory       {} KiB in buffers, {} reads waiting; peak {}, cap {}; {} KiB cached for opens",
            kib(self.buffer_bytes),
            self.reads_waiting,
            kib(self.buffer_bytes_peak),
            kib(self.buffer_bytes_cap),
            kib(self.probe_bytes)
        )?;
        writeln!(f, "bytes        {} received, {} read", self.bytes_received, self.bytes_read)?;
        writeln!(
            f,
            "expired      {} times absent; {} unparsable, {} unnameable keys",
            self.expired_hidden, self.unparsable, self.unnameable
        )?;
        if let Some(at) = &self.metrics_at {
            writeln!(f, "metrics      at http://{}/metrics", Shown(at))?;
        }
        writeln!(f, "clock        the store's is {} ms ahead", self.clock_offset_ms)?;
        if let Some(writing) = &self.writing {
            write!(f, "{writing}")?;
        }
        if !self.handles_detail.is_empty() {
            writeln!(
                f,
                "\n{:>8}  {:15}  {:8} {:>7} {:>7}  {:>12} / {:<12} KEY",
                "PID", "COMMAND", "STATE", "AGE", "IDLE", "OFFSET", "LENGTH"
            )?;
        }
        for h in &self.handles_detail {
            let state = format!("{:?}", h.state).to_lowercase();
            let idle = h.idle_s.map_or("-".to_owned(), |s| format!("{s:.0}s"));
            writeln!(
                f,
                "{:>8}  {:15}  {state:8} {:>6.0}s {idle:>7}  {:>12} / {:<12} {}",
                h.pid,
                Shown(h.command.as_deref().unwrap_or("-")),
                h.age_s,
                h.offset,
                h.length,
                Shown(&h.key)
            )?;
        }
        Ok(())
    }
}
