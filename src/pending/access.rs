//! Reading, writing and truncating a pending file, and the room that this takes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::content::{self, Fetched, Need};
use super::spool::Extent;
use super::{Inner, Pending, Wanted, blocking, upload};
use crate::body::Permit;
use crate::error::{Error, Result};
use crate::waits::Wait;

/// Bytes of the base that are written to the spool at once.
const PIECE: usize = 1 << 20;

impl Pending {
    /// Writes, if that is possible without waiting.
    pub fn try_write(&self, offset: u64, bytes: &[u8]) -> Option<Result<()>> {
        let mut inner = self.inner.try_lock().ok()?;
        if let Some(error) = &inner.failed {
            return Some(Err(error.clone()));
        }
        match inner.content.write(offset, bytes) {
            Ok((done, None)) if done == bytes.len() => {
                self.wrote(&mut inner, bytes.len());
                Some(Ok(()))
            }
            // The bytes written so far are written again.
            Ok(_) => None,
            Err(error) => Some(Err(self.refuse(&mut inner, error))),
        }
    }

    /// Writes bytes at an offset. Waits for room, and for bytes of the base if needed.
    ///
    /// # Errors
    /// `NoSpace`, `TooLarge`, `NotInOrder`, those of reading the base, and the first failure of this
    /// file.
    pub async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut inner = self.locked().await;
        self.sound(&inner)?;
        let mut done = 0;
        while done < bytes.len() {
            let (at, rest) = (offset + done as u64, &bytes[done..]);
            let wrote = match inner.content.write(at, rest) {
                Ok((n, None)) => Ok(n),
                Ok((0, Some(need))) => self.write_by(&mut inner, need, at, rest).await,
                Ok((n, Some(_))) => Ok(n),
                Err(error) => Err(error),
            };
            match wrote {
                Ok(n) => done += n,
                Err(error) => return Err(self.refuse(&mut inner, error)),
            }
        }
        self.wrote(&mut inner, bytes.len());
        Ok(())
    }

    fn wrote(&self, inner: &mut Inner, bytes: usize) {
        inner.dirty = true;
        inner.written = true;
        self.writer.commits.bytes_written.add(bytes as u64);
        self.note_change();
        self.show(inner);
    }

    /// Provides what a write needs, and writes if that is the spool. Returns how many bytes.
    async fn write_by(
        &self,
        inner: &mut Inner,
        need: Need,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize> {
        match need {
            Need::Base(index) => self.fetch(inner, index).await.map(|()| 0),
            Need::Memory(kib) => {
                let index = inner.content.index(offset);
                // Full parts of this file may hold what it waits for.
                self.send_parts_before(inner, index).await?;
                let permit = self.memory(kib, "there is no spool").await?;
                inner.content.provide(index, permit, None);
                Ok(0)
            }
            Need::Spool(index) => {
                let part = self.writer.room.part;
                let start = offset % part;
                let length = bytes.len().min((part - start) as usize);
                let piece = Bytes::copy_from_slice(&bytes[..length]);
                let spooled = match self.move_out(inner, index).await {
                    Ok(extent) => {
                        blocking(move || extent.write(start, &piece)).await.map(|()| length)
                    }
                    Err(error) => Err(error),
                };
                match spooled {
                    Ok(length) => {
                        inner.content.wrote(index, offset + length as u64);
                        Ok(length)
                    }
                    // Others may release memory.
                    Err(Error::NoSpace(why)) => {
                        // All of the part: what it has in the spool goes back to memory.
                        let held = inner.content.spooled(index);
                        let kept = held.as_ref().map_or(0, |extent| extent.len() as usize);
                        let most = kept.max(start as usize + length).next_power_of_two();
                        let permit = self.memory(content::kib(most), &why).await?;
                        let spooled = match held {
                            None => None,
                            Some(extent) => Some(
                                blocking(move || {
                                    let mut bytes = BytesMut::zeroed(extent.len() as usize);
                                    extent.read(0, &mut bytes).map(|()| bytes)
                                })
                                .await?,
                            ),
                        };
                        inner.content.provide(index, permit, spooled);
                        Ok(0)
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Moves a part to the spool.
    pub(super) async fn move_out(&self, inner: &mut Inner, index: usize) -> Result<Arc<Extent>> {
        let (extent, bytes) = inner.content.extent(index)?;
        if !bytes.is_empty() {
            let extent = extent.clone();
            blocking(move || extent.write(0, &bytes)).await?;
        }
        inner.content.moved(index, extent.clone());
        Ok(extent)
    }

    /// Waits for memory.
    async fn memory(&self, kib: usize, why: &str) -> Result<Permit> {
        let (memory, timeout) = (&self.writer.room.memory, self.writer.rules.timeout);
        let permit = Wait::Memory.during(memory.acquire_for_upload(kib, timeout)).await;
        permit.ok_or_else(|| {
            Error::NoSpace(format!("--buffer-memory is in use for {timeout:?}, and {why}"))
        })
    }

    /// Fetches the range of the base that a part still consists of.
    pub(super) async fn fetch(&self, inner: &mut Inner, index: usize) -> Result<()> {
        let Some((version, range)) = inner.content.base(index) else { return Ok(()) };
        let mut place = inner.content.place_for(range.end - range.start)?;
        if !range.is_empty() {
            let _body = self.writer.body().await?;
            let got = self.writer.store.get(&version, range.clone()).await;
            let (_, mut content) = got.map_err(upload::gone)?;
            let mut at = 0;
            while at < range.end - range.start {
                let chunk = upload::next(&mut content, self.writer.rules.timeout).await?;
                at += chunk.len() as u64;
                match &mut place {
                    Fetched::Memory(bytes, _) => bytes.extend_from_slice(&chunk),
                    Fetched::Spooled(extent) => {
                        let (extent, start) = (extent.clone(), at - chunk.len() as u64);
                        blocking(move || extent.write(start, &chunk)).await?;
                    }
                }
            }
        }
        inner.content.fetched(index, place);
        Ok(())
    }

    /// Up to `size` bytes from an offset on; fewer at the end of the file only.
    ///
    /// # Errors
    /// `NotInOrder` if they were sent and are not kept here; those of reading the base; the first
    /// failure of the file, whose bytes are gone.
    pub async fn read(&self, offset: u64, size: u32) -> Result<Bytes> {
        let mut inner = self.locked().await;
        self.sound(&inner)?;
        let size = u64::from(size).min(inner.content.size().saturating_sub(offset));
        let mut read: Vec<Bytes> = Vec::new();
        let mut done = 0;
        while done < size {
            let (at, rest) = (offset + done, size - done);
            let bytes = match inner.content.read(at, rest)? {
                Ok(bytes) => bytes,
                Err(Need::Spool(index)) => {
                    let (part, range) = (self.writer.room.part, inner.content.range(index));
                    let length = rest.min(range.end - at).min(PIECE as u64) as usize;
                    let (extent, _) = inner.content.extent(index)?;
                    blocking(move || {
                        let mut bytes = BytesMut::zeroed(length);
                        extent.read(at % part, &mut bytes)?;
                        Ok(bytes.freeze())
                    })
                    .await?
                }
                Err(Need::Base(index)) => {
                    self.fetch(&mut inner, index).await?;
                    continue;
                }
                Err(Need::Memory(_)) => return Err(Error::Defect("a read needs memory".into())),
            };
            done += bytes.len() as u64;
            read.push(bytes);
        }
        Ok(match read.len() {
            1 => read.remove(0),
            _ => read.concat().into(),
        })
    }

    /// Truncates the file to `size`, or extends it with zeros.
    ///
    /// # Errors
    /// Those of writing.
    pub async fn truncate(&self, size: u64) -> Result<()> {
        let mut inner = self.locked().await;
        self.sound(&inner)?;
        loop {
            let before = inner.content.size();
            match inner.content.truncate(size) {
                Ok(Ok(())) => {
                    if before != size {
                        inner.dirty = true;
                        self.note_change();
                    }
                    // A file that was only emptied may be written next.
                    inner.written = size > 0 && (inner.written || before != size);
                    self.show(&inner);
                    return Ok(());
                }
                Ok(Err(Need::Base(index))) => {
                    if let Err(error) = self.fetch(&mut inner, index).await {
                        return Err(self.refuse(&mut inner, error));
                    }
                }
                Ok(Err(need)) => return Err(Error::Defect(format!("truncate needs {need:?}"))),
                Err(error) => return Err(self.refuse(&mut inner, error)),
            }
        }
    }

    /// Empties a file that was opened with O_TRUNC: its commit will replace any object under its
    /// name.
    pub async fn empty(&self) -> Result<()> {
        self.truncate(0).await?;
        let mut inner = self.locked().await;
        inner.dirty = true;
        if matches!(inner.wanted, Wanted::Edit(_)) {
            inner.wanted = Wanted::Any;
        }
        self.show(&inner);
        Ok(())
    }
}
