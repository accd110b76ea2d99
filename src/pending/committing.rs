//! Whether a commit is due, and making it: under the name of the file, or under a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::sync::MutexGuard;

use super::commit::Commit;
use super::{Closing, Held, Inner, Pending, Wanted};
use crate::error::{Error, Result};
use crate::store::Object;
use crate::waits::Wait;

/// The outcome of [`Pending::commit_as`].
pub enum CommittedAs<'a> {
    /// `before`: what it was committed as until now.
    Anew { object: Object, before: Option<Object> },
    /// No commit was due, and none begins before the file is let go.
    Unchanged { before: Option<Object>, held: Held<'a> },
}

impl Pending {
    /// Whether a commit is due.
    pub async fn is_due(&self, closing: Closing) -> Result<bool> {
        let inner = self.locked().await;
        self.sound(&inner)?;
        Ok(inner.is_due(closing))
    }

    /// Commits what there is. `None` where no commit is due.
    ///
    /// # Errors
    /// Of the store; `Exists`, `Stale` where its condition does not hold. They stick.
    pub async fn commit(&self, closing: Closing) -> Result<Option<Object>> {
        let mut inner = self.locked().await;
        self.sound(&inner)?;
        match inner.is_due(closing) {
            true => Wait::Commit.during(self.commit_locked(&mut inner)).await.map(Some),
            false => Ok(None),
        }
    }

    /// Commits what there is under a new key, which is its key from then on. Where all is committed
    /// already, nothing is done and the key stays.
    ///
    /// # Errors
    /// Those of [`Pending::commit`].
    pub async fn commit_as(&self, key: &str, wanted: Wanted) -> Result<CommittedAs<'_>> {
        let inner = self.locked().await;
        self.sound(&inner)?;
        let before = inner.committed.clone();
        if !inner.is_due(Closing::Now) {
            return Ok(CommittedAs::Unchanged { before, held: Held { pending: self, inner } });
        }
        let mut renaming = Renaming::new(self, inner, key, wanted);
        match Wait::Commit.during(self.commit_locked(&mut renaming.inner)).await {
            Ok(object) => {
                renaming.old = None;
                Ok(CommittedAs::Anew { object, before })
            }
            // A new name that exists does no harm to the file under its old one.
            Err(Error::Exists) => {
                renaming.inner.failed = None;
                self.show(&renaming.inner);
                Err(Error::Exists)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn set_key(&self, key: &str) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = key.into();
    }

    async fn commit_locked(&self, inner: &mut Inner) -> Result<Object> {
        let _committing = Committing::new(&self.committing);
        match self.commit_inner(inner).await {
            Ok(object) => {
                self.writer.commits.committed.add(1);
                inner.dirty = false;
                inner.written = false;
                let version = Arc::new(object.version.clone());
                inner.content.committed(version.clone());
                inner.wanted = match &inner.wanted {
                    Wanted::Edit(_) => Wanted::Edit(version),
                    Wanted::Any | Wanted::New => Wanted::Any,
                };
                inner.committed = Some(object.clone());
                self.show(inner);
                Ok(object)
            }
            Err(error) => {
                self.writer.commits.failed.add(1);
                Err(self.refuse(inner, error))
            }
        }
    }

    async fn commit_inner(&self, inner: &mut Inner) -> Result<Object> {
        let key = self.key();
        // Without a spool the only part of a file that was cut off may be with the store alone.
        if inner.content.size() > self.writer.room.part || inner.content.is_kept_nowhere(0) {
            return self.commit_parts(inner, &key).await;
        }
        self.abandon(inner);
        if inner.content.base(0).is_some() {
            self.fetch(inner, 0).await?;
        }
        // As for a part: first the permit, then the memory, so that no two wait for each other.
        let _body = self.writer.body().await?;
        let loaded = match inner.content.count() {
            0 => None,
            _ => {
                let (_, source) = inner.content.send(0)?;
                Some(self.load(source).await?)
            }
        };
        let bytes = loaded.as_ref().map_or_else(Bytes::new, |loaded| loaded.bytes.clone());
        let expires = self.expires_of(inner);
        let headers = self.writer.headers(&key, expires);
        let honours = &self.writer.honours;
        let commit = Commit {
            key: &key,
            headers: &headers,
            is_upload: false,
            size: bytes.len() as u64,
            wanted: &inner.wanted,
            honoured: (honours.put_if_absent, honours.put_if_match),
        };
        let writer = &self.writer;
        writer
            .commit(&commit, |condition| {
                let (bytes, headers, key) = (bytes.clone(), &headers, &key);
                async move { writer.store.put(key, headers, bytes, &condition).await }
            })
            .await
    }
}

/// A file that is committed under a new key. It gets its old one back if that fails or is cancelled.
struct Renaming<'a> {
    pending: &'a Pending,
    inner: MutexGuard<'a, Inner>,
    /// None: it is committed.
    old: Option<(Arc<str>, Wanted)>,
}

impl<'a> Renaming<'a> {
    fn new(
        pending: &'a Pending,
        mut inner: MutexGuard<'a, Inner>,
        key: &str,
        wanted: Wanted,
    ) -> Renaming<'a> {
        let old = (pending.key(), std::mem::replace(&mut inner.wanted, wanted));
        let mut renaming = Renaming { pending, inner, old: Some(old) };
        renaming.set_key(key);
        renaming
    }

    /// An upload is of one key.
    fn set_key(&mut self, key: &str) {
        self.pending.set_key(key);
        if self.inner.upload.as_ref().is_some_and(|upload| *upload.upload().key != *key) {
            self.pending.abandon(&mut self.inner);
        }
    }
}

impl Drop for Renaming<'_> {
    fn drop(&mut self) {
        if let Some((key, wanted)) = self.old.take() {
            self.inner.wanted = wanted;
            self.set_key(&key);
        }
    }
}

/// Marks a commit as in progress until dropped, even by cancellation.
struct Committing<'a>(&'a AtomicBool);

impl<'a> Committing<'a> {
    fn new(flag: &'a AtomicBool) -> Committing<'a> {
        flag.store(true, Ordering::Relaxed);
        Committing(flag)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
