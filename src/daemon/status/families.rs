//! Each metric of a mount: its name, what it says, and where in the status it is.

use prometheus_client::registry::Unit;

use super::exposition::Describing;
use super::{Status, WritingStatus};

pub(super) fn of(status: &Status, to: &mut Describing<'_>) {
    let s = status;
    to.info("build", "The version that serves the mount", vec![("version", s.version.clone())]);
    let mount = vec![("source", s.source.clone()), ("dir", s.dir.clone())];
    to.info("mount", "What is mounted, and where", mount);
    let started = s.started_unix_s;
    to.gauge_of("start_time", Unit::Seconds, "When the mount began to serve, since 1970", started);
    bodies(s, to);
    to.gauge("handles_open", "Files that are open for reading", s.handles);
    to.gauge("inodes", "Inodes that the kernel knows", s.inodes);
    descriptors(s, to);
    to.timed(
        ("operations", "Operations of the file system by kind and errno, or ok"),
        ("operation_duration", "Time from the kernel's request to the reply, by kind of operation"),
        &s.operations,
    );
    requests(s, to);
    bytes(s, to);
    caches(s, to);
    expiry(s, to);
    if let Some(writing) = &s.writing {
        of_writing(writing, to);
    }
}

fn bodies(s: &Status, to: &mut Describing<'_>) {
    to.gauge("bodies_cap", "Maximum number of open bodies (--max-open-bodies)", s.cap);
    to.gauge(
        "bodies_open",
        "Responses of the store that are open, one for each file being read",
        s.bodies_open,
    );
    to.gauge("bodies_peak", "Highest number of open bodies so far", s.bodies_peak);
    to.gauge(
        "bodies_parked",
        "Open files whose body was closed to make room for another",
        s.bodies_parked,
    );
    to.gauge(
        "bodies_forgotten",
        "Bodies that are open and were not read for --idle-warn",
        s.bodies_forgotten,
    );
    to.counter(
        "bodies_resumed",
        "Bodies that broke and were requested again from their last byte",
        s.bodies_resumed,
    );
    to.gauge(
        "opens_waiting",
        "Opens that wait for a body at the cap (--open-wait)",
        s.opens_waiting,
    );
}

fn descriptors(s: &Status, to: &mut Describing<'_>) {
    to.gauge(
        "file_descriptors_limit",
        "The limit of open file descriptors (RLIMIT_NOFILE)",
        s.fd_limit,
    );
    to.gauge("file_descriptors_open", "Open file descriptors, sockets included", s.fds);
    to.gauge("file_descriptors_peak", "Highest number of open file descriptors so far", s.fds_peak);
    to.gauge("sockets_open", "Open sockets", s.sockets);
    to.gauge("sockets_peak", "Highest number of open sockets so far", s.sockets_peak);
}

fn requests(s: &Status, to: &mut Describing<'_>) {
    to.timed(
        (
            "s3_requests",
            "Tries of requests to the store by operation and result: the class of the HTTP status, or \
             why there was none",
        ),
        ("s3_request_duration", "Time from sending a request to the headers of its response, by operation"),
        &s.answers,
    );
    to.counter(
        "s3_throttled",
        "Responses by which the store throttles (503 SlowDown, 429)",
        s.throttled,
    );
    let usd = Unit::Other("usd".to_owned());
    to.counter_of(
        "s3_list_price",
        usd,
        "What the requests cost by the list prices of S3 Standard in us-east-1",
        s.usd,
    );
    to.counter(
        "connections_opened",
        "Connections to the store that were opened",
        s.connections_opened,
    );
    to.counter(
        "connections_reused",
        "Responses over a connection that had been used before",
        s.connections_reused,
    );
}

fn bytes(s: &Status, to: &mut Describing<'_>) {
    to.counter_of(
        "received",
        Unit::Bytes,
        "Content received from the store",
        s.bytes_received as f64,
    );
    to.counter_of("read", Unit::Bytes, "Content given to the kernel", s.bytes_read as f64);
    to.gauge("reads_waiting", "Reads that wait for memory (--buffer-memory)", s.reads_waiting);
    to.gauge_of(
        "buffers",
        Unit::Bytes,
        "Memory of buffers between the store and the kernel",
        s.buffer_bytes as f64,
    );
    to.gauge_of(
        "buffers_cap",
        Unit::Bytes,
        "Maximum of that memory (--buffer-memory)",
        s.buffer_bytes_cap as f64,
    );
    to.gauge_of(
        "first_bytes_cached",
        Unit::Bytes,
        "First bytes of files that are cached for opens (--probe-cache)",
        s.probe_bytes as f64,
    );
}

fn caches(s: &Status, to: &mut Describing<'_>) {
    let of =
        |name: &str, result: &str| vec![("cache", name.to_owned()), ("result", result.to_owned())];
    let counts = s.caches.by_name().into_iter().flat_map(|(name, counts)| {
        [(of(name, "hit"), counts.hits), (of(name, "miss"), counts.misses)]
    });
    to.counters(
        "cache_requests",
        "Questions to the caches, by cache and result (hit, miss)",
        counts,
    );
    to.gauge(
        "versions_cached",
        "Object versions with cached expiry headers (--index-memory)",
        s.versions_known,
    );
}

fn expiry(s: &Status, to: &mut Describing<'_>) {
    to.counter("expired_answers", "Times at which an expired object was hidden", s.expired_hidden);
    to.counter(
        "unparsable_versions",
        "Object versions whose Expires cannot be parsed",
        s.unparsable,
    );
    to.counter("unnameable_keys", "Keys in listings that cannot be a path", s.unnameable);
    to.lifetimes(
        "opened_time_to_expiry",
        "Time until the file expires, at each open for reading of one that does",
        &s.opened.left,
    );
    to.counter(
        "opened_without_expiry",
        "Opens for reading of files that do not expire",
        s.opened.endless,
    );
    let offset = s.clock_offset_ms as f64 / 1000.0;
    to.gauge_of(
        "clock_offset",
        Unit::Seconds,
        "The clock of the store minus that of this host",
        offset,
    );
}

/// Only of a mount that is writable.
fn of_writing(w: &WritingStatus, to: &mut Describing<'_>) {
    to.gauge(
        "pending_files",
        "Files that are being written, or wait for their commit",
        w.pending.len(),
    );
    let commits = [
        ("ok", w.committed),
        ("failed", w.failed.saturating_sub(w.failed_untold)),
        ("failed_after_close", w.failed_untold),
    ];
    let commits = commits.map(|(result, count)| (vec![("result", result.to_owned())], count));
    to.counters("commits", "Commits of written files, by result; of those that failed after the last close no program was told", commits);
    to.counter("uploads_aborted", "Multipart uploads that were aborted", w.uploads_aborted);
    to.counter_of(
        "written",
        Unit::Bytes,
        "Content that programs wrote, also to files that are never committed",
        w.bytes_written as f64,
    );
    to.gauge("writes_waiting", "Writes that wait for memory (--buffer-memory)", w.writes_waiting);
    to.gauge_of(
        "pending_memory",
        Unit::Bytes,
        "Memory of files that are being written",
        w.memory_bytes as f64,
    );
    to.gauge_of(
        "spool_used",
        Unit::Bytes,
        "Bytes in the spool; 0 with --no-spool",
        w.spool_bytes.unwrap_or(0) as f64,
    );
    to.gauge_of(
        "spool_size",
        Unit::Bytes,
        "Maximum size of the spool (--spool-size); 0 with --no-spool",
        w.spool_size.unwrap_or(0) as f64,
    );
}
