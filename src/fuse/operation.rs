//! An operation in flight, which is counted when it ends.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{self, Metrics};

/// Counts an operation, with its errno and how long it took, when it is dropped. Drop it once the
/// reply is sent.
pub struct Operation {
    kind: metrics::Operation,
    began: Instant,
    /// 0 as long as it has not failed.
    errno: Cell<i32>,
    metrics: Arc<Metrics>,
}

impl Operation {
    pub fn begin(kind: metrics::Operation, metrics: Arc<Metrics>) -> Operation {
        Operation { kind, began: Instant::now(), errno: Cell::new(0), metrics }
    }

    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// It was, or is about to be, answered with this errno.
    pub fn failed(&self, errno: i32) {
        self.errno.set(errno);
    }

    /// The time since the kernel's request was read.
    pub fn took(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // fuser answers a request with EIO whose reply is dropped.
        let errno = if std::thread::panicking() { libc::EIO } else { self.errno.get() };
        self.metrics.operations.add(self.kind, errno, self.took());
    }
}
