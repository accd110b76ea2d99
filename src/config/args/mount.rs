//! The options of a mount, by the headings of its help.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueHint};

use super::store::{ExpiryArgs, NewObjectArgs, StoreArgs};
use crate::config::values;
use crate::expiry::{Touch, Ttl};
use crate::fs::listing::Exactness;
use crate::glob::Glob;

#[derive(Debug, Args)]
pub struct MountArgs {
    /// BUCKET, BUCKET/PREFIX or s3://BUCKET/PREFIX
    #[arg(value_name = "BUCKET[/PREFIX]", value_hint = ValueHint::Other)]
    pub bucket: String,
    /// Where to mount it: a directory
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Stay in the foreground; without it, the command returns when the mount serves, and a daemon
    /// goes on
    #[arg(long, short = 'f')]
    pub foreground: bool,
    /// Clear a dead mount at DIR, left by a crash, before mounting
    #[arg(long)]
    pub replace_dead: bool,
    /// Forbid executing the files of the mount
    #[arg(long)]
    pub noexec: bool,
    /// What df(1) and the mount table show as the source [default: expirefs:s3://BUCKET/PREFIX]
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    pub fsname: Option<String>,
    /// File with variables for the daemon's environment, such as credentials: lines NAME=VALUE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "foreground")]
    pub env_file: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Store")]
    pub store: StoreArgs,
    #[command(flatten, next_help_heading = "Expiry and caching")]
    pub expiry: ExpiryArgs,
    #[command(flatten, next_help_heading = "Listing")]
    pub listing: ListingArgs,
    #[command(flatten, next_help_heading = "Reading")]
    pub reading: ReadArgs,
    #[command(flatten, next_help_heading = "Writing")]
    pub writing: WriteArgs,
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: LimitArgs,
    #[command(flatten, next_help_heading = "Files")]
    pub files: FileArgs,
}

#[derive(Debug, Args)]
pub struct ListingArgs {
    /// How a listing treats objects that are not cached; exact: it requests the headers of each,
    /// and shows no expired name; lazy: it shows them all, and a lookup decides
    #[arg(long, value_name = "HOW", default_value = "exact")]
    pub ls: Exactness,
    /// Keep the cached expiry headers in this file, for the next mount of the bucket
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub index: Option<PathBuf>,
    /// Memory for cached expiry headers, 64 bytes per object: listings request no headers of
    /// objects in this cache
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = values::size)]
    pub index_memory: ByteSize,
}

#[derive(Debug, Args)]
pub struct ReadArgs {
    /// First bytes of a file to fetch with the first lookup of its name, where lookups are followed
    /// by opens: a file up to this size takes one request; 0: none
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = values::probe_size)]
    pub probe_size: ByteSize,
    /// Memory to cache these bytes until the open, all files together
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = values::size)]
    pub probe_cache: ByteSize,
    /// Memory for buffers between the store and the kernel, all open files together
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = values::buffer_memory)]
    pub buffer_memory: ByteSize,
}

/// Without --writable none of the others may be given, so none has a default here.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Allow writing files, each with an expiry; needs --ttl
    #[arg(long)]
    pub writable: bool,
    /// Lifetime of a written file, counted from its commit and stored as Expires; never: no expiry
    #[arg(long, value_name = "D|never", value_parser = values::ttl)]
    pub ttl: Option<Ttl>,
    /// Another lifetime for files whose path below the mount point matches; may be repeated: the
    /// first match counts. As in a gitignore file, a glob without `/` matches names, in any
    /// directory, and `*` does not match `/`: '*.log=10m', 'cache/**=1h', '/keep/*=never'
    #[arg(long = "ttl-rule", value_name = "GLOB=D|never", value_parser = values::ttl_rule)]
    pub ttl_rules: Vec<(Glob, Ttl)>,
    /// Directory for files larger than a part until their commit, and for the list of unfinished
    /// uploads [default: /var/tmp]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub spool: Option<PathBuf>,
    /// Maximum size of all these files together; beyond it, writes fail with ENOSPC [default:
    /// 10GiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub spool_size: Option<ByteSize>,
    /// Keep no content on disk: files larger than a part can only be written sequentially
    #[arg(long, conflicts_with_all = ["spool", "spool_size"])]
    pub no_spool: bool,
    /// Effect of touch(1), which sets the times of a file to now, on its expiry [default: ignore]
    #[arg(long, value_name = "WHAT")]
    pub touch: Option<Touch>,
    /// Refuse changes of mode, owner and times with EPERM; by default they succeed without effect
    #[arg(long)]
    pub strict_attributes: bool,
    /// Delay the upload of a closed file whose path matches until it is renamed, for 5 s at most:
    /// one PUT instead of PUT, COPY and DELETE. A crash before that loses the file. May be
    /// repeated; example: '*.tmp'
    #[arg(long, value_name = "GLOB", value_parser = Glob::new)]
    pub stage: Vec<Glob>,
    /// Size of a part of a multipart upload; S3 allows 10,000 parts per file. A file up to this
    /// size is kept in --buffer-memory and is one PUT [default: 8MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::part_size)]
    pub part_size: Option<ByteSize>,
    #[command(flatten)]
    pub objects: NewObjectArgs,
}

#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Maximum number of open bodies [default: as many as the descriptor limit allows]
    #[arg(long, value_name = "N", value_parser = values::positive)]
    pub max_open_bodies: Option<usize>,
    /// How long an open waits for a free body before ENFILE
    #[arg(long, value_name = "D", default_value = "5s", value_parser = values::duration)]
    pub open_wait: Duration,
    /// Maximum number of concurrent HEAD and LIST requests; fewer if descriptors are scarce
    #[arg(long, value_name = "N", default_value = "64", value_parser = values::concurrency)]
    pub metadata_concurrency: usize,
    /// Never close an idle body to make room for another open
    #[arg(long)]
    pub no_parking: bool,
    /// Do not raise the soft limit of descriptors to the hard limit
    #[arg(long)]
    pub keep_fd_limit: bool,
    /// How long a system call waits for the store, including retries
    #[arg(long, value_name = "D", default_value = "30s", value_parser = values::nonzero_duration)]
    pub timeout: Duration,
    /// Log a body that was held open for this long without a read; 0s: never
    #[arg(long, value_name = "D", default_value = "10m", value_parser = values::duration)]
    pub idle_warn: Duration,
    /// Serve metrics at http://HOST:PORT/metrics, in the formats of OpenMetrics and Prometheus. Anybody
    /// who can connect can read them; they contain the names of bucket and mount point, but no keys
    #[arg(long, value_name = "HOST:PORT", value_parser = values::address, value_hint = ValueHint::Other)]
    pub metrics: Option<String>,
    /// Log an operation that took longer than this, with what it waited for [default: none]
    #[arg(long, value_name = "D", value_parser = values::nonzero_duration)]
    pub slow: Option<Duration>,
    /// Threads that serve the kernel
    #[arg(long, value_name = "N", default_value = "2", value_parser = values::fuse_threads)]
    pub fuse_threads: usize,
    /// How long an idle connection is kept [default: 10s]. For tests, which wait until it is closed
    #[arg(long, value_name = "D", hide = true, value_parser = values::nonzero_duration)]
    pub pool_idle: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct FileArgs {
    /// Owner [default: the user who mounts]
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group [default: the group of the user who mounts]
    #[arg(long)]
    pub gid: Option<u32>,
    /// Permissions of files, octal; write bits are removed
    #[arg(long, value_name = "MODE", default_value = "0644", value_parser = values::mode)]
    pub file_mode: u16,
    /// Permissions of directories, octal; write bits are removed
    #[arg(long, value_name = "MODE", default_value = "0755", value_parser = values::mode)]
    pub dir_mode: u16,
    /// Allow other users to access the mount, as the permissions say
    #[arg(long)]
    pub allow_other: bool,
}
