//! Readers that are stuck in a read that the store does not answer.

use std::process::{Child, Command, ExitStatus, Stdio};

use super::mount::Mount;
use super::proxy::{Fault, Proxy};
use super::wait::{HANGS, equal, eventually};

/// Starts a `cat` of `name`, and waits until it is stuck in a stalled body.
pub fn reader(mount: &Mount, proxy: &Proxy, name: &'static str) -> Child {
    proxy.script(|request| match request.is_body_of(name) {
        true => Fault::Stall(1 << 20),
        false => Fault::None,
    });
    let mut cat = Command::new("cat");
    cat.arg(mount.path(name)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let reader = cat.spawn().expect("cat");
    eventually(HANGS, || {
        equal("stalls", proxy.did("stall"), 1)?;
        let status = mount.status();
        equal("its state", status.0["handles_detail"][0]["state"].as_str(), Some("reading"))
    });
    reader
}

/// Waits for the end of a process, for a limited time.
pub fn end_of(child: &mut Child) -> ExitStatus {
    eventually(HANGS, || child.try_wait().expect("its status").ok_or("it runs still".to_owned()))
}
