//! Proves which conditions a store honours: each is tried twice, once when it does not hold and the
//! change must be refused, and once when it holds and the change must be made.
//!
//! Scratch objects are directly under the mount's prefix, as `.expirefs-probe-RANDOM-N`. They are
//! created expired, so that no mount that reads `Expires` shows them, and any tool that deletes
//! expired objects removes leftovers. All are removed at the end, even if a probe fails. What may
//! stay: objects if DELETE is denied; those in use when the process ends; an upload whose id was
//! lost with its response; and in a versioned bucket the versions.
//!
//! Owns the scratch objects and uploads until they are removed.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::join;
use tokio::sync::Semaphore;
use tracing::warn;

use super::{Honours, NotWritable, Spellings};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::store::Version;
use crate::store::write::{
    Condition, CopyHeaders, CopyRequest, DeleteIf, NewHeaders, Part, Tag, Upload, WriteStore,
    Written,
};

/// How often a probe is tried if its changes get no clear response.
const TRIES: u32 = 3;

/// How often a removal is tried.
const REMOVALS: u32 = 2;

/// What most scratch objects contain.
const CONTENT: Bytes = Bytes::from_static(b"expirefs");

/// Content of the target of a rename, with another size than the source.
const REPLACED: Bytes = Bytes::from_static(b"replaced by a rename");

/// Runs the proof on objects whose keys begin with `base`, with at most `bodies` requests in flight
/// that carry content.
pub async fn run(
    stores: Spellings,
    base: String,
    bodies: usize,
    by: Deadline,
) -> Result<Honours, NotWritable> {
    let scratch = Scratch { stores, base, bodies: Semaphore::new(bodies), made: Mutex::default() };
    let first = scratch.key();
    let proved = by.half().bound(scratch.prove(&first)).await;
    let removed = by.bound(scratch.remove()).await;
    let (keys, uploads) = scratch.left();
    if let Err(error) = &removed {
        let uploads = uploads.len();
        warn!(?keys, uploads, "expired scratch objects stay in the bucket: {error}");
    }
    match proved {
        Ok(honours) => {
            let denied = !keys.is_empty() && matches!(removed, Err(Error::Denied(_)));
            Ok(Honours { may_delete: !denied, ..honours })
        }
        Err(error @ Error::Denied(_)) => Err(NotWritable::Denied(first, error)),
        Err(error) => Err(NotWritable::Unproved(error)),
    }
}

/// How a store compares the ETag of a condition with its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Quoted,
    Bare,
}

/// Why a probe does not show that a condition is honoured.
enum Not {
    /// It is not honoured, or the request is not known, or denied.
    Honoured,
    /// No clear response: some stores fail (500) on requests they do not know.
    Clear,
    /// No request is answered now.
    Answered(Error),
}

impl From<Error> for Not {
    fn from(error: Error) -> Not {
        match error {
            Error::PreconditionFailed
            | Error::NotFound
            | Error::Unconfirmed(_)
            | Error::Denied(_)
            | Error::Unsupported(_)
            | Error::Refused(_) => Not::Honoured,
            Error::Unclear(_) | Error::Conflict(_) | Error::Store(_) | Error::Protocol(_) => {
                Not::Clear
            }
            error => Not::Answered(error),
        }
    }
}

/// The outcome of a change whose condition does not hold.
fn refused<T>(outcome: Result<T>) -> Result<(), Not> {
    match outcome {
        Ok(_) => Err(Not::Honoured),
        Err(Error::PreconditionFailed) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a probe, and repeats it while the response is unclear. `None`: not honoured.
async fn repeated<T, F>(probe: impl Fn() -> F) -> Result<Option<T>>
where
    F: Future<Output = Result<T, Not>>,
{
    for _ in 0..TRIES {
        match probe().await {
            Ok(shown) => return Ok(Some(shown)),
            Err(Not::Honoured) => return Ok(None),
            Err(Not::Clear) => {}
            Err(Not::Answered(error)) => return Err(error),
        }
    }
    Ok(None)
}

/// An ETag that no scratch object has.
fn other() -> Tag {
    Tag::new("0123456789abcdef0123456789abcdef").expect("it is not empty")
}

/// The headers of all scratch objects: they are created expired.
fn headers() -> NewHeaders {
    NewHeaders { expires: Some(SystemTime::UNIX_EPOCH), ..NewHeaders::default() }
}

/// A scratch object.
struct Object {
    key: String,
    tag: Tag,
}

impl Object {
    /// As the source of a change that requires this ETag, if any.
    fn version(&self, tag: Option<&Tag>) -> Version {
        Version {
            key: self.key.as_str().into(),
            etag: tag.map_or("", Tag::as_str).into(),
            // No condition uses it.
            last_modified: SystemTime::UNIX_EPOCH,
            slack: Duration::ZERO,
            size: CONTENT.len() as u64,
        }
    }
}

/// An upload that is ready to be completed.
struct Ready {
    upload: Upload,
    part: Part,
}

/// The scratch objects of one proof.
struct Scratch {
    stores: Spellings,
    /// The prefix of all keys.
    base: String,
    /// Permits for requests that carry content.
    bodies: Semaphore,
    /// Never held while waiting.
    made: Mutex<Made>,
}

/// Objects and uploads that may exist and must be removed.
#[derive(Default)]
struct Made {
    /// Keys used so far.
    count: u32,
    keys: BTreeSet<String>,
    uploads: Vec<Upload>,
}

impl Scratch {
    async fn prove(&self, first: &str) -> Result<Honours> {
        let written = self.put(self.store(), first, CONTENT, &Condition::Any).await?;
        let source = written.tag.map(|tag| Object { key: first.to_owned(), tag });
        let source = source.as_ref();
        let proofs = join!(
            repeated(|| self.put_if_absent()),
            repeated(|| self.put_if_match()),
            repeated(|| self.complete_if_absent()),
            repeated(|| self.complete_if_match()),
            repeated(|| self.copy_source_if_match(source)),
            repeated(|| self.copy_if_absent(source)),
            repeated(|| self.copy_if_match(source)),
            repeated(|| self.delete_if_match()),
            repeated(|| self.rename()),
        );
        let (put_absent, put, complete_absent, complete, source, absent, copy, delete, rename) =
            proofs;
        let by_tag = [put?, complete?, source?, copy?, delete?, rename?];
        // All requests use the same spelling; if a store needs two, that of PUT is used.
        let spelling = by_tag.iter().flatten().next().copied();
        let [put, complete, source, copy, delete, rename] =
            by_tag.map(|shown| shown.is_some() && shown == spelling);
        Ok(Honours {
            bare_etags: spelling == Some(Spelling::Bare),
            put_if_absent: put_absent?.is_some(),
            put_if_match: put,
            complete_if_absent: complete_absent?.is_some(),
            complete_if_match: complete,
            copy_source_if_match: source,
            copy_if_absent: absent?.is_some(),
            copy_if_match: copy,
            delete_if_match: delete,
            rename,
            may_delete: true,
        })
    }

    async fn put_if_absent(&self) -> Result<(), Not> {
        let key = self.key();
        self.put(self.store(), &key, CONTENT, &Condition::Absent).await?;
        refused(self.put(self.store(), &key, CONTENT, &Condition::Absent).await)
    }

    async fn put_if_match(&self) -> Result<Spelling, Not> {
        let Object { key, tag } = &self.object(CONTENT).await?;
        self.matching(tag, |store, tag| async move {
            self.put(store, key, CONTENT, &Condition::Is(tag)).await.map(|_| ())
        })
        .await
    }

    async fn complete_if_absent(&self) -> Result<(), Not> {
        let key = self.key();
        let (one, two) = join!(self.upload(&key), self.upload(&key));
        let (one, two) = (one?, two?);
        self.complete(self.store(), &one, &Condition::Absent).await?;
        refused(self.complete(self.store(), &two, &Condition::Absent).await)
    }

    async fn complete_if_match(&self) -> Result<Spelling, Not> {
        let Object { key, tag } = &self.object(CONTENT).await?;
        // A store may end an upload whose completion it refuses.
        let (wrong, right) = join!(self.upload(key), self.upload(key));
        let (wrong, right) = (&wrong?, &right?);
        self.matching(tag, |store, wanted| async move {
            let ready = if wanted == *tag { right } else { wrong };
            self.complete(store, ready, &Condition::Is(wanted)).await
        })
        .await
    }

    async fn copy_source_if_match(&self, source: Option<&Object>) -> Result<Spelling, Not> {
        let source = source.ok_or(Not::Honoured)?;
        let key = &self.key();
        self.matching(&source.tag, |store, tag| async move {
            copy(store, &source.version(Some(&tag)), key, &Condition::Any).await
        })
        .await
    }

    async fn copy_if_absent(&self, source: Option<&Object>) -> Result<(), Not> {
        let source = source.ok_or(Not::Honoured)?.version(None);
        let key = self.key();
        copy(self.store(), &source, &key, &Condition::Absent).await?;
        refused(copy(self.store(), &source, &key, &Condition::Absent).await)
    }

    async fn copy_if_match(&self, source: Option<&Object>) -> Result<Spelling, Not> {
        let source = &source.ok_or(Not::Honoured)?.version(None);
        let Object { key, tag } = &self.object(CONTENT).await?;
        self.matching(tag, |store, tag| async move {
            copy(store, source, key, &Condition::Is(tag)).await
        })
        .await
    }

    async fn delete_if_match(&self) -> Result<Spelling, Not> {
        let Object { key, tag } = &self.object(CONTENT).await?;
        self.matching(tag, |store, tag| async move {
            store.delete(key, &DeleteIf::Is(tag)).await.map(|_| ())
        })
        .await
    }

    /// If RenameObject is treated as a PUT, either the wrong ETag of the source is ignored, or the
    /// target is empty at the end.
    async fn rename(&self) -> Result<Spelling, Not> {
        let (from, to) = join!(self.object(CONTENT), self.object(REPLACED));
        let (from, to) = (&from?, &to?);
        let any_version = from.version(None);
        let is_other = Condition::Is(other());
        let (absent, is_other) = join!(
            self.store().rename(&any_version, &to.key, &Condition::Absent),
            self.store().rename(&any_version, &to.key, &is_other),
        );
        refused(absent)?;
        refused(is_other)?;
        let onto = &Condition::Is(to.tag.clone());
        let rename = self.matching(&from.tag, |store, tag| async move {
            store.rename(&from.version(Some(&tag)), &to.key, onto).await
        });
        let spelling = rename.await?;
        // Not every store marks its 404 to the HEAD of a deleted object as its own.
        let (new, old) = join!(self.store().head(&to.key), self.store().probe(&from.key, 1));
        match (new?.version.size == CONTENT.len() as u64, old) {
            (true, Err(Error::NotFound)) => Ok(spelling),
            (_, Err(error)) if error != Error::NotFound => Err(error.into()),
            _ => Err(Not::Honoured),
        }
    }

    /// The spelling in which a change is refused with another ETag, and made with `tag`.
    async fn matching<'a, F>(
        &'a self,
        tag: &Tag,
        change: impl Fn(&'a dyn WriteStore, Tag) -> F,
    ) -> Result<Spelling, Not>
    where
        F: Future<Output = Result<()>>,
    {
        let Spellings { quoted, bare } = &self.stores;
        for (spelling, store) in [(Spelling::Quoted, quoted), (Spelling::Bare, bare)] {
            refused(change(&**store, other()).await)?;
            match change(&**store, tag.clone()).await {
                // It never matches in this spelling.
                Err(Error::PreconditionFailed) => {}
                made => {
                    made?;
                    return Ok(spelling);
                }
            }
        }
        Err(Not::Honoured)
    }

    /// For changes without an ETag.
    fn store(&self) -> &dyn WriteStore {
        &*self.stores.quoted
    }

    /// A new key, recorded for removal.
    fn key(&self) -> String {
        let mut made = self.made();
        made.count += 1;
        let key = format!("{}{}", self.base, made.count);
        made.keys.insert(key.clone());
        key
    }

    async fn put(
        &self,
        store: &dyn WriteStore,
        key: &str,
        content: Bytes,
        condition: &Condition,
    ) -> Result<Written> {
        // The semaphore is never closed.
        let _permit = self.bodies.acquire().await;
        store.put(key, &headers(), content, condition).await
    }

    /// A new object.
    async fn object(&self, content: Bytes) -> Result<Object, Not> {
        let key = self.key();
        let written = self.put(self.store(), &key, content, &Condition::Any).await?;
        // Without ETags, no condition can be used.
        let tag = written.tag.ok_or(Not::Honoured)?;
        Ok(Object { key, tag })
    }

    async fn upload(&self, key: &str) -> Result<Ready, Not> {
        let upload = self.store().create_upload(key, &headers()).await?.upload;
        self.made().uploads.push(upload.clone());
        let _permit = self.bodies.acquire().await;
        let part = self.store().upload_part(&upload, 1, CONTENT).await?;
        Ok(Ready { upload, part })
    }

    async fn complete(
        &self,
        store: &dyn WriteStore,
        Ready { upload, part }: &Ready,
        condition: &Condition,
    ) -> Result<()> {
        store.complete(upload, std::slice::from_ref(part), condition).await?;
        self.made().uploads.retain(|other| other != upload);
        Ok(())
    }

    /// Removes everything, as far as possible.
    async fn remove(&self) -> Result<()> {
        let mut outcome = Ok(());
        for _ in 0..REMOVALS {
            let (keys, uploads) = self.left();
            let deleted = join_all(keys.into_iter().map(|key| self.delete(key)));
            let aborted = join_all(uploads.into_iter().map(|upload| self.abort(upload)));
            let (deleted, aborted) = join!(deleted, aborted);
            outcome = deleted.into_iter().chain(aborted).collect();
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn delete(&self, key: String) -> Result<()> {
        self.store().delete(&key, &DeleteIf::Any).await?;
        self.made().keys.remove(&key);
        Ok(())
    }

    async fn abort(&self, upload: Upload) -> Result<()> {
        self.store().abort(&upload).await?;
        self.made().uploads.retain(|other| *other != upload);
        Ok(())
    }

    fn left(&self) -> (BTreeSet<String>, Vec<Upload>) {
        let made = self.made();
        (made.keys.clone(), made.uploads.clone())
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a copy with all headers.
async fn copy(
    store: &dyn WriteStore,
    source: &Version,
    key: &str,
    condition: &Condition,
) -> Result<()> {
    let (headers, storage_class) = (CopyHeaders::All, None);
    let request = CopyRequest { source, key, headers, storage_class, condition };
    store.copy(request).await.map(|_| ())
}
