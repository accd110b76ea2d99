use std::ops::Range;

use bytes::Bytes;

use crate::pattern::Pattern;
use crate::window::{Coverage, Window};

/// The object's size: all offsets are taken modulo this.
const SIZE: u64 = 1 << 12;

fn byte(offset: u64) -> u8 {
    (offset ^ (offset >> 7)) as u8
}

fn bytes(range: Range<u64>) -> Bytes {
    range.map(byte).collect::<Vec<_>>().into()
}

/// Rules R1 and R3: a window returns the right bytes of an object, whatever arrives in any order,
/// and requests next only bytes in it. Five bytes are one step: its kind, and two numbers.
pub fn window(data: &[u8]) {
    let (mut window, mut coverage, mut pattern) =
        (Window::default(), Coverage::default(), Pattern::default());
    let mut held = 0..0u64;
    let mut delivered = vec![false; SIZE as usize];
    let mut exact = true;
    for step in data.chunks_exact(5).take(200) {
        let a = u64::from(u16::from_be_bytes([step[1], step[2]])) % SIZE;
        let b = u64::from(u16::from_be_bytes([step[3], step[4]])) % 600;
        let range = a..(a + b).min(SIZE);
        match step[0] % 6 {
            // The next bytes from the network.
            0 => {
                let end = (held.end + b).min(SIZE);
                window.push(held.end, bytes(held.end..end));
                held.end = end;
            }
            // Bytes from elsewhere.
            1 => {
                window.push(a, bytes(range.clone()));
                held = if a == held.end { held.start..range.end } else { range.clone() };
            }
            2 => {
                window.restart(a);
                held = a..a;
            }
            3 => {
                window.release_before(a);
                // Whole chunks are dropped, except those with a byte from there on.
                let start = window.start();
                assert!(start >= held.start && start <= a.max(held.start).min(held.end));
                held.start = start;
            }
            4 => {
                coverage.add(&range);
                delivered[a as usize..range.end as usize].fill(true);
                // Beyond 64 pieces some are forgotten: then the coverage may be too small, but
                // never too large.
                let pieces = delivered.chunk_by(|a, b| a == b).filter(|piece| piece[0]).count();
                exact &= pieces < 64 && !range.is_empty();
                let missing = |from: u64| {
                    let missing = delivered[from as usize..].iter().position(|d| !d);
                    from + missing.map_or(SIZE - from, |n| n as u64)
                };
                for from in [0, a, range.end.min(SIZE - 1)] {
                    let first = coverage.first_missing(from);
                    assert!(first <= missing(from), "{first} from {from}");
                    assert!(!exact || first == missing(from), "{first} from {from}: {coverage:?}");
                }
                let all = delivered.iter().all(|d| *d);
                let range = coverage.missing_of(SIZE);
                let lost = (0..SIZE).any(|i| !delivered[i as usize] && !range.contains(&i));
                assert!(!lost, "{range:?} of {coverage:?}");
                assert!(all || !coverage.is_all_of(SIZE), "{coverage:?}");
                assert!(!(exact && all) || coverage.is_all_of(SIZE), "{coverage:?}");
            }
            // A read that is not served needs a request, from the end of the window or its own
            // start.
            _ if !range.is_empty() => {
                let start = if range.contains(&held.end) { held.end } else { a };
                // In KiB, so that it is long enough for patterns to show.
                let (start, want) = (start << 10, range.start << 10..range.end << 10);
                let asked = pattern.ask(start, &want, SIZE << 10, 0);
                assert_eq!(asked.start, start);
                let enough = want.end <= asked.end && asked.end <= SIZE << 10;
                assert!(enough, "{asked:?} for {want:?}");
                pattern.read(&want);
            }
            _ => {}
        }
        assert_eq!((window.start(), window.end()), (held.start, held.end));
        assert_eq!(window.len(), held.end - held.start);
        let within = held.start <= range.start && range.end <= held.end;
        for want in [range.clone(), held.clone()] {
            match window.get(&want) {
                Some(got) => assert!(got == bytes(want.clone()), "{want:?} of {window:?}"),
                None => assert!(want == range && !within, "{want:?} of {window:?}"),
            }
        }
    }
}
