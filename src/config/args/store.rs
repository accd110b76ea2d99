//! Options of the store and of expiry, of a mount and of commands without one.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use crate::catalog::Trust;
use crate::config::values;
use crate::expiry::{CacheControl, OnUnparsable, Source};
use crate::s3::Addressing;
use crate::store::write::Sse;

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
