//! The rules of the file system, over a store in memory, with a manual clock. No kernel, no
//! network, no sleep.

mod absence;
mod bodies;
mod caches;
mod directories;
mod expiry;
#[path = "../support/memory.rs"]
mod memory;
mod model;
mod names;
mod probes;
mod ranges;
mod scattered;
mod sweep;
mod walks;
mod write_cancelled;
mod write_model;
mod write_races;
mod writing;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use expirefs::body::{Accounts, Ledger, Patience, Unit};
use expirefs::bucket::Bucket;
use expirefs::bucket::honours::Honours;
use expirefs::catalog::Trust;
use expirefs::catalog::index::Index;
use expirefs::catalog::probe;
use expirefs::clock::Clock;
use expirefs::error::{Error, Result};
use expirefs::expiry::{Policy, Touch, Ttl, TtlRules, format_http_date};
use expirefs::fs::change::Replace;
use expirefs::fs::inode::ROOT;
use expirefs::fs::listing::{self, Exactness};
use expirefs::fs::{Attr, Fs, Kind, Lookup, OpenMode, Overlay, Settings, Writing};
use expirefs::glob::{Glob, Globs};
use expirefs::metrics::Metrics;
use expirefs::name::{self, Prefix};
use expirefs::pending::journal::Journal;
use expirefs::pending::{self, Room, Spool, Writer};
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
    /// None of a read-only mount.
    pub writer: Option<Arc<Writer>>,
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
    /// None: read-only.
    pub writing: Option<MakeWriting>,
}

/// What a writable rig is made with beside that.
pub struct MakeWriting {
    /// Bytes of a part.
    pub part: u64,
    /// Bytes in memory, of all pending files.
    pub memory: usize,
    /// Bytes in the spool; none: there is none.
    pub spool: Option<u64>,
    pub honours: Honours,
    pub ttl: Ttl,
    /// Patterns and what holds for them.
    pub ttl_rules: Vec<(&'static str, Ttl)>,
    pub stage: Vec<&'static str>,
    pub touch: Touch,
    pub strict: bool,
    pub journal: Option<Journal>,
}

/// Bytes of a part of a writable rig.
pub const PART: usize = 64 << 10;

impl Default for MakeWriting {
    fn default() -> MakeWriting {
        MakeWriting {
            part: PART as u64,
            memory: 16 * PART,
            spool: Some(1 << 30),
            honours: Honours::ALL,
            ttl: Ttl::For(3600 * SECOND),
            ttl_rules: Vec::new(),
            stage: Vec::new(),
            touch: Touch::Ignore,
            strict: false,
            journal: None,
        }
    }
}

impl MakeWriting {
    pub fn rig(self) -> Rig {
        Make { writing: Some(self), ..Make::default() }.rig()
    }

    /// Over this store.
    fn writing(
        self,
        bucket: &Bucket,
        store: &Arc<Memory>,
        accounts: &Accounts,
        timeout: Duration,
    ) -> Writing {
        let glob = |pattern: &&str| Glob::new(pattern).unwrap();
        let rules = self.ttl_rules.iter().map(|(pattern, ttl)| (glob(pattern), *ttl)).collect();
        let rules = pending::Rules {
            prefix: Prefix::default(),
            ttl: TtlRules::new(rules, self.ttl),
            content_type_by_name: true,
            storage_class: None,
            timeout,
        };
        let spool = |size| Spool::open(&std::env::temp_dir(), size, self.part).unwrap();
        let room = Room {
            part: self.part,
            memory: Ledger::new(Unit::Kib, self.memory >> 10, true),
            spool: self.spool.map(spool),
        };
        store.honour(self.honours);
        let writer = Writer::new(
            bucket.clone(),
            store.clone(),
            self.honours,
            rules,
            room,
            accounts.bodies.clone(),
            self.journal,
        );
        Writing {
            writer,
            stage: Globs::new(self.stage.iter().map(glob).collect()),
            touch: self.touch,
            strict_attributes: self.strict,
            overlay: Overlay::default(),
            told_of_order: AtomicBool::new(false),
        }
    }
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
            writing: None,
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
        let clock = Arc::new(Clock::manual(start()));
        let store = Arc::new(Memory::writable(self.chunk, clock.clone()));
        let metrics = Arc::new(Metrics::default());
        let accounts = Accounts::new(self.cap, self.parking, self.memory);
        let index = Index::new(self.index, None);
        let bucket = Bucket { store: store.clone(), clock: clock.clone(), policy: self.policy };
        let timeout = self.settings.patience.timeout;
        let writing =
            self.writing.map(|writing| writing.writing(&bucket, &store, &accounts, timeout));
        let writer = writing.as_ref().map(|writing| writing.writer.clone());
        let fs = Fs::new(bucket, metrics.clone(), accounts.clone(), self.settings, index, writing);
        Rig { store, clock, metrics, accounts, fs: Arc::new(fs), writer, told: Mutex::default() }
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

    pub fn tell(&self, ino: u64) {
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

    /// The inode of the directory that a path lies in, and its name there.
    pub async fn place<'a>(&self, path: &'a str) -> (u64, &'a OsStr) {
        let directory = name::directory(path).trim_end_matches('/');
        let parent = if directory.is_empty() { ROOT } else { self.ino(directory).await };
        (parent, OsStr::new(&path[name::directory(path).len()..]))
    }

    /// Creates a file as open(2) does with O_CREAT, with O_EXCL or without.
    pub async fn create(&self, path: &str, exclusive: bool) -> Result<Write> {
        let (parent, name) = self.place(path).await;
        let mode = OpenMode { writes: true, truncate: false, exclusive };
        let (attr, fh) = self.fs.create(parent, name, mode, this_process()).await?;
        self.tell(attr.ino);
        Ok(Write { ino: attr.ino, fh })
    }

    /// Opens a file for reading and writing. As the kernel does, it looks the path up once more
    /// where that is stale.
    pub async fn edit(&self, path: &str, truncate: bool) -> Result<Write> {
        let mode = OpenMode { writes: true, truncate, exclusive: false };
        let mut tries = 0;
        loop {
            let ino = self.look(path).await?.ok_or(Error::NotFound)?.ino;
            match self.fs.open_for_writing(ino, mode, this_process()).await {
                Ok(fh) => return Ok(Write { ino, fh }),
                Err(Error::Stale) if tries == 0 => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes as the kernel has it done: parts leave after the answer.
    pub async fn write(&self, file: Write, offset: u64, bytes: &[u8]) -> Result<()> {
        let fills_part = match self.fs.try_write(file.fh, offset, bytes) {
            Some(wrote) => wrote?,
            None => self.fs.write(file.fh, offset, Bytes::copy_from_slice(bytes)).await?,
        };
        if fills_part {
            self.fs.send_parts(file.fh, offset + bytes.len() as u64).await;
        }
        Ok(())
    }

    /// All bytes of an open file.
    pub async fn read(&self, file: Write) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let bytes = self.fs.read(file.fh, all.len() as u64, 128 << 10).await?;
            if bytes.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&bytes);
        }
    }

    /// close(2) of the only descriptor.
    pub async fn close(&self, file: Write) -> Result<()> {
        let flushed = self.fs.flush(file.fh, this_process()).await;
        self.fs.release(file.fh).await.unwrap();
        flushed
    }

    /// Makes a file of these bytes in one go.
    pub async fn make(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let file = match self.look(path).await? {
            Some(_) => self.edit(path, true).await?,
            None => self.create(path, false).await?,
        };
        let wrote = self.write(file, 0, bytes).await;
        let closed = self.close(file).await;
        wrote.and(closed)
    }

    pub async fn rename(&self, from: &str, to: &str, replace: Replace) -> Result<()> {
        let (from, to) = (self.place(from).await, self.place(to).await);
        self.fs.rename(from, to, replace, 1).await
    }

    pub async fn unlink(&self, path: &str) -> Result<()> {
        let (parent, name) = self.place(path).await;
        self.fs.unlink(parent, name).await
    }

    /// All bytes that this mount shows under a path.
    pub async fn cat(&self, path: &str) -> Result<Vec<u8>> {
        let mut tries = 0;
        loop {
            let read = match self.open(path).await {
                Ok(open) => open.read_all().await,
                Err(error) => Err(error),
            };
            match read {
                Err(Error::Stale) if tries == 0 => tries += 1,
                other => return other,
            }
        }
    }

    pub fn writer(&self) -> &Arc<Writer> {
        self.writer.as_ref().expect("a writable rig")
    }

    /// The kernel forgets all that it was told of, and what is pending is given back.
    pub async fn must_have_given_back(&self) {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        told.iter().for_each(|(ino, count)| self.fs.forget(*ino, *count));
        let writer = self.writer();
        writer.until_aborted().await;
        assert_eq!(writer.room.memory.held(), 0, "memory of pending files");
        // A part whose upload was given up may be read by a thread that is not: it has its extent.
        let used = || writer.room.spool.as_ref().map_or(0, |spool| spool.used());
        let started = std::time::Instant::now();
        while used() > 0 && started.elapsed() < 5 * SECOND {
            thread::sleep(SECOND / 1000);
        }
        assert_eq!(used(), 0, "spool");
    }

    /// The same, and no upload is left.
    pub async fn must_be_written(&self) {
        self.must_have_given_back().await;
        assert_eq!(self.store.uploads(), 0, "uploads");
    }

    /// Nothing is held once everything was released: no permit, no content, no waiter.
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

/// The process that opens and closes.
pub fn this_process() -> u32 {
    std::process::id()
}

/// A file open for writing; to be closed or released by hand, since that may have to wait.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub ino: u64,
    pub fh: u64,
}

/// An open file, which is released when it goes out of scope.
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
