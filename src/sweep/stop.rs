//! The end of a sweep: why it has ended, and how it is ended early.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::Error;

/// How a sweep has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Complete,
    /// So many objects were deleted.
    AtMost(u64),
    /// By [`Stop::stop`].
    Stopped,
    Failed(Error),
    /// The clocks of the store and of this host differ by so much.
    Skewed(Duration),
    /// The state file cannot be written, in words for the operator.
    NoState(String),
}

/// Ends a sweep: objects in flight are done, and no more are begun.
#[derive(Debug, Default)]
pub struct Stop {
    why: Mutex<Option<Ended>>,
    set: Notify,
}

impl Stop {
    pub fn stop(&self) {
        self.because(Ended::Stopped);
    }

    /// The first reason counts.
    pub(super) fn because(&self, why: Ended) {
        self.why().get_or_insert(why);
        self.set.notify_waiters();
    }

    /// Returns once it is stopped.
    pub(super) async fn stopped(&self) {
        let mut set = pin!(self.set.notified());
        set.as_mut().enable();
        if !self.is_set() {
            set.await;
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.why().is_some()
    }

    pub(super) fn why(&self) -> MutexGuard<'_, Option<Ended>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
