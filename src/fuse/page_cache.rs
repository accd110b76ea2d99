//! The kernel's page cache: stores bytes that were fetched beyond what was read.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use fuser::{INodeNo, Notifier};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Threads that store pages at the same time: each may block in the kernel until a read ends.
const STORES: usize = 4;

/// The kernel's page cache of one mount.
#[derive(Clone)]
pub struct PageCache {
    /// Set once it is mounted.
    notifier: Arc<OnceLock<Notifier>>,
    turns: Arc<Semaphore>,
}

impl Default for PageCache {
    fn default() -> PageCache {
        PageCache { notifier: Arc::default(), turns: Arc::new(Semaphore::new(STORES)) }
    }
}

impl PageCache {
    /// Sets how to reach the kernel.
    pub fn reached_by(&self, notifier: Notifier) {
        // Called once per mount.
        let _ = self.notifier.set(notifier);
    }

    /// Makes the kernel send the pages of these files that a program has written through a mapping, and
    /// that it has not sent yet. Gives up after `patience`.
    ///
    /// FUSE_NOTIFY_INVAL_INODE returns after the WRITE requests of dirty pages were answered.
    pub async fn write_back(&self, inodes: Vec<u64>, patience: Duration) {
        let Some(notifier) = self.notifier.get().cloned() else { return };
        let sent = tokio::task::spawn_blocking(move || {
            for ino in inodes {
                // The kernel may have forgotten it.
                _ = notifier.inval_inode(INodeNo(ino), 0, 0);
            }
        });
        if tokio::time::timeout(patience, sent).await.is_err() {
            warn!("the kernel has not sent all pages of mapped files within {patience:?}");
        }
    }

    /// Stores bytes of a file in it. Returns whether that succeeded.
    ///
    /// FUSE_NOTIFY_STORE locks each page, and a page stays locked while a read of it is in flight:
    /// so it runs on a thread that no read waits for, and holds nothing that a read may need.
    pub async fn store(&self, ino: INodeNo, offset: u64, bytes: Bytes) -> bool {
        let (Some(notifier), Ok(turn)) =
            (self.notifier.get().cloned(), self.turns.clone().acquire_owned().await)
        else {
            return false;
        };
        let stored = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            notifier.store(ino, offset, &bytes)
        });
        let stored = stored.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        stored
            .inspect_err(
                |error| debug!(%ino, offset, "the kernel did not store the pages: {error}"),
            )
            .is_ok()
    }
}
