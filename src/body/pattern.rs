//! The access pattern of a handle, and how much to request next. Pure.

use std::ops::Range;
use std::time::Duration;

/// The first range requested for random reads; it doubles while reading continues from it.
/// Measured: a range of this length takes as long as one of 4 KiB.
pub const FIRST_SPAN: u64 = 64 << 10;

/// Beyond this length reading counts as sequential: the next request is for all the rest.
pub const LAST_SPAN: u64 = 1 << 20;

/// A read that begins this close to the end of the last one continues it.
pub const NEAR: u64 = 64 << 10;

/// Tracks the reads of one handle.
#[derive(Debug, Default)]
pub struct Pattern {
    /// Offset after the last read.
    position: u64,
    /// Jumps since the last sequential run of [`LAST_SPAN`].
    jumps: u32,
    /// Length of the last requested range.
    span: u64,
    /// Bytes read without a jump.
    run: u64,
    /// Requests caused by reads outside the window, and the time they took.
    requests: u32,
    spent: Duration,
}

impl Pattern {
    /// Records an answered read.
    pub fn read(&mut self, range: &Range<u64>) {
        self.run += range.end - range.start;
        self.position = range.end;
        if self.run >= LAST_SPAN {
            self.jumps = 0;
        }
    }

    /// Records a request caused by a read outside the window.
    pub fn paid(&mut self, took: Duration) {
        self.requests += 1;
        self.spent += took;
    }

    /// Whether these requests have taken as long as one request for the rest of the object would,
    /// `transfer` being its time after the first byte. If the rest is fetched now, the total is at
    /// most twice the better of the two strategies, whatever is read next.
    pub fn has_paid_for(&self, transfer: Duration) -> bool {
        // Each included the wait for a first byte, which a request for the rest has too.
        self.requests > 0 && self.spent >= transfer + self.spent / self.requests
    }

    /// The rest of the object is fetched: resets the counters.
    pub fn settle(&mut self) {
        (self.requests, self.spent) = (0, Duration::ZERO);
    }

    /// The range to request for reading `want`, starting at `start`, of an object of `size` bytes.
    /// It has at least `least` bytes (up to [`LAST_SPAN`]) unless the object ends before.
    pub fn ask(&mut self, start: u64, want: &Range<u64>, size: u64, least: u64) -> Range<u64> {
        let goes_on = want.start.abs_diff(self.position) <= NEAR;
        if !goes_on {
            self.jumps += 1;
            self.run = 0;
            self.span = 0;
        }
        // Readers of archives and media jump once and then read on; after a second jump most of a
        // response to the end would be discarded.
        if self.jumps < 2 || self.span >= LAST_SPAN {
            return start..size;
        }
        self.span = (2 * self.span).max(FIRST_SPAN);
        start..(start + self.span.max(least)).max(want.end).min(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths requested when `reads` of 4 KiB all miss the window.
    fn asked(reads: &[u64]) -> Vec<u64> {
        let (size, mut pattern) = (1 << 30, Pattern::default());
        reads
            .iter()
            .map(|&at| {
                let want = at..at + 4096;
                let range = pattern.ask(at, &want, size, 0);
                pattern.read(&want);
                range.end - range.start
            })
            .collect()
    }

    #[test]
    fn sequential_reading_is_one_request() {
        assert_eq!(asked(&[0]), [1 << 30]);
    }

    #[test]
    fn one_jump_reads_to_the_end_and_more_jumps_read_limited_ranges() {
        let (a, b, c) = (500 << 20, 100 << 20, 700 << 20);
        let to_end = |at: u64| (1 << 30) - at;
        assert_eq!(asked(&[a]), [to_end(a)]);
        assert_eq!(asked(&[a, b, c]), [to_end(a), FIRST_SPAN, FIRST_SPAN]);
    }

    #[test]
    fn a_range_is_at_least_as_long_as_the_read() {
        let mut pattern = Pattern::default();
        let size = 100 << 20;
        for at in [50 << 20, 10 << 20] {
            pattern.ask(at, &(at..at + 4096), size, LAST_SPAN);
        }
        let (at, near_end) = (30 << 20, size - 8192);
        assert_eq!(pattern.ask(at, &(at..at + 4096), size, LAST_SPAN), at..at + LAST_SPAN);
        let want = near_end..near_end + 4096;
        assert_eq!(pattern.ask(near_end, &want, size, LAST_SPAN), near_end..size);
    }

    /// For any number of reads at any cost: the requests and the fetch of the rest take at most
    /// twice the time of the better strategy, plus one request.
    #[test]
    fn the_rest_is_fetched_once_requests_have_cost_as_much() {
        for (first_byte, transfer) in [(10, 700), (10, 5), (100, 100), (1, 0), (7, 1000)] {
            let [first_byte, transfer] = [first_byte, transfer].map(Duration::from_millis);
            for reads in 1..300 {
                let (mut pattern, mut took) = (Pattern::default(), Duration::ZERO);
                for _ in 0..reads {
                    if pattern.has_paid_for(transfer) {
                        took += first_byte + transfer;
                        break;
                    }
                    pattern.paid(first_byte);
                    took += first_byte;
                }
                let better = (first_byte * reads).min(first_byte + transfer);
                assert!(took <= 2 * better + first_byte, "{took:?} for {better:?}");
            }
        }
    }

    #[test]
    fn ranges_grow_during_sequential_reads() {
        let mut reads = vec![500 << 20, 100 << 20];
        let base = 700 << 20;
        reads.extend((0..8).map(|i| base + i * 4096));
        let got = asked(&reads);
        let growing = (0..5).map(|i| FIRST_SPAN << i);
        assert!(got[2..7].iter().copied().eq(growing), "{got:?}");
        assert_eq!(*got.last().unwrap(), (1 << 30) - (base + 7 * 4096));
    }
}
