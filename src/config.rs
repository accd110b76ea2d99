//! What was typed, made into what a mount needs. With `cli.rs` the sole reader of arguments and
//! environment.

use std::path::PathBuf;

use nix::unistd::{Gid, Uid};

use crate::body::Patience;
use crate::cli::{ClockArg, MountArgs};
use crate::expiry::Policy;
use crate::fs::Settings;
use crate::fuse::Ownership;
use crate::listing;
use crate::name::Prefix;
use crate::probe;
use crate::s3::Endpoint;

/// A mount, described.
#[derive(Clone, Debug)]
pub struct Config {
    pub endpoint: Endpoint,
    pub dir: PathBuf,
    pub settings: Settings,
    pub local_clock: bool,
    pub max_open_bodies: Option<usize>,
    pub parking: bool,
    /// Bytes of all windows together.
    pub buffer_memory: u64,
    pub keep_fd_limit: bool,
    pub fuse_threads: usize,
    /// Threads that talk to the store.
    pub workers: usize,
    pub ownership: Ownership,
    pub allow_other: bool,
    pub replace_dead: bool,
}

impl Config {
    /// # Errors
    /// What is wrong with the arguments taken together, in one line.
    pub fn new(args: MountArgs) -> Result<Config, String> {
        let (bucket, prefix) = bucket_and_prefix(&args.bucket)?;
        let MountArgs { store, expiry, reading, limits, files, .. } = args;
        Ok(Config {
            endpoint: Endpoint {
                bucket,
                endpoint_url: store.endpoint_url,
                region: store.region,
                profile: store.profile,
                no_sign_request: store.no_sign_request,
                addressing: store.addressing_style,
                requester_pays: store.requester_pays,
            },
            dir: args.dir,
            settings: Settings {
                prefix,
                policy: Policy {
                    on_unparsable: expiry.on_unparsable,
                    default_ttl: expiry.default_ttl,
                    source: expiry.expires_from,
                },
                trust: expiry.metadata_ttl,
                negative_ttl: expiry.negative_ttl,
                patience: Patience { open_wait: limits.open_wait, timeout: limits.timeout },
                probe: probe::Limits {
                    size: reading.probe_size.as_u64(),
                    cache: usize::try_from(reading.probe_cache.as_u64()).unwrap_or(usize::MAX),
                },
                page: listing::PAGE,
            },
            local_clock: expiry.clock == ClockArg::Local,
            max_open_bodies: limits.max_open_bodies,
            parking: !limits.no_parking,
            buffer_memory: reading.buffer_memory.as_u64(),
            keep_fd_limit: limits.keep_fd_limit,
            fuse_threads: limits.fuse_threads,
            workers: workers(),
            ownership: Ownership {
                uid: files.uid.unwrap_or_else(|| Uid::current().as_raw()),
                gid: files.gid.unwrap_or_else(|| Gid::current().as_raw()),
                file_mode: files.file_mode,
                dir_mode: files.dir_mode,
            },
            allow_other: files.allow_other,
            replace_dead: args.replace_dead,
        })
    }

    /// The bucket and prefix, as `s3://BUCKET/PREFIX`.
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.endpoint.bucket, self.settings.prefix)
    }
}

/// Measured with two cores: a second worker reads 64 large files at one time 6 % faster, and small
/// ones as fast as one worker does.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4))
}

/// Where sockets of this user's daemons live.
pub fn runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ => "/run".into(),
    }
}

fn bucket_and_prefix(text: &str) -> Result<(String, Prefix), String> {
    let path = text.strip_prefix("s3://").unwrap_or(text);
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if bucket.is_empty() || !bucket.chars().all(legal) {
        return Err(format!(
            "{text:?} names no bucket: expected BUCKET, BUCKET/PREFIX or s3://BUCKET/PREFIX"
        ));
    }
    Ok((bucket.to_owned(), Prefix::new(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_prefixes() {
        let parts = |text| bucket_and_prefix(text).map(|(b, p)| (b, p.as_str().to_owned()));
        let right = |b: &str, p: &str| Ok((b.to_owned(), p.to_owned()));
        assert_eq!(parts("b"), right("b", ""));
        assert_eq!(parts("b/"), right("b", ""));
        assert_eq!(parts("b/a/c"), right("b", "a/c/"));
        assert_eq!(parts("s3://b/a/"), right("b", "a/"));
        for wrong in ["", "/x", "s3://", "s3:///x", "http://b/x", "b c"] {
            assert!(parts(wrong).unwrap_err().contains(wrong), "{wrong:?}");
        }
    }
}
