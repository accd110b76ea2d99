//! The file system as programs meet it: the real binary, the kernel's FUSE, a real S3 server.
//!
//! The server is SeaweedFS (`scripts/s3-server`), or the embedded one where SeaweedFS will not store
//! what a rule is about. Each test has a bucket and a mount of its own, and each mount is checked once
//! more when it ends: no open body, handle, process, socket or mount is left. Needs /dev/fuse.

#[path = "../support/mod.rs"]
mod support;

mod absence;
mod attributes;
mod cap;
mod claims;
mod control;
mod crowds;
mod death;
mod endpoints;
mod expiry;
mod explain;
mod faults;
mod hostile;
mod index;
mod inventory;
mod lifecycle;
mod listings;
mod memory;
mod names;
mod post_mortem;
mod programs;
mod read_only;
mod reading;
mod refusals;
mod requests;
mod saturation;
mod scattered;
mod terminal;
mod tree;
mod users;
mod versions;
