//! Measured throughput of responses, shared by the readers of a mount. Pure.

use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering};

const MIB: u64 = 1 << 20;

/// Shorter responses are not measured: their bytes may have arrived with the headers.
const TELLING: u64 = MIB / 2;

/// Moving average over responses; the newest has a weight of a quarter.
#[derive(Debug, Default)]
pub struct Pace {
    /// Nanoseconds per MiB; 0: not measured yet.
    per_mib: AtomicU64,
}

impl Pace {
    /// Records a response that brought `bytes` in this time, counted from its headers.
    pub fn measured(&self, bytes: u64, took: Duration) {
        if bytes < TELLING {
            return;
        }
        let now = scaled(took.as_nanos(), MIB, bytes).max(1);
        let mean = match self.per_mib.load(Ordering::Relaxed) {
            0 => now,
            before => before - before / 4 + now / 4,
        };
        self.per_mib.store(mean, Ordering::Relaxed);
    }

    /// How long `bytes` take after the first byte; `None` before the first measurement.
    pub fn time_of(&self, bytes: u64) -> Option<Duration> {
        match self.per_mib.load(Ordering::Relaxed) {
            0 => None,
            per_mib => Some(Duration::from_nanos(scaled(per_mib.into(), bytes, MIB))),
        }
    }
}

/// `n * by / of`, saturating.
fn scaled(n: u128, by: u64, of: u64) -> u64 {
    u64::try_from(n.saturating_mul(by.into()) / u128::from(of)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pace_is_unknown_before_a_long_enough_response() {
        let pace = Pace::default();
        pace.measured(64 << 10, MS);
        assert_eq!(pace.time_of(MIB), None);
        pace.measured(MIB, 10 * MS);
        assert_eq!(pace.time_of(64 * MIB), Some(640 * MS));
    }

    #[test]
    fn pace_follows_measurements() {
        let pace = Pace::default();
        pace.measured(MIB, 10 * MS);
        pace.measured(2 * MIB, 60 * MS);
        assert_eq!(pace.time_of(MIB), Some(15 * MS));
        (0..30).for_each(|_| pace.measured(MIB, 30 * MS));
        let time = pace.time_of(MIB).unwrap();
        assert!(time > 29 * MS && time <= 30 * MS, "{time:?}");
        pace.measured(MIB, Duration::MAX);
        assert!(pace.time_of(u64::MAX).is_some());
    }
}
