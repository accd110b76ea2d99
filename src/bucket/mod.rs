//! A bucket without a mount: what it holds, and why.

pub mod explain;
pub mod inventory;
