//! The command line, as typed. The module above makes sense of it.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};

use super::values;
use crate::catalog::Trust;
use crate::expiry::{CacheControl, OnUnparsable, Source};
use crate::fs::listing::Exactness;
use crate::s3::Addressing;

/// Mount an S3 bucket as a directory in which expired objects do not exist.
#[derive(Debug, Parser)]
#[command(name = "expirefs", version, max_term_width = 100)]
pub struct Cli {
    /// What to log, on standard error: a level, or levels by module (`expirefs=debug`)
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "EXPIREFS_LOG",
        default_value = "warn,aws_config=error,aws_runtime=error,aws_smithy_runtime=error"
    )]
    pub log: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a bucket, or what lies under a prefix of it, read-only
    Mount(Box<MountArgs>),
    /// Unmount, once running reads have ended or 5 s have passed; clears a dead mount too
    Umount(UmountArgs),
    /// Show what a mount holds open, what it has done, and how its cap was derived
    Status(StatusArgs),
    /// List a bucket, with the expiry of each object: live ones, expired ones, or both
    Ls(Box<LsArgs>),
    /// Say why an object is there or not: its headers, how they are read, both clocks, the verdict
    Explain(Box<ExplainArgs>),
    /// Mount a bucket that lives in this process, to try it all without S3
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The mount point
    pub dir: PathBuf,
    /// Detach it at once, without asking its daemon: what is open stays usable while that lives
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The mount point, or a path in the mount
    pub dir: PathBuf,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// s3://BUCKET or s3://BUCKET/PREFIX
    #[arg(value_name = "s3://BUCKET[/PREFIX]")]
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
    /// All keys under the prefix, not one level of them
    #[arg(long, short)]
    pub recursive: bool,
    /// With size, Last-Modified, and what decided
    #[arg(long, short)]
    pub long: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub object: ObjectArgs,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A path in a mount, or s3://BUCKET/KEY
    pub path: String,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
    /// Of s3://BUCKET/KEY only: a mount explains by its own options
    #[command(flatten)]
    pub object: ObjectArgs,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Run a tour that checks what it sees, and leave: status 0 only if all was right
    #[arg(long)]
    pub exit: bool,
}

#[derive(Debug, Args)]
pub struct MountArgs {
    /// BUCKET, BUCKET/PREFIX or s3://BUCKET/PREFIX
    #[arg(value_name = "BUCKET[/PREFIX]")]
    pub bucket: String,
    /// Where to mount it: a directory
    pub dir: PathBuf,
    /// Stay in the foreground (the default, for now the only way)
    #[arg(long, short = 'f')]
    pub foreground: bool,
    /// Clear a dead mount at DIR, left by a crash, before mounting
    #[arg(long)]
    pub replace_dead: bool,

    #[command(flatten, next_help_heading = "Store")]
    pub store: StoreArgs,
    #[command(flatten, next_help_heading = "Expiry and caching")]
    pub expiry: ExpiryArgs,
    #[command(flatten, next_help_heading = "Listing")]
    pub listing: ListingArgs,
    #[command(flatten, next_help_heading = "Reading")]
    pub reading: ReadArgs,
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: LimitArgs,
    #[command(flatten, next_help_heading = "Files")]
    pub files: FileArgs,
}

/// How objects are asked for and judged without a mount.
#[derive(Debug, Args)]
pub struct ObjectArgs {
    #[command(flatten, next_help_heading = "Store")]
    pub store: StoreArgs,
    #[command(flatten, next_help_heading = "Expiry")]
    pub rules: RuleArgs,
    /// HEAD requests under way at one time
    #[arg(long, value_name = "N", default_value = "64", value_parser = values::concurrency)]
    pub metadata_concurrency: usize,
    /// How long a request waits for the store, retries included
    #[arg(long, value_name = "D", default_value = "30s", value_parser = values::nonzero_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct StoreArgs {
    /// S3 endpoint other than AWS: http://HOST:PORT or https://HOST [default: as for the AWS CLI,
    /// by AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile]
    #[arg(long, value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// Region of the bucket
    #[arg(long)]
    pub region: Option<String>,
    /// Profile of the AWS configuration files
    #[arg(long)]
    pub profile: Option<String>,
    /// Send requests without credentials, as public buckets take them
    #[arg(long)]
    pub no_sign_request: bool,
    /// Where the bucket's name goes; auto: in the host for AWS, else in the path
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    pub addressing_style: Addressing,
    /// Pay for the requests to a requester-pays bucket
    #[arg(long)]
    pub requester_pays: bool,
}

#[derive(Debug, Args)]
pub struct ExpiryArgs {
    /// How long what the store said is believed: a duration, or `expiry`: until the object
    /// expires (60s for one without an expiry). With `expiry` a replacement, a deletion or a purge
    /// is not noticed before the old end, unless a read has to ask the store anew
    #[arg(long, value_name = "D|expiry", default_value = "1s", value_parser = values::trust)]
    pub metadata_ttl: Trust,
    /// How long a name is believed absent
    #[arg(long, value_name = "D", default_value = "0s", value_parser = values::duration)]
    pub negative_ttl: Duration,
    #[command(flatten)]
    pub rules: RuleArgs,
}

/// What decides when an object ends.
#[derive(Debug, Args)]
pub struct RuleArgs {
    /// What an Expires that is no date means, or a max-age that is no number
    #[arg(long, value_name = "WHAT", default_value = "expired")]
    pub on_unparsable: OnUnparsable,
    /// Life after Last-Modified of objects whose headers set no end [default: for ever]
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub default_ttl: Option<Duration>,
    /// What Cache-Control counts for; last-modified: s-maxage, else max-age, from Last-Modified
    /// on, in place of Expires
    #[arg(long, value_name = "WHAT", default_value = "ignore")]
    pub cache_control: CacheControl,
    /// The day on which a lifecycle rule of the bucket ends an object counts, too, if it is sooner
    #[arg(long)]
    pub lifecycle: bool,
    /// Where an expiry comes from; list: Last-Modified + --default-ttl alone, which spares
    /// listings a HEAD per object
    #[arg(
        long,
        value_name = "SOURCE",
        default_value = "headers",
        requires_if("list", "default_ttl")
    )]
    pub expires_from: Source,
    /// Whose clock decides
    #[arg(long, value_name = "CLOCK", default_value = "server")]
    pub clock: ClockArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClockArg {
    /// The store's, learnt from its answers
    Server,
    /// This host's
    Local,
}

#[derive(Debug, Args)]
pub struct ListingArgs {
    /// What a listing shows of objects not met before; exact: it asks for the headers of each, and
    /// shows no expired name; lazy: it shows them all, and a lookup decides
    #[arg(long, value_name = "HOW", default_value = "exact")]
    pub ls: Exactness,
    /// Keep what is known of objects in this file, for the next mount of the bucket
    #[arg(long, value_name = "FILE")]
    pub index: Option<PathBuf>,
    /// Memory for what is known of objects, 64 bytes each: listings ask for the headers of no
    /// object that is known
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = values::size)]
    pub index_memory: ByteSize,
}

#[derive(Debug, Args)]
pub struct ReadArgs {
    /// First bytes of a file that come with the answer to the first lookup of its name, where
    /// lookups are followed by opens: a file up to this size takes one request; 0: none
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = values::probe_size)]
    pub probe_size: ByteSize,
    /// Memory in which such bytes wait for the open, all files together
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = values::size)]
    pub probe_cache: ByteSize,
    /// Memory for bytes on their way from the store to the kernel, all open files together
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = values::buffer_memory)]
    pub buffer_memory: ByteSize,
}

#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Bodies open at one time [default: what the descriptor limit leaves room for]
    #[arg(long, value_name = "N", value_parser = values::positive)]
    pub max_open_bodies: Option<usize>,
    /// How long an open waits for a free body before ENFILE
    #[arg(long, value_name = "D", default_value = "5s", value_parser = values::duration)]
    pub open_wait: Duration,
    /// HEAD and LIST requests under way at one time, as far as there are descriptors
    #[arg(long, value_name = "N", default_value = "64", value_parser = values::concurrency)]
    pub metadata_concurrency: usize,
    /// Never close an idle body in favour of another open
    #[arg(long)]
    pub no_parking: bool,
    /// Do not raise the soft limit of descriptors to the hard one
    #[arg(long)]
    pub keep_fd_limit: bool,
    /// How long a call waits for the store, retries included
    #[arg(long, value_name = "D", default_value = "30s", value_parser = values::nonzero_duration)]
    pub timeout: Duration,
    /// Report a body that was held open for so long without a read; 0s: never
    #[arg(long, value_name = "D", default_value = "10m", value_parser = values::duration)]
    pub idle_warn: Duration,
    /// Threads that serve the kernel
    #[arg(long, value_name = "N", default_value = "2", value_parser = values::fuse_threads)]
    pub fuse_threads: usize,
    /// How long an idle connection is kept [default: 10s]. For tests, which wait for its end
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
    /// Permissions of files, octal; write bits are taken off
    #[arg(long, value_name = "MODE", default_value = "0644", value_parser = values::mode)]
    pub file_mode: u16,
    /// Permissions of directories, octal; write bits are taken off
    #[arg(long, value_name = "MODE", default_value = "0755", value_parser = values::mode)]
    pub dir_mode: u16,
    /// Let other users in, as the permissions say
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
    fn a_wrong_value_names_the_option_the_value_and_what_would_be_right() {
        let table = [
            ("--open-wait", "soon", "90s"),
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
        ];
        for (option, value, right) in table {
            let says = refused(&[option, value]);
            for part in [option, value, right] {
                assert!(says.contains(part), "{option} {value}: no {part:?} in {says}");
            }
        }
        assert!(refused(&["--expires-from", "list"]).contains("--default-ttl"));
    }
}
