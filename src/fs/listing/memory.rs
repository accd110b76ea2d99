//! Limits the memory for the pages of all directory handles. Those of the least recently read
//! handle are evicted first: they can be fetched again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lru::LruCache;

use super::State;

/// Bytes of cached pages. One directory that is being read holds up to 1 MiB.
const BYTES: usize = 64 << 20;

#[derive(Default)]
pub struct PageMemory {
    // Never held together with the lock of a listing.
    held: Mutex<Held>,
    last: AtomicU64,
}

struct Held {
    /// By handle, the least recently read last.
    listings: LruCache<u64, (Weak<Mutex<State>>, usize)>,
    bytes: usize,
}

impl Default for Held {
    fn default() -> Held {
        Held { listings: LruCache::unbounded(), bytes: 0 }
    }
}

/// The pages of one directory handle, released on drop.
pub struct Share {
    memory: Arc<PageMemory>,
    id: u64,
}

impl Share {
    pub fn of(memory: &Arc<PageMemory>) -> Share {
        Share { memory: memory.clone(), id: memory.last.fetch_add(1, Ordering::Relaxed) }
    }

    /// Records that a handle was read and holds this many bytes now, and evicts pages of other
    /// handles beyond the limit.
    pub(super) fn holds(&self, state: &Arc<Mutex<State>>, bytes: usize) {
        let mut dropped = Vec::new();
        let mut held = self.memory.held();
        held.bytes += bytes;
        if let Some((_, before)) = held.listings.put(self.id, (Arc::downgrade(state), bytes)) {
            held.bytes -= before;
        }
        while held.bytes > BYTES
            && held.listings.len() > 1
            && let Some((_, (state, bytes))) = held.listings.pop_lru()
        {
            held.bytes -= bytes;
            dropped.push(state);
        }
        drop(held);
        for state in dropped.iter().filter_map(Weak::upgrade) {
            super::locked(&state).pages.clear();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.memory.held();
        if let Some((_, bytes)) = held.listings.pop(&self.id) {
            held.bytes -= bytes;
        }
    }
}

impl PageMemory {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
