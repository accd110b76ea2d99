//! Open file handles: what one open(2) got from the kernel each, by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::body::{Reader, State};
use crate::error::{Error, Result};
use crate::fs::inode::File;

/// A handle counts as being read for this long after a read: programs compute between two.
const IN_USE: Duration = Duration::from_secs(1);

/// A file handle: exactly one body, at most, which goes with it.
pub struct Handle {
    pub ino: u64,
    /// Of the thread that opened it.
    pub pid: u32,
    pub reader: Arc<Reader>,
    file: OpenFile,
    reported: AtomicBool,
}

/// Counts one open of a file, for as long as it lives.
struct OpenFile(Arc<File>);

impl OpenFile {
    fn new(file: Arc<File>) -> OpenFile {
        file.open.fetch_add(1, Ordering::Relaxed);
        OpenFile(file)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handle {
    pub fn new(ino: u64, pid: u32, reader: Arc<Reader>, file: Arc<File>) -> Handle {
        Handle { ino, pid, reader, file: OpenFile::new(file), reported: AtomicBool::new(false) }
    }

    pub fn file(&self) -> &File {
        &self.file.0
    }

    /// How long its body has been open without a read; `None` where none is open, or one is
    /// under way.
    pub fn held_for(&self) -> Option<Duration> {
        Some(self.unread_for()).filter(|_| self.reader.state() == State::Idle)
    }

    fn unread_for(&self) -> Duration {
        self.reader.unread_for().unwrap_or_else(|| self.reader.age())
    }

    fn is_in_use(&self) -> bool {
        self.reader.state() == State::Reading || self.unread_for() < IN_USE
    }
}

/// All handles of a mount.
#[derive(Default)]
pub struct Handles {
    // Held for one look at the table, never over a wait or the drop of a handle.
    table: Mutex<HashMap<u64, Arc<Handle>>>,
    last: AtomicU64,
    closed: Notify,
}

impl Handles {
    /// Takes a handle in, under a number that no other has had.
    pub fn open(&self, handle: Handle) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.table().insert(number, Arc::new(handle));
        number
    }

    pub fn get(&self, number: u64) -> Result<Arc<Handle>> {
        self.table().get(&number).cloned().ok_or(Error::BadHandle)
    }

    /// Gives back all that an open took.
    pub fn close(&self, number: u64) -> Result<()> {
        let handle = self.table().remove(&number).ok_or(Error::BadHandle)?;
        drop(handle);
        self.closed.notify_waiters();
        Ok(())
    }

    /// All of them, by number.
    pub fn all(&self) -> Vec<(u64, Arc<Handle>)> {
        let mut all: Vec<_> = self.table().iter().map(|(n, handle)| (*n, handle.clone())).collect();
        all.sort_by_key(|(n, _)| *n);
        all
    }

    /// How many are open on an object, whatever its version.
    pub fn count_of(&self, key: &str) -> usize {
        self.table().values().filter(|handle| *handle.reader.version().key == *key).count()
    }

    /// Those whose body nobody has read for so long, of which this was not said before. One that
    /// is read again may be named again.
    pub fn newly_idle(&self, for_at_least: Duration) -> Vec<Arc<Handle>> {
        let mut idle: Vec<_> = self.table().values().cloned().collect();
        idle.retain(|handle| {
            let idle = handle.held_for().is_some_and(|held| held >= for_at_least);
            let before = handle.reported.swap(idle, Ordering::Relaxed);
            idle && !before
        });
        idle
    }

    /// Waits until none is in use. One that nobody has touched for a second is not.
    pub async fn until_unused(&self) {
        loop {
            let closed = self.closed.notified();
            if !self.table().values().any(|handle| handle.is_in_use()) {
                return;
            }
            // What falls idle tells nobody.
            let _ = tokio::time::timeout(IN_USE / 10, closed).await;
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Arc<Handle>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
