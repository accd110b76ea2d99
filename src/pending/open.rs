//! Who has a pending file open. Each of them counts until it is closed or dropped.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Pending;

/// How many have a file open.
#[derive(Debug, Default)]
pub struct Counts {
    writers: AtomicUsize,
    readers: AtomicUsize,
    /// Writers whose process has not closed a descriptor since it last wrote.
    writing: AtomicUsize,
}

impl Counts {
    fn of(&self, access: Access) -> &AtomicUsize {
        match access {
            Access::Write => &self.writers,
            Access::Read => &self.readers,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may write, and read.
    Write,
    Read,
}

/// A pending file that is open.
pub struct OpenPending {
    pending: Arc<Pending>,
    access: Access,
    /// Counts as writing.
    writing: AtomicBool,
    closed: AtomicBool,
}

impl OpenPending {
    pub fn new(pending: Arc<Pending>, access: Access) -> OpenPending {
        pending.counts.of(access).fetch_add(1, Ordering::SeqCst);
        let open = OpenPending {
            pending,
            access,
            writing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        if access == Access::Write {
            open.writes_on();
        }
        open
    }

    /// It was just opened, or has written.
    pub fn writes_on(&self) {
        if !self.writing.swap(true, Ordering::SeqCst) {
            self.pending.counts.writing.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The process that opened it has closed a descriptor. If that was its last one, the kernel releases
    /// the handle some time after close(2) has returned.
    pub fn flushed(&self) {
        if self.writing.swap(false, Ordering::SeqCst) {
            self.pending.counts.writing.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Closes it, while others may still refer to it. Returns whether it was the last that may write.
    pub fn close(&self) -> bool {
        self.flushed();
        !self.closed.swap(true, Ordering::SeqCst)
            && self.pending.counts.of(self.access).fetch_sub(1, Ordering::SeqCst) == 1
            && self.access == Access::Write
    }

    pub fn writes(&self) -> bool {
        self.access == Access::Write
    }
}

impl Deref for OpenPending {
    type Target = Arc<Pending>;

    fn deref(&self) -> &Arc<Pending> {
        &self.pending
    }
}

impl Drop for OpenPending {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pending {
    /// Whether anybody who may write has it open.
    pub fn has_writers(&self) -> bool {
        self.counts.writers.load(Ordering::SeqCst) > 0
    }

    /// Whether anybody writes to it, for all that is known: has it open, and has not closed a
    /// descriptor since the last write.
    pub fn is_being_written(&self) -> bool {
        self.counts.writing.load(Ordering::SeqCst) > 0
    }

    /// Whether anybody who only reads has it open.
    pub fn has_readers(&self) -> bool {
        self.counts.readers.load(Ordering::SeqCst) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pending::Wanted;
    use crate::pending::tests::writer;

    #[tokio::test]
    async fn each_opening_counts_until_it_is_closed_or_dropped() {
        let pending = Pending::create(&writer(), "d/f", Wanted::Any);
        let open = |access| OpenPending::new(pending.clone(), access);
        let (one, two, reader) = (open(Access::Write), open(Access::Write), open(Access::Read));
        one.flushed();
        assert!(pending.is_being_written(), "by the other");
        two.flushed();
        assert!(!pending.is_being_written() && pending.has_writers());
        two.writes_on();
        assert!(!one.close(), "another writes");
        assert!(!one.close(), "it is closed already");
        assert!(pending.has_writers());
        drop(one);
        assert!(pending.has_writers() && pending.has_readers());
        drop(two);
        assert!(!pending.has_writers() && !pending.is_being_written());
        assert!(!reader.close(), "it does not write");
        assert!(!pending.has_readers());
        assert!(open(Access::Write).close());
    }
}
