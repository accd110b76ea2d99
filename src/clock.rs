//! The store's clock (rule E6): the local clock, corrected by `Date` headers.
//!
//! A `Date` has whole seconds. If a request is sent at S and its answer, received at R, has the
//! date D, then the store's clock showed D..D+1s at some moment in S..R, so that `D - R <= offset
//! <= D + 1s - S`. Each answer narrows the interval; a few hundred narrow it to milliseconds. If it
//! contains 0, no difference is measurable.
//!
//! Several hosts with different clocks may serve one address, and an object that has expired by one
//! clock must not reappear by another. So this clock stops instead of going back, unless the
//! answers contradict it for so long that the store's clock must have been set back.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

/// The clock skew above which a warning is logged.
const NOTABLE_SKEW_US: i64 = 30_000_000;

/// This many answers in a row set the clock forward: a single one may come from a host with a wrong
/// clock.
const FORWARD: u32 = 3;

/// This many answers in a row, over at least this time, set it back.
const BACK: u32 = 10;
const BACK_FOR: Duration = Duration::from_secs(30);

/// Two clocks drift apart by one part in this many: 100 ppm, a bad oscillator.
const DRIFT: i64 = 10_000;

/// The clock by which objects expire.
#[derive(Debug)]
pub struct Clock {
    local: Local,
    follow: bool,
    learned: Mutex<Learned>,
    offset_us: AtomicI64,
    /// The latest time returned, in microseconds since 1970: [`Clock::now`] never goes below it.
    floor_us: AtomicI64,
    warned: AtomicBool,
}

#[derive(Debug)]
enum Local {
    /// The wall clock at start, advanced by a clock that is never set and runs while the host
    /// sleeps: setting the system clock does not make expired files reappear.
    Steady {
        wall: SystemTime,
        since: Duration,
    },
    /// The wall clock.
    Wall,
    Manual(Mutex<SystemTime>),
}

/// Bounds of (store's clock - local clock), in microseconds.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: i64,
    high: i64,
    /// The time up to which drift is included.
    widened: SystemTime,
}

impl Bounds {
    /// The intersection with `low..=high`, allowing for drift up to `now`; `None` if it is empty.
    fn narrowed(self, low: i64, high: i64, now: SystemTime) -> Option<Bounds> {
        let drift = diff_us(now, self.widened).max(0) / DRIFT;
        let narrowed = Bounds {
            low: low.max(self.low - drift),
            high: high.min(self.high + drift),
            widened: if drift > 0 { now } else { self.widened },
        };
        (narrowed.low <= narrowed.high).then_some(narrowed)
    }

    fn offset(self) -> i64 {
        if (self.low..=self.high).contains(&0) { 0 } else { (self.low + self.high) / 2 }
    }
}

#[derive(Debug, Default)]
struct Learned {
    bounds: Option<Bounds>,
    /// Contradicting answers since the last one that agreed with `bounds`.
    contradiction: Option<Contradiction>,
}

/// Answers that contradict the bounds and agree with each other.
#[derive(Clone, Copy, Debug)]
struct Contradiction {
    bounds: Bounds,
    forward: bool,
    answers: u32,
    since: SystemTime,
}

impl Contradiction {
    fn lasts(&self, now: SystemTime) -> bool {
        match self.forward {
            true => self.answers >= FORWARD,
            false => self.answers >= BACK && now >= self.since + BACK_FOR,
        }
    }
}

impl Learned {
    /// Adds an answer. Returns whether it sets the clock back.
    fn take(&mut self, low: i64, high: i64, received: SystemTime) -> bool {
        let fresh = Bounds { low, high, widened: received };
        let Some(believed) = self.bounds else {
            self.bounds = Some(fresh);
            return false;
        };
        if let Some(narrowed) = believed.narrowed(low, high, received) {
            *self = Learned { bounds: Some(narrowed), contradiction: None };
            return false;
        }
        let forward = low > believed.high;
        let before = self.contradiction.filter(|before| before.forward == forward);
        let longer = before.and_then(|before| {
            let bounds = before.bounds.narrowed(low, high, received)?;
            Some(Contradiction { bounds, answers: before.answers + 1, ..before })
        });
        let once = Contradiction { bounds: fresh, forward, answers: 1, since: received };
        let contradiction = longer.unwrap_or(once);
        if !contradiction.lasts(received) {
            self.contradiction = Some(contradiction);
            return false;
        }
        *self = Learned { bounds: Some(contradiction.bounds), contradiction: None };
        !forward
    }
}

/// CLOCK_BOOTTIME (clock_gettime(2)), which every kernel with FUSE has.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

impl Clock {
    /// The store's clock; until its first answer, the local one.
    #[expect(clippy::disallowed_methods, reason = "the wall clock is read here, once")]
    pub fn server() -> Clock {
        Clock::new(Local::Steady { wall: SystemTime::now(), since: since_boot() }, true)
    }

    /// The local clock, uncorrected (`--clock=local`).
    pub fn local() -> Clock {
        Clock::new(Local::Wall, false)
    }

    /// A clock that moves only by [`Clock::advance`], for tests.
    pub fn manual(now: SystemTime) -> Clock {
        Clock::new(Local::Manual(Mutex::new(now)), true)
    }

    fn new(local: Local, follow: bool) -> Clock {
        Clock {
            local,
            follow,
            learned: Mutex::default(),
            offset_us: AtomicI64::new(0),
            floor_us: AtomicI64::new(i64::MIN),
            warned: AtomicBool::new(false),
        }
    }

    /// Advances a manual clock; has no effect on others.
    pub fn advance(&self, by: Duration) {
        if let Local::Manual(now) = &self.local {
            *now.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }

    /// The store's time.
    pub fn now(&self) -> SystemTime {
        let now = shift(self.local_now(), self.offset_us.load(Ordering::Acquire));
        match self.floor_us.load(Ordering::Relaxed) {
            i64::MIN => now,
            floor => now.max(shift(SystemTime::UNIX_EPOCH, floor)),
        }
    }

    /// The uncorrected clock, for the arguments of [`Clock::learn`].
    #[expect(clippy::disallowed_methods, reason = "--clock=local asks for the wall clock")]
    pub fn local_now(&self) -> SystemTime {
        match &self.local {
            Local::Steady { wall, since } => *wall + since_boot().saturating_sub(*since),
            Local::Wall => SystemTime::now(),
            Local::Manual(now) => *now.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Store clock minus local clock, in milliseconds.
    pub fn offset_ms(&self) -> i64 {
        self.offset_us.load(Ordering::Relaxed) / 1000
    }

    /// By how much the two clocks differ.
    pub fn skew(&self) -> Duration {
        Duration::from_millis(self.offset_ms().unsigned_abs())
    }

    /// Adds the `Date` header of an answer; `sent` and `received` are times of
    /// [`Clock::local_now`].
    pub fn learn(&self, date: SystemTime, sent: SystemTime, received: SystemTime) {
        if !self.follow {
            return;
        }
        let low = diff_us(date, received);
        let high = diff_us(date, sent) + 1_000_000;
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let back = learned.take(low, high, received);
        let offset = learned.bounds.map_or(0, Bounds::offset);
        if back {
            self.floor_us.store(i64::MIN, Ordering::Relaxed);
        } else if offset < self.offset_us.load(Ordering::Relaxed) {
            let told = diff_us(self.now(), SystemTime::UNIX_EPOCH) + 1;
            self.floor_us.store(told, Ordering::Relaxed);
        }
        // After the floor, so that no reader sees the new offset without it.
        self.offset_us.store(offset, Ordering::Release);
        drop(learned);
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
    // Saturates beyond some 10,000 years.
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

    /// The offset learned from a store whose clock is `offset` ms ahead, asked at the given
    /// moments.
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
    fn a_wrong_clock_is_corrected_more_exactly_with_each_answer() {
        let first = learned(3_600_000, &[100_300]);
        assert!((first - 3_600_000).abs() <= 510, "{first}");
        let moments: Vec<u64> = (0..200).map(|i| 100_000 + i * 37).collect();
        let later = learned(3_600_000, &moments);
        assert!((later - 3_600_000).abs() <= 40, "{later}");
        let behind = learned(-90_000, &moments);
        assert!((behind + 90_000).abs() <= 40, "{behind}");
    }

    #[test]
    fn many_answers_narrow_the_bounds_faster_than_drift_widens_them() {
        // Answers every 2 ms for two seconds: the bounds are then a few milliseconds apart.
        let moments: Vec<u64> = (0..1000).map(|i| 100_000 + i * 2).collect();
        for n in [600, 700, 800, 900, 1000] {
            let offset = learned(3_600_000, &moments[..n]);
            assert!((offset - 3_600_000).abs() <= 4, "{offset} after {n}");
        }
    }

    /// An answer at `at` ms of the local clock, from a host whose clock is `offset` ms ahead.
    fn answer(clock: &Clock, at: u64, offset: i64) {
        clock.advance(ms(at).duration_since(clock.local_now()).unwrap_or_default());
        let date = (at as i64 + offset) / 1000 * 1000;
        clock.learn(ms(date as u64), ms(at), ms(at));
    }

    #[test]
    fn a_clock_set_forward_is_followed_after_three_answers() {
        let clock = Clock::manual(ms(0));
        (0..50).for_each(|i| answer(&clock, 100_000 + i * 37, 0));
        for i in 0..2 {
            answer(&clock, 102_000 + i * 37, 400_000);
            assert_eq!(clock.offset_ms(), 0, "one host may be wrong");
        }
        answer(&clock, 102_080, 400_000);
        assert!((clock.offset_ms() - 400_000).abs() <= 510, "{}", clock.offset_ms());
    }

    #[test]
    fn a_clock_set_back_is_followed_once_it_stays_back() {
        let clock = Clock::manual(ms(0));
        let mut told = SystemTime::UNIX_EPOCH;
        for second in 0..60u64 {
            answer(&clock, (1000 + second) * 1000, if second < 10 { 7_200_000 } else { 0 });
            let lasting = second >= 10 + 30;
            assert_eq!(clock.now() < told, lasting && second == 40, "after {second} s");
            assert_eq!(clock.offset_ms() < 7_000_000, lasting, "after {second} s");
            told = clock.now();
        }
        assert_eq!(clock.offset_ms(), 0);
    }

    /// A pseudo-random number (splitmix64) below `below`.
    fn chance(seed: &mut u64, below: u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (n ^ (n >> 31)) % below
    }

    #[test]
    fn servers_with_different_clocks_never_make_expired_objects_reappear() {
        for case in 0..300u64 {
            let mut seed = case;
            let apart = 400 + chance(&mut seed, 4600) as i64;
            let first = chance(&mut seed, 20_000) as i64 - 10_000;
            // How many of a hundred answers come from the second host.
            let share = 10 + chance(&mut seed, 80);
            let clock = Clock::manual(ms(0));
            let (mut at, mut told) = (1_000_000, SystemTime::UNIX_EPOCH);
            for i in 0..2000 {
                at += 1 + chance(&mut seed, 100);
                let second = chance(&mut seed, 100) < share;
                answer(&clock, at, if second { first + apart } else { first });
                let now = clock.now();
                assert!(now >= told, "case {case}: {apart} ms apart, answer {i}: back");
                told = now;
            }
            let ahead = diff_us(told, ms(at)) / 1000;
            let clocks = first - 600..=first + apart + 600;
            assert!(clocks.contains(&ahead), "case {case}: {ahead} ms, clocks {clocks:?}");
        }
    }

    #[test]
    fn the_local_clock_ignores_the_server() {
        let clock = Clock::local();
        clock.learn(ms(500_000_000), ms(0), ms(4));
        assert_eq!(clock.offset_ms(), 0);
    }
}
