//! Scattered reads of one file: their cost in time and bytes, with a clock that only runs while the
//! store answers.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;

use super::memory::Mood;
use super::{Make, Open, Rig, pattern};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const MS: Duration = Duration::from_millis(1);

/// How a store answers: time to the first byte, and for each MiB.
#[derive(Clone, Copy, Debug)]
struct Speed {
    first_byte: Duration,
    per_mib: Duration,
}

impl Speed {
    fn of(first_byte_ms: u32, per_mib_ms: u32) -> Speed {
        Speed { first_byte: MS * first_byte_ms, per_mib: MS * per_mib_ms }
    }

    fn request(&self, bytes: usize) -> Duration {
        self.first_byte + self.per_mib.mul_f64(bytes as f64 / MIB as f64)
    }
}

/// All pages except the first, in shuffled order.
fn shuffled(pages: usize) -> impl Iterator<Item = usize> {
    let step = (pages / 3..).find(|step| gcd(*step, pages) == 1).unwrap();
    (1..pages).map(move |i| i * step % pages)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A file with `content` whose first page was read, on a store with this speed.
async fn opened(make: Make, content: &[u8], speed: Speed) -> (Rig, Open) {
    let rig = make.rig();
    rig.store.put("f", content, None);
    let file = rig.open("f").await.unwrap();
    assert_eq!(file.read(0, PAGE as u32).await.unwrap(), content[..PAGE]);
    rig.store.be(Mood::Slow(speed.first_byte, speed.per_mib));
    (rig, file)
}

/// Reads these pages, and returns how long that took.
async fn read(file: &Open, content: &[u8], pages: impl Iterator<Item = usize>) -> Duration {
    let began = Instant::now();
    for page in pages {
        let at = page * PAGE;
        let got = file.read(at as u64, PAGE as u32).await.unwrap();
        assert!(got == content[at..content.len().min(at + PAGE)], "page {page}");
    }
    began.elapsed()
}

/// Any number of scattered reads, at any speed of the store, takes at most twice the time of the
/// better of two ways: one request per read, or one for the whole file.
#[tokio::test(start_paused = true)]
async fn scattered_reads_take_at_most_twice_the_time_of_the_better_way() {
    const SIZE: usize = 24 * MIB;
    let content = pattern(1, SIZE);
    for speed in [Speed::of(10, 2), Speed::of(10, 10), Speed::of(30, 100), Speed::of(100, 1)] {
        for reads in [1, 2, 3, 5, 10, 20, 50, 100, 500, 3000] {
            let (_rig, file) = opened(Make::default(), &content, speed).await;
            let took = read(&file, &content, shuffled(SIZE / PAGE).take(reads)).await;
            let each = speed.request(64 << 10) * reads as u32;
            let better = each.min(speed.request(SIZE));
            // The speed of this store is not known yet: one more request measures it.
            let measuring = speed.request(MIB);
            assert!(took <= 2 * better + measuring, "{reads} reads, {speed:?}: {took:?}");
        }
    }
}

/// A whole file read page by page in any order: few requests, and at most 1.5 times its bytes.
#[tokio::test(start_paused = true)]
async fn a_file_with_many_scattered_reads_is_fetched_in_one_request() {
    const SIZE: usize = 15 * MIB + 12_345;
    let content = pattern(1, SIZE);
    let speed = Speed::of(10, 10);
    let (rig, file) = opened(Make::default(), &content, speed).await;
    rig.store.asked();
    rig.store.sent();
    let took = read(&file, &content, shuffled(SIZE.div_ceil(PAGE))).await;
    let (gets, sent) = (rig.store.asked().get, rig.store.sent());
    assert!(gets <= 30, "{gets} GETs");
    assert!(sent <= SIZE * 3 / 2, "{sent} bytes");
    assert!(took <= 2 * speed.request(SIZE) + speed.request(MIB), "{took:?}");
    // Content that the kernel has is dropped.
    assert_eq!((rig.accounts.memory.held(), rig.accounts.bodies.held()), (0, 0));
    assert_eq!(rig.store.asked().get, 0);
}

/// Bytes beyond the reads are stored in the kernel, each once and in whole pages; stored bytes are
/// dropped here, and the file then opens without a request.
#[tokio::test(start_paused = true)]
async fn bytes_fetched_beyond_the_reads_are_stored_in_the_kernel() {
    const SIZE: usize = 6 * MIB + 12_345;
    let content = pattern(1, SIZE);
    let (rig, file) = opened(Make::default(), &content, Speed::of(10, 1)).await;
    assert!(!rig.fs.has_surplus(file.fh));
    let mut pages = shuffled(SIZE / PAGE);
    while !rig.fs.has_surplus(file.fh) {
        read(&file, &content, pages.by_ref().take(1)).await;
    }
    assert!(!rig.fs.has_surplus(file.fh), "it is reported once");
    assert!(rig.accounts.memory.held() >= 5 << 10);
    let given = RefCell::new(Vec::new());
    let store = |offset: u64, bytes: bytes::Bytes| {
        let at = offset as usize;
        assert!(bytes == content[at..at + bytes.len()], "{} bytes at {at}", bytes.len());
        given.borrow_mut().push(at..at + bytes.len());
        async { true }
    };
    rig.fs.give_surplus(file.fh, store).await;
    let given = given.into_inner();
    let whole = |at: usize| at.is_multiple_of(PAGE) || at == SIZE;
    assert!(given.iter().all(|range| whole(range.start) && whole(range.end)), "{given:?}");
    assert!(given.windows(2).all(|pair| pair[0].end <= pair[1].start), "{given:?}");
    assert_eq!(rig.accounts.memory.held(), 0);
    drop(file);
    rig.store.asked();
    let _again = rig.open("f").await.unwrap();
    assert_eq!(rig.store.asked().get, 0, "the kernel has all of it");
}

/// A kernel that accepts no pages makes no difference: reads are answered from the buffer.
#[tokio::test(start_paused = true)]
async fn a_kernel_that_accepts_no_pages_is_served_anyway() {
    const SIZE: usize = 4 * MIB;
    let content = pattern(1, SIZE);
    let (rig, file) = opened(Make::default(), &content, Speed::of(10, 1)).await;
    let mut pages = shuffled(SIZE / PAGE);
    while !rig.fs.has_surplus(file.fh) {
        read(&file, &content, pages.by_ref().take(1)).await;
    }
    rig.fs.give_surplus(file.fh, |_, _| async { false }).await;
    rig.store.asked();
    read(&file, &content, pages).await;
    assert_eq!(rig.store.asked().get, 0);
}

/// A file that is larger than half of the memory for buffers is read range by range.
#[tokio::test(start_paused = true)]
async fn a_file_beyond_the_memory_is_read_in_ranges() {
    const SIZE: usize = 16 * MIB;
    const READS: usize = 200;
    let content = pattern(1, SIZE);
    let make = Make { memory: 30 << 20, ..Make::default() };
    let (rig, file) = opened(make, &content, Speed::of(100, 1)).await;
    rig.store.sent();
    read(&file, &content, shuffled(SIZE / PAGE).take(READS)).await;
    let per_byte = rig.store.sent() as f64 / (READS * PAGE) as f64;
    assert!(per_byte <= 40.0, "{per_byte} bytes fetched per byte read");
}

/// Bytes of a file beyond its reads are dropped when another handle needs the memory.
#[tokio::test(start_paused = true)]
async fn another_reader_gets_the_memory_of_buffered_bytes() {
    const SIZE: usize = 8 * MIB;
    let content = pattern(1, SIZE);
    let make = Make { memory: 16 << 20, ..Make::default() };
    let (rig, file) = opened(make, &content, Speed::of(10, 1)).await;
    let mut pages = shuffled(SIZE / PAGE);
    while !rig.fs.has_surplus(file.fh) {
        read(&file, &content, pages.by_ref().take(1)).await;
    }
    let other = pattern(2, 12 * MIB);
    rig.store.put("g", other.clone(), None);
    let g = rig.open("g").await.unwrap();
    let got = g.read(0, 12 << 20).await.unwrap();
    assert!(got == other);
    assert!(rig.accounts.memory.peak() <= 16 << 10);
    // A store to the kernel that was in flight then has no effect.
    rig.fs.give_surplus(file.fh, |_, _| async { true }).await;
    read(&file, &content, pages.take(20)).await;
}
