//! Listings, page by page.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder;
use aws_sdk_s3::types::EncodingType;
use expirefs::embedded::Object;

use super::{HELLO, Rig};

/// All names of a listing in the order received; every page except the last must be full.
pub async fn names(list: ListObjectsV2FluentBuilder, size: usize) -> Vec<String> {
    let (mut names, mut token) = (Vec::new(), None);
    loop {
        let list = list.clone().max_keys(size as i32);
        let page = list.set_continuation_token(token).send().await.unwrap();
        let keys = page.contents().iter().map(|object| object.key());
        let prefixes = page.common_prefixes().iter().map(|common| common.prefix());
        let mut entries: Vec<_> = keys.chain(prefixes).map(|name| name.unwrap().into()).collect();
        // XML has them in two lists, each in order; together they are a contiguous range.
        entries.sort();
        assert_eq!(page.key_count(), Some(entries.len() as i32));
        token = page.next_continuation_token().map(Into::into);
        assert_eq!(page.is_truncated(), Some(token.is_some()));
        assert!(entries.len() == size || token.is_none());
        assert!(names.is_empty() || names.last() < entries.first(), "pages are in order");
        names.extend(entries);
        if token.is_none() {
            return names;
        }
    }
}

#[tokio::test]
async fn listings_match_an_independent_computation_for_any_page_size() {
    let rig = Rig::new().await;
    let keys = "a|a b|a/|a/1|a/1/x|a/1/y|a/2|a/b/c/d|a0|a.txt|b//c|b//d|b/e|é/1|é/2|z&<>'\"|dir/f1|\
                dir/f2|dir/f3|dir/sub/f|dir/sub2/f|dir-x|日本/語|😀|\u{fffd}|/root|//two";
    let keys: Vec<&str> = keys.split('|').collect();
    for key in &keys {
        rig.handle.put("bkt", key, Object::new("x"));
    }
    for prefix in ["", "a", "a/", "a/1", "b/", "dir/", "dir/sub", "é", "none", "/"] {
        for delimiter in ["", "/", "/f"] {
            let under = keys.iter().filter_map(|key| key.strip_prefix(prefix));
            let rolled_up: BTreeSet<String> = under
                .map(|rest| match rest.find(delimiter) {
                    Some(at) if !delimiter.is_empty() => &rest[..at + delimiter.len()],
                    _ => rest,
                })
                .map(|rest| format!("{prefix}{rest}"))
                .collect();
            for after in ["", "a", "a/1", "dir/", "dir/f2", "zzz"] {
                let expected: Vec<_> = rolled_up.iter().filter(|name| &name[..] > after).collect();
                for size in [1, 2, 7, 1000] {
                    let list = rig.list().prefix(prefix).delimiter(delimiter).start_after(after);
                    let names = names(list, size).await;
                    let case = format!("{prefix:?} {delimiter:?} {after:?}, pages of {size}");
                    assert_eq!(names.iter().collect::<Vec<_>>(), expected, "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn listings_have_size_etag_and_time_and_encode_names_on_request() {
    let rig = Rig::new().await;
    let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    // XML cannot carry a bell or a carriage return, in a key or in a token.
    let object = Object::new("hello").last_modified(at);
    rig.handle.put("bkt", "bell\u{7}\r x/a", object);
    rig.handle.put("bkt", "bell\u{7}\r x/b", Object::new(""));
    let list = rig.list().encoding_type(EncodingType::Url);
    let page = list.clone().max_keys(1).send().await.unwrap();
    let object = &page.contents()[0];
    assert_eq!(object.key(), Some("bell%07%0D%20x/a"));
    assert_eq!(object.size(), Some(5));
    assert_eq!(object.e_tag(), Some(HELLO));
    assert_eq!(object.last_modified().unwrap().secs(), 1_700_000_000);
    let both = ["bell%07%0D%20x/a", "bell%07%0D%20x/b"];
    assert_eq!(names(list.clone(), 1).await, both);
    assert_eq!(names(list.delimiter("/"), 1).await, ["bell%07%0D%20x/"]);

    assert_eq!(names(rig.list(), 0).await, [""; 0]);
    for (line, code) in [
        ("GET /bkt?list-type=2&continuation-token=garbled", "InvalidArgument"),
        ("GET /other?list-type=2", "NoSuchBucket"),
    ] {
        assert!(rig.raw(line, &[], b"").await.says(code), "{line}");
    }
}
