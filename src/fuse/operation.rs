//! An operation in flight: how it is run, and that it is counted when it ends.

use std::cell::Cell;
use std::ffi::OsStr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use fuser::INodeNo;
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{Instrument, Span, error};

use super::Fuse;
use super::slow::Slow;
use crate::metrics::{self, Metrics};
use crate::waits::Waits;

impl Fuse {
    /// Counts an operation on an inode from now on, until it is dropped.
    pub(super) fn begin(&self, kind: metrics::Operation, ino: INodeNo) -> Operation {
        self.begin_name(kind, ino, OsStr::new(""))
    }

    /// The same for a name in a directory.
    pub(super) fn begin_name(
        &self,
        kind: metrics::Operation,
        ino: INodeNo,
        name: &OsStr,
    ) -> Operation {
        let slow = self.slow.map(|after| Slow::begin(after, self.fs.clone(), ino.0, name).into());
        Operation::begin(kind, self.fs.metrics().clone(), slow)
    }

    /// Runs an operation: here if it need not wait, else on the runtime. `work` owns the reply: if
    /// it panics, the reply is dropped, and fuser answers EIO. What it waits for goes to `account`.
    pub(super) fn run(
        &self,
        account: Option<Arc<Waits>>,
        span: Span,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        match account {
            None => self.poll_once(span, work),
            Some(account) => self.poll_once(span, account.of(work)),
        }
    }

    fn poll_once(&self, span: Span, work: impl Future<Output = ()> + Send + 'static) {
        let mut work =
            Box::pin(AssertUnwindSafe(work).catch_unwind().instrument(span).map(|done| {
                if done.is_err() {
                    error!("an operation panicked; it was answered with EIO");
                }
            }));
        self.workers.run(|runtime| {
            if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the kernel waits for the reply that it owns, and each operation has a time limit"
                )]
                runtime.spawn(work);
            }
        });
    }
}

/// Counts an operation, with its errno and how long it took, when it is dropped. Drop it once the
/// reply is sent.
pub struct Operation {
    kind: metrics::Operation,
    began: Instant,
    /// 0 as long as it has not failed.
    errno: Cell<i32>,
    metrics: Arc<Metrics>,
    /// In a box, so that an operation without it stays small: it is moved with its future.
    slow: Option<Box<Slow>>,
}

impl Operation {
    /// `slow`: logs it if it is slow.
    pub fn begin(
        kind: metrics::Operation,
        metrics: Arc<Metrics>,
        slow: Option<Box<Slow>>,
    ) -> Operation {
        Operation { kind, began: Instant::now(), errno: Cell::new(0), metrics, slow }
    }

    /// What it waits for, if that is recorded.
    pub fn account(&self) -> Option<Arc<Waits>> {
        self.slow.as_ref().map(|slow| slow.account.clone())
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
        self.slow.iter().for_each(|slow| slow.report(self.name()));
    }
}
