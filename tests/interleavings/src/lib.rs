//! `src/body/` over shuttle: one thread runs at a time, and each run switches threads at other
//! points. Timeouts never fire: a waiter that is not woken is a deadlock, which shuttle reports.

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
#[path = "../../../src/metrics/mod.rs"]
pub mod metrics;
#[path = "../../../src/store/mod.rs"]
pub mod store;
#[path = "../../../src/waits.rs"]
pub mod waits;

// Replaces `src/sync.rs`.
use shuttle::sync;
