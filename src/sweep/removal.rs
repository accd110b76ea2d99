//! Deletes expired objects, each only if it is still the version that was judged.
//!
//! Between judgement and deletion, a writer may renew an object, even with the same bytes, so with
//! the same ETag. How far a store can exclude that is learned from the first objects that are
//! deleted: each is sent a DELETE with a condition that does not hold. A store that ignores it deletes
//! an object that was about to be deleted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::verdict::{Rules, Verdict};
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::store::write::{DeleteIf, Deleted, Tag, WriteStore};
use crate::store::{Version, head_of_listed};

/// An ETag that no object has: MD5 never had this value.
const OTHER_ETAG: &str = "00000000000000000000000000000000";

/// How far from an object's Last-Modified the false one is.
const DAY: Duration = Duration::from_secs(86_400);

/// Which conditions of DELETE a store honours, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    /// Size and Last-Modified are ignored, or refused.
    NoVersion,
    All(Guard),
}

/// How exactly a DELETE can be limited to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// ETag, size and Last-Modified are compared: a renewed object is never deleted.
    Version,
    /// The ETag is compared: an object that is renewed with the same bytes between a HEAD and the DELETE
    /// right after it is deleted.
    Etag,
    /// Nothing is compared: an object that is renewed in that time is deleted.
    None,
}

/// What became of an object that was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Whether a delete marker was put, and its versions kept.
    Deleted {
        marker: bool,
    },
    /// It is another version now, or has another expiry.
    Renewed,
    /// Somebody else has deleted it.
    Gone,
    Failed(Error),
}

/// See the module.
pub struct Removal {
    store: Arc<dyn WriteStore>,
    bucket: Bucket,
    rules: Rules,
    known: Mutex<Known>,
}

/// An object that is due.
pub struct Due {
    pub version: Version,
    /// Whether it was judged by a HEAD just now.
    pub fresh: bool,
}

impl Removal {
    pub fn new(store: Arc<dyn WriteStore>, bucket: Bucket, rules: Rules) -> Removal {
        Removal { store, bucket, rules, known: Mutex::new(Known::Nothing) }
    }

    /// How exactly deletions are limited, if that is known by now.
    pub async fn guard(&self) -> Option<Guard> {
        match *self.known.lock().await {
            Known::All(guard) => Some(guard),
            Known::Nothing | Known::NoVersion => None,
        }
    }

    /// Deletes an object that is due.
    pub async fn remove(&self, due: Due) -> Removed {
        self.try_to_remove(due).await.unwrap_or_else(Removed::Failed)
    }

    async fn try_to_remove(&self, Due { version, mut fresh }: Due) -> Result<Removed> {
        let guard = loop {
            // Held while it is not known: one object at a time.
            let mut known = self.known.lock().await;
            if let Known::All(guard) = *known {
                break guard;
            }
            if let Some(removed) = self.learn(&mut known, &version, fresh).await? {
                return Ok(removed);
            }
            fresh = false;
        };
        if guard != Guard::Version
            && !fresh
            && let Some(removed) = self.judge_again(&version).await?
        {
            return Ok(removed);
        }
        let condition = match (guard, version.tag()) {
            (Guard::Version, _) => DeleteIf::Version(version.clone()),
            (Guard::Etag, Some(tag)) => DeleteIf::Is(tag),
            (Guard::Etag | Guard::None, _) => DeleteIf::Any,
        };
        let failed = match self.store.delete(&version.key, &condition).await {
            Ok(Deleted { marker }) => return Ok(Removed::Deleted { marker }),
            Err(Error::NotFound) => return Ok(Removed::Gone),
            Err(failed) => failed,
        };
        match (self.judge_again(&version).await?, failed) {
            // Perhaps by this request, whose answer was lost.
            (Some(Removed::Gone), Error::Unclear(_)) => Ok(Removed::Deleted { marker: false }),
            (Some(removed), _) => Ok(removed),
            (None, Error::PreconditionFailed) => Err(Error::Store(
                "it refused to delete a version that it shows, under its own ETag".to_owned(),
            )),
            (None, failed) => Err(failed),
        }
    }

    /// Tries to find out what the store honours, with an object that is due. `None`: the object is
    /// still to be deleted.
    async fn learn(
        &self,
        known: &mut Known,
        version: &Version,
        fresh: bool,
    ) -> Result<Option<Removed>> {
        if !fresh && let Some(removed) = self.judge_again(version).await? {
            return Ok(Some(removed));
        }
        // Each with a condition that does not hold.
        let (condition, honoured, ignored) = match *known {
            Known::Nothing => {
                let last_modified = version.last_modified + DAY;
                let other = Version { last_modified, ..version.clone() };
                (DeleteIf::Version(other), Guard::Version, Known::NoVersion)
            }
            Known::NoVersion => {
                let other = Tag::new(OTHER_ETAG).map_or(DeleteIf::Any, DeleteIf::Is);
                (other, Guard::Etag, Known::All(Guard::None))
            }
            Known::All(_) => return Ok(None),
        };
        match self.store.delete(&version.key, &condition).await {
            Ok(Deleted { marker }) => {
                *known = ignored;
                Ok(Some(Removed::Deleted { marker }))
            }
            // Perhaps because it was renewed: that shows nothing.
            Err(Error::PreconditionFailed) => {
                let removed = self.judge_again(version).await?;
                if removed.is_none() {
                    *known = Known::All(honoured);
                }
                Ok(removed)
            }
            Err(Error::NotFound) => Ok(Some(Removed::Gone)),
            Err(Error::Unsupported(_) | Error::Refused(_)) => {
                *known = ignored;
                Ok(None)
            }
            Err(failed) => Err(failed),
        }
    }

    /// `None` if a HEAD shows that a version is still due.
    async fn judge_again(&self, version: &Version) -> Result<Option<Removed>> {
        let Some(object) = head_of_listed(&*self.bucket.store, &version.key).await? else {
            return Ok(Some(Removed::Gone));
        };
        let judged = self.bucket.judge(&object);
        let modified = object.version.last_modified;
        let verdict = self.rules.verdict(&judged.judgement, modified, judged.at);
        match version.is(&object.version) && verdict == Verdict::Due {
            true => Ok(None),
            false => Ok(Some(Removed::Renewed)),
        }
    }
}
