//! O4 and R5: what the log of a mount says, and where it goes.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Answer, Fault, Proxy};
use crate::support::wait::{equal, eventually};

/// For a line to get to its destination.
const SOON: Duration = Duration::from_secs(10);

/// Longer than `--slow`.
const SLOW: Duration = Duration::from_millis(600);

/// A name that forges lines and drives a terminal, if it is shown as it is.
const HOSTILE: &str = "a\n2026-01-01 ERROR forged\u{1b}]0;P\u{7}\u{9b}\u{202e}";

/// More than a lookup fetches.
const LARGE: usize = 2 << 20;

/// A store behind a proxy.
struct Rig {
    proxy: Proxy,
    _store: Embedded,
}

impl Rig {
    fn new() -> Rig {
        let store = Embedded::start();
        store.put(HOSTILE, vec![b'x'; LARGE]);
        store.put("file", "x");
        store.put("other", vec![b'x'; LARGE]);
        Rig { proxy: Proxy::start(store.endpoint(), |_| Fault::None), _store: store }
    }

    fn setup(&self, args: &str) -> Setup {
        Setup::new(self.proxy.endpoint(), Embedded::BUCKET).with(args)
    }

    /// Each further request fails.
    fn fail(&self) {
        let says = "<Error><Code>Nope</Code><Message>none\nERROR forged</Message>\
            <RequestId>req-1</RequestId></Error>";
        self.proxy.script(move |request| {
            let says = if request.method == "HEAD" { "" } else { says };
            let answer = Answer::new(418).header("x-amz-request-id", "req-1");
            Fault::Answer(answer.header("content-type", "application/xml").body(says))
        });
    }
}

/// Opens a file, which fails with EIO.
#[track_caller]
fn assert_fails(mount: &Mount, name: &str) {
    let errno = fs::read(mount.path(name)).expect_err("no answer").raw_os_error();
    assert_eq!(errno, Some(libc::EIO));
}

#[test]
fn a_failed_operation_is_one_line_with_its_name_key_errno_code_and_request_id() {
    let rig = Rig::new();
    let mount = rig.setup("--metadata-ttl 0s --timeout 2s").start();
    fs::metadata(mount.path(HOSTILE)).expect("it is there");
    let cached = rig.setup("--metadata-ttl 60s --timeout 2s").start();
    fs::metadata(cached.path(HOSTILE)).expect("it is there");
    rig.fail();
    // A failed HEAD has no document, and so no code.
    let code = "code=\"Nope\"";
    for (mount, operation, code) in [(&mount, "lookup", ""), (&cached, "open", code)] {
        assert_fails(mount, HOSTILE);
        eventually(SOON, || {
            let said = mount.said();
            // The kernel repeats a lookup whose entry it had.
            let line = said.iter().rfind(|line| line.contains("ERROR")).ok_or("no line")?;
            let operation = format!("operation=\"{operation}\"");
            let named = ["key=\"a\\n", "forged", "errno=EIO", "request_id=\"req-1\"", code];
            for part in named.into_iter().chain([&*operation]) {
                assert!(line.contains(part), "no {part} in {line}");
            }
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
            Ok(())
        });
    }
    rig.proxy.behave();
}

/// What a slow operation waited for (`…_ms`), and how long it took.
fn waits(line: &str) -> (BTreeMap<&str, u64>, u64) {
    let fields = line.split(' ').filter_map(|word| word.split_once("_ms="));
    let mut waits: BTreeMap<_, u64> =
        fields.map(|(name, ms)| (name, ms.parse().expect("a number"))).collect();
    let total = waits.remove("total").expect("total_ms");
    (waits, total)
}

/// Rule of the account: each moment counts once, so the parts are the whole.
#[test]
fn a_slow_operation_is_one_line_with_what_it_waited_for() {
    let rig = Rig::new();
    let mounting = rig.setup("--metadata-ttl 60s --slow 200ms --max-open-bodies 1 --no-parking");
    let mount = mounting.start();
    let (large, other) = (mount.path(HOSTILE), mount.path("other"));
    for path in [&large, &other] {
        fs::metadata(path).expect("it is there");
    }
    rig.proxy.script(|request| match request.is_body_of("other") {
        true => Fault::Delay(SLOW),
        false => Fault::None,
    });
    let file = fs::File::open(&other).expect("open");
    // The first file has the only body until this thread has waited for the second one.
    let second = std::thread::spawn(move || fs::read(large).map(|content| content.len()));
    eventually(SOON, || equal("opens_waiting", mount.status().number("opens_waiting"), 1));
    std::thread::sleep(SLOW);
    drop(file);
    assert_eq!(second.join().expect("no panic").expect("read"), LARGE);
    eventually(SOON, || {
        let said = mount.said();
        let slow: Vec<_> = said.iter().filter(|line| line.contains("--slow")).collect();
        let [first, second] = slow[..] else { return Err(format!("{said:#?}")) };
        for (line, key, most) in [(first, "other", "response"), (second, "a\\n", "body_permit")] {
            assert!(line.contains("operation=\"open\""), "{line}");
            assert!(line.contains(&format!("key=\"{key}")), "{line}");
            let (waits, total) = waits(line);
            let longest = waits.iter().max_by_key(|(_, ms)| **ms).expect("some");
            assert_eq!(*longest.0, most, "{line}");
            // Each part is rounded down.
            let sum: u64 = waits.values().sum();
            assert!(sum <= total && total - sum <= 10, "{sum} of {total}: {line}");
        }
        Ok(())
    });
    rig.proxy.behave();
}
