//! Keys as paths: rules N1 to N3, and E10.

use expirefs::error::Error;
use expirefs::fs::inode::ROOT;

use super::{Make, Rig, SECOND, expires};

#[tokio::test]
async fn keys_that_cannot_be_a_path_are_skipped() {
    let rig = Rig::default();
    let long = "x".repeat(256);
    for key in ["a//b", "./c", "../d", "e/.", "e/..", "/f", "n\0ul", &long, "good", "e/ok"] {
        rig.store.put(key, "x", None);
    }
    assert_eq!(rig.list("", 100).await.unwrap(), ["a/", "e/", "good"]);
    assert_eq!(rig.list("a", 100).await.unwrap(), [""; 0]);
    assert_eq!(rig.list("e", 100).await.unwrap(), ["ok"]);
    assert_eq!(rig.metrics.unnameable.get(), 8);
    let refused = rig.lookup(ROOT, &long).await;
    assert_eq!(refused, Err(Error::NameTooLong));
    for name in [".", "..", "n\0ul", ""] {
        assert_eq!(rig.look(name).await, Ok(None), "{name:?}");
    }
}

#[tokio::test]
async fn a_live_file_hides_the_directory_of_its_name() {
    for page in [1, 2, 3, 1000] {
        let mut make = Make::default();
        make.settings.listing.page = page;
        let rig = make.rig();
        rig.store.put("foo", "x", expires(10));
        for key in ["foo-bar", "foo.txt", "foo/bar", "foo0", "goo/x"] {
            rig.store.put(key, "x", None);
        }
        let with_file = ["foo", "foo-bar", "foo.txt", "foo0", "goo/"];
        assert_eq!(rig.list("", 100).await.unwrap(), with_file, "page {page}");
        assert_eq!(rig.look("foo").await.unwrap().unwrap().size, 1);
        rig.clock.advance(10 * SECOND);
        let with_directory = ["foo-bar", "foo.txt", "foo/", "foo0", "goo/"];
        assert_eq!(rig.list("", 100).await.unwrap(), with_directory, "page {page}");
        assert!(rig.look("foo/bar").await.unwrap().is_some());
    }
}

#[tokio::test]
async fn markers_are_directories() {
    let rig = Rig::default();
    rig.store.put("empty/", "", None);
    rig.store.put("full/", "", None);
    rig.store.put("full/f", "x", None);
    assert_eq!(rig.list("", 100).await.unwrap(), ["empty/", "full/"]);
    assert_eq!(rig.list("empty", 100).await.unwrap(), [""; 0]);
    assert_eq!(rig.list("full", 100).await.unwrap(), ["f"]);
}

#[tokio::test]
async fn a_directory_of_expired_files_is_empty_not_absent() {
    let rig = Rig::default();
    rig.store.put("d/e/old", "x", expires(-1));
    assert_eq!(rig.list("", 100).await.unwrap(), ["d/"]);
    assert_eq!(rig.list("d", 100).await.unwrap(), ["e/"]);
    assert_eq!(rig.list("d/e", 100).await.unwrap(), [""; 0]);
    assert_eq!(rig.look("d/e/old").await, Ok(None));
    rig.store.delete("d/e/old");
    rig.clock.advance(SECOND);
    assert_eq!(rig.look("d").await, Ok(None));
}

#[tokio::test]
async fn a_file_is_not_a_directory_and_vice_versa() {
    let rig = Rig::default();
    rig.store.put("f", "x", None);
    rig.store.put("d/f", "x", None);
    let (file, directory) = (rig.ino("f").await, rig.ino("d").await);
    assert_eq!(rig.lookup(file, "x").await, Err(Error::NotADirectory));
    assert_eq!(rig.fs.opendir(file), Err(Error::NotADirectory));
    assert_eq!(rig.fs.open(directory, 1).await, Err(Error::IsADirectory));
}
