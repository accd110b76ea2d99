//! The multipart upload of a pending file: parts are sent while the program still writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::SemaphorePermit;
use tokio::task::JoinSet;
use tracing::{Instrument, warn};

use super::commit::Commit;
use super::content::{Sealed, Source};
use super::{Inner, Pending, blocking};
use crate::error::{Error, Result};
use crate::store::write::{NewHeaders, Part, SMALLEST_PART, Upload};
use crate::store::{Content as Stream, Object};
use crate::waits::{Wait, inherited};

/// Parts of one file that are sent concurrently.
const IN_FLIGHT: usize = 4;

/// How often all parts are sent again after the store has lost the upload.
const UPLOADS: u32 = 3;

/// An upload in progress, and the parts that are being sent. Dropping it cancels those.
pub struct Ongoing {
    upload: Upload,
    /// When its headers were sent.
    began: SystemTime,
    headers: NewHeaders,
    /// Each with its index and change.
    parts: JoinSet<(usize, u64, Result<Part>)>,
    /// Their indexes. Of two requests for one part the store keeps the one that it gets last, so there
    /// is never more than one.
    under_way: BTreeSet<usize>,
    sent: Arc<AtomicUsize>,
    /// It ends otherwise than its headers say: it is stamped once more after its commit.
    outdated: bool,
}

impl Ongoing {
    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    /// Number of uploaded parts.
    pub fn sent(&self) -> Arc<AtomicUsize> {
        self.sent.clone()
    }

    pub fn into_upload(self) -> Upload {
        self.upload
    }

    /// Its end was changed.
    pub fn is_outdated(&mut self) {
        self.outdated = true;
    }

    fn is_under_way(&self, index: usize) -> bool {
        self.under_way.contains(&index)
    }
}

impl Pending {
    /// Sends the parts that a program has filled, up to `offset`. To be called after the write that
    /// ended there was answered.
    pub async fn send_full_parts(&self, offset: u64) {
        let mut inner = self.locked().await;
        if inner.failed.is_some() || inner.unlinked || !inner.written {
            return;
        }
        // A file of one part is one PutObject. It may have been cut off since the write.
        if inner.content.size() > self.writer.room.part {
            let full = inner.content.index(offset.min(inner.content.size()));
            if let Err(error) = self.send_parts_before(&mut inner, full).await {
                self.refuse(&mut inner, error);
            }
        }
        self.show(&inner);
    }

    /// Whether [`Pending::send_full_parts`] may have something to send after a write.
    pub fn fills_part(&self, offset: u64, bytes: usize) -> bool {
        let part = self.writer.room.part;
        let end = offset + bytes as u64;
        self.size() > part && end % part <= bytes as u64 * IN_FLIGHT as u64
    }

    /// Sends the full parts before the one at `index`.
    pub(super) async fn send_parts_before(&self, inner: &mut Inner, index: usize) -> Result<()> {
        self.reap(inner)?;
        for index in 0..index {
            let is_under_way = inner.upload.as_ref().is_some_and(|it| it.is_under_way(index));
            if !inner.content.is_full_and_unsent(index) || is_under_way {
                continue;
            }
            let is_full = inner.upload.as_ref().is_some_and(|it| it.parts.len() >= IN_FLIGHT);
            match (is_full, &self.writer.room.spool) {
                (true, Some(_)) => return Ok(()),
                // Without a spool the next write needs its memory.
                (true, None) => self.wait_for_one(inner).await?,
                (false, _) => {}
            }
            self.send_part(inner, index).await?;
            match &self.writer.room.spool {
                // If the spool is full it stays in memory.
                Some(_) => _ = self.move_out(inner, index).await,
                None => inner.content.forget(index),
            }
        }
        Ok(())
    }

    /// Begins to send a part.
    async fn send_part(&self, inner: &mut Inner, index: usize) -> Result<()> {
        if inner.upload.is_none() {
            let key = self.key();
            let began = self.writer.bucket.clock.now();
            let expires = self.expires_of(inner);
            let headers = self.writer.headers(&key, expires);
            let upload = self.writer.create_upload(&key, &headers).await?;
            inner.upload = Some(Ongoing {
                upload,
                began,
                headers,
                parts: JoinSet::new(),
                under_way: BTreeSet::new(),
                sent: Arc::default(),
                outdated: false,
            });
        }
        let (change, source) = inner.content.send(index)?;
        let Some(ongoing) = &mut inner.upload else { return Ok(()) };
        let (writer, upload) = (self.writer.clone(), ongoing.upload.clone());
        let number = index as u16 + 1;
        let last = index + 1 == inner.content.count();
        let count = ongoing.sent.clone();
        let send = async move {
            let sent = async {
                let _body = writer.body().await?;
                match source {
                    // Only the last part may be a small one.
                    Source::Base(version, range)
                        if last || range.end - range.start >= SMALLEST_PART as u64 =>
                    {
                        writer.store.copy_part(&upload, number, &version, range).await
                    }
                    source => {
                        let loaded = load(&writer, source).await?;
                        writer.store.upload_part(&upload, number, loaded.bytes.clone()).await
                    }
                }
            };
            let sent = sent.await;
            if sent.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
            (index, change, sent)
        };
        ongoing.under_way.insert(index);
        ongoing.parts.spawn(inherited(send).in_current_span());
        Ok(())
    }

    /// Records the parts that were uploaded.
    fn reap(&self, inner: &mut Inner) -> Result<()> {
        let mut ended = Vec::new();
        if let Some(ongoing) = &mut inner.upload {
            while let Some(part) = ongoing.parts.try_join_next() {
                ended.push(part);
            }
        }
        ended.into_iter().try_for_each(|part| note(inner, part))
    }

    async fn wait_for_one(&self, inner: &mut Inner) -> Result<()> {
        let Some(ongoing) = &mut inner.upload else { return Ok(()) };
        match ongoing.parts.join_next().await {
            Some(part) => note(inner, part),
            None => Ok(()),
        }
    }

    /// Sends all missing parts, and completes the upload.
    pub(super) async fn commit_parts(&self, inner: &mut Inner, key: &str) -> Result<Object> {
        let mut tries = 0;
        loop {
            tries += 1;
            let committed = self.commit_upload(inner, key).await;
            // Without a condition on its source, a copy of a part of it may be refused otherwise, such
            // as for its range.
            if matches!(committed, Err(Error::NotFound | Error::Refused(_)))
                && let Some(version) = inner.content.edited()
                && !self.writer.has(&version).await
            {
                return Err(Error::Stale);
            }
            match committed {
                // The upload no longer exists, or conflicts with another change: all is sent again.
                Err(Error::NotFound | Error::Conflict(_)) if tries < UPLOADS => {
                    warn!(key, "an upload was lost, and is sent again");
                    self.abandon(inner);
                }
                Err(Error::NotFound) => {
                    return Err(Error::Store("it has lost the upload, time and again".into()));
                }
                other => return other,
            }
        }
    }

    async fn commit_upload(&self, inner: &mut Inner, key: &str) -> Result<Object> {
        let parts = loop {
            self.reap(inner)?;
            let may_be_sent = |index: &usize| {
                let is_under_way = inner.upload.as_ref().is_some_and(|it| it.is_under_way(*index));
                inner.content.is_to_be_sent(*index) && !is_under_way
            };
            let next = (0..inner.content.count()).find(may_be_sent);
            let in_flight = inner.upload.as_ref().map_or(0, |ongoing| ongoing.parts.len());
            match next {
                Some(index) if in_flight < IN_FLIGHT => self.send_part(inner, index).await?,
                _ if in_flight > 0 => self.wait_for_one(inner).await?,
                _ => match inner.content.all_stored() {
                    Some(parts) => break parts,
                    None => return Err(Error::Defect("a part was not sent".into())),
                },
            }
        };
        let Some(ongoing) = &inner.upload else {
            return Err(Error::Defect("there is no upload to complete".into()));
        };
        let writer = &self.writer;
        let honours = &writer.honours;
        let commit = Commit {
            key,
            headers: &ongoing.headers,
            is_upload: true,
            size: inner.content.size(),
            wanted: &inner.wanted,
            honoured: (honours.complete_if_absent, honours.complete_if_match),
        };
        let (upload, parts) = (&ongoing.upload, &parts);
        let object = writer
            .commit(&commit, |condition| async move {
                writer.store.complete(upload, parts, &condition).await
            })
            .await?;
        writer.completed(upload);
        let (began, expires, outdated) = (ongoing.began, ongoing.headers.expires, ongoing.outdated);
        inner.upload = None;
        if outdated {
            return writer.restamp(&object, self.expires_of(inner)).await;
        }
        Ok(self.stamp_anew(inner, object, began, expires).await)
    }

    /// Rule W1: the headers of an upload are fixed when it is created, so after one that took more
    /// than half of its TTL, the Expires is set again.
    async fn stamp_anew(
        &self,
        inner: &Inner,
        object: Object,
        began: SystemTime,
        expires: Option<SystemTime>,
    ) -> Object {
        let now = self.writer.bucket.clock.now();
        let Some(ttl) = expires.and_then(|at| at.duration_since(began).ok()) else { return object };
        let took = now.duration_since(began).unwrap_or_default();
        if matches!(inner.end, Some(super::End::At(_))) || took <= ttl / 2 {
            return object;
        }
        let anew = self.expires_of(inner);
        match self.writer.restamp(&object, anew).await {
            Ok(object) => object,
            Err(error) => {
                warn!(key = %object.version.key, "its upload took {took:?} of its TTL, and it \
                    cannot be stamped anew: {error}");
                object
            }
        }
    }

    /// The bytes of a part, or of a whole small file.
    pub(super) async fn load(&self, source: Source) -> Result<Loaded<'_>> {
        load(&self.writer, source).await
    }
}

fn note(
    inner: &mut Inner,
    part: std::result::Result<(usize, u64, Result<Part>), tokio::task::JoinError>,
) -> Result<()> {
    let (index, change, sent) = part.map_err(|error| Error::Defect(error.to_string()))?;
    if let Some(ongoing) = &mut inner.upload {
        ongoing.under_way.remove(&index);
    }
    match sent {
        Ok(part) => {
            inner.content.stored(index, change, part);
            Ok(())
        }
        Err(error) => {
            inner.content.unsent(index);
            Err(error)
        }
    }
}

/// Bytes that are in memory to be sent, for as long as this lives.
pub(super) struct Loaded<'a> {
    pub bytes: Bytes,
    /// One of these accounts for them.
    _sealed: Option<Sealed>,
    _turn: Option<SemaphorePermit<'a>>,
}

async fn load(writer: &super::Writer, source: Source) -> Result<Loaded<'_>> {
    let source = match source {
        Source::Bytes(sealed, length) if sealed.bytes.len() == length => {
            let bytes = sealed.bytes.clone();
            return Ok(Loaded { bytes, _sealed: Some(sealed), _turn: None });
        }
        other => other,
    };
    let turn = Wait::Memory.during(writer.loads.acquire()).await.ok();
    let bytes = match source {
        Source::Bytes(sealed, length) => {
            let mut bytes = BytesMut::from(&sealed.bytes[..]);
            bytes.resize(length, 0);
            bytes.freeze()
        }
        Source::Zeros(length) => BytesMut::zeroed(length).freeze(),
        Source::Spooled(extent, length) => {
            blocking(move || {
                let mut bytes = BytesMut::zeroed(length);
                extent.read(0, &mut bytes)?;
                Ok(bytes.freeze())
            })
            .await?
        }
        Source::Base(version, range) => {
            let length = (range.end - range.start) as usize;
            let mut bytes = BytesMut::with_capacity(length);
            let got = writer.store.get(&version, range).await;
            let (_, mut content) = got.map_err(gone)?;
            while bytes.len() < length {
                bytes.extend_from_slice(&next(&mut content, writer.rules.timeout).await?);
            }
            bytes.freeze()
        }
    };
    Ok(Loaded { bytes, _sealed: None, _turn: turn })
}

/// What a request for the version that is edited says where that was deleted.
pub fn gone(error: Error) -> Error {
    match error {
        Error::NotFound => Error::Stale,
        other => other,
    }
}

/// The next bytes of a body.
pub async fn next(content: &mut Stream, timeout: Duration) -> Result<Bytes> {
    match tokio::time::timeout(timeout, content.next()).await {
        Ok(Some(chunk)) => chunk,
        Ok(None) => Err(Error::Protocol("a body that ends early".into())),
        Err(_) => Err(Error::TimedOut(timeout)),
    }
}
