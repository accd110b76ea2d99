//! Writing files: create, open for writing, write, truncate, and when a commit is made (rule W3).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tracing::{error, warn};

use super::handle::{Handle, WriteHandle};
use super::inode::{File, KernelCopy, Node};
use super::overlay::{Draft, Overlay};
use super::{Attr, Fs};
use crate::catalog::Known;
use crate::error::{Error, Result};
use crate::expiry::{Presence, Touch};
use crate::glob::Globs;
use crate::name::{self, Prefix};
use crate::pending::{Access, Closing, OpenPending, Pending, Wanted, Writer};
use crate::process;
use crate::store::Object;

/// How long a closed file with a staged name waits for its rename (rule W16).
const STAGED: Duration = Duration::from_secs(5);

/// What a writable mount has in addition to a read-only one.
pub struct Writing {
    pub writer: Arc<Writer>,
    /// Names whose closed files wait for a rename (`--stage`), by their path below the mount point.
    pub stage: Globs,
    pub touch: Touch,
    /// Whether chmod, chown and utimens are refused (`--strict-attributes`).
    pub strict_attributes: bool,
    pub overlay: Overlay,
    /// Whether the warning about out-of-order writes was logged.
    pub told_of_order: AtomicBool,
}

/// How a file is opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// O_WRONLY or O_RDWR.
    pub writes: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// O_EXCL.
    pub exclusive: bool,
}

impl OpenMode {
    /// Whether open(2) itself or the handle may change a file that exists: its close may have
    /// something to commit.
    pub fn changes(self) -> bool {
        self.writes || self.truncate
    }
}

impl Writing {
    pub fn is_staged(&self, key: &str) -> bool {
        self.stage.matches(self.writer.path(key))
    }
}

impl Fs {
    /// What a writable mount has.
    ///
    /// # Errors
    /// `ReadOnly` if the mount is read-only.
    pub fn writing(&self) -> Result<&Writing> {
        self.writing.as_ref().ok_or(Error::ReadOnly)
    }

    pub fn is_writable(&self) -> bool {
        self.writing.is_some()
    }

    /// How much can be written before commits free room: the size of the spool and its free bytes.
    /// `None` if there is no spool.
    pub fn room(&self) -> Option<(u64, u64)> {
        let spool = self.writing.as_ref()?.writer.room.spool.as_ref()?;
        Some((spool.size(), spool.free()))
    }

    /// The pending file that has this name, if there is one.
    pub(super) fn draft(&self, key: &str) -> Option<Draft> {
        self.writing.as_ref()?.overlay.draft(key)
    }

    /// The key of a new name in a directory.
    pub(super) fn new_key(&self, parent: u64, name: &OsStr) -> Result<String> {
        if name.len() > name::NAME_MAX {
            return Err(Error::NameTooLong);
        }
        let prefix = self.directory(parent)?;
        let name = name.to_str().filter(|name| name::is_legal(name));
        let key = prefix.key(name.ok_or(Error::Invalid("keys are UTF-8"))?);
        match key.len() <= name::KEY_MAX {
            true => Ok(key),
            false => Err(Error::NameTooLong),
        }
    }

    /// Creates a file, or opens the pending one with this name.
    ///
    /// # Errors
    /// `Exists` with O_EXCL if a live file is known; if it is not known, the commit fails.
    pub async fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: OpenMode,
        pid: u32,
    ) -> Result<(Attr, u64)> {
        let writing = self.writing()?;
        let _opening = self.begin_open()?;
        let key = self.new_key(parent, name)?;
        let draft = writing.overlay.draft(&key).filter(|draft| {
            let failed = draft.pending.has_failed();
            if failed {
                // It is no longer shown, although a program may have it open.
                writing.overlay.remove(&key, &draft.pending);
            }
            !failed
        });
        let draft = match draft {
            Some(_) if mode.exclusive => return Err(Error::Exists),
            Some(draft) => draft,
            None => {
                // The kernel found no such name, but the cache here may be newer.
                if let Some(fact) = self.catalog.fresh(&key)
                    && matches!(self.catalog.presence(&fact), Presence::Live { .. })
                {
                    return Err(if mode.exclusive { Error::Exists } else { Error::Stale });
                }
                let wanted = if mode.exclusive { Wanted::New } else { Wanted::Any };
                let pending = Pending::create(&writing.writer, &key, wanted);
                let draft = Draft { pending, origin: None, number: None };
                writing.overlay.insert(draft.clone());
                draft
            }
        };
        if mode.truncate {
            draft.pending.empty().await?;
        }
        let ino = self.inodes.pending(parent, &draft.pending);
        // One that only reads commits the new file, too (flock(1) opens with O_RDONLY | O_CREAT).
        let handle = self.open_pending(ino, &draft.pending, true, pid);
        let handle = handle.inspect_err(|_| self.inodes.forget(ino, 1))?;
        Ok((self.pending_attr(ino, &draft.pending), handle))
    }

    /// Opens a pending file.
    ///
    /// # Errors
    /// `Stale` for writing where it is pending no more: the kernel has to look the name up again.
    fn open_pending(
        &self,
        ino: u64,
        pending: &Arc<Pending>,
        changes: bool,
        pid: u32,
    ) -> Result<u64> {
        let pending = match changes {
            true => self.writing()?.overlay.open(pending).ok_or(Error::Stale)?,
            false => OpenPending::new(pending.clone(), Access::Read),
        };
        let process = if changes { process::of_thread(pid) } else { None };
        let handle = WriteHandle { ino, pid, process, pending };
        Ok(self.handles.open(Handle::Write(handle)))
    }

    /// Opens a pending file, or a version for writing: an edit, or its replacement.
    ///
    /// # Errors
    /// `Stale` if the kernel must look the name up again.
    pub async fn open_for_writing(&self, ino: u64, mode: OpenMode, pid: u32) -> Result<u64> {
        let writing = self.writing()?;
        let _opening = self.begin_open()?;
        match self.node(ino)? {
            Node::Directory(_) => Err(Error::IsADirectory),
            Node::Pending(pending) => {
                // A failed file is no longer shown, unless a program still has it open.
                if pending.has_failed() {
                    writing.overlay.remove(&pending.key(), &pending);
                    return Err(Error::Stale);
                }
                if mode.truncate {
                    pending.empty().await?;
                }
                self.open_pending(ino, &pending, mode.changes(), pid)
            }
            Node::File(file) => {
                let pending = self.edit(ino, file, mode.truncate).await?;
                self.open_pending(ino, &pending, mode.changes(), pid)
            }
        }
    }

    /// Turns a version into a pending file with the same inode number.
    async fn edit(&self, ino: u64, file: Arc<File>, truncate: bool) -> Result<Arc<Pending>> {
        let writing = self.writing()?;
        if file.expiry.at(self.bucket.clock.now()) == Presence::Expired {
            return Err(self.expired(&file.version.key).await);
        }
        if file.kernel.is_open() {
            // Its readers keep their version and its pages: the edit gets another inode at the next
            // lookup.
            file.kernel.supersede();
            return Err(Error::Stale);
        }
        let writer = &writing.writer;
        let pending = match truncate {
            true => Pending::create(writer, &file.version.key, Wanted::Any),
            false => Pending::edit(writer, &file.version),
        };
        self.inodes.rebind(ino, Node::Pending(pending.clone()));
        let number = self.inodes.superseded(&file.version);
        writing.overlay.insert(Draft { pending: pending.clone(), origin: Some(file), number });
        Ok(pending)
    }

    /// Writes without waiting, if that is possible. Returns whether parts may be ready to be sent: see
    /// [`Fs::send_parts`].
    pub fn try_write(&self, fh: u64, offset: u64, bytes: &[u8]) -> Option<Result<bool>> {
        let handle = self.handles.get(fh).ok()?;
        let handle = handle.writing().filter(|handle| handle.pending.writes())?;
        let wrote = handle.pending.try_write(offset, bytes)?;
        Some(self.wrote(handle, offset, bytes.len(), wrote))
    }

    /// Writes bytes at an offset. Returns the same.
    pub async fn write(&self, fh: u64, offset: u64, bytes: Bytes) -> Result<bool> {
        let handle = self.handles.get(fh)?;
        let handle =
            handle.writing().filter(|handle| handle.pending.writes()).ok_or(Error::BadHandle)?;
        let wrote = handle.pending.write(offset, &bytes).await;
        self.wrote(handle, offset, bytes.len(), wrote)
    }

    fn wrote(
        &self,
        handle: &WriteHandle,
        offset: u64,
        bytes: usize,
        wrote: Result<()>,
    ) -> Result<bool> {
        wrote.inspect_err(|error| self.tell_of_order(handle, offset, error))?;
        handle.pending.writes_on();
        Ok(handle.pending.fills_part(offset, bytes))
    }

    fn tell_of_order(&self, handle: &WriteHandle, offset: u64, failed: &Error) {
        if let Some(writing) = &self.writing
            && *failed == Error::NotInOrder
            && !writing.told_of_order.swap(true, Ordering::Relaxed)
        {
            warn!(key = %handle.pending.key(), offset, program = process::described(handle.pid),
                "a program writes out of order, which needs a spool: mount without --no-spool");
        }
    }

    /// Sends the parts that lie before an offset. Call it after the write was answered.
    pub async fn send_parts(&self, fh: u64, offset: u64) {
        if let Ok(handle) = self.handles.get(fh)
            && let Some(handle) = handle.writing()
        {
            handle.pending.send_full_parts(offset).await;
        }
    }

    /// A process closed a descriptor: commits if that process opened the file.
    ///
    /// # Errors
    /// Of the commit, or the first failure of the file.
    pub async fn flush(&self, fh: u64, pid: u32) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let Some(handle) = handle.writing().filter(|handle| handle.pending.writes()) else {
            return Ok(());
        };
        // A forked child has duplicates of all descriptors and closes them when it ends.
        let is_opener = pid == handle.pid
            || handle.process.is_none()
            || process::of_thread(pid).is_none_or(|process| Some(process) == handle.process);
        if !is_opener || self.writing()?.is_staged(&handle.pending.key()) {
            return handle.pending.check().await;
        }
        self.commit(&handle.pending, Closing::Flush).await?;
        handle.pending.flushed();
        Ok(())
    }

    /// # Errors
    /// Of the commit, or the first failure of the file.
    pub async fn fsync(&self, fh: u64) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let Some(handle) = handle.writing() else { return Ok(()) };
        match self.writing()?.is_staged(&handle.pending.key()) {
            true => handle.pending.check().await,
            false => self.commit(&handle.pending, Closing::Now).await,
        }
    }

    pub(super) async fn commit(&self, pending: &Arc<Pending>, closing: Closing) -> Result<()> {
        match pending.commit(closing).await {
            Ok(Some(object)) => {
                self.committed(pending, object).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                self.commit_failed(pending);
                Err(error)
            }
        }
    }

    /// Makes the name show the store's object again.
    pub(super) fn commit_failed(&self, pending: &Arc<Pending>) {
        if let Some(writing) = &self.writing {
            let key = pending.key();
            writing.overlay.remove(&key, pending);
            self.catalog.forget(&key);
        }
    }

    /// Records a version that this mount has written: the next open gets it (rule W15).
    pub(super) async fn committed(&self, pending: &Pending, object: Object) {
        // Not if it was unlinked or renamed since: what has done that knows better.
        let wrote = |first| _ = self.catalog.wrote(object.clone(), first);
        pending.note(&object, self.settings.probe.size, wrote).await;
    }

    /// The last write handle of a pending file was closed: commits remaining changes, and makes its
    /// inode the committed version.
    async fn finish(&self, handle: &WriteHandle) {
        let Ok(writing) = self.writing() else { return };
        let (ino, pending) = (handle.ino, &handle.pending);
        let key = pending.key();
        if writing.is_staged(&key) && pending.is_due(Closing::Now).await == Ok(true) {
            let mut leaving = self.shutting_down.subscribe();
            let left = leaving.wait_for(|leaving| *leaving);
            _ = tokio::time::timeout(STAGED, left).await.map(drop);
            // It was renamed or opened meanwhile, or another file has taken its name.
            if pending.key() != key
                || pending.has_writers()
                || !writing.overlay.draft(&key).is_some_and(|it| Arc::ptr_eq(&it.pending, pending))
            {
                return;
            }
        }
        self.complete(ino, pending, handle.pid).await;
    }

    /// Commits what a file without writers still has. A failure, which no program sees, is logged once.
    async fn commit_untold(&self, pending: &Arc<Pending>, pid: Option<u32>) {
        let already_failed = pending.has_failed();
        if let Err(failed) = self.commit(pending, Closing::Now).await
            && !already_failed
            && pending.is_first_report()
            && let Ok(writing) = self.writing()
        {
            writing.writer.commits.untold.add(1);
            error!(key = %pending.key(), program = pid.map(process::described),
                "a file was closed, and could not be committed: {failed}");
        }
    }

    /// The same after the last close, by this process; then it settles the file.
    pub(super) async fn complete(&self, ino: u64, pending: &Arc<Pending>, pid: u32) {
        self.commit_untold(pending, Some(pid)).await;
        pending.discard_failed().await;
        self.settle(ino, pending).await;
    }

    /// Makes the inode of a pending file without writers the committed version.
    pub(super) async fn settle(&self, ino: u64, pending: &Arc<Pending>) {
        let Ok(writing) = self.writing() else { return };
        // Out of the overlay first: what opens it from here on gets the version.
        let Some(draft) = writing.overlay.settle(pending) else { return };
        let file = match pending.committed().await {
            Some(object) => self.file_of(object, Arc::new(KernelCopy::written())),
            // It was opened for writing, but not changed.
            None => match (pending.is_due(Closing::Now).await, draft.origin) {
                (Ok(false), Some(origin)) => Some(origin),
                _ => None,
            },
        };
        match file {
            // Its readers keep what they have opened: a later edit gets another inode.
            Some(file) if !pending.has_readers() => _ = self.inodes.rebind(ino, Node::File(file)),
            _ => self.inodes.doubt(ino),
        }
    }

    /// The node of a version that this mount has made, with what the kernel has of its content.
    pub(super) fn file_of(&self, object: Object, kernel: Arc<KernelCopy>) -> Option<Arc<File>> {
        let fact = self.catalog.read(object);
        let Known::File { version, expiry, about } = fact.known else { return None };
        Some(Arc::new(File::cached(version, expiry, about, kernel)))
    }

    /// Closes a handle and frees what it holds; the last write handle of a pending file commits
    /// remaining changes.
    pub async fn release(&self, fh: u64) -> Result<()> {
        let _working = self.handles.opening();
        let handle = self.handles.close(fh)?;
        if let Some(handle) = handle.writing()
            && handle.pending.close()
        {
            self.finish(handle).await;
        }
        Ok(())
    }

    /// Changes the size of a file.
    pub async fn truncate(&self, ino: u64, fh: Option<u64>, size: u64) -> Result<Attr> {
        self.writing()?;
        let by_handle = fh.and_then(|fh| self.handles.get(fh).ok());
        let by_handle = by_handle.as_ref().and_then(|handle| handle.writing());
        let pending = match (by_handle, self.node(ino)?) {
            (Some(handle), _) => {
                handle.pending.writes_on();
                handle.pending.clone()
            }
            (None, Node::Directory(_)) => return Err(Error::IsADirectory),
            (None, Node::Pending(pending)) => {
                let draft = self.draft(&pending.key());
                let has_it = |draft: Draft| Arc::ptr_eq(&draft.pending, &pending);
                if !draft.is_some_and(has_it) {
                    return Err(Error::Stale);
                }
                pending
            }
            (None, Node::File(file)) => self.edit(ino, file, size == 0).await?,
        };
        let mut changed = pending.truncate(size).await;
        // A handle that its process has closed may not be released yet.
        if changed.is_ok() && !pending.is_being_written() {
            changed = self.commit(&pending, Closing::Now).await;
        }
        if !pending.has_writers() {
            self.settle(ino, &pending).await;
        }
        changed?;
        self.getattr(ino)
    }

    /// Reserves room: extends a shorter file with zeros.
    pub async fn fallocate(&self, fh: u64, offset: u64, length: u64, mode: i32) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let handle =
            handle.writing().filter(|handle| handle.pending.writes()).ok_or(Error::BadHandle)?;
        match mode {
            0 => {
                let end = offset.checked_add(length).ok_or(Error::TooLarge { most: u64::MAX })?;
                match end > handle.pending.size() {
                    true => handle.pending.truncate(end).await,
                    false => Ok(()),
                }
            }
            libc::FALLOC_FL_KEEP_SIZE => Ok(()),
            _ => Err(Error::NotSupported("only fallocate(2) without flags")),
        }
    }

    /// The inodes of the files that programs have open for writing.
    pub fn inodes_open_for_writing(&self) -> Vec<u64> {
        let handles = self.open_handles();
        let writing = handles.iter().filter_map(|(_, handle)| handle.writing());
        let inodes: BTreeSet<u64> =
            writing.filter(|it| it.pending.writes()).map(|it| it.ino).collect();
        inodes.into_iter().collect()
    }

    /// Commits files that wait for a rename, and logs files that are still open (rule W14). For
    /// unmounting.
    pub async fn commit_closed(&self) {
        let Some(writing) = &self.writing else { return };
        for Draft { pending, .. } in writing.overlay.drafts() {
            let key = pending.key();
            if pending.has_writers() {
                if pending.is_due(Closing::Now).await == Ok(true) {
                    warn!(%key, bytes = pending.size(), "a file is still being written, and is not \
                        committed: the mount is being taken down");
                }
                // Later writes fail, and no upload is left behind.
                pending.give_up(Error::ShuttingDown).await;
            } else {
                self.commit_untold(&pending, None).await;
            }
        }
        writing.writer.end().await;
    }

    /// The directory that a key lies in.
    pub(super) fn directory_of(key: &str) -> Prefix {
        Prefix::new(name::directory(key))
    }
}
