//! The locks and atomics of `body`: those of std. `tests/interleavings` builds `body` with those of
//! shuttle in this place, to try it under many orders of its steps.

pub use std::sync::atomic;
pub use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
