//! The contract of every store for reads.

use bytes::Bytes;
use expirefs::catalog::walk::just_before;
use expirefs::embedded::{Handle, Object};
use expirefs::error::Error;
use expirefs::store::{ListRequest, Store, settle};

use super::memory::Memory;
use super::support::s3_server::{Bucket, object};
use super::{BUCKET, all};

/// Fills a store from outside.
pub trait Fill: Sync {
    fn put(&self, key: &str, bytes: &str, expires: Option<&str>);
    fn delete(&self, key: &str);
}

/// Checks the contract of every store.
pub async fn keeps_the_contract(store: &dyn Store, fill: &dyn Fill) {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    fill.put("d/f", "0123456789", Some(date));
    let head = store.head("d/f").await.unwrap();
    assert_eq!((&*head.version.key, head.version.size), ("d/f", 10));
    assert_eq!(head.headers.expires.as_deref(), Some(date));
    for (key, below) in [("d/g", false), ("d", true), ("d/f/g", false)] {
        // The response to a HEAD has no document: if a store does not mark it with a request id, a
        // listing must confirm it (moto, Garage).
        let absent = store.head(key).await.unwrap_err();
        assert!(matches!(absent, Error::NotFound | Error::Unconfirmed(_)), "{key}: {absent}");
        assert_eq!(settle(store, key, absent).await, Ok(below), "{key}");
        assert_eq!(store.probe(key, 10).await, Err(Error::NotFound), "{key}");
    }
    for (most, first) in [(4, "0123"), (10, "0123456789"), (100, "0123456789")] {
        let (object, bytes) = store.probe("d/f", most).await.unwrap();
        assert_eq!((object.version, bytes), (head.version.clone(), Bytes::from(first)));
    }
    for range in [0..10, 3..7, 0..1, 9..10] {
        let (object, content) = store.get(&head.version, range.clone()).await.unwrap();
        assert_eq!(object.version, head.version);
        let want = &b"0123456789"[range.start as usize..range.end as usize];
        assert_eq!(all(content).await, want, "{range:?}");
    }
    fill.put("d/empty", "", None);
    let (empty, first) = store.probe("d/empty", 100).await.unwrap();
    assert_eq!((empty.version.size, first.len(), empty.headers.expires), (0, 0, None));

    // Names of one level and of all levels, page by page, each once. (SeaweedFS sorts `d/` as `d`,
    // before `d-e`, while S3 sorts by bytes.)
    for key in ["a", "d-e", "d/sub/x", "d/sub/y", "e/z", "ü", "with space+and%25"] {
        fill.put(key, "x", None);
    }
    let levels: &[(&str, bool, &[&str])] = &[
        ("", false, &["a", "d-e", "d/", "e/", "with space+and%25", "ü"]),
        ("d/", false, &["d/empty", "d/f", "d/sub/"]),
        ("d", true, &["d-e", "d/empty", "d/f", "d/sub/x", "d/sub/y"]),
        ("nothing/", false, &[]),
    ];
    for (prefix, recursive, want) in levels {
        for max_keys in [1, 2, 1000] {
            let mut names = Vec::new();
            let mut token: Option<String> = None;
            loop {
                let (recursive, token_now) = (*recursive, token.as_deref());
                let request = ListRequest {
                    recursive,
                    token: token_now,
                    max_keys,
                    ..ListRequest::level(prefix)
                };
                let page = store.list(request).await.unwrap();
                let n = page.objects.len() + page.prefixes.len();
                assert!(n <= usize::from(max_keys), "{n} names on a page of {max_keys}");
                names.extend(page.prefixes);
                names.extend(page.objects.iter().map(|version| version.key.to_string()));
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
            names.sort();
            assert_eq!(names, *want, "{prefix:?} {max_keys} a page");
        }
    }
    let request = ListRequest { recursive: true, ..ListRequest::level("d/f") };
    let listed = store.list(request).await.unwrap().objects;
    assert_eq!(listed, std::slice::from_ref(&head.version), "as its headers have it");

    // XML 1.0 cannot represent these (section 2.2), so they are sent encoded.
    for key in ["x/a\u{1}b", "x/esc\u{1b}", "x/\u{fffe}", "x/sub\u{8}/f", "x/plain"] {
        fill.put(key, "x", None);
    }
    let page = store.list(ListRequest::level("x/")).await.unwrap();
    let mut names: Vec<_> = page.objects.iter().map(|v| v.key.to_string()).collect();
    names.extend(page.prefixes);
    names.sort();
    assert_eq!(names, ["x/a\u{1}b", "x/esc\u{1b}", "x/plain", "x/sub\u{8}/", "x/\u{fffe}"]);
    // Every listed name is an object with the listed version.
    let request = ListRequest { recursive: true, ..ListRequest::level("") };
    for version in store.list(request).await.unwrap().objects {
        let (object, _) = store.probe(&version.key, 10).await.unwrap();
        assert_eq!(
            (object.version, store.head(&version.key).await.unwrap().version),
            (version.clone(), version)
        );
    }

    // One level, from a given name on.
    let after = |start_after: String| async move {
        let start_after = Some(start_after.as_str());
        let page = store.list(ListRequest { start_after, ..ListRequest::level("d/") }).await;
        let page = page.unwrap();
        let mut names: Vec<_> = page.objects.iter().map(|v| v.key.to_string()).collect();
        names.extend(page.prefixes);
        names
    };
    assert_eq!(after(just_before("d/f")).await, ["d/f", "d/sub/"]);
    assert_eq!(after("d/f".into()).await, ["d/sub/"]);
    fill.put("d/ü", "x", None);
    assert_eq!(after(just_before("d/ü")).await, ["d/ü"]);

    fill.put("d/f", "abcdefghij", None);
    assert_eq!(store.get(&head.version, 0..10).await.err(), Some(Error::Stale));
    assert_ne!(store.head("d/f").await.unwrap().version, head.version);
    fill.delete("d/f");
    assert_eq!(store.get(&head.version, 0..10).await.err(), Some(Error::Stale));
    assert_eq!(store.probe("d/f", 10).await, Err(Error::NotFound));
}

impl Fill for Handle {
    fn put(&self, key: &str, bytes: &str, expires: Option<&str>) {
        let object = Object::new(bytes.to_owned());
        let object = expires.map_or(object.clone(), |expires| object.expires(expires));
        Handle::put(self, BUCKET, key, object);
    }

    fn delete(&self, key: &str) {
        Handle::delete(self, BUCKET, key);
    }
}

impl Fill for Memory {
    fn put(&self, key: &str, bytes: &str, expires: Option<&str>) {
        Memory::put(self, key, bytes, expires.map(str::to_owned));
    }

    fn delete(&self, key: &str) {
        Memory::delete(self, key);
    }
}

impl Fill for Bucket {
    fn put(&self, key: &str, bytes: &str, expires: Option<&str>) {
        let object = object(bytes.to_owned());
        let object = expires.map_or(object.clone(), |expires| object.expires(expires));
        tokio::task::block_in_place(|| Bucket::put(self, key, object));
    }

    fn delete(&self, key: &str) {
        tokio::task::block_in_place(|| Bucket::delete(self, key));
    }
}
