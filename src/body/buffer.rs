//! The bytes that a handle buffers for the kernel, and the permit for their memory.

use std::marker::PhantomData;
use std::ops::Range;

use bytes::Bytes;

use super::Permit;
use super::window::{Coverage, Window};

/// The longest piece that is stored in the page cache at once.
const PIECE: u64 = 1 << 20;

/// The page cache takes whole pages only, or a last piece that ends with the file.
const PAGE: u64 = 4096;

/// A window, the permit for its memory, and which bytes were delivered to the kernel.
#[derive(Default)]
pub struct Buffer {
    pub window: Window,
    pub memory: Option<Permit>,
    delivered: Coverage,
    /// The window holds the rest of the object: it stays until all of it is delivered, since reads
    /// in any order may need it.
    rest: bool,
}

/// Proof that a buffer is empty, and a borrow that keeps it empty. Waiting for a permit requires
/// one: two readers, each holding what the other waits for, would deadlock.
pub struct Emptied<'a>(PhantomData<&'a mut Buffer>);

impl Buffer {
    /// Empties it, moves it to `offset` and releases its memory.
    pub fn empty(&mut self, offset: u64) -> Emptied<'_> {
        self.restart(offset);
        self.memory = None;
        Emptied(PhantomData)
    }

    /// Empties it and moves it to `offset`, but keeps its memory.
    pub fn restart(&mut self, offset: u64) {
        self.window.restart(offset);
        self.rest = false;
    }

    /// Marks the contents as the rest of the object.
    pub fn hold_rest(&mut self) {
        self.rest = true;
    }

    /// Releases the memory that the window does not use now.
    pub fn settle(&mut self) {
        match (kib(self.window.len()), &mut self.memory) {
            (0, memory) => *memory = None,
            (units, Some(memory)) => {
                memory.shrink_to(units);
                memory.touch();
            }
            (_, None) => {}
        }
    }

    /// Records that `range` was delivered, and drops chunks that no read is likely to need: the
    /// kernel may request bytes from `behind` on out of order, but delivered bytes only once.
    pub fn deliver(&mut self, range: &Range<u64>, behind: u64) {
        self.delivered.add(range);
        let undelivered = self.delivered.first_missing(self.window.start());
        let wanted = if self.rest { undelivered } else { undelivered.max(behind) };
        self.window.release_before(wanted);
        self.settle();
    }

    /// Whether all of an object of `size` bytes was delivered.
    pub fn is_all_delivered(&self, size: u64) -> bool {
        self.delivered.is_all_of(size)
    }

    /// The shortest range, in whole pages, that contains `want` and all undelivered bytes of an
    /// object of `size` bytes.
    pub fn missing(&self, want: &Range<u64>, size: u64) -> Range<u64> {
        let missing = self.delivered.missing_of(size);
        let start = missing.start.min(want.start);
        start - start % PAGE..missing.end.max(want.end)
    }

    /// The next undelivered bytes of the rest of the object, if they are in the window.
    pub fn surplus(&self, size: u64) -> Option<(Range<u64>, Bytes)> {
        if !self.rest {
            return None;
        }
        let start = self.delivered.first_missing(self.window.start());
        let end = self.window.end().min(start + PIECE);
        let piece = start..if end == size { end } else { end - end % PAGE };
        // Less than a page may be left, or more was delivered than the window holds.
        if piece.is_empty() {
            return None;
        }
        let bytes = self.window.get(&piece)?;
        Some((piece, bytes))
    }
}

pub fn kib(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1 << 10)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 3 * PIECE + 100;

    fn holding(range: Range<u64>) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.restart(range.start);
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + 100_000);
            buffer.window.push(at, vec![7; (end - at) as usize].into());
            at = end;
        }
        buffer
    }

    #[test]
    fn the_rest_is_returned_in_pieces_each_once() {
        let mut buffer = holding(0..SIZE);
        assert_eq!(buffer.surplus(SIZE), None, "it was not fetched as the rest");
        buffer.hold_rest();
        buffer.deliver(&(0..2 * PAGE), 0);
        let mut given = Vec::new();
        while let Some((range, bytes)) = buffer.surplus(SIZE) {
            assert_eq!(bytes.len() as u64, range.end - range.start);
            buffer.deliver(&range, 0);
            given.push(range);
        }
        let begin = 2 * PAGE;
        let cuts = [begin, begin + PIECE, begin + 2 * PIECE, SIZE];
        assert_eq!(given, cuts.windows(2).map(|cut| cut[0]..cut[1]).collect::<Vec<_>>());
        assert!(buffer.is_all_delivered(SIZE));
        assert_eq!(buffer.window.len(), 0);
    }

    #[test]
    fn surplus_has_whole_pages_only() {
        let mut buffer = holding(0..3 * PAGE + 1);
        buffer.hold_rest();
        assert_eq!(buffer.surplus(SIZE).unwrap().0, 0..3 * PAGE);
        buffer.deliver(&(0..3 * PAGE), 0);
        assert_eq!(buffer.surplus(SIZE), None);
        let mut ends_amid = holding(PAGE + 1..PAGE + 3);
        ends_amid.hold_rest();
        assert_eq!(ends_amid.surplus(SIZE), None);
    }

    #[test]
    fn bytes_that_the_kernel_has_are_not_returned_again() {
        let mut buffer = holding(0..2 * PAGE);
        buffer.hold_rest();
        buffer.deliver(&(PAGE..9 * PAGE), PAGE);
        buffer.deliver(&(0..PAGE), 0);
        assert_eq!(buffer.surplus(SIZE), None);
    }

    #[test]
    fn the_rest_stays_after_any_read_and_other_bytes_are_dropped() {
        let far = 2 * PIECE..2 * PIECE + PAGE;
        let mut other = holding(0..SIZE);
        other.deliver(&far, far.start);
        assert!(other.window.start() > PIECE);
        let mut rest = holding(0..SIZE);
        rest.hold_rest();
        rest.deliver(&far, far.start);
        assert_eq!(rest.window.start(), 0);
    }

    #[test]
    fn missing_contains_undelivered_and_wanted_bytes() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.missing(&(5..6), SIZE), 0..SIZE);
        buffer.deliver(&(0..10 * PAGE), 0);
        buffer.deliver(&(20 * PAGE..SIZE), 0);
        assert_eq!(buffer.missing(&(10 * PAGE..11 * PAGE), SIZE), 10 * PAGE..20 * PAGE);
        assert_eq!(buffer.missing(&(5 * PAGE + 1..30 * PAGE), SIZE), 5 * PAGE..30 * PAGE);
    }
}
