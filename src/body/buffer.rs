//! The bytes that a handle holds on their way to the kernel, and the right to their memory.

use std::marker::PhantomData;
use std::ops::Range;

use bytes::Bytes;

use super::Permit;
use super::window::{Coverage, Window};

/// The longest piece that the kernel is given unasked.
const PIECE: u64 = 1 << 20;

/// The kernel takes over whole pages only, and what ends with the file.
const PAGE: u64 = 4096;

/// A window, the right to its memory, and what the kernel has got of the object so far.
#[derive(Default)]
pub struct Buffer {
    pub window: Window,
    pub memory: Option<Permit>,
    delivered: Coverage,
    /// The window holds what was missing of the object: reads in any order will want it, so that
    /// it stays until the kernel has it.
    rest: bool,
}

/// Says that a buffer is empty, and keeps it so. Whoever waits for a permit has to show one: two who
/// each hold what the other waits for would wait for ever.
pub struct Emptied<'a>(PhantomData<&'a mut Buffer>);

impl Buffer {
    /// Empties it, at `offset`, and gives its memory back.
    pub fn empty(&mut self, offset: u64) -> Emptied<'_> {
        self.restart(offset);
        self.memory = None;
        Emptied(PhantomData)
    }

    /// Empties it, at `offset`, and keeps its memory for what comes there.
    pub fn restart(&mut self, offset: u64) {
        self.window.restart(offset);
        self.rest = false;
    }

    /// What it holds is the rest of the object.
    pub fn hold_rest(&mut self) {
        self.rest = true;
    }

    /// Gives back the memory beyond what the window holds now.
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

    /// Notes that the kernel has got `range`, and lets go of what no read is likely to want: the
    /// kernel may ask for bytes from `behind` on in the wrong order, and not again for what it has
    /// got.
    pub fn deliver(&mut self, range: &Range<u64>, behind: u64) {
        self.delivered.add(range);
        let undelivered = self.delivered.first_missing(self.window.start());
        let wanted = if self.rest { undelivered } else { undelivered.max(behind) };
        self.window.release_before(wanted);
        self.settle();
    }

    /// Whether the kernel has got all of an object of `size` bytes.
    pub fn is_all_delivered(&self, size: u64) -> bool {
        self.delivered.is_all_of(size)
    }

    /// The shortest range, in whole pages, that holds all the kernel has not got of an object of
    /// `size` bytes, and `want`.
    pub fn missing(&self, want: &Range<u64>, size: u64) -> Range<u64> {
        let missing = self.delivered.missing_of(size);
        let start = missing.start.min(want.start);
        start - start % PAGE..missing.end.max(want.end)
    }

    /// The next bytes of the rest of the object that the kernel has not got, if they are here.
    pub fn surplus(&self, size: u64) -> Option<(Range<u64>, Bytes)> {
        if !self.rest {
            return None;
        }
        let start = self.delivered.first_missing(self.window.start());
        let end = self.window.end().min(start + PIECE);
        let piece = start..if end == size { end } else { end - end % PAGE };
        // Less than a page may be left, or the kernel has got more than is here.
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
    fn the_rest_is_given_in_pieces_and_once() {
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
    fn what_ends_within_a_page_of_the_object_is_not_given() {
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
    fn what_the_kernel_got_beyond_what_is_held_is_not_given_again() {
        let mut buffer = holding(0..2 * PAGE);
        buffer.hold_rest();
        buffer.deliver(&(PAGE..9 * PAGE), PAGE);
        buffer.deliver(&(0..PAGE), 0);
        assert_eq!(buffer.surplus(SIZE), None);
    }

    #[test]
    fn the_rest_stays_whatever_is_read_and_other_bytes_go() {
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
    fn missing_is_what_was_not_delivered_and_what_is_wanted() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.missing(&(5..6), SIZE), 0..SIZE);
        buffer.deliver(&(0..10 * PAGE), 0);
        buffer.deliver(&(20 * PAGE..SIZE), 0);
        assert_eq!(buffer.missing(&(10 * PAGE..11 * PAGE), SIZE), 10 * PAGE..20 * PAGE);
        assert_eq!(buffer.missing(&(5 * PAGE + 1..30 * PAGE), SIZE), 5 * PAGE..30 * PAGE);
    }
}
