//! The store's clock (rule E6): the local one, corrected by what `Date` headers tell.
//!
//! A `Date` has whole seconds. One that says D, in an answer to a request sent at S and received
//! at R, tells that the store's clock showed D..D+1s at some moment in S..R, so that
//! `D - R <= offset <= D + 1s - S`. Each answer narrows the interval; a few hundred bring it
//! down to milliseconds. Where 0 lies inside, the clocks agree as far as anybody can tell.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

/// A skew worth telling the operator about.
const NOTABLE_SKEW_US: i64 = 30_000_000;

/// One part in how many two clocks drift apart: 100 ppm, a bad quartz.
const DRIFT: i64 = 10_000;

/// Tells the time by which objects expire.
#[derive(Debug)]
pub struct Clock {
    local: Local,
    follow: bool,
    bounds: Mutex<Option<Bounds>>,
    offset_us: AtomicI64,
    warned: AtomicBool,
}

#[derive(Debug)]
enum Local {
    /// The wall clock at start, carried on by one that is never set and goes on while the host
    /// sleeps: setting the system's clock does not bring files back.
    Steady {
        wall: SystemTime,
        since: Duration,
    },
    /// The wall clock, set as it may be.
    Wall,
    Manual(Mutex<SystemTime>),
}

/// What is known of (store's clock - local clock), in microseconds.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: i64,
    high: i64,
    /// Up to when drift has been allowed for.
    widened: SystemTime,
}

/// CLOCK_BOOTTIME (clock_gettime(2)), which every kernel with FUSE has.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

impl Clock {
    /// The store's clock; until its first answer, the local one.
    pub fn server() -> Clock {
        Clock::new(Local::Steady { wall: SystemTime::now(), since: since_boot() }, true)
    }

    /// The local clock, whatever the store says (`--clock=local`).
    pub fn local() -> Clock {
        Clock::new(Local::Wall, false)
    }

    /// A clock that stands still until it is moved, for tests.
    pub fn manual(now: SystemTime) -> Clock {
        Clock::new(Local::Manual(Mutex::new(now)), true)
    }

    fn new(local: Local, follow: bool) -> Clock {
        Clock {
            local,
            follow,
            bounds: Mutex::new(None),
            offset_us: AtomicI64::new(0),
            warned: AtomicBool::new(false),
        }
    }

    /// Moves a manual clock on; any other stays.
    pub fn advance(&self, by: Duration) {
        if let Local::Manual(now) = &self.local {
            *now.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }

    /// The store's time, as well as it is known.
    pub fn now(&self) -> SystemTime {
        shift(self.local_now(), self.offset_us.load(Ordering::Relaxed))
    }

    /// The uncorrected clock: what [`Clock::learn`] wants its stamps from.
    pub fn local_now(&self) -> SystemTime {
        match &self.local {
            Local::Steady { wall, since } => *wall + since_boot().saturating_sub(*since),
            Local::Wall => SystemTime::now(),
            Local::Manual(now) => *now.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The store's clock less the local one, in milliseconds.
    pub fn offset_ms(&self) -> i64 {
        self.offset_us.load(Ordering::Relaxed) / 1000
    }

    /// Learns from a `Date` header of an answer; `sent` and `received` are of [`Clock::local_now`].
    pub fn learn(&self, date: SystemTime, sent: SystemTime, received: SystemTime) {
        if !self.follow {
            return;
        }
        let low = diff_us(date, received);
        let high = diff_us(date, sent) + 1_000_000;
        let mut bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match *bounds {
            Some(old) => {
                let drift = diff_us(received, old.widened).max(0) / DRIFT;
                let narrowed = Bounds {
                    low: low.max(old.low - drift),
                    high: high.min(old.high + drift),
                    widened: if drift > 0 { received } else { old.widened },
                };
                // They contradict each other when either clock was set: the newer one counts.
                if narrowed.low <= narrowed.high {
                    narrowed
                } else {
                    Bounds { low, high, widened: received }
                }
            }
            None => Bounds { low, high, widened: received },
        };
        *bounds = Some(next);
        let offset =
            if (next.low..=next.high).contains(&0) { 0 } else { (next.low + next.high) / 2 };
        self.offset_us.store(offset, Ordering::Relaxed);
        drop(bounds);
        if offset.abs() > NOTABLE_SKEW_US && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                offset_ms = offset / 1000,
                "the store's clock and this host's differ by {} s; objects expire by the store's",
                offset / 1_000_000
            );
        }
    }
}

/// `a - b` in microseconds.
fn diff_us(a: SystemTime, b: SystemTime) -> i64 {
    // Over some 10,000 years nothing is promised.
    let us = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX / 4);
    match a.duration_since(b) {
        Ok(ahead) => us(ahead),
        Err(behind) => -us(behind.duration()),
    }
}

fn shift(t: SystemTime, us: i64) -> SystemTime {
    let by = Duration::from_micros(us.unsigned_abs());
    let shifted = if us < 0 { t.checked_sub(by) } else { t.checked_add(by) };
    shifted.unwrap_or(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: SystemTime = SystemTime::UNIX_EPOCH;

    fn ms(n: u64) -> SystemTime {
        T0 + Duration::from_millis(n)
    }

    /// Answers of a store whose clock is `offset` ms ahead, asked at the moments given.
    fn learned(offset: i64, moments: &[u64]) -> i64 {
        let clock = Clock::manual(ms(0));
        for &sent in moments {
            let answered = sent + 2;
            let date = (answered as i64 + offset) / 1000 * 1000;
            clock.learn(ms(date as u64), ms(sent), ms(sent + 4));
        }
        clock.offset_ms()
    }

    #[test]
    fn equal_clocks_are_left_alone() {
        assert_eq!(learned(0, &[100_000, 100_250, 100_999, 101_500]), 0);
    }

    #[test]
    fn a_wrong_clock_is_corrected_and_ever_better() {
        let first = learned(3_600_000, &[100_300]);
        assert!((first - 3_600_000).abs() <= 510, "{first}");
        let moments: Vec<u64> = (0..200).map(|i| 100_000 + i * 37).collect();
        let later = learned(3_600_000, &moments);
        assert!((later - 3_600_000).abs() <= 40, "{later}");
        let behind = learned(-90_000, &moments);
        assert!((behind + 90_000).abs() <= 40, "{behind}");
    }

    #[test]
    fn many_answers_narrow_it_down_and_drift_does_not_outrun_them() {
        // A second of answers every 2 ms: after it, each one leaves no more than milliseconds.
        let moments: Vec<u64> = (0..1000).map(|i| 100_000 + i * 2).collect();
        for n in [600, 700, 800, 900, 1000] {
            let offset = learned(3_600_000, &moments[..n]);
            assert!((offset - 3_600_000).abs() <= 4, "{offset} after {n}");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_believed_anew() {
        let clock = Clock::manual(ms(0));
        clock.learn(ms(100_000), ms(100_000), ms(100_004));
        assert_eq!(clock.offset_ms(), 0);
        clock.learn(ms(500_000), ms(101_000), ms(101_004));
        assert!((clock.offset_ms() - 399_500).abs() <= 10, "{}", clock.offset_ms());
    }

    #[test]
    fn the_local_clock_does_not_listen() {
        let clock = Clock::local();
        clock.learn(ms(500_000_000), ms(0), ms(4));
        assert_eq!(clock.offset_ms(), 0);
    }
}
