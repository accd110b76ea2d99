//! What the kernel shows about a process: its descriptors, its TCP sockets, its group.

use std::collections::HashSet;
use std::fs;

/// TCP states as `/proc/net/tcp` writes them (the kernel's `net/tcp_states.h`).
pub const CLOSE_WAIT: &str = "08";

/// A process by its id; it must be running, or the methods panic.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// How many descriptors it has open.
    pub fn fds(self) -> usize {
        self.descriptors().len()
    }

    /// How many TCP sockets it has, whatever their state.
    pub fn tcp_sockets(self) -> usize {
        self.tcp_states().len()
    }

    /// Its TCP sockets that the other side has closed and it has not.
    pub fn close_wait(self) -> usize {
        self.tcp_states().iter().filter(|state| *state == CLOSE_WAIT).count()
    }

    /// Its peak resident memory so far, in KiB, without the pages of the program's own file: of a
    /// debug build they are most of it.
    pub fn peak_memory_kib(self) -> usize {
        self.memory("VmHWM:").saturating_sub(self.memory("RssFile:"))
    }

    /// A line of its status that counts KiB (proc_pid_status(5)).
    pub fn memory(self, field: &str) -> usize {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = value.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        kib.unwrap_or_else(|| panic!("{path} has no {field}"))
    }

    /// The target of each descriptor, from the links in `/proc/PID/fd`.
    fn descriptors(self) -> Vec<String> {
        let folder = format!("/proc/{}/fd", self.0);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder}: {e}"));
        entries
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()) // closed meanwhile
            .map(|target| target.to_string_lossy().into_owned())
            .collect()
    }

    fn tcp_states(self) -> Vec<String> {
        let inodes: HashSet<String> = (self.descriptors().iter())
            .filter_map(|d| Some(d.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", self.0));
        // A kernel without IPv6 has no tcp6.
        let rows = tables.iter().filter_map(|path| fs::read_to_string(path).ok());
        rows.flat_map(|table| {
            let columns =
                table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
            let ours =
                columns.filter(|row| row.get(9).is_some_and(|inode| inodes.contains(*inode)));
            ours.map(|row| row[3].to_owned()).collect::<Vec<_>>()
        })
        .collect()
    }
}

/// The processes of a group that have not ended (zombies have).
pub fn alive_in_group(group: u32) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let stats = entries.filter_map(|e| fs::read_to_string(e.ok()?.path().join("stat")).ok());
    // pid (name) state ppid pgrp …; the name may hold anything, so split after it.
    let alive = stats.filter(|stat| {
        let (_, after) = stat.rsplit_once(") ").expect("a name in brackets");
        let fields: Vec<&str> = after.split_whitespace().collect();
        fields[0] != "Z" && fields[2] == group.to_string()
    });
    alive.collect()
}
