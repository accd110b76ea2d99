//! expirefs: a bucket as a directory in which expired objects do not exist.
//!
//! `cli → config → daemon → fuse → fs → {inode, catalog, listing, body} → store ← s3`,
//! `probe` serves `catalog`, and `expiry`, `name`, `error`, `metrics` know nobody. `scripts/layers` holds the arrows in place.

#![forbid(unsafe_code)]
// `output` writes, and does not panic where nobody reads.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod about;
pub mod body;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod document;
#[cfg(feature = "demo")]
pub mod embedded;
pub mod error;
pub mod expiry;
pub mod explain;
pub mod fd_budget;
pub mod fs;
pub mod fuse;
pub mod handle;
pub mod http;
pub mod index;
pub mod inode;
pub mod inventory;
pub mod listing;
pub mod log;
pub mod metrics;
pub mod mounts;
pub mod name;
pub mod output;
pub mod probe;
pub mod runtime_dir;
pub mod s3;
pub mod session;
pub mod shown;
pub mod signals;
pub mod status;
pub mod store;
pub mod tls;
pub mod walk;
pub mod weighed;
