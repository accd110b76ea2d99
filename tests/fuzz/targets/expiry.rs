use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use super::rfc::{self, Reading};
use crate::expiry::{
    self as sut, CacheControl, Expiry, OnUnparsable, Policy, Presence, Source, Stamps, Term, Terms,
};

fn at(seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::UNIX_EPOCH - by } else { SystemTime::UNIX_EPOCH + by }
}

/// Rules E1 to E5. The first byte of the input is the policy, the next five are the time and the
/// age of the object, and the rest are the lines of Expires, Cache-Control and x-amz-expiration.
pub fn expiry(data: &[u8]) {
    let Some((head, text)) = data.split_first_chunk::<6>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let now = i64::from(u32::from_be_bytes([head[1], head[2], head[3], head[4]]));
    let modified = now - (i64::from(head[5]) << 12);
    let mut lines = text.splitn(3, '\n');
    let (expires, cache_control, expiration) = (lines.next(), lines.next(), lines.next());

    for raw in lines_of(text) {
        let read = sut::http_date(raw, at(now)).map(sut::seconds);
        agrees(rfc::date(raw, now), read, |a, b| a == b, raw);
    }
    let terms = Terms::read(Stamps { expires, cache_control, expiration }, at(now));
    is_read(expires.map(|raw| rfc::date(raw, now)), terms.expires, |a, b| a == b, text);
    // A number that is too large may be reduced to 2^31 or more.
    let long = |want: u64, got: u32| want == u64::from(got) || want.min(u64::from(got)) >= 1 << 31;
    is_read(cache_control.and_then(rfc::lifetime), terms.max_age, long, text);
    is_read(expiration.map(|raw| rfc::lifecycle(raw, now)), terms.lifecycle, |a, b| a == b, text);
    judge(head[0], &terms, modified, now);
}

fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take(3)
}

fn agrees<T: Copy + Debug, U: Copy + Debug>(
    want: Reading<T>,
    got: Option<U>,
    same: impl Fn(T, U) -> bool,
    text: &str,
) {
    let right = match (want, got) {
        (Reading::Any, _) | (Reading::Unreadable | Reading::Maybe(_), None) => true,
        (Reading::Is(want) | Reading::Maybe(want), Some(got)) => same(want, got),
        (Reading::Is(_), None) | (Reading::Unreadable, Some(_)) => false,
    };
    assert!(right, "{text:?} is {want:?} and read as {got:?}");
}

fn is_read<T: Copy + Debug, U: Copy + Debug>(
    want: Option<Reading<T>>,
    got: Term<U>,
    same: impl Fn(T, U) -> bool,
    text: &str,
) {
    match (want, got) {
        (None, got) => assert!(matches!(got, Term::Absent), "{text:?} is read as {got:?}"),
        (Some(Reading::Any), _) => {}
        (Some(want), Term::Is(got)) => agrees(want, Some(got), same, text),
        (Some(want), Term::Unreadable) => agrees(want, None, same, text),
        (Some(want), Term::Absent) => panic!("{text:?} is {want:?} and not seen"),
    }
}

/// The verdict on the terms, by the README's table.
fn judge(bits: u8, terms: &Terms, modified: i64, now: i64) {
    let on_unparsable = match bits & 3 {
        0 => OnUnparsable::Expired,
        1 => OnUnparsable::Fresh,
        _ => OnUnparsable::Error,
    };
    let default_ttl = (bits & 4 != 0).then_some(86_400);
    let source = if bits & 8 != 0 { Source::List } else { Source::Headers };
    let cache_control =
        if bits & 16 != 0 { CacheControl::LastModified } else { CacheControl::Ignore };
    let policy = Policy {
        on_unparsable,
        default_ttl: default_ttl.map(Duration::from_secs),
        source,
        cache_control,
        lifecycle: bits & 32 != 0,
    };
    let got = policy.judge(terms, at(modified)).expiry;

    let by_default = default_ttl.map(|ttl| modified + ttl as i64);
    let headers = source == Source::Headers;
    // The headers that count, in order: an instant, or an unreadable one.
    let age = match terms.max_age {
        Term::Is(age) => Some(Some(modified + i64::from(age))),
        Term::Unreadable => Some(None),
        Term::Absent => None,
    };
    let expires = match terms.expires {
        Term::Is(at) => Some(Some(at)),
        Term::Unreadable => Some(None),
        Term::Absent => None,
    };
    let age = age.filter(|_| headers && cache_control == CacheControl::LastModified);
    let first = match (age, expires.filter(|_| headers)) {
        (Some(None), expires) if on_unparsable == OnUnparsable::Fresh => expires,
        (Some(age), _) => Some(age),
        (None, expires) => expires,
    };
    let first = match first {
        Some(None) if on_unparsable == OnUnparsable::Fresh => None,
        first => first,
    };
    let lifecycle = match terms.lifecycle {
        Term::Is(at) if headers && policy.lifecycle => Some(at),
        _ => None,
    };
    let want = match (first, lifecycle) {
        // Absent if either says so; the result is unspecified (EIO) until then.
        (Some(None), Some(_)) if on_unparsable == OnUnparsable::Error => return,
        (Some(None), _) if on_unparsable == OnUnparsable::Error => {
            assert_eq!(got.at(at(now)), Presence::Unreadable);
            return;
        }
        (Some(None), _) => {
            assert_eq!(got.at(at(now)), Presence::Expired);
            return;
        }
        (Some(Some(end)), lifecycle) => Some(lifecycle.map_or(end, |at| at.min(end))),
        (None, lifecycle) => by_default.into_iter().chain(lifecycle).min(),
    };
    // An instant beyond the range of the clock means never, or past.
    let instant = want.filter(|at| (-(1 << 35)..1 << 38).contains(at));
    if want.is_some() && instant.is_none() {
        return;
    }
    let verdict = match instant {
        None => Presence::Live { left: None },
        Some(end) if now >= end => Presence::Expired,
        Some(end) => Presence::Live { left: Some(Duration::from_secs((end - now) as u64)) },
    };
    assert_eq!(got.at(at(now)), verdict, "{terms:?} under {policy:?}, modified at {modified}");
    if let (Expiry::At(end), Some(instant)) = (got, instant) {
        assert_eq!(sut::seconds(end), instant);
        assert_eq!(got.at(end), Presence::Expired, "E1: at its instant");
    }
}
