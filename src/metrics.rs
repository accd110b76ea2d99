//! Counters of what the mount did: written where it happens, read by `status`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

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

/// Requests sent to the store, each try of each, by what they ask for. Field names are those of
/// `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests<N> {
    pub get: N,
    pub head: N,
    pub list: N,
    pub put: N,
    pub copy: N,
    pub rename: N,
    pub delete: N,
    /// The steps of a multipart upload.
    pub create_upload: N,
    pub upload_part: N,
    pub copy_part: N,
    pub complete_upload: N,
    pub abort_upload: N,
    pub other: N,
}

impl Requests<Counter> {
    /// How many there have been so far.
    pub fn now(&self) -> Requests<u64> {
        Requests {
            get: self.get.get(),
            head: self.head.get(),
            list: self.list.get(),
            put: self.put.get(),
            copy: self.copy.get(),
            rename: self.rename.get(),
            delete: self.delete.get(),
            create_upload: self.create_upload.get(),
            upload_part: self.upload_part.get(),
            copy_part: self.copy_part.get(),
            complete_upload: self.complete_upload.get(),
            abort_upload: self.abort_upload.get(),
            other: self.other.get(),
        }
    }
}

/// The counters of one mount.
#[derive(Debug, Default)]
pub struct Metrics {
    pub requests: Requests<Counter>,
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
