//! The embedded server, tested by the AWS SDK and, if raw bytes matter, over a plain socket.
#![cfg(feature = "demo")]

#[path = "embedded/changes.rs"]
mod changes;
#[path = "embedded/listings.rs"]
mod listings;
#[path = "embedded/mutations.rs"]
mod mutations;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use expirefs::embedded::{Handle, Object, Requests, Server};
use listings::names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[path = "support/sdk.rs"]
mod sdk;

/// The MD5 of `hello`, as an ETag.
const HELLO: &str = "\"5d41402abc4b2a76b9719d911017c592\"";

/// A server with one bucket, `bkt`, and two clients.
struct Rig {
    server: Server,
    handle: Handle,
    anonymous: Client,
    signed: Client,
}

/// A raw HTTP response: the head is status line and headers, up to the empty line.
struct Answer {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Rig {
    async fn new() -> Rig {
        let server = Server::start().await.unwrap();
        let handle = server.handle();
        handle.create_bucket("bkt");
        let config = || {
            aws_sdk_s3::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .http_client(sdk::http())
                .region(Region::new("us-east-1"))
                .endpoint_url(server.endpoint())
                .force_path_style(true)
        };
        let keys = Credentials::new("key", "secret", None, None, "test");
        Rig {
            handle,
            anonymous: Client::from_conf(config().allow_no_auth().build()),
            signed: Client::from_conf(config().credentials_provider(keys).build()),
            server,
        }
    }

    fn get(&self, key: &str) -> GetObjectFluentBuilder {
        self.signed.get_object().bucket("bkt").key(key)
    }

    fn put(&self, key: &str) -> PutObjectFluentBuilder {
        let body = ByteStream::from_static(b"hello");
        let put = self.signed.put_object().bucket("bkt");
        put.key(key).body(body)
    }

    fn list(&self) -> ListObjectsV2FluentBuilder {
        self.signed.list_objects_v2().bucket("bkt")
    }

    async fn connect(&self) -> TcpStream {
        let endpoint = self.server.endpoint();
        let address = endpoint.strip_prefix("http://").unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    /// Sends a request, `line` being method and path, byte for byte.
    async fn raw(&self, line: &str, headers: &[(&str, &[u8])], body: &[u8]) -> Answer {
        let size = body.len();
        let mut request = format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n");
        request.push_str("connection: close\r\n");
        let mut request = request.into_bytes();
        for (name, value) in headers {
            request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        request.extend([b"\r\n", body].concat());
        let mut stream = self.connect().await;
        stream.write_all(&request).await.unwrap();
        let mut head = Vec::new();
        stream.read_to_end(&mut head).await.unwrap();
        let end = head.windows(4).position(|four| four == b"\r\n\r\n");
        let body = head.split_off(end.expect("a whole head") + 4);
        Answer { head, body }
    }
}

impl Answer {
    fn status(&self) -> u16 {
        let digits = std::str::from_utf8(&self.head[9..12]).unwrap();
        digits.parse().unwrap()
    }

    /// The values of all headers of that name, which hyper writes in lower case.
    fn header(&self, name: &str) -> Vec<&[u8]> {
        let name = format!("{name}: ");
        let lines = self.head.split(|&byte| byte == b'\n');
        let values = lines.filter_map(|line| line.strip_prefix(name.as_bytes()));
        values.map(|value| &value[..value.len() - 1]).collect()
    }

    fn says(&self, code: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(&format!("<Code>{code}</Code>"))
    }
}

#[tokio::test]
async fn put_get_and_head_round_trip_signed_and_not() {
    let rig = Rig::new().await;
    for (bucket, sdk) in [("anonymous", &rig.anonymous), ("signed", &rig.signed)] {
        sdk.create_bucket().bucket(bucket).send().await.unwrap();
        sdk.head_bucket().bucket(bucket).send().await.unwrap();
        let key = "a dir/ü+%";
        let put = sdk.put_object().bucket(bucket).key(key);
        let put = put.content_type("text/plain").cache_control("max-age=60");
        let put = put.body(ByteStream::from_static(b"hello")).send().await;
        assert_eq!(put.unwrap().e_tag(), Some(HELLO));

        let got = sdk.get_object().bucket(bucket).key(key).send().await;
        let got = got.unwrap();
        assert_eq!(got.e_tag(), Some(HELLO));
        assert_eq!(got.content_type(), Some("text/plain"));
        assert_eq!(got.cache_control(), Some("max-age=60"));
        assert_eq!(got.accept_ranges(), Some("bytes"));
        assert_eq!(got.expires_string(), None);
        let last_modified = got.last_modified;
        assert_eq!(got.body.collect().await.unwrap().to_vec(), b"hello");

        let head = sdk.head_object().bucket(bucket).key(key).send().await;
        let head = head.unwrap();
        assert_eq!(head.content_length(), Some(5));
        assert_eq!(head.e_tag(), Some(HELLO));
        assert_eq!(head.last_modified, last_modified);
    }
    let again = rig.signed.create_bucket().bucket("signed").send().await;
    assert!(again.unwrap_err().as_service_error().unwrap().is_bucket_already_owned_by_you());
}

/// Over plain HTTP the SDK sends a body that is not in memory aws-chunked, with signed chunks and a
/// checksum in a trailer. (Without credentials it panics there: aws-runtime 1.10.2,
/// `content_encoding/sign.rs`, "signer should be available". Hence unsigned chunks by hand.)
#[tokio::test]
async fn aws_chunked_bodies_are_decoded() {
    let rig = Rig::new().await;
    let content: Vec<u8> = (0..300_007u32).map(|i| (i % 251) as u8).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&content).unwrap();
    let body = ByteStream::from_path(file.path()).await.unwrap();
    rig.put("streamed").body(body).send().await.unwrap();
    assert!(rig.raw("GET /bkt/streamed", &[], b"").await.body == content);

    let chunked: [(&str, &[u8]); 1] = [("x-amz-decoded-content-length", b"5")];
    for (body, expected) in [
        ("5;chunk-signature=0\r\nhello\r\n0;chunk-signature=0\r\nx-amz-checksum:A\r\n\r\n", 200),
        ("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 200),
        ("5\r\nother\r\n", 400),
        ("6\r\nother\r\n0\r\n\r\n", 400),
        ("other", 400),
    ] {
        let put = rig.raw("PUT /bkt/raw", &chunked, body.as_bytes()).await;
        assert_eq!(put.status(), expected, "{body:?}");
        let got = rig.raw("GET /bkt/raw", &[], b"").await;
        assert_eq!(got.body, b"hello", "a refused body does not replace the object");
    }
}

#[tokio::test]
async fn raw_expires_comes_back_byte_for_byte() {
    let rig = Rig::new().await;
    let values: [&[u8]; 9] = [
        b"Thu, 01 Jan 1970 00:00:00 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Thu, 01 Jan 1970 00:00:00 +0100",
        b"2026-01-01T00:00:00Z",
        b"0",
        b"-1",
        b"never",
        b"",
        // Latin-1. aws-sdk-s3 1.157 panics on it (`s3_expires_interceptor.rs`), so raw only.
        b"\xe9t\xe9",
    ];
    for (i, value) in values.into_iter().enumerate() {
        let inside = Object::new("x").expires(value);
        rig.handle.put("bkt", &format!("inside/{i}"), inside);
        let line = format!("PUT /bkt/outside/{i}");
        let outside = rig.raw(&line, &[("Expires", value)], b"x").await;
        assert_eq!(outside.status(), 200, "{value:?}");
        for key in [format!("inside/{i}"), format!("outside/{i}")] {
            for method in ["GET", "HEAD"] {
                let answer = rig.raw(&format!("{method} /bkt/{key}"), &[], b"").await;
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.header("expires"), [value], "{method} {key}");
            }
            if let Ok(text) = std::str::from_utf8(value) {
                let got = rig.get(&key).send().await.unwrap();
                assert_eq!(got.expires_string(), Some(text));
            }
        }
    }
}

#[tokio::test]
async fn every_response_has_a_date_and_none_an_expires_of_its_own() {
    let rig = Rig::new().await;
    rig.handle.put("bkt", "k", Object::new("x"));
    for (line, expected) in [
        ("GET /bkt/k", 200),
        ("HEAD /bkt/k", 200),
        ("GET /bkt/none", 404),
        ("GET /bkt?list-type=2", 200),
        ("PATCH /bkt/k", 501),
    ] {
        let answer = rig.raw(line, &[], b"").await;
        assert_eq!(answer.status(), expected, "{line}");
        assert_eq!(answer.header("date").len(), 1);
        assert!(answer.header("expires").is_empty());
    }
}

#[tokio::test]
async fn objects_put_in_process_keep_their_headers() {
    let rig = Rig::new().await;
    let at = UNIX_EPOCH + Duration::from_millis(1_600_000_000_900);
    let object = Object::new(vec![7; 3]).last_modified(at);
    let object = object.content_type("a/b").cache_control("no-store");
    rig.handle.put("bkt", "k", object);
    let got = rig.get("k").send().await.unwrap();
    assert_eq!(got.content_type(), Some("a/b"));
    assert_eq!(got.cache_control(), Some("no-store"));
    assert_eq!(got.last_modified().unwrap().as_nanos(), 1_600_000_000 * 1_000_000_000);
    assert_eq!(got.body.collect().await.unwrap().to_vec(), [7, 7, 7]);

    rig.handle.put("bkt", "k", Object::new(b""));
    let got = rig.get("k").send().await.unwrap();
    assert_eq!(got.content_type(), Some("binary/octet-stream"));
    assert_eq!(got.content_length(), Some(0));
    assert_eq!(got.e_tag(), Some("\"d41d8cd98f00b204e9800998ecf8427e\""));

    rig.handle.delete("bkt", "k");
    let missing = rig.get("k").send().await.unwrap_err();
    assert!(missing.as_service_error().unwrap().is_no_such_key());
    assert!(rig.raw("GET /bkt/k", &[], b"").await.says("NoSuchKey"));
    assert!(rig.raw("GET /other/k", &[], b"").await.says("NoSuchBucket"));
}

#[tokio::test]
async fn ranges() {
    let rig = Rig::new().await;
    rig.handle.put("bkt", "ten", Object::new("0123456789"));
    rig.handle.put("bkt", "empty", Object::new(""));
    for (range, content, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=7-99", "789", "bytes 7-9/10"),
        ("bytes=-4", "6789", "bytes 6-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
    ] {
        let header: [(&str, &[u8]); 1] = [("range", range.as_bytes())];
        let answer = rig.raw("GET /bkt/ten", &header, b"").await;
        assert_eq!(answer.status(), 206, "{range}");
        assert_eq!(answer.body, content.as_bytes(), "{range}");
        assert_eq!(answer.header("content-range"), [content_range.as_bytes()]);
    }
    for (key, range) in [
        ("ten", "bytes=10-"),
        ("ten", "bytes=10-20"),
        ("ten", "bytes=-0"),
        ("empty", "bytes=0-"),
        ("empty", "bytes=0-0"),
        ("empty", "bytes=-1"),
    ] {
        let header: [(&str, &[u8]); 1] = [("range", range.as_bytes())];
        let answer = rig.raw(&format!("GET /bkt/{key}"), &header, b"").await;
        assert_eq!(answer.status(), 416, "{key} {range}");
        assert!(answer.says("InvalidRange"));
    }
}

#[tokio::test]
async fn conditions_on_reading() {
    let rig = Rig::new().await;
    let hello = HELLO.as_bytes();
    let weak = [b"W/", hello].concat();
    rig.handle.put("bkt", "k", Object::new("hello").expires("0"));
    for (name, value, expected) in [
        ("if-match", hello, 206),
        ("if-match", b"*", 206),
        ("if-match", b"\"other\"", 412),
        ("if-match", &weak, 412),
        ("if-none-match", b"\"other\"", 206),
        ("if-none-match", hello, 304),
        ("if-none-match", &weak, 304),
        ("if-none-match", b"*", 304),
    ] {
        let headers: [(&str, &[u8]); 2] = [(name, value), ("range", b"bytes=1-2")];
        let got = rig.raw("GET /bkt/k", &headers, b"").await;
        assert_eq!(got.status(), expected, "{name} {value:?}");
        let head = rig.raw("HEAD /bkt/k", &headers[..1], b"").await;
        assert_eq!(head.status(), if expected == 206 { 200 } else { expected });
        match expected {
            206 => assert_eq!(got.body, b"el"),
            412 => assert!(got.says("PreconditionFailed")),
            _ => {
                assert_eq!(got.body, b"");
                assert_eq!(got.header("etag"), [hello]);
                assert_eq!(got.header("expires"), [b"0"]);
            }
        }
    }
}

#[tokio::test]
async fn conditions_on_writing() {
    let rig = Rig::new().await;
    rig.handle.put("bkt", "old", Object::new("old"));
    let old = rig.get("old").send().await.unwrap().e_tag.unwrap();
    for (refused, expected) in [
        (rig.put("old").if_none_match("*"), 412),
        (rig.put("old").if_match(HELLO), 412),
        (rig.put("new").if_match(HELLO), 404),
    ] {
        let error = refused.send().await.unwrap_err();
        assert_eq!(error.raw_response().unwrap().status().as_u16(), expected);
    }
    assert_eq!(rig.raw("GET /bkt/old", &[], b"").await.body, b"old");
    rig.put("old").if_match(old).send().await.unwrap();
    rig.put("new").if_none_match("*").send().await.unwrap();
    assert_eq!(rig.raw("GET /bkt/old", &[], b"").await.body, b"hello");
}

#[tokio::test]
async fn http_requests_are_counted_by_kind_and_direct_calls_are_not() {
    let rig = Rig::new().await;
    rig.handle.put("bkt", "inside", Object::new("x"));
    rig.handle.delete("bkt", "inside");
    assert_eq!(rig.handle.requests(), Requests::default());

    for key in ["1", "2", "3"] {
        rig.put(key).send().await.unwrap();
    }
    rig.get("1").send().await.unwrap();
    rig.get("absent").send().await.unwrap_err();
    for line in ["HEAD /bkt/1", "HEAD /bkt", "DELETE /bkt/1"] {
        rig.raw(line, &[], b"").await;
    }
    let keys = ["2", "absent"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let both = Delete::builder().set_objects(Some(keys.into())).build();
    let delete = rig.signed.delete_objects().bucket("bkt").delete(both.unwrap());
    let deleted = delete.send().await.unwrap();
    assert_eq!(deleted.deleted().len(), 2, "S3 reports absent keys as deleted, too");
    assert_eq!(names(rig.list(), 1000).await, ["3"]);
    let copy = rig.signed.copy_object().bucket("bkt").key("4").copy_source("bkt/3");
    copy.send().await.unwrap();
    rig.signed.rename_object().bucket("bkt").key("5").rename_source("bkt/4").send().await.unwrap();
    for line in
        ["POST /bkt/6?uploads", "PUT /bkt/6?partNumber=1&uploadId=a", "DELETE /bkt/6?uploadId=a"]
    {
        rig.raw(line, &[], b"").await;
    }
    let expected = Requests {
        get: 2,
        head: 1,
        list: 1,
        put: 3,
        copy: 1,
        rename: 1,
        delete: 2,
        upload: 3,
        other: 1,
    };
    assert_eq!(rig.handle.requests(), expected);
}

#[tokio::test]
async fn stopping_or_dropping_closes_listener_and_connections() {
    for stop in [true, false] {
        let rig = Rig::new().await;
        let mut idle = rig.connect().await;
        idle.write_all(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        idle.read_exact(&mut [0; 12]).await.unwrap();
        let address = idle.peer_addr().unwrap();
        match stop {
            true => rig.server.stop().await,
            false => drop(rig.server),
        }
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), idle.read_to_end(&mut rest));
        closed.await.expect("a closed connection").unwrap();
        // The listener is closed before the connections.
        assert!(TcpStream::connect(address).await.is_err());
        rig.handle.put("bkt", "k", Object::new("a handle outlives its server"));
    }
}

/// It checks no signatures, so no other host may reach it.
#[tokio::test]
async fn server_listens_on_loopback_only() {
    let server = Server::start().await.unwrap();
    let address = server.endpoint().strip_prefix("http://").unwrap().parse::<SocketAddr>().unwrap();
    assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
    assert!(TcpStream::connect(address).await.is_ok());
    // A server that listens on all addresses would answer.
    let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), address.port()));
    let error = TcpStream::connect(other).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}
