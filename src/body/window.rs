//! The bytes of an object that a handle buffers: one contiguous piece that moves forward. Pure.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// Adjacent chunks, as received.
#[derive(Debug, Default)]
pub struct Window {
    start: u64,
    end: u64,
    chunks: VecDeque<Bytes>,
}

impl Window {
    /// Empties it and moves it to `offset`.
    pub fn restart(&mut self, offset: u64) {
        *self = Window { start: offset, end: offset, chunks: VecDeque::new() };
    }

    /// Offset of the first byte held.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset after the last byte held.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes held.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Adds the bytes of the object from `offset` on. If they are not adjacent to the bytes held,
    /// they replace them: a window is contiguous.
    pub fn push(&mut self, offset: u64, chunk: Bytes) {
        if offset != self.end {
            self.restart(offset);
        }
        if !chunk.is_empty() {
            self.end += chunk.len() as u64;
            self.chunks.push_back(chunk);
        }
    }

    /// The bytes of `want`, if all are held; no copy if one chunk has them all.
    pub fn get(&self, want: &Range<u64>) -> Option<Bytes> {
        if want.start < self.start || want.end > self.end {
            return None;
        }
        let len = (want.end - want.start) as usize;
        let mut skip = (want.start - self.start) as usize;
        let mut copy = Vec::new();
        for chunk in &self.chunks {
            if skip >= chunk.len() {
                skip -= chunk.len();
                continue;
            }
            let part = &chunk[skip..];
            if copy.is_empty() {
                if part.len() >= len {
                    return Some(chunk.slice(skip..skip + len));
                }
                copy.reserve_exact(len);
            }
            copy.extend_from_slice(&part[..part.len().min(len - copy.len())]);
            skip = 0;
            if copy.len() == len {
                break;
            }
        }
        Some(copy.into())
    }

    /// Drops the chunks that end before `offset`.
    pub fn release_before(&mut self, offset: u64) {
        while let Some(first) = self.chunks.front() {
            let next = self.start + first.len() as u64;
            if next > offset {
                break;
            }
            self.start = next;
            self.chunks.pop_front();
        }
    }
}

/// Which bytes of an object were delivered: sorted, non-adjacent ranges.
#[derive(Debug, Default)]
pub struct Coverage(Vec<Range<u64>>);

impl Coverage {
    /// The most ranges kept; further scattered reads are not recorded.
    const PIECES: usize = 64;

    pub fn add(&mut self, range: &Range<u64>) {
        let first = self.0.partition_point(|r| r.end < range.start);
        let past = self.0.partition_point(|r| r.start <= range.end);
        let mut merged = range.clone();
        if let (Some(low), Some(high)) = (self.0.get(first), self.0[..past].last())
            && first < past
        {
            merged = low.start.min(range.start)..high.end.max(range.end);
        }
        self.0.splice(first..past.max(first), [merged]);
        if self.0.len() > Self::PIECES {
            self.0.pop();
        }
    }

    /// The first offset from `from` on that is not covered.
    pub fn first_missing(&self, from: u64) -> u64 {
        let within = self.0.iter().find(|range| range.contains(&from));
        within.map_or(from, |range| range.end)
    }

    /// The shortest range that holds all that is not covered of an object of `size` bytes.
    pub fn missing_of(&self, size: u64) -> Range<u64> {
        let end = match self.0.last() {
            Some(last) if last.end >= size => last.start,
            _ => size,
        };
        self.first_missing(0).min(end)..end
    }

    /// Whether all of an object of `size` bytes is covered.
    pub fn is_all_of(&self, size: u64) -> bool {
        size == 0 || matches!(&self.0[..], [all] if all.start == 0 && all.end >= size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn coverage_is_the_union(ranges in prop::collection::vec((0u64..60, 1u64..20), 0..40)) {
            let mut coverage = Coverage::default();
            let mut bytes = [false; 80];
            for (start, len) in ranges {
                coverage.add(&(start..start + len));
                bytes[start as usize..(start + len) as usize].fill(true);
                let held = |i: usize| coverage.0.iter().any(|r| r.contains(&(i as u64)));
                prop_assert!((0..80).all(|i| held(i) == bytes[i]), "{:?}", coverage);
                let missing = |from: usize| (from..=80).find(|&i| i == 80 || !bytes[i]);
                prop_assert!(
                    (0..80).all(|i| Some(coverage.first_missing(i as u64) as usize) == missing(i))
                );
                prop_assert!(coverage.0.windows(2).all(|w| w[0].end < w[1].start));
                let range = coverage.missing_of(80);
                let first = bytes.iter().position(|b| !b);
                let last = bytes.iter().rposition(|b| !b);
                match (first, last) {
                    (Some(first), Some(last)) => {
                        prop_assert_eq!(range, first as u64..last as u64 + 1);
                    }
                    _ => prop_assert!(range.is_empty()),
                }
                let whole = bytes.iter().position(|b| !b).unwrap_or(80) as u64;
                prop_assert_eq!(whole == 0 || coverage.is_all_of(whole), coverage.0.len() <= 1 || whole == 0);
            }
        }

        #[test]
        fn held_bytes_are_returned_correctly(
            base in 0u64..1000,
            chunks in prop::collection::vec(0usize..50, 0..12),
            release in 0u64..400,
            a in 0u64..600,
            len in 0u64..200,
        ) {
            let byte = |offset: u64| (offset % 251) as u8;
            let mut window = Window::default();
            window.restart(base);
            for n in chunks {
                let end = window.end();
                window.push(end, (end..end + n as u64).map(byte).collect::<Vec<_>>().into());
            }
            window.release_before(base + release);
            prop_assert!(window.start() <= (base + release).max(base));
            let want = base + a..base + a + len;
            let held = window.start() <= want.start && want.end <= window.end();
            match window.get(&want) {
                Some(bytes) => {
                    prop_assert!(held);
                    prop_assert_eq!(&bytes[..], &want.map(byte).collect::<Vec<_>>()[..]);
                }
                None => prop_assert!(!held),
            }
        }
    }
}
