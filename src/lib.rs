//! expirefs: a bucket as a directory in which expired objects do not exist.
//!
//! `cmd → daemon → fuse → fs → {catalog → bucket, body} → store ← s3`; `name`, `error`, `clock` and
//! `metrics` import no other module, and `expiry` only `glob`. `docs/ARCHITECTURE.md` has the map,
//! and follows one request through it; `scripts/layers` checks the arrows.

#![forbid(unsafe_code)]
// Lints that `[lints]` in Cargo.toml cannot set, since tests may print. `output` prints without a
// panic if nobody reads; clippy.toml lists the methods.
#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_methods,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::unwrap_used
    )
)]

pub mod body;
pub mod bucket;
pub mod catalog;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod content_type;
pub mod daemon;
pub mod deadline;
#[cfg(feature = "demo")]
#[expect(
    clippy::disallowed_methods,
    reason = "a separate server, with its own clock and a task for each connection"
)]
pub mod embedded;
pub mod error;
pub mod expiry;
pub mod fd_budget;
pub mod fs;
pub mod fuse;
pub mod glob;
pub mod log;
pub mod metrics;
pub mod name;
pub mod output;
pub mod pending;
pub mod process;
pub mod s3;
pub mod shown;
pub mod store;
pub mod sweep;
mod sync;
pub mod transfer;
pub mod waits;
pub mod xattr;
