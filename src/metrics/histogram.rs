//! Durations by size, in buckets: a few atomic additions for each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The upper bounds of buckets.
#[derive(Debug, PartialEq, Eq)]
pub struct Scale(&'static [Duration]);

const fn micros<const N: usize>(of: [u64; N]) -> [Duration; N] {
    let (mut bounds, mut i) = ([Duration::ZERO; N], 0);
    while i < N {
        bounds[i] = Duration::from_micros(of[i]);
        i += 1;
    }
    bounds
}

/// From an answer out of memory to the longest timeout: three bounds for each power of ten.
#[rustfmt::skip]
const LATENCIES: [Duration; 21] = micros([
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000,
]);

const HOUR: u64 = 3_600_000_000;

/// From seconds to 90 days.
#[rustfmt::skip]
const LIFETIMES: [Duration; 13] = micros([
    1_000_000, 10_000_000, 60_000_000, 300_000_000, 900_000_000, HOUR, 3 * HOUR, 12 * HOUR, 24 * HOUR,
    3 * 24 * HOUR, 7 * 24 * HOUR, 30 * 24 * HOUR, 90 * 24 * HOUR,
]);

/// How long something took.
pub static LATENCY: Scale = Scale(&LATENCIES);

/// How long something is still valid.
pub static LIFETIME: Scale = Scale(&LIFETIMES);

impl Scale {
    /// The upper bounds, in seconds; the last bucket has none.
    pub fn bounds_s(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(Duration::as_secs_f64)
    }
}

/// Counts durations by bucket.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    /// Seconds, as the bits of an `f64`: an object may expire in the year 9999, and a million opens of it
    /// overflow 64 bits of milliseconds.
    sum: AtomicU64,
}

impl Histogram {
    pub fn new(scale: &'static Scale) -> Histogram {
        let counts = (0..=scale.0.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { scale, counts, sum: AtomicU64::new(0) }
    }

    pub fn add(&self, took: Duration) {
        let bucket = self.scale.0.partition_point(|bound| *bound < took);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let more = |sum| Some((f64::from_bits(sum) + took.as_secs_f64()).to_bits());
        // It is always `Some`.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    pub fn now(&self) -> Counts {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Counts { sum_s: f64::from_bits(self.sum.load(Ordering::Relaxed)), counts }
    }
}

/// A histogram at one moment. Field names are those of `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub sum_s: f64,
    /// By bucket; the last one has no upper bound.
    pub counts: Vec<u64>,
}

impl Counts {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Counts) -> Counts {
        let earlier = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(earlier).map(|(now, then)| now.saturating_sub(then));
        Counts { sum_s: (self.sum_s - before.sum_s).max(0.0), counts: counts.collect() }
    }

    pub fn and(&self, other: &Counts) -> Counts {
        let length = self.counts.len().max(other.counts.len());
        let at = |counts: &Vec<u64>, i| counts.get(i).copied().unwrap_or(0);
        let counts = (0..length).map(|i| at(&self.counts, i) + at(&other.counts, i)).collect();
        Counts { sum_s: self.sum_s + other.sum_s, counts }
    }

    /// The bound, in seconds, below which this share of the durations lies; interpolated within its
    /// bucket, as histogram_quantile() of Prometheus does. `None` if there are none.
    pub fn quantile_s(&self, share: f64, scale: &Scale) -> Option<f64> {
        let (all, bounds) = (self.count(), scale.0);
        let rank = share * all as f64;
        let mut below = 0.0;
        for (i, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = count as f64;
            if below + count >= rank {
                let low = i.checked_sub(1).map_or(0.0, |i| bounds[i].as_secs_f64());
                let high = bounds.get(i).map_or(low, Duration::as_secs_f64);
                return Some(low + (high - low) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for scale in [&LATENCY, &LIFETIME] {
            assert!(scale.0.is_sorted_by(|a, b| a < b));
            for (i, bound) in scale.0.iter().enumerate() {
                let histogram = Histogram::new(scale);
                histogram.add(*bound);
                histogram.add(*bound + Duration::from_nanos(1));
                let counts = histogram.now().counts;
                assert_eq!((counts[i], counts[i + 1]), (1, 1), "{bound:?}: {counts:?}");
                assert_eq!(counts.iter().sum::<u64>(), 2);
            }
        }
    }

    #[test]
    fn the_sum_is_in_seconds() {
        let histogram = Histogram::new(&LATENCY);
        histogram.add(Duration::from_millis(1500));
        histogram.add(Duration::from_nanos(250));
        assert_eq!(histogram.now().sum_s, 1.500_000_25);
        let histogram = Histogram::new(&LIFETIME);
        (0..1_000_000).for_each(|_| histogram.add(Duration::from_secs(400 * 24 * 3600)));
        assert_eq!(histogram.now().sum_s, 1e6 * 400.0 * 86_400.0);
        // Until the year 9999.
        let histogram = Histogram::new(&LIFETIME);
        (0..2_000).for_each(|_| histogram.add(Duration::from_secs(251_000_000_000)));
        assert_eq!(histogram.now().sum_s, 2e3 * 251e9);
    }

    #[test]
    fn quantiles_are_interpolated_within_a_bucket() {
        let histogram = Histogram::new(&LATENCY);
        assert_eq!(histogram.now().quantile_s(0.5, &LATENCY), None);
        (0..100).for_each(|_| histogram.add(Duration::from_micros(80)));
        let before = histogram.now();
        let close = |share, micros: f64, counts: &Counts| {
            let found = counts.quantile_s(share, &LATENCY).unwrap() * 1e6;
            assert!((found - micros).abs() < 0.01, "{found} for {share}");
        };
        close(0.5, 75.0, &before);
        close(1.0, 100.0, &before);
        (0..10).for_each(|_| histogram.add(Duration::from_secs(1000)));
        let after = histogram.now();
        close(0.99, 50e6, &after);
        close(0.5, 50e6, &after.since(&before));
        assert_eq!(after.since(&before).and(&before), after);
        assert_eq!(Counts::default().and(&after).since(&Counts::default()), after);
    }
}
