//! How an object is being read, and how much to ask for next. Pure.

use std::ops::Range;

/// The first range a random reader is given; each one it reads on from doubles it. Measured: a
/// range of this length takes as long as one of 4 KiB.
pub const FIRST_SPAN: u64 = 64 << 10;

/// A range longer than this reads sequentially: the next request is for all the rest.
pub const LAST_SPAN: u64 = 1 << 20;

/// A read that begins this close to where the last one ended goes on from it.
pub const NEAR: u64 = 64 << 10;

/// Follows the reads of one handle.
#[derive(Debug, Default)]
pub struct Pattern {
    /// Offset after the last read.
    position: u64,
    /// Jumps since reading was last sequential for a while.
    jumps: u32,
    /// Length of the last range asked for.
    span: u64,
    /// Bytes read in one run.
    run: u64,
}

impl Pattern {
    /// Takes note of an answered read.
    pub fn read(&mut self, range: &Range<u64>) {
        self.run += range.end - range.start;
        self.position = range.end;
        if self.run >= LAST_SPAN {
            self.jumps = 0;
        }
    }

    /// The range to ask for so as to read `want`, from `start` on, of an object of `size` bytes.
    pub fn ask(&mut self, start: u64, want: &Range<u64>, size: u64) -> Range<u64> {
        let goes_on = want.start.abs_diff(self.position) <= NEAR;
        if !goes_on {
            self.jumps += 1;
            self.run = 0;
            self.span = 0;
        }
        // One jump is what readers of archives and media do before they read on; after a second
        // one a response to the end would be thrown away.
        if self.jumps < 2 || self.span >= LAST_SPAN {
            return start..size;
        }
        self.span = (2 * self.span).max(FIRST_SPAN);
        start..(start + self.span).max(want.end).min(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for, when `reads` of 4 KiB each find nothing in the window.
    fn asked(reads: &[u64]) -> Vec<u64> {
        let (size, mut pattern) = (1 << 30, Pattern::default());
        reads
            .iter()
            .map(|&at| {
                let want = at..at + 4096;
                let range = pattern.ask(at, &want, size);
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
    fn one_jump_reads_on_to_the_end_and_more_get_bounded_ranges() {
        let (a, b, c) = (500 << 20, 100 << 20, 700 << 20);
        let to_end = |at: u64| (1 << 30) - at;
        assert_eq!(asked(&[a]), [to_end(a)]);
        assert_eq!(asked(&[a, b, c]), [to_end(a), FIRST_SPAN, FIRST_SPAN]);
    }

    #[test]
    fn ranges_grow_while_reading_goes_on() {
        let mut reads = vec![500 << 20, 100 << 20];
        let base = 700 << 20;
        reads.extend((0..8).map(|i| base + i * 4096));
        let got = asked(&reads);
        let growing = (0..5).map(|i| FIRST_SPAN << i);
        assert!(got[2..7].iter().copied().eq(growing), "{got:?}");
        assert_eq!(*got.last().unwrap(), (1 << 30) - (base + 7 * 4096));
    }
}
