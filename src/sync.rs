//! The locks and atomics of `body`: those of std. `tests/interleavings` builds `body` with those of
//! shuttle instead, to test it with many thread interleavings.

pub use std::sync::atomic;
pub use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
