//! The file system's rules, in terms of inodes, names and handles. No kernel and no S3 here.
//!
//! Operations are futures that are ready at once where the answer is known; `fuse.rs` polls them
//! once on the thread that serves the kernel and sends them to the runtime only if they wait.

pub mod handle;
pub mod inode;
pub mod listing;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::body::{Accounts, Patience, Reader};
use crate::bucket::Bucket;
use crate::bucket::explain::{Belief, Explanation, explain};
use crate::catalog::index::Index;
use crate::catalog::probe;
use crate::catalog::{Catalog, Known, Rules, Trust};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::expiry::{Expiry, Presence, rfc3339};
use crate::metrics::Metrics;
use crate::name::{self, Prefix};
use crate::xattr;
use handle::{Handle, Handles};
use inode::{File, Idle, Inodes, Node, ROOT, UNKNOWN};
use listing::{DirEntry, Listing, What};

/// Taken off every lifetime given to the kernel, which rounds them up to its ticks (measured:
/// up to 4.4 ms late at HZ=250, 10 ms at HZ=100): an entry may end early, never late.
const KERNEL_TICK: Duration = Duration::from_millis(10);

/// The longest lifetime given to the kernel. It counts by a clock of its own, which neither follows
/// the store's nor goes on while the host sleeps; what it asks again is answered from memory.
const KERNEL_TRUST: Duration = Duration::from_secs(60);

/// What a mount does, apart from where.
#[derive(Clone, Debug)]
pub struct Settings {
    pub prefix: Prefix,
    pub trust: Trust,
    pub negative_ttl: Duration,
    pub patience: Patience,
    pub probe: probe::Limits,
    pub listing: listing::Rules,
}

/// A directory or file as the kernel is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    pub mtime: SystemTime,
    /// How long the kernel may believe it, and the name it was found by.
    pub ttl: Duration,
}

impl Attr {
    /// What goes with a name of which no more is told.
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
    /// No such name; the kernel may believe so for this long.
    Nothing(Duration),
}

/// An entry of a directory, for the kernel.
pub struct Entry<'a> {
    /// Where to go on after it.
    pub next: u64,
    pub name: &'a str,
    pub ino: u64,
    pub kind: Kind,
    /// The attributes, counted as looked up: what the kernel caches beside the name. `None` for
    /// `.`, `..`, and where only the name is known.
    pub attr: Option<Attr>,
}

pub struct Fs {
    bucket: Bucket,
    metrics: Arc<Metrics>,
    settings: Settings,
    accounts: Accounts,
    catalog: Arc<Catalog>,
    inodes: Inodes,
    handles: Handles,
    // Held for one look at the table, never over a wait or the drop of a listing.
    directories: Mutex<HashMap<u64, Arc<Listing>>>,
    page_memory: Arc<listing::PageMemory>,
    last_directory: AtomicU64,
    shutting_down: AtomicBool,
    mounted_at: SystemTime,
}

impl Fs {
    pub fn new(
        bucket: Bucket,
        metrics: Arc<Metrics>,
        accounts: Accounts,
        settings: Settings,
        index: Arc<Index>,
    ) -> Fs {
        let rules = Rules {
            trust: settings.trust,
            negative_ttl: settings.negative_ttl,
            timeout: settings.patience.timeout,
            probe: settings.probe,
        };
        let catalog = Catalog::new(bucket.clone(), metrics.clone(), rules, index);
        Fs {
            inodes: Inodes::new(settings.prefix.clone()),
            mounted_at: bucket.clock.now(),
            bucket,
            metrics,
            settings,
            accounts,
            catalog,
            handles: Handles::default(),
            directories: Mutex::default(),
            page_memory: Arc::default(),
            last_directory: AtomicU64::new(0),
            shutting_down: AtomicBool::new(false),
        }
    }

    /// What `name` in a directory is. A node found counts as looked up once more.
    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Lookup> {
        let prefix = self.directory(parent)?;
        if name.len() > name::NAME_MAX {
            return Err(Error::NameTooLong);
        }
        // Keys are UTF-8 and at most so long: no other name has one.
        let key = name.to_str().filter(|name| name::is_legal(name)).map(|name| prefix.key(name));
        let Some(key) = key.filter(|key| key.len() <= name::KEY_MAX) else {
            return Ok(Lookup::Nothing(Duration::ZERO));
        };
        let _working = self.inodes.working(parent);
        let fact = self.catalog.resolve(&key).await?;
        let ttl = kernel_ttl(self.catalog.ttl(&fact));
        // Asked again: it may have expired while the answer was on its way.
        match (self.catalog.presence(&fact), &fact.known) {
            (Presence::Unreadable, _) => Err(Error::Unparsable),
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
                Ok(Lookup::Found(file_attr(ino, &file, ttl)))
            }
        }
    }

    /// Attributes. Those of an open file are told after its end, too (rule E8).
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        match self.node(ino)? {
            Node::Directory(_) => Ok(self.directory_attr(ino, Duration::from_secs(1))),
            Node::File(file) => {
                if file.open.load(Ordering::Relaxed) == 0 {
                    self.must_be_live(file.expiry)?;
                }
                Ok(file_attr(ino, &file, kernel_ttl(self.catalog.lifetime(file.expiry))))
            }
        }
    }

    /// The extended attributes of a node.
    pub fn attributes(&self, ino: u64) -> Result<Vec<(String, String)>> {
        Ok(match self.node(ino)? {
            Node::Directory(_) => Vec::new(),
            Node::File(file) => {
                let about = file.about.get().map(|about| &**about);
                xattr::attributes(&file.version, file.expiry, about)
            }
        })
    }

    /// Whether a node is there.
    pub fn access(&self, ino: u64) -> Result<()> {
        self.getattr(ino).map(drop)
    }

    /// Opens a file for reading: its GET is sent at once, unless the kernel has its content.
    ///
    /// # Errors
    /// `Stale` when the object is not the one looked up any more: the kernel looks again.
    pub async fn open(&self, ino: u64, pid: u32) -> Result<u64> {
        if self.shutting_down.load(Ordering::Relaxed) {
            return Err(Error::ShuttingDown);
        }
        let Node::File(file) = self.node(ino)? else { return Err(Error::IsADirectory) };
        if file.expiry.at(self.bucket.clock.now()) == Presence::Expired {
            return Err(self.expired(&file.version.key).await);
        }
        self.inodes.opened(ino);
        let first = self.catalog.opened(&file.version);
        let reader = Reader::new(
            self.bucket.store.clone(),
            self.accounts.clone(),
            file.version.clone(),
            first,
            file.given.load(Ordering::Relaxed),
            self.settings.patience,
        );
        if !file.delivered.load(Ordering::Relaxed) {
            match reader.begin().await {
                Ok(None) => {}
                // Its Expires may have been other than what a listing or a memory had it.
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
        Ok(self.handles.open(Handle::new(ino, pid, reader, file)))
    }

    /// Up to `size` bytes from `offset` on; fewer at the end of the object only.
    pub async fn read(&self, fh: u64, offset: u64, size: u32) -> Result<Bytes> {
        let handle = self.handles.get(fh)?;
        let file = handle.file();
        let read = handle.reader.read(offset, size).await;
        let bytes = read.inspect_err(|error| self.doubt(handle.ino, file, error))?;
        file.given.store(true, Ordering::Relaxed);
        self.note_delivered(&handle);
        self.metrics.bytes_read.add(bytes.len() as u64);
        Ok(bytes)
    }

    fn note_delivered(&self, handle: &Handle) {
        let file = handle.file();
        if handle.reader.delivered_all() && !file.delivered.swap(true, Ordering::Relaxed) {
            self.catalog.delivered(&file.version);
        }
    }

    /// Gives the kernel, by `store`, what was fetched of a file beyond what was read, where a read
    /// of this handle has left any. `store` says whether the kernel took it.
    ///
    /// To be called when that read was answered, and `store` must not hold up other reads: the
    /// kernel makes it wait for those under way in the same pages.
    pub async fn give_surplus<F>(&self, fh: u64, store: impl Fn(u64, Bytes) -> F)
    where
        F: Future<Output = bool>,
    {
        // Each time anew, so that a handle is released meanwhile.
        while let Ok(handle) = self.handles.get(fh)
            && let Some((range, bytes)) = handle.reader.surplus().await
        {
            drop(handle);
            if !store(range.start, bytes).await {
                return;
            }
            let Ok(handle) = self.handles.get(fh) else { return };
            handle.reader.took_over(&range).await;
            self.note_delivered(&handle);
        }
    }

    /// Whether [`Fs::give_surplus`] is to be called; says so once.
    pub fn has_surplus(&self, fh: u64) -> bool {
        self.handles.get(fh).is_ok_and(|handle| handle.reader.has_surplus())
    }

    /// Gives back all that an open took.
    pub fn release(&self, fh: u64) -> Result<()> {
        self.handles.close(fh)
    }

    /// Waits until there is a name that the kernel should drop, since it knows too many.
    pub async fn idle(&self) -> Idle {
        self.inodes.idle().await
    }

    /// One more such name, if there is one now.
    pub fn idle_now(&self) -> Option<Idle> {
        self.inodes.idle_now()
    }

    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.forget(ino, count);
    }

    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let listing = Listing::new(
            self.bucket.store.clone(),
            self.catalog.clone(),
            self.metrics.clone(),
            self.directory(ino)?,
            self.settings.listing,
            &self.page_memory,
        );
        let fh = self.last_directory.fetch_add(1, Ordering::Relaxed) + 1;
        self.directories().insert(fh, Arc::new(listing));
        Ok(fh)
    }

    /// Gives the entries from `offset` on to `add` until it says `false`: then it took none of
    /// what it was given, and there is no room for more. With `plus` entries carry attributes.
    pub async fn readdir(
        &self,
        ino: u64,
        fh: u64,
        mut offset: u64,
        plus: bool,
        mut add: impl FnMut(&Entry<'_>) -> bool + Send,
    ) -> Result<()> {
        let listing = self.directories().get(&fh).cloned().ok_or(Error::BadHandle)?;
        let _working = self.inodes.working(ino);
        if offset == 0 {
            listing.rewind();
        }
        let mut added = false;
        while offset < listing::FIRST_OFFSET {
            let name = [".", ".."][offset as usize];
            offset += 1;
            // The kernel knows both by itself: the number of `..` is never used.
            if !add(&Entry { next: offset, name, ino, kind: Kind::Directory, attr: None }) {
                return Ok(());
            }
            added = true;
        }
        // A call that shows nothing may pass over many pages; all of them share its time.
        let timeout = self.settings.patience.timeout;
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let batch = tokio::time::timeout_at(deadline, listing.from(offset)).await;
            let Some(batch) = batch.unwrap_or(Err(Error::TimedOut(timeout)))? else { break };
            for (next, entry) in batch.entries() {
                let Some(entry) = self.show(ino, next, entry, plus) else { continue };
                if !add(&entry) {
                    if let Some(attr) = entry.attr {
                        self.inodes.forget(attr.ino, 1);
                    }
                    return Ok(());
                }
                added = true;
            }
            // A page at a time: what is here goes out before the next one is waited for. Only an
            // answer without any entry would mean the end.
            if added {
                return Ok(());
            }
            offset = batch.end();
        }
        Ok(())
    }

    /// The entry as it is now: nothing if its time came since it was fetched.
    fn show<'a>(
        &self,
        parent: u64,
        next: u64,
        entry: &'a DirEntry,
        plus: bool,
    ) -> Option<Entry<'a>> {
        let name = &entry.name;
        let (ino, kind, attr) = match &entry.what {
            What::Directory(prefix, fact) if plus => {
                let ino = self.inodes.directory(parent, prefix);
                let ttl = kernel_ttl(self.catalog.ttl(fact));
                (ino, Kind::Directory, Some(self.directory_attr(ino, ttl)))
            }
            What::Directory(prefix, _) => {
                (self.inodes.number_of_directory(prefix), Kind::Directory, None)
            }
            // A number that is told with attributes has to be the right one for good.
            What::Listed(_) if plus => (UNKNOWN, Kind::File, None),
            What::Listed(version) => (self.inodes.number_of_file(version), Kind::File, None),
            What::File(fact) => match (self.catalog.presence(fact), &fact.known) {
                (Presence::Expired, _) => return None,
                (Presence::Live { .. }, Known::File { version, expiry, about }) if plus => {
                    let (ino, file) = self.inodes.file(parent, version, *expiry, about.as_ref());
                    let ttl = kernel_ttl(self.catalog.ttl(fact));
                    (ino, Kind::File, Some(file_attr(ino, &file, ttl)))
                }
                (_, Known::File { version, .. }) => {
                    (self.inodes.number_of_file(version), Kind::File, None)
                }
                (_, Known::Directory | Known::Absent) => return None,
            },
        };
        Some(Entry { next, name, ino, kind, attr })
    }

    pub fn releasedir(&self, fh: u64) -> Result<()> {
        let listing = self.directories().remove(&fh).ok_or(Error::BadHandle)?;
        drop(listing);
        Ok(())
    }

    /// Refuses opens from now on, and waits up to `patience` for the handles that are being read.
    /// One that nobody has touched for a second is not waited for.
    pub async fn shut_down(&self, patience: Duration) {
        self.shutting_down.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(patience, self.handles.until_unused()).await;
    }

    /// Why the name at `path`, below the mount point, is there or not, asked of `bucket`: the same
    /// one, with the patience of whoever wants it explained.
    ///
    /// # Errors
    /// Of the store, where it has no answer.
    pub async fn explain(
        &self,
        bucket: &Bucket,
        path: &str,
        name: &str,
        dir: &str,
    ) -> Result<Explanation> {
        let key = self.settings.prefix.key(path);
        // Before the store is asked, which may change it.
        let mount = self.belief(&key, dir);
        let mut explanation = explain(bucket, name, &key).await?;
        for (slash, _) in path.match_indices('/') {
            let above = self.settings.prefix.key(&path[..slash]);
            if !name::is_legal(above.rsplit('/').next().unwrap_or_default()) {
                continue;
            }
            let fact = self.catalog.resolve(&above).await?;
            let live = matches!(self.catalog.presence(&fact), Presence::Live { .. });
            if live && matches!(fact.known, Known::File { .. }) {
                explanation.hidden = Some(format!("the live file {above} is in its way"));
                break;
            }
        }
        explanation.mount = Some(mount);
        Ok(explanation)
    }

    fn belief(&self, key: &str, dir: &str) -> Belief {
        let fact = self.catalog.remembered(key);
        let (believes, etag, expiry) = match fact.as_ref().map(|fact| &fact.known) {
            Some(Known::File { version, expiry, .. }) => {
                ("file", Some(version.etag.to_string()), Some(*expiry))
            }
            Some(Known::Directory) => ("directory", None, None),
            Some(Known::Absent) => ("absent", None, None),
            None => ("nothing", None, None),
        };
        Belief {
            dir: dir.to_owned(),
            believes: believes.to_owned(),
            etag,
            instant: expiry.and_then(Expiry::instant).map(rfc3339),
            trusted_s: fact.map_or(0.0, |fact| self.catalog.ttl(&fact).as_secs_f64()),
            open_handles: self.handles.count_of(key),
        }
    }

    /// The open handles, by number.
    pub fn open_handles(&self) -> Vec<(u64, Arc<Handle>)> {
        self.handles.all()
    }

    /// The handles whose body nobody has read for so long, each said once.
    pub fn newly_idle(&self, for_at_least: Duration) -> Vec<Arc<Handle>> {
        self.handles.newly_idle(for_at_least)
    }

    /// The key or prefix an inode stands for: what to call it in a log.
    pub fn key_of(&self, ino: u64) -> String {
        match self.inodes.get(ino) {
            Some(Node::File(file)) => file.version.key.to_string(),
            Some(Node::Directory(prefix)) => prefix.to_string(),
            None => String::new(),
        }
    }

    pub fn inode_count(&self) -> usize {
        self.inodes.count()
    }

    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Bytes that came with lookups and wait for opens.
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

    /// A version that turned out to be another or none is not believed in any longer: the next open
    /// asks the store, and the kernel looks the name up again.
    fn doubt(&self, ino: u64, file: &File, error: &Error) {
        if *error == Error::Stale {
            self.catalog.forget(&file.version.key);
            file.delivered.store(false, Ordering::Relaxed);
            self.inodes.doubt(ino);
        }
    }

    /// What to answer to an open of a version that has expired: `Stale` where its name has got
    /// something else by now, so that the kernel looks again. Where it has not, `Expired`: a file
    /// opened by /proc/self/fd or a bind mount has no name to look up, and ESTALE would reach the
    /// program.
    async fn expired(&self, key: &str) -> Error {
        self.metrics.expired_hidden.add(1);
        self.catalog.forget(key);
        match self.catalog.resolve(key).await {
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
        // The kernel names what it was told of and has not forgotten.
        self.inodes.get(ino).ok_or(Error::Stale)
    }

    fn directory(&self, ino: u64) -> Result<Prefix> {
        match self.node(ino)? {
            Node::Directory(prefix) => Ok(prefix),
            Node::File(_) => Err(Error::NotADirectory),
        }
    }

    fn directory_attr(&self, ino: u64, ttl: Duration) -> Attr {
        let ttl = if ino == ROOT { KERNEL_TRUST } else { ttl };
        Attr { ino, kind: Kind::Directory, size: 0, mtime: self.mounted_at, ttl }
    }

    fn directories(&self) -> MutexGuard<'_, HashMap<u64, Arc<Listing>>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kernel_ttl(ttl: Duration) -> Duration {
    ttl.saturating_sub(KERNEL_TICK).min(KERNEL_TRUST)
}

fn file_attr(ino: u64, file: &File, ttl: Duration) -> Attr {
    let (size, mtime) = (file.version.size, file.version.last_modified);
    Attr { ino, kind: Kind::File, size, mtime, ttl }
}
