//! Shared mappings of a file that was closed (rule W3): the kernel sends their pages at msync(2), at
//! munmap(2) and at the end of the process, and the daemon commits them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::embedded::Embedded;
use crate::support::mount::{Mount, Setup};
use crate::support::proxy::{Fault, Proxy};
use crate::support::tools::shell;
use crate::support::wait::{HANGS, equal, eventually};

/// Maps `f`, which has 10,000 bytes, closes it, and writes into the mapping. No descriptor is left:
/// the module mmap of Python would keep one.
const MAPS: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
f = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.write(f, b"." * 10000)
p = libc.mmap(None, 10000, 3, 1, f, 0)
os.close(f)
ctypes.memmove(p + 5000, b"late", 4)
"#;

/// A program that runs this in the mount after [`MAPS`].
fn program(mount: &Mount, then: &str) -> Command {
    let mut python = Command::new("python3");
    python.args(["-c", &format!("{MAPS}{then}")]).current_dir(mount.dir());
    python
}

/// Its page, once the store has it.
#[track_caller]
fn assert_late(store: &Embedded) {
    eventually(HANGS, || {
        let body = store.get("f").ok_or("there is no f")?.body;
        equal("the page", (&body[5000..5004], body.len()), (&b"late"[..], 10000))
    });
}

#[test]
fn what_is_mapped_and_written_after_close_is_committed_at_msync_munmap_or_exit() {
    for then in ["libc.munmap(p, 10000)", "os._exit(0)"] {
        let store = Embedded::start();
        let mount = store.mounting().writable().start();
        assert!(program(&mount, then).status().expect("python3").success());
        assert_late(&store);
    }
    let store = Embedded::start();
    let mount = store.mounting().writable().start();
    // 4: MS_SYNC. It returns after the commit.
    let then = "assert libc.msync(p, 10000, 4) == 0; print(1, flush=True); input()";
    let mut program = Waiting::start(program(&mount, then));
    assert_eq!(&store.body("f")[5000..5004], b"late");
    program.goes_on();
}

/// No program can be told.
#[test]
fn a_mapping_whose_commit_fails_after_the_close_is_an_error_in_the_log() {
    let store = Embedded::start();
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    let setup = Setup::new(proxy.endpoint(), Embedded::BUCKET).writable();
    let mount = setup.with("--timeout 2s").start();
    let mut program = Waiting::start(program(&mount, "print(1, flush=True); input()"));
    proxy.script(|request| match &*request.method {
        "PUT" => Fault::status(500, None),
        _ => Fault::None,
    });
    program.goes_on();
    eventually(HANGS, || equal("untold", mount.status().number("writing.failed_untold"), 1));
    let said = mount.said().join("\n");
    let line = said.lines().find(|line| line.contains("could not be committed"));
    assert!(line.is_some_and(|line| line.contains("ERROR") && line.contains("key=f")), "{said}");
    assert_eq!(&store.body("f")[5000..5004], b"....");
    proxy.behave();
    assert_eq!(shell(mount.dir(), "tail -c 3 f"), "...");
}

/// The daemon sees such pages only if it asks the kernel for them.
#[test]
fn a_signal_while_a_mapping_is_written_names_its_file() {
    let store = Embedded::start();
    let mut mount = store.mounting().writable().start();
    let mut program = Waiting::start(program(&mount, "print(1, flush=True); input()"));
    mount.signal(Signal::SIGTERM);
    assert!(mount.ended().success());
    let said = mount.said().join("\n");
    let named = said.lines().find(|line| line.contains("still being written"));
    assert!(named.is_some_and(|line| line.contains("key=f")), "{said}");
    assert_eq!(&store.body("f")[5000..5004], b"....", "the version of the close");
    program.end();
}

/// A program that waits for a line after its mapping was written.
struct Waiting(Child);

impl Waiting {
    fn start(mut command: Command) -> Waiting {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = Waiting(child.expect("python3"));
        let mut line = String::new();
        let stdout = program.0.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "1\n");
        program
    }

    /// Lets it go on, to its end.
    #[track_caller]
    fn goes_on(&mut self) {
        self.0.stdin.take().expect("it is piped").write_all(b"\n").expect("write");
        assert!(self.0.wait().expect("its status").success());
    }

    fn end(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("its status");
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may have ended.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
