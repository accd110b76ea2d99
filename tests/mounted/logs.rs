//! O4 and R5: what the log of a mount says, and where it goes.

use std::fs;
use std::time::Duration;

use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Answer, Fault, Proxy};
use crate::support::wait::eventually;

/// For a line to get to its destination.
const SOON: Duration = Duration::from_secs(10);

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
        Rig { proxy: Proxy::start(store.endpoint(), |_| Fault::None), _store: store }
    }

    fn setup(&self, args: &str) -> Setup {
        Setup::new(self.proxy.endpoint(), Embedded::BUCKET).with("--timeout 2s").with(args)
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
    let mount = rig.setup("--metadata-ttl 0s").start();
    fs::metadata(mount.path(HOSTILE)).expect("it is there");
    let cached = rig.setup("--metadata-ttl 60s").start();
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
