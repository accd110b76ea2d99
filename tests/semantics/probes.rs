//! Lookups that fetch content: one request for a small file, and no content of files that are not
//! opened.

use std::time::Duration;

use expirefs::body::State;
use expirefs::error::Error;

use super::memory::{Mood, Requests};
use super::{Make, Rig, SECOND, expires, pattern};

const KIB: usize = 1 << 10;

fn one_probe() -> Requests {
    Requests { probe: 1, ..Requests::default() }
}

#[tokio::test]
async fn a_small_file_takes_one_request_and_no_permit() {
    let rig = Rig::default();
    let content = pattern(1, 64 * KIB);
    rig.store.put("f", content.clone(), None);
    let file = rig.open("f").await.unwrap();
    assert_eq!(rig.fs.open_handles()[0].1.reading().unwrap().reader.state(), State::Unopened);
    assert_eq!(file.read_all().await.unwrap(), content);
    assert_eq!(rig.store.asked(), one_probe());
    assert_eq!(rig.accounts.bodies.peak(), 0);
    assert_eq!(rig.fs.probed_bytes(), 0, "the kernel has them");
}

#[tokio::test]
async fn a_larger_file_continues_where_the_lookup_ended() {
    for size in [64 * KIB + 1, 100 * KIB, 3 << 20] {
        let rig = Rig::default();
        let content = pattern(1, size);
        rig.store.put("f", content.clone(), None);
        let file = rig.open("f").await.unwrap();
        assert_eq!(file.read_all().await.unwrap(), content);
        assert_eq!(rig.store.asked(), Requests { get: 1, ..one_probe() });
    }
}

#[tokio::test]
async fn an_open_returns_the_content_of_its_lookup() {
    let rig = Rig::default();
    rig.store.put("f", "old", None);
    rig.store.put("g", "text", None);
    let (f, g) = (rig.ino("f").await, rig.ino("g").await);
    rig.store.put("f", "new", None);
    rig.store.delete("g");
    for (ino, content) in [(f, "old"), (g, "text")] {
        let file = rig.open_ino(ino).await.unwrap();
        assert_eq!(file.read_all().await.unwrap(), content.as_bytes());
    }
    // Only during the TTL of the lookup.
    rig.clock.advance(SECOND);
    let file = rig.open("f").await.unwrap();
    assert_eq!(file.read_all().await.unwrap(), b"new");
    drop(file);
    assert_eq!(rig.look("g").await, Ok(None));
}

#[tokio::test]
async fn an_expired_file_is_absent_even_with_cached_content() {
    let rig = Rig::default();
    rig.store.put("f", "text", expires(10));
    let ino = rig.ino("f").await;
    rig.clock.advance(10 * SECOND);
    assert_eq!(rig.fs.open(ino, 1).await, Err(Error::Expired));
    assert_eq!(rig.look("f").await, Ok(None));
    // It is known to have expired, so its content is not requested again.
    rig.store.asked();
    assert_eq!(rig.look("f").await, Ok(None));
    assert_eq!(rig.store.asked(), Requests { head: 1, list: 1, ..Requests::default() });
}

#[tokio::test]
async fn a_walk_without_opens_fetches_content_of_the_first_few_only() {
    let rig = Rig::default();
    let names: Vec<_> = (0..5000).map(|i| format!("f{i:04}")).collect();
    names.iter().for_each(|name| rig.store.put(name, "text", None));
    for name in &names {
        rig.ino(name).await;
    }
    let asked = rig.store.asked();
    assert!(asked.probe <= 32 && asked.probe + asked.head == 5000, "{asked:?}");
    // With new opens, lookups fetch content again.
    rig.clock.advance(60 * SECOND);
    for name in &names[..1000] {
        rig.open(name).await.unwrap();
    }
    let asked = rig.store.asked();
    assert!(asked.head <= 32 && asked.get <= 32 && asked.probe + asked.head == 1000, "{asked:?}");
}

#[tokio::test]
async fn cached_files_are_looked_up_without_their_content() {
    let rig = Rig::default();
    rig.store.put("opened", "text", None);
    rig.store.put("waiting", "text", None);
    let file = rig.open("opened").await.unwrap();
    file.read_all().await.unwrap();
    drop(file);
    rig.ino("waiting").await;
    rig.store.asked();
    for name in ["opened", "waiting"] {
        rig.clock.advance(10 * SECOND);
        let _file = rig.open(name).await.unwrap();
        assert_eq!(rig.store.asked(), Requests { head: 1, ..Requests::default() }, "{name}");
    }
}

#[tokio::test]
async fn the_cache_is_limited_and_an_evicted_file_is_requested_again() {
    let mut make = Make::default();
    make.settings.probe.cache = 100 * KIB;
    let rig = make.rig();
    let contents: Vec<_> = (0..5).map(|i| pattern(i, 40 * KIB)).collect();
    let mut inos = Vec::new();
    for (i, content) in contents.iter().enumerate() {
        rig.store.put(&format!("f{i}"), content.clone(), None);
        inos.push(rig.ino(&format!("f{i}")).await);
    }
    assert_eq!(rig.fs.probed_bytes(), 80 * KIB);
    for (ino, content) in inos.into_iter().zip(&contents) {
        let file = rig.open_ino(ino).await.unwrap();
        assert_eq!(file.read_all().await.unwrap(), *content);
    }
    assert_eq!(rig.store.asked(), Requests { probe: 5, get: 3, ..Requests::default() });
}

#[tokio::test(start_paused = true)]
async fn a_lookup_succeeds_if_its_content_stalls() {
    let rig = Rig::default();
    rig.store.put("f", "text", None);
    rig.store.be(Mood::Stalls);
    let ino = rig.ino("f").await;
    rig.store.be(Mood::Well);
    let file = rig.open_ino(ino).await.unwrap();
    assert_eq!(file.read_all().await.unwrap(), b"text");
    assert_eq!(rig.store.asked(), Requests { get: 1, ..one_probe() });
}

/// Many opened and unread files hold no more memory than the limit, and all can still be read.
#[tokio::test(start_paused = true)]
async fn opened_and_unread_files_stay_within_the_memory_limit() {
    let rig = Make { memory: 1 << 20, ..Make::default() }.rig();
    let contents: Vec<_> = (0..100u8).map(|i| pattern(i, 50 * KIB)).collect();
    let mut open = Vec::new();
    for (i, content) in contents.iter().enumerate() {
        rig.store.put(&format!("f{i}"), content.clone(), None);
        open.push(rig.open(&format!("f{i}")).await.unwrap());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert!(rig.accounts.memory.peak() <= KIB);
    for (file, content) in open.into_iter().zip(&contents) {
        assert_eq!(file.read_all().await.unwrap(), *content);
    }
}

/// Readers that need more memory than the limit take turns, and each gets the right bytes.
#[tokio::test(start_paused = true)]
async fn readers_take_turns_if_memory_is_short() {
    let rig = Make { memory: 2 << 20, cap: 16, ..Make::default() }.rig();
    let contents: Vec<_> = (0..16u8).map(|i| pattern(i, 3 << 20)).collect();
    let mut open = Vec::new();
    for (i, content) in contents.iter().enumerate() {
        rig.store.put(&format!("f{i}"), content.clone(), None);
        open.push((rig.open(&format!("f{i}")).await.unwrap(), content));
    }
    let readers = open.iter().map(|(file, content)| async move {
        assert!(file.read_all().await.unwrap() == **content, "handle {}", file.fh);
    });
    futures_util::future::join_all(readers).await;
    assert!(rig.accounts.memory.peak() <= 2 << 10);
}

/// Content cached for files that are open and unread is evicted when a read needs memory.
#[tokio::test(start_paused = true)]
async fn unread_files_release_their_memory_and_keep_their_bodies() {
    let rig = Make { memory: 1 << 20, cap: 64, ..Make::default() }.rig();
    let contents: Vec<_> = (0..20u8).map(|i| pattern(i, 1 << 20)).collect();
    let mut open = Vec::new();
    for (i, content) in contents.iter().enumerate() {
        rig.store.put(&format!("f{i}"), content.clone(), None);
        open.push(rig.open(&format!("f{i}")).await.unwrap());
    }
    assert_eq!(rig.accounts.bodies.held(), 20);
    let start = tokio::time::Instant::now();
    assert_eq!(open[19].read_all().await.unwrap(), contents[19]);
    assert_eq!(rig.accounts.bodies.held(), 19);
    for (file, content) in open.into_iter().zip(&contents) {
        assert_eq!(file.read_all().await.unwrap(), *content);
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "no read waited");
}

#[tokio::test]
async fn a_version_known_to_be_replaced_is_requested() {
    let rig = Rig::default();
    rig.store.put("f", "old", None);
    let old = rig.ino("f").await;
    rig.store.put("f", "new", None);
    rig.clock.advance(SECOND);
    rig.ino("f").await;
    assert_eq!(rig.fs.open(old, 1).await, Err(Error::Stale));
    // Without a lookup, long after the last one: through an O_PATH descriptor.
    let new = rig.ino("f").await;
    rig.store.put("f", "newer", None);
    rig.clock.advance(60 * SECOND);
    assert_eq!(rig.fs.open(new, 1).await, Err(Error::Stale));
}

#[tokio::test]
async fn empty_files_are_not_probed_for_ever() {
    let rig = Rig::default();
    for i in 0..100 {
        rig.store.put(&format!("f{i}"), "", None);
        rig.open(&format!("f{i}")).await.unwrap();
    }
    let asked = rig.store.asked();
    assert!(asked.probe <= 32 && asked.get == 0, "{asked:?}");
}
