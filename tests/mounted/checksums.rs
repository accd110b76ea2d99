//! `get` verifies the checksum that the store has of an object.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::types::ChecksumAlgorithm;
use aws_smithy_types::base64;
use expirefs::embedded::Object;

use super::objects::{printed, refused, run, url};
use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::mount::Setup;
use crate::support::proxy::{Fault, Proxy, Request};
use crate::support::s3_server::moto;
use crate::support::{FUTURE, block_on};

const MODE: &str = "x-amz-checksum-mode";

/// The HEAD of a store that has this checksum of the object, and sends it to those who ask for it.
fn head(request: &Request, name: &'static str, value: &str) -> Fault {
    match request.is_head() && request.head.get(MODE) == Some(b"ENABLED") {
        true => Fault::header(name, value),
        false => Fault::None,
    }
}

fn crc64(bytes: &[u8]) -> String {
    base64::encode(crc_fast::crc64_nvme(bytes).to_be_bytes())
}

#[test]
fn get_refuses_bytes_without_the_checksum_of_the_object_also_in_a_resumed_body() {
    const NAME: &str = "x-amz-checksum-crc64nvme";
    let store = Embedded::start();
    let bytes = content(1, 5 * MIB);
    store.put_expiring("f", bytes.clone(), FUTURE);
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("f");
    let typed = file.to_str().expect("text");
    let crc = Arc::new(crc64(&bytes));

    type Bodies = fn(u32) -> Fault;
    for (what, bodies, is_right) in [
        ("whole", (|_| Fault::None) as Bodies, true),
        ("resumed", |n| if n == 0 { Fault::Reset(2 << 20) } else { Fault::None }, true),
        ("changed at its begin", |_| Fault::Flip(0), false),
        ("changed at its end", |_| Fault::Flip((5 << 20) - 1), false),
        (
            "resumed and changed",
            |n| if n == 0 { Fault::Reset(2 << 20) } else { Fault::Flip(9) },
            false,
        ),
    ] {
        fs::write(&file, "old").expect("write");
        let (count, crc) = (AtomicU32::new(0), crc.clone());
        proxy.script(move |request| match request.is_body_of("f") {
            true => bodies(count.fetch_add(1, Ordering::Relaxed)),
            false => head(request, NAME, &crc),
        });
        let got = run(proxy.endpoint(), &["get", &url("f"), typed]);
        if is_right {
            printed(got);
            assert!(fs::read(&file).expect("read") == bytes, "{what}");
            continue;
        }
        let (status, says) = refused(got);
        assert!(status == 1 && says.contains("checksum CRC64NVME"), "{what}: {says}");
        assert_eq!(fs::read(&file).expect("read"), b"old", "{what}");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "{what}");
    }
    assert_eq!((proxy.did("flip"), proxy.did("reset")), (3, 2));
}

/// Such as the checksum of the checksums of parts.
#[test]
fn a_checksum_that_is_not_of_the_whole_object_is_no_obstacle() {
    let store = Embedded::start();
    store.put_object("f", Object::new("content").expires(FUTURE));
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    for (name, value) in [
        ("x-amz-checksum-crc32", "y/Q5Jg==-2"),
        ("x-amz-checksum-sha256", "no base64"),
        ("x-amz-checksum-crc32c", ""),
        ("x-amz-checksum-of-tomorrow", "y/Q5Jg=="),
    ] {
        proxy.script(move |request| head(request, name, value));
        let got = run(proxy.endpoint(), &["get", &url("f"), "-"]);
        assert_eq!(printed(got), "content", "{name}: {value}");
    }
}

/// A caller without the key of an encrypted object may not ask for its checksum.
#[test]
fn a_mount_asks_for_no_checksums() {
    let store = Embedded::start();
    store.put_expiring("d/f", "content", FUTURE);
    let proxy = Proxy::start(store.endpoint(), |request| match request.head.get(MODE) {
        Some(_) => Fault::status(403, None),
        None => Fault::None,
    });
    let mount = Setup::new(proxy.endpoint(), Embedded::BUCKET).start();
    assert_eq!(fs::read(mount.path("d/f")).expect("read"), b"content");
    assert_eq!(fs::read_dir(mount.path("d")).expect("list").count(), 1);
    assert_eq!(proxy.did("answer"), 0);
}

#[test]
fn checksums_of_moto_are_verified() {
    let bucket = moto().bucket("checksums");
    let proxy = Proxy::start(bucket.endpoint(), |_| Fault::None);
    for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Sha256]
    {
        let key = algorithm.as_str();
        let put = bucket.client().put_object().bucket(&bucket.name).key(key);
        let put = put.body(content(1, 100_000).into()).checksum_algorithm(algorithm.clone());
        block_on(put.send()).expect("it is put");
        let url = format!("s3://{}/{key}", bucket.name);
        proxy.behave();
        assert!(run(proxy.endpoint(), &["get", &url, "-"]).stdout == content(1, 100_000));
        let changed = key.to_owned();
        proxy.script(move |request| match request.is_body_of(&changed) {
            true => Fault::Flip(50_000),
            false => Fault::None,
        });
        let (status, says) = refused(run(proxy.endpoint(), &["get", &url, "/dev/null"]));
        assert!(status == 1 && says.contains(&format!("checksum {key}")), "{says}");
    }
}
