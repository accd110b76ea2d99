//! Which header decides when an object expires, and why the others do not.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::http_date::instant;
use super::{Expiry, Term, Terms};

/// The meaning of an `Expires` that is not an HTTP date (`--on-unparsable`).
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

/// Where the expiry time comes from (`--expires-from`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The object's headers: exact, but a listing sends a HEAD for each object whose headers are
    /// not cached.
    #[default]
    Headers,
    /// Last-Modified alone, which listings contain: they send no HEAD.
    List,
}

/// How `Cache-Control` is used (`--cache-control`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheControl {
    /// Ignored. Strictly, `max-age` counts from each response, so it would never elapse.
    #[default]
    Ignore,
    /// `s-maxage`, else `max-age`, counted from Last-Modified; replaces Expires.
    LastModified,
}

/// How parsed headers become an [`Expiry`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    pub on_unparsable: OnUnparsable,
    /// Lifetime after Last-Modified of an object without an expiry header.
    pub default_ttl: Option<Duration>,
    pub source: Source,
    pub cache_control: CacheControl,
    /// Whether the date of a lifecycle rule counts too.
    pub lifecycle: bool,
}

/// What set the expiry time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Nothing: it does not expire.
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

/// What one header says about the expiry time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The expiry it sets, if it was sent and can be parsed.
    pub says: Term<Expiry>,
    /// Why it does not count, if so.
    pub ignored: Option<Ignored>,
}

/// Why a header does not count: an option, or a header of higher precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    ExpiresFromList,
    CacheControlIgnore,
    /// Cache-Control decides.
    CacheControlFirst,
    /// It cannot be parsed, and is treated as absent.
    OnUnparsableFresh,
    NoLifecycle,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ignored::ExpiresFromList => "--expires-from list",
            Ignored::CacheControlIgnore => "--cache-control ignore",
            Ignored::CacheControlFirst => "Cache-Control comes first",
            Ignored::OnUnparsableFresh => "--on-unparsable fresh",
            Ignored::NoLifecycle => "no --lifecycle",
        })
    }
}

/// When an object expires, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub expiry: Expiry,
    /// What set the expiry time.
    pub basis: Basis,
    /// A header that counts cannot be parsed.
    pub unparsable: bool,
    pub expires: Statement,
    pub cache_control: Statement,
    pub lifecycle: Statement,
}

impl Policy {
    /// Whether the expiry time needs the object's headers, which listings do not contain.
    pub fn needs_headers(&self) -> bool {
        self.source == Source::Headers
    }

    /// Decides when an object expires. The first header that counts decides, in the order of RFC
    /// 9111 §5.3: Cache-Control, Expires; without one, `default_ttl`. An earlier date of a
    /// lifecycle rule overrides all of them.
    pub fn judge(&self, terms: &Terms, last_modified: SystemTime) -> Judgement {
        let list = (!self.needs_headers()).then_some(Ignored::ExpiresFromList);
        let no_cache_control = match self.cache_control {
            CacheControl::Ignore => Some(Ignored::CacheControlIgnore),
            CacheControl::LastModified => list,
        };
        let no_lifecycle = if self.lifecycle { list } else { Some(Ignored::NoLifecycle) };
        let ending = |at| instant(at).map_or(Expiry::Past, Expiry::At);
        let aged = |age| lasting(last_modified, Duration::from_secs(u64::from(age)));

        let cache_control = self.state(terms.max_age.map(aged), no_cache_control);
        let no_expires = cache_control.counts().then_some(Ignored::CacheControlFirst).or(list);
        let expires = self.state(terms.expires.map(ending), no_expires);
        let day = |at| instant(at).map_or(Expiry::Never, Expiry::At);
        let lifecycle = Statement { says: terms.lifecycle.map(day), ignored: no_lifecycle };

        let stated = [(cache_control, Basis::CacheControl), (expires, Basis::Expires)];
        let (expiry, basis) = match stated.into_iter().find(|(statement, _)| statement.counts()) {
            Some((Statement { says: Term::Is(expiry), .. }, basis)) => (expiry, basis),
            Some((_, basis)) if self.on_unparsable == OnUnparsable::Error => {
                (Expiry::Unreadable, basis)
            }
            Some((_, basis)) => (Expiry::Past, basis),
            None => match self.default_ttl {
                Some(ttl) => (lasting(last_modified, ttl), Basis::DefaultTtl),
                None => (Expiry::Never, Basis::None),
            },
        };
        let ruled = match lifecycle {
            Statement { says: Term::Is(Expiry::At(end)), ignored: None } => Some(end),
            _ => None,
        };
        let (expiry, basis) = match (expiry, ruled) {
            (Expiry::Never, Some(end)) => (Expiry::At(end), Basis::Lifecycle),
            (Expiry::At(at), Some(end)) if end < at => (Expiry::At(end), Basis::Lifecycle),
            (other, _) => (other, basis),
        };
        let unparsable = cache_control.is_unparsable() || expires.is_unparsable();
        Judgement { expiry, basis, unparsable, expires, cache_control, lifecycle }
    }

    /// A header's statement, ignored for the given reason, or because it cannot be parsed.
    fn state(&self, says: Term<Expiry>, ignored: Option<Ignored>) -> Statement {
        let fresh = says == Term::Unreadable && self.on_unparsable == OnUnparsable::Fresh;
        Statement { says, ignored: ignored.or(fresh.then_some(Ignored::OnUnparsableFresh)) }
    }
}

impl Statement {
    /// Whether it decides, unless a header of higher precedence does.
    fn counts(&self) -> bool {
        self.ignored.is_none() && self.says != Term::Absent
    }

    /// Whether it cannot be parsed, and is not ignored for another reason.
    fn is_unparsable(&self) -> bool {
        self.says == Term::Unreadable
            && matches!(self.ignored, None | Some(Ignored::OnUnparsableFresh))
    }
}

fn lasting(from: SystemTime, life: Duration) -> Expiry {
    from.checked_add(life).map_or(Expiry::Never, Expiry::At)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::tests::{NOW, at};
    use crate::expiry::{Stamps, format_http_date};

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
            let got = judged(policy, expires, None);
            let got = (got.expiry, got.basis, got.unparsable);
            assert_eq!(got, (expiry, basis, unparsable), "{expires:?} {policy:?}");
        }
    }

    #[test]
    fn cache_control_counts_if_the_option_says_so() {
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
    fn a_very_long_lifetime_does_not_overflow() {
        let policy = Policy { default_ttl: Some(Duration::MAX), ..Policy::default() };
        assert_eq!(judged(policy, None, None).expiry, Expiry::Never);
    }
}
