//! The command line as typed. The parent module validates it.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueHint};

use super::logging::LogArgs;
use super::values;
use crate::catalog::Trust;
use crate::expiry::{CacheControl, OnUnparsable, Source, Touch, Ttl};
use crate::fs::listing::Exactness;
use crate::glob::Glob;
use crate::s3::Addressing;
use crate::store::write::Sse;

/// Mount an S3 bucket as a directory in which expired objects do not exist.
#[derive(Debug, Parser)]
#[command(name = "expirefs", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogArgs,
    /// This process was started by `expirefs mount`, which waits at the other end of standard input
    #[arg(long, hide = true)]
    pub in_background: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a bucket, or a prefix of it
    Mount(Box<MountArgs>),
    /// Unmount, after reads in flight have ended or 5 s have passed; also clears a dead mount
    Umount(UmountArgs),
    /// Show the open files of a mount, its counters, and how its cap was derived
    Status(StatusArgs),
    /// Show a mount live: bodies, operations, requests and what they cost, latencies, the open files
    /// with their processes, and what expires next. Prints once if standard output is not a terminal
    Top(TopArgs),
    /// Show the expirefs mounts of this host, and whether each is served
    List(ListArgs),
    /// Show what a running mount logs, or change it
    Log(ChangeLogArgs),
    /// List a bucket, with the expiry of each object: live ones, expired ones, or both
    Ls(Box<LsArgs>),
    /// Explain why an object is visible or not: its headers, their meaning, both clocks, the
    /// verdict
    Explain(Box<ExplainArgs>),
    /// Store a file, or standard input, as an object with an expiry
    Put(Box<PutArgs>),
    /// Fetch an object that has not expired, into a file or to standard output
    Get(Box<GetArgs>),
    /// Delete objects that have not expired, each only if it is still the one that was found
    Rm(Box<RmArgs>),
    /// Set how long files of a mount, or objects, live from now on
    Ttl(Box<TtlArgs>),
    /// List what has expired, or delete it, each only if it was not renewed meanwhile
    Sweep(Box<SweepArgs>),
    /// Mount a bucket served by this process, to try expirefs without S3
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The mount point
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Detach at once, without the daemon: open files stay usable while it lives
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The mount point, or a path in the mount
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// As OpenMetrics text, the same as `mount --metrics` serves
    #[arg(long, conflicts_with_all = ["json", "quiet"])]
    pub openmetrics: bool,
    /// Show it anew each INTERVAL, 1s if none is given, until a signal comes; with --json, one object
    /// per line
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1s",
        value_parser = values::nonzero_duration,
        conflicts_with = "openmetrics"
    )]
    pub watch: Option<Duration>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct TopArgs {
    /// The mount point, or a path in the mount; needed only if there are several
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// How often it is shown anew
    #[arg(long, short, value_name = "D", default_value = "1s", value_parser = values::nonzero_duration)]
    pub interval: Duration,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct ChangeLogArgs {
    /// The mount point, or a path in the mount
    pub dir: PathBuf,
    /// What to log from now on, as for --log; without it the current filter is shown
    pub filter: Option<String>,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// s3://BUCKET or s3://BUCKET/PREFIX
    #[arg(value_name = "s3://BUCKET[/PREFIX]", value_hint = ValueHint::Other)]
    pub url: String,
    /// Only expired objects
    #[arg(long, conflicts_with = "live")]
    pub expired: bool,
    /// Only live objects: what a mount shows
    #[arg(long)]
    pub live: bool,
    /// All objects (the default)
    #[arg(long, conflicts_with_all = ["live", "expired"])]
    pub all: bool,
    /// All keys under the prefix, not only one level
    #[arg(long, short)]
    pub recursive: bool,
    /// With size, Last-Modified, and what decided the expiry
    #[arg(long, short)]
    pub long: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub object: ObjectArgs,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A path in a mount, or s3://BUCKET/KEY
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: String,
    #[command(flatten)]
    pub output: OutputArgs,
    /// For s3://BUCKET/KEY only: a mount uses its own options
    #[command(flatten)]
    pub object: ObjectArgs,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("end").required(true))]
pub struct PutArgs {
    /// The file, or - for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// s3://BUCKET/KEY; a KEY that ends with a slash gets the name of the file
    #[arg(value_name = "s3://BUCKET/KEY", value_hint = ValueHint::Other)]
    pub url: String,
    /// How long the object lives, counted from when it is stored; never: no expiry
    #[arg(long, value_name = "D|never", group = "end", value_parser = values::ttl)]
    pub ttl: Option<Ttl>,
    /// When it expires: a date such as 2026-11-25T20:00:00Z
    #[arg(long, value_name = "DATE", group = "end", value_parser = values::date)]
    pub expires: Option<SystemTime>,
    /// Fail if a live object has this key; an expired one is replaced
    #[arg(long)]
    pub if_absent: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten, next_help_heading = "New object")]
    pub objects: NewObjectArgs,
    #[command(flatten)]
    pub object: ObjectArgs,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The object
    #[arg(value_name = "s3://BUCKET/KEY", value_hint = ValueHint::Other)]
    pub url: String,
    /// The file, which is replaced once the object is complete; a directory, for a file with the name
    /// of the object; or - for standard output
    pub file: PathBuf,
    /// Count an object that expires within this time as expired
    #[arg(long, value_name = "D", default_value = "0s", value_parser = values::duration)]
    pub if_live_for: Duration,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub object: ObjectArgs,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// The objects
    #[arg(value_name = "s3://BUCKET/KEY", required = true, value_hint = ValueHint::Other)]
    pub urls: Vec<String>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub object: ObjectArgs,
}

#[derive(Debug, Args)]
pub struct TtlArgs {
    /// Files in a writable mount, or s3://BUCKET/KEY, and then the time to live: a duration such as
    /// 2h, or never
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub paths: Vec<String>,
    /// How long they live, counted from now; never: no expiry
    #[arg(value_name = "D|never", value_parser = values::ttl)]
    pub ttl: Ttl,
    #[command(flatten)]
    pub output: OutputArgs,
    /// For s3://BUCKET/KEY only: a mount uses its own options
    #[command(flatten, next_help_heading = "New object")]
    pub copied: CopiedArgs,
    /// The same
    #[command(flatten)]
    pub object: ObjectArgs,
}

#[derive(Debug, Args)]
pub struct SweepArgs {
    /// s3://BUCKET, or s3://BUCKET/DIRECTORY: all keys below it
    #[arg(value_name = "s3://BUCKET[/PREFIX]", value_hint = ValueHint::Other)]
    pub url: String,
    /// Delete what is due, instead of listing it
    #[arg(long)]
    pub delete: bool,
    /// How long ago an object must have expired
    #[arg(long, value_name = "D", default_value = "1h", value_parser = values::duration)]
    pub grace: Duration,
    /// Also delete objects whose expiry cannot be parsed, if they are older than --grace
    #[arg(long)]
    pub unparsable: bool,
    /// Stop after so many deletions
    #[arg(long, value_name = "N", requires = "delete")]
    pub max_delete: Option<u64>,
    /// A promise that saves requests: all objects have an expiry, at least MIN and at most MAX after
    /// their Last-Modified
    #[arg(long, value_names = ["MIN", "MAX"], num_args = 2, value_parser = values::duration)]
    pub ttl_between: Option<Vec<Duration>>,
    /// Also incomplete multipart uploads that were created longer ago than this
    #[arg(long, value_name = "AGE", value_parser = values::nonzero_duration)]
    pub uploads: Option<Duration>,
    /// Requests per second, at most
    #[arg(long, value_name = "N/s", value_parser = values::rate)]
    pub rate: Option<NonZeroU32>,
    /// Parts of the key space that are swept at the same time, as the listing divides it
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::shards)]
    pub shards: usize,
    /// Keep in this file what is left to sweep, and go on there after an interruption
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub state: Option<PathBuf>,
    /// Keep expiry headers in this file, or use those of a mount: only new objects cost a HEAD
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub index: Option<PathBuf>,
    /// Stay, and sweep again this long after the start of the last sweep
    #[arg(long, value_name = "D", value_parser = values::nonzero_duration)]
    pub interval: Option<Duration>,
    /// Write the results of each sweep to this file, as OpenMetrics text
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub metrics: Option<PathBuf>,
    /// Print the lifecycle rule that would do the same for nothing, if there is one, and on standard
    /// error what it does otherwise
    #[arg(long, conflicts_with_all = ["delete", "ttl_between", "state", "interval"])]
    pub lifecycle_advice: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub object: ObjectArgs,
}

impl SweepArgs {
    pub fn ttl_between(&self) -> Option<(Duration, Duration)> {
        match self.ttl_between.as_deref() {
            Some([least, most]) => Some((*least, *most)),
            _ => None,
        }
    }
}

/// What is shown of each object.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Print JSON: one object per line
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(long, short, conflicts_with = "json")]
    pub quiet: bool,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Run a tour that checks each result, and exit: with status 0 only if all were right
    #[arg(long)]
    pub exit: bool,
}

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

/// Options for requests and expiry without a mount.
#[derive(Clone, Debug, Args)]
pub struct ObjectArgs {
    #[command(flatten, next_help_heading = "Store")]
    pub store: StoreArgs,
    #[command(flatten, next_help_heading = "Expiry")]
    pub rules: RuleArgs,
    /// Maximum number of concurrent HEAD requests
    #[arg(
        long,
        visible_alias = "concurrency",
        value_name = "N",
        default_value = "64",
        value_parser = values::concurrency
    )]
    pub metadata_concurrency: usize,
    /// Timeout of a request to the store, including retries
    #[arg(long, value_name = "D", default_value = "30s", value_parser = values::nonzero_duration)]
    pub timeout: Duration,
}

#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI,
    /// by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub endpoint_url: Option<String>,
    /// Region of the bucket
    #[arg(long)]
    pub region: Option<String>,
    /// Profile of the AWS configuration files
    #[arg(long)]
    pub profile: Option<String>,
    /// Send requests without credentials, for public buckets
    #[arg(long)]
    pub no_sign_request: bool,
    /// Where the bucket's name goes; auto: in the host for AWS, else in the path
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    pub addressing_style: Addressing,
    /// Pay for the requests to a requester-pays bucket
    #[arg(long)]
    pub requester_pays: bool,
    /// Trust the certificates in this PEM file, and not the system's [default: AWS_CA_BUNDLE or the
    /// profile's ca_bundle]
    #[arg(long, value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    /// Use endpoints of AWS that are certified for FIPS 140
    #[arg(long, conflicts_with = "endpoint_url")]
    pub fips: bool,
    /// Use endpoints of AWS with IPv6 and IPv4
    #[arg(long, conflicts_with = "endpoint_url")]
    pub dual_stack: bool,
    /// The account that must own the bucket: the store refuses requests to one of another owner
    #[arg(long, value_name = "ID", value_parser = values::account)]
    pub expected_bucket_owner: Option<String>,
}

#[derive(Debug, Args)]
pub struct ExpiryArgs {
    /// How long metadata of an object is cached: a duration, or `expiry`: until the object expires
    /// (60s for one without an expiry). With `expiry` a replacement, a deletion or a purge is not
    /// noticed before the old expiry, unless a read needs a new request
    #[arg(long, value_name = "D|expiry", default_value = "1s", value_parser = values::trust)]
    pub metadata_ttl: Trust,
    /// How long it is cached that a name does not exist [default: 0s; with --writable 1s, but at
    /// most --metadata-ttl]
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub negative_ttl: Option<Duration>,
    #[command(flatten)]
    pub rules: RuleArgs,
}

impl ExpiryArgs {
    /// A program that writes files looks each name up before it creates it. One LIST of the directory
    /// then answers for many (see `catalog::ranges`). Absence is cached no longer than other metadata
    /// (rule W15).
    pub fn negative_ttl(&self, writable: bool) -> Duration {
        const OF_WRITERS: Duration = Duration::from_secs(1);
        self.negative_ttl.unwrap_or(match (writable, self.metadata_ttl) {
            (true, Trust::For(ttl)) => ttl.min(OF_WRITERS),
            (true, Trust::UntilExpiry) => OF_WRITERS,
            (false, _) => Duration::ZERO,
        })
    }
}

/// What decides when an object expires.
#[derive(Clone, Debug, Args)]
pub struct RuleArgs {
    /// How to treat an Expires that is not a date, or a max-age that is not a number
    #[arg(long, value_name = "WHAT", default_value = "expired")]
    pub on_unparsable: OnUnparsable,
    /// Lifetime, from Last-Modified, of objects whose headers set no expiry [default: for ever]
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub default_ttl: Option<Duration>,
    /// How to use Cache-Control; last-modified: s-maxage, else max-age, counted from Last-Modified,
    /// instead of Expires
    #[arg(long, value_name = "WHAT", default_value = "ignore")]
    pub cache_control: CacheControl,
    /// Also use the day on which a lifecycle rule of the bucket deletes an object, if it is earlier
    #[arg(long)]
    pub lifecycle: bool,
    /// Where the expiry comes from; list: Last-Modified + --default-ttl only, which saves listings
    /// a HEAD per object
    #[arg(
        long,
        value_name = "SOURCE",
        default_value = "headers",
        requires_if("list", "default_ttl")
    )]
    pub expires_from: Source,
    /// Which clock decides [default: server]
    #[arg(long, value_name = "CLOCK")]
    pub clock: Option<ClockArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClockArg {
    /// The store's, learned from its responses
    Server,
    /// This host's
    Local,
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

/// What new objects are stored with.
#[derive(Debug, Args)]
pub struct NewObjectArgs {
    /// Storage class of written files; what is only renamed or given a new end keeps its own
    /// [default: STANDARD]
    #[arg(long, value_name = "CLASS", value_parser = values::storage_class)]
    pub storage_class: Option<String>,
    #[command(flatten)]
    pub copied: CopiedArgs,
    /// Set Content-Type by the file name extension (the default)
    #[arg(long, overrides_with = "no_content_type_by_name")]
    pub content_type_by_name: bool,
    /// Set no Content-Type: S3 then uses binary/octet-stream
    #[arg(long)]
    pub no_content_type_by_name: bool,
}

/// What new objects are stored with, and copies too, since they do not take it from their source.
#[derive(Debug, Args)]
pub struct CopiedArgs {
    /// Server-side encryption of files that are written, renamed or given a new expiry [default:
    /// the bucket's]
    #[arg(long, value_name = "HOW")]
    pub sse: Option<Sse>,
    /// AWS KMS key for this encryption: id, alias or ARN [default: the bucket's]
    #[arg(long, value_name = "KEY", value_parser = values::kms_key)]
    pub sse_kms_key_id: Option<String>,
    /// Canned ACL of files that are written, renamed or given a new expiry [default: private]
    #[arg(long, value_name = "ACL", value_parser = values::CANNED_ACLS)]
    pub acl: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn refused(args: &[&str]) -> String {
        let args = ["expirefs", "mount", "b", "/mnt"].iter().chain(args);
        Cli::try_parse_from(args).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn error_of_a_wrong_value_names_option_value_and_expected_form() {
        let table = [
            ("--open-wait", "soon", "90s"),
            ("--slow", "0s", "above zero"),
            ("--expected-bucket-owner", "1234", "12 digits"),
            ("--timeout", "0s", "above zero"),
            ("--metadata-ttl", "always", "`expiry`"),
            ("--max-open-bodies", "0", "from 1"),
            ("--max-open-bodies", "many", "from 1"),
            ("--probe-size", "2MiB", "at most 1MiB"),
            ("--probe-cache", "lots", "32MiB"),
            ("--buffer-memory", "1MiB", "at least 4MiB"),
            ("--file-mode", "rw", "0644"),
            ("--dir-mode", "1777", "octal"),
            ("--on-unparsable", "hide", "fresh"),
            ("--addressing-style", "dns", "virtual"),
            ("--clock", "ntp", "server"),
            ("--cache-control", "heed", "last-modified"),
            ("--ls", "fast", "lazy"),
            ("--metadata-concurrency", "0", "from 1"),
            ("--metadata-concurrency", "99999999999", "10000"),
            ("--fuse-threads", "100000", "from 1 to 64"),
            ("--max-open-bodies", "99999999999999999999", "from 1"),
            ("--open-wait", "1001y", "365000d"),
            ("--default-ttl", "99999999999999999999y", "365000d"),
            ("--ttl", "soon", "`never`"),
            ("--ttl", "0s", "above zero"),
            ("--ttl-rule", "1h", "GLOB=D"),
            ("--ttl-rule", "*.log=", "`never`"),
            ("--ttl-rule", "d/=1h", "cache/**"),
            ("--ttl-rule", "[a=1h", "unclosed"),
            ("--stage", "", "*.tmp"),
            ("--spool-size", "lots", "32MiB"),
            ("--part-size", "5MB", "5MiB to 1GiB"),
            ("--part-size", "2GiB", "5MiB to 1GiB"),
            ("--touch", "keep", "renew"),
            ("--sse", "aes", "AES256"),
            ("--sse-kms-key-id", "a b", "ARN"),
            ("--storage-class", "a b", "STANDARD_IA"),
            ("--storage-class", "DEEP_ARCHIVE", "read at once"),
            ("--acl", "public", "public-read"),
        ];
        for (option, value, right) in table {
            let says = refused(&[option, value]);
            for part in [option, value, right] {
                assert!(says.contains(part), "{option} {value}: no {part:?} in {says}");
            }
        }
        assert!(refused(&["--expires-from", "list"]).contains("--default-ttl"));
        for option in ["--spool", "--spool-size"] {
            let says = refused(&["--no-spool", option, "1GiB"]);
            assert!(says.contains("--no-spool") && says.contains(option), "{says}");
        }
    }
}
