//! Processes of this host, as `/proc` shows them.

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The process of a thread or process id; `None` if it has ended, or is not visible in this PID
/// namespace.
pub fn of_thread(thread: u32) -> Option<u32> {
    if is_process(thread) {
        return Some(thread);
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Whether this is the first thread of its process: pidfd_open(2) refuses the others. Cheaper than a
/// file in `/proc`, and most programs open files from their first thread.
fn is_process(thread: u32) -> bool {
    let id = i32::try_from(thread).ok().and_then(Pid::from_raw);
    id.is_some_and(|id| pidfd_open(id, PidfdFlags::empty()).is_ok())
}

/// The same, with the name of its command.
pub fn with_command(thread: u32) -> Option<(u32, String)> {
    let pid = of_thread(thread)?;
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((pid, command.trim_end().to_owned()))
}

/// A process for a log line: `NAME (PID)`.
pub fn described(thread: u32) -> String {
    match with_command(thread) {
        Some((pid, command)) => format!("{command} ({pid})"),
        None => format!("a process that is gone ({thread})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_any_of_its_threads_is_known() {
        let this = std::process::id();
        let thread = || {
            let link = std::fs::read_link("/proc/thread-self").expect("a thread");
            let id = link.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("an id");
            (id, is_process(id), of_thread(id))
        };
        let (id, is_process, process) = std::thread::spawn(thread).join().expect("a thread");
        assert_ne!(id, this);
        assert_eq!((is_process, process), (false, Some(this)));
        assert_eq!((super::is_process(this), of_thread(this)), (true, Some(this)));
        assert_eq!(of_thread(0), None);
    }
}
