//! When an object expires: header values and an instant in, a verdict out.
//!
//! Owns the one definition of "expired": every operation and every command uses [`Policy::judge`]
//! for when an object expires and [`Expiry::at`] for whether it has. Also the expiry of written
//! files ([`TtlRules`], [`expires`]). Pure: knows no clock, network, kernel, command line or file
//! format.

mod headers;
mod http_date;
mod policy;
mod ttl;

use std::time::{Duration, SystemTime};

pub use headers::{MAX_AGE, Stamps, Term, Terms};
pub use http_date::{format_http_date, http_date, instant, rfc3339, seconds};
pub use policy::{
    Basis, CacheControl, Ignored, Judgement, OnUnparsable, Policy, Source, Statement,
};
pub use ttl::{Touch, Ttl, TtlRules, expires, whole_second};

/// When an object expires, as decided by its headers and the [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It does not expire.
    Never,
    /// It has expired from this instant on.
    At(SystemTime),
    /// It has always been expired: an `Expires` that cannot be read means "already expired" (RFC
    /// 9111 §5.3).
    Past,
    /// Its `Expires` cannot be read, and the policy reports that as an error.
    Unreadable,
}

/// What an [`Expiry`] means at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The object exists and expires in `left` (`None`: never).
    Live { left: Option<Duration> },
    /// The object is absent.
    Expired,
    /// Unknown; the answer is EIO.
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Seconds since 1970; the clock of these tests is a value.
    pub fn at(seconds: i64) -> SystemTime {
        let d = Duration::from_secs(seconds.unsigned_abs());
        match seconds {
            0.. => SystemTime::UNIX_EPOCH + d,
            _ => SystemTime::UNIX_EPOCH - d,
        }
    }

    pub const NOW: i64 = 1_795_430_000; // 2026-11-23

    #[test]
    fn an_expired_object_is_absent_from_its_expiry_on() {
        let expiry = Expiry::At(at(NOW));
        let nano = Duration::from_nanos(1);
        assert_eq!(expiry.at(at(NOW) - nano), Presence::Live { left: Some(nano) });
        assert_eq!(expiry.at(at(NOW)), Presence::Expired);
        assert_eq!(expiry.at(at(NOW) + nano), Presence::Expired);
        assert_eq!(Expiry::Never.at(at(i64::from(u32::MAX) * 50)), Presence::Live { left: None });
        assert_eq!(Expiry::Past.at(at(-1)), Presence::Expired);
        assert_eq!(Expiry::Unreadable.at(at(NOW)), Presence::Unreadable);
    }
}
