//! `src/body/` over shuttle: what runs at one time is one thread, and where it may change is
//! chosen anew in each run. No timeout ever ends by itself: who is not woken is a deadlock, and
//! shuttle says so.

#[path = "../../../src/body/mod.rs"]
pub mod body;
#[path = "../../../src/deadline.rs"]
pub mod deadline;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/expiry/mod.rs"]
pub mod expiry;
#[path = "../../../src/glob.rs"]
pub mod glob;
#[path = "../../../src/metrics.rs"]
pub mod metrics;
#[path = "../../../src/store/mod.rs"]
pub mod store;

// In place of `src/sync.rs`.
use shuttle::sync;
