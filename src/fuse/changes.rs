//! Operations that change something: how they are run, and what their replies are made of.

use std::ffi::OsStr;

use bytes::Bytes;
use fuser::{
    FileHandle, FopenFlags, Generation, INodeNo, RenameFlags, ReplyAttr, ReplyCreate, ReplyEmpty,
    ReplyEntry, ReplyWrite,
};
use tracing::debug_span;

use super::Fuse;
use super::refusal::{refuse, refuse_name};
use crate::error::Error;
use crate::fs::OpenMode;
use crate::fs::attributes::NewAttr;
use crate::fs::change::Replace;
use crate::metrics::Operation as Kind;

/// How the kernel treats a file that is written: its pages stay correct, and each close sends a
/// FLUSH.
pub const WRITTEN: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

/// How open(2) was called.
pub fn open_mode(flags: i32) -> OpenMode {
    OpenMode {
        writes: flags & libc::O_ACCMODE != libc::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
    }
}

impl Fuse {
    /// Runs an operation on an inode whose reply is empty.
    pub(super) fn answer(
        &self,
        kind: Kind,
        ino: INodeNo,
        reply: ReplyEmpty,
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        self.answer_name(kind, ino, OsStr::new(""), reply, work);
    }

    /// The same for a name in a directory.
    pub(super) fn answer_name(
        &self,
        kind: Kind,
        ino: INodeNo,
        name: &OsStr,
        reply: ReplyEmpty,
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        let (fs, name, op) = (self.fs.clone(), name.to_owned(), self.begin_name(kind, ino, name));
        let span = debug_span!(
            "change",
            operation = op.name(),
            ino = ino.0,
            key = fs.key_of(ino.0),
            ?name
        );
        self.run(op.account(), span, async move {
            match work.await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse_name(&fs, &op, ino.0, &name, &error)),
            }
        });
    }

    /// Refuses to make a file of a type that a bucket cannot store.
    pub(super) fn refuse_kind(&self, kind: Kind, ino: INodeNo, reply: ReplyEntry) {
        let op = self.begin(kind, ino);
        let error = match self.fs.is_writable() {
            true => Error::NotPermitted("a bucket has files and directories only"),
            false => Error::ReadOnly,
        };
        reply.error(refuse(&self.fs, &op, ino.0, &error));
    }

    pub(super) fn create_file(
        &self,
        pid: u32,
        parent: INodeNo,
        name: &OsStr,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let op = self.begin_name(Kind::Create, parent, name);
        let (fs, owner, name, pid) = (self.fs.clone(), self.owner, name.to_owned(), pid);
        let span = debug_span!("create", parent = parent.0, key = fs.key_of(parent.0), ?name, pid);
        self.run(op.account(), span, async move {
            match fs.create(parent.0, &name, open_mode(flags), pid).await {
                Ok((attr, handle)) => {
                    let (ttl, attr) = (attr.ttl, owner.attr(&attr));
                    reply.created(&ttl, &attr, Generation(0), FileHandle(handle), WRITTEN);
                }
                Err(error) => reply.error(refuse_name(&fs, &op, parent.0, &name, &error)),
            }
        });
    }

    pub(super) fn write_file(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        reply: ReplyWrite,
    ) {
        let op = self.begin(Kind::Write, ino);
        let (fs, size) = (self.fs.clone(), data.len());
        let span = debug_span!("write", ino = ino.0, handle = handle.0, offset, size);
        // Most writes need not wait, and so need no copy of the data.
        let wrote = span.in_scope(|| fs.try_write(handle.0, offset, data));
        let data = match wrote {
            Some(_) => Bytes::new(),
            None => Bytes::copy_from_slice(data),
        };
        if wrote == Some(Ok(false)) {
            return reply.written(size as u32);
        }
        self.run(op.account(), span, async move {
            let wrote = match wrote {
                Some(wrote) => wrote,
                None => fs.write(handle.0, offset, data).await,
            };
            match wrote {
                Ok(fills_part) => {
                    reply.written(size as u32);
                    drop(op);
                    if fills_part {
                        fs.send_parts(handle.0, offset + size as u64).await;
                    }
                }
                Err(error) => reply.error(refuse(&fs, &op, ino.0, &error)),
            }
        });
    }

    pub(super) fn make_directory(&self, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let op = self.begin_name(Kind::Mkdir, parent, name);
        let (fs, owner, name) = (self.fs.clone(), self.owner, name.to_owned());
        let span = debug_span!("mkdir", parent = parent.0, key = fs.key_of(parent.0), ?name);
        self.run(op.account(), span, async move {
            match fs.mkdir(parent.0, &name).await {
                Ok(attr) => reply.entry(&attr.ttl, &owner.attr(&attr), Generation(0)),
                Err(error) => reply.error(refuse_name(&fs, &op, parent.0, &name, &error)),
            }
        });
    }

    pub(super) fn rename_name(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (new_parent, new_name): (INodeNo, &OsStr),
        flags: RenameFlags,
        pid: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, from, to) = (self.fs.clone(), name.to_owned(), new_name.to_owned());
        let rename = async move {
            let replace = match flags {
                flags if flags.is_empty() => Replace::Yes,
                RenameFlags::RENAME_NOREPLACE => Replace::No,
                // An atomic exchange is not possible.
                _ if fs.is_writable() => return Err(Error::Invalid("RENAME_EXCHANGE")),
                _ => return Err(Error::ReadOnly),
            };
            fs.rename((parent.0, &from), (new_parent.0, &to), replace, pid).await
        };
        self.answer_name(Kind::Rename, parent, name, reply, rename);
    }

    pub(super) fn set_attributes(
        &self,
        ino: INodeNo,
        handle: Option<FileHandle>,
        size: Option<u64>,
        new: NewAttr,
        reply: ReplyAttr,
    ) {
        let op = self.begin(Kind::Setattr, ino);
        let (fs, owner) = (self.fs.clone(), self.owner);
        let span = debug_span!("setattr", ino = ino.0, key = fs.key_of(ino.0), size);
        self.run(op.account(), span, async move {
            let set = match size {
                Some(size) => fs.truncate(ino.0, handle.map(|handle| handle.0), size).await,
                None => fs.set_attributes(ino.0, new).await,
            };
            match set {
                Ok(attr) => reply.attr(&attr.ttl, &owner.attr(&attr)),
                Err(error) => reply.error(refuse(&fs, &op, ino.0, &error)),
            }
        });
    }
}
