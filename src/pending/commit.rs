//! Makes a commit reliable: its condition, and the meaning of a lost or refused response.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::writer::Writer;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::expiry::{Presence, format_http_date};
use crate::store::write::{
    Condition, CopyHeaders, CopyRequest, DeleteIf, NewHeaders, Tag, Written,
};
use crate::store::{Headers, Object, Version, found};
use crate::waits::Wait;

/// How often a commit is retried after its condition was determined again.
const TRIES: u32 = 5;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// How far a store's Last-Modified may differ from this mount's clock: whole seconds on both sides.
const SLACK: Duration = Duration::from_secs(2);

/// The largest object that one request copies (S3 API reference, CopyObject).
const LARGEST_COPY: u64 = 5 << 30;

/// What a commit may replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Anything: the last commit wins.
    Any,
    /// No live object (O_EXCL, RENAME_NOREPLACE).
    New,
    /// Only this version, which was edited.
    Edit(Arc<Version>),
}

/// What is under a key.
enum Found {
    Nothing,
    Expired(Object),
    Live(Object),
}

impl Found {
    fn tag(&self) -> Option<Tag> {
        match self {
            Found::Nothing => None,
            Found::Expired(object) | Found::Live(object) => object.version.tag(),
        }
    }

    /// What this is to a version of the same key.
    fn beside(&self, version: &Version) -> Beside {
        match self {
            Found::Nothing => Beside::Nothing,
            Found::Expired(object) | Found::Live(object) => match version.is(&object.version) {
                true => Beside::It,
                false => Beside::Another,
            },
        }
    }
}

/// What is under the key of a version.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    It,
    Another,
    Nothing,
}

/// A commit, without its bytes.
pub struct Commit<'a> {
    pub key: &'a str,
    pub headers: &'a NewHeaders,
    /// Whether it completes a multipart upload.
    pub is_upload: bool,
    /// Bytes.
    pub size: u64,
    pub wanted: &'a Wanted,
    /// Whether the store honours `If-None-Match: *`, and `If-Match`, of this request.
    pub honoured: (bool, bool),
}

/// The outcome of [`Writer::rename`].
pub struct Renamed {
    pub object: Object,
    /// Whether the source was certainly removed with it.
    pub renamed: bool,
}

impl Writer {
    /// Makes a commit by `attempt`, and repeats it until its outcome is known.
    ///
    /// # Errors
    /// `Exists`, `Stale`: the object under the key may not be replaced. `Unclear` if the outcome
    /// cannot be determined in time.
    pub async fn commit<F>(
        &self,
        commit: &Commit<'_>,
        attempt: impl Fn(Condition) -> F,
    ) -> Result<Object>
    where
        F: Future<Output = Result<Written>>,
    {
        let by = Deadline::after(self.rules.timeout);
        let mut corpse = None;
        let mut tries = 0;
        loop {
            let Commit { key, wanted, honoured, .. } = *commit;
            let condition = self.condition(key, wanted, honoured, corpse.as_ref()).await?;
            let sent = self.bucket.clock.now();
            let failed = match attempt(condition.clone()).await {
                Ok(written) => {
                    let headers = headers_of(commit.headers);
                    return Ok(self.version_of(key, commit.size, written, sent, headers));
                }
                Err(Error::PreconditionFailed) => Error::PreconditionFailed,
                // The response of some stores to If-Match if there is no object.
                Err(Error::NotFound) if matches!(condition, Condition::Is(_)) => Error::NotFound,
                Err(error @ Error::Unclear(_)) => error,
                Err(error) => return Err(error),
            };
            tries += 1;
            let over = tries > TRIES || by.left().is_zero();
            // What is unclear is settled, though its own timeout is over.
            if over && !matches!(failed, Error::Unclear(_)) {
                return Err(Error::PreconditionFailed);
            }
            let found = self.find(commit.key).await.map_err(|error| match &failed {
                Error::Unclear(report) => {
                    let text = format!("{report}, and HEAD: {error}");
                    Error::Unclear(report.clone().with_text(text))
                }
                _ => error,
            })?;
            let is_named = found.tag().is_some_and(|tag| condition == Condition::Is(tag));
            corpse = match (found, commit.wanted) {
                (Found::Live(object) | Found::Expired(object), _)
                    if object.headers.nonce == commit.headers.nonce =>
                {
                    return Ok(object);
                }
                (_, Wanted::Any) => None,
                (Found::Nothing, Wanted::New) => None,
                (Found::Expired(object), Wanted::New) => object.version.tag(),
                (Found::Live(_), Wanted::New) => return Err(Error::Exists),
                (found, Wanted::Edit(base)) => match found.beside(base) {
                    Beside::It => None,
                    Beside::Another | Beside::Nothing => return Err(Error::Stale),
                },
            };
            if over {
                return Err(failed);
            }
            // The object is there: the upload is not.
            if failed == Error::NotFound && commit.is_upload && is_named {
                return Err(Error::NotFound);
            }
            Wait::Backoff.during(tokio::time::sleep(PAUSE.min(by.left()))).await;
        }
    }

    /// The condition on a key that is to be replaced. If the store ignores it, a HEAD right before
    /// the change replaces it. `corpse`: the expired object that was found there.
    async fn condition(
        &self,
        key: &str,
        wanted: &Wanted,
        (if_absent, if_match): (bool, bool),
        corpse: Option<&Tag>,
    ) -> Result<Condition> {
        match (wanted, corpse) {
            (Wanted::Any, _) => Ok(Condition::Any),
            (Wanted::New, None) if if_absent => Ok(Condition::Absent),
            (Wanted::New, Some(tag)) if if_match => Ok(Condition::Is(tag.clone())),
            (Wanted::New, _) => match self.find(key).await? {
                Found::Live(_) => Err(Error::Exists),
                Found::Nothing | Found::Expired(_) => Ok(Condition::Any),
            },
            (Wanted::Edit(base), _) => match base.tag().filter(|_| if_match) {
                Some(tag) => Ok(Condition::Is(tag)),
                None => match self.find(key).await?.beside(base) {
                    Beside::It => Ok(Condition::Any),
                    Beside::Another | Beside::Nothing => Err(Error::Stale),
                },
            },
        }
    }

    /// The live object under a key, by a HEAD.
    pub async fn live(&self, key: &str) -> Result<Option<Object>> {
        match self.find(key).await? {
            Found::Live(object) => Ok(Some(object)),
            Found::Nothing | Found::Expired(_) => Ok(None),
        }
    }

    /// Whether this version is still under its key, for all that is known.
    pub(super) async fn has(&self, version: &Version) -> bool {
        let found = self.find(&version.key).await;
        found.map_or(true, |found| found.beside(version) == Beside::It)
    }

    /// Deletes exactly this version, if the store honours the condition; else a HEAD right before
    /// replaces it.
    ///
    /// # Errors
    /// `PreconditionFailed` if another one is under the key.
    pub async fn delete(&self, version: &Version) -> Result<()> {
        let condition = match version.tag().filter(|_| self.honours.delete_if_match) {
            Some(tag) => DeleteIf::Is(tag),
            None => match self.find(&version.key).await?.beside(version) {
                Beside::It => DeleteIf::Any,
                Beside::Another => return Err(Error::PreconditionFailed),
                Beside::Nothing => return Ok(()),
            },
        };
        match self.store.delete(&version.key, &condition).await {
            // AWS answers 404 to If-Match for an absent key.
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(Error::Unclear(says)) => match self.find(&version.key).await?.beside(version) {
                Beside::It => Err(Error::Unclear(says)),
                Beside::Another => Err(Error::PreconditionFailed),
                Beside::Nothing => Ok(()),
            },
            Err(error) => Err(error),
        }
    }

    /// Gives a version another key: by RenameObject if the store supports that and the expiry
    /// stays, else by a copy, which keeps the source. `anew`: its new expiry.
    ///
    /// # Errors
    /// `Exists` if a live object must not be replaced; `Stale` if the source was replaced; `Unclear`
    /// if it may still be made, and the target does not show that it was.
    pub async fn rename(
        &self,
        source: &Object,
        key: &str,
        wanted: &Wanted,
        anew: Option<Option<SystemTime>>,
    ) -> Result<Renamed> {
        let Object { version, headers } = source;
        let mut headers = headers.clone();
        let renames = self.honours.rename && anew.is_none();
        let copied = match anew {
            None => CopyHeaders::All,
            Some(expires) => {
                headers.expires = expires.map(format_http_date);
                CopyHeaders::AllButExpires(expires)
            }
        };
        let honoured = (self.honours.copy_if_absent, self.honours.copy_if_match);
        let by = Deadline::after(self.rules.timeout);
        let mut corpse = None;
        let mut unclear = None;
        for _ in 0..TRIES {
            let condition = self.condition(key, wanted, honoured, corpse.as_ref()).await?;
            if !self.honours.copy_source_if_match {
                match self.find(&version.key).await?.beside(version) {
                    Beside::It => {}
                    Beside::Another | Beside::Nothing => return Err(Error::Stale),
                }
            }
            let mut sent = self.bucket.clock.now();
            let moved = match renames {
                true => {
                    let renamed = self.store.rename(version, key, &condition).await;
                    // Some stores keep its Last-Modified.
                    let oldest = version.last_modified.checked_sub(version.slack);
                    sent = sent.min(oldest.unwrap_or(version.last_modified));
                    renamed.map(|()| Written { tag: version.tag(), last_modified: None })
                }
                false => {
                    let request = CopyRequest {
                        source: version,
                        key,
                        headers: copied,
                        storage_class: headers.storage_class.as_deref(),
                        condition: &condition,
                    };
                    self.store.copy(request).await
                }
            };
            let failed = match moved {
                Ok(written) => {
                    let headers = headers.clone();
                    let object = self.version_of(key, version.size, written, sent, headers);
                    return Ok(Renamed { object, renamed: renames });
                }
                Err(error) => error,
            };
            if let Error::Unclear(says) = &failed {
                unclear = Some(says.clone());
            }
            // The target shows whether it was made, by this try or an earlier one. A source of the same
            // content may be left then.
            if let Some(says) = &unclear {
                match self.is_copied(version, key, headers.expires.as_deref()).await {
                    Ok(Some(object)) => return Ok(Renamed { object, renamed: false }),
                    Ok(None) if !by.left().is_zero() => {}
                    Ok(None) | Err(_) => return Err(Error::Unclear(says.clone())),
                }
            }
            match failed {
                Error::Unclear(_) => {
                    Wait::Backoff.during(tokio::time::sleep(PAUSE.min(by.left()))).await
                }
                Error::PreconditionFailed => match self.find(key).await? {
                    Found::Live(_) if *wanted == Wanted::New => return Err(Error::Exists),
                    Found::Expired(object) if *wanted == Wanted::New && corpse.is_none() => {
                        corpse = object.version.tag();
                    }
                    _ => return Err(Error::Stale),
                },
                Error::NotFound => return Err(Error::Stale),
                error => return Err(error),
            }
        }
        Err(unclear.map_or(Error::Stale, Error::Unclear))
    }

    /// Sets another expiry of an object: a copy onto itself that requires its ETag.
    ///
    /// # Errors
    /// `PreconditionFailed` if it was replaced. `TooLarge` if it is too large for a copy.
    pub async fn restamp(&self, object: &Object, expires: Option<SystemTime>) -> Result<Object> {
        let Object { version, headers } = object;
        if version.size > LARGEST_COPY {
            return Err(Error::TooLarge { most: LARGEST_COPY });
        }
        let condition = match version.tag().filter(|_| self.honours.copy_if_match) {
            Some(tag) => Condition::Is(tag),
            None => Condition::Any,
        };
        let request = CopyRequest {
            source: version,
            key: &version.key,
            headers: CopyHeaders::AllButExpires(expires),
            storage_class: headers.storage_class.as_deref(),
            condition: &condition,
        };
        let sent = self.bucket.clock.now();
        let written = self.store.copy(request).await?;
        let written = Written { tag: written.tag.or(version.tag()), ..written };
        let headers = Headers { expires: expires.map(format_http_date), ..headers.clone() };
        Ok(self.version_of(&version.key, version.size, written, sent, headers))
    }

    /// The object under a key, if it is a copy of this version: of the same bytes, or with its nonce.
    async fn is_copied(
        &self,
        source: &Version,
        key: &str,
        expires: Option<&str>,
    ) -> Result<Option<Object>> {
        let object = match self.store.head(key).await {
            Ok(object) => object,
            Err(Error::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        if object.version.size != source.size || object.headers.expires.as_deref() != expires {
            return Ok(None);
        }
        // The copy of an object of several parts has another ETag.
        let is_it = match source.is_resumable() && object.version.etag == source.etag {
            true => true,
            false => {
                let nonce = self.store.head(&source.key).await?.headers.nonce;
                nonce.is_some() && nonce == object.headers.nonce
            }
        };
        Ok(is_it.then_some(object))
    }

    async fn find(&self, key: &str) -> Result<Found> {
        let Some(object) = found(&*self.store, key, self.store.head(key).await).await? else {
            return Ok(Found::Nothing);
        };
        match self.bucket.judge(&object).presence {
            Presence::Expired => Ok(Found::Expired(object)),
            Presence::Live { .. } | Presence::Unreadable => Ok(Found::Live(object)),
        }
    }

    /// The object that a change has made, no earlier than `sent`. PutObject, CompleteMultipartUpload
    /// and RenameObject do not return its Last-Modified.
    fn version_of(
        &self,
        key: &str,
        size: u64,
        written: Written,
        sent: SystemTime,
        headers: Headers,
    ) -> Object {
        let now = self.bucket.clock.now();
        let took = now.duration_since(sent).unwrap_or_default();
        let etag = written.tag.as_ref().map_or("", Tag::as_str);
        let (last_modified, slack) = match written.last_modified {
            Some(at) => (at, Duration::ZERO),
            None => (whole_seconds(now), took + SLACK),
        };
        let version = Version { key: key.into(), etag: etag.into(), last_modified, slack, size };
        Object { version, headers }
    }
}

/// The headers of a new object as a HEAD would show them.
fn headers_of(headers: &NewHeaders) -> Headers {
    Headers {
        expires: headers.expires.map(format_http_date),
        cache_control: headers.cache_control.clone(),
        expiration: None,
        content_type: headers.content_type.clone(),
        storage_class: headers.storage_class.clone(),
        nonce: headers.nonce.clone(),
    }
}

fn whole_seconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
