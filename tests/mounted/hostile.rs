//! Malicious stores. Whatever they answer: no crash, no hang, no wrong names or bytes, no unlimited
//! memory, no credentials for other hosts; and once they behave, the mount works again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::content::{KIB, assert_same_bytes, content};
use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Answer, Fault, Proxy, Request};
use crate::support::wait::{HANGS, within};
use crate::support::{Credentials, Endpoint};

const SIZE: usize = 200 * KIB;

/// More names than any listing here has.
const MANY: usize = 1_000;

/// Far more than the daemon needs, and less than a store could make it use.
const MEMORY_MIB: usize = 100;

/// A store with `good` and `folder/file`, and a new `bad` for each fault; the proxy in front of it
/// causes the faults.
struct Hostile {
    proxy: Proxy,
    store: Embedded,
    bad: RefCell<String>,
}

impl Hostile {
    fn new() -> Hostile {
        let store = Embedded::start();
        store.put("good", content(7, SIZE));
        store.put("folder/file", content(7, SIZE));
        let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
        Hostile { proxy, store, bad: RefCell::default() }
    }

    fn mounting(&self) -> Setup {
        let setup = Setup::new(self.proxy.endpoint(), Embedded::BUCKET);
        setup.with("--timeout 4s --metadata-ttl 0s")
    }

    /// From now on, all requests for a new object get this fault. It is in its own folder, so no
    /// listing has seen it before.
    fn harms_bad(&self, fault: Fault) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let key = format!("{}/bad", COUNT.fetch_add(1, Ordering::Relaxed));
        self.store.put(&key, content(7, SIZE));
        self.bad.replace(key);
        self.harms(|request| request.path.ends_with("/bad"), fault);
    }

    /// From now on, listings of `folder` get this fault, except those that check whether it exists.
    fn harms_folder(&self, fault: Fault) {
        self.harms(is_listing_of_folder, fault);
    }

    fn harms(&self, chosen: impl Fn(&Request) -> bool + Send + Sync + 'static, fault: Fault) {
        self.proxy.script(move |request| if chosen(request) { fault.clone() } else { Fault::None });
    }

    /// Reading `bad` must return all its bytes or one of these errors, in time.
    #[track_caller]
    fn assert_read(&self, what: &str, mount: &Mount, errors: &[i32]) {
        let before = self.proxy.harm();
        let read = within(HANGS, what, || fs::read(mount.path(&*self.bad.borrow())));
        assert!(self.proxy.harm() > before, "{what}: no harm was done");
        match read {
            Ok(bytes) => assert_same_bytes(what, &bytes, &content(7, SIZE)),
            Err(error) => assert_is_one_of(what, &error, errors),
        }
    }

    /// The names in `folder`, in time, or EIO.
    #[track_caller]
    fn names(&self, what: &str, mount: &Mount) -> Option<BTreeSet<String>> {
        let before = self.proxy.harm();
        // As many as mean that there is no end.
        let names = within(HANGS, what, || {
            let names = fs::read_dir(mount.path("folder"))?.take(MANY);
            names.map(|name| Ok(name?.file_name().into_string().expect("UTF-8"))).collect()
        });
        assert!(self.proxy.harm() > before, "{what}: no harm was done");
        let names: io::Result<Vec<String>> = names;
        match names {
            Ok(names) => {
                println!("{what}: {} names", names.len());
                assert!(names.len() < MANY, "{what}: there is no end to it");
                let set: BTreeSet<String> = names.iter().cloned().collect();
                assert_eq!(set.len(), names.len(), "{what}: duplicate names in {names:?}");
                Some(set)
            }
            Err(error) => {
                assert_is_one_of(what, &error, &[libc::EIO]);
                None
            }
        }
    }

    /// Once the store behaves, everything works, and memory is not exhausted.
    #[track_caller]
    fn assert_lives_on(&self, what: &str, mount: &Mount) {
        self.proxy.behave();
        for name in ["good", "folder/file", &*self.bad.borrow()] {
            if name.is_empty() {
                continue;
            }
            let bytes = fs::read(mount.path(name));
            let bytes = bytes.unwrap_or_else(|e| panic!("{what}: then {name}: {e}"));
            assert_same_bytes(&format!("{what}: then {name}"), &bytes, &content(7, SIZE));
        }
        let names = fs::read_dir(mount.path("folder")).expect("ls").map(|n| n.expect("ls"));
        assert_eq!(names.map(|n| n.file_name()).collect::<Vec<_>>(), ["file"], "{what}: then ls");
        let peak = mount.process().peak_memory_kib() / KIB;
        assert!(peak < MEMORY_MIB, "{what}: {peak} MiB were resident");
    }
}

/// A listing of `folder`, not the check whether it exists.
fn is_listing_of_folder(request: &Request) -> bool {
    let Request { query, .. } = request;
    let asks = |what: &str| query.split('&').any(|part| part == what);
    request.is_list() && asks("prefix=folder%2F") && !asks("max-keys=1")
}

#[track_caller]
fn assert_is_one_of(what: &str, error: &io::Error, errors: &[i32]) {
    println!("{what}: {error}");
    let errno = error.raw_os_error().unwrap_or_else(|| panic!("{what}: no errno: {error}"));
    assert!(errors.contains(&errno), "{what}: {error}");
}

const AN_OBJECT: &str = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>\
    <ETag>&quot;00000000000000000000000000000000&quot;</ETag>";

fn object(key: &str, more: &str) -> String {
    format!("<Contents><Key>{key}</Key>{more}</Contents>")
}

/// A page of a listing, as XML.
fn page(entries: &str, next: Option<&str>) -> String {
    let next = next.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>b</Name>\
         <IsTruncated>{}</IsTruncated>{entries}{}</ListBucketResult>",
        next.is_some(),
        next.unwrap_or_default()
    )
}

fn xml(status: u16, body: impl Into<bytes::Bytes>) -> Fault {
    Fault::Answer(Answer::new(status).header("content-type", "application/xml").body(body))
}

/// Very long headers, one or many, for an object and for a listing.
#[test]
fn headers_of_a_mebibyte() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    let long = Answer::new(200).header("x-long", "x".repeat(1 << 20));
    let many = (0..10_000)
        .fold(Answer::new(200), |answer, i| answer.header(&format!("x-{i}"), "x".repeat(100)));
    for (what, answer) in [("a long header", long), ("many headers", many)] {
        hostile.harms_bad(Fault::Answer(answer.clone()));
        hostile.assert_read(what, &mount, &[libc::EIO]);
        hostile.harms_folder(Fault::Answer(answer));
        assert_eq!(hostile.names(what, &mount), None, "{what}");
        hostile.assert_lives_on(what, &mount);
    }
}

/// Header values that are not text. Only an unreadable `Expires` makes an object absent (E3).
#[test]
fn headers_that_are_not_text() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    let names = [
        "etag",
        "last-modified",
        "content-type",
        "content-range",
        "cache-control",
        "expires",
        "date",
        "age",
        "x-amz-expiration",
        "x-amz-storage-class",
        "x-amz-meta-x",
        "x-amz-request-id",
        "x-amz-restore",
        "x-amz-version-id",
        "x-amz-checksum-crc32",
        "x-amz-tagging-count",
        "accept-ranges",
        "content-encoding",
        "x-amz-delete-marker",
        "x-amz-missing-meta",
        "x-amz-object-lock-retain-until-date",
        "x-amz-mp-parts-count",
        "connection",
    ];
    let values = [&b"\xff\xfe"[..], b"\xc3\x28", b"", b"\"", b"-"];
    let controls = [&b"a\x01b"[..], b"a\x7fb", b"a\0b"];
    let cases = names.iter().flat_map(|name| values.map(|value| (*name, value)));
    // These are not allowed in any header (RFC 9110 §5.5), so any header will do.
    let cases = cases.chain(controls.map(|value| ("x-amz-meta-x", value)));
    for (name, value) in cases {
        let what = format!("{name}: {}", value.escape_ascii());
        hostile.harms_bad(Fault::header(name, value));
        let absent = if name == "expires" { libc::ENOENT } else { libc::EIO };
        hostile.assert_read(&what, &mount, &[libc::EIO, libc::ESTALE, absent]);
        hostile.assert_lives_on(&what, &mount);
    }
}

/// Responses that are not HTTP, or of an unknown version.
#[test]
fn answers_that_are_not_http() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    let good = || Answer::new(200);
    for (what, answer) in [
        ("another protocol", good().line("220 smtp.example.com ESMTP")),
        ("status 0", good().line("HTTP/1.1 000 Nothing")),
        ("status 999", good().line("HTTP/1.1 999 Much")),
        ("status 100 without end", good().line("HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000))),
        ("status 101", good().line("HTTP/1.1 101 Switching Protocols")),
        ("status 304", good().line("HTTP/1.1 304 Not Modified")),
        (
            "a chunk of a size that is none",
            good().header("transfer-encoding", "chunked").body("xyz\r\n"),
        ),
        (
            "a chunk without end",
            good().header("transfer-encoding", "chunked").body("ffffffffffffffff\r\nx"),
        ),
        ("two lengths", good().header("content-length", "1").header("content-length", "2")),
    ] {
        hostile.harms_bad(Fault::Answer(answer.clone()));
        hostile.assert_read(what, &mount, &[libc::EIO, libc::ESTALE]);
        hostile.harms_folder(Fault::Answer(answer));
        assert_eq!(hostile.names(what, &mount).unwrap_or_default(), BTreeSet::new(), "{what}");
        hostile.assert_lives_on(what, &mount);
    }
}

/// A listing that loops ends with an error: one token repeated, two tokens in turn, with and
/// without names; and ever new tokens without names.
#[test]
fn listings_that_loop() {
    let file = object("folder/file", &format!("{AN_OBJECT}<Size>1</Size>"));
    assert_ends("one token", 1, &file);
    assert_ends("two tokens", 2, &file);
    assert_ends("one token and no names", 1, "");
    assert_ends("two tokens and no names", 2, "");
    assert_ends("new tokens and no names", u64::MAX, "");
}

/// The same with ever new tokens: the names repeat.
#[test]
fn a_listing_that_restarts_under_new_tokens() {
    let file = object("folder/file", &format!("{AN_OBJECT}<Size>1</Size>"));
    assert_ends("new tokens", u64::MAX, &file);
}

/// A listing of pages with these entries and with `tokens` tokens in turn must end.
#[track_caller]
fn assert_ends(what: &str, tokens: u64, entries: &str) {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    let pages = Arc::new(AtomicU64::new(0));
    let (counted, entries) = (pages.clone(), entries.to_owned());
    hostile.proxy.script(move |request| match is_listing_of_folder(request) {
        true => {
            let token = counted.fetch_add(1, Ordering::Relaxed) % tokens;
            xml(200, page(&entries, Some(&format!("token-{token}"))))
        }
        false => Fault::None,
    });
    hostile.names(what, &mount);
    println!("{what}: {} pages", pages.load(Ordering::Relaxed));
    hostile.assert_lives_on(what, &mount);
}

/// An empty page that is not the last one does not mean an empty directory.
#[test]
fn a_directory_that_begins_with_an_empty_page() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    hostile.proxy.script(|request| {
        let listing = request.is_list() && request.query.contains("prefix=folder%2F");
        match listing && !request.query.contains("continuation-token") {
            true => xml(200, page("", Some("on"))),
            // The server knows no such token.
            false if listing => {
                let file = object("folder/file", &format!("{AN_OBJECT}<Size>5</Size>"));
                xml(200, page(&file, None))
            }
            false => Fault::None,
        }
    });
    let names = hostile.names("an empty page", &mount);
    assert_eq!(names, Some(BTreeSet::from(["file".to_owned()])));
    hostile.assert_lives_on("an empty page", &mount);
}

/// N1: names outside the directory and invalid names are not shown; nor are keys that are listed
/// but do not exist.
#[test]
fn keys_that_do_not_belong() {
    let hostile = Hostile::new();
    hostile.store.put("outside", "x");
    hostile.store.put("folder/../outside", "x");
    let mount = hostile.mounting().start();
    let keys = [
        "outside",
        "folder/../outside",
        "folder/..",
        "folder/.",
        "folder/",
        "folder//x",
        "folder",
        "/etc/passwd",
        "folder/a/b",
        "../outside",
        "",
        "FOLDER/x",
        "folder/ghost",
        "folder/file",
        "folder/file",
        "folder/&#xD800;",
        "folder/a&#10;b",
    ];
    let longest = format!("folder/{}", "x".repeat(256));
    let keys = keys.into_iter().chain([longest.as_str()]);
    let objects: String =
        keys.map(|key| object(key, &format!("{AN_OBJECT}<Size>1</Size>"))).collect();
    let prefixes =
        ["folder/../", "folder/./", "folder//", "folder/a/b/", "other/", "/", "", "folder/"];
    let prefixes =
        prefixes.map(|p| format!("<CommonPrefixes><Prefix>{p}</Prefix></CommonPrefixes>"));
    let no_surrogate = objects.replace("&#xD800;", "");
    for (what, entries) in [
        ("keys", no_surrogate.clone()),
        ("keys and prefixes", no_surrogate + &prefixes.concat()),
        ("a key that is no text", objects),
    ] {
        hostile.harms_folder(xml(200, page(&entries, None)));
        if let Some(names) = hostile.names(what, &mount) {
            assert_eq!(names, BTreeSet::from(["file".to_owned()]), "{what}");
        }
        hostile.assert_lives_on(what, &mount);
    }
    let above = mount.dir().parent().expect("a folder").metadata().expect("its metadata");
    let back = fs::metadata(mount.path("folder/../..")).expect("out of the mount");
    assert_eq!((back.dev(), back.ino()), (above.dev(), above.ino()));
}

/// Malformed lengths, and lengths larger than any object.
#[test]
fn lengths_that_cannot_be() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    let lengths = ["-1", "18446744073709551616", "9223372036854775807", "0x10", "1e3", "", "1, 2"];
    for length in lengths {
        let what = format!("Content-Length: {length}");
        hostile.harms_bad(Fault::header("content-length", length));
        let bad = mount.path(&*hostile.bad.borrow());
        let stat = within(HANGS, &what, || fs::metadata(&bad));
        if let Err(error) = &stat {
            assert_is_one_of(&what, error, &[libc::EIO]);
        }
        // It may be too long to read to its end: reads some pieces.
        if let Ok(file) = File::open(&bad) {
            for offset in [0, SIZE as u64, 1 << 40, i64::MAX as u64 - 4096] {
                let mut bytes = [0; 4096];
                let read = within(HANGS, &what, || file.read_at(&mut bytes, offset));
                match read {
                    Ok(n) => assert!(n == 0 || offset == 0, "{what}: {n} bytes at {offset}"),
                    Err(error) => assert_is_one_of(&what, &error, &[libc::EIO, libc::ESTALE]),
                }
            }
        }
        hostile.assert_lives_on(&what, &mount);

        let what = format!("Size: {length}");
        let size = format!("{AN_OBJECT}<Size>{length}</Size>");
        hostile.harms_folder(xml(200, page(&object("folder/file", &size), None)));
        hostile.names(&what, &mount);
        hostile.assert_lives_on(&what, &mount);
    }
    hostile.harms_folder(xml(200, page(&object("folder/file", AN_OBJECT), None)));
    hostile.names("no Size", &mount);
    hostile.harms_folder(xml(200, page("<Contents></Contents>", None)));
    hostile.names("no key", &mount);
    hostile.assert_lives_on("no key", &mount);
}

/// If a listing and the headers of an object contradict each other, the headers count.
#[test]
fn a_listing_with_wrong_sizes() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    let listed = object("folder/file", &format!("{AN_OBJECT}<Size>5</Size>"));
    hostile.harms_folder(xml(200, page(&listed, None)));
    let names = hostile.names("another size", &mount).expect("a listing");
    assert_eq!(names, BTreeSet::from(["file".to_owned()]));
    let path = mount.path("folder/file");
    assert_eq!(fs::metadata(&path).expect("stat").len(), SIZE as u64);
    assert_same_bytes("the file", &fs::read(&path).expect("read"), &content(7, SIZE));
    hostile.assert_lives_on("another size", &mount);
}

/// Dates beyond all calendars, in headers and in listings; `--default-ttl` is added to them.
#[test]
fn dates_in_the_far_future() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().with("--default-ttl 36500d").start();
    for year in ["99999", "9999", "0001", "0000", "-5", "292277026596", "1601"] {
        for name in ["last-modified", "expires", "date"] {
            let what = format!("{name} {year}");
            hostile.harms_bad(Fault::header(name, format!("Fri, 01 Jan {year} 00:00:00 GMT")));
            let absent = libc::ENOENT; // by the rules, some of these are over
            hostile.assert_read(&what, &mount, &[libc::EIO, libc::ESTALE, absent]);
        }
        let what = format!("listed {year}");
        let listed = format!(
            "<LastModified>{year}-01-01T00:00:00.000Z</LastModified><ETag>x</ETag><Size>1</Size>"
        );
        hostile.harms_folder(xml(200, page(&object("folder/file", &listed), None)));
        hostile.names(&what, &mount);
        hostile.assert_lives_on(&what, &mount);
    }
}

/// A Content-Encoding is never decoded: the bytes are returned as stored.
#[test]
fn unrequested_content_encodings() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    for encoding in ["gzip", "deflate", "br", "aws-chunked", "gzip, gzip"] {
        hostile.harms_bad(Fault::header("content-encoding", encoding));
        hostile.assert_read(encoding, &mount, &[]);
        hostile.assert_lives_on(encoding, &mount);
    }
}

/// M4: a redirect to another host is not followed: it gets no request, with credentials or without.
#[test]
fn redirects_to_another_host() {
    let hostile = Hostile::new();
    let other = Proxy::start(hostile.store.endpoint(), |_| Fault::None);
    let credentials =
        Credentials { access_key_id: "someone".into(), secret_access_key: "a secret".into() };
    let url = hostile.proxy.endpoint().url.clone();
    let endpoint = Endpoint { url, credentials: Some(credentials) };
    let setup = Setup::new(&endpoint, Embedded::BUCKET).with("--timeout 4s --metadata-ttl 0s");
    let mount = setup.start();
    let signed = Arc::new(AtomicU64::new(0));
    for status in [300, 301, 302, 303, 307, 308] {
        let what = status.to_string();
        hostile.harms_bad(Fault::None);
        let there = format!("{}/{}/bad", other.endpoint().url, Embedded::BUCKET);
        let Fault::Answer(redirect) = Fault::redirect(status, there) else { unreachable!() };
        let redirect = redirect.header("x-amz-bucket-region", "eu-north-1").body(
            "<Error><Code>PermanentRedirect</Code><Endpoint>elsewhere.example</Endpoint></Error>",
        );
        let seen = signed.clone();
        hostile.proxy.script(move |request| {
            seen.fetch_add(
                u64::from(request.head.get("authorization").is_some()),
                Ordering::Relaxed,
            );
            match request.path.ends_with("/bad") || is_listing_of_folder(request) {
                true => Fault::Answer(redirect.clone()),
                false => Fault::None,
            }
        });
        hostile.assert_read(&what, &mount, &[libc::EIO]);
        assert_eq!(hostile.names(&what, &mount), None, "{what}");
        assert_eq!(other.requests(), 0, "{what} was followed");
        hostile.assert_lives_on(&what, &mount);
    }
    assert!(signed.load(Ordering::Relaxed) > 0, "no request was signed, so this proves nothing");
}

/// Entities that expand without limit, documents nested without end, and truncated ones: as
/// listings, and as errors.
#[test]
fn malicious_xml() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    let entities: String = (1..10)
        .map(|i| format!("<!ENTITY e{i} \"{}\">", format!("&e{};", i - 1).repeat(10)))
        .collect();
    let bomb = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY e0 \"expanded\">{entities}]>\
         <ListBucketResult><Contents><Key>folder/&e9;</Key>{AN_OBJECT}<Size>1</Size></Contents>\
         </ListBucketResult>"
    );
    let outside = "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>\
        <ListBucketResult><Contents><Key>folder/&e;</Key></Contents></ListBucketResult>";
    let deep = format!("<ListBucketResult>{}", "<Contents>".repeat(200_000));
    let wide = format!("<ListBucketResult {}/>", "a='b' ".repeat(200_000));
    for (what, body) in [
        ("a bomb", bomb),
        ("an entity from outside", outside.to_owned()),
        ("depth", deep.clone()),
        ("depth that ends", deep + &"</Contents>".repeat(200_000) + "</ListBucketResult>"),
        ("width", wide),
        ("no XML", "{\"json\": 1}".to_owned()),
        ("half of it", "<ListBucketResult><Contents><Key>folder/fi".to_owned()),
        ("nothing", String::new()),
        ("another document", "<Error><Code>NoSuchKey</Code></Error>".to_owned()),
        ("NUL", "<ListBucketResult>\0</ListBucketResult>".to_owned()),
    ] {
        hostile.harms_folder(xml(200, body.clone()));
        let names = hostile.names(what, &mount).unwrap_or_default();
        assert_eq!(names, BTreeSet::new(), "{what}");
        for status in [400, 403, 500] {
            hostile.harms_bad(xml(status, body.replace("ListBucketResult", "Error")));
            hostile.assert_read(what, &mount, &[libc::EIO, libc::EACCES]);
        }
        hostile.assert_lives_on(what, &mount);
    }
}

/// Errors of 100 MiB instead of a few hundred bytes, and errors that never end.
#[test]
fn errors_of_a_hundred_mebibytes() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    let piece = format!("<Error><Code>AccessDenied</Code><Message>{}", "x".repeat(1 << 20));
    for status in [400, 403, 404, 416, 500] {
        let what = format!("a {status} of 100 MiB");
        let answer = Answer::new(status).body(piece.clone()).repeated(100);
        hostile.harms_bad(Fault::Answer(answer));
        let errors = [libc::EIO, libc::EACCES, libc::ENOENT];
        let errors = if status == 404 { &errors[..] } else { &errors[..2] };
        hostile.assert_read(&what, &mount, errors);
        hostile.assert_lives_on(&what, &mount);
    }
}

/// The same for a listing, which may have up to 1,000 names of up to 1,024 bytes.
#[test]
fn a_listing_of_a_hundred_mebibytes() {
    let hostile = Hostile::new();
    let mount = hostile.mounting().start();
    for (what, times) in [("100 MiB", 100), ("a listing without end", 1 << 20)] {
        let answer = Answer::new(200).header("content-type", "application/xml");
        let answer = answer.body(" ".repeat(1 << 20)).repeated(times);
        hostile.harms_folder(Fault::Answer(answer));
        hostile.names(what, &mount);
        hostile.assert_lives_on(what, &mount);
    }
}
