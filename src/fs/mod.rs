//! The file system's rules, in terms of inodes, names and handles.
//!
//! Owns the inode table and the open handles, and chooses every answer and its TTL. Knows neither
//! the kernel binding nor S3: operations are futures, ready at once if the answer is cached;
//! `fuse` polls each once on the thread that serves the kernel and moves it to the runtime only
//! if it waits.

pub mod attributes;
pub mod change;
mod explain;
pub mod handle;
pub mod inode;
pub mod listing;
mod overlay;
mod readdir;
mod write;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use crate::body::{Accounts, Patience, Reader};
use crate::bucket::Bucket;
use crate::catalog::index::Index;
use crate::catalog::probe;
use crate::catalog::{self, Catalog, Known, Trust};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::expiry::{Expiry, Presence};
use crate::metrics::Metrics;
use crate::name::{self, Prefix};
use crate::pending::Pending;
use crate::xattr;
use handle::{Handle, Handles, Opening, ReadHandle};
use inode::{File, Idle, Inodes, Node, ROOT};
pub use overlay::Overlay;
use readdir::Directory;
pub use readdir::Entry;
pub use write::{OpenMode, Writing};

/// Subtracted from every TTL given to the kernel, which rounds TTLs up to its ticks (measured: up
/// to 4.4 ms late at HZ=250, 10 ms at HZ=100): an entry may expire early, never late.
const KERNEL_TICK: Duration = Duration::from_millis(10);

/// The longest TTL given to the kernel. The kernel's clock does not follow the store's and stops
/// while the host sleeps. When the kernel asks again, the answer comes from the cache.
const KERNEL_TRUST: Duration = Duration::from_secs(60);

/// The settings of a mount, without bucket and mount point.
#[derive(Clone, Debug)]
pub struct Settings {
    pub prefix: Prefix,
    pub trust: Trust,
    pub negative_ttl: Duration,
    pub patience: Patience,
    pub probe: probe::Limits,
    pub listing: listing::Rules,
}

/// The attributes of a directory or file that are sent to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    pub mtime: SystemTime,
    /// TTL of the attributes, and of the name in its directory.
    pub ttl: Duration,
}

impl Attr {
    /// Placeholder attributes, for an entry of which only the name is known.
    pub fn nameless(ino: u64, kind: Kind) -> Attr {
        Attr { ino, kind, size: 0, mtime: SystemTime::UNIX_EPOCH, ttl: Duration::ZERO }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// The answer to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found(Attr),
    /// No such name; the TTL of the negative dentry.
    Nothing(Duration),
}

pub struct Fs {
    bucket: Bucket,
    metrics: Arc<Metrics>,
    settings: Settings,
    accounts: Accounts,
    catalog: Arc<Catalog>,
    inodes: Inodes,
    handles: Handles<Handle>,
    directories: Handles<Directory>,
    /// None of a read-only mount.
    writing: Option<Writing>,
    page_memory: Arc<listing::PageMemory>,
    shutting_down: watch::Sender<bool>,
    mounted_at: SystemTime,
}

impl Fs {
    pub fn new(
        bucket: Bucket,
        metrics: Arc<Metrics>,
        accounts: Accounts,
        settings: Settings,
        index: Arc<Index>,
        writing: Option<Writing>,
    ) -> Fs {
        let catalog_settings = catalog::Settings {
            trust: settings.trust,
            negative_ttl: settings.negative_ttl,
            timeout: settings.patience.timeout,
            probe: settings.probe,
        };
        let catalog = Catalog::new(bucket.clone(), metrics.clone(), catalog_settings, index);
        Fs {
            inodes: Inodes::new(settings.prefix.clone()),
            mounted_at: bucket.clock.now(),
            bucket,
            metrics,
            settings,
            accounts,
            catalog,
            handles: Handles::default(),
            directories: Handles::default(),
            writing,
            page_memory: Arc::default(),
            shutting_down: watch::Sender::new(false),
        }
    }

    /// Looks `name` up in a directory. If found, the lookup count of its inode grows by one.
    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Lookup> {
        let prefix = self.directory(parent)?;
        if name.len() > name::NAME_MAX {
            return Err(Error::NameTooLong);
        }
        // Keys are UTF-8 and of bounded length: other names do not exist.
        let key = name.to_str().filter(|name| name::is_legal(name)).map(|name| prefix.key(name));
        let Some(key) = key.filter(|key| key.len() <= name::KEY_MAX) else {
            return Ok(Lookup::Nothing(Duration::ZERO));
        };
        if let Some(draft) = self.draft(&key) {
            let ino = self.inodes.pending(parent, &draft.pending);
            return Ok(Lookup::Found(self.pending_attr(ino, &draft.pending)));
        }
        let _working = self.inodes.working(parent);
        let fact = self.catalog.resolve(&key, |version| self.inodes.was_opened(version)).await?;
        let ttl = kernel_ttl(self.catalog.ttl(&fact));
        // Judged again: it may have expired while the answer was in flight.
        match (self.catalog.presence(&fact), &fact.known) {
            (Presence::Unreadable, _) => Err(Error::Unparsable),
            (Presence::Expired, _) if self.shows_directory(&key) => {
                let ino = self.inodes.directory(parent, &Prefix::new(&key));
                Ok(Lookup::Found(self.directory_attr(ino, Duration::ZERO)))
            }
            (_, Known::Absent) => Ok(Lookup::Nothing(ttl)),
            (Presence::Expired, _) => {
                self.metrics.expired_hidden.add(1);
                Ok(Lookup::Nothing(ttl))
            }
            (_, Known::Directory) => {
                let ino = self.inodes.directory(parent, &Prefix::new(&key));
                Ok(Lookup::Found(self.directory_attr(ino, ttl)))
            }
            (_, Known::File { version, expiry, about }) => {
                let (ino, file) = self.inodes.file(parent, version, *expiry, about.as_ref());
                Ok(Lookup::Found(self.file_attr(ino, &file, ttl)))
            }
        }
    }

    /// Whether the overlay has a directory of this name.
    fn shows_directory(&self, key: &str) -> bool {
        let overlay = self.writing.as_ref().map(|writing| &writing.overlay);
        overlay.is_some_and(|overlay| overlay.is_directory(&Prefix::new(key)))
    }

    /// The attributes of a node. Those of an open file are available after its expiry, too (rule
    /// E8).
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        match self.node(ino)? {
            Node::Directory(_) => Ok(self.directory_attr(ino, Duration::from_secs(1))),
            Node::File(file) => {
                if !file.kernel.is_open() {
                    self.must_be_live(file.expiry)?;
                }
                let ttl = kernel_ttl(self.catalog.lifetime(file.expiry));
                Ok(self.file_attr(ino, &file, ttl))
            }
            Node::Pending(pending) => {
                let draft = self.draft(&pending.key());
                let draft = draft.filter(|draft| Arc::ptr_eq(&draft.pending, &pending));
                let number = draft.and_then(|draft| draft.number).unwrap_or(ino);
                Ok(self.pending_attr(number, &pending))
            }
        }
    }

    /// The extended attributes of a node.
    pub fn attributes(&self, ino: u64) -> Result<Vec<(String, String)>> {
        Ok(match self.node(ino)? {
            Node::Directory(_) => Vec::new(),
            Node::Pending(pending) => self.pending_attributes(&pending),
            Node::File(file) => {
                let about = file.about.get().map(|about| &**about);
                xattr::attributes(&file.version, file.expiry, about)
            }
        })
    }

    /// Whether a node exists.
    pub fn access(&self, ino: u64) -> Result<()> {
        self.getattr(ino).map(drop)
    }

    /// Registers an open in flight.
    ///
    /// # Errors
    /// `ShuttingDown` once the mount is being unmounted.
    fn begin_open(&self) -> Result<Opening<'_, Handle>> {
        // Counted before the flag is read, so that shutting down waits for it or it is refused.
        let opening = self.handles.opening();
        match *self.shutting_down.borrow() {
            true => Err(Error::ShuttingDown),
            false => Ok(opening),
        }
    }

    /// Opens a file for reading: its GET is sent at once, unless the kernel has its content.
    ///
    /// # Errors
    /// `Stale` when the object was replaced or deleted since the lookup: the kernel looks it up again.
    pub async fn open(&self, ino: u64, pid: u32) -> Result<u64> {
        let _opening = self.begin_open()?;
        let file = match self.node(ino)? {
            Node::File(file) => file,
            Node::Directory(_) => return Err(Error::IsADirectory),
            Node::Pending(_) => {
                let mode = OpenMode { writes: false, truncate: false, exclusive: false };
                return self.open_for_writing(ino, mode, pid).await;
            }
        };
        match file.expiry.at(self.bucket.clock.now()) {
            Presence::Expired => return Err(self.expired(&file.version.key).await),
            Presence::Live { left } => self.metrics.opened.add(left),
            Presence::Unreadable => {}
        }
        self.inodes.opened(ino);
        let first = self.catalog.opened(&file.version, file.kernel.opens());
        let caches = &self.metrics.caches;
        if !caches.pages.counted(file.kernel.has_all()) {
            caches.first_bytes.counted(!first.is_empty());
        }
        let reader = Reader::new(
            self.bucket.store.clone(),
            self.accounts.clone(),
            file.version.clone(),
            first,
            file.kernel.has_some(),
            self.settings.patience,
        );
        if !file.kernel.has_all() {
            match reader.begin().await {
                Ok(None) => {}
                // Its Expires may differ from what was cached or listed.
                Ok(Some(object)) => match self.catalog.learn(object).known {
                    Known::File { expiry, .. } => self.must_be_live(expiry)?,
                    Known::Directory | Known::Absent => return Err(Error::Stale),
                },
                Err(error) => {
                    self.doubt(ino, &file, &error);
                    return Err(error);
                }
            }
        }
        Ok(self.handles.open(Handle::Read(ReadHandle::new(ino, pid, reader, file))))
    }

    /// Up to `size` bytes from `offset` on; fewer at the end of the object only.
    pub async fn read(&self, fh: u64, offset: u64, size: u32) -> Result<Bytes> {
        let handle = self.handles.get(fh)?;
        if let Some(handle) = handle.writing() {
            let bytes = handle.pending.read(offset, size).await?;
            self.metrics.bytes_read.add(bytes.len() as u64);
            return Ok(bytes);
        }
        let handle = handle.reading()?;
        let file = handle.file();
        let read = handle.reader.read(offset, size).await;
        let bytes = read.inspect_err(|error| self.doubt(handle.ino, file, error))?;
        file.kernel.takes_some();
        self.note_delivered(handle);
        self.metrics.bytes_read.add(bytes.len() as u64);
        Ok(bytes)
    }

    fn note_delivered(&self, handle: &ReadHandle) {
        let file = handle.file();
        if handle.reader.delivered_all() && file.kernel.takes_all() {
            self.catalog.delivered(&file.version);
        }
    }

    /// Passes to `store` the bytes that were fetched beyond what was read, if a read of this handle left
    /// any. `store` returns whether the kernel took them.
    ///
    /// Call it after that read was answered. `store` must not block other reads: the kernel makes it
    /// wait for reads in flight of the same pages.
    pub async fn give_surplus<F>(&self, fh: u64, store: impl Fn(u64, Bytes) -> F)
    where
        F: Future<Output = bool>,
    {
        // The handle is looked up each time, so that it can be released meanwhile.
        while let Ok(reader) = self.reader(fh)
            && let Some((range, bytes)) = reader.surplus().await
        {
            drop(reader);
            if !store(range.start, bytes).await {
                return;
            }
            let Ok(handle) = self.handles.get(fh) else { return };
            let Ok(handle) = handle.reading() else { return };
            handle.reader.took_over(&range).await;
            self.note_delivered(handle);
        }
    }

    fn reader(&self, fh: u64) -> Result<Arc<Reader>> {
        Ok(self.handles.get(fh)?.reading()?.reader.clone())
    }

    /// Whether [`Fs::give_surplus`] must be called now; true once per surplus.
    pub fn has_surplus(&self, fh: u64) -> bool {
        self.reader(fh).is_ok_and(|reader| reader.has_surplus())
    }

    /// Waits until there is a name that should be invalidated in the kernel.
    pub async fn idle(&self) -> Idle {
        self.inodes.idle().await
    }

    /// The next such name, if there is one now.
    pub fn idle_now(&self) -> Option<Idle> {
        self.inodes.idle_now()
    }

    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.forget(ino, count);
    }

    /// Refuses opens from now on, and waits up to `patience` for opens in flight and for the
    /// handles that are being read. A handle without a read in the last second is not waited for.
    pub async fn shut_down(&self, patience: Duration) {
        self.shutting_down.send_replace(true);
        let _ = tokio::time::timeout(patience, self.handles.until_unused()).await;
    }

    /// The kernel has ended its connection: finishes what it began before, such as the commit of a file
    /// that was closed just now. What it had still open is not committed.
    pub async fn finish_up(&self) {
        self.shutting_down.send_replace(true);
        self.handles.until_none_opening().await;
        self.commit_closed().await;
    }

    /// The open handles, by number.
    pub fn open_handles(&self) -> Vec<(u64, Arc<Handle>)> {
        self.handles.all()
    }

    /// The handles whose body has been idle for at least this long, each returned once.
    pub fn newly_idle(&self, for_at_least: Duration) -> Vec<Arc<Handle>> {
        self.handles.newly_idle(for_at_least)
    }

    /// The key or prefix of an inode, for logs.
    pub fn key_of(&self, ino: u64) -> String {
        match self.inodes.get(ino) {
            Some(Node::File(file)) => file.version.key.to_string(),
            Some(Node::Directory(prefix)) => prefix.to_string(),
            Some(Node::Pending(pending)) => pending.key().to_string(),
            None => String::new(),
        }
    }

    pub fn inode_count(&self) -> usize {
        self.inodes.count()
    }

    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Bytes fetched with lookups and cached for opens.
    pub fn probed_bytes(&self) -> usize {
        self.catalog.probed_bytes()
    }

    pub fn index(&self) -> &Index {
        self.catalog.index()
    }

    pub fn clock(&self) -> &Arc<Clock> {
        &self.bucket.clock
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Drops a cached version that the store replaced or deleted: the next open asks the store, and the
    /// kernel looks the name up again.
    fn doubt(&self, ino: u64, file: &File, error: &Error) {
        if *error == Error::Stale {
            self.catalog.forget(&file.version.key);
            file.kernel.is_doubtful();
            self.inodes.doubt(ino);
        }
    }

    /// The error for an open of an expired version: `Stale` if the name has a live object by now, so
    /// that the kernel looks it up again; else `Expired`. A file opened through /proc/self/fd or a bind
    /// mount has no name to look up, and ESTALE would reach the program.
    async fn expired(&self, key: &str) -> Error {
        self.metrics.expired_hidden.add(1);
        self.catalog.forget(key);
        match self.catalog.resolve(key, |_| true).await {
            Ok(fact) if self.catalog.presence(&fact) == Presence::Expired => Error::Expired,
            Ok(_) => Error::Stale,
            Err(error) => error,
        }
    }

    fn must_be_live(&self, expiry: Expiry) -> Result<()> {
        match expiry.at(self.bucket.clock.now()) {
            Presence::Live { .. } => Ok(()),
            Presence::Unreadable => Err(Error::Unparsable),
            Presence::Expired => {
                self.metrics.expired_hidden.add(1);
                Err(Error::Expired)
            }
        }
    }

    fn node(&self, ino: u64) -> Result<Node> {
        // The kernel sends only inodes that it has received and not forgotten.
        self.inodes.get(ino).ok_or(Error::Stale)
    }

    fn directory(&self, ino: u64) -> Result<Prefix> {
        match self.node(ino)? {
            Node::Directory(prefix) => Ok(prefix),
            Node::File(_) | Node::Pending(_) => Err(Error::NotADirectory),
        }
    }

    fn file_attr(&self, ino: u64, file: &File, ttl: Duration) -> Attr {
        let (size, mtime) = (file.version.size, file.version.last_modified);
        // The inode of an edit that is about to begin: its number changes then.
        let changes = self.is_writable() && self.inodes.superseded(&file.version).is_some();
        let ttl = if changes { Duration::ZERO } else { ttl };
        Attr { ino, kind: Kind::File, size, mtime, ttl }
    }

    /// A pending file changes by writes of this mount only.
    fn pending_attr(&self, ino: u64, pending: &Pending) -> Attr {
        let (size, mtime) = (pending.size(), pending.modified());
        Attr { ino, kind: Kind::File, size, mtime, ttl: Duration::ZERO }
    }

    fn directory_attr(&self, ino: u64, ttl: Duration) -> Attr {
        let ttl = if ino == ROOT { KERNEL_TRUST } else { ttl };
        Attr { ino, kind: Kind::Directory, size: 0, mtime: self.mounted_at, ttl }
    }
}

fn kernel_ttl(ttl: Duration) -> Duration {
    ttl.saturating_sub(KERNEL_TICK).min(KERNEL_TRUST)
}
