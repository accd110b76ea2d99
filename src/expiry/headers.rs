//! The headers that can set an object's expiry time, parsed.

use std::time::SystemTime;

use super::http_date::{http_date, seconds};

/// Those headers of one object version, byte for byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps<'a> {
    /// Not the SDK's typed `expires`: it parses one of the three date forms and drops all others.
    pub expires: Option<&'a str>,
    pub cache_control: Option<&'a str>,
    /// `x-amz-expiration`, which S3 adds if a lifecycle rule applies.
    pub expiration: Option<&'a str>,
}

/// The value of one header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Term<T> {
    #[default]
    Absent,
    /// It was sent and cannot be parsed.
    Unreadable,
    Is(T),
}

impl<T> Term<T> {
    /// Converts the value, if there is one.
    pub fn map<U>(self, meaning: impl FnOnce(T) -> U) -> Term<U> {
        match self {
            Term::Absent => Term::Absent,
            Term::Unreadable => Term::Unreadable,
            Term::Is(value) => Term::Is(meaning(value)),
        }
    }

    fn read(raw: Option<&str>, read: impl FnOnce(&str) -> Option<T>) -> Term<T> {
        match raw.map(read) {
            None => Term::Absent,
            Some(None) => Term::Unreadable,
            Some(Some(value)) => Term::Is(value),
        }
    }
}

/// The parsed headers of a version, independent of the policy: all that is cached of them. Dates
/// are in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub expires: Term<i64>,
    /// `s-maxage`, else `max-age`, in seconds.
    pub max_age: Term<u32>,
    /// When a lifecycle rule expires it. An unreadable one is ignored, since S3 itself writes this
    /// header.
    pub lifecycle: Term<i64>,
}

impl Terms {
    /// Parses the headers. `now` is used only for two-digit years (RFC 850 dates).
    pub fn read(stamps: Stamps<'_>, now: SystemTime) -> Terms {
        let date = |raw: &str| http_date(raw, now).map(seconds);
        Terms {
            expires: Term::read(stamps.expires, date),
            max_age: stamps.cache_control.map_or(Term::Absent, max_age),
            lifecycle: Term::read(stamps.expiration, |raw| expiry_date(raw).and_then(date)),
        }
    }
}

/// The largest value of a directive, in seconds; larger ones count as this (RFC 9111 §1.2.2).
pub const MAX_AGE: u32 = 1 << 31;

/// `s-maxage`, else `max-age`, of a `Cache-Control` (RFC 9111 §5.2): a list of `NAME[=VALUE]`,
/// where the value is a token or a quoted string. If a name occurs twice, the first one counts
/// (§4.2.1).
fn max_age(raw: &str) -> Term<u32> {
    let (mut quoted, mut escaped) = (false, false);
    let directives: Vec<_> = raw
        .split(|c| {
            quoted ^= c == '"' && !escaped;
            escaped = quoted && c == '\\' && !escaped;
            c == ',' && !quoted
        })
        .map(|directive| directive.split_once('=').unwrap_or((directive, "")))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
        .collect();
    let value_of = |wanted: &str| {
        let found = directives.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| *value)
    };
    let value = value_of("s-maxage").or_else(|| value_of("max-age"));
    Term::read(value, |digits| {
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.parse().map_or(MAX_AGE, |n: u32| n.min(MAX_AGE)))
    })
}

/// The date in `expiry-date="Fri, 21 Dec 2012 00:00:00 GMT", rule-id="..."` (S3 API reference,
/// GetObject, `x-amz-expiration`).
fn expiry_date(raw: &str) -> Option<&str> {
    let (_, date) = raw.split_once("expiry-date=\"")?;
    date.split_once('"').map(|(date, _)| date)
}
