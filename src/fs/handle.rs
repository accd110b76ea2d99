//! Open handles by number: one for each open(2) or opendir(2).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::body::{Reader, State};
use crate::error::{Error, Result};
use crate::fs::inode::{File, Opened};
use crate::pending::OpenPending;

/// A handle counts as being read for this long after a read: programs compute between two.
const IN_USE: Duration = Duration::from_secs(1);

/// A file handle.
pub enum Handle {
    Read(ReadHandle),
    Write(WriteHandle),
}

/// Reads a version. Owns at most one body, which is dropped with it.
pub struct ReadHandle {
    pub ino: u64,
    /// Of the thread that opened it.
    pub pid: u32,
    pub reader: Arc<Reader>,
    file: Opened<File>,
    /// When the open was answered, which may be long after its request.
    opened: Instant,
    reported: AtomicBool,
}

/// Writes a pending file, or reads what was written of it so far.
pub struct WriteHandle {
    pub ino: u64,
    /// Of the thread that opened it.
    pub pid: u32,
    /// The process of that thread, if known.
    pub process: Option<u32>,
    pub pending: OpenPending,
}

impl Handle {
    /// The handle, if it reads.
    ///
    /// # Errors
    /// `BadHandle` otherwise: read(2) fails with EBADF on a file opened for writing only.
    pub fn reading(&self) -> Result<&ReadHandle> {
        match self {
            Handle::Read(handle) => Ok(handle),
            Handle::Write(_) => Err(Error::BadHandle),
        }
    }

    /// The key of its object.
    pub fn key(&self) -> Arc<str> {
        match self {
            Handle::Read(handle) => handle.reader.version().key.clone(),
            Handle::Write(handle) => handle.pending.key(),
        }
    }

    /// A write handle is in use until it is closed: its data is stored nowhere else.
    fn is_in_use(&self) -> bool {
        match self {
            Handle::Read(handle) => handle.is_in_use(),
            Handle::Write(handle) => handle.pending.writes(),
        }
    }

    /// The handle, if it is one of a pending file.
    pub fn writing(&self) -> Option<&WriteHandle> {
        match self {
            Handle::Read(_) => None,
            Handle::Write(handle) => Some(handle),
        }
    }
}

impl ReadHandle {
    pub fn new(ino: u64, pid: u32, reader: Arc<Reader>, file: Arc<File>) -> ReadHandle {
        let (file, opened) = (Opened::new(file), Instant::now());
        ReadHandle { ino, pid, reader, file, opened, reported: AtomicBool::new(false) }
    }

    pub fn file(&self) -> &File {
        self.file.get()
    }

    /// How long its body has been open without a read; `None` if no body is open, or a read is in
    /// flight.
    pub fn held_for(&self) -> Option<Duration> {
        Some(self.unread_for()).filter(|_| self.reader.state() == State::Idle)
    }

    fn unread_for(&self) -> Duration {
        self.reader.unread_for().unwrap_or_else(|| self.opened.elapsed())
    }

    fn is_in_use(&self) -> bool {
        self.reader.state() == State::Reading || self.unread_for() < IN_USE
    }
}

/// All handles of one kind of a mount.
pub struct Handles<T> {
    // Held for one access to the table, never while waiting or while a handle is dropped.
    table: Mutex<HashMap<u64, Arc<T>>>,
    last: AtomicU64,
    /// Opens, closes and renames in flight.
    opening: AtomicUsize,
    /// A handle was closed, or an open has ended.
    closed: Notify,
}

/// Counts an open as in flight until dropped.
pub struct Opening<'a, T>(&'a Handles<T>);

impl<T> Drop for Opening<'_, T> {
    fn drop(&mut self) {
        self.0.opening.fetch_sub(1, Ordering::SeqCst);
        self.0.closed.notify_waiters();
    }
}

impl<T> Default for Handles<T> {
    fn default() -> Handles<T> {
        Handles {
            table: Mutex::default(),
            last: AtomicU64::new(0),
            opening: AtomicUsize::new(0),
            closed: Notify::new(),
        }
    }
}

impl<T> Handles<T> {
    /// Records an open in flight. It ends when its handle is in the table, or when it has failed.
    pub fn opening(&self) -> Opening<'_, T> {
        self.opening.fetch_add(1, Ordering::SeqCst);
        Opening(self)
    }

    /// Adds a handle under a number that was never used before.
    pub fn open(&self, handle: T) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.table().insert(number, Arc::new(handle));
        number
    }

    pub fn get(&self, number: u64) -> Result<Arc<T>> {
        self.table().get(&number).cloned().ok_or(Error::BadHandle)
    }

    /// Waits until no open, close or rename is in flight.
    pub async fn until_none_opening(&self) {
        loop {
            let ended = self.closed.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.opening.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Removes a handle from the table; dropping it releases what its open acquired.
    pub fn close(&self, number: u64) -> Result<Arc<T>> {
        let handle = self.table().remove(&number).ok_or(Error::BadHandle)?;
        self.closed.notify_waiters();
        Ok(handle)
    }

    /// All of them, by number.
    pub fn all(&self) -> Vec<(u64, Arc<T>)> {
        let mut all: Vec<_> = self.table().iter().map(|(n, handle)| (*n, handle.clone())).collect();
        all.sort_by_key(|(n, _)| *n);
        all
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Arc<T>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handles<Handle> {
    /// Number of open handles of an object, whatever their version.
    pub fn count_of(&self, key: &str) -> usize {
        self.table().values().filter(|handle| *handle.key() == *key).count()
    }

    /// The handles whose body has been idle for at least this long and that were not reported yet.
    /// One that is read again may be reported again.
    pub fn newly_idle(&self, for_at_least: Duration) -> Vec<Arc<Handle>> {
        let mut handles: Vec<_> = self.table().values().cloned().collect();
        handles.retain(|handle| {
            let Handle::Read(handle) = &**handle else { return false };
            let idle = handle.held_for().is_some_and(|held| held >= for_at_least);
            let before = handle.reported.swap(idle, Ordering::Relaxed);
            idle && !before
        });
        handles
    }

    /// Waits until no open is in flight and no handle in use. A reader without a read for a second is
    /// not in use.
    pub async fn until_unused(&self) {
        loop {
            let closed = self.closed.notified();
            // Opens first: one that ends between the two checks is in the table.
            let none_opening = self.opening.load(Ordering::SeqCst) == 0;
            if none_opening && !self.table().values().any(|handle| handle.is_in_use()) {
                return;
            }
            // A handle that becomes idle sends no notification.
            let _ = tokio::time::timeout(IN_USE / 10, closed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::{Inodes, ROOT};
    use crate::name::Prefix;
    use crate::pending::{Access, Pending, Wanted};

    #[tokio::test(start_paused = true)]
    async fn write_handle_rejects_reads_and_is_in_use_until_closed() {
        let (inodes, handles) = (Inodes::new(Prefix::default()), Handles::default());
        let pending = Pending::create(&crate::pending::tests::writer(), "d/f", Wanted::Any);
        let ino = inodes.pending(ROOT, &pending);
        let pending = OpenPending::new(pending, Access::Write);
        let handle = WriteHandle { ino, pid: 1, process: None, pending };
        let number = handles.open(Handle::Write(handle));
        let handle = handles.get(number).unwrap();
        assert_eq!(handle.reading().map(|handle| handle.ino), Err(Error::BadHandle));
        assert_eq!((&*handle.key(), handles.count_of("d/f")), ("d/f", 1));
        assert!(handles.newly_idle(Duration::ZERO).is_empty(), "it holds no body");
        let unused = handles.until_unused();
        let waits = tokio::time::timeout(Duration::from_secs(60), unused).await;
        assert!(waits.is_err());
        handles.close(number).unwrap();
        handles.until_unused().await;
        assert_eq!(handles.close(number).err(), Some(Error::BadHandle));
    }
}
