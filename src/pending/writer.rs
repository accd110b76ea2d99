//! What all pending files of a mount share: the store, the limits, and the rules for written files.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::content::Room;
use super::journal::Journal;
use crate::body::{Ledger, Permit};
use crate::bucket::Bucket;
use crate::bucket::honours::Honours;
use crate::content_type;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::expiry::{Ttl, TtlRules};
use crate::metrics::Counter;
use crate::name::Prefix;
use crate::store::write::{NewHeaders, Upload, WriteStore};

/// Parts of the spool that are read into memory concurrently, to be sent. Not part of
/// `--buffer-memory`, since a commit must not wait for memory that other pending files hold.
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
        Arc::new(Writer {
            bucket,
            store,
            honours,
            rules,
            room,
            bodies,
            commits: Commits::default(),
            journal,
            loads: Semaphore::new(LOADS),
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
        let permit = self.bodies.acquire_for_upload(1, by.left()).await;
        permit.ok_or(Error::TooManyBodies { cap: self.bodies.cap(), waited: by.whole() })
    }

    /// Begins a multipart upload, and records it in the journal.
    pub async fn create_upload(&self, key: &str, headers: &NewHeaders) -> Result<Upload> {
        let upload = self.store.create_upload(key, headers).await?;
        if let Some(journal) = &self.journal
            && let Err(error) = journal.began(&upload)
        {
            warn!(key, "the journal of uploads cannot be written: {error}");
        }
        Ok(upload)
    }

    /// Records in the journal that an upload is complete.
    pub fn completed(&self, upload: &Upload) {
        if let Some(journal) = &self.journal
            && let Err(error) = journal.ended(upload)
        {
            warn!(key = %upload.key, "the journal of uploads cannot be written: {error}");
        }
    }

    /// Aborts an upload in the background; a failure is logged.
    pub fn abort(self: &Arc<Self>, upload: Upload) {
        let writer = self.clone();
        let abort = async move {
            match writer.store.abort(&upload).await {
                Ok(()) => {
                    writer.commits.aborted_uploads.add(1);
                    writer.completed(&upload);
                    debug!(key = %upload.key, "an upload was aborted");
                }
                Err(error) => {
                    warn!(key = %upload.key, id = %upload.id, "an upload cannot be aborted, and \
                        costs storage: the next mount tries again: {error}");
                }
            }
        };
        let mut aborting = self.aborting.lock().unwrap_or_else(PoisonError::into_inner);
        while aborting.try_join_next().is_some() {}
        aborting.spawn_on(abort, &self.runtime);
    }

    /// Waits for the uploads that are being aborted.
    pub async fn until_aborted(&self) {
        let mut aborting =
            std::mem::take(&mut *self.aborting.lock().unwrap_or_else(PoisonError::into_inner));
        while aborting.join_next().await.is_some() {}
    }
}

#[expect(clippy::disallowed_methods, reason = "no two mounts may have the same nonces")]
fn random() -> u64 {
    RandomState::new().hash_one(())
}
