//! Reading directories: opendir, readdir, releasedir.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::listing::{self, DirEntry, Listing, What};
use super::overlay::Shown;
use super::{Attr, Fs, Kind, inode::UNKNOWN, kernel_ttl};
use crate::catalog::{Fact, Known};
use crate::deadline::Deadline;
use crate::error::Result;
use crate::expiry::Presence;
use crate::waits::Wait;

/// An entry of a directory, for the kernel.
pub struct Entry<'a> {
    /// The offset after it.
    pub next: u64,
    pub name: &'a str,
    pub ino: u64,
    pub kind: Kind,
    /// The attributes, which the kernel caches with the name; they count as a lookup. `None` for
    /// `.`, `..`, and if only the name is known.
    pub attr: Option<Attr>,
}

/// An open directory.
pub struct Directory {
    listing: Listing,
    /// Names that this mount shows in addition to the listing, as of the last read from the start.
    overlay: Mutex<Arc<Beside>>,
}

/// Names of the overlay, which hide those of the listing.
#[derive(Default)]
struct Beside {
    entries: Vec<(String, Shown)>,
    names: HashSet<String>,
}

/// Names of the overlay in one directory, at most: offsets from 65,536 on are those of the listing.
const BESIDE: usize = 60_000;

impl Directory {
    fn overlay(&self) -> Arc<Beside> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rewind(&self, entries: Vec<(String, Shown)>) {
        self.listing.rewind();
        let names = entries.iter().map(|(name, _)| name.clone()).collect();
        let beside = Arc::new(Beside { entries, names });
        *self.overlay.lock().unwrap_or_else(PoisonError::into_inner) = beside;
    }
}

impl Fs {
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let listing = Listing::new(
            self.bucket.store.clone(),
            self.catalog.clone(),
            self.metrics.clone(),
            self.directory(ino)?,
            self.settings.listing,
            &self.page_memory,
        );
        Ok(self.directories.open(Directory { listing, overlay: Mutex::default() }))
    }

    /// Passes the entries from `offset` on to `add` until it returns `false`: it did not take that
    /// entry, and the reply is full. With `plus`, entries carry attributes.
    pub async fn readdir(
        &self,
        ino: u64,
        fh: u64,
        mut offset: u64,
        plus: bool,
        mut add: impl FnMut(&Entry<'_>) -> bool + Send,
    ) -> Result<()> {
        let directory = self.directories.get(fh)?;
        let _working = self.inodes.working(ino);
        if offset == 0 {
            directory.rewind(self.beside(ino)?);
        }
        let mut added = false;
        while offset < listing::FIRST_OFFSET {
            let name = [".", ".."][offset as usize];
            offset += 1;
            // The kernel resolves both itself: the inode number of `..` is never used.
            if !add(&Entry { next: offset, name, ino, kind: Kind::Directory, attr: None }) {
                return Ok(());
            }
            added = true;
        }
        let beside = directory.overlay();
        let mut here = offset.saturating_sub(listing::FIRST_OFFSET) as usize;
        while let Some((name, shown)) = beside.entries.get(here) {
            here += 1;
            let next = listing::FIRST_OFFSET + here as u64;
            let entry = self.show_beside(ino, next, name, shown, plus);
            if !add(&entry) {
                if let Some(attr) = entry.attr {
                    self.inodes.forget(attr.ino, 1);
                }
                return Ok(());
            }
            (offset, added) = (next, true);
        }
        // A call that shows nothing may skip many pages, all within one deadline.
        let by = Deadline::after(self.settings.patience.timeout);
        loop {
            let Some(batch) = by.bound(Wait::Turn.during(directory.listing.from(offset))).await?
            else {
                break;
            };
            for (next, entry) in batch.entries() {
                if beside.names.contains(&entry.name) {
                    continue;
                }
                let renewed;
                let entry = match self.show(ino, next, entry, plus) {
                    Some(entry) => entry,
                    // It expired since its page was fetched: the name may have a new object.
                    None => {
                        renewed = self.renewed(entry).await;
                        let entry = renewed.as_ref();
                        let Some(entry) = entry.and_then(|it| self.show(ino, next, it, plus))
                        else {
                            continue;
                        };
                        entry
                    }
                };
                if !add(&entry) {
                    if let Some(attr) = entry.attr {
                        self.inodes.forget(attr.ino, 1);
                    }
                    return Ok(());
                }
                added = true;
            }
            // One page per call: its entries are returned before the next page is waited for. A
            // reply without entries would mean the end.
            if added {
                return Ok(());
            }
            offset = batch.end();
        }
        Ok(())
    }

    /// The entry of what replaced a file that has expired since it was listed.
    async fn renewed(&self, entry: &DirEntry) -> Option<DirEntry> {
        let What::File(Fact { known: Known::File { version, .. }, .. }) = &entry.what else {
            return None;
        };
        let fact = self.catalog.resolve(&version.key, |_| true).await.ok()?;
        let is_file = matches!(fact.known, Known::File { .. });
        is_file.then(|| DirEntry { name: entry.name.clone(), what: What::File(fact) })
    }

    /// What the overlay shows in a directory.
    fn beside(&self, ino: u64) -> Result<Vec<(String, Shown)>> {
        let Some(writing) = &self.writing else { return Ok(Vec::new()) };
        let mut names = writing.overlay.names_in(&self.directory(ino)?);
        names.truncate(BESIDE);
        Ok(names)
    }

    fn show_beside<'a>(
        &self,
        parent: u64,
        next: u64,
        name: &'a str,
        shown: &Shown,
        plus: bool,
    ) -> Entry<'a> {
        let (ino, kind, attr) = match shown {
            Shown::File(pending) if plus => {
                let ino = self.inodes.pending(parent, pending);
                (ino, Kind::File, Some(self.pending_attr(ino, pending)))
            }
            Shown::File(_) => (UNKNOWN, Kind::File, None),
            Shown::Directory => (UNKNOWN, Kind::Directory, None),
        };
        Entry { next, name, ino, kind, attr }
    }

    /// The entry as it is now; `None` if it expired since it was fetched.
    fn show<'a>(
        &self,
        parent: u64,
        next: u64,
        entry: &'a DirEntry,
        plus: bool,
    ) -> Option<Entry<'a>> {
        let name = &entry.name;
        let (ino, kind, attr) = match &entry.what {
            What::Directory(prefix, fact) if plus => {
                let ino = self.inodes.directory(parent, prefix);
                let ttl = kernel_ttl(self.catalog.ttl(fact));
                (ino, Kind::Directory, Some(self.directory_attr(ino, ttl)))
            }
            What::Directory(prefix, _) => {
                (self.inodes.number_of_directory(prefix), Kind::Directory, None)
            }
            // An inode number that is sent with attributes must never change.
            What::Listed(_) if plus => (UNKNOWN, Kind::File, None),
            What::Listed(version) => (self.inodes.number_of_file(version), Kind::File, None),
            What::File(fact) => match (self.catalog.presence(fact), &fact.known) {
                (Presence::Expired, _) => return None,
                (Presence::Live { .. }, Known::File { version, expiry, about }) if plus => {
                    let (ino, file) = self.inodes.file(parent, version, *expiry, about.as_ref());
                    let ttl = kernel_ttl(self.catalog.ttl(fact));
                    (ino, Kind::File, Some(self.file_attr(ino, &file, ttl)))
                }
                (_, Known::File { version, .. }) => {
                    (self.inodes.number_of_file(version), Kind::File, None)
                }
                (_, Known::Directory | Known::Absent) => return None,
            },
        };
        Some(Entry { next, name, ino, kind, attr })
    }

    pub fn releasedir(&self, fh: u64) -> Result<()> {
        self.directories.close(fh).map(drop)
    }
}
