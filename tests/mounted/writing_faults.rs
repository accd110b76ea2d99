//! A store that fails at any request of a change: what a program is told is what the store holds, the
//! old version is there until a whole new one is, and no upload is left. W2, W13 and W14.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::support::content::{MIB, content};
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Answer, Fault, Proxy, Request};
use crate::support::s3_server::{object, seaweedfs};
use crate::support::wait::{HANGS, equal, eventually, within};

/// Closes a file, and returns what close(2) does.
fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    let written = file.write_all(bytes);
    close(file).and(written)
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Create,
    Part(u32),
    CopyPart,
    Complete,
    Abort,
    Copy,
    Rename,
    Delete,
}

fn kind(request: &Request) -> Option<Kind> {
    let asks = |parameter: &str| request.query.split('&').any(|it| it.starts_with(parameter));
    let copies = request.head.get("x-amz-copy-source").is_some();
    Some(match &*request.method {
        "PUT" if asks("partNumber=") && copies => Kind::CopyPart,
        "PUT" if asks("partNumber=") => {
            let mut parameters = request.query.split('&');
            let number = parameters.find_map(|it| it.strip_prefix("partNumber="));
            Kind::Part(number?.parse().ok()?)
        }
        "PUT" if asks("renameObject") => Kind::Rename,
        "PUT" if copies => Kind::Copy,
        "PUT" => Kind::Put,
        "POST" if asks("uploads") => Kind::Create,
        "POST" if asks("uploadId=") => Kind::Complete,
        "DELETE" if asks("uploadId=") => Kind::Abort,
        "DELETE" => Kind::Delete,
        _ => return None,
    })
}

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Replaces a file by a small one.
    Small,
    /// Replaces a file by one of two parts.
    Large,
    /// Appends to a file of two parts.
    Append,
    /// Writes a file and gives it another's name.
    Rename,
    /// The same, and another rule holds for the new name, so that it is a copy.
    RenameByCopy,
}

/// With parts of 5 MiB.
const LARGE: usize = 5 * MIB + 1000;

impl Program {
    fn requests(self) -> &'static [Kind] {
        match self {
            Program::Small => &[Kind::Put],
            Program::Large => &[Kind::Create, Kind::Part(1), Kind::Part(2), Kind::Complete],
            Program::Append => &[Kind::CopyPart, Kind::Part(2)],
            Program::Rename => &[Kind::Rename],
            Program::RenameByCopy => &[Kind::Copy, Kind::Delete],
        }
    }

    fn renames(self) -> bool {
        matches!(self, Program::Rename | Program::RenameByCopy)
    }

    fn suffix(self) -> &'static str {
        if self == Program::RenameByCopy { ".html" } else { "" }
    }

    /// What its file is before, and what it makes of it.
    fn contents(self) -> (Bytes, Bytes) {
        let old = match self {
            Program::Append => content(1, LARGE),
            _ => Bytes::from("the old version"),
        };
        let new = match self {
            Program::Large => content(2, LARGE),
            Program::Append => [&old[..], b"more"].concat().into(),
            _ => Bytes::from("the new one"),
        };
        (old, new)
    }
}

/// A program whose request gets a fault, once or each time.
struct Case {
    /// Of its file, in its own directory: the kernel renames in one directory one after the other.
    key: String,
    program: Program,
    kind: Kind,
    what: &'static str,
    fault: Fault,
    lasts: bool,
    /// Its uploads cannot be aborted.
    stays: bool,
    met: AtomicUsize,
}

fn faults() -> [(&'static str, Fault); 6] {
    let body = "<Error><Code>InternalError</Code><Message>so the test says</Message></Error>";
    let late = Answer::new(200).header("content-type", "application/xml").body(body);
    let page = Answer::new(200).header("content-type", "text/html").header("etag", "\"5f3a\"");
    let page = page.body("<html>Log in</html>");
    [
        ("closed", Fault::Close),
        ("lost", Fault::Lose),
        ("500", Fault::status(500, None)),
        ("503", Fault::status(503, None)),
        ("an error after a 200", Fault::Answer(late)),
        ("a page with 200", Fault::Answer(page)),
    ]
}

impl Case {
    fn all(lasts: bool) -> Vec<Case> {
        let programs = [
            Program::Small,
            Program::Large,
            Program::Append,
            Program::Rename,
            Program::RenameByCopy,
        ];
        let mut cases = Vec::new();
        for program in programs {
            for &kind in program.requests() {
                for (what, fault) in faults() {
                    // These have no answer but their status.
                    if what.ends_with("200") && matches!(kind, Kind::Rename | Kind::Delete) {
                        continue;
                    }
                    let key = format!("{}/f{}", cases.len(), program.suffix());
                    let stays = lasts && kind == Kind::Complete && what == "500";
                    let met = AtomicUsize::new(0);
                    cases.push(Case { key, program, kind, what, fault, lasts, stays, met });
                }
            }
        }
        cases
    }

    fn described(&self) -> String {
        let Case { key, program, kind, what, lasts, .. } = self;
        let often = if *lasts { "each time" } else { "once" };
        format!("{key}: {program:?}, {kind:?}: {what} {often}")
    }

    /// The file that it renames.
    fn source(&self) -> String {
        format!("{}.source", self.key)
    }

    fn has(&self, request: &Request) -> bool {
        request.is_of(&self.key) || request.is_of(&self.source())
    }

    fn fault(&self, request: &Request) -> Fault {
        let kind = kind(request);
        if self.stays && kind == Some(Kind::Abort) {
            return Fault::status(500, None);
        }
        // The new version is written to the source without faults, as a PUT.
        if kind != Some(self.kind) {
            return Fault::None;
        }
        match self.met.fetch_add(1, Ordering::Relaxed) == 0 || self.lasts {
            true => self.fault.clone(),
            false => Fault::None,
        }
    }

    /// Whether the change is made all the same. What has no answer but was made is found by a HEAD, or
    /// is done again; the DELETE of a source may fail.
    fn succeeds(&self) -> bool {
        let is_lost = matches!(self.fault, Fault::Lose);
        let is_commit = matches!(self.kind, Kind::Put | Kind::Complete | Kind::Copy | Kind::Rename);
        self.kind == Kind::Delete || !self.lasts || (is_lost && is_commit)
    }

    fn run(&self, mount: &Mount) -> io::Result<()> {
        let (_, new) = self.program.contents();
        let path = mount.path(&self.key);
        match self.program {
            Program::Small | Program::Large => write(&path, &new),
            Program::Append => {
                let mut file = OpenOptions::new().append(true).open(path)?;
                let written = file.write_all(b"more");
                close(file).and(written)
            }
            Program::Rename | Program::RenameByCopy => fs::rename(mount.path(self.source()), path),
        }
    }
}

/// Runs these in parallel, each with its own file, on one mount.
fn run(cases: Vec<Case>, timeout: &str) {
    let bucket = seaweedfs().bucket("failing");
    let cases = Arc::new(cases);
    for case in cases.iter() {
        let (old, new) = case.program.contents();
        bucket.put(&case.key, object(old));
        if case.program.renames() {
            bucket.put(&case.source(), object(new));
        }
    }
    let proxy = Proxy::start(bucket.endpoint(), |_| Fault::None);
    let spool = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(proxy.endpoint(), &bucket.name).writable();
    let setup = setup.with("--ttl-rule *.html=2h --part-size 5MiB --timeout").with(timeout);
    let setup = setup.with(&format!("--spool {}", spool.path().display()));
    let mount = setup.start();
    let of = Arc::clone(&cases);
    proxy.script(move |request| {
        of.iter().find(|case| case.has(request)).map_or(Fault::None, |case| case.fault(request))
    });
    let told: Vec<io::Result<()>> = within(3 * HANGS, "all programs", || {
        thread::scope(|scope| {
            let running: Vec<_> =
                cases.iter().map(|case| scope.spawn(|| case.run(&mount))).collect();
            running.into_iter().map(|it| it.join().expect("a program")).collect()
        })
    });
    let mut wrong = Vec::new();
    for (case, told) in cases.iter().zip(&told) {
        let (old, new) = case.program.contents();
        let mut must = |what: &str, is_so: bool| {
            if !is_so {
                wrong.push(format!("not so: {what}; {}; told {told:?}", case.described()));
            }
        };
        let has = bucket.content(&case.key);
        must("the fault was met", case.met.load(Ordering::Relaxed) > 0);
        must("it succeeds, or fails, as it should", told.is_ok() == case.succeeds());
        let errno = told.as_ref().err().and_then(io::Error::raw_os_error);
        must("a failure is EIO", errno.is_none_or(|errno| errno == libc::EIO));
        match told {
            Ok(()) => must("the store has the new version", has.as_ref() == Some(&new)),
            Err(_) => must("the store has the old version", has.as_ref() == Some(&old)),
        }
        must("it is what is read", fs::read(mount.path(&case.key)).ok().map(Bytes::from) == has);
        if case.program.renames() && told.is_err() {
            must("its source is there", bucket.content(&case.source()) == Some(new));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // A failed abort is in the journal.
    drop(mount);
    proxy.behave();
    let left = || bucket.uploads();
    let stays = cases.iter().filter(|case| case.stays).map(|case| case.key.clone());
    assert_eq!(left(), stays.collect::<Vec<_>>(), "uploads left by the first mount");
    let _again = setup.start();
    eventually(Duration::from_secs(20), || equal("uploads", left(), Vec::new()));
}

#[test]
fn a_change_of_which_any_request_fails_once_is_made() {
    run(Case::all(false), "90s");
}

#[test]
fn a_program_is_told_of_success_only_if_the_store_has_its_bytes_whatever_request_fails() {
    run(Case::all(true), "4s");
}
