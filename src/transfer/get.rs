//! `get`: an object that has not expired goes to a stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Failure, PIECE};
use crate::body::{Accounts, Patience, Reader};
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::expiry::Presence;
use crate::store::{Checksum, Object, Sum, found};

/// What to get.
pub struct Get<'a> {
    pub bucket: &'a Bucket,
    pub accounts: &'a Accounts,
    pub key: &'a str,
    /// An object that expires sooner counts as expired.
    pub live_for: Duration,
    pub timeout: Duration,
}

/// Writes an object to the stream that `open` makes once the object was found live. A body that
/// breaks is resumed at the same version. `moved` is told how many bytes were written so far.
///
/// # Errors
/// `NotFound`, `Expired`, without a call of `open`; those of the store and of the stream, after which
/// the stream has a part of the object, or other bytes: `Protocol`, if they do not have the checksum
/// that the store has of the object.
pub async fn get<S: AsyncWrite + Unpin>(
    wanted: &Get<'_>,
    open: impl AsyncFnOnce(&Object) -> io::Result<S>,
    mut moved: impl FnMut(u64),
) -> std::result::Result<(Object, S), Failure> {
    let Begun { object, checksum, reader } = wanted.begin().await?;
    let size = object.version.size;
    let mut stream = open(&object).await?;
    // Over all responses: one that broke and was resumed has no checksum of its own.
    let mut sum = checksum.map(Checksum::verify);
    let mut at = 0;
    while at < size {
        let bytes = reader.read(at, PIECE as u32).await?;
        if bytes.is_empty() {
            return Err(Error::Protocol(format!("{at} bytes of an object of {size}").into()).into());
        }
        if let Some(sum) = &mut sum {
            sum.add(&bytes);
        }
        stream.write_all(&bytes).await?;
        at += bytes.len() as u64;
        moved(at);
    }
    stream.flush().await?;
    sum.map_or(Ok(()), Sum::end)?;
    Ok((object, stream))
}

/// How often an object may be replaced between a HEAD and the GET of the version that it found.
const REPLACED: usize = 3;

struct Begun {
    object: Object,
    checksum: Option<Checksum>,
    reader: Arc<Reader>,
}

impl Get<'_> {
    /// Requests a live version, whichever it is.
    async fn begin(&self) -> Result<Begun> {
        let mut replaced = 0..REPLACED;
        loop {
            match self.begin_once().await {
                Err(Error::Stale) if replaced.next().is_some() => {}
                begun => return begun,
            }
        }
    }

    async fn begin_once(&self) -> Result<Begun> {
        let Get { bucket, accounts, key, timeout, .. } = *self;
        let answer = bucket.store.head_with_checksum(key).await;
        let found = found(&*bucket.store, key, answer).await?;
        let (object, checksum) = found.ok_or(Error::NotFound)?;
        self.must_live(&object)?;
        let version = Arc::new(object.version.clone());
        let patience = Patience { open_wait: timeout, timeout };
        let (store, accounts) = (bucket.store.clone(), accounts.clone());
        let reader = Reader::new(store, accounts, version, Bytes::new(), false, patience);
        // Its headers come with the body, which may be that of a version put since with the same
        // bytes.
        if let Some(object) = reader.begin().await? {
            self.must_live(&object)?;
        }
        Ok(Begun { object, checksum, reader })
    }

    fn must_live(&self, object: &Object) -> Result<()> {
        let judged = self.bucket.judge(object);
        match judged.presence {
            Presence::Expired => Err(Error::Expired),
            Presence::Unreadable => Err(Error::Unparsable),
            Presence::Live { .. } => match judged.judgement.expiry.instant() {
                Some(at) if at < judged.at + self.live_for => Err(Error::Expired),
                _ => Ok(()),
            },
        }
    }
}
