//! The rules of the file system, over a store in memory, with a manual clock. No kernel, no
//! network, no sleep.

mod absence;
mod bodies;
mod directories;
mod expiry;
#[path = "../support/memory.rs"]
mod memory;
mod model;
mod names;
mod probes;
mod scattered;
mod walks;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use expirefs::body::{Accounts, Patience};
use expirefs::bucket::Bucket;
use expirefs::catalog::Trust;
use expirefs::catalog::index::Index;
use expirefs::catalog::probe;
use expirefs::clock::Clock;
use expirefs::error::{Error, Result};
use expirefs::expiry::{Policy, format_http_date};
use expirefs::fs::inode::ROOT;
use expirefs::fs::listing::{self, Exactness};
use expirefs::fs::{Attr, Fs, Kind, Lookup, Settings};
use expirefs::metrics::Metrics;
use expirefs::name::Prefix;
use futures_util::FutureExt;
use memory::{Memory, start};

pub const SECOND: Duration = Duration::from_secs(1);

/// An `Expires` this many seconds after the start.
pub fn expires(seconds: i64) -> Option<String> {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 { start() - by } else { start() + by };
    Some(format_http_date(at))
}

/// A file system over a store in memory. On drop everything must have been released: handles,
/// bodies, memory and, after the kernel has forgotten them, inodes.
pub struct Rig {
    pub store: Arc<Memory>,
    pub clock: Arc<Clock>,
    pub metrics: Arc<Metrics>,
    pub accounts: Accounts,
    pub fs: Arc<Fs>,
    /// The lookup count of each inode that the kernel has not forgotten.
    told: Mutex<BTreeMap<u64, u64>>,
}

impl Default for Rig {
    fn default() -> Rig {
        Make::default().rig()
    }
}

/// The settings of a rig.
pub struct Make {
    pub cap: usize,
    pub parking: bool,
    pub chunk: usize,
    /// Bytes of all windows.
    pub memory: u64,
    /// Bytes of the index.
    pub index: usize,
    pub policy: Policy,
    pub settings: Settings,
}

impl Default for Make {
    fn default() -> Make {
        let settings = Settings {
            prefix: Prefix::default(),
            trust: Trust::For(SECOND),
            negative_ttl: Duration::ZERO,
            patience: Patience { open_wait: 5 * SECOND, timeout: 30 * SECOND },
            probe: probe::Limits { size: 64 << 10, cache: 32 << 20 },
            listing: listing::Rules {
                page: 1000,
                fan_out: 64,
                patience: 7 * SECOND,
                exactness: Exactness::Exact,
            },
        };
        Make {
            cap: 4,
            parking: true,
            chunk: 64 << 10,
            memory: 128 << 20,
            index: 1 << 20,
            policy: Policy::default(),
            settings,
        }
    }
}

impl Make {
    /// Lookups always send HEADs.
    pub fn without_probes() -> Make {
        let mut make = Make::default();
        make.settings.probe.size = 0;
        make
    }

    pub fn rig(self) -> Rig {
        let store = Arc::new(Memory::of_chunks(self.chunk));
        let clock = Arc::new(Clock::manual(start()));
        let metrics = Arc::new(Metrics::default());
        let accounts = Accounts::new(self.cap, self.parking, self.memory);
        let index = Index::new(self.index, None);
        let bucket = Bucket { store: store.clone(), clock: clock.clone(), policy: self.policy };
        let fs = Fs::new(bucket, metrics.clone(), accounts.clone(), self.settings, index, None);
        Rig { store, clock, metrics, accounts, fs: Arc::new(fs), told: Mutex::default() }
    }
}

impl Rig {
    /// Looks a name up in a directory.
    pub async fn lookup(&self, parent: u64, name: &str) -> Result<Lookup> {
        let answer = self.fs.lookup(parent, OsStr::new(name)).await?;
        if let Lookup::Found(attr) = answer {
            self.tell(attr.ino);
        }
        Ok(answer)
    }

    fn tell(&self, ino: u64) {
        *self.told.lock().unwrap().entry(ino).or_default() += 1;
    }

    /// The kernel forgets one lookup of an inode.
    pub fn forget(&self, ino: u64) {
        *self.told.lock().unwrap().get_mut(&ino).expect("an inode that was looked up") -= 1;
        self.fs.forget(ino, 1);
    }

    /// Looks a path up from the root, component by component.
    pub async fn look(&self, path: &str) -> Result<Option<Attr>> {
        let mut found = None;
        let mut parent = ROOT;
        for name in path.split('/') {
            match self.lookup(parent, name).await? {
                Lookup::Nothing(_) => return Ok(None),
                Lookup::Found(attr) => {
                    parent = attr.ino;
                    found = Some(attr);
                }
            }
        }
        Ok(found)
    }

    /// The inode number of an existing path.
    pub async fn ino(&self, path: &str) -> u64 {
        let found = self.look(path).await.unwrap();
        found.unwrap_or_else(|| panic!("{path} is absent")).ino
    }

    pub async fn open(&self, path: &str) -> Result<Open> {
        let ino = self.look(path).await?.ok_or(Error::NotFound)?.ino;
        self.open_ino(ino).await
    }

    pub async fn open_ino(&self, ino: u64) -> Result<Open> {
        Open::new(self.fs.clone(), ino).await
    }

    /// The names in a directory, in order, `/` after directories, read `step` at a time.
    pub async fn list(&self, path: &str, step: usize) -> Result<Vec<String>> {
        let ino = if path.is_empty() { ROOT } else { self.ino(path).await };
        let fh = self.fs.opendir(ino)?;
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let some = self.read_dir(ino, fh, offset, step).await?;
            let Some((next, _)) = some.last() else { break };
            offset = *next;
            names
                .extend(some.into_iter().map(|(_, name)| name).filter(|n| n != "./" && n != "../"));
        }
        self.fs.releasedir(fh)?;
        Ok(names)
    }

    /// At most `step` entries of an open directory, each with the offset after it.
    pub async fn read_dir(
        &self,
        ino: u64,
        fh: u64,
        offset: u64,
        step: usize,
    ) -> Result<Vec<(u64, String)>> {
        let mut some = Vec::new();
        let add = |entry: &expirefs::fs::Entry<'_>| {
            if some.len() == step {
                return false;
            }
            let slash = if entry.kind == Kind::Directory { "/" } else { "" };
            some.push((entry.next, format!("{}{slash}", entry.name)));
            entry.attr.iter().for_each(|attr| self.tell(attr.ino));
            true
        };
        self.fs.readdir(ino, fh, offset, true, add).await?;
        Ok(some)
    }

    /// Checks that nothing is held after everything was released: no permit, no content, no waiter.
    pub fn must_be_at_rest(&self) {
        assert_eq!(self.fs.open_handles().len(), 0, "handles");
        assert_eq!(self.accounts.bodies.held(), 0, "permits");
        assert_eq!(self.accounts.bodies.waiting(), 0, "waiting for a permit");
        assert_eq!(self.accounts.memory.held(), 0, "memory");
        assert_eq!(self.accounts.memory.waiting(), 0, "waiting for memory");
        assert_eq!(self.store.open(), 0, "contents");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        self.must_be_at_rest();
        for (ino, count) in self.told.get_mut().unwrap() {
            self.fs.forget(*ino, *count);
        }
        assert_eq!(self.fs.inode_count(), 1, "inodes: only the root is left");
    }
}

/// An open file, which is released on drop.
pub struct Open {
    fs: Arc<Fs>,
    pub fh: u64,
}

impl Open {
    pub async fn new(fs: Arc<Fs>, ino: u64) -> Result<Open> {
        let fh = fs.open(ino, 1).await?;
        Ok(Open { fs, fh })
    }

    pub async fn read(&self, offset: u64, size: u32) -> Result<Bytes> {
        self.fs.read(self.fh, offset, size).await
    }

    /// Reads it as the kernel does for `cat`.
    pub async fn read_all(&self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let bytes = self.read(all.len() as u64, 128 << 10).await?;
            if bytes.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&bytes);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let released = self.fs.release(self.fh).now_or_never();
        if !thread::panicking() {
            released.expect("nothing to wait for").unwrap();
        }
    }
}

/// Bytes that depend on their offset.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 251) as u8 ^ (i % 251) as u8 ^ seed).collect()
}
