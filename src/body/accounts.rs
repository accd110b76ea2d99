//! What bounds the readers of a mount: the accounts they share, and how long each may wait.

use std::time::Duration;

use super::pace::Pace;
use super::{Ledger, Unit};
use crate::metrics::Counter;
use crate::sync::Arc;

/// What bounds a reader's waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a permit, at open.
    pub open_wait: Duration,
    /// For everything a call asks of the store.
    pub timeout: Duration,
}

/// For how long a body keeps its permit though no read is under way (rule B4).
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// After a read: programs come back for the next one. Without it, files that are read at one
    /// time by more than there are bodies cost a request for each read.
    pub read: Duration,
    /// After its opening, before the first read.
    pub unread: Duration,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { read: Duration::from_millis(20), unread: Duration::from_millis(100) }
    }
}

/// What all readers of a mount share.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Open bodies, one by one.
    pub bodies: Arc<Ledger>,
    /// The bytes in windows, in KiB (`--buffer-memory`).
    pub memory: Arc<Ledger>,
    /// Bodies that broke before their end and were asked for again from there.
    pub resumed: Arc<Counter>,
    pub keep: Keep,
    /// How fast bodies have come so far.
    pub pace: Arc<Pace>,
}

impl Accounts {
    /// For `bodies` open bodies, which are parked or not, and `memory` bytes in windows.
    pub fn new(bodies: usize, parking: bool, memory: u64) -> Accounts {
        Accounts {
            bodies: Ledger::new(Unit::Body, bodies, parking),
            memory: Ledger::new(Unit::Kib, (memory >> 10) as usize, true),
            resumed: Arc::default(),
            keep: Keep::default(),
            pace: Arc::default(),
        }
    }
}
