//! Processes of this host, as `/proc` shows them.

/// The process of a thread or process id; `None` if it has ended, or is not visible in this PID
/// namespace.
pub fn of_thread(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
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
