//! O3: the protocol of sd_notify(3), with a socket of the test in the place of systemd; and the units,
//! as `systemd-analyze verify` sees them.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::mount::Mount;
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::wait::HANGS;

fn bucket() -> Bucket {
    let bucket = seaweedfs().bucket("supervised");
    bucket.put("small", object("small"));
    bucket
}

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(HANGS)).expect("a timeout");
        Manager { socket, folder }
    }

    fn start(
        &self,
        bucket: &Bucket,
        endpoint: Option<&Proxy>,
        watchdog: Option<Duration>,
    ) -> Mount {
        let mut setup = bucket.mounting();
        if let Some(proxy) = endpoint {
            setup = crate::support::mount::Setup::new(proxy.endpoint(), &bucket.name);
        }
        let path = self.folder.path().join("notify");
        setup = setup.env("NOTIFY_SOCKET", path.to_str().expect("text"));
        if let Some(limit) = watchdog {
            setup = setup.env("WATCHDOG_USEC", &limit.as_micros().to_string());
        }
        setup.start()
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Reads up to the first message that has this in it.
    #[track_caller]
    fn until(&self, part: &str) -> String {
        std::iter::repeat_with(|| self.next()).find(|message| message.contains(part)).expect("it")
    }

    /// Forgets what was sent so far.
    fn drain(&self) {
        self.socket.set_nonblocking(true).expect("a flag");
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).expect("a flag");
    }
}

#[test]
fn the_manager_is_told_of_readiness_of_a_true_status_and_of_the_end() {
    let (bucket, manager) = (bucket(), Manager::new());
    let mut mount = manager.start(&bucket, None, None);
    let ready = manager.until("READY=1");
    let expected =
        format!("STATUS=serving s3://{}/ on {}: 0 of ", bucket.name, mount.dir().display());
    assert!(ready.contains(&expected) && ready.contains("0 handles"), "{ready}");
    let file = fs::File::open(mount.path("small")).expect("open");
    manager.until("1 handles");
    // `systemctl reload`.
    mount.signal(Signal::SIGHUP);
    drop(file);
    manager.until("0 handles");
    assert_eq!(fs::read_to_string(mount.path("small")).expect("it serves still"), "small");
    mount.signal(Signal::SIGTERM);
    manager.until("STOPPING=1");
    manager.until("EXTEND_TIMEOUT_USEC=30000000");
    mount.assert_ended_well();
}

/// A mount that answers is alive, whatever the store does.
#[test]
fn the_watchdog_is_fed_by_the_mount_and_not_by_the_store() {
    let (bucket, manager) = (bucket(), Manager::new());
    let proxy = Proxy::start(bucket.endpoint(), |_| Fault::None);
    let mount = manager.start(&bucket, Some(&proxy), Some(Duration::from_millis(200)));
    manager.until("WATCHDOG=1");
    proxy.script(|_| Fault::Delay(Duration::MAX));
    manager.drain();
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    // Covered by another mount it cannot be asked, which is no reason to kill it.
    let cover = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(mount.dir()).status();
    assert!(cover.expect("mount(8)").success());
    manager.drain();
    manager.until("WATCHDOG=1");
    assert!(Command::new("umount").arg(mount.dir()).status().expect("umount(8)").success());
    manager.drain();
    manager.until("WATCHDOG=1");
}

#[test]
fn the_units_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package/systemd");
    let copy = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(&folder).expect("the units") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("text");
        // The program need not be installed here.
        let text = text.replace("/usr/bin/expirefs", env!("CARGO_BIN_EXE_expirefs"));
        fs::write(copy.path().join(path.file_name().expect("a name")), text).expect("a copy");
    }
    for unit in ["expirefs@x.service", "expirefs-sweep@x.service", "expirefs-sweep@x.timer"] {
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(copy.path().join(unit));
        let output = verify.output().expect("systemd-analyze(1)");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{unit}: {said}");
    }
}
