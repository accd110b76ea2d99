//! Counters of a mount: incremented where things happen, read by `status`.

mod histogram;
mod timed;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use histogram::{Counts, Histogram, LATENCY, LIFETIME, Scale};
pub use timed::{Answers, ByKind, Operation, Operations, Outcome, TimedCounts};

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

/// A struct with a value for each of its fields, and their names.
macro_rules! each {
    ($(#[$doc:meta])* $type:ident { $($(#[$about:meta])* $field:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $type<N> { $($(#[$about])* pub $field: N,)+ }

        impl<N> $type<N> {
            /// The same with other values.
            pub fn map<M>(&self, of: impl Fn(&N) -> M) -> $type<M> {
                $type { $($field: of(&self.$field),)+ }
            }

            /// Each value with the name of its field.
            pub fn by_name(self) -> [(&'static str, N); [$(stringify!($field)),+].len()] {
                [$((stringify!($field), self.$field)),+]
            }
        }
    };
}

each! {
    /// Requests sent to the store, including retries, by operation. Field names are those of `status`.
    Requests {
        get,
        head,
        list,
        put,
        copy,
        rename,
        delete,
        /// The steps of a multipart upload.
        create_upload,
        upload_part,
        copy_part,
        complete_upload,
        abort_upload,
        other,
    }
}

impl Requests<Counter> {
    /// The current counts.
    pub fn now(&self) -> Requests<u64> {
        self.map(Counter::get)
    }
}

impl Requests<Answers> {
    /// Those of which there were any, by name.
    pub fn now(&self) -> ByKind {
        let answers = self.map(Answers::now).by_name();
        answers.into_iter().filter_map(|(name, now)| Some((name.to_owned(), now?))).collect()
    }
}

impl Requests<u64> {
    pub fn sum(&self) -> u64 {
        self.by_name().into_iter().map(|(_, count)| count).sum()
    }

    /// US dollars by the list prices of S3 Standard in us-east-1: 0.005 for a thousand requests that
    /// list or write, 0.0004 for a thousand that read; to delete is free.
    pub fn usd(&self) -> f64 {
        let Requests { get, head, delete, abort_upload, .. } = self;
        let dear = self.sum() - get - head - delete - abort_upload;
        (dear as f64 * 0.005 + (get + head) as f64 * 0.0004) / 1000.0
    }
}

/// How often a cache had what was asked of it.
#[derive(Debug, Default)]
pub struct Cache {
    hits: Counter,
    misses: Counter,
}

impl Cache {
    /// Counts one question; returns its argument.
    pub fn counted(&self, hit: bool) -> bool {
        if hit { &self.hits } else { &self.misses }.add(1);
        hit
    }

    pub fn now(&self) -> CacheCounts {
        CacheCounts { hits: self.hits.get(), misses: self.misses.get() }
    }
}

/// The same at one moment. Field names are those of `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCounts {
    pub hits: u64,
    pub misses: u64,
}

each! {
    /// The caches of a mount, in the order in which they are asked. Field names are those of `status`.
    Caches {
        /// What is known of a name, asked by lookups that the kernel does not answer itself.
        names,
        /// Ranges of absent names, asked about names that are not known.
        absences,
        /// Questions in flight, which concurrent lookups of the same name share.
        questions,
        /// Expiry headers of versions, asked by listings instead of a HEAD.
        expiry_headers,
        /// The kernel's pages, asked by opens for reading: all content of the file is there.
        pages,
        /// First bytes that came with lookups, asked by opens of files that the kernel does not have.
        first_bytes,
    }
}

/// The files that were opened for reading, by the time until they expire.
#[derive(Debug)]
pub struct Opened {
    /// Those that expire.
    left: Histogram,
    /// Those that do not.
    endless: Counter,
}

impl Default for Opened {
    fn default() -> Opened {
        Opened { left: Histogram::new(&LIFETIME), endless: Counter::default() }
    }
}

impl Opened {
    pub fn add(&self, left: Option<Duration>) {
        match left {
            Some(left) => self.left.add(left),
            None => self.endless.add(1),
        }
    }

    pub fn now(&self) -> OpenedCounts {
        OpenedCounts { left: self.left.now(), endless: self.endless.get() }
    }
}

/// The same at one moment. Field names are those of `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenedCounts {
    pub left: Counts,
    pub endless: u64,
}

/// The counters of one mount.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests of the kernel.
    pub operations: Operations,
    /// Requests sent to the store, including retries.
    pub requests: Requests<Counter>,
    /// What came of them.
    pub answers: Requests<Answers>,
    pub caches: Caches<Cache>,
    pub opened: Opened,
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
