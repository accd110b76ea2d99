//! Which inodes the kernel should forget next. Pure: the time is an argument.
//!
//! The kernel drops inodes only when it is short of memory itself, so a walk through a large tree
//! leaves one for each name. Each kind has a limit of its own; the least recently used are evicted
//! first.

use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// An inode is not invalidated for this long after its last use: the kernel looks a name up and opens
/// it with two requests, and a listing is followed by a stat of each name.
pub const REST: Duration = Duration::from_secs(2);

/// How many inodes the kernel may know before names are invalidated.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Some 300 bytes each.
    pub directories: usize,
    /// Files that were never opened, at some 400 bytes each. The kernel caches nothing of them but
    /// attributes.
    pub unopened: usize,
    /// Files that were opened, at some 400 bytes each. Evicting one drops its cached pages too.
    pub opened: usize,
}

impl Limits {
    pub const DEFAULT: Limits =
        Limits { directories: 128 << 10, unopened: 32 << 10, opened: 128 << 10 };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    Unopened,
    Opened,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Unopened, Kind::Opened, Kind::Directory];
}

/// The inodes of one kind and the last use of each, the least recently used first.
struct Line {
    limit: usize,
    met: LruCache<u64, Instant>,
}

impl Line {
    fn new(limit: usize) -> Line {
        Line { limit, met: LruCache::unbounded() }
    }
}

/// The inodes of each kind that may be invalidated.
pub struct Lines {
    directories: Line,
    unopened: Line,
    opened: Line,
}

impl Lines {
    pub fn new(limits: Limits) -> Lines {
        Lines {
            directories: Line::new(limits.directories),
            unopened: Line::new(limits.unopened),
            opened: Line::new(limits.opened),
        }
    }

    fn line(&mut self, kind: Kind) -> &mut Line {
        match kind {
            Kind::Directory => &mut self.directories,
            Kind::Unopened => &mut self.unopened,
            Kind::Opened => &mut self.opened,
        }
    }

    /// Records a use of an inode. Returns whether its kind now exceeds its limit.
    pub fn meet(&mut self, kind: Kind, ino: u64, now: Instant) -> bool {
        let line = self.line(kind);
        line.met.put(ino, now).is_none() && line.met.len() == line.limit + 1
    }

    /// Removes an inode: it was forgotten, or has another kind now.
    pub fn leave(&mut self, kind: Kind, ino: u64) {
        self.line(kind).met.pop(&ino);
    }

    /// The inode of a kind to evict next, if the kind exceeds its limit, and the earliest time for it.
    pub fn next(&mut self, kind: Kind) -> Option<(u64, Instant)> {
        let line = self.line(kind);
        let too_many = line.met.len() > line.limit;
        let (ino, met) = line.met.peek_lru().filter(|_| too_many)?;
        Some((*ino, *met + REST))
    }
}
