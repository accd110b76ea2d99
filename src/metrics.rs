//! Counters of what the mount did: written where it happens, read by `status`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one mount.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests sent to the store, each try of each.
    pub get: Counter,
    pub head: Counter,
    pub list: Counter,
    /// Answers that refused a request for the number of them.
    pub throttled: Counter,
    /// Bytes of objects received.
    pub bytes_received: Counter,
    /// Bytes given to the kernel.
    pub bytes_read: Counter,
    /// Answers in which an expired object was absent: names looked up, entries not listed.
    pub expired_hidden: Counter,
    /// Object versions met whose `Expires` cannot be read.
    pub unparsable: Counter,
    /// Keys that cannot be a path, met in listings.
    pub unnameable: Counter,
    /// Connections opened, and closed again.
    pub connections_opened: Counter,
    pub connections_closed: Counter,
    /// Answers that came over a connection that had brought one before.
    pub connections_reused: Counter,
}
