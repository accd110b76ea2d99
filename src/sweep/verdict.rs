//! Which objects are due for deletion, and why the others are not. Pure.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::catalog::index::SETTLED;
use crate::expiry::{Expiry, Judgement};
use crate::store::Version;

/// What makes an expired object due.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long ago it must have expired.
    pub grace: Duration,
    /// Whether objects count whose expiry cannot be parsed (`--unparsable`).
    pub unparsable: bool,
    /// The shortest and the longest time to live of all objects, from Last-Modified on, if the operator
    /// promises them (`--ttl-between`).
    pub ttl_between: Option<(Duration, Duration)>,
}

/// What is to be done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be deleted.
    Due,
    Kept(Kept),
}

/// Why an object is not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// It never expires.
    NoExpiry,
    Live,
    /// It expired less than the grace time ago, or is so young that another version could be equal to it.
    InGrace,
    Unparsable,
}

/// What the listing alone tells of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByAge {
    /// Too young to have expired.
    Young,
    /// Old enough to be due.
    Old,
    /// Its headers decide.
    Unknown,
}

impl Rules {
    /// What is to be done at `now` with an object of this age that was judged so.
    pub fn verdict(
        &self,
        judgement: &Judgement,
        last_modified: SystemTime,
        now: SystemTime,
    ) -> Verdict {
        match self.of_expiry(judgement, last_modified, now) {
            Verdict::Due if !is_past(now, last_modified, SETTLED) => Verdict::Kept(Kept::InGrace),
            verdict => verdict,
        }
    }

    fn of_expiry(
        &self,
        judgement: &Judgement,
        last_modified: SystemTime,
        now: SystemTime,
    ) -> Verdict {
        let past_grace = |end| is_past(now, end, self.grace);
        match judgement.expiry {
            Expiry::Never => Verdict::Kept(Kept::NoExpiry),
            Expiry::At(end) if past_grace(end) => Verdict::Due,
            Expiry::At(end) if end <= now => Verdict::Kept(Kept::InGrace),
            Expiry::At(_) => Verdict::Kept(Kept::Live),
            Expiry::Past | Expiry::Unreadable if judgement.unparsable => match self.unparsable {
                false => Verdict::Kept(Kept::Unparsable),
                // It has no instant: the grace counts from its creation.
                true if past_grace(last_modified) => Verdict::Due,
                true => Verdict::Kept(Kept::InGrace),
            },
            // A date that the system's clock cannot represent, long ago.
            Expiry::Past => Verdict::Due,
            Expiry::Unreadable => Verdict::Kept(Kept::Unparsable),
        }
    }

    pub fn by_age(&self, version: &Version, now: SystemTime) -> ByAge {
        let Some((least, most)) = self.ttl_between else { return ByAge::Unknown };
        let most = most.checked_add(self.grace).map(|most| most.max(SETTLED));
        match (is_past(now, version.last_modified, least), most) {
            (false, _) => ByAge::Young,
            (true, Some(most)) if is_past(now, version.last_modified, most) => ByAge::Old,
            (true, _) => ByAge::Unknown,
        }
    }
}

/// Whether `now` is at least `by` after an instant.
fn is_past(now: SystemTime, instant: SystemTime, by: Duration) -> bool {
    now.duration_since(instant).is_ok_and(|since| since >= by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::tests::{NOW, at};
    use crate::expiry::{OnUnparsable, Policy, Stamps, Terms, format_http_date};

    const HOUR: i64 = 3600;

    fn version(last_modified: i64) -> Version {
        Version {
            key: "k".into(),
            etag: "e".into(),
            last_modified: at(last_modified),
            slack: Duration::ZERO,
            size: 1,
        }
    }

    /// The verdict on an object modified at `NOW - 10 h` that has this `Expires`.
    fn verdict(policy: Policy, unparsable: bool, expires: Option<&str>) -> Verdict {
        let modified = at(NOW - 10 * HOUR);
        let terms = Terms::read(Stamps { expires, ..Stamps::default() }, at(NOW));
        let grace = Duration::from_secs(HOUR as u64);
        let rules = Rules { grace, unparsable, ttl_between: None };
        rules.verdict(&policy.judge(&terms, modified), modified, at(NOW))
    }

    #[test]
    fn only_what_expired_longer_ago_than_the_grace_time_is_due() {
        use Kept::{InGrace, Live, NoExpiry, Unparsable};
        let ended = |ago: i64| Some(format_http_date(at(NOW - ago)));
        for (expires, unparsable, want) in [
            (ended(HOUR), false, Verdict::Due),
            (ended(HOUR + 1), false, Verdict::Due),
            (ended(HOUR - 1), false, Verdict::Kept(InGrace)),
            (ended(0), false, Verdict::Kept(InGrace)),
            (ended(-1), true, Verdict::Kept(Live)),
            (None, true, Verdict::Kept(NoExpiry)),
            (Some("Thu, 01 Jan 1970 00:00:00 GMT".into()), false, Verdict::Due),
            (Some("Mon, 01 Jan 0001 00:00:00 GMT".into()), false, Verdict::Due),
            (Some("0".into()), false, Verdict::Kept(Unparsable)),
            (Some("0".into()), true, Verdict::Due),
            (Some(String::new()), false, Verdict::Kept(Unparsable)),
        ] {
            assert_eq!(
                verdict(Policy::default(), unparsable, expires.as_deref()),
                want,
                "{expires:?}"
            );
        }
    }

    #[test]
    fn the_options_of_a_mount_decide_what_has_expired() {
        let hours = |n: i64| Some(Duration::from_secs((n * HOUR) as u64));
        let aged = |default_ttl| Policy { default_ttl, ..Policy::default() };
        assert_eq!(verdict(aged(hours(9)), false, None), Verdict::Due);
        assert_eq!(verdict(aged(hours(10)), false, None), Verdict::Kept(Kept::InGrace));
        assert_eq!(verdict(aged(hours(11)), false, None), Verdict::Kept(Kept::Live));
        let fresh = Policy { on_unparsable: OnUnparsable::Fresh, ..Policy::default() };
        assert_eq!(verdict(fresh, true, Some("never")), Verdict::Kept(Kept::NoExpiry));
        let error = Policy { on_unparsable: OnUnparsable::Error, ..Policy::default() };
        assert_eq!(verdict(error, false, Some("never")), Verdict::Kept(Kept::Unparsable));
        assert_eq!(verdict(error, true, Some("never")), Verdict::Due);
    }

    #[test]
    fn a_promise_about_all_times_to_live_decides_by_age() {
        let hours = |n: u64| Duration::from_secs(3600 * n);
        let rules = |ttl_between| Rules { grace: hours(1), unparsable: false, ttl_between };
        let by_age = |ttl_between, age| rules(ttl_between).by_age(&version(NOW - age), at(NOW));
        let between = Some((hours(2), hours(4)));
        for (age, want) in [
            (-1, ByAge::Young),
            (2 * HOUR - 1, ByAge::Young),
            (2 * HOUR, ByAge::Unknown),
            (5 * HOUR - 1, ByAge::Unknown),
            (5 * HOUR, ByAge::Old),
        ] {
            assert_eq!(by_age(between, age), want, "{age}");
            assert_eq!(by_age(None, age), ByAge::Unknown, "{age}");
        }
        assert_eq!(by_age(Some((hours(2), Duration::MAX)), 100 * HOUR), ByAge::Unknown);
    }
}
