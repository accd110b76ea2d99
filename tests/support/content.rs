//! Bytes that identify their place: each page of an object starts with the object's seed and the
//! page's number, so a byte from another object, version or offset cannot pass for the right one.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

const PAGE: usize = 4 * KIB;
const STAMP: usize = 16;

/// The whole content, `len` bytes, of the object with this seed.
pub fn content(seed: u64, len: usize) -> Bytes {
    part(seed, 0..len)
}

/// The bytes of that content in `range`.
pub fn part(seed: u64, range: Range<usize>) -> Bytes {
    let first = range.start / PAGE;
    let pages = range.end.div_ceil(PAGE).saturating_sub(first);
    let mut bytes = Vec::with_capacity(pages * PAGE);
    for page in first..first + pages {
        bytes.extend_from_slice(&seed.to_be_bytes());
        bytes.extend_from_slice(&(page as u64).to_be_bytes());
        bytes.extend_from_slice(&NOISE[STAMP..]);
    }
    Bytes::from(bytes).slice(range.start - first * PAGE..range.end - first * PAGE)
}

/// One page of pseudo-random bytes (xorshift64).
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(PAGE)
    .collect()
});

/// Where two byte strings differ, in words; `None` if they are equal.
pub fn difference(got: &[u8], want: &[u8]) -> Option<String> {
    if got == want {
        return None;
    }
    let at = got.iter().zip(want).take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| {
        let page = at / PAGE * PAGE;
        match bytes.get(page..page + STAMP) {
            Some(stamp) => {
                let (seed, number) = stamp.split_at(8);
                let word = |b: &[u8]| u64::from_be_bytes(b.try_into().expect("8 bytes"));
                format!(
                    "{} bytes, there page {} of seed {:#x}",
                    bytes.len(),
                    word(number),
                    word(seed)
                )
            }
            None => format!("{} bytes", bytes.len()),
        }
    };
    Some(format!("differ at byte {at}: got {}; want {}", around(got), around(want)))
}

/// Panics, with the difference, unless `got` is `want`.
#[track_caller]
pub fn assert_same_bytes(what: &str, got: &[u8], want: &[u8]) {
    if let Some(difference) = difference(got, want) {
        panic!("{what}: {difference}");
    }
}

/// Panics, with the difference, unless the file, read in order, is the content of `len` bytes with
/// this seed.
#[track_caller]
pub fn assert_content(path: &Path, seed: u64, len: usize) {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut buffer, mut at) = (vec![0; MIB], 0);
    loop {
        let n = file.read(&mut buffer).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if n == 0 {
            break;
        }
        let want = part(seed, at..at + n);
        assert_same_bytes(&format!("{} from {at} on", path.display()), &buffer[..n], &want);
        at += n;
    }
    assert_eq!(at, len, "the length of {}", path.display());
}

/// `count` numbers below `below`, in shuffled order, the same every time (Knuth's multiplier).
pub fn scattered(count: usize, below: usize) -> impl Iterator<Item = usize> {
    (1..=count as u64).map(move |i| {
        let spread = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        spread as usize % below
    })
}
