//! Owner and permissions of the files: attributes as stat(2) shows them.

use fuser::{FileAttr, FileType, INodeNo};

use crate::fs::{Attr, Kind};

/// The preferred read size that `stat` reports. Tools that use it read in large pieces; the kernel
/// reads ahead further by itself.
const BLOCK_SIZE: u32 = 128 << 10;

/// Owner and permissions of files and directories.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits; those of a read-only mount have no write bits.
    pub file_mode: u16,
    pub dir_mode: u16,
}

impl Ownership {
    pub fn attr(&self, attr: &Attr) -> FileAttr {
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
            perm: mode,
            // For directories too: from 1, no tool infers the number of subdirectories.
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_SIZE,
            flags: 0,
        }
    }
}
