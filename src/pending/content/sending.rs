//! Which parts are to be sent, which the store has, and what the content is after a commit.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Content, Part, Place, Room, Sealed, Source, kib};
use crate::body::{Nobody, Permit};
use crate::error::{Error, Result};
use crate::store::{self, Version};

impl Content {
    /// Whether a part is complete here, and its current bytes were not sent and are not being sent.
    pub fn is_to_be_sent(&self, index: usize) -> bool {
        self.parts.get(index).is_none_or(|part| part.sent != Some(part.change))
    }

    /// Whether a part was written up to its end, and never sent, in no version.
    pub fn is_full_and_unsent(&self, index: usize) -> bool {
        let part = self.parts.get(index).filter(|part| part.sent.is_none());
        let written = match part.map(|part| &part.bytes) {
            Some(Place::Memory(bytes, _)) => bytes.len() as u64,
            Some(Place::Sealed(sealed)) => sealed.bytes.len() as u64,
            Some(Place::Spooled(extent)) => extent.len(),
            _ => 0,
        };
        written == self.room.part
    }

    /// What to send for a part, which counts as being sent from now on. Also returns its change.
    ///
    /// # Errors
    /// `NotInOrder` if its bytes were sent with another upload.
    pub fn send(&mut self, index: usize) -> Result<(u64, Source)> {
        let range = self.range(index);
        let length = (range.end - range.start) as usize;
        let base = self.base(index);
        let part = self.part(index);
        let source = match std::mem::replace(&mut part.bytes, Place::Zeros) {
            Place::Zeros => Source::Zeros(length),
            Place::Memory(bytes, permit) => {
                let sealed = Sealed { bytes: bytes.freeze(), _memory: Arc::new(permit) };
                part.bytes = Place::Sealed(sealed.clone());
                Source::Bytes(sealed, length)
            }
            Place::Sealed(sealed) => {
                part.bytes = Place::Sealed(sealed.clone());
                Source::Bytes(sealed, length)
            }
            Place::Spooled(extent) => {
                part.bytes = Place::Spooled(extent.clone());
                Source::Spooled(extent, length)
            }
            Place::Base => {
                part.bytes = Place::Base;
                match base {
                    Some((version, range)) => Source::Base(version, range),
                    None => Source::Zeros(length),
                }
            }
            Place::Sent => {
                part.bytes = Place::Sent;
                return Err(Error::NotInOrder);
            }
        };
        part.sent = Some(part.change);
        Ok((part.change, source))
    }

    /// Drops the bytes of a part that is being sent, if there is no spool.
    pub fn forget(&mut self, index: usize) {
        self.part(index).bytes = Place::Sent;
    }

    /// Records that the store has a part as of this change.
    pub fn stored(&mut self, index: usize, change: u64, stored: store::write::Part) {
        if let Some(part) = self.parts.get_mut(index) {
            part.stored = Some((change, stored));
        }
    }

    /// Records that a part could not be sent, or belongs to an upload that no longer exists.
    pub fn unsent(&mut self, index: usize) {
        if let Some(part) = self.parts.get_mut(index) {
            part.sent = None;
            part.stored = None;
        }
    }

    /// All uploaded parts; `None` if one is missing or has changed since.
    pub fn all_stored(&self) -> Option<Vec<store::write::Part>> {
        let stored = |part: &Part| match &part.stored {
            Some((change, stored)) if *change == part.change => Some(stored.clone()),
            _ => None,
        };
        let all = self.parts.iter().take(self.count()).map(stored).collect::<Option<Vec<_>>>()?;
        (all.len() == self.count()).then_some(all)
    }

    /// Records that no upload has the parts any more.
    pub fn all_unsent(&mut self) {
        (0..self.parts.len()).for_each(|index| self.unsent(index));
    }

    /// Whether bytes are kept nowhere but in the upload.
    pub fn has_left(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.bytes, Place::Sent))
    }

    /// After a commit: what was of the base before is of this version, at the same offsets, and so is
    /// what is kept nowhere else.
    pub fn committed(&mut self, version: Arc<Version>) {
        self.all_unsent();
        for part in &mut self.parts {
            if matches!(part.bytes, Place::Sent) {
                part.bytes = Place::Base;
            }
        }
        self.base = Some((version, self.size));
    }
}

impl Sealed {
    /// Makes the bytes changeable again: they are copied if they are being sent.
    pub(super) fn open(self, room: &Room) -> std::result::Result<(BytesMut, Permit), Sealed> {
        let Sealed { bytes, _memory } = self;
        match Arc::try_unwrap(_memory) {
            Ok(permit) => {
                let bytes = bytes.try_into_mut().unwrap_or_else(|bytes| BytesMut::from(&bytes[..]));
                Ok((bytes, permit))
            }
            Err(_memory) => match room.memory.try_acquire(Nobody::weak(), kib(bytes.len())) {
                Some(permit) => Ok((BytesMut::from(&bytes[..]), permit)),
                None => Err(Sealed { bytes, _memory }),
            },
        }
    }
}
