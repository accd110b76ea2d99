//! The file system as programs see it: the real binary, the kernel's FUSE, a real S3 server.
//!
//! The server is SeaweedFS (`scripts/s3-server`), or the embedded one if SeaweedFS cannot store the
//! objects of a test. Each test has its own bucket and mount, and each mount is checked when it
//! ends: no open body, handle, process, socket or mount is left. Needs /dev/fuse.

#[path = "../support/mod.rs"]
mod support;

mod absence;
mod attributes;
mod background;
mod cap;
mod checksums;
mod claims;
mod commands;
mod control;
mod credentials;
mod crowds;
mod death;
mod directory_buckets;
mod endpoints;
mod expiry;
mod explain;
mod faults;
mod fstab;
mod hostile;
mod index;
mod inventory;
mod lifecycle;
mod listed;
mod listings;
mod logs;
mod memory;
mod metrics;
mod names;
mod network;
mod objects;
mod objects_hostile;
mod post_mortem;
mod programs;
mod read_only;
mod reading;
mod readme;
mod refusals;
mod requests;
mod saturation;
mod scattered;
mod suites;
mod supervised;
mod sweep;
mod sweep_kinds;
mod sweep_races;
mod terminal;
mod top;
mod tree;
mod users;
mod versions;
mod writing;
mod writing_caches;
mod writing_ends;
mod writing_faults;
mod writing_mapped;
mod writing_names;
mod writing_outages;
mod writing_programs;
mod writing_stores;
mod writing_unmount;
