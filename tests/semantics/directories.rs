//! Listings: rule N4, and the requests they cost.

use std::collections::BTreeSet;

use expirefs::error::Error;
use expirefs::fs::Lookup;
use expirefs::fs::inode::ROOT;

use super::memory::{Mood, Requests};
use super::{Make, Rig, SECOND, expires};

fn pages(page: u16) -> Rig {
    let mut make = Make::default();
    make.settings.listing.page = page;
    make.rig()
}

#[tokio::test]
async fn listings_are_the_same_for_any_page_size_and_step() {
    for page in [1, 2, 7, 1000] {
        let rig = pages(page);
        let mut want = Vec::new();
        for i in 0..40 {
            let live = i % 3 != 0;
            rig.store.put(&format!("f{i:02}"), "x", expires(if live { 1000 } else { -1 }));
            want.extend(live.then(|| format!("f{i:02}")));
        }
        for step in [1, 3, 100] {
            assert_eq!(rig.list("", step).await.unwrap(), want, "page {page} step {step}");
        }
    }
}

#[tokio::test]
async fn a_name_replaced_after_its_page_was_fetched_is_listed_when_the_old_object_expires() {
    let rig = pages(7);
    rig.store.put("a", "x", None);
    rig.store.put("foo", "old", expires(1));
    rig.store.put("gone", "old", expires(1));
    let fh = rig.fs.opendir(ROOT).unwrap();
    let (mut at, mut names) = (0, Vec::new());
    while let Some((offset, name)) = rig.read_dir(ROOT, fh, at, 1).await.unwrap().pop() {
        if name == "a" {
            rig.store.put("foo", "new", None);
            rig.clock.advance(SECOND);
        }
        at = offset;
        names.push(name);
    }
    names.retain(|name| !name.starts_with('.'));
    assert_eq!(names, ["a", "foo"]);
}

#[tokio::test]
async fn offsets_stay_valid_when_names_are_added_and_removed() {
    let rig = pages(4);
    for i in 0..40 {
        rig.store.put(&format!("f{i:02}"), "x", None);
    }
    let fh = rig.fs.opendir(ROOT).unwrap();
    let mut seen = Vec::new();
    let mut offset = 2;
    loop {
        let some = rig.read_dir(ROOT, fh, offset, 3).await.unwrap();
        let Some((next, _)) = some.last() else { break };
        offset = *next;
        seen.extend(some);
    }
    assert_eq!(seen.len(), 40);
    // Pages that are fetched again have lost some names and got others.
    for gone in ["f00", "f05", "f06", "f12"] {
        rig.store.delete(gone);
    }
    for new in ["e", "f04a", "f05b", "f20x"] {
        rig.store.put(new, "x", None);
    }
    for (i, (offset, _)) in seen.iter().enumerate().rev() {
        let some = rig.read_dir(ROOT, fh, *offset, 1).await.unwrap();
        let still = |name: &&String| !["f00", "f05", "f06", "f12"].contains(&name.as_str());
        let want = seen[i + 1..].iter().map(|(_, name)| name).find(still);
        assert_eq!(some.first().map(|(_, name)| name), want, "after {}", seen[i].1);
    }
    // From the start, the current names are listed.
    let now: BTreeSet<_> =
        rig.read_dir(ROOT, fh, 0, 100).await.unwrap().into_iter().map(|(_, name)| name).collect();
    assert!(now.contains("e") && !now.contains("f00"), "{now:?}");
    rig.fs.releasedir(fh).unwrap();
    assert_eq!(rig.read_dir(ROOT, fh, 0, 1).await, Err(Error::BadHandle));
}

/// Sixteen files on pages of four; the first entry has been read. Returns the handle and the next
/// offset.
async fn begun() -> (Rig, u64, u64) {
    let mut make = Make::without_probes();
    make.settings.listing.page = 4;
    let rig = make.rig();
    (0..16).for_each(|i| rig.store.put(&format!("f{i:02}"), "x", None));
    let fh = rig.fs.opendir(ROOT).unwrap();
    let first = rig.read_dir(ROOT, fh, 2, 1).await.unwrap();
    assert_eq!(rig.store.asked(), Requests { head: 4, list: 1, ..Requests::default() });
    (rig, fh, first[0].0)
}

/// Lets other tasks run.
async fn others_work() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pages_ahead_are_listed_during_the_heads_of_earlier_pages() {
    let (rig, fh, offset) = begun().await;
    rig.store.be(Mood::StallsAt("f04".into()));
    rig.read_dir(ROOT, fh, offset, 1).await.unwrap();
    others_work().await;
    assert_eq!(rig.store.asked(), Requests { head: 8, list: 2, ..Requests::default() });
}

#[tokio::test]
async fn a_page_that_failed_ahead_is_fetched_again_when_it_is_read() {
    let (rig, fh, offset) = begun().await;
    let failure = Error::Store("500".into());
    rig.store.be(Mood::Fails(failure.clone()));
    let page = rig.read_dir(ROOT, fh, offset, 3).await.unwrap();
    others_work().await;
    assert_eq!(rig.store.asked().list, 1, "pages after a failed one are not listed");
    let next = page[2].0;
    assert_eq!(rig.read_dir(ROOT, fh, next, 1).await, Err(failure), "it fails while it is read");
    rig.read_dir(ROOT, fh, offset, 1).await.unwrap();
    others_work().await;
    rig.store.be(Mood::Well);
    let (mut at, mut names) = (next, Vec::new());
    while let Some((offset, name)) = rig.read_dir(ROOT, fh, at, 1).await.unwrap().pop() {
        at = offset;
        names.push(name);
    }
    assert_eq!(names, (4..16).map(|i| format!("f{i:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn headers_of_unchanged_objects_are_requested_once() {
    let rig = pages(10);
    for i in 0..30 {
        rig.store.put(&format!("f{i:02}"), "x", expires(if i % 2 == 0 { 1000 } else { -1 }));
    }
    assert_eq!(rig.list("", 100).await.unwrap().len(), 15);
    assert_eq!(rig.store.asked(), Requests { head: 30, list: 3, ..Requests::default() });
    // After any time, with or without lookups: the expiry of a version does not change.
    rig.clock.advance(60 * SECOND);
    rig.look("f01").await.unwrap();
    rig.store.asked();
    assert_eq!(rig.list("", 100).await.unwrap().len(), 15);
    assert_eq!(rig.store.asked(), Requests { list: 3, ..Requests::default() });
    rig.store.put("f00", "y", None);
    assert_eq!(rig.list("", 100).await.unwrap().len(), 15);
    assert_eq!(rig.store.asked(), Requests { head: 1, list: 3, ..Requests::default() });
}

#[tokio::test]
async fn a_listed_object_is_not_looked_up_again() {
    let rig = Rig::default();
    rig.store.put("f", "x", None);
    rig.store.put("d/f", "x", None);
    rig.list("", 100).await.unwrap();
    rig.store.asked();
    assert!(rig.look("f").await.unwrap().is_some());
    assert!(rig.look("d").await.unwrap().is_some());
    assert_eq!(rig.store.asked(), Requests::default());
}

#[tokio::test]
async fn lookups_of_the_kernel_are_counted() {
    let rig = Rig::default();
    for i in 0..20 {
        rig.store.put(&format!("f{i:02}"), "x", None);
    }
    let fh = rig.fs.opendir(ROOT).unwrap();
    let some = rig.read_dir(ROOT, fh, 2, 5).await.unwrap();
    assert_eq!(some.len(), 5);
    // The sixth did not fit into the reply: the kernel does not know it.
    assert_eq!(rig.fs.inode_count(), 1 + 5);
    rig.fs.releasedir(fh).unwrap();
    let ino = rig.ino("f00").await;
    rig.forget(ino);
    assert!(rig.fs.getattr(ino).is_ok(), "one from readdirplus is left");
    rig.forget(ino);
    assert!(rig.fs.getattr(ino).is_err());
}

/// Sequential lookups long after the listing cost a LIST for each page and not a HEAD for each
/// name; replaced and expired objects are detected.
#[tokio::test]
async fn a_walk_is_revalidated_page_by_page() {
    let rig = Make::without_probes().rig();
    for i in 0..3000 {
        rig.store.put(&format!("d/{i:04}"), "x", expires(if i % 3 == 0 { 100 } else { 1000 }));
    }
    assert_eq!(rig.list("d", 100).await.unwrap().len(), 3000);
    rig.clock.advance(200 * SECOND);
    rig.store.put("d/1501", "other", expires(1000));
    rig.store.delete("d/1502");
    rig.store.asked();
    let d = rig.ino("d").await;
    for i in (0..3000).filter(|i| i % 3 != 0) {
        let found = rig.lookup(d, &format!("{i:04}")).await.unwrap();
        let size = match found {
            Lookup::Found(attr) => Some(attr.size),
            Lookup::Nothing(_) => None,
        };
        let want = match i {
            1501 => Some(5),
            1502 => None,
            _ => Some(1),
        };
        assert_eq!(size, want, "{i:04}");
        rig.clock.advance(SECOND / 1000);
    }
    let Requests { head, list, .. } = rig.store.asked();
    assert!(head <= 40 && list <= 12, "{head} HEADs, {list} LISTs");
    let gone = rig.lookup(d, "0003").await.unwrap();
    assert!(matches!(gone, Lookup::Nothing(_)), "{gone:?}");
}
