//! When an object ceases to exist: header values and the clock in, a verdict out.
//!
//! Pure: no clock, no network, no kernel. Every operation of the file system asks
//! [`Expiry::at`] and nothing else, so that there is one definition of "expired".

use std::fmt;
use std::time::{Duration, SystemTime};

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::parsing::Parsed;
use time::{Date, Month, OffsetDateTime, Time};

/// When an object ceases to exist, as decided from its stamps and the [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It lives until somebody deletes it.
    Never,
    /// It is absent from this instant on.
    At(SystemTime),
    /// It was never live: an `Expires` that cannot be read means "already expired"
    /// (RFC 9111 §5.3).
    Past,
    /// Its `Expires` cannot be read and the policy is to say so.
    Unreadable,
}

/// What an [`Expiry`] means at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The object exists, for `left` longer (`None`: no end is known).
    Live { left: Option<Duration> },
    /// The object is absent.
    Expired,
    /// Nobody can tell; the answer is EIO.
    Unreadable,
}

impl Expiry {
    /// The instant, where there is one.
    pub fn instant(self) -> Option<SystemTime> {
        match self {
            Expiry::At(at) => Some(at),
            Expiry::Never | Expiry::Past | Expiry::Unreadable => None,
        }
    }

    /// The one rule: an object is absent once `now >= expires`.
    pub fn at(self, now: SystemTime) -> Presence {
        match self {
            Expiry::Never => Presence::Live { left: None },
            Expiry::At(end) => match end.duration_since(now) {
                Ok(left) if !left.is_zero() => Presence::Live { left: Some(left) },
                _ => Presence::Expired,
            },
            Expiry::Past => Presence::Expired,
            Expiry::Unreadable => Presence::Unreadable,
        }
    }
}

/// What an `Expires` that is no HTTP date means (`--on-unparsable`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnparsable {
    /// Already expired, as RFC 9111 §5.3 says.
    #[default]
    Expired,
    /// As if the object had no `Expires`.
    Fresh,
    /// EIO.
    Error,
}

/// Where an expiry may come from (`--expires-from`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The object's headers: exact, and a listing asks HEAD for each key it does not know.
    #[default]
    Headers,
    /// Last-Modified alone, which a listing carries: no HEAD for a listing.
    List,
}

/// What `Cache-Control` counts for (`--cache-control`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheControl {
    /// Nothing. Each answer of S3 is new, so that by the letter `max-age` would never run out.
    #[default]
    Ignore,
    /// `s-maxage`, else `max-age`, counted from Last-Modified, in place of Expires.
    LastModified,
}

/// The raw material: what the store said of one object version, byte for byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps<'a> {
    /// Never the SDK's typed `expires`, which knows one of the three date forms and takes
    /// everything else for "no expiry".
    pub expires: Option<&'a str>,
    pub cache_control: Option<&'a str>,
    /// `x-amz-expiration`, which S3 adds where a lifecycle rule applies.
    pub expiration: Option<&'a str>,
}

/// One statement of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Term<T> {
    #[default]
    Absent,
    /// It is there and cannot be read.
    Unreadable,
    Is(T),
}

impl<T> Term<T> {
    /// What it stands for.
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

/// What the stamps say, read once: all that is kept of them for each version met, whatever the
/// policy. Dates are in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub expires: Term<i64>,
    /// `s-maxage`, else `max-age`, in seconds.
    pub max_age: Term<u32>,
    /// The day a lifecycle rule ends it. One that cannot be read is none: S3 itself writes it.
    pub lifecycle: Option<i64>,
}

impl Terms {
    /// Reads the stamps. `now` serves the two-digit years of RFC 850 dates only.
    pub fn read(stamps: Stamps<'_>, now: SystemTime) -> Terms {
        let date = |raw: &str| http_date(raw, now).map(seconds);
        Terms {
            expires: Term::read(stamps.expires, date),
            max_age: stamps.cache_control.map_or(Term::Absent, max_age),
            lifecycle: stamps.expiration.and_then(expiry_date).and_then(date),
        }
    }

    /// Bytes of an encoded value.
    pub const ENCODED: usize = 20;

    // Years with four digits lie far from both ends.
    const ABSENT: i64 = i64::MIN;
    const UNREADABLE: i64 = i64::MAX;

    /// As bytes that [`Terms::decode`] reads, in this version and later ones.
    pub fn encode(&self) -> [u8; Self::ENCODED] {
        let expires = match self.expires {
            Term::Absent => Self::ABSENT,
            Term::Unreadable => Self::UNREADABLE,
            Term::Is(at) => at,
        };
        let max_age = match self.max_age {
            Term::Absent => u32::MAX,
            Term::Unreadable => u32::MAX - 1,
            Term::Is(age) => age.min(MAX_AGE),
        };
        let mut bytes = [0; Self::ENCODED];
        bytes[..8].copy_from_slice(&expires.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lifecycle.unwrap_or(Self::ABSENT).to_le_bytes());
        bytes[16..].copy_from_slice(&max_age.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; Self::ENCODED]) -> Terms {
        let [date, lifecycle] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            i64::from_le_bytes(word)
        });
        let max_age = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
        Terms {
            expires: match date {
                Self::ABSENT => Term::Absent,
                Self::UNREADABLE => Term::Unreadable,
                at => Term::Is(at),
            },
            max_age: match max_age {
                u32::MAX => Term::Absent,
                n if n == u32::MAX - 1 => Term::Unreadable,
                age => Term::Is(age),
            },
            lifecycle: Some(lifecycle).filter(|at| *at != Self::ABSENT),
        }
    }
}

/// How terms become an [`Expiry`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    pub on_unparsable: OnUnparsable,
    /// Life after Last-Modified of an object of which no header says more.
    pub default_ttl: Option<Duration>,
    pub source: Source,
    pub cache_control: CacheControl,
    /// Whether a lifecycle rule's day counts, too.
    pub lifecycle: bool,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Nothing sets an end.
    None,
    Expires,
    CacheControl,
    Lifecycle,
    DefaultTtl,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Basis::None => "nothing",
            Basis::Expires => "Expires",
            Basis::CacheControl => "Cache-Control",
            Basis::Lifecycle => "the lifecycle rule",
            Basis::DefaultTtl => "--default-ttl",
        })
    }
}

/// An expiry, what it comes from, and whether a header that counts could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub expiry: Expiry,
    pub basis: Basis,
    pub unparsable: bool,
}

impl Policy {
    /// Whether an expiry needs the object's headers, which no listing carries.
    pub fn needs_headers(&self) -> bool {
        self.source == Source::Headers
    }

    /// The end of an object. Of the headers that count the first one decides, in the order of
    /// RFC 9111 §5.3: Cache-Control, Expires; without any, `default_ttl`. A lifecycle rule that
    /// ends it sooner wins over all of them.
    pub fn judge(&self, terms: &Terms, last_modified: SystemTime) -> Judgement {
        let from_headers = match (self.needs_headers(), self.cache_control) {
            (false, _) => [None, None],
            (true, CacheControl::Ignore) => [None, Some(Basis::Expires)],
            (true, CacheControl::LastModified) => [Some(Basis::CacheControl), Some(Basis::Expires)],
        };
        let mut unparsable = false;
        let stated = from_headers.into_iter().flatten().find_map(|basis| {
            let term = match basis {
                Basis::CacheControl => terms
                    .max_age
                    .map(|age| lasting(last_modified, Duration::from_secs(u64::from(age)))),
                _ => terms.expires.map(|at| instant(at).map_or(Expiry::Past, Expiry::At)),
            };
            unparsable |= term == Term::Unreadable;
            match (term, self.on_unparsable) {
                (Term::Is(expiry), _) => Some((expiry, basis)),
                (Term::Unreadable, OnUnparsable::Expired) => Some((Expiry::Past, basis)),
                (Term::Unreadable, OnUnparsable::Error) => Some((Expiry::Unreadable, basis)),
                (Term::Unreadable, OnUnparsable::Fresh) | (Term::Absent, _) => None,
            }
        });
        let (expiry, basis) = stated.unwrap_or_else(|| match self.default_ttl {
            Some(ttl) => (lasting(last_modified, ttl), Basis::DefaultTtl),
            None => (Expiry::Never, Basis::None),
        });
        let ruled = terms.lifecycle.filter(|_| self.lifecycle && self.needs_headers());
        let (expiry, basis) = match (expiry, ruled.and_then(instant)) {
            (Expiry::Never, Some(end)) => (Expiry::At(end), Basis::Lifecycle),
            (Expiry::At(at), Some(end)) if end < at => (Expiry::At(end), Basis::Lifecycle),
            (other, _) => (other, basis),
        };
        Judgement { expiry, basis, unparsable }
    }
}

fn lasting(from: SystemTime, life: Duration) -> Expiry {
    from.checked_add(life).map_or(Expiry::Never, Expiry::At)
}

/// Writes the instant for people and scripts (RFC 3339), to the second below.
pub fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

/// Whole seconds since 1970, the second below.
pub fn seconds(at: SystemTime) -> i64 {
    OffsetDateTime::from(at).unix_timestamp()
}

/// The instant so many seconds after 1970, or before; `None` outside of four-digit years.
pub fn instant(seconds: i64) -> Option<SystemTime> {
    OffsetDateTime::from_unix_timestamp(seconds).ok().map(SystemTime::from)
}

/// The most seconds a directive can say: what is longer counts as this (RFC 9111 §1.2.2).
const MAX_AGE: u32 = 1 << 31;

/// `s-maxage`, else `max-age`, of a `Cache-Control` (RFC 9111 §5.2): a list of
/// `NAME[=VALUE]`, the value a token or a quoted string. Of several of one name the first counts
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

type Format = &'static [BorrowedFormatItem<'static>];

/// `Sun, 06 Nov 1994 08:49:37 GMT`, 29 bytes.
const IMF_FIXDATE: Format = format_description!(
    "[weekday repr:short case_sensitive:false], [day] [month repr:short case_sensitive:false] \
     [year] [hour]:[minute]:[second] GMT"
);
/// `Sunday, 06-Nov-94 08:49:37 GMT`
const RFC_850: Format = format_description!(
    "[weekday case_sensitive:false], [day]-[month repr:short case_sensitive:false]-\
     [year repr:last_two] [hour]:[minute]:[second] GMT"
);
/// `Sun Nov  6 08:49:37 1994`, 24 bytes.
const ASCTIME: Format = format_description!(
    "[weekday repr:short case_sensitive:false] [month repr:short case_sensitive:false] \
     [day padding:space] [hour]:[minute]:[second] [year]"
);

/// Writes the instant as IMF-fixdate, the one form to be generated (RFC 9110 §5.6.7), to the
/// second below.
pub fn format_http_date(at: SystemTime) -> String {
    // Formatting lacks no component of a whole date and time.
    OffsetDateTime::from(at).format(IMF_FIXDATE).unwrap_or_default()
}

/// Reads an HTTP date in any of the three forms of RFC 9110 §5.6.7, without regard to case
/// (RFC 9111 §4.2) and to space around it. A year of more than four digits is no HTTP date.
pub fn http_date(raw: &str, now: SystemTime) -> Option<SystemTime> {
    let mut text = raw.trim_matches([' ', '\t']).to_ascii_uppercase();
    // The grammar has room for a leap second, calendars do not: 23:59:60 is 00:00:00.
    let leap = text.contains(":60 ");
    if leap {
        text = text.replace(":60 ", ":59 ");
    }
    let format = match text.len() {
        29 if text.as_bytes()[3] == b',' => IMF_FIXDATE,
        24 if text.as_bytes()[3] == b' ' => ASCTIME,
        _ => RFC_850,
    };
    let mut parsed = Parsed::new();
    if !parsed.parse_items(text.as_bytes(), format).ok()?.is_empty() {
        return None;
    }
    let (month, day) = (parsed.month()?, parsed.day()?.get());
    let time = Time::from_hms(parsed.hour_24()?, parsed.minute()?, parsed.second()?).ok()?;
    let year = match parsed.year() {
        Some(year) => year,
        None => full_year(parsed.year_last_two()?, (month, day, time), now)?,
    };
    let date = Date::from_calendar_date(year, month, day).ok()?;
    let at = SystemTime::from(OffsetDateTime::new_utc(date, time));
    at.checked_add(Duration::from_secs(u64::from(leap)))
}

/// The latest year with these last two digits that is not more than 50 years in the future
/// (RFC 9110 §5.6.7).
fn full_year(last_two: u8, within: (Month, u8, Time), now: SystemTime) -> Option<i32> {
    let now = OffsetDateTime::from(now);
    let here = (now.year() + 50, now.month() as u8, now.day(), now.time());
    let there = (within.0 as u8, within.1, within.2);
    let century = now.year().div_euclid(100);
    [century + 1, century, century - 1]
        .into_iter()
        .map(|c| c * 100 + i32::from(last_two))
        .find(|year| (*year, there.0, there.1, there.2) <= here)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since 1970; the clock of these tests is a value.
    fn at(seconds: i64) -> SystemTime {
        let d = Duration::from_secs(seconds.unsigned_abs());
        match seconds {
            0.. => SystemTime::UNIX_EPOCH + d,
            _ => SystemTime::UNIX_EPOCH - d,
        }
    }

    const NOW: i64 = 1_795_430_000; // 2026-11-23

    #[test]
    fn dates() {
        const SUN_1994: i64 = 784_111_777;
        let table: &[(&str, Option<i64>)] = &[
            // The three forms.
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(SUN_1994)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(SUN_1994)),
            ("Sun Nov  6 08:49:37 1994", Some(SUN_1994)),
            ("Sun Nov 06 08:49:37 1994", Some(SUN_1994)),
            ("Sun Nov 16 08:49:37 1994", Some(SUN_1994 + 864_000)),
            // Case and surrounding space.
            ("sun, 06 nov 1994 08:49:37 gmt", Some(SUN_1994)),
            ("SUNDAY, 06-NOV-94 08:49:37 GMT", Some(SUN_1994)),
            ("sUN nOV  6 08:49:37 1994", Some(SUN_1994)),
            (" \tSun, 06 Nov 1994 08:49:37 GMT \t", Some(SUN_1994)),
            // A wrong day name is a date all the same; the numbers decide.
            ("Mon, 06 Nov 1994 08:49:37 GMT", Some(SUN_1994)),
            // Two-digit years: not more than 50 years ahead of 2026-11-23.
            ("Monday, 23-Nov-76 00:00:00 GMT", Some(3_373_315_200)),
            ("Wednesday, 25-Nov-76 00:00:00 GMT", Some(217_728_000)),
            ("Friday, 01-Jan-27 00:00:00 GMT", Some(1_798_761_600)),
            ("Saturday, 01-Jan-00 00:00:00 GMT", Some(946_684_800)),
            // Far years.
            ("Wed, 31 Dec 1969 23:59:59 GMT", Some(-1)),
            ("Tue, 19 Jan 2038 03:14:08 GMT", Some(2_147_483_648)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799)),
            ("Sat, 01 Jan 10000 00:00:00 GMT", None),
            ("Sat, 01 Jan 99999 00:00:00 GMT", None),
            ("Mon, 01 Jan 0001 00:00:00 GMT", Some(-62_135_596_800)),
            // Leap days and seconds.
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Sat, 29 Feb 2025 12:00:00 GMT", None),
            ("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_800)),
            // Not HTTP dates.
            ("", None),
            (" ", None),
            ("0", None),
            ("-1", None),
            ("never", None),
            ("5d", None),
            ("2026-11-23T00:00:00Z", None),
            ("1795430000", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 +0000", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov -994 08:49:37 GMT", None),
            ("Sun, 06 Nov +994 08:49:37 GMT", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 8:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:00 GMT", None),
            ("Sun, 06 Nov 1994 08:49:61 GMT", None),
            ("Sun, 32 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT, Mon, 07 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT0", None),
            ("Sün, 06 Nov 1994 08:49:37 GMT", None),
            ("Sunday, 06-Nov-1994 08:49:37 GMT", None),
        ];
        for (raw, want) in table {
            assert_eq!(http_date(raw, at(NOW)), want.map(at), "{raw:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(format_http_date(at(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
        for seconds in [-1, 0, NOW, 253_402_300_799] {
            assert_eq!(http_date(&format_http_date(at(seconds)), at(NOW)), Some(at(seconds)));
        }
    }

    #[test]
    fn two_digit_years_look_ahead_across_a_century() {
        let in_2099 = at(4_086_547_200);
        let year = |raw| http_date(raw, in_2099).map(|t| OffsetDateTime::from(t).year());
        assert_eq!(year("Monday, 01-Jan-02 00:00:00 GMT"), Some(2102));
        assert_eq!(year("Monday, 01-Jan-48 00:00:00 GMT"), Some(2148));
        assert_eq!(year("Monday, 01-Jan-50 00:00:00 GMT"), Some(2050));
    }

    #[test]
    fn an_object_is_absent_from_its_instant_on() {
        let expiry = Expiry::At(at(NOW));
        let nano = Duration::from_nanos(1);
        assert_eq!(expiry.at(at(NOW) - nano), Presence::Live { left: Some(nano) });
        assert_eq!(expiry.at(at(NOW)), Presence::Expired);
        assert_eq!(expiry.at(at(NOW) + nano), Presence::Expired);
        assert_eq!(Expiry::Never.at(at(i64::from(u32::MAX) * 50)), Presence::Live { left: None });
        assert_eq!(Expiry::Past.at(at(-1)), Presence::Expired);
        assert_eq!(Expiry::Unreadable.at(at(NOW)), Presence::Unreadable);
    }

    /// The verdict on an object modified at `NOW - 100` with these headers.
    fn judged(policy: Policy, expires: Option<&str>, cache_control: Option<&str>) -> Judgement {
        let stamps = Stamps { expires, cache_control, expiration: None };
        policy.judge(&Terms::read(stamps, at(NOW)), at(NOW - 100))
    }

    #[test]
    fn policies() {
        let ttl = Some(Duration::from_secs(60));
        let good = "Sun, 06 Nov 1994 08:49:37 GMT";
        let (end, good_end) = (Expiry::At(at(NOW - 40)), Expiry::At(at(784_111_777)));
        use Basis::{DefaultTtl, None as Nothing};
        use OnUnparsable::{Error, Expired, Fresh};
        use Source::{Headers, List};
        let table = [
            // raw, on_unparsable, default_ttl, source -> expiry, basis, unparsable
            (None, Expired, None, Headers, Expiry::Never, Nothing, false),
            (None, Expired, ttl, Headers, end, DefaultTtl, false),
            (Some(good), Expired, ttl, Headers, good_end, Basis::Expires, false),
            (Some(good), Expired, ttl, List, end, DefaultTtl, false),
            (Some(good), Expired, None, List, Expiry::Never, Nothing, false),
            (Some("0"), Expired, ttl, Headers, Expiry::Past, Basis::Expires, true),
            (Some(""), Expired, None, Headers, Expiry::Past, Basis::Expires, true),
            (Some("-1"), Fresh, None, Headers, Expiry::Never, Nothing, true),
            (Some("-1"), Fresh, ttl, Headers, end, DefaultTtl, true),
            (Some("never"), Error, ttl, Headers, Expiry::Unreadable, Basis::Expires, true),
            (Some("never"), Error, ttl, List, end, DefaultTtl, false),
        ];
        for (expires, on_unparsable, default_ttl, source, expiry, basis, unparsable) in table {
            let policy = Policy { on_unparsable, default_ttl, source, ..Policy::default() };
            let want = Judgement { expiry, basis, unparsable };
            assert_eq!(judged(policy, expires, None), want, "{expires:?} {policy:?}");
        }
    }

    #[test]
    fn cache_control_counts_where_it_is_told_to() {
        use Basis::{CacheControl as Cc, Expires};
        use OnUnparsable::{Error, Expired, Fresh};
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let by_date = (Expiry::At(at(784_111_777)), Expires);
        let after = |n: i64| (Expiry::At(at(NOW - 100 + n)), Cc);
        let table = [
            ("max-age=60", Expired, after(60)),
            ("public, MAX-AGE=60", Expired, after(60)),
            ("max-age=60, s-maxage=7", Expired, after(7)),
            ("max-age=\"60\"", Expired, after(60)),
            ("max-age=60, max-age=5", Expired, after(60)),
            ("private=\"max-age=1, x\", max-age=60", Expired, after(60)),
            ("max-age=99999999999999999999", Expired, after(1 << 31)),
            ("max-age=0", Expired, after(0)),
            ("no-cache, no-store", Expired, by_date),
            ("", Expired, by_date),
            ("xmax-age=60", Expired, by_date),
            ("max-age", Expired, (Expiry::Past, Cc)),
            ("max-age=", Expired, (Expiry::Past, Cc)),
            ("max-age=-1", Expired, (Expiry::Past, Cc)),
            ("max-age=1.5", Error, (Expiry::Unreadable, Cc)),
            ("max-age=1.5", Fresh, by_date),
        ];
        for (raw, on_unparsable, want) in table {
            let policy = Policy {
                on_unparsable,
                cache_control: CacheControl::LastModified,
                ..Policy::default()
            };
            let got = judged(policy, Some(date), Some(raw));
            assert_eq!((got.expiry, got.basis), want, "{raw:?} {on_unparsable:?}");
            let ignored =
                judged(Policy { on_unparsable, ..Policy::default() }, Some(date), Some(raw));
            assert_eq!(
                (ignored.expiry, ignored.basis, ignored.unparsable),
                (by_date.0, by_date.1, false)
            );
        }
    }

    #[test]
    fn the_earlier_of_lifecycle_and_headers_wins() {
        let rule = "expiry-date=\"Sun, 06 Nov 1994 08:49:37 GMT\", rule-id=\"a, \"";
        let ruled = Expiry::At(at(784_111_777));
        let by = |expires, expiration, lifecycle| {
            let stamps = Stamps { expires, expiration, cache_control: None };
            let policy = Policy { lifecycle, ..Policy::default() };
            let judgement = policy.judge(&Terms::read(stamps, at(NOW)), at(0));
            (judgement.expiry, judgement.basis)
        };
        assert_eq!(by(None, Some(rule), true), (ruled, Basis::Lifecycle));
        assert_eq!(by(None, Some(rule), false), (Expiry::Never, Basis::None));
        let [sooner, later] = [1, 900_000_000].map(|n| format_http_date(at(n)));
        assert_eq!(by(Some(&later), Some(rule), true), (ruled, Basis::Lifecycle));
        assert_eq!(by(Some(&sooner), Some(rule), true), (Expiry::At(at(1)), Basis::Expires));
        assert_eq!(by(Some("0"), Some(rule), true), (Expiry::Past, Basis::Expires));
        for unreadable in ["NotImplemented", "", "expiry-date=\"soon\"", "expiry-date=\"Sun, "] {
            assert_eq!(by(None, Some(unreadable), true), (Expiry::Never, Basis::None));
        }
    }

    #[test]
    fn terms_survive_their_encoding() {
        let dates = [Term::Absent, Term::Unreadable, Term::Is(-62_135_596_800), Term::Is(NOW)];
        let ages = [Term::Absent, Term::Unreadable, Term::Is(0), Term::Is(MAX_AGE)];
        for expires in dates {
            for max_age in ages {
                for lifecycle in [None, Some(0), Some(NOW)] {
                    let terms = Terms { expires, max_age, lifecycle };
                    assert_eq!(Terms::decode(&terms.encode()), terms);
                }
            }
        }
    }

    #[test]
    fn a_life_without_end_does_not_overflow() {
        let policy = Policy { default_ttl: Some(Duration::MAX), ..Policy::default() };
        assert_eq!(judged(policy, None, None).expiry, Expiry::Never);
    }
}
