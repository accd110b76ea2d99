//! The command line as typed: the commands. The parent module validates it.

mod mount;
mod store;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueHint};

pub use mount::{MountArgs, WriteArgs};
pub use store::{ClockArg, CopiedArgs, NewObjectArgs, ObjectArgs, RuleArgs, StoreArgs};

use super::logging::LogArgs;
use super::values;
use crate::expiry::Ttl;

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
