//! Sweeps of objects and stores of all kinds.

use std::process::Output;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use serde_json::Value;

use crate::support::embedded::Embedded;
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3_server::{Bucket, http_date, object, seaweedfs};
use crate::support::{Endpoint, FUTURE, PAST, block_on};

fn sweep(endpoint: &Endpoint, bucket: &str, args: &[&str]) -> Output {
    let url = format!("s3://{bucket}/");
    let typed = [&["sweep", &url, "--delete", "--json"], args].concat();
    endpoint.typed(&typed).output().expect("it runs")
}

#[track_caller]
fn summary(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    let last = last.unwrap_or_else(|| panic!("{}: {stderr}", output.status));
    serde_json::from_slice::<Value>(last).expect("JSON")["summary"].take()
}

/// Its ETag is no MD5.
fn put_in_parts(bucket: &Bucket, key: &str) {
    block_on(async {
        let client = bucket.client();
        let create = client.create_multipart_upload().bucket(&bucket.name).key(key);
        let created = create.expires(DateTime::from_secs(1_577_836_800)).send().await;
        let id = created.expect("an upload").upload_id.expect("an id");
        let mut parts = CompletedMultipartUpload::builder();
        for number in [1, 2] {
            let part = client.upload_part().bucket(&bucket.name).key(key).upload_id(&id);
            let body = vec![b'x'; 5 << 20].into();
            let sent = part.part_number(number).body(body).send().await.expect("a part");
            let part = CompletedPart::builder().part_number(number);
            parts = parts.parts(part.set_e_tag(sent.e_tag).build());
        }
        let complete = client.complete_multipart_upload().bucket(&bucket.name).key(key);
        complete.upload_id(&id).multipart_upload(parts.build()).send().await.expect("an object");
    });
}

const KEYS: [&str; 8] = [
    "plain",
    "with space",
    "a+b%20c&d=e?f#g",
    "umläut/日本語/🦀",
    "'single' \"double\" <angle>",
    "semi;colon,comma:colon@at$dollar!",
    "pipe|tilde~caret^tick`",
    "brackets[1]{2}(3)*/UPPER",
];

#[test]
fn objects_of_all_kinds_are_deleted() {
    for etags in ["as they are", "weak", "none"] {
        let bucket = seaweedfs().bucket("sweep-kinds");
        for key in KEYS {
            bucket.put(key, object("x").expires(PAST));
            bucket.put(&format!("{key}.live"), object("x").expires(FUTURE));
        }
        bucket.put("empty", object("").expires(PAST));
        put_in_parts(&bucket, "parts");
        bucket.until_settled("parts");
        let proxy = Proxy::start(bucket.endpoint(), move |request| match etags {
            "as they are" => Fault::None,
            _ if !request.is_head() => Fault::None,
            "weak" => Fault::rewrite(|head| {
                let etag = head.text("etag").unwrap_or_default();
                head.set("etag", format!("W/{etag}").as_bytes());
            }),
            _ => Fault::rewrite(|head| head.remove("etag")),
        });
        let output = sweep(proxy.endpoint(), &bucket.name, &[]);
        let summary = summary(&output);
        let counts = ["deleted", "live", "failed"].map(|name| summary[name].as_u64());
        assert_eq!(counts, [Some(10), Some(8), Some(0)], "{etags}: {summary}");
        let mut live: Vec<String> = KEYS.iter().map(|key| format!("{key}.live")).collect();
        live.sort();
        assert_eq!(bucket.keys().into_iter().collect::<Vec<_>>(), live, "{etags}");
    }
}

#[test]
fn objects_of_names_that_are_no_paths_are_deleted() {
    let store = Embedded::start();
    let keys =
        ["/", "//", "a//b", "../up", "./here", "dir/", "tab\there", "line\nbreak", "back\\slash"];
    for key in keys {
        store.put_expiring(key, "x", PAST);
        store.put_expiring(&format!("{key}live"), "x", FUTURE);
    }
    // The SDK sends no request for such a key: it fails, and all others are deleted.
    store.put_expiring(" ", "x", PAST);
    let output = sweep(store.endpoint(), Embedded::BUCKET, &[]);
    assert_eq!(output.status.code(), Some(3));
    let summary = summary(&output);
    let counts = ["deleted", "failed"].map(|name| summary[name].as_u64());
    assert_eq!(counts, [Some(keys.len() as u64), Some(1)], "{output:?}");
    for key in keys {
        assert!(store.get(key).is_none() && store.get(&format!("{key}live")).is_some(), "{key:?}");
    }
}

#[test]
fn a_store_whose_clock_is_wrong_is_not_swept_unless_told_which_clock_counts() {
    let store = Embedded::start();
    let in_an_hour = http_date(SystemTime::now() + Duration::from_secs(3600));
    let keys: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
    keys.iter().for_each(|key| store.put_expiring(key, "x", &in_an_hour));
    let day = Duration::from_secs(86_400);
    let ahead = move || http_date(SystemTime::now() + day);
    let there = || keys.iter().filter(|key| store.get(key).is_some()).count();
    let proxy = Proxy::start(store.endpoint(), move |_| Fault::header("date", ahead()));
    let output = sweep(proxy.endpoint(), Embedded::BUCKET, &[]);
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), there()), (Some(1), 100), "{says}");
    assert!(says.contains("differ by 86") && says.contains("--clock server"), "{says}");
    // It is so from some request on.
    for from in [2, 3, 5, 20, 60] {
        let began = proxy.requests();
        proxy.script(move |request| match request.number - began >= from {
            true => Fault::header("date", ahead()),
            false => Fault::None,
        });
        let output = sweep(proxy.endpoint(), Embedded::BUCKET, &[]);
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && there() == 100, "from {from}: {says}");
        assert!(says.contains("differ by 86"), "from {from}: {says}");
    }
    // By the host's clock they live, by the store's they do not.
    let local = sweep(proxy.endpoint(), Embedded::BUCKET, &["--clock", "local"]);
    assert_eq!((summary(&local)["live"].as_u64(), there()), (Some(100), 100));
    proxy.script(move |_| Fault::header("date", ahead()));
    let server = sweep(proxy.endpoint(), Embedded::BUCKET, &["--clock", "server"]);
    assert_eq!((summary(&server)["deleted"].as_u64(), there()), (Some(100), 0));
}
