//! Deletes expired objects, each only if it is still the version that was judged.
//!
//! Between judgement and deletion, a writer may renew an object, even with the same bytes, so with
//! the same ETag. How far a store can exclude that is learned from the first objects that are
//! deleted: each is sent a DELETE with a condition that does not hold. A store that ignores it deletes
//! an object that was about to be deleted. Whether conditions count in DeleteObjects too, is learned in
//! the same way.
//!
//! Where a store does not compare all of a version, nothing is waited for between the answer of a HEAD
//! and the DELETE, and no DELETE is sent twice without another HEAD.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backon::BackoffBuilder;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::verdict::{Rules, Verdict};
use crate::bucket::Bucket;
use crate::deadline::{Deadline, pauses};
use crate::error::{Error, Result};
use crate::store::write::{DeleteIf, Deleted, MOST_DELETED, Tag, WriteStore};
use crate::store::{Version, head_of_listed};

/// An ETag that no object has: MD5 never had this value.
const OTHER_ETAG: &str = "00000000000000000000000000000000";

/// How far from an object's Last-Modified the false one is.
const DAY: Duration = Duration::from_secs(86_400);

/// The first pause before another try; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Tries after the first, in about half a minute.
const MORE_TRIES: usize = 8;

/// No other try begins after this time: a try may take all of `--timeout`.
const TRYING: Duration = Duration::from_secs(60);

/// How often a key is judged anew because it has another version, which is due too.
const VERSIONS: u32 = 4;

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
    skew: Option<Duration>,
    guard: OnceLock<Guard>,
    /// The strongest guard that is not excluded. Held while the guard is not known: one object at a
    /// time.
    perhaps: Mutex<Guard>,
    /// Whether DeleteObjects deletes exactly the versions that it names, if that is known. Held while
    /// it is not.
    batches: Mutex<Option<bool>>,
    /// Requests sent since they were last taken.
    sent: AtomicU64,
}

/// An object that is due.
pub struct Due {
    pub version: Version,
    /// Whether it was judged by a HEAD just now.
    pub fresh: bool,
}

/// What a HEAD shows of an object that was due.
enum Again {
    /// Perhaps in another version.
    Due(Version),
    Not(Removed),
}

impl Removal {
    pub fn new(
        store: Arc<dyn WriteStore>,
        bucket: Bucket,
        rules: Rules,
        skew: Option<Duration>,
    ) -> Removal {
        let (guard, perhaps) = (OnceLock::new(), Mutex::new(Guard::Version));
        let (batches, sent) = (Mutex::new(None), AtomicU64::new(0));
        Removal { store, bucket, rules, skew, guard, perhaps, batches, sent }
    }

    /// By how much the clocks of the store and of this host differ, if that is too much: by the wrong one,
    /// live objects would be deleted.
    pub fn is_skewed(&self) -> Option<Duration> {
        let by = self.bucket.clock.skew();
        self.skew.filter(|most| by > *most).map(|_| by)
    }

    /// How exactly deletions are limited, if that is known by now.
    pub fn guard(&self) -> Option<Guard> {
        self.guard.get().copied()
    }

    /// Requests sent since the last call.
    pub fn take_sent(&self) -> u64 {
        self.sent.swap(0, Ordering::Relaxed)
    }

    /// Deletes an object that is due. Tries again for a while after failures that may pass.
    pub async fn remove(&self, Due { version, mut fresh }: Due) -> Removed {
        let mut pauses = pauses(FIRST_PAUSE).with_max_times(MORE_TRIES).build();
        let by = Deadline::after(TRYING);
        let mut unclear = false;
        loop {
            let failed = match self.try_to_remove(version.clone(), fresh).await {
                // Perhaps by a request whose answer was lost.
                Ok(Removed::Gone) if unclear => return Removed::Deleted { marker: false },
                Ok(removed) => return removed,
                Err(failed) => failed,
            };
            unclear |= matches!(failed, Error::Unclear(_));
            let may_pass = matches!(
                failed,
                Error::Unclear(_)
                    | Error::Throttled(_)
                    | Error::Conflict(_)
                    | Error::Unreachable(_)
                    | Error::OutOfDescriptors(_)
            );
            let next = pauses.next().filter(|pause| may_pass && by.left() > *pause);
            let Some(pause) = next else {
                return Removed::Failed(failed);
            };
            sleep(pause).await;
            fresh = false;
        }
    }

    /// Deletes objects that are due, many with one request where that is as safe. `None`: it is still
    /// to be deleted, by itself.
    pub async fn remove_all(&self, versions: &[Version]) -> Vec<Option<Removed>> {
        let mut removed = vec![None; versions.len()];
        let mut left: Vec<usize> =
            (0..versions.len()).filter(|at| is_xml(&versions[*at].key)).collect();
        if let [first, _, ..] = left[..]
            && self.guard().is_none()
        {
            let due = Due { version: versions[first].clone(), fresh: false };
            removed[first] = Some(self.remove(due).await);
            left.remove(0);
        }
        if self.guard() != Some(Guard::Version) {
            return removed;
        }
        if let [first, _, ..] = left[..] {
            let mut batches = self.batches.lock().await;
            if batches.is_none() {
                removed[first] = self.learn_batches(&mut batches, &versions[first]).await;
            }
        }
        left.retain(|at| removed[*at].is_none());
        for batch in left.chunks(MOST_DELETED) {
            if batch.len() < 2 || *self.batches.lock().await != Some(true) {
                break;
            }
            let asked: Vec<Version> = batch.iter().map(|at| versions[*at].clone()).collect();
            let outcomes = match self.delete_all(&asked).await {
                Ok(outcomes) => outcomes,
                Err(error) => vec![Err(error); batch.len()],
            };
            // For example because it compares ETags in another form: each by itself from now on.
            if outcomes.iter().all(is_refused) {
                *self.batches.lock().await = Some(false);
            }
            for (at, outcome) in batch.iter().zip(outcomes) {
                removed[*at] = match outcome {
                    Ok(Deleted { marker }) => Some(Removed::Deleted { marker }),
                    Err(Error::NotFound) => Some(Removed::Gone),
                    Err(_) => None,
                };
            }
        }
        removed
    }

    /// Tries to find out, with an object that is due, whether DeleteObjects honours conditions. `None`:
    /// the object is still to be deleted.
    async fn learn_batches(
        &self,
        batches: &mut Option<bool>,
        version: &Version,
    ) -> Option<Removed> {
        if !self.is_still_due(version).await {
            return None;
        }
        let other = Version { last_modified: version.last_modified + DAY, ..version.clone() };
        match self.delete_all(&[other]).await.map(|mut outcomes| outcomes.pop()) {
            Ok(Some(Ok(Deleted { marker }))) => {
                *batches = Some(false);
                Some(Removed::Deleted { marker })
            }
            Ok(Some(Err(Error::PreconditionFailed))) => {
                // Otherwise it was perhaps refused because of that.
                if self.is_still_due(version).await {
                    *batches = Some(true);
                }
                None
            }
            Ok(Some(Err(Error::NotFound))) => None,
            Ok(_) | Err(Error::Unsupported(_) | Error::Refused(_) | Error::Denied(_)) => {
                *batches = Some(false);
                None
            }
            Err(_) => None,
        }
    }

    async fn is_still_due(&self, version: &Version) -> bool {
        matches!(self.judge_again(version).await, Ok(Again::Due(now)) if version.is(&now))
    }

    async fn delete_all(&self, versions: &[Version]) -> Result<Vec<Result<Deleted>>> {
        self.may_send()?;
        self.store.delete_all(versions).await
    }

    async fn try_to_remove(&self, version: Version, mut fresh: bool) -> Result<Removed> {
        if self.guard().is_none() {
            let mut perhaps = match self.perhaps.try_lock() {
                Ok(perhaps) => perhaps,
                Err(_) => {
                    fresh = false;
                    self.perhaps.lock().await
                }
            };
            if self.guard().is_none() {
                return self.learn(&mut perhaps, version, fresh).await;
            }
        }
        let guard = self.guard().unwrap_or(Guard::None);
        self.remove_under(guard, version, fresh).await
    }

    async fn remove_under(
        &self,
        guard: Guard,
        mut version: Version,
        mut fresh: bool,
    ) -> Result<Removed> {
        for _ in 0..VERSIONS {
            if guard != Guard::Version && !fresh {
                match self.judge_again(&version).await? {
                    Again::Due(now) => version = now,
                    Again::Not(removed) => return Ok(removed),
                }
            }
            let condition = match (guard, version.tag()) {
                (Guard::Version, _) => DeleteIf::Version(version.clone()),
                (Guard::Etag, Some(tag)) => DeleteIf::Is(tag),
                (Guard::Etag | Guard::None, _) => DeleteIf::Any,
            };
            match self.delete(&version, &condition).await {
                Ok(Deleted { marker }) => return Ok(Removed::Deleted { marker }),
                Err(Error::PreconditionFailed) => match self.judge_again(&version).await? {
                    Again::Not(removed) => return Ok(removed),
                    Again::Due(now) if version.is(&now) => {
                        return Err(Error::Store(
                            "it refused to delete a version that it shows, under its own ETag"
                                .into(),
                        ));
                    }
                    Again::Due(now) => (version, fresh) = (now, true),
                },
                Err(failed) => return self.settle(&version, failed).await,
            }
        }
        Ok(Removed::Renewed)
    }

    /// Finds out what the store honours, with an object that is due, and deletes it.
    async fn learn(
        &self,
        perhaps: &mut Guard,
        mut version: Version,
        mut fresh: bool,
    ) -> Result<Removed> {
        let mut guard = *perhaps;
        for _ in 0..VERSIONS {
            if !fresh {
                match self.judge_again(&version).await? {
                    Again::Due(now) => version = now,
                    Again::Not(removed) => return Ok(removed),
                }
            }
            fresh = false;
            // Each condition does not hold.
            let condition = match guard {
                Guard::Version => {
                    let last_modified = version.last_modified + DAY;
                    DeleteIf::Version(Version { last_modified, ..version.clone() })
                }
                Guard::Etag => Tag::new(OTHER_ETAG).map_or(DeleteIf::Any, DeleteIf::Is),
                Guard::None => DeleteIf::Any,
            };
            match self.delete(&version, &condition).await {
                Ok(Deleted { marker }) => {
                    if let Again::Due(now) = self.judge_again(&version).await?
                        && version.is(&now)
                    {
                        return Err(Error::Store(
                            "it said that it deleted an object, and still shows it".into(),
                        ));
                    }
                    match guard {
                        Guard::Version => *perhaps = Guard::Etag,
                        Guard::Etag | Guard::None => _ = self.guard.set(Guard::None),
                    }
                    return Ok(Removed::Deleted { marker });
                }
                Err(Error::PreconditionFailed) => match self.judge_again(&version).await? {
                    Again::Not(removed) => return Ok(removed),
                    Again::Due(now) if version.is(&now) && guard != Guard::None => {
                        _ = self.guard.set(guard);
                        return self.remove_under(guard, now, true).await;
                    }
                    // Perhaps it was refused because of that: it shows nothing.
                    Again::Due(now) => (version, fresh) = (now, true),
                },
                // Perhaps all deletions of this object are: only a weaker condition shows that.
                Err(Error::Unsupported(_) | Error::Refused(_)) if guard != Guard::None => {
                    guard = match guard {
                        Guard::Version => Guard::Etag,
                        Guard::Etag | Guard::None => Guard::None,
                    };
                }
                Err(failed) => return self.settle(&version, failed).await,
            }
        }
        Ok(Removed::Renewed)
    }

    async fn delete(&self, version: &Version, condition: &DeleteIf) -> Result<Deleted> {
        self.may_send()?;
        self.store.delete_once(&version.key, condition).await
    }

    /// Counts a request that deletes.
    fn may_send(&self) -> Result<()> {
        if let Some(by) = self.is_skewed() {
            let why = format!("the store's clock has jumped by {} s", by.as_secs());
            return Err(Error::Protocol(why.into()));
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What became of an object by a DELETE that failed.
    async fn settle(&self, version: &Version, failed: Error) -> Result<Removed> {
        match failed {
            Error::NotFound => Ok(Removed::Gone),
            Error::Unclear(_) => match self.judge_again(version).await {
                Ok(Again::Not(Removed::Gone)) => Ok(Removed::Deleted { marker: false }),
                Ok(Again::Not(removed)) => Ok(removed),
                Ok(Again::Due(_)) | Err(_) => Err(failed),
            },
            failed => Err(failed),
        }
    }

    async fn judge_again(&self, version: &Version) -> Result<Again> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let Some(object) = head_of_listed(&*self.bucket.store, &version.key).await? else {
            return Ok(Again::Not(Removed::Gone));
        };
        let judged = self.bucket.judge(&object);
        let modified = object.version.last_modified;
        match self.rules.verdict(&judged.judgement, modified, judged.at) {
            Verdict::Due => Ok(Again::Due(object.version)),
            Verdict::Kept(_) => Ok(Again::Not(Removed::Renewed)),
        }
    }
}

/// Whether XML 1.0 has all of these characters, so that a document can name the key.
fn is_xml(key: &str) -> bool {
    !key.contains(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

fn is_refused(outcome: &Result<Deleted>) -> bool {
    use Error::{Denied, PreconditionFailed, Refused, Unsupported};
    matches!(outcome, Err(PreconditionFailed | Refused(_) | Unsupported(_) | Denied(_)))
}
