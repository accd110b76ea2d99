//! The spool: one unlinked file with the bytes of pending files that do not fit into memory.
//!
//! It needs one descriptor, however many files are pending. Each [`Extent`] has its own place in
//! the file, as long as a part; the file is sparse, so only written bytes use disk space. All calls
//! block on a local disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::error::{Error, Result};

/// See the module.
#[derive(Debug)]
pub struct Spool {
    file: File,
    dir: PathBuf,
    /// Maximum bytes of all extents together (`--spool-size`).
    size: u64,
    /// Distance between the places of two extents, in bytes.
    stride: u64,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// Bytes in all extents.
    used: u64,
    /// Places that were freed.
    free: Vec<u64>,
    /// Number of places used so far.
    taken: u64,
}

/// A place in the spool. Dropping it frees its disk space.
#[derive(Debug)]
pub struct Extent {
    spool: Arc<Spool>,
    place: u64,
    /// Bytes up to the last one written; unwritten ones before it are zero. Changed under the lock
    /// of the places.
    len: AtomicU64,
}

impl Spool {
    /// A spool in the file system of `dir`, for extents of at most `stride` bytes.
    ///
    /// # Errors
    /// If neither an unnamed file (`O_TMPFILE`, open(2)) nor one that is unlinked at once can be
    /// made there.
    pub fn open(dir: &Path, size: u64, stride: u64) -> io::Result<Arc<Spool>> {
        let file = tempfile::tempfile_in(dir)?;
        let places = Mutex::default();
        Ok(Arc::new(Spool { file, dir: dir.to_owned(), size, stride, places }))
    }

    /// An empty extent.
    pub fn extent(self: &Arc<Self>) -> Extent {
        let mut places = self.places();
        let place = places.free.pop().unwrap_or_else(|| {
            places.taken += 1;
            places.taken - 1
        });
        Extent { spool: self.clone(), place, len: AtomicU64::new(0) }
    }

    /// Its maximum size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes in use.
    pub fn used(&self) -> u64 {
        self.places().used
    }

    /// Bytes that can be written now, limited by its size and by free disk space.
    pub fn free(&self) -> u64 {
        let left = self.size.saturating_sub(self.used());
        match nix::sys::statvfs::fstatvfs(&self.file) {
            Ok(disk) => left.min(disk.blocks_available() * disk.fragment_size()),
            Err(_) => left,
        }
    }

    fn no_room(&self, why: &str) -> Error {
        Error::NoSpace(format!("the spool in {} {why}", self.dir.display()))
    }

    fn failed(&self, error: &io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => self.no_room(&format!("is full: {error}")),
            _ => Error::Spool(format!("{}: {error}", self.dir.display())),
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Extent {
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Writes bytes at an offset of this extent.
    ///
    /// # Errors
    /// `NoSpace` if the spool or its disk is full.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        debug_assert!(end <= self.spool.stride);
        self.reserve(end)?;
        let at = self.place * self.spool.stride + offset;
        self.spool.file.write_all_at(bytes, at).map_err(|error| self.spool.failed(&error))
    }

    /// Extends it to `end` bytes.
    fn reserve(&self, end: u64) -> Result<()> {
        let mut places = self.spool.places();
        let more = end.saturating_sub(self.len());
        if places.used + more > self.spool.size {
            drop(places);
            return Err(self.spool.no_room("has reached --spool-size"));
        }
        places.used += more;
        self.len.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// Fills `into` from an offset on; unwritten bytes are zero.
    ///
    /// # Errors
    /// `Spool` if the disk fails.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let wanted = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let (written, rest) = into.split_at_mut(wanted.min(into.len()));
        rest.fill(0);
        let mut done = 0;
        while done < written.len() {
            let at = self.place * self.spool.stride + offset + done as u64;
            match self.spool.file.read_at(&mut written[done..], at) {
                // Beyond the end of the file: reserved, but not written.
                Ok(0) => {
                    written[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.spool.failed(&error)),
            }
        }
        Ok(())
    }

    /// Drops all bytes from `len` on.
    pub fn truncate(&self, len: u64) {
        let before = self.len();
        if len < before {
            self.punch(len, before - len);
            let mut places = self.spool.places();
            places.used -= before - len;
            self.len.store(len, Ordering::Relaxed);
        }
    }

    /// Frees the disk space of a range, and makes it zero.
    fn punch(&self, offset: u64, len: u64) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let at = self.place * self.spool.stride + offset;
        let (Ok(at), Ok(bytes)) = (i64::try_from(at), i64::try_from(len)) else { return };
        if fallocate(&self.spool.file, flags, at, bytes).is_err() {
            // The file system has no holes: write zeros instead.
            let zeros = vec![0; usize::try_from(len.min(1 << 20)).unwrap_or(0)];
            let mut done = 0;
            while done < len && !zeros.is_empty() {
                let piece = zeros.len().min((len - done) as usize);
                if self.spool.file.write_all_at(&zeros[..piece], at as u64 + done).is_err() {
                    break;
                }
                done += piece as u64;
            }
        }
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        // The next extent at this place must read zeros.
        self.truncate(0);
        let mut places = self.spool.places();
        places.free.push(self.place);
        if places.free.len() as u64 == places.taken {
            *places = Places::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(size: u64) -> Arc<Spool> {
        Spool::open(&std::env::temp_dir(), size, 1 << 20).unwrap()
    }

    fn read(extent: &Extent, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![9; len];
        extent.read(offset, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn an_extent_reads_what_was_written_and_zeros_elsewhere() {
        let spool = spool(1 << 20);
        let extent = spool.extent();
        extent.write(5, b"hello").unwrap();
        assert_eq!((extent.len(), spool.used()), (10, 10));
        assert_eq!(read(&extent, 3, 9), b"\0\0hello\0\0");
        extent.truncate(7);
        extent.write(9, b"!").unwrap();
        assert_eq!(read(&extent, 5, 5), b"he\0\0!");
        drop(extent);
        assert_eq!(spool.used(), 0);
        assert_eq!(read(&spool.extent(), 0, 3), b"\0\0\0");
    }

    #[test]
    fn extents_do_not_overlap_and_places_are_used_again() {
        let spool = spool(8 << 20);
        let mut extents: Vec<Extent> = (0..3).map(|_| spool.extent()).collect();
        for (i, extent) in extents.iter().enumerate() {
            extent.write(0, &vec![i as u8 + 1; 1 << 20]).unwrap();
        }
        drop(extents.remove(1));
        let again = spool.extent();
        assert_eq!(read(&again, 0, 4), [0; 4]);
        again.write(0, &[7; 4]).unwrap();
        assert_eq!([read(&extents[0], 0, 1), read(&extents[1], 0, 1)], [[1], [3]]);
        assert_eq!(spool.file.metadata().unwrap().len(), 3 << 20);
    }

    #[test]
    fn a_full_spool_refuses_and_names_the_option() {
        let spool = spool(10);
        let extent = spool.extent();
        extent.write(0, &[1; 8]).unwrap();
        let refused = extent.write(8, &[2; 3]).unwrap_err();
        assert!(refused.to_string().contains("--spool-size"), "{refused}");
        assert_eq!((extent.len(), spool.used()), (8, 8));
        extent.write(8, &[2; 2]).unwrap();
        extent.truncate(0);
        assert_eq!(spool.used(), 0);
    }
}
