//! The adapter to fuser: decode a request, run it, reply. No rule of the file system is here.
//!
//! An operation is polled once on the thread that read the request, and answered there if it need
//! not wait; moving it to another thread halves the speed of small files (measured). Only one that
//! waits goes to the runtime. No thread that serves the kernel ever waits for the store.

mod attributes;
mod changes;
mod names;
mod operation;
mod ownership;
mod page_cache;
mod refusal;
mod slow;
mod workers;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::sync::oneshot;
use tracing::{debug_span, warn};

use crate::error::Error;
use crate::fs::Fs;
use crate::fs::attributes::NewAttr;
use crate::metrics::Operation as Kind;
use changes::{WRITTEN, open_mode};
pub use ownership::Ownership;
pub use page_cache::PageCache;
use refusal::refuse;
pub use workers::{Closing, Workers};

/// What `df` shows: a bucket has no size limit, so one petabyte, free. The number of blocks fits
/// into 32 bits; for a larger one, programs compiled for 32 bits get EOVERFLOW.
const STATFS_BLOCKS: u64 = 1 << 30;
const STATFS_BLOCK_SIZE: u32 = 1 << 20;

/// Background requests the kernel sends before one is answered. Buffered reads and releases are
/// such requests (fs/fuse/file.c), so this is how many reads may wait for the store or for a body
/// before all other reads and releases queue behind them. The cap on bodies does not limit them, so
/// this is the protocol's maximum; bodies and buffer memory limit what reads hold. The kernel stops
/// reading ahead at three quarters of it.
const MAX_BACKGROUND: u16 = u16::MAX;

/// An inode is one version, so cached pages stay correct whatever happens to the name; and there is
/// nothing to flush. FOPEN_CACHE_DIR must never be set: the kernel would list expired names.
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);

/// Serves one mount.
pub struct Fuse {
    fs: Arc<Fs>,
    workers: Workers,
    owner: Ownership,
    /// Whether listings carry attributes. Lazy ones do not know them.
    plus: bool,
    pages: PageCache,
    /// Operations that take longer are logged.
    slow: Option<Duration>,
    /// Dropped with the session.
    _alive: oneshot::Sender<()>,
}

impl Fuse {
    /// `alive` is dropped when the kernel has ended the session.
    pub fn new(
        fs: Arc<Fs>,
        workers: Workers,
        owner: Ownership,
        plus: bool,
        pages: PageCache,
        slow: Option<Duration>,
        alive: oneshot::Sender<()>,
    ) -> Fuse {
        Fuse { fs, workers, owner, plus, pages, slow, _alive: alive }
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Without PARALLEL_DIROPS, the kernel sends one request per directory at a time.
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ];
        let plus = |wanted: &InitFlags| {
            self.plus
                || !InitFlags::FUSE_DO_READDIRPLUS
                    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
                    .contains(*wanted)
        };
        // Without the second one, each write(2) first requests `security.capability`, which no file
        // here has; nor has any file a mode that a write would clear.
        let writing = [InitFlags::FUSE_ATOMIC_O_TRUNC, InitFlags::FUSE_HANDLE_KILLPRIV_V2];
        let writing = writing.into_iter().filter(|_| self.fs.is_writable());
        for capability in wanted.into_iter().filter(plus).chain(writing) {
            if config.add_capabilities(capability).is_err() {
                warn!(?capability, "this kernel lacks a capability; the mount will be slower");
            }
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.look_up(parent, name, reply);
    }

    // fuser calls this for each inode of a BATCH_FORGET, too.
    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let op = self.begin(Kind::Getattr, ino);
        let _span = debug_span!("getattr", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        match self.fs.getattr(ino.0) {
            Ok(attr) => reply.attr(&attr.ttl, &self.owner.attr(&attr)),
            Err(error) => reply.error(refuse(&self.fs, &op, ino.0, &error)),
        }
    }

    fn access(&self, _: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let op = self.begin(Kind::Access, ino);
        let _span = debug_span!("access", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        let granted = match mask.contains(AccessFlags::W_OK) && !self.fs.is_writable() {
            true => Err(Error::ReadOnly),
            false => self.fs.access(ino.0),
        };
        match granted {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(&self.fs, &op, ino.0, &error)),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let op = self.begin(Kind::Open, ino);
        let (fs, pid) = (self.fs.clone(), request.pid());
        let span = debug_span!("open", ino = ino.0, key = fs.key_of(ino.0), pid);
        self.run(op.account(), span, async move {
            let mode = open_mode(flags.0);
            let opened = match mode.changes() {
                true => fs.open_for_writing(ino.0, mode, pid).await.map(|it| (it, WRITTEN)),
                false => fs.open(ino.0, pid).await.map(|it| (it, OPENED)),
            };
            match opened {
                Ok((handle, how)) => reply.opened(FileHandle(handle), how),
                Err(error) => reply.error(refuse(&fs, &op, ino.0, &error)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let op = self.begin(Kind::Read, ino);
        let (fs, pages) = (self.fs.clone(), self.pages.clone());
        let span = debug_span!(
            "read",
            ino = ino.0,
            key = fs.key_of(ino.0),
            handle = handle.0,
            offset,
            size
        );
        self.run(op.account(), span, async move {
            match fs.read(handle.0, offset, size).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(refuse(&fs, &op, ino.0, &error)),
            }
            drop(op);
            if fs.has_surplus(handle.0) {
                fs.give_surplus(handle.0, |offset, bytes| pages.store(ino, offset, bytes)).await;
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let op = self.begin(Kind::Release, ino);
        let span =
            debug_span!("release", ino = ino.0, key = self.fs.key_of(ino.0), handle = handle.0);
        let fs = self.fs.clone();
        self.run(op.account(), span, async move {
            match fs.release(handle.0).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse(&fs, &op, ino.0, &error)),
            }
        });
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let op = self.begin(Kind::Opendir, ino);
        let _span = debug_span!("opendir", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        match self.fs.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(refuse(&self.fs, &op, ino.0, &error)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.list(ino, handle, offset, reply);
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_with_attributes(ino, handle, offset, reply);
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let op = self.begin(Kind::Releasedir, ino);
        let span =
            debug_span!("releasedir", ino = ino.0, key = self.fs.key_of(ino.0), handle = handle.0);
        self.workers.run(|_| {
            let _span = span.entered();
            match self.fs.releasedir(handle.0) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse(&self.fs, &op, ino.0, &error)),
            }
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.get_attribute(ino, name, size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.list_attributes(ino, size, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let size = STATFS_BLOCK_SIZE;
        let (blocks, free) = match self.fs.room() {
            Some((all, free)) => (all / u64::from(size), free / u64::from(size)),
            None => (STATFS_BLOCKS, STATFS_BLOCKS),
        };
        reply.statfs(blocks, free, free, 0, 0, size, crate::name::NAME_MAX as u32, size);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.create_file(request.pid(), parent, name, flags, reply);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.write_file(ino, handle, offset, data, reply);
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (fs, pid) = (self.fs.clone(), request.pid());
        let flush = async move { fs.flush(handle.0, pid).await };
        self.answer(Kind::Flush, ino, reply, flush);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.answer(Kind::Fsync, ino, reply, async move { fs.fsync(handle.0).await });
    }

    // Changes of names are in the store before they are answered.
    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let allocate = async move { fs.fallocate(handle.0, offset, length, mode).await };
        self.answer(Kind::Fallocate, ino, reply, allocate);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, of) = (self.fs.clone(), name.to_owned());
        let unlink = async move { fs.unlink(parent.0, &of).await };
        self.answer_name(Kind::Unlink, parent, name, reply, unlink);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, of) = (self.fs.clone(), name.to_owned());
        let rmdir = async move { fs.rmdir(parent.0, &of).await };
        self.answer_name(Kind::Rmdir, parent, name, reply, rmdir);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        self.make_directory(parent, name, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.rename_name((parent, name), (new_parent, new_name), flags, request.pid(), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let new = NewAttr {
            mode: mode.is_some(),
            owner: uid.or(gid).is_some(),
            // ftruncate(2) also sets the time, which the program did not request.
            times: size.is_none() && (atime.is_some() || mtime.is_some()),
            now: size.is_none() && matches!(mtime, Some(TimeOrNow::Now)),
        };
        self.set_attributes(ino, handle, size, new, reply);
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, name, value) = (self.fs.clone(), name.to_owned(), value.to_owned());
        let set = async move { fs.set_end(ino.0, &name, Some(&value)).await };
        self.answer(Kind::Setxattr, ino, reply, set);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let remove = async move { fs.set_end(ino.0, &name, None).await };
        self.answer(Kind::Removexattr, ino, reply, remove);
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        self.refuse_kind(Kind::Mknod, parent, reply);
    }

    fn symlink(&self, _: &Request, parent: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        self.refuse_kind(Kind::Symlink, parent, reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        self.refuse_kind(Kind::Link, ino, reply);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let op = self.begin(Kind::CopyFileRange, ino);
        match self.fs.is_writable() {
            // The kernel then reads and writes instead.
            true => reply.error(Errno::ENOSYS),
            false => reply.error(refuse(&self.fs, &op, ino.0, &Error::ReadOnly)),
        }
    }
}
