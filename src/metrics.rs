//! Counters of a mount: incremented where things happen, read by `status`.

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

/// Requests sent to the store, including retries, by operation. Field names are those of `status`.
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
    /// The current counts.
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

impl Requests<u64> {
    pub fn sum(&self) -> u64 {
        let Requests { get, head, list, put, copy, rename, delete, other, .. } = self;
        get + head + list + put + copy + rename + delete + other + self.of_uploads()
    }

    /// US dollars by the list prices of S3 Standard in us-east-1: 0.005 for a thousand requests that
    /// list or write, 0.0004 for a thousand that read; to delete is free.
    pub fn usd(&self) -> f64 {
        let Requests { get, head, list, put, copy, rename, abort_upload, other, .. } = self;
        let dear = list + put + copy + rename + other + self.of_uploads() - abort_upload;
        (dear as f64 * 0.005 + (get + head) as f64 * 0.0004) / 1000.0
    }

    fn of_uploads(&self) -> u64 {
        let Requests { create_upload, upload_part, copy_part, .. } = self;
        create_upload + upload_part + copy_part + self.complete_upload + self.abort_upload
    }
}

/// The counters of one mount.
#[derive(Debug, Default)]
pub struct Metrics {
    pub requests: Requests<Counter>,
    /// Throttling responses (503 SlowDown, 429).
    pub throttled: Counter,
    /// Bytes of objects received.
    pub bytes_received: Counter,
    /// Bytes given to the kernel.
    pub bytes_read: Counter,
    /// How often an expired object was hidden, in lookups and listings.
    pub expired_hidden: Counter,
    /// Object versions seen whose `Expires` cannot be parsed.
    pub unparsable: Counter,
    /// Keys in listings that cannot be a path.
    pub unnameable: Counter,
    /// Connections opened, and closed again.
    pub connections_opened: Counter,
    pub connections_closed: Counter,
    /// Responses received over a connection that had been used before.
    pub connections_reused: Counter,
}
