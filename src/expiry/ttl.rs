//! When a written file expires: the rules of `--ttl` and `--ttl-rule`, and the expiry time of a
//! TTL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::instant;
use crate::glob::Glob;

/// How long an object lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    For(Duration),
    Never,
}

/// The effect on the expiry of a file when its times are set to now (`--touch`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Touch {
    /// No effect.
    #[default]
    Ignore,
    /// The TTL restarts now, if less than half of it is left.
    Renew,
}

/// The TTL of files by their path.
#[derive(Clone, Debug)]
pub struct TtlRules {
    rules: Vec<(Glob, Ttl)>,
    otherwise: Ttl,
}

impl TtlRules {
    /// The first rule that matches counts; if none does, `otherwise`.
    pub fn new(rules: Vec<(Glob, Ttl)>, otherwise: Ttl) -> TtlRules {
        TtlRules { rules, otherwise }
    }

    /// The TTL of the file at this path below the mount point: `a/b`.
    pub fn ttl(&self, path: &str) -> Ttl {
        self.rule(path).map_or(self.otherwise, |index| self.rules[index].1)
    }

    /// The index of the rule that counts for this path; `None` if none matches and `otherwise`
    /// counts. A renamed file keeps its expiry if this stays the same.
    pub fn rule(&self, path: &str) -> Option<usize> {
        self.rules.iter().position(|(glob, _)| glob.matches(path))
    }
}

/// The last second that an HTTP date can represent: 9999-12-31 23:59:59.
const LAST: i64 = 253_402_300_799;

/// The expiry of an object that is put at `now`. Rounded up to a second, since `Expires` has no
/// fractions and no object may expire early. Limited to the last second that an HTTP date can
/// represent.
pub fn expires(ttl: Ttl, now: SystemTime) -> Option<SystemTime> {
    let Ttl::For(ttl) = ttl else { return None };
    instant(now.checked_add(ttl).map_or(LAST, |end| rounded_up(end).min(LAST)))
}

/// An instant as an expiry that a header can have: rounded up to a second.
pub fn whole_second(at: SystemTime) -> SystemTime {
    instant(rounded_up(at).min(LAST)).unwrap_or(at)
}

/// Seconds since 1970.
fn rounded_up(at: SystemTime) -> i64 {
    let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => whole(since.as_secs()).saturating_add((since.subsec_nanos() > 0).into()),
        Err(before) => -whole(before.duration().as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::format_http_date;
    use crate::expiry::tests::{NOW, at};

    const HOUR: Ttl = Ttl::For(Duration::from_secs(3600));
    const MINUTE: Ttl = Ttl::For(Duration::from_secs(60));

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = [("*.tmp", MINUTE), ("keep/**", Ttl::Never), ("*.log", HOUR)];
        let rules = rules.map(|(pattern, ttl)| (Glob::new(pattern).unwrap(), ttl)).to_vec();
        let rules = TtlRules::new(rules, Ttl::For(Duration::from_secs(7)));
        let table = [
            ("a.tmp", MINUTE, Some(0)),
            ("keep/d/a.tmp", MINUTE, Some(0)),
            ("keep/d/a.log", Ttl::Never, Some(1)),
            ("d/a.log", HOUR, Some(2)),
            ("d/a", Ttl::For(Duration::from_secs(7)), None),
        ];
        for (path, ttl, rule) in table {
            assert_eq!((rules.ttl(path), rules.rule(path)), (ttl, rule), "{path}");
        }
        assert_eq!(TtlRules::new(Vec::new(), Ttl::Never).ttl("a"), Ttl::Never);
    }

    #[test]
    fn expiry_is_rounded_up_to_a_second() {
        let nano = Duration::from_nanos(1);
        let table = [
            (at(NOW), 60, NOW + 60),
            (at(NOW) + nano, 60, NOW + 61),
            (at(NOW + 1) - nano, 60, NOW + 61),
            (at(NOW), 0, NOW),
            (at(-100), 60, -40),
            (at(-100) + nano, 60, -39),
            (at(-1) + nano, 0, 0),
        ];
        for (now, ttl, end) in table {
            let ttl = Ttl::For(Duration::from_secs(ttl));
            assert_eq!(expires(ttl, now), Some(at(end)), "{now:?} {ttl:?}");
        }
        assert_eq!(expires(Ttl::For(nano), at(NOW)), Some(at(NOW + 1)));
        assert_eq!(expires(Ttl::Never, at(NOW)), None);
    }

    #[test]
    fn an_expiry_beyond_the_last_date_is_limited_to_it() {
        assert_eq!(format_http_date(at(LAST)), "Fri, 31 Dec 9999 23:59:59 GMT");
        for ttl in [Duration::MAX, Duration::from_secs(u64::MAX >> 1), Duration::from_secs(1 << 40)]
        {
            assert_eq!(expires(Ttl::For(ttl), at(NOW)), Some(at(LAST)), "{ttl:?}");
        }
        let last = Duration::from_nanos(1);
        assert_eq!(expires(Ttl::For(last), at(LAST)), Some(at(LAST)));
        assert_eq!(expires(HOUR, at(LAST - 3600)), Some(at(LAST)));
    }
}
