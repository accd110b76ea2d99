//! Turns arguments into the configuration of a mount.
//!
//! Owns every option and environment variable, with its default and its validation; `args` declares
//! them. Starts nothing and sends no request: the modules below get values and never see clap.

pub mod args;
pub mod environment;
pub mod helper;
mod logging;
mod network;
pub mod terminal;
mod url;
mod values;
mod writing;

use std::io;
use std::path::{self, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{Gid, Uid};

use crate::body::Patience;
use crate::catalog::probe;
use crate::expiry::{CacheControl, Policy, Source};
use crate::fs::Settings;
use crate::fs::listing;
use crate::fuse::Ownership;
use crate::s3::Endpoint;
use crate::store;
use args::{ClockArg, MountArgs, ObjectArgs, RuleArgs};
pub use logging::LogArgs;
use network::endpoint;
use url::{bucket_and_key, bucket_and_prefix};
pub use writing::{PART, SPOOL, SpoolPlace, Writing};

/// The configuration of a mount.
#[derive(Clone, Debug)]
pub struct Config {
    pub endpoint: Endpoint,
    pub dir: PathBuf,
    pub settings: Settings,
    pub policy: Policy,
    pub local_clock: bool,
    /// The file that keeps the index for the next mount.
    pub index: Option<PathBuf>,
    /// Bytes of the index in memory.
    pub index_memory: usize,
    /// Maximum number of concurrent HEAD and LIST requests.
    pub metadata_concurrency: usize,
    pub max_open_bodies: Option<usize>,
    pub parking: bool,
    /// Bytes of all windows together.
    pub buffer_memory: u64,
    /// None: the mount is read-only.
    pub writing: Option<Writing>,
    pub keep_fd_limit: bool,
    /// An open body is reported after this long without a read.
    pub idle_warn: Option<Duration>,
    /// The address at which metrics are served.
    pub metrics: Option<String>,
    /// Operations that take longer are logged.
    pub slow: Option<Duration>,
    pub fuse_threads: usize,
    /// Threads that talk to the store.
    pub workers: usize,
    pub ownership: Ownership,
    pub allow_other: bool,
    pub replace_dead: bool,
    pub noexec: bool,
    /// The source in the mount table, if it is not made of the bucket.
    pub fsname: Option<String>,
}

impl Config {
    /// # Errors
    /// What is wrong with the arguments taken together, in one line.
    pub fn new(args: MountArgs) -> Result<Config, String> {
        let (bucket, prefix) = bucket_and_prefix(&args.bucket)?;
        let MountArgs { store: at, expiry, listing, reading, writing, limits, files, .. } = args;
        let machine = sysinfo().map_err(|e| format!("the memory of this machine: {e}"))?;
        let machine = ByteSize::b(machine.ram_total());
        let memory = [
            ("--buffer-memory", reading.buffer_memory),
            ("--probe-cache", reading.probe_cache),
            ("--index-memory", listing.index_memory),
        ];
        if let Some((option, asked)) = memory.into_iter().find(|(_, asked)| *asked > machine) {
            return Err(format!("{option} {asked} is more than this machine has, {machine}"));
        }
        let writing = Writing::new(writing, reading.buffer_memory)?;
        let write_bits = if writing.is_some() { 0o777 } else { !0o222 };
        Ok(Config {
            endpoint: Endpoint { pool_idle: limits.pool_idle, ..endpoint(bucket, at)? },
            dir: absolute(args.dir)?,
            settings: Settings {
                prefix,
                trust: expiry.metadata_ttl,
                negative_ttl: expiry.negative_ttl(writing.is_some()),
                patience: Patience { open_wait: limits.open_wait, timeout: limits.timeout },
                probe: probe::Limits {
                    size: reading.probe_size.as_u64(),
                    cache: usize::try_from(reading.probe_cache.as_u64()).unwrap_or(usize::MAX),
                },
                listing: listing::Rules {
                    page: store::PAGE,
                    fan_out: limits.metadata_concurrency,
                    patience: limits.timeout / 4,
                    exactness: listing.ls,
                },
            },
            policy: expiry.rules.policy()?,
            local_clock: expiry.rules.clock == Some(ClockArg::Local),
            index: listing.index.map(absolute).transpose()?,
            index_memory: usize::try_from(listing.index_memory.as_u64()).unwrap_or(usize::MAX),
            metadata_concurrency: limits.metadata_concurrency,
            max_open_bodies: limits.max_open_bodies,
            parking: !limits.no_parking,
            buffer_memory: reading.buffer_memory.as_u64(),
            writing,
            keep_fd_limit: limits.keep_fd_limit,
            idle_warn: Some(limits.idle_warn).filter(|after| !after.is_zero()),
            metrics: limits.metrics,
            slow: limits.slow,
            fuse_threads: limits.fuse_threads,
            workers: workers(),
            ownership: Ownership {
                uid: files.uid.unwrap_or_else(|| Uid::current().as_raw()),
                gid: files.gid.unwrap_or_else(|| Gid::current().as_raw()),
                file_mode: files.file_mode & write_bits,
                dir_mode: files.dir_mode & write_bits,
            },
            allow_other: files.allow_other,
            replace_dead: args.replace_dead,
            noexec: args.noexec,
            fsname: args.fsname,
        })
    }

    /// Bytes of memory for content that is read, and that is written. A writable mount has two
    /// accounts, of half each: readers that wait for memory and writers that wait for a body never
    /// wait for each other.
    pub fn memory(&self) -> (u64, u64) {
        match &self.writing {
            Some(_) => (self.buffer_memory / 2, self.buffer_memory / 2),
            None => (self.buffer_memory, 0),
        }
    }

    /// The bucket and prefix, as `s3://BUCKET/PREFIX`.
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.endpoint.bucket, self.settings.prefix)
    }
}

/// What `explain` and `ls` query in a bucket without a mount.
#[derive(Clone, Debug)]
pub struct Query {
    pub endpoint: Endpoint,
    /// What follows the bucket: a key, or a prefix of keys.
    pub key: String,
    pub policy: Policy,
    pub local_clock: bool,
    /// Whether `--clock` was given.
    pub clock_is_given: bool,
    pub timeout: Duration,
    pub metadata_concurrency: usize,
}

impl Query {
    /// `url` is `s3://BUCKET/KEY`.
    ///
    /// # Errors
    /// What is wrong with the arguments, in one line.
    pub fn new(url: &str, args: ObjectArgs) -> Result<Query, String> {
        let (bucket, key) = bucket_and_key(url)?;
        Ok(Query {
            key: key.to_owned(),
            endpoint: endpoint(bucket.to_owned(), args.store)?,
            policy: args.rules.policy()?,
            local_clock: args.rules.clock == Some(ClockArg::Local),
            clock_is_given: args.rules.clock.is_some(),
            timeout: args.timeout,
            metadata_concurrency: args.metadata_concurrency,
        })
    }

    /// The same, of one object.
    ///
    /// # Errors
    /// The same.
    pub fn of_object(url: &str, args: ObjectArgs) -> Result<Query, String> {
        let query = Query::new(url, args)?;
        match url.starts_with("s3://") && !query.key.is_empty() && !query.key.ends_with('/') {
            true => Ok(query),
            false => Err(format!("{url:?} names no object: expected s3://BUCKET/KEY")),
        }
    }
}

impl RuleArgs {
    fn policy(&self) -> Result<Policy, String> {
        let of_headers = [
            ("--cache-control last-modified", self.cache_control != CacheControl::Ignore),
            ("--lifecycle", self.lifecycle),
        ];
        match of_headers.iter().find(|(_, given)| *given && self.expires_from == Source::List) {
            Some((option, _)) => Err(format!(
                "{option} cannot be used with --expires-from list, which ignores headers"
            )),
            None => Ok(Policy {
                on_unparsable: self.on_unparsable,
                default_ttl: self.default_ttl,
                source: self.expires_from,
                cache_control: self.cache_control,
                lifecycle: self.lifecycle,
            }),
        }
    }
}

/// A daemon changes its working directory.
fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    path::absolute(&path).map_err(|error: io::Error| format!("{}: {error}", path.display()))
}

/// Measured with two cores: a second worker makes 64 concurrent reads of large files 6 % faster,
/// and small files no slower.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use args::{Cli, Command};
    use clap::Parser;

    #[test]
    fn absence_is_cached_for_writers_but_no_longer_than_other_metadata() {
        for (typed, millis) in [
            ("", 0),
            ("--metadata-ttl expiry", 0),
            ("--writable --ttl 1h", 1000),
            ("--writable --ttl 1h --metadata-ttl 300ms", 300),
            ("--writable --ttl 1h --metadata-ttl 0s", 0),
            ("--writable --ttl 1h --metadata-ttl expiry", 1000),
            ("--writable --ttl 1h --metadata-ttl 0s --negative-ttl 5s", 5000),
        ] {
            let typed =
                ["expirefs", "mount", "b", "/mnt"].into_iter().chain(typed.split_whitespace());
            let Command::Mount(args) = Cli::parse_from(typed.clone()).command else {
                unreachable!()
            };
            let config = Config::new(*args).unwrap();
            let typed: Vec<_> = typed.collect();
            assert_eq!(config.settings.negative_ttl, Duration::from_millis(millis), "{typed:?}");
        }
    }

    #[test]
    fn expires_from_list_excludes_options_about_headers() {
        for headers in [&["--lifecycle"][..], &["--cache-control", "last-modified"]] {
            let typed = ["expirefs", "mount", "b", "/mnt", "--expires-from", "list"];
            let typed = typed.into_iter().chain(["--default-ttl", "1h"]).chain(headers.to_vec());
            let Command::Mount(args) = Cli::parse_from(typed).command else { unreachable!() };
            let says = Config::new(*args).unwrap_err();
            assert!(says.contains(headers[0]) && says.contains("--expires-from list"), "{says}");
        }
    }

    #[test]
    fn options_for_more_memory_than_the_machine_has_are_refused() {
        for option in ["--buffer-memory", "--probe-cache", "--index-memory"] {
            let typed = ["expirefs", "mount", "b", "/mnt", option, "99999999GiB"];
            let Command::Mount(args) = Cli::parse_from(typed).command else { unreachable!() };
            let says = Config::new(*args).unwrap_err();
            assert!(says.contains(option) && says.contains("this machine"), "{says}");
        }
    }
}
