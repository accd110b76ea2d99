//! The values of options: how each kind is parsed, and the error for a wrong one.

use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::catalog::Trust;
use crate::expiry::{CacheControl, OnUnparsable, Source, Touch, Ttl, whole_second};
use crate::fs::listing::Exactness;
use crate::glob::Glob;
use crate::log::Style;
use crate::s3::Addressing;
use crate::store::write::{SMALLEST_PART, Sse};

/// The words that are values of an option, each with its help. The types are defined in modules
/// that do not know clap.
macro_rules! words {
    ($($type:ident { $($variant:ident = $word:literal: $help:literal,)* })*) => {$(
        impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [$type] {
                &[$($type::$variant),*]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self {
                    $($type::$variant => PossibleValue::new($word).help($help),)*
                })
            }
        }
    )*};
}

words! {
    OnUnparsable {
        Expired = "expired": "Already expired, as RFC 9111 §5.3 says",
        Fresh = "fresh": "As if the object had no such header",
        Error = "error": "EIO",
    }
    Source {
        Headers = "headers": "The object's headers: exact, but a listing sends a HEAD for each key that is not cached",
        List = "list": "Last-Modified only, which a listing contains: a listing sends no HEAD",
    }
    CacheControl {
        Ignore = "ignore": "Nothing",
        LastModified = "last-modified": "`s-maxage`, else `max-age`, counted from Last-Modified, instead of Expires",
    }
    Touch {
        Ignore = "ignore": "Nothing",
        Renew = "renew": "Restart its TTL, if less than half of it is left",
    }
    Sse {
        Aes256 = "AES256": "With keys of the store",
        Kms = "aws:kms": "With a key of AWS KMS",
        KmsDsse = "aws:kms:dsse": "With a key of AWS KMS, in two layers",
    }
    Style {
        Text = "text": "For people: time, level, module, text, and fields as NAME=VALUE",
        Json = "json": "One JSON object",
    }
    Exactness {
        Exact = "exact": "Never show an expired name: request the headers of each object that is not cached",
        Lazy = "lazy": "Show names as the store lists them, except those known to have expired",
    }
    Addressing {
        Auto = "auto": "In the host for AWS, in the path for any other endpoint",
        Path = "path": "http://HOST/BUCKET/KEY",
        Virtual = "virtual": "http://BUCKET.HOST/KEY",
    }
}

/// An AWS account.
pub fn account(text: &str) -> Result<String, String> {
    match text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(text.to_owned()),
        false => Err("expected the 12 digits of an AWS account".to_owned()),
    }
}

/// Far below the range of instants and timers.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 86400);

pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) | Err(humantime::DurationError::NumberOverflow) => {
            Err("expected a duration of at most 365000d".to_owned())
        }
        Err(_) => Err("expected a duration such as 90s, 10m or 1h30m".to_owned()),
    }
}

/// A date with a time, in whole seconds: rounded up, so that nothing expires early.
pub fn date(text: &str) -> Result<SystemTime, String> {
    let at = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "expected a date such as 2026-11-25T20:00:00Z".to_owned())?;
    Ok(whole_second(at))
}

pub fn nonzero_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected a duration above zero, such as 30s".to_owned()),
        some => Ok(some),
    }
}

pub fn trust(text: &str) -> Result<Trust, String> {
    match text {
        "expiry" => Ok(Trust::UntilExpiry),
        _ => duration(text).map(Trust::For).map_err(|e| format!("{e}, or `expiry`")),
    }
}

pub fn ttl(text: &str) -> Result<Ttl, String> {
    match text {
        "never" => Ok(Ttl::Never),
        _ => nonzero_duration(text).map(Ttl::For).map_err(|e| format!("{e}, or `never`")),
    }
}

/// A glob may hold `=`, a duration cannot.
pub fn ttl_rule(text: &str) -> Result<(Glob, Ttl), String> {
    let (glob, life) = text
        .rsplit_once('=')
        .ok_or_else(|| "expected GLOB=D or GLOB=never, such as *.log=10m".to_owned())?;
    Ok((Glob::new(glob)?, ttl(life)?))
}

pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1 on".to_owned()),
        Ok(n) => Ok(n),
    }
}

/// Requests per second: `500` or `500/s`.
pub fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().map_err(|_| "expected requests per second, such as 500/s".to_owned())
}

/// Each of them lists, so a few are enough.
pub fn shards(text: &str) -> Result<usize, String> {
    at_most(text, 64)
}

/// Each has its own stack and buffer, and none of them waits for the store.
pub fn fuse_threads(text: &str) -> Result<usize, String> {
    at_most(text, 64)
}

/// `HOST:PORT`, as of a socket.
pub fn address(text: &str) -> Result<String, String> {
    let wrong = "give HOST:PORT, such as 127.0.0.1:9580";
    let (host, port) = text.rsplit_once(':').ok_or(wrong)?;
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', '@', ' ']),
    };
    match is_host && port.parse::<u16>().is_ok() {
        true => Ok(text.to_owned()),
        false => Err(wrong.to_owned()),
    }
}

/// The descriptor limit may reduce it further.
pub fn concurrency(text: &str) -> Result<usize, String> {
    at_most(text, 10_000)
}

fn at_most(text: &str, most: usize) -> Result<usize, String> {
    positive(text)
        .ok()
        .filter(|n| *n <= most)
        .ok_or_else(|| format!("expected a whole number from 1 to {most}"))
}

pub fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "expected a size such as 64KiB, 32MiB or 0".to_owned())
}

pub fn probe_size(text: &str) -> Result<ByteSize, String> {
    size(text).and_then(|size| match size <= ByteSize::mib(1) {
        true => Ok(size),
        false => Err("expected at most 1MiB: larger files are read on demand".into()),
    })
}

pub fn buffer_memory(text: &str) -> Result<ByteSize, String> {
    size(text).and_then(|size| match size >= ByteSize::mib(4) {
        true => Ok(size),
        false => Err("expected at least 4MiB: the kernel reads 1MiB at a time".into()),
    })
}

/// S3 allows 5 GiB (Amazon S3 user guide, "multipart upload limits"); one part is held in memory.
pub fn part_size(text: &str) -> Result<ByteSize, String> {
    size(text).and_then(|size| match (SMALLEST_PART as u64..=1 << 30).contains(&size.as_u64()) {
        true => Ok(size),
        false => Err("expected a size from 5MiB to 1GiB".to_owned()),
    })
}

pub fn storage_class(text: &str) -> Result<String, String> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    // Objects of these classes cannot be read before they are restored.
    let is_archive = matches!(text, "GLACIER" | "DEEP_ARCHIVE");
    match !text.is_empty() && text.chars().all(is_token) && !is_archive {
        true => Ok(text.to_owned()),
        false => Err("expected a class that can be read at once, such as STANDARD_IA".to_owned()),
    }
}

pub fn kms_key(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("expected the id, alias or ARN of a key of AWS KMS".to_owned()),
    }
}

/// Those for objects (Amazon S3 user guide, "Canned ACL").
pub const CANNED_ACLS: [&str; 7] = [
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];

pub fn mode(text: &str) -> Result<u16, String> {
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected permissions in octal, such as 0644".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(size("0"), Ok(ByteSize::b(0)));
        assert_eq!(size("64KiB"), Ok(ByteSize::kib(64)));
        assert_eq!(size("64 kib"), Ok(ByteSize::kib(64)));
        assert_eq!(size("1MB"), Ok(ByteSize::mb(1)));
        assert_eq!(size("128M"), Ok(ByteSize::mb(128)));
        assert!(size("-1").is_err() && size("64x").is_err());
    }

    #[test]
    fn durations_as_people_write_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(trust("expiry"), Ok(Trust::UntilExpiry));
    }
}
