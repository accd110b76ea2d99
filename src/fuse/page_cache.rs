//! The kernel's page cache, for bytes that were fetched and not asked for.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fuser::{INodeNo, Notifier};
use tokio::sync::Semaphore;
use tracing::debug;

/// Threads that give the kernel pages at one time: each may wait there for a read.
const STORES: usize = 4;

/// The kernel's page cache of one mount.
#[derive(Clone)]
pub struct PageCache {
    /// There once it is mounted.
    notifier: Arc<OnceLock<Notifier>>,
    turns: Arc<Semaphore>,
}

impl Default for PageCache {
    fn default() -> PageCache {
        PageCache { notifier: Arc::default(), turns: Arc::new(Semaphore::new(STORES)) }
    }
}

impl PageCache {
    /// From now on the kernel can be told.
    pub fn reached_by(&self, notifier: Notifier) {
        // It is mounted once.
        let _ = self.notifier.set(notifier);
    }

    /// Puts bytes of a file into it; whether that was done.
    ///
    /// FUSE_NOTIFY_STORE locks each page, and a page stays locked while a read of it is under way:
    /// it runs on a thread that no read waits for, and holds nothing that one may need.
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
            .inspect_err(|error| debug!(%ino, offset, "the kernel takes no pages: {error}"))
            .is_ok()
    }
}
