//! The adapter to fuser: decode a request, run it, reply. No rule of the file system is here.
//!
//! An operation is polled once on the thread that read the request, and answered there if what
//! it needs is here; a hop to another thread costs a small file half its speed (measured). Only
//! one that waits goes to the runtime. No thread that serves the kernel ever waits for the store.

mod ownership;
mod page_cache;
mod refusal;

use std::ffi::OsStr;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{Instrument, Span, debug_span, error, warn};

use crate::error::Error;
use crate::fs::inode::ROOT;
use crate::fs::{Attr, Entry, Fs, Kind, Lookup};
pub use ownership::Ownership;
pub use page_cache::PageCache;
use refusal::{refuse, refuse_name, refuse_readdir};

/// What `df` is told: there is no end to a bucket, so a petabyte, free. The number of blocks fits
/// into 32 bits, or programs compiled for that get EOVERFLOW.
const STATFS_BLOCKS: u64 = 1 << 30;
const STATFS_BLOCK_SIZE: u32 = 1 << 20;

/// Background requests the kernel sends before one is answered. Buffered reads and releases are such
/// requests (fs/fuse/file.c), so this is how many reads may wait for the store, or for a body, before
/// all other reads and releases wait behind them. The cap of bodies is no bound of them: handles
/// beyond it wait as well, and read-ahead has several reads of one handle under way. So it is all
/// that the protocol can say; what reads hold is bounded here, by bodies and buffer memory. The
/// kernel stops reading ahead at three quarters of it.
const MAX_BACKGROUND: u16 = u16::MAX;

/// A version is an inode, so cached pages are right whatever happens to the name; and there is
/// nothing to flush. FOPEN_CACHE_DIR must never be set: the kernel would list expired names.
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);

/// Serves one mount.
pub struct Fuse {
    fs: Arc<Fs>,
    runtime: Handle,
    owner: Ownership,
    /// Whether listings carry attributes. Lazy ones do not know them.
    plus: bool,
    pages: PageCache,
    /// Dropped with the session.
    _alive: oneshot::Sender<()>,
}

impl Fuse {
    /// `alive` is dropped when the kernel has ended the session.
    pub fn new(
        fs: Arc<Fs>,
        runtime: Handle,
        owner: Ownership,
        plus: bool,
        pages: PageCache,
        alive: oneshot::Sender<()>,
    ) -> Fuse {
        Fuse { fs, runtime, owner, plus, pages, _alive: alive }
    }

    /// Runs an operation: here if it need not wait, else on the runtime. The reply is inside: if
    /// `work` panics, it is dropped, and fuser answers EIO.
    fn run(&self, span: Span, work: impl Future<Output = ()> + Send + 'static) {
        let _runtime = self.runtime.enter();
        let mut work =
            Box::pin(AssertUnwindSafe(work).catch_unwind().instrument(span).map(|done| {
                if done.is_err() {
                    error!("an operation panicked; it was answered with EIO");
                }
            }));
        if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            #[expect(
                clippy::disallowed_methods,
                reason = "the kernel waits for the reply inside it, and each operation has a bound"
            )]
            self.runtime.spawn(work);
        }
    }
}

/// A value, or its length where the caller asks for that with a size of 0 (getxattr(2)).
fn reply_sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match size as usize {
        0 => reply.size(value.len() as u32),
        room if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

/// Operations that change something: EROFS, whatever they are about. The mount is read-only for
/// the kernel too; these are reached where root has remounted it.
macro_rules! refused_as_read_only {
    ($($operation:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $operation(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(refuse(&self.fs, stringify!($operation), ROOT, &Error::ReadOnly));
        })*
    };
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Without it the kernel asks one thing about a directory at a time.
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
        for capability in wanted.into_iter().filter(plus) {
            if config.add_capabilities(capability).is_err() {
                warn!(?capability, "this kernel lacks a capability; the mount will be slower");
            }
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, owner, name) = (self.fs.clone(), self.owner, name.to_owned());
        let span = debug_span!("lookup", parent = parent.0, key = fs.key_of(parent.0), ?name);
        self.run(span, async move {
            match fs.lookup(parent.0, &name).await {
                Ok(Lookup::Found(attr)) => {
                    reply.entry(&attr.ttl, &owner.attr(&attr), Generation(0));
                }
                Ok(Lookup::Nothing(ttl)) if ttl.is_zero() => reply.error(Errno::ENOENT),
                Ok(Lookup::Nothing(ttl)) => {
                    // An entry without an inode is one the kernel may take for absent that long.
                    let nothing = Attr::nameless(0, Kind::File);
                    reply.entry(&ttl, &owner.attr(&nothing), Generation(0));
                }
                Err(error) => reply.error(refuse_name(&fs, "lookup", parent.0, &name, &error)),
            }
        });
    }

    // BATCH_FORGET comes here too, one by one.
    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let _span = debug_span!("getattr", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        match self.fs.getattr(ino.0) {
            Ok(attr) => reply.attr(&attr.ttl, &self.owner.attr(&attr)),
            Err(error) => reply.error(refuse(&self.fs, "getattr", ino.0, &error)),
        }
    }

    fn access(&self, _: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let _span = debug_span!("access", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        let granted = match mask.contains(AccessFlags::W_OK) {
            true => Err(Error::ReadOnly),
            false => self.fs.access(ino.0),
        };
        match granted {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(&self.fs, "access", ino.0, &error)),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, pid) = (self.fs.clone(), request.pid());
        let span = debug_span!("open", ino = ino.0, key = fs.key_of(ino.0), pid);
        self.run(span, async move {
            let opened = match flags.acc_mode() {
                OpenAccMode::O_RDONLY => fs.open(ino.0, pid).await,
                OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Err(Error::ReadOnly),
            };
            match opened {
                Ok(handle) => reply.opened(FileHandle(handle), OPENED),
                Err(error) => reply.error(refuse(&fs, "open", ino.0, &error)),
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
        let (fs, pages) = (self.fs.clone(), self.pages.clone());
        let span = debug_span!(
            "read",
            ino = ino.0,
            key = fs.key_of(ino.0),
            handle = handle.0,
            offset,
            size
        );
        self.run(span, async move {
            match fs.read(handle.0, offset, size).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(refuse(&fs, "read", ino.0, &error)),
            }
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
        let span =
            debug_span!("release", ino = ino.0, key = self.fs.key_of(ino.0), handle = handle.0);
        // Closing a body wakes its connection's task: that wants to be in the runtime.
        let _runtime = self.runtime.enter();
        let _span = span.entered();
        match self.fs.release(handle.0) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(&self.fs, "release", ino.0, &error)),
        }
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let _span = debug_span!("opendir", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        match self.fs.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(refuse(&self.fs, "opendir", ino.0, &error)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        let span =
            debug_span!("readdir", ino = ino.0, key = fs.key_of(ino.0), handle = handle.0, offset);
        self.run(span, async move {
            let add = |entry: &Entry<'_>| {
                !reply.add(INodeNo(entry.ino), entry.next, file_type(entry.kind), entry.name)
            };
            match fs.readdir(ino.0, handle.0, offset, false, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse_readdir(&fs, "readdir", ino.0, &error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, owner) = (self.fs.clone(), self.owner);
        let span = debug_span!(
            "readdirplus",
            ino = ino.0,
            key = fs.key_of(ino.0),
            handle = handle.0,
            offset
        );
        self.run(span, async move {
            let add = |entry: &Entry<'_>| {
                // Of a name alone the kernel is told nothing that lasts: it asks when it is wanted.
                let attr = entry.attr.unwrap_or(Attr::nameless(entry.ino, entry.kind));
                let (ino, ttl) = (INodeNo(attr.ino), attr.ttl);
                !reply.add(ino, entry.next, entry.name, &ttl, &owner.attr(&attr), Generation(0))
            };
            match fs.readdir(ino.0, handle.0, offset, true, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse_readdir(&fs, "readdirplus", ino.0, &error)),
            }
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _runtime = self.runtime.enter();
        let _span =
            debug_span!("releasedir", ino = ino.0, key = self.fs.key_of(ino.0), handle = handle.0)
                .entered();
        match self.fs.releasedir(handle.0) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(&self.fs, "releasedir", ino.0, &error)),
        }
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // ACLs, capabilities, labels: on EOPNOTSUPP the kernel and tools stop asking this mount.
        if !name.as_encoded_bytes().starts_with(b"user.") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let _span = debug_span!("getxattr", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        match self.fs.attributes(ino.0) {
            Ok(attributes) => match attributes.iter().find(|(known, _)| name == known.as_str()) {
                Some((_, value)) => reply_sized(reply, size, value.as_bytes()),
                None => reply.error(Errno::ENODATA),
            },
            Err(error) => reply.error(refuse(&self.fs, "getxattr", ino.0, &error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _span = debug_span!("listxattr", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        match self.fs.attributes(ino.0) {
            Ok(attributes) => {
                let names: String = attributes.into_iter().map(|(name, _)| name + "\0").collect();
                reply_sized(reply, size, names.as_bytes());
            }
            Err(error) => reply.error(refuse(&self.fs, "listxattr", ino.0, &error)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (blocks, size) = (STATFS_BLOCKS, STATFS_BLOCK_SIZE);
        reply.statfs(blocks, blocks, blocks, 0, 0, size, crate::name::NAME_MAX as u32, size);
    }

    refused_as_read_only! {
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        write(INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>) -> ReplyWrite;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
        copy_file_range(
            INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags
        ) -> ReplyWrite;
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>,
            Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>, Option<SystemTime>,
            Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) -> ReplyAttr;
    }
}
