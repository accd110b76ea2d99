//! The contract of every store for changes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use expirefs::embedded;
use expirefs::error::Error;
use expirefs::expiry::format_http_date;
use expirefs::s3::S3;
use expirefs::store::Store;
use expirefs::store::write::{
    Condition, CopyHeaders, CopyRequest, DeleteIf, Deleted, NewHeaders, NewObjects, SMALLEST_PART,
    Sse, Tag, Upload, UploadsPage, WriteStore,
};
use expirefs::store::{Object, Version};
use hyper::header::HeaderMap;

use super::support::proxy::{Fault, Proxy};
use super::{BUCKET, all, open_to_all, rig, support};

/// An instant with a fraction of a second, and the `Expires` that is rounded up.
fn end() -> (SystemTime, String) {
    let second = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    (second + Duration::from_millis(1), format_http_date(second + Duration::from_secs(1)))
}

/// An object in the store, and its content.
async fn read(store: &dyn WriteStore, key: &str) -> (Object, Vec<u8>) {
    let object = store.head(key).await.unwrap();
    let content = match object.version.size {
        0 => Vec::new(),
        size => all(store.get(&object.version, 0..size).await.unwrap().1).await,
    };
    (object, content)
}

async fn is_absent(store: &dyn WriteStore, key: &str) -> bool {
    store.probe(key, 1).await == Err(Error::NotFound)
}

pub async fn keeps_the_contract(store: &dyn WriteStore) {
    let (expires, date) = end();
    let headers = NewHeaders {
        expires: Some(expires),
        content_type: Some("a/b".to_owned()),
        cache_control: Some("max-age=60".to_owned()),
        storage_class: Some("STANDARD_IA".to_owned()),
        nonce: Some("0-1".to_owned()),
    };
    let none = NewHeaders::default();
    let any = &Condition::Any;

    // Put: with all headers, replacing an object, empty.
    let first = store.put("w/ü +%", &headers, Bytes::from("first"), any).await.unwrap();
    let (object, content) = read(store, "w/ü +%").await;
    assert_eq!((&content[..], object.version.tag()), (&b"first"[..], first.tag));
    assert_eq!(object.headers.expires.as_ref(), Some(&date));
    assert_eq!(object.headers.content_type, headers.content_type);
    assert_eq!(object.headers.cache_control, headers.cache_control);
    assert_eq!(object.headers.storage_class, headers.storage_class);
    assert_eq!(object.headers.nonce, headers.nonce);
    let (probed, _) = store.probe("w/ü +%", 1).await.unwrap();
    assert_eq!(probed.headers.nonce, headers.nonce);
    let source = object.version;
    for text in ["second", ""] {
        let written = store.put("w/f", &none, Bytes::from(text), any).await.unwrap();
        let (object, content) = read(store, "w/f").await;
        assert_eq!((&content[..], object.version.tag()), (text.as_bytes(), written.tag));
        assert_eq!(object.headers.expires, None);
    }

    // Copies: with all headers, or all except Expires.
    let copy = CopyRequest {
        source: &source,
        key: "w/copy %2B",
        headers: CopyHeaders::All,
        storage_class: None,
        condition: any,
    };
    let copied = store.copy(copy).await.unwrap();
    let (object, content) = read(store, "w/copy %2B").await;
    assert_eq!((&content[..], object.version.tag()), (&b"first"[..], copied.tag));
    assert_eq!(copied.last_modified, Some(object.version.last_modified));
    assert_eq!(object.headers.expires.as_ref(), Some(&date));
    assert_eq!(object.headers.content_type, headers.content_type);
    for (expires, date) in [(UNIX_EPOCH, Some(format_http_date(UNIX_EPOCH))), (end().0, None)] {
        let source = store.head("w/copy %2B").await.unwrap().version;
        let carried = CopyHeaders::AllButExpires(date.as_ref().map(|_| expires));
        let storage_class = headers.storage_class.as_deref();
        let stamp = CopyRequest { source: &source, headers: carried, storage_class, ..copy };
        let stamped = store.copy(stamp).await.unwrap();
        let object = store.head("w/copy %2B").await.unwrap();
        assert_eq!((object.version.tag(), object.headers.expires), (stamped.tag, date));
        assert_eq!(object.headers.content_type, headers.content_type);
        assert_eq!(object.headers.cache_control, headers.cache_control);
        assert_eq!(object.headers.nonce, headers.nonce);
        assert_eq!(object.headers.storage_class, headers.storage_class);
    }
    let gone = Version { size: 1, ..source.clone() };
    let stamp = CopyRequest { source: &gone, headers: CopyHeaders::AllButExpires(None), ..copy };
    assert_eq!(store.copy(stamp).await, Err(Error::PreconditionFailed), "another version");

    // An upload: a part sent twice, a part copied, headers from its creation.
    let upload = store.create_upload("w/large", &headers).await.unwrap().upload;
    assert!(is_absent(store, "w/large").await);
    store.upload_part(&upload, 1, Bytes::from("too little")).await.unwrap();
    let large = Bytes::from(vec![7; SMALLEST_PART]);
    let one = store.upload_part(&upload, 1, large.clone()).await.unwrap();
    let two = store.copy_part(&upload, 2, &source, 1..4).await.unwrap();
    let written = store.complete(&upload, &[one, two], any).await.unwrap();
    let (object, content) = read(store, "w/large").await;
    assert_eq!(object.version.tag(), written.tag);
    assert_eq!(object.headers.expires.as_ref(), Some(&date));
    assert_eq!(object.headers.content_type, headers.content_type);
    assert!(content == [&large[..], b"irs"].concat(), "{} bytes", content.len());

    // An upload that is aborted twice.
    let upload = store.create_upload("w/aborted", &none).await.unwrap().upload;
    let part = store.upload_part(&upload, 1, Bytes::from("x")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.abort(&upload).await, Ok(()));
    }
    // moto fails (500) on requests it does not know.
    let late = store.complete(&upload, &[part], any).await;
    assert!(matches!(late, Err(Error::NotFound | Error::Unclear(_))), "{late:?}");
    assert!(is_absent(store, "w/aborted").await);

    // Deletes.
    for key in ["w/f", "w/f", "w/large", "w/copy %2B"] {
        assert_eq!(store.delete(key, &DeleteIf::Any).await, Ok(Deleted::default()));
        assert!(is_absent(store, key).await, "{key}");
    }
    assert_eq!(Tag::new(""), None);
}

/// Uploads are listed until they end, with their time, and whether they have parts. (moto gives all of
/// them the same time, and its list of parts is another document than that of S3.)
pub async fn lists_uploads(store: &dyn WriteStore) {
    let none = NewHeaders::default();
    let key = "w/ü +%/x";
    let begun = SystemTime::now();
    let mut wanted = Vec::new();
    for _ in 0..2 {
        wanted.push(store.create_upload(key, &none).await.unwrap().upload);
    }
    wanted.push(store.create_upload("w/ü +%/xx", &none).await.unwrap().upload);
    store.upload_part(&wanted[1], 1, Bytes::from("x")).await.unwrap();
    for (upload, has_parts) in wanted.iter().zip([false, true, false]) {
        assert_eq!(store.has_parts(upload).await, Ok(has_parts));
    }
    let listed = store.uploads(key, None).await.unwrap();
    assert_eq!(listed.next, None);
    for (_, created) in &listed.uploads {
        let apart = created.duration_since(begun).unwrap_or_else(|before| before.duration());
        assert!(apart < Duration::from_secs(60), "{apart:?}");
    }
    let mut found: Vec<Upload> = listed.uploads.into_iter().map(|(upload, _)| upload).collect();
    found.sort_by_key(|upload| wanted.iter().position(|wanted| wanted == upload));
    assert_eq!(found, wanted);
    for upload in &wanted {
        store.abort(upload).await.unwrap();
        assert_eq!(store.has_parts(upload).await, Err(Error::NotFound));
    }
    assert_eq!(store.uploads("w/", None).await, Ok(UploadsPage::default()));
}

#[tokio::test]
async fn a_new_expiry_keeps_all_other_headers() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    let mut others = HeaderMap::new();
    for (name, value) in [
        ("content-disposition", "inline"),
        ("content-encoding", "br"),
        ("content-language", "eo"),
        ("x-amz-meta-who", "me"),
        ("x-amz-website-redirect-location", "/else"),
    ] {
        others.insert(name, value.parse().unwrap());
    }
    let object = embedded::Object { others, ..embedded::Object::new("x") };
    let object = object.content_type("a/b").cache_control("no-store").expires("never");
    rig.server.handle().put(BUCKET, "k", object.clone());
    let stamp = CopyRequest {
        source: &rig.store.head("k").await.unwrap().version,
        key: "k",
        headers: CopyHeaders::AllButExpires(Some(UNIX_EPOCH)),
        storage_class: None,
        condition: &Condition::Any,
    };
    rig.store.copy(stamp).await.unwrap();
    let stamped = rig.server.handle().get(BUCKET, "k").unwrap();
    assert_eq!(stamped.expires.unwrap(), format_http_date(UNIX_EPOCH).as_str());
    assert_eq!(stamped.others, object.others);
    assert_eq!(
        (stamped.content_type, stamped.cache_control),
        (object.content_type, object.cache_control)
    );
}

/// Parts, the completion and deletes have none of it: S3 refuses some of these headers there.
#[tokio::test(flavor = "multi_thread")]
async fn new_objects_and_copies_get_the_settings_of_the_mount() {
    const HEADERS: [&str; 3] = [
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-acl",
    ];
    let (rig, budget) = rig(Duration::from_secs(10)).await;
    rig.server.handle().put(BUCKET, "source", embedded::Object::new("x"));
    let upstream = support::Endpoint { url: rig.server.endpoint(), credentials: None };
    let proxy = tokio::task::block_in_place(|| Proxy::start(&upstream, |_| Fault::None));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    proxy.script(move |request| {
        let values = HEADERS.map(|name| request.head.text(name));
        notes.lock().unwrap().push((request.method.clone(), values));
        Fault::None
    });
    let site = open_to_all(proxy.endpoint().url.clone()).locate().await.unwrap();
    let store = S3::new(&site, &budget, Duration::from_secs(10), rig.clock, rig.metrics).await;
    let store = store.unwrap();

    let make = async |new_objects: NewObjects| {
        let store = store.with_new_objects(new_objects);
        let (none, any) = (&NewHeaders::default(), &Condition::Any);
        let source = store.head("source").await.unwrap().version;
        let copy = CopyRequest {
            source: &source,
            key: "copy",
            headers: CopyHeaders::All,
            storage_class: None,
            condition: any,
        };
        seen.lock().unwrap().clear();
        store.put("k", none, Bytes::from("x"), any).await.unwrap();
        let upload = store.create_upload("k", none).await.unwrap().upload;
        store.copy(copy).await.unwrap();
        let with: Vec<_> = seen.lock().unwrap().drain(..).collect();
        let one = store.upload_part(&upload, 1, Bytes::from(vec![7; SMALLEST_PART])).await.unwrap();
        let two = store.copy_part(&upload, 2, &source, 0..1).await.unwrap();
        store.complete(&upload, &[one, two], any).await.unwrap();
        store.delete("k", &DeleteIf::Any).await.unwrap();
        let without: Vec<_> = seen.lock().unwrap().drain(..).map(|(_, values)| values).collect();
        assert_eq!(without, [const { [const { None }; 3] }; 4]);
        with
    };
    let key = "arn:aws:kms:eu-west-1:1:key/2";
    let table = [
        (NewObjects::default(), [None; 3]),
        (
            NewObjects { sse: Some(Sse::Aes256), ..NewObjects::default() },
            [Some("AES256"), None, None],
        ),
        (
            NewObjects { sse: Some(Sse::Kms), ..NewObjects::default() },
            [Some("aws:kms"), None, None],
        ),
        (
            NewObjects {
                sse: Some(Sse::KmsDsse),
                sse_kms_key_id: Some(key.to_owned()),
                acl: Some("bucket-owner-full-control".to_owned()),
            },
            [Some("aws:kms:dsse"), Some(key), Some("bucket-owner-full-control")],
        ),
    ];
    for (new_objects, values) in table {
        let values = values.map(|value| value.map(str::to_owned));
        let wanted = ["PUT", "POST", "PUT"].map(|method| (method.to_owned(), values.clone()));
        assert_eq!(make(new_objects).await, wanted);
    }
    tokio::task::block_in_place(|| drop(proxy));
}

#[tokio::test]
async fn all_pages_of_uploads_can_be_listed() {
    let (rig, _) = rig(Duration::from_secs(20)).await;
    let none = NewHeaders::default();
    let mut wanted = Vec::new();
    for i in 0..1003 {
        // Several of a key, across the end of a page.
        let key = format!("+ {:04}", i / 4);
        wanted.push(rig.store.create_upload(&key, &none).await.unwrap().upload);
    }
    let first = rig.store.uploads("+", None).await.unwrap();
    let next = first.next.expect("a second page");
    let second = rig.store.uploads("+", Some(&next)).await.unwrap();
    assert_eq!((first.uploads.len(), second.next), (1000, None));
    let found = first.uploads.into_iter().chain(second.uploads).map(|(upload, _)| upload);
    assert!(found.eq(wanted));
}

/// The ETag, the size and the Last-Modified of each count, and the answer for one is not that of
/// another.
#[tokio::test]
async fn many_versions_are_deleted_with_one_request_and_no_other_ones() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    let old = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let keys = ["a&<\"'> b", "gone", "of another size", "of another time", "other bytes", "ü/+%"];
    let mut versions = Vec::new();
    for key in keys {
        let object = embedded::Object::new("x").last_modified(old);
        rig.server.handle().put(BUCKET, key, object);
        versions.push(rig.store.head(key).await.unwrap().version);
    }
    rig.server.handle().delete(BUCKET, "gone");
    versions[2].size = 2;
    versions[3].last_modified += Duration::from_secs(1);
    versions[4].etag = "00000000000000000000000000000000".into();
    let before = rig.server.handle().requests().delete;
    let outcomes = rig.store.delete_all(&versions).await.unwrap();
    let (deleted, refused) = (Ok(Deleted::default()), Err(Error::PreconditionFailed));
    let want = [&deleted, &deleted, &refused, &refused, &refused, &deleted].map(Clone::clone);
    assert_eq!(outcomes, want);
    assert_eq!(rig.server.handle().requests().delete, before + 1);
    assert_eq!(rig.metrics.requests.delete.get(), 1);
    let is_left = |key: &&str| rig.server.handle().get(BUCKET, key).is_some();
    let left: Vec<_> = keys.into_iter().filter(is_left).collect();
    assert_eq!(left, ["of another size", "of another time", "other bytes"]);
}
