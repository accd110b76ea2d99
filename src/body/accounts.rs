//! Limits on the readers of a mount: the accounts they share, and how long each may wait.

use std::time::Duration;

use super::pace::Pace;
use super::{Ledger, Unit};
use crate::metrics::Counter;
use crate::sync::Arc;

/// Limits on a reader's waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a permit, at open.
    pub open_wait: Duration,
    /// For everything a call asks of the store.
    pub timeout: Duration,
}

/// For how long a body keeps its permit while no read is in flight (rule B4).
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// After a read, since programs usually read on. Without it, each read costs a request when
    /// more files are read concurrently than there are bodies.
    pub read: Duration,
    /// After the body was opened, before the first read.
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
    /// Open bodies.
    pub bodies: Arc<Ledger>,
    /// Memory of windows, in KiB (`--buffer-memory`).
    pub memory: Arc<Ledger>,
    /// Resumed bodies: those that broke before their end and were requested again from there.
    pub resumed: Arc<Counter>,
    pub keep: Keep,
    /// Measured throughput of bodies.
    pub pace: Arc<Pace>,
}

impl Accounts {
    /// `bodies`: cap on open bodies. `parking`: whether idle ones may be parked. `memory`: bytes
    /// for all windows.
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
