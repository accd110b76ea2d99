//! What all pending files of a mount share: the store, the limits, and the rules for written files.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::content::Room;
use super::journal::{Creation, Entry, Journal};
use crate::body::{Ledger, Permit};
use crate::bucket::Bucket;
use crate::bucket::honours::Honours;
use crate::content_type;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::expiry::{Ttl, TtlRules};
use crate::metrics::Counter;
use crate::name::Prefix;
use crate::store::UploadPages;
use crate::store::write::{Created, NewHeaders, Upload, WriteStore};
use crate::waits::Wait;

/// The minimum of parts that are in memory only to be sent, most of them from the spool; the maximum is
/// half of what `--buffer-memory` has for pending files. Not part of that, since a commit must not wait
/// for memory that other pending files hold.
const LOADS: usize = 2;

/// The rules for written files.
#[derive(Clone, Debug)]
pub struct Rules {
    pub prefix: Prefix,
    pub ttl: TtlRules,
    /// Whether Content-Type is set by the name.
    pub content_type_by_name: bool,
    /// For written files; copies keep the class of their source. None: STANDARD.
    pub storage_class: Option<String>,
    /// Time limit of each request, and of each wait for room.
    pub timeout: Duration,
}

/// Counters of commits. Field names are those of `status`.
#[derive(Debug, Default)]
pub struct Commits {
    pub committed: Counter,
    pub failed: Counter,
    /// Failures at release, which no program can see.
    pub untold: Counter,
    pub aborted_uploads: Counter,
    pub bytes_written: Counter,
}

/// See the module.
pub struct Writer {
    pub bucket: Bucket,
    pub store: Arc<dyn WriteStore>,
    pub honours: Honours,
    pub rules: Rules,
    pub room: Room,
    pub bodies: Arc<Ledger>,
    pub commits: Commits,
    journal: Option<Journal>,
    pub(super) loads: Semaphore,
    /// Pending files so far.
    serials: AtomicU64,
    /// What its nonces begin with, and how many there were.
    random: u64,
    nonces: AtomicU64,
    /// Uploads being aborted.
    aborting: Mutex<JoinSet<()>>,
    /// What is aborted may have been given up on a thread of the kernel's, which has no runtime.
    runtime: Handle,
}

impl Writer {
    /// Call it on the runtime.
    pub fn new(
        bucket: Bucket,
        store: Arc<dyn WriteStore>,
        honours: Honours,
        rules: Rules,
        room: Room,
        bodies: Arc<Ledger>,
        journal: Option<Journal>,
    ) -> Arc<Writer> {
        let loads = ((room.memory.cap() << 10) / room.part as usize / 2).max(LOADS);
        Arc::new(Writer {
            bucket,
            store,
            honours,
            rules,
            room,
            bodies,
            commits: Commits::default(),
            journal,
            loads: Semaphore::new(loads),
            serials: AtomicU64::new(0),
            random: random(),
            nonces: AtomicU64::new(0),
            aborting: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    /// A unique number for a pending file.
    pub(super) fn serial(&self) -> u64 {
        self.serials.fetch_add(1, Ordering::Relaxed)
    }

    /// The path of a key below the mount point.
    pub fn path<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(self.rules.prefix.as_str()).unwrap_or(key)
    }

    /// The TTL of a new file of this key.
    pub fn ttl(&self, key: &str) -> Ttl {
        self.rules.ttl.ttl(self.path(key))
    }

    /// The headers of a new object that expires at `expires`.
    pub fn headers(&self, key: &str, expires: Option<SystemTime>) -> NewHeaders {
        let by_name = self.rules.content_type_by_name.then(|| content_type::by_name(key)).flatten();
        let content_type = by_name.map(str::to_owned);
        let storage_class = self.rules.storage_class.clone();
        let nonce = format!("{:016x}-{}", self.random, self.nonces.fetch_add(1, Ordering::Relaxed));
        let nonce = Some(nonce);
        NewHeaders { expires, content_type, storage_class, nonce, ..NewHeaders::default() }
    }

    /// A permit for a request that carries content.
    ///
    /// # Errors
    /// `TooManyBodies` if none became free in time.
    pub async fn body(&self) -> Result<Permit> {
        let by = Deadline::after(self.rules.timeout);
        let permit = self.bodies.acquire_for_upload(1, by.left());
        let permit = Wait::BodyPermit.during(permit).await;
        permit.ok_or(Error::TooManyBodies { cap: self.bodies.cap(), waited: by.whole() })
    }

    /// Begins a multipart upload, and records it in the journal.
    pub async fn create_upload(
        self: &Arc<Self>,
        key: &str,
        headers: &NewHeaders,
    ) -> Result<Upload> {
        let creation = Creation { key: key.into(), at: seconds(self.bucket.clock.now()) };
        self.record(key, |journal| journal.began(&(&creation).into()));
        let created = self.store.create_upload(key, headers).await;
        if let Ok(Created { upload, .. }) = &created {
            self.record(key, |journal| journal.began(&upload.into()));
        }
        match &created {
            Ok(Created { perhaps_others: true, .. }) | Err(Error::Unclear(_)) => {
                self.abort_created(creation);
            }
            Ok(_) | Err(_) => self.record(key, |journal| journal.ended(&(&creation).into())),
        }
        created.map(|created| created.upload)
    }

    /// Records in the journal that an upload is complete.
    pub fn completed(&self, upload: &Upload) {
        self.record(&upload.key, |journal| journal.ended(&upload.into()));
    }

    fn record(&self, key: &str, record: impl FnOnce(&Journal) -> io::Result<()>) {
        if let Some(journal) = &self.journal
            && let Err(error) = record(journal)
        {
            warn!(key, "the journal of uploads cannot be written: {error}");
        }
    }

    /// Aborts an upload in the background; a failure is logged.
    pub fn abort(self: &Arc<Self>, upload: Upload) {
        let writer = self.clone();
        self.spawn(async move { writer.abort_now(&upload).await });
    }

    async fn abort_now(&self, upload: &Upload) {
        match self.store.abort(upload).await {
            Ok(()) => {
                self.commits.aborted_uploads.add(1);
                self.completed(upload);
                debug!(key = %upload.key, "an upload was aborted");
            }
            Err(error) => {
                warn!(key = %upload.key, id = %upload.id, "an upload cannot be aborted, and \
                    costs storage: the next mount tries again: {error}");
            }
        }
    }

    /// Aborts in the background what a request for a new upload has created whose answer was lost.
    pub fn abort_created(self: &Arc<Self>, creation: Creation) {
        let writer = self.clone();
        self.spawn(async move {
            let key = &creation.key;
            match writer.created_by(&creation).await {
                Ok(uploads) => {
                    for upload in uploads {
                        writer.record(key, |journal| journal.began(&(&upload).into()));
                        writer.abort_now(&upload).await;
                    }
                }
                Err(error @ (Error::Denied(_) | Error::Unsupported(_))) => {
                    debug!(key = %key, "uploads cannot be listed: {error}");
                }
                Err(error) => {
                    debug!(key = %key, "the next mount lists its uploads: {error}");
                    return;
                }
            }
            writer.record(key, |journal| journal.ended(&(&creation).into()));
        });
    }

    /// The uploads that this request has created, as far as can be told: those of its key and time
    /// that have no parts and are not known here. What another writer has begun at that moment under
    /// the same key, and has sent no part of, is taken for one of them.
    async fn created_by(&self, creation: &Creation) -> Result<Vec<Upload>> {
        // The store's clock is known to a second or so.
        const SLACK: u64 = 2;
        let retried_until = creation.at + self.rules.timeout.as_secs();
        let times = creation.at.saturating_sub(SLACK)..=retried_until + SLACK;
        let mut found = Vec::new();
        let mut pages = UploadPages::new(&*self.store, &creation.key);
        while let Some(uploads) = pages.next().await? {
            let of_key = uploads.into_iter().filter(|(upload, _)| upload.key == creation.key);
            found.extend(of_key.filter(|(_, at)| times.contains(&seconds(*at))));
        }
        // After the pages: what is listed and not known here was not created here since.
        let known = self.journal.as_ref().map(|journal| journal.open_of(&creation.key));
        let known = known.unwrap_or_default();
        let creations = known.iter().filter(|entry| matches!(entry, Entry::Creation(_)));
        if creations.count() > 1 {
            return Err(Error::Conflict("another upload of this key is being created".into()));
        }
        let mut lost = Vec::new();
        for (upload, _) in found {
            if !known.contains(&(&upload).into())
                && self.store.has_parts(&upload).await == Ok(false)
            {
                lost.push(upload);
            }
        }
        Ok(lost)
    }

    fn spawn(&self, abort: impl Future<Output = ()> + Send + 'static) {
        let mut aborting = self.aborting.lock().unwrap_or_else(PoisonError::into_inner);
        while aborting.try_join_next().is_some() {}
        aborting.spawn_on(abort, &self.runtime);
    }

    /// Aborts in the background what the journal of a dead mount has.
    pub fn take_over(self: &Arc<Self>, left: Vec<Entry>) {
        for entry in left {
            match entry {
                Entry::Upload(upload) => {
                    info!(key = %upload.key, "an upload that a dead mount has left is aborted");
                    self.abort(upload);
                }
                Entry::Creation(creation) => self.abort_created(creation),
            }
        }
    }

    /// Waits for the uploads that are being aborted, and closes the journal. To be called at the end:
    /// tasks and threads that still have this writer may never be ended in order.
    pub async fn end(&self) {
        self.until_aborted().await;
        if let Some(journal) = &self.journal {
            journal.close();
        }
    }

    /// Waits for the uploads that are being aborted.
    pub async fn until_aborted(&self) {
        let mut aborting =
            std::mem::take(&mut *self.aborting.lock().unwrap_or_else(PoisonError::into_inner));
        while aborting.join_next().await.is_some() {}
    }
}

/// Since 1970.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[expect(clippy::disallowed_methods, reason = "no two mounts may have the same nonces")]
fn random() -> u64 {
    RandomState::new().hash_one(())
}
