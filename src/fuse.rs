//! The adapter to fuser: decode a request, run it, reply. No rule of the file system is here.
//!
//! An operation is polled once on the thread that read the request, and answered there if what
//! it needs is here; a hop to another thread costs a small file half its speed (measured). Only
//! one that waits goes to the runtime. No thread that serves the kernel ever waits for the store.

use std::ffi::OsStr;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, Notifier,
    OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tracing::{Instrument, Level, Span, debug, debug_span, error, event, warn};

use crate::error::Error;
use crate::fs::inode::ROOT;
use crate::fs::{Attr, Entry, Fs, Kind, Lookup};

/// What `stat` gives as the best size of a read. Tools that take it read in large pieces; the
/// kernel reads ahead further by itself.
const BLOCK_SIZE: u32 = 128 << 10;

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

/// Threads that give the kernel pages at one time: each may wait there for a read.
const STORES: usize = 4;

/// A version is an inode, so cached pages are right whatever happens to the name; and there is
/// nothing to flush. FOPEN_CACHE_DIR must never be set: the kernel would list expired names.
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);

/// Whose the files are, and how they may be used.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits, write bits included; a read-only mount takes those off.
    pub file_mode: u16,
    pub dir_mode: u16,
}

impl Ownership {
    fn attr(&self, attr: &Attr) -> FileAttr {
        let (kind, mode) = match attr.kind {
            Kind::Directory => (FileType::Directory, self.dir_mode),
            Kind::File => (FileType::RegularFile, self.file_mode),
        };
        FileAttr {
            ino: INodeNo(attr.ino),
            size: attr.size,
            blocks: attr.size.div_ceil(512),
            atime: attr.mtime,
            mtime: attr.mtime,
            ctime: attr.mtime,
            crtime: attr.mtime,
            kind,
            perm: mode & !0o222,
            // For directories too: where it is 1, no tool infers the number of subdirectories.
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_SIZE,
            flags: 0,
        }
    }
}

/// The kernel's page cache of one mount.
#[derive(Clone)]
pub struct Pages {
    /// There once it is mounted.
    notifier: Arc<OnceLock<Notifier>>,
    turns: Arc<Semaphore>,
}

impl Default for Pages {
    fn default() -> Pages {
        Pages { notifier: Arc::default(), turns: Arc::new(Semaphore::new(STORES)) }
    }
}

impl Pages {
    /// From now on the kernel can be told.
    pub fn reached_by(&self, notifier: Notifier) {
        // It is mounted once.
        let _ = self.notifier.set(notifier);
    }

    /// Puts bytes of a file into it; whether that was done.
    ///
    /// FUSE_NOTIFY_STORE locks each page, and a page stays locked while a read of it is under way:
    /// it runs on a thread that no read waits for, and holds nothing that one may need.
    async fn store(&self, ino: INodeNo, offset: u64, bytes: Bytes) -> bool {
        let (Some(notifier), Ok(turn)) =
            (self.notifier.get().cloned(), self.turns.clone().acquire_owned().await)
        else {
            return false;
        };
        let stored = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            notifier.store(ino, offset, &bytes)
        });
        let stored = stored.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        stored
            .inspect_err(|error| debug!(%ino, offset, "the kernel takes no pages: {error}"))
            .is_ok()
    }
}

/// Serves one mount.
pub struct Fuse {
    fs: Arc<Fs>,
    runtime: Handle,
    owner: Ownership,
    /// Whether listings carry attributes. Lazy ones do not know them.
    plus: bool,
    pages: Pages,
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
        pages: Pages,
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

/// Logs a refusal, once, with what it was about, and says it in the kernel's terms.
fn refuse(fs: &Fs, operation: &'static str, ino: u64, error: &Error) -> Errno {
    refuse_name(fs, operation, ino, OsStr::new(""), error)
}

/// The same of a directory that is being read.
fn refuse_readdir(fs: &Fs, operation: &'static str, ino: u64, error: &Error) -> Errno {
    refuse(fs, operation, ino, error);
    Errno::from_i32(error.errno_of_readdir())
}

/// The same of `name` in the directory `ino`.
fn refuse_name(fs: &Fs, operation: &'static str, ino: u64, name: &OsStr, error: &Error) -> Errno {
    macro_rules! log {
        ($level:expr) => {
            event!($level, operation, key = fs.key_of(ino) + &name.to_string_lossy(), "{error}")
        };
    }
    match error.level() {
        Level::ERROR => log!(Level::ERROR),
        Level::WARN => log!(Level::WARN),
        Level::INFO => log!(Level::INFO),
        _ => log!(Level::DEBUG),
    }
    Errno::from_i32(error.errno())
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
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
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
        // ACLs, capabilities, labels: who asks remembers that there are none on this device.
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
