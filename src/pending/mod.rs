//! A pending file: one that is being written, until its commit makes it an object.
//!
//! Owns its bytes, its uploaded parts, and the decision what a commit may replace. One lock orders
//! its operations: a write during a commit waits for the commit. Knows nothing of inodes, handles
//! or the kernel; the caller decides when to commit.

mod access;
mod commit;
mod committing;
mod content;
pub mod journal;
mod open;
mod spool;
mod upload;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tracing::debug;

pub use commit::{Renamed, Wanted};
pub use committing::CommittedAs;
use content::Content;
pub use content::{MOST_PARTS, Room};
use open::Counts;
pub use open::{Access, OpenPending};
pub use spool::Spool;
use upload::Ongoing;
pub use writer::{Commits, Rules, Writer};

use crate::error::{Error, Result};
use crate::expiry::{self, Ttl};
use crate::store::{Object, Version};
use crate::waits::Wait;

/// The expiry of a file, if a program has set it (`user.expirefs.ttl`, `.expires`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    After(Ttl),
    At(SystemTime),
}

/// What a pending file is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has uncommitted changes.
    Writing,
    Committing,
    /// All its bytes are in an object.
    Committed,
    Failed,
}

/// See the module.
pub struct Pending {
    writer: Arc<Writer>,
    /// Distinguishes pending files of one key.
    pub serial: u64,
    key: Mutex<Arc<str>>,
    counts: Counts,
    /// Bytes, including those of sent parts.
    size: AtomicU64,
    /// Seconds since 1970 of the last change, by the store's clock.
    modified: AtomicU64,
    committing: AtomicBool,
    /// Its failure was reported, which no program was told of.
    reported: AtomicBool,
    began: Instant,
    /// What others can read without waiting.
    shown: Mutex<Shown>,
    inner: tokio::sync::Mutex<Inner>,
}

/// What `status` shows of a pending file.
#[derive(Clone, Debug, Default)]
struct Shown {
    dirty: bool,
    failed: Option<Error>,
    parts_sent: Arc<AtomicUsize>,
}

struct Inner {
    content: Content,
    wanted: Wanted,
    end: Option<End>,
    /// Its bytes differ from those of its last commit, or of the version that is edited.
    dirty: bool,
    /// Bytes were written since the last commit: it was not only created or emptied.
    written: bool,
    /// Sticky: each later operation fails with it.
    failed: Option<Error>,
    /// Its name was removed: nothing is committed.
    unlinked: bool,
    upload: Option<Ongoing>,
    /// The object of its last commit.
    committed: Option<Object>,
}

/// The operation of a program that may require a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The process that opened it has closed a descriptor, and may close more.
    Flush,
    /// fsync(2), rename(2), truncate(2), or its last handle was closed.
    Now,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({}, {})", self.serial, self.key())
    }
}

impl Pending {
    /// A new, empty file.
    pub fn create(writer: &Arc<Writer>, key: &str, wanted: Wanted) -> Arc<Pending> {
        let content = Content::empty(writer.room.clone());
        Pending::new(writer, key, content, wanted, true)
    }

    /// An edit of a version, unchanged so far. Fetches nothing yet.
    pub fn edit(writer: &Arc<Writer>, version: &Arc<Version>) -> Arc<Pending> {
        let content = Content::of(writer.room.clone(), version.clone());
        let wanted = Wanted::Edit(version.clone());
        Pending::new(writer, &version.key, content, wanted, false)
    }

    fn new(
        writer: &Arc<Writer>,
        key: &str,
        content: Content,
        wanted: Wanted,
        dirty: bool,
    ) -> Arc<Pending> {
        let pending = Pending {
            writer: writer.clone(),
            serial: writer.serial(),
            counts: Counts::default(),
            key: Mutex::new(key.into()),
            size: AtomicU64::new(content.size()),
            modified: AtomicU64::new(0),
            committing: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            began: Instant::now(),
            shown: Mutex::new(Shown { dirty, ..Shown::default() }),
            inner: tokio::sync::Mutex::new(Inner {
                content,
                wanted,
                end: None,
                dirty,
                written: false,
                failed: None,
                unlinked: false,
                upload: None,
                committed: None,
            }),
        };
        pending.note_change();
        Arc::new(pending)
    }

    pub fn key(&self) -> Arc<str> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub fn has_failed(&self) -> bool {
        self.shown().failed.is_some()
    }

    /// Whether this is the first report of its failure, which two commits at once both get.
    pub fn is_first_report(&self) -> bool {
        !self.reported.swap(true, Ordering::Relaxed)
    }

    /// The first failure of this file, if there was one.
    pub async fn check(&self) -> Result<()> {
        self.sound(&*self.locked().await)
    }

    /// When it was last changed.
    pub fn modified(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.modified.load(Ordering::Relaxed))
    }

    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn state(&self) -> State {
        let shown = self.shown();
        match (&shown.failed, self.committing.load(Ordering::Relaxed), shown.dirty) {
            (Some(_), _, _) => State::Failed,
            (None, true, _) => State::Committing,
            (None, false, true) => State::Writing,
            (None, false, false) => State::Committed,
        }
    }

    /// Parts that the store has.
    pub fn parts_sent(&self) -> usize {
        self.shown().parts_sent.load(Ordering::Relaxed)
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, inner: &Inner) {
        // One that has failed stays as long as the kernel knows it to be.
        if inner.failed.is_none() {
            self.size.store(inner.content.size(), Ordering::Relaxed);
        }
        let mut shown = self.shown();
        shown.dirty = inner.dirty;
        shown.failed = inner.failed.clone();
        shown.parts_sent = inner.upload.as_ref().map_or_else(Arc::default, Ongoing::sent);
    }

    fn note_change(&self) {
        let now = self.writer.bucket.clock.now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.modified.store(since.as_secs(), Ordering::Relaxed);
    }

    /// Sets its expiry instead of that of the rules. `None`: as the rules say.
    pub async fn stamp(&self, end: Option<End>) -> Result<()> {
        let mut inner = self.locked().await;
        self.sound(&inner)?;
        inner.end = end;
        // The headers of an upload are fixed.
        let has_left = inner.content.has_left();
        match &mut inner.upload {
            Some(ongoing) if has_left => ongoing.is_outdated(),
            _ => self.abandon(&mut inner),
        }
        inner.dirty = true;
        self.show(&inner);
        Ok(())
    }

    /// Its expiry if it were committed now; unknown during a commit.
    pub fn expires_now(&self) -> Option<SystemTime> {
        let inner = self.inner.try_lock().ok()?;
        self.expires_of(&inner)
    }

    fn expires_of(&self, inner: &Inner) -> Option<SystemTime> {
        match inner.end {
            Some(End::At(at)) => Some(at),
            Some(End::After(ttl)) => expiry::expires(ttl, self.writer.bucket.clock.now()),
            None => expiry::expires(self.writer.ttl(&self.key()), self.writer.bucket.clock.now()),
        }
    }

    /// The name is gone: nothing will be committed. The bytes live as long as this does. Returns the
    /// object that it was committed as last.
    pub async fn unlink(&self) -> Option<Object> {
        self.hold().await.unlink()
    }

    /// Fetches what a file still has in the version that it edits, which is about to be deleted or
    /// replaced. A version larger than a part is not fetched, and reads and writes may fail then.
    pub async fn keep_base(&self) {
        let mut inner = self.locked().await;
        if self.has_writers()
            && inner.content.edited().is_some_and(|base| base.size <= self.writer.room.part)
            && let Err(error) = self.fetch(&mut inner, 0).await
        {
            debug!(key = %self.key(), "the content of a file to be unlinked is not kept: {error}");
        }
    }

    /// Lets no commit begin as long as the answer lives.
    pub async fn hold(&self) -> Held<'_> {
        Held { pending: self, inner: self.locked().await }
    }

    /// Whether bytes are kept nowhere but in an upload under its key (`--no-spool`).
    pub async fn has_left(&self) -> bool {
        self.locked().await.content.has_left()
    }

    async fn locked(&self) -> MutexGuard<'_, Inner> {
        Wait::Turn.during(self.inner.lock()).await
    }

    /// The first failure of this file, if there was one.
    fn sound(&self, inner: &Inner) -> Result<()> {
        inner.failed.clone().map_or(Ok(()), Err)
    }

    /// Makes all later operations fail with this error.
    fn refuse(&self, inner: &mut Inner, error: Error) -> Error {
        // An error that the program can avoid is not a failure of the file.
        if !matches!(error, Error::TooLarge { .. }) {
            inner.failed.get_or_insert_with(|| error.clone());
            self.abandon(inner);
            self.show(inner);
            // Others need its room. A rename to a name that exists fails alone, and not its file.
            if error != Error::Exists {
                inner.content = Content::empty(self.writer.room.clone());
            }
        }
        error
    }

    /// Frees the room of a file that has failed: nobody gets its bytes any more, but the kernel may
    /// know its inode for long.
    pub async fn discard_failed(&self) {
        let mut inner = self.locked().await;
        if inner.failed.is_some() {
            inner.content = Content::empty(self.writer.room.clone());
        }
    }

    /// Abandons uncommitted changes: all later operations fail.
    pub async fn give_up(&self, why: Error) {
        let mut inner = self.locked().await;
        if inner.dirty {
            self.refuse(&mut inner, why);
        }
    }

    /// Aborts the upload in progress.
    fn abandon(&self, inner: &mut Inner) {
        if let Some(ongoing) = inner.upload.take() {
            self.writer.abort(ongoing.into_upload());
            inner.content.all_unsent();
        }
    }

    /// Notes an object that it was committed as, with its first bytes: all of them where they are at
    /// most `most`, in memory and unchanged since, else none. Not where its name has another by now, or
    /// none: neither changes before this is noted.
    pub async fn note(&self, object: &Object, most: u64, note: impl FnOnce(Bytes)) {
        let inner = self.locked().await;
        if inner.unlinked || inner.committed.as_ref() != Some(object) {
            return;
        }
        let size = inner.content.size();
        let small = !inner.dirty && size <= most;
        let first = small.then(|| inner.content.read(0, size).ok()?.ok()).flatten();
        note(first.unwrap_or_default());
    }

    /// The object of its last commit, if nothing has changed since.
    pub async fn committed(&self) -> Option<Object> {
        let inner = self.locked().await;
        inner.committed.clone().filter(|_| !inner.dirty && inner.failed.is_none())
    }
}

impl Inner {
    fn is_due(&self, closing: Closing) -> bool {
        self.dirty && !self.unlinked && (closing == Closing::Now || self.written)
    }
}

/// A pending file that nothing happens to.
pub struct Held<'a> {
    pending: &'a Pending,
    inner: MutexGuard<'a, Inner>,
}

impl Held<'_> {
    /// See [`Pending::unlink`].
    pub fn unlink(mut self) -> Option<Object> {
        self.inner.unlinked = true;
        self.inner.dirty = false;
        self.pending.abandon(&mut self.inner);
        self.pending.show(&self.inner);
        self.inner.committed.clone()
    }

    /// Notes that its object has another key and version.
    pub fn moved(mut self, object: Object) {
        let inner = &mut *self.inner;
        self.pending.set_key(&object.version.key);
        let version = Arc::new(object.version.clone());
        if matches!(inner.wanted, Wanted::Edit(_)) {
            inner.wanted = Wanted::Edit(version.clone());
        }
        inner.content.committed(version);
        inner.committed = Some(object);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(ongoing) = self.inner.get_mut().upload.take() {
            self.writer.abort(ongoing.into_upload());
        }
    }
}

/// Runs work that blocks on a local disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Defect(error.to_string())))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::ops::Range;

    use async_trait::async_trait;

    use super::*;
    use crate::body::{Ledger, Unit};
    use crate::bucket::Bucket;
    use crate::bucket::honours::Honours;
    use crate::clock::Clock;
    use crate::expiry::{Policy, TtlRules};
    use crate::name::Prefix;
    use crate::store::write::{
        Condition, CopyRequest, Created, DeleteIf, Deleted, NewHeaders, Part, Upload, UploadsPage,
        WriteStore, Written,
    };
    use crate::store::{Content as Stream, ListRequest, Page, Store};

    /// A store that does nothing.
    pub struct NoStore;

    fn nothing<T>() -> Result<T> {
        Err(Error::Unsupported("anything".into()))
    }

    #[async_trait]
    impl Store for NoStore {
        async fn head(&self, _: &str) -> Result<Object> {
            nothing()
        }

        async fn probe(&self, _: &str, _: u64) -> Result<(Object, Bytes)> {
            nothing()
        }

        async fn get(&self, _: &Version, _: Range<u64>) -> Result<(Object, Stream)> {
            nothing()
        }

        async fn list(&self, _: ListRequest<'_>) -> Result<Page> {
            nothing()
        }
    }

    #[async_trait]
    impl WriteStore for NoStore {
        async fn put(&self, _: &str, _: &NewHeaders, _: Bytes, _: &Condition) -> Result<Written> {
            nothing()
        }

        async fn create_upload(&self, _: &str, _: &NewHeaders) -> Result<Created> {
            nothing()
        }

        async fn upload_part(&self, _: &Upload, _: u16, _: Bytes) -> Result<Part> {
            nothing()
        }

        async fn copy_part(&self, _: &Upload, _: u16, _: &Version, _: Range<u64>) -> Result<Part> {
            nothing()
        }

        async fn complete(&self, _: &Upload, _: &[Part], _: &Condition) -> Result<Written> {
            nothing()
        }

        async fn abort(&self, _: &Upload) -> Result<()> {
            nothing()
        }

        async fn uploads(&self, _: &str, _: Option<&Upload>) -> Result<UploadsPage> {
            nothing()
        }

        async fn has_parts(&self, _: &Upload) -> Result<bool> {
            nothing()
        }

        async fn copy(&self, _: CopyRequest<'_>) -> Result<Written> {
            nothing()
        }

        async fn delete(&self, _: &str, _: &DeleteIf) -> Result<Deleted> {
            nothing()
        }

        async fn delete_once(&self, _: &str, _: &DeleteIf) -> Result<Deleted> {
            nothing()
        }

        async fn rename(&self, _: &Version, _: &str, _: &Condition) -> Result<()> {
            nothing()
        }
    }

    /// A writer whose commits all fail.
    pub fn writer() -> Arc<Writer> {
        let store = Arc::new(NoStore);
        let bucket = Bucket {
            store: store.clone(),
            clock: Arc::new(Clock::local()),
            policy: Policy::default(),
        };
        let rules = Rules {
            prefix: Prefix::default(),
            ttl: TtlRules::new(Vec::new(), Ttl::Never),
            content_type_by_name: true,
            storage_class: None,
            timeout: Duration::from_secs(30),
        };
        let room = Room { part: 64 << 10, memory: Ledger::new(Unit::Kib, 1024, true), spool: None };
        let bodies = Ledger::new(Unit::Body, 4, true);
        Writer::new(bucket, store, Honours::ALL, rules, room, bodies, None)
    }

    #[tokio::test]
    async fn no_unlink_comes_between_a_commit_and_its_note() {
        let pending = Pending::create(&writer(), "d/f", Wanted::Any);
        let version = Version {
            key: "d/f".into(),
            etag: "e".into(),
            last_modified: SystemTime::UNIX_EPOCH,
            slack: Duration::ZERO,
            size: 0,
        };
        let object = Object { version, headers: Default::default() };
        pending.hold().await.moved(object.clone());
        let mut noted = 0;
        let note = |_| {
            assert!(pending.inner.try_lock().is_err(), "it can be unlinked now");
            noted += 1;
        };
        pending.note(&object, 0, note).await;
        assert_eq!(noted, 1);
        pending.unlink().await;
        pending.note(&object, 0, |_| panic!("it has no name")).await;
    }

    #[tokio::test]
    async fn the_first_failure_is_sticky() {
        let pending = Pending::create(&writer(), "d/f", Wanted::Any);
        pending.write(0, b"x").await.unwrap();
        let failed = pending.commit(Closing::Flush).await.unwrap_err();
        assert_eq!(pending.state(), State::Failed);
        assert_eq!(pending.write(1, b"y").await, Err(failed.clone()));
        assert_eq!(pending.check().await, Err(failed));
    }
}
