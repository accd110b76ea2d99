//! `put`: a stream becomes an object.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Failure, PIECE};
use crate::error::Error;
use crate::pending::{Closing, End, Pending, Wanted, Writer};
use crate::store::Object;

/// Stores all bytes of `source` under a key. Unless all of it succeeds, what is under the key stays
/// as it is. `end`: its expiry, if not by the writer's rules. `moved` is told how many bytes were
/// read so far, and `is_whole` all of them, before the object is made.
///
/// # Errors
/// `Exists` if a live object must not be replaced; those of the source and of the store. An upload
/// that has begun is aborted in the background: see [`Writer::end`].
pub async fn put(
    writer: &Arc<Writer>,
    key: &str,
    wanted: Wanted,
    end: Option<End>,
    mut source: impl AsyncRead + Unpin,
    mut moved: impl FnMut(u64),
    is_whole: impl FnOnce(u64) -> io::Result<()>,
) -> Result<Object, Failure> {
    // Before the bytes are sent, and for a store that ignores conditions.
    if wanted == Wanted::New && writer.live(key).await?.is_some() {
        return Err(Error::Exists.into());
    }
    let pending = Pending::create(writer, key, wanted);
    if end.is_some() {
        pending.stamp(end).await?;
    }
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let read = source.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        pending.write(at, &piece[..read]).await?;
        let fills_part = pending.fills_part(at, read);
        at += read as u64;
        if fills_part {
            pending.send_full_parts(at).await;
        }
        moved(at);
    }
    is_whole(at)?;
    let object = pending.commit(Closing::Now).await?;
    Ok(object.ok_or_else(|| Error::Defect("a new file had nothing to commit".into()))?)
}
