//! The bytes of a pending file, in the parts of its upload.
//!
//! A part is in memory, in the spool, or still in the version that is being edited. Owns the memory
//! and the extents of its parts; knows nothing of requests and commits.

mod sending;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::spool::{Extent, Spool};
use crate::body::{Ledger, Nobody, Permit};
use crate::error::{Error, Result};
use crate::store::{self, Version};

/// The maximum number of parts of an upload (Amazon S3 user guide, "multipart upload limits").
pub const MOST_PARTS: u64 = 10_000;

/// The minimum that is reserved for a part in memory. It doubles when the part grows.
const LEAST: usize = 4 << 10;

/// Where content is kept, for all pending files of a mount.
#[derive(Clone, Debug)]
pub struct Room {
    /// Bytes of a part.
    pub part: u64,
    /// Memory, in KiB.
    pub memory: Arc<Ledger>,
    /// None: parts that were sent are not kept here (`--no-spool`).
    pub spool: Option<Arc<Spool>>,
}

/// See the module.
#[derive(Debug)]
pub struct Content {
    room: Room,
    size: u64,
    parts: Vec<Part>,
    /// Changes of all parts so far: no two have the same number, not even of a part that was cut off
    /// and written again while its first bytes were on their way.
    changes: u64,
    /// The version being edited, and how many of its bytes count: up to the least size so far.
    base: Option<(Arc<Version>, u64)>,
}

#[derive(Debug)]
struct Part {
    bytes: Place,
    /// The number of its last change.
    change: u64,
    /// The change whose bytes were sent, or are being sent.
    sent: Option<u64>,
    /// The part as it was uploaded, and its change.
    stored: Option<(u64, store::write::Part)>,
}

/// Where the bytes of a part are. Bytes after the last written one are zero.
#[derive(Debug)]
enum Place {
    /// Nothing was written.
    Zeros,
    Memory(BytesMut, Permit),
    Sealed(Sealed),
    Spooled(Arc<Extent>),
    /// In the version that is edited, at the same offset.
    Base,
    /// In the store only (`--no-spool`).
    Sent,
}

/// Bytes that are no longer changed, with their memory.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub bytes: Bytes,
    _memory: Arc<Permit>,
}

/// What a write or a read must wait for.
#[derive(Debug)]
pub enum Need {
    /// The spool: see [`Content::extent`].
    Spool(usize),
    /// The bytes of this part from the base.
    Base(usize),
    /// This many KiB of memory; there is no spool, or it is full.
    Memory(usize),
}

/// What to send as a part.
#[derive(Debug)]
pub enum Source {
    /// These bytes, then zeros, `usize` in all.
    Bytes(Sealed, usize),
    /// Bytes of the spool, then zeros, `usize` in all.
    Spooled(Arc<Extent>, usize),
    Zeros(usize),
    /// A range of this version, which the store can copy.
    Base(Arc<Version>, Range<u64>),
}

impl Content {
    /// The content of a new file.
    pub fn empty(room: Room) -> Content {
        Content { room, size: 0, parts: Vec::new(), changes: 0, base: None }
    }

    /// The content of a version to be edited. Fetches nothing yet.
    pub fn of(room: Room, version: Arc<Version>) -> Content {
        let mut content = Content::empty(room);
        content.size = version.size;
        let count = content.count();
        content.parts.resize_with(count, || Part::new(Place::Base, 0));
        content.base = Some((version.clone(), version.size));
        content
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many parts it has; an empty file has none.
    pub fn count(&self) -> usize {
        usize::try_from(self.size.div_ceil(self.room.part)).unwrap_or(usize::MAX)
    }

    /// The index of the part of an offset.
    pub fn index(&self, offset: u64) -> usize {
        usize::try_from(offset / self.room.part).unwrap_or(usize::MAX)
    }

    /// The offsets of a part, up to the end of the file.
    pub fn range(&self, index: usize) -> Range<u64> {
        let start = index as u64 * self.room.part;
        start..(start + self.room.part).min(self.size)
    }

    /// Checks whether an object can have this size.
    ///
    /// # Errors
    /// `TooLarge` otherwise.
    pub fn check_size(&self, size: u64) -> Result<()> {
        match size <= MOST_PARTS * self.room.part {
            true => Ok(()),
            false => Err(Error::TooLarge { most: MOST_PARTS * self.room.part }),
        }
    }

    /// Writes as many of these bytes as possible without waiting. Returns how many, and what the
    /// next one needs.
    ///
    /// # Errors
    /// `TooLarge`; `NotInOrder` if the bytes at this offset were sent and are not kept here.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(usize, Option<Need>)> {
        if bytes.is_empty() {
            return Ok((0, None));
        }
        let end =
            offset.checked_add(bytes.len() as u64).ok_or(Error::TooLarge { most: u64::MAX })?;
        self.check_size(end)?;
        // In its last part, the bytes of the base are followed by zeros.
        let last = self.index(self.size);
        if !self.size.is_multiple_of(self.room.part)
            && self.index(end - 1) > last
            && matches!(self.parts.get(last), Some(Part { bytes: Place::Base, .. }))
        {
            return Ok((0, Some(Need::Base(last))));
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let index = self.index(at);
            let start = (at % self.room.part) as usize;
            let length = (bytes.len() - done).min(self.room.part as usize - start);
            let piece = &bytes[done..done + length];
            if let Err(need) = self.write_part(index, start, piece)? {
                return Ok((done, Some(need)));
            }
            done += length;
            self.grow(at + length as u64);
        }
        Ok((done, None))
    }

    fn write_part(
        &mut self,
        index: usize,
        start: usize,
        bytes: &[u8],
    ) -> Result<std::result::Result<(), Need>> {
        let later = index > 0;
        let whole = self.room.part as usize;
        let room = self.room.clone();
        let part = self.part(index);
        let end = start + bytes.len();
        let ready = match std::mem::replace(&mut part.bytes, Place::Zeros) {
            Place::Memory(memory, permit) => Some((memory, permit)),
            Place::Zeros => {
                // A file that has grown beyond a part is likely to fill the next one too.
                let first = if later { whole } else { end.next_multiple_of(LEAST).min(whole) };
                match room.memory.try_acquire(Nobody::weak(), kib(first)) {
                    Some(permit) => Some((BytesMut::with_capacity(first), permit)),
                    None => return Ok(Err(room.need(index, first))),
                }
            }
            Place::Sealed(sealed) => match sealed.open(&room) {
                Ok(opened) => Some(opened),
                Err(sealed) => {
                    let need = room.need(index, sealed.bytes.len());
                    part.bytes = Place::Sealed(sealed);
                    return Ok(Err(need));
                }
            },
            other => {
                part.bytes = other;
                None
            }
        };
        let Some((mut memory, mut permit)) = ready else {
            return match &part.bytes {
                Place::Base => Ok(Err(Need::Base(index))),
                Place::Sent => Err(Error::NotInOrder),
                _ => Ok(Err(Need::Spool(index))),
            };
        };
        if end > memory.capacity() {
            let more = end.max(2 * memory.capacity()).min(whole);
            if !permit.try_grow_to(kib(more)) && !(permit.try_grow_to(kib(end))) {
                part.bytes = Place::Memory(memory, permit);
                return Ok(Err(room.need(index, end)));
            }
            let capacity = (permit.units() << 10).min(more).max(end);
            let mut larger = BytesMut::with_capacity(capacity);
            larger.extend_from_slice(&memory);
            memory = larger;
        }
        if memory.len() < end {
            memory.resize(end, 0);
        }
        memory[start..end].copy_from_slice(bytes);
        part.bytes = Place::Memory(memory, permit);
        self.changed(index);
        Ok(Ok(()))
    }

    /// The part with an index, which may be beyond the current size.
    fn part(&mut self, index: usize) -> &mut Part {
        if self.parts.len() <= index {
            self.changes += 1;
            let change = self.changes;
            self.parts.resize_with(index + 1, || Part::new(Place::Zeros, change));
        }
        &mut self.parts[index]
    }

    fn changed(&mut self, index: usize) {
        self.changes += 1;
        let change = self.changes;
        self.part(index).change = change;
    }

    /// Lets the file reach to `end`, if it does not. Its last part gets longer, by zeros.
    fn grow(&mut self, end: u64) {
        if end > self.size {
            let last = self.index(self.size);
            if !self.size.is_multiple_of(self.room.part) && last < self.parts.len() {
                self.changed(last);
            }
            self.size = end;
        }
    }

    /// The extent of a part in the spool. Where the part is in memory it comes with bytes, to be
    /// written into it before [`Content::moved`].
    ///
    /// # Errors
    /// `NotInOrder` if there is no spool.
    pub fn extent(&mut self, index: usize) -> Result<(Arc<Extent>, Bytes)> {
        let spool = self.room.spool.clone();
        let part = self.part(index);
        let bytes = match std::mem::replace(&mut part.bytes, Place::Zeros) {
            Place::Spooled(extent) => {
                part.bytes = Place::Spooled(extent.clone());
                return Ok((extent, Bytes::new()));
            }
            Place::Memory(bytes, permit) => {
                let sealed = Sealed { bytes: bytes.freeze(), _memory: Arc::new(permit) };
                part.bytes = Place::Sealed(sealed.clone());
                sealed.bytes
            }
            Place::Sealed(sealed) => {
                part.bytes = Place::Sealed(sealed.clone());
                sealed.bytes
            }
            other => {
                part.bytes = other;
                Bytes::new()
            }
        };
        let spool = spool.ok_or(Error::NotInOrder)?;
        Ok((Arc::new(spool.extent()), bytes))
    }

    /// Records that a part is in this extent now.
    pub fn moved(&mut self, index: usize, extent: Arc<Extent>) {
        self.part(index).bytes = Place::Spooled(extent);
    }

    /// Records that bytes up to `end` of the file were written to the extent of a part.
    pub fn wrote(&mut self, index: usize, end: u64) {
        self.changed(index);
        self.grow(end);
    }

    /// Gives a part the memory that was waited for. `spooled`: the bytes of its extent, if it has
    /// one, which is then freed.
    pub fn provide(&mut self, index: usize, permit: Permit, spooled: Option<BytesMut>) {
        let part = self.part(index);
        let capacity = permit.units() << 10;
        let bytes = match (std::mem::replace(&mut part.bytes, Place::Zeros), spooled) {
            (Place::Memory(bytes, _), _) => bytes,
            (Place::Sealed(sealed), _) => BytesMut::from(&sealed.bytes[..]),
            (Place::Zeros, _) => BytesMut::new(),
            (Place::Spooled(_), Some(bytes)) => bytes,
            (other, _) => {
                part.bytes = other;
                return;
            }
        };
        let mut memory = BytesMut::with_capacity(capacity.max(bytes.len()));
        memory.extend_from_slice(&bytes);
        part.bytes = Place::Memory(memory, permit);
    }

    /// The extent of a part that lies in the spool.
    pub fn spooled(&self, index: usize) -> Option<Arc<Extent>> {
        match self.parts.get(index).map(|part| &part.bytes) {
            Some(Place::Spooled(extent)) => Some(extent.clone()),
            _ => None,
        }
    }

    /// Up to `size` bytes from an offset on, up to the end of the part and of the file.
    ///
    /// # Errors
    /// `NotInOrder` if they were sent and are not kept here.
    pub fn read(&self, offset: u64, size: u64) -> Result<std::result::Result<Bytes, Need>> {
        let index = self.index(offset);
        let range = self.range(index);
        let end = range.end.min(offset.saturating_add(size));
        if offset >= end {
            return Ok(Ok(Bytes::new()));
        }
        let wanted = (offset - range.start) as usize..(end - range.start) as usize;
        let held = match self.parts.get(index).map(|part| &part.bytes) {
            None | Some(Place::Zeros) => &[][..],
            Some(Place::Memory(bytes, _)) => bytes,
            Some(Place::Sealed(sealed)) => {
                if wanted.end <= sealed.bytes.len() {
                    return Ok(Ok(sealed.bytes.slice(wanted)));
                }
                &sealed.bytes
            }
            Some(Place::Spooled(_)) => return Ok(Err(Need::Spool(index))),
            Some(Place::Base) => return Ok(Err(Need::Base(index))),
            Some(Place::Sent) => return Err(Error::NotInOrder),
        };
        Ok(Ok(padded(held, wanted)))
    }

    /// Truncates it to `size`, or extends it with zeros. Returns what that needs first.
    ///
    /// # Errors
    /// `TooLarge`; `NotInOrder` if the remaining bytes of the last part were sent.
    pub fn truncate(&mut self, size: u64) -> Result<std::result::Result<(), Need>> {
        self.check_size(size)?;
        if size == self.size {
            return Ok(Ok(()));
        }
        // Zeros are not stored, except after bytes of the base or of a sent part in the same part.
        let last = self.index(self.size.min(size));
        let within = self.size.min(size) % self.room.part;
        if within > 0
            && let Some(part) = self.parts.get_mut(last)
        {
            match &mut part.bytes {
                Place::Base if size > self.size => return Ok(Err(Need::Base(last))),
                Place::Sent => return Err(Error::NotInOrder),
                Place::Memory(bytes, _) => bytes.truncate(within as usize),
                Place::Sealed(sealed) => {
                    let kept = sealed.bytes.len().min(within as usize);
                    sealed.bytes.truncate(kept);
                }
                Place::Spooled(extent) => extent.truncate(within),
                Place::Zeros | Place::Base => {}
            }
            self.changed(last);
        }
        self.size = size;
        self.parts.truncate(self.count());
        if let Some((_, counts)) = &mut self.base {
            *counts = (*counts).min(size);
        }
        Ok(Ok(()))
    }

    /// Whether the bytes of a part are in the store only.
    pub fn is_kept_nowhere(&self, index: usize) -> bool {
        matches!(self.parts.get(index), Some(Part { bytes: Place::Sent, .. }))
    }

    /// The version that is edited.
    pub fn edited(&self) -> Option<Arc<Version>> {
        self.base.as_ref().map(|(version, _)| version.clone())
    }

    /// The range of the base that a part still consists of.
    pub fn base(&self, index: usize) -> Option<(Arc<Version>, Range<u64>)> {
        let part = self.parts.get(index)?;
        let (version, counts) = self.base.as_ref().filter(|_| matches!(part.bytes, Place::Base))?;
        let range = self.range(index);
        Some((version.clone(), range.start..range.end.min(*counts).max(range.start)))
    }

    /// Replaces the range of the base by its bytes, or by an extent with them.
    pub fn fetched(&mut self, index: usize, bytes: Fetched) {
        let part = self.part(index);
        if matches!(part.bytes, Place::Base) {
            part.bytes = match bytes {
                Fetched::Memory(bytes, permit) => Place::Memory(bytes, permit),
                Fetched::Spooled(extent) => Place::Spooled(extent),
            };
        }
    }

    /// Where the bytes of the base for a part can be stored.
    ///
    /// # Errors
    /// `NoSpace` if there is neither memory nor a spool.
    pub fn place_for(&self, length: u64) -> Result<Fetched> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let memory = &self.room.memory;
        if let Some(permit) = memory.try_acquire(Nobody::weak(), kib(length)) {
            return Ok(Fetched::Memory(BytesMut::with_capacity(length), permit));
        }
        match &self.room.spool {
            Some(spool) => Ok(Fetched::Spooled(Arc::new(spool.extent()))),
            None => Err(Error::NoSpace("--buffer-memory is in use, and there is no spool".into())),
        }
    }
}

impl Part {
    fn new(bytes: Place, change: u64) -> Part {
        Part { bytes, change, sent: None, stored: None }
    }
}

/// Bytes of the base, and where they are stored.
#[derive(Debug)]
pub enum Fetched {
    Memory(BytesMut, Permit),
    Spooled(Arc<Extent>),
}

impl Room {
    fn need(&self, index: usize, bytes: usize) -> Need {
        match self.spool {
            Some(_) => Need::Spool(index),
            None => Need::Memory(kib(bytes)),
        }
    }
}

/// A range of `held`, with zeros beyond its end.
fn padded(held: &[u8], wanted: Range<usize>) -> Bytes {
    let there = held.len().min(wanted.end).max(wanted.start.min(held.len()));
    let mut bytes = BytesMut::with_capacity(wanted.len());
    bytes.extend_from_slice(&held[wanted.start.min(held.len())..there]);
    bytes.resize(wanted.len(), 0);
    bytes.freeze()
}

pub fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 10)
}
