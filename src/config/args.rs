//! The command line, as typed. The module above makes sense of it.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};

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
    #[command(flatten, next_help_heading = "Writing")]
    pub writing: WriteArgs,
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

/// Without --writable none of the others may be given, so none has a default here.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Let files be written, each with an end; needs --ttl
    #[arg(long)]
    pub writable: bool,
    /// Life of a file, from its commit on: its Expires says when it ends; never: it has no end
    #[arg(long, value_name = "D|never", value_parser = values::ttl)]
    pub ttl: Option<Ttl>,
    /// Another life for files of such a path below the mount point; may be repeated, and the first
    /// that matches counts. As in a gitignore file, a glob without `/` is one of names, in any
    /// directory, and `*` matches no `/`: '*.log=10m', 'cache/**=1h', '/keep/*=never'
    #[arg(long = "ttl-rule", value_name = "GLOB=D|never", value_parser = values::ttl_rule)]
    pub ttl_rules: Vec<(Glob, Ttl)>,
    /// Where files larger than a part lie until their commit, and the list of unfinished uploads
    /// [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// How much of DIR all of these files together may take; beyond it, writes fail with ENOSPC
    /// [default: 10GiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub spool_size: Option<ByteSize>,
    /// Keep no content on disk: files larger than a part can be written in order only
    #[arg(long, conflicts_with_all = ["spool", "spool_size"])]
    pub no_spool: bool,
    /// What setting the times of a file to now, as touch(1) does, does to its end [default: ignore]
    #[arg(long, value_name = "WHAT")]
    pub touch: Option<Touch>,
    /// Refuse changes of mode, owner and times with EPERM; without it they succeed and are not kept
    #[arg(long)]
    pub strict_attributes: bool,
    /// Keep a closed file of such a path here until it is renamed, for 5 s at most: one PUT in place
    /// of PUT, COPY and DELETE. Until then a crash loses it. May be repeated; '*.tmp'
    #[arg(long, value_name = "GLOB", value_parser = Glob::new)]
    pub stage: Vec<Glob>,
    /// Bytes of a part of a multipart upload, of which S3 takes 10,000 for a file; a file up to this
    /// size lies in --buffer-memory and is one PUT [default: 8MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::part_size)]
    pub part_size: Option<ByteSize>,
    /// Storage class of what is written; what is only renamed or given a new end keeps its own
    /// [default: STANDARD]
    #[arg(long, value_name = "CLASS", value_parser = values::storage_class)]
    pub storage_class: Option<String>,
    /// How the store encrypts what is written, renamed or given a new end [default: as the bucket is
    /// set]
    #[arg(long, value_name = "HOW")]
    pub sse: Option<Sse>,
    /// With which key of AWS KMS: id, alias or ARN [default: that of the bucket]
    #[arg(long, value_name = "KEY", value_parser = values::kms_key)]
    pub sse_kms_key_id: Option<String>,
    /// Canned ACL of what is written, renamed or given a new end [default: private]
    #[arg(long, value_name = "ACL", value_parser = values::CANNED_ACLS)]
    pub acl: Option<String>,
    /// Content-Type by what comes after the last dot of a name (the default)
    #[arg(long, overrides_with = "no_content_type_by_name")]
    pub content_type_by_name: bool,
    /// No Content-Type, for which S3 has binary/octet-stream
    #[arg(long)]
    pub no_content_type_by_name: bool,
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
