//! Bodies, permits and the order of reads: rules B1 to B5, R3 and R4.

use std::time::Duration;

use expirefs::body::State;
use expirefs::error::Error;
use proptest::prelude::*;

use super::memory::{Break, Mood, Requests};
use super::{Make, Open, Rig, SECOND, pattern};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn sequential_reading_is_one_get() {
    let rig = Rig::default();
    let content = pattern(1, 5 * MIB + 17);
    rig.store.put("f", content.clone(), None);
    let file = rig.open("f").await.unwrap();
    assert_eq!(rig.accounts.bodies.held(), 1);
    assert_eq!(file.read_all().await.unwrap(), content);
    assert_eq!(rig.store.asked(), Requests { probe: 1, get: 1, ..Requests::default() });
    // B5: a body read to its end is closed, although the handle stays open.
    assert_eq!((rig.accounts.bodies.held(), rig.store.open()), (0, 0));
    assert_eq!(rig.fs.open_handles()[0].1.reading().unwrap().reader.state(), State::Drained);
    assert_eq!(file.read(0, 100).await.unwrap(), content[..100]);
}

#[tokio::test]
async fn a_version_that_was_read_opens_without_a_request() {
    let rig = Rig::default();
    let content = pattern(1, 300 << 10);
    rig.store.put("f", content.clone(), None);
    let file = rig.open("f").await.unwrap();
    file.read_all().await.unwrap();
    drop(file);
    rig.store.asked();
    let file = rig.open("f").await.unwrap();
    assert_eq!(rig.fs.open_handles()[0].1.reading().unwrap().reader.state(), State::Unopened);
    assert_eq!(rig.store.asked(), Requests::default());
    // The kernel may have dropped a page: then a body is opened.
    assert_eq!(file.read(4096, 4096).await.unwrap(), content[4096..8192]);
    assert_eq!(rig.store.asked().get, 1);
}

#[tokio::test]
async fn an_open_small_object_holds_no_permit() {
    let rig = Make { cap: 1, ..Make::without_probes() }.rig();
    let names = ["a", "b", "c"];
    let mut open = Vec::new();
    for name in names {
        rig.store.put(name, name, None);
        open.push(rig.open(name).await.unwrap());
        assert_eq!((rig.accounts.bodies.held(), rig.store.open()), (0, 0));
    }
    for (file, name) in open.into_iter().zip(names) {
        assert_eq!(file.read_all().await.unwrap(), name.as_bytes());
    }
    assert_eq!(rig.store.asked().get, 3);
}

#[tokio::test]
async fn an_empty_object_is_read_without_a_request() {
    let rig = Rig::default();
    rig.store.put("f", "", None);
    let file = rig.open("f").await.unwrap();
    assert_eq!(file.read_all().await.unwrap(), b"");
    assert_eq!(rig.store.asked().get, 0);
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_idle_bodies_are_parked_and_resumed() {
    let rig = Make { cap: 2, ..Make::default() }.rig();
    let contents: Vec<_> = (0..5).map(|i| pattern(i, MIB)).collect();
    let mut handles = Vec::new();
    for (i, content) in contents.iter().enumerate() {
        rig.store.put(&format!("f{i}"), content.clone(), None);
        let file = rig.open(&format!("f{i}")).await.unwrap();
        assert_eq!(file.read(0, 4096).await.unwrap(), content[..4096]);
        handles.push(file);
    }
    let parked = rig
        .fs
        .open_handles()
        .iter()
        .filter(|h| h.1.reading().unwrap().reader.state() == State::Parked)
        .count();
    assert_eq!(parked, 3);
    for offset in (4096..MIB).step_by(128 << 10) {
        for (file, content) in handles.iter().zip(&contents) {
            let end = (offset + (128 << 10)).min(MIB);
            let got = file.read(offset as u64, 128 << 10).await.unwrap();
            assert!(got == content[offset..end], "{} at {offset}", file.fh);
        }
    }
    assert_eq!((rig.accounts.bodies.peak(), rig.store.most_open()), (2, 2));
}

/// The kernel answers reads from its cache: a body that was opened for them is idle.
#[tokio::test(start_paused = true)]
async fn a_body_whose_reads_the_kernel_may_answer_is_parked() {
    let rig = Make { cap: 1, ..Make::default() }.rig();
    rig.store.put("a", pattern(1, MIB), None);
    rig.store.put("b", pattern(2, MIB), None);
    let first = rig.open("a").await.unwrap();
    first.read(0, 4096).await.unwrap();
    drop(first);
    let again = rig.open("a").await.unwrap();
    assert_eq!(rig.accounts.bodies.held(), 1);
    let b = rig.open("b").await.unwrap();
    b.read(0, 1).await.unwrap();
    assert_eq!(again.read(500_000, 10).await.unwrap(), pattern(1, MIB)[500_000..500_010]);
}

#[tokio::test(start_paused = true)]
async fn without_parking_an_open_waits_and_fails_and_lookups_never_wait() {
    let mut make = Make { cap: 1, parking: false, ..Make::default() };
    make.settings.patience.open_wait = SECOND;
    let rig = make.rig();
    rig.store.put("a", pattern(1, MIB), None);
    rig.store.put("b", pattern(2, MIB), None);
    let a = rig.open("a").await.unwrap();
    a.read(0, 1).await.unwrap();
    let b = rig.ino("b").await;
    let start = tokio::time::Instant::now();
    let waits = rig.fs.open(b, 1);
    let names = async {
        assert!(rig.look("b").await.unwrap().is_some());
        assert_eq!(rig.list("", 10).await.unwrap(), ["a", "b"]);
        assert_eq!(start.elapsed(), Duration::ZERO);
    };
    let (refused, ()) = tokio::join!(waits, names);
    assert_eq!(refused.unwrap_err().errno(), libc::ENFILE);
    assert_eq!(start.elapsed(), SECOND);
    drop(a);
    rig.open_ino(b).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_open_cancelled_while_it_waits_for_a_permit_holds_nothing() {
    let rig = Make { cap: 1, parking: false, ..Make::default() }.rig();
    rig.store.put("a", pattern(1, MIB), None);
    rig.store.put("b", pattern(2, MIB), None);
    let a = rig.open("a").await.unwrap();
    let b = rig.ino("b").await;
    let fs = rig.fs.clone();
    let waits = tokio::spawn(async move { fs.open(b, 1).await });
    while rig.accounts.bodies.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    drop(a);
    rig.must_be_at_rest();
    rig.open_ino(b).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stall_ends_within_the_timeout_and_releases_everything() {
    let rig = Rig::default();
    rig.store.put("f", pattern(1, MIB), None);
    rig.store.put("small", "text", None);
    let f = rig.ino("f").await;
    rig.store.be(Mood::Stalls);
    let start = tokio::time::Instant::now();
    let file = rig.open_ino(f).await.unwrap();
    let timed_out = Error::TimedOut(30 * SECOND);
    let far = 100 << 10;
    assert_eq!(file.read(far, 4096).await, Err(timed_out.clone()));
    assert_eq!(rig.accounts.bodies.held(), 0, "a stalled body is closed");
    // An open that cannot fetch the whole object leaves it to the read.
    let small = rig.open("small").await.unwrap();
    assert_eq!(start.elapsed(), 45 * SECOND);
    assert_eq!(rig.accounts.bodies.held(), 0);
    assert_eq!(small.read(0, 4096).await, Err(timed_out));
    assert_eq!(start.elapsed(), 75 * SECOND);
    rig.store.be(Mood::Well);
    assert_eq!(small.read(0, 4096).await.unwrap(), b"text"[..]);
    drop(small);
    let got = file.read(far, 4096).await.unwrap();
    assert_eq!(got, pattern(1, MIB)[100 << 10..][..4096], "it works again");
}

/// Rule R3: the reader does not notice a body that breaks.
#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_resumed() {
    for how in [Break::Reset, Break::Short] {
        for after in [1000, 100 << 10, 300 << 10] {
            let rig = Make { cap: 1, ..Make::without_probes() }.rig();
            let content = pattern(1, MIB);
            rig.store.put("f", content.clone(), None);
            rig.store.be(Mood::Breaks(after, how));
            let file = rig.open("f").await.unwrap();
            let mut got = Vec::new();
            let want = if after == 1000 { 4000 } else { MIB };
            while got.len() < want {
                let size = 4000.max(after as u32);
                got.extend(file.read(got.len() as u64, size).await.unwrap());
            }
            assert!(got[..want] == content[..want], "{how:?} after {after}");
            let resumed = rig.accounts.resumed.get() as usize;
            assert!(resumed >= want / after - 1, "{resumed} resumed, {how:?} after {after}");
            assert_eq!((rig.store.most_open(), rig.accounts.bodies.peak()), (1, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_longer_than_announced_is_never_served() {
    let rig = Make::without_probes().rig();
    rig.store.put("f", pattern(1, MIB), None);
    rig.store.be(Mood::Breaks(0, Break::Long));
    let file = rig.open("f").await.unwrap();
    let refused = file.read(0, 4096).await;
    assert!(matches!(refused, Err(Error::Protocol(_))), "{refused:?}");
}

/// A body that stalls once is abandoned in time for another one to serve the same read.
#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_resumed() {
    let rig = Make::without_probes().rig();
    let content = pattern(1, MIB);
    rig.store.put("f", content.clone(), None);
    rig.store.be(Mood::Stalls);
    let file = rig.open("f").await.unwrap();
    rig.store.be(Mood::Well);
    let start = tokio::time::Instant::now();
    assert_eq!(file.read(0, 4096).await.unwrap(), content[..4096]);
    assert!(start.elapsed() < 16 * SECOND, "{:?}", start.elapsed());
    assert_eq!(rig.accounts.resumed.get(), 1);
}

/// Rule R1: a body is resumed with the version that was opened, or the read fails with ESTALE.
#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_not_resumed_by_another_version() {
    for replaced in [true, false] {
        let rig = Make::without_probes().rig();
        rig.store.put("f", pattern(1, MIB), None);
        rig.store.be(Mood::Breaks(300_000, Break::Reset));
        let file = rig.open("f").await.unwrap();
        assert_eq!(file.read(0, 4096).await.unwrap(), pattern(1, MIB)[..4096]);
        match replaced {
            true => rig.store.put("f", pattern(2, MIB), None),
            false => rig.store.delete("f"),
        }
        assert_eq!(file.read(4096, 400_000).await, Err(Error::Stale), "{replaced}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_too_often_is_an_error_until_the_store_recovers() {
    let rig = Make::without_probes().rig();
    let content = pattern(1, MIB);
    rig.store.put("f", content.clone(), None);
    rig.store.be(Mood::Breaks(0, Break::Reset));
    let file = rig.open("f").await.unwrap();
    for _ in 0..20 {
        let start = tokio::time::Instant::now();
        let refused = file.read(0, 4096).await;
        assert!(matches!(refused, Err(Error::Unreachable(_))), "{refused:?}");
        assert!(start.elapsed() < 30 * SECOND);
        assert_eq!((rig.accounts.bodies.held(), rig.store.open()), (0, 0));
    }
    // The retries of the handle are used up: each of these reads sends one request.
    let asked = rig.store.asked().get;
    assert!(asked <= 20 + 16 + 1, "{asked} GETs");
    rig.store.be(Mood::Well);
    assert_eq!(file.read_all().await.unwrap(), content);
}

#[tokio::test]
async fn a_panic_releases_the_permit() {
    let rig = Rig::default();
    rig.store.put("f", pattern(1, MIB), None);
    let f = rig.ino("f").await;
    rig.store.be(Mood::Panics);
    let fs = rig.fs.clone();
    let panicked = tokio::spawn(async move { fs.open(f, 1).await }).await;
    assert!(panicked.unwrap_err().is_panic());
}

#[tokio::test(start_paused = true)]
async fn shutting_down_refuses_opens_and_waits_for_handles() {
    let rig = Rig::default();
    rig.store.put("f", pattern(1, MIB), None);
    let ino = rig.ino("f").await;
    let file = rig.open_ino(ino).await.unwrap();
    let start = tokio::time::Instant::now();
    let fs = rig.fs.clone();
    let down = tokio::spawn(async move { fs.shut_down(5 * SECOND).await });
    tokio::time::sleep(SECOND).await;
    assert_eq!(rig.fs.open(ino, 1).await, Err(Error::ShuttingDown));
    assert!(!down.is_finished());
    drop(file);
    down.await.unwrap();
    assert_eq!(start.elapsed(), SECOND);
}

/// Reads follow an accepted open: shutting down waits for it, and then for them.
#[tokio::test(start_paused = true)]
async fn shutting_down_waits_for_opens_in_flight() {
    let rig = Rig::default();
    let content = pattern(1, MIB);
    rig.store.put("f", content.clone(), None);
    let ino = rig.ino("f").await;
    rig.store.be(Mood::Slow(3 * SECOND, Duration::ZERO));
    let opening = rig.open_ino(ino);
    let down = async {
        tokio::time::sleep(SECOND).await;
        rig.fs.shut_down(20 * SECOND).await;
        tokio::time::Instant::now()
    };
    let read = async {
        let file = opening.await.unwrap();
        // The program takes a moment between its open and its first read.
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(file.read(0, 4096).await.unwrap(), content[..4096]);
        drop(file);
        tokio::time::Instant::now()
    };
    let (down, read) = futures_util::future::join(down, read).await;
    assert!(down >= read, "{:?} before the read was answered", read - down);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// The bytes are right for any reads in any order, sequential or concurrent.
    #[test]
    fn any_order_of_reads_gives_the_right_bytes(
        size in 1usize..3 * MIB,
        chunk in prop::sample::select(vec![0usize, 1000, 64 << 10, 300_000]),
        cap in 1usize..4,
        memory in prop::sample::select(vec![1u64 << 20, 4 << 20, 128 << 20]),
        probe in prop::sample::select(vec![0u64, 1000, 64 << 10]),
        reads in prop::collection::vec((0usize..2, 0f64..1.05, 1u32..400_000, any::<bool>()), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut make = Make { cap, chunk, memory, ..Make::default() };
            make.settings.probe.size = probe;
            let rig = make.rig();
            let contents = [pattern(1, size), pattern(2, size)];
            let mut handles = Vec::new();
            for (i, content) in contents.iter().enumerate() {
                rig.store.put(&format!("f{i}"), content.clone(), None);
                let file = rig.open(&format!("f{i}")).await.unwrap();
                file.read(0, 1).await.unwrap();
                handles.push(file);
            }
            let mut together = Vec::new();
            let mut position = [0usize; 2];
            for (which, at, len, on) in reads {
                let offset = if on { position[which] } else { (at * size as f64) as usize };
                position[which] = (offset + len as usize).min(size);
                let file = &handles[which];
                let want = contents[which][offset.min(size)..position[which].max(offset.min(size))].to_vec();
                together.push(async move {
                    let got = file.read(offset as u64, len).await.unwrap();
                    assert!(got == want, "f{which}: {len} bytes at {offset} of {size}");
                });
                if together.len() == 3 {
                    futures_util::future::join_all(together.drain(..)).await;
                }
            }
            futures_util::future::join_all(together).await;
            assert!(rig.store.most_open() <= cap, "{} open", rig.store.most_open());
            assert!(rig.accounts.memory.peak() as u64 <= memory >> 10);
        });
    }
}

/// Bytes of a second request could be from another version with the same Last-Modified and size.
#[tokio::test(start_paused = true)]
async fn without_an_etag_a_file_is_read_by_one_request_or_fails() {
    let rig = Make { cap: 1, chunk: 64 << 10, ..Make::default() }.rig();
    let bytes = pattern(1, 1 << 20);
    for key in ["whole", "broken", "scattered"] {
        rig.store.put(key, bytes.clone(), None);
        rig.store.drop_etag(key);
    }
    let file = rig.open("whole").await.unwrap();
    assert_eq!(file.read_all().await.unwrap(), bytes);
    drop(file);

    rig.store.be(Mood::Breaks(300 << 10, Break::Reset));
    let file = rig.open("broken").await.unwrap();
    rig.store.asked();
    assert_eq!(file.read_all().await, Err(Error::NotResumable));
    assert_eq!(rig.store.asked().get, 0);
    drop(file);
    rig.store.be(Mood::Well);

    let file = rig.open("scattered").await.unwrap();
    assert_eq!(file.read(0, 4096).await.unwrap(), bytes[..4096]);
    // It is not parked, since it could not be resumed.
    assert!(matches!(rig.open("broken").await, Err(Error::TooManyBodies { .. })));
    assert_eq!(file.read(900 << 10, 4096).await, Err(Error::NotResumable));
}

/// Rule B4: bodies without a read for a tenth of a second are parked, the longest open first.
#[tokio::test(start_paused = true)]
async fn unread_opens_share_few_bodies() {
    const OPENS: usize = 500;
    let rig = Make { cap: 8, ..Make::without_probes() }.rig();
    let bytes = pattern(1, 300 << 10);
    let start = tokio::time::Instant::now();
    let mut handles = Vec::new();
    for i in 0..OPENS {
        rig.store.put(&format!("f{i}"), bytes.clone(), None);
        handles.push(rig.open(&format!("f{i}")).await.unwrap());
    }
    assert!(start.elapsed() <= 7 * SECOND, "{:?}", start.elapsed());
    assert_eq!((rig.store.most_open(), rig.store.asked().get), (8, OPENS));
    for file in handles {
        assert_eq!(file.read_all().await.unwrap(), bytes);
    }
}

/// A handle that reads right after its open keeps its body.
#[tokio::test(start_paused = true)]
async fn a_body_that_was_just_opened_is_kept_for_its_first_read() {
    let rig = Make { cap: 1, ..Make::without_probes() }.rig();
    for key in ["a", "b"] {
        rig.store.put(key, pattern(1, 300 << 10), None);
    }
    let first = rig.open("a").await.unwrap();
    let second = tokio::spawn({
        let (fs, ino) = (rig.fs.clone(), rig.ino("b").await);
        async move { Open::new(fs, ino).await }
    });
    while rig.accounts.bodies.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(first.read_all().await.unwrap().len(), 300 << 10);
    let _second = second.await.unwrap().unwrap();
    assert_eq!(rig.store.asked().get, 2, "one request for each");
}
