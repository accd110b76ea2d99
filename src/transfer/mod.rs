//! One object from or to a stream: what `put` and `get` do, without a mount.
//!
//! The bytes go through the same pending files and readers as those of a mount, so both have its
//! bounds, retries and rules. Owns nothing between two calls.

mod get;
mod put;

use std::io;

pub use get::{Get, get};
pub use put::put;

use crate::error::Error;

/// Bytes that are moved at once.
const PIECE: usize = 1 << 20;

/// Why an object was not moved.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file or stream on this side.
    #[error("{0}")]
    Stream(#[from] io::Error),
    #[error("{0}")]
    Store(#[from] Error),
}
