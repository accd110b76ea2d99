//! Replies to lookups and readdir(2).

use std::ffi::OsStr;

use fuser::{
    Errno, FileHandle, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEntry,
};
use tracing::debug_span;

use super::Fuse;
use super::refusal::{refuse_name, refuse_readdir};
use crate::fs::{Attr, Entry, Kind, Lookup};
use crate::metrics::Operation;

impl Fuse {
    pub(super) fn look_up(&self, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let op = self.begin_name(Operation::Lookup, parent, name);
        let (fs, owner, name) = (self.fs.clone(), self.owner, name.to_owned());
        let span = debug_span!("lookup", parent = parent.0, key = fs.key_of(parent.0), ?name);
        self.run(op.account(), span, async move {
            match fs.lookup(parent.0, &name).await {
                Ok(Lookup::Found(attr)) => {
                    reply.entry(&attr.ttl, &owner.attr(&attr), Generation(0));
                }
                Ok(Lookup::Nothing(ttl)) if ttl.is_zero() => {
                    op.failed(libc::ENOENT);
                    reply.error(Errno::ENOENT);
                }
                Ok(Lookup::Nothing(ttl)) => {
                    op.failed(libc::ENOENT);
                    // An entry with inode 0: the kernel caches the name as absent for the TTL.
                    let nothing = Attr::nameless(0, Kind::File);
                    reply.entry(&ttl, &owner.attr(&nothing), Generation(0));
                }
                Err(error) => reply.error(refuse_name(&fs, &op, parent.0, &name, &error)),
            }
        });
    }

    pub(super) fn list(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (fs, op) = (self.fs.clone(), self.begin(Operation::Readdir, ino));
        let span =
            debug_span!("readdir", ino = ino.0, key = fs.key_of(ino.0), handle = handle.0, offset);
        self.run(op.account(), span, async move {
            let add = |entry: &Entry<'_>| {
                !reply.add(INodeNo(entry.ino), entry.next, file_type(entry.kind), entry.name)
            };
            match fs.readdir(ino.0, handle.0, offset, false, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse_readdir(&fs, &op, ino.0, &error)),
            }
        });
    }

    pub(super) fn list_with_attributes(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let op = self.begin(Operation::Readdirplus, ino);
        let (fs, owner) = (self.fs.clone(), self.owner);
        let span = debug_span!(
            "readdirplus",
            ino = ino.0,
            key = fs.key_of(ino.0),
            handle = handle.0,
            offset
        );
        self.run(op.account(), span, async move {
            let add = |entry: &Entry<'_>| {
                // If only the name is known, the kernel caches nothing and sends a lookup when it
                // needs it.
                let attr = entry.attr.unwrap_or(Attr::nameless(entry.ino, entry.kind));
                let (ino, ttl) = (INodeNo(attr.ino), attr.ttl);
                !reply.add(ino, entry.next, entry.name, &ttl, &owner.attr(&attr), Generation(0))
            };
            match fs.readdir(ino.0, handle.0, offset, true, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse_readdir(&fs, &op, ino.0, &error)),
            }
        });
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}
