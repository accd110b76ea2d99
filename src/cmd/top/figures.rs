//! What a mount does now: the difference of two samples.

use crate::daemon::status::Status;
use crate::metrics::{ByKind, LATENCY, TimedCounts};

/// One kind of operation or request.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    pub name: String,
    pub per_s: f64,
    pub failed_per_s: f64,
    /// Seconds.
    pub median: Option<f64>,
    pub p99: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// The most frequent first.
    pub operations: Vec<Kind>,
    pub requests: Vec<Kind>,
    /// Bytes per second.
    pub read: f64,
    pub received: f64,
    pub written: f64,
    pub throttled_per_s: f64,
    pub usd_per_hour: f64,
    /// Names of caches, and the share of questions that they answered.
    pub hits: Vec<(&'static str, f64)>,
}

impl Figures {
    /// What happened in the `seconds` between the two; `before` is empty for the time since the mount.
    pub fn of(now: &Status, before: &Status, seconds: f64) -> Figures {
        let seconds = seconds.max(0.001);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let written = |status: &Status| status.writing.as_ref().map_or(0, |w| w.bytes_written);
        let hits = now.caches.by_name().into_iter().zip(before.caches.by_name());
        let hits = hits.filter_map(|((name, now), (_, before))| {
            let hits = now.hits.saturating_sub(before.hits);
            let all = hits + now.misses.saturating_sub(before.misses);
            (all > 0).then(|| (name, hits as f64 / all as f64))
        });
        Figures {
            operations: kinds(&now.operations, &before.operations, seconds, &["ok", "ENOENT"]),
            requests: kinds(&now.answers, &before.answers, seconds, &["2xx"]),
            read: rate(now.bytes_read, before.bytes_read),
            received: rate(now.bytes_received, before.bytes_received),
            written: rate(written(now), written(before)),
            throttled_per_s: rate(now.throttled, before.throttled),
            usd_per_hour: (now.usd - before.usd).max(0.0) * 3600.0 / seconds,
            hits: hits.collect(),
        }
    }
}

fn kinds(now: &ByKind, before: &ByKind, seconds: f64, good: &[&str]) -> Vec<Kind> {
    let none = TimedCounts::default();
    let kinds = now.iter().map(|(name, now)| {
        let before = before.get(name).unwrap_or(&none);
        let took = now.took.since(&before.took);
        let failed = now.results.iter().filter(|(result, _)| !good.contains(&result.as_str()));
        let failed = failed.map(|(result, count)| {
            count.saturating_sub(before.results.get(result).copied().unwrap_or(0))
        });
        Kind {
            name: name.clone(),
            per_s: took.count() as f64 / seconds,
            failed_per_s: failed.sum::<u64>() as f64 / seconds,
            median: took.quantile_s(0.5, &LATENCY),
            p99: took.quantile_s(0.99, &LATENCY),
        }
    });
    let mut kinds: Vec<_> = kinds.collect();
    // Stable: kinds of the same rate stay in the order of their names.
    kinds.sort_by(|a, b| b.per_s.total_cmp(&a.per_s));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{CacheCounts, Caches, Histogram};
    use std::time::Duration;

    fn timed(results: &[(&str, u64)], took: Duration) -> TimedCounts {
        let histogram = Histogram::new(&LATENCY);
        let results = results.iter().map(|(result, n)| {
            (0..*n).for_each(|_| histogram.add(took));
            ((*result).to_owned(), *n)
        });
        TimedCounts { results: results.collect(), took: histogram.now() }
    }

    #[test]
    fn figures_are_those_between_two_samples() {
        let millis = Duration::from_millis(2);
        let mut before = Status { usd: 1.0, bytes_read: 100, ..Status::default() };
        before.operations.insert("read".to_owned(), timed(&[("ok", 5), ("EIO", 1)], millis));
        let mut now = Status { usd: 1.5, bytes_read: 2100, ..before.clone() };
        now.operations.insert("read".to_owned(), timed(&[("ok", 9), ("EIO", 3)], millis));
        now.operations.insert("open".to_owned(), timed(&[("ok", 2), ("ENOENT", 38)], millis));
        now.caches = Caches { pages: CacheCounts { hits: 3, misses: 1 }, ..Caches::default() };
        let figures = Figures::of(&now, &before, 2.0);
        let [open, read] = figures.operations.as_slice() else { panic!("{figures:?}") };
        assert_eq!((open.name.as_str(), open.per_s, open.failed_per_s), ("open", 20.0, 0.0));
        assert_eq!((read.name.as_str(), read.per_s, read.failed_per_s), ("read", 3.0, 1.0));
        assert!(read.median.is_some_and(|median| (0.001..=0.0025).contains(&median)), "{read:?}");
        assert_eq!((figures.read, figures.usd_per_hour), (1000.0, 900.0));
        assert_eq!(figures.hits, [("pages", 0.75)]);
        let idle = Figures::of(&now, &now, 1.0);
        assert!(idle.operations.iter().all(|kind| kind.per_s == 0.0 && kind.median.is_none()));
    }
}
