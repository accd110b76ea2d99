//! Replies to getxattr(2) and listxattr(2).

use std::ffi::OsStr;

use fuser::{Errno, INodeNo, ReplyXattr};
use tracing::debug_span;

use super::Fuse;
use super::refusal::refuse;
use crate::metrics::Operation;

impl Fuse {
    pub(super) fn get_attribute(&self, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // ACLs, capabilities, labels: on EOPNOTSUPP the kernel and tools stop asking this mount.
        if !name.as_encoded_bytes().starts_with(b"user.") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let op = self.begin(Operation::Getxattr, ino);
        let _span = debug_span!("getxattr", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        match self.fs.attributes(ino.0) {
            Ok(attributes) => match attributes.iter().find(|(known, _)| name == known.as_str()) {
                Some((_, value)) => reply_sized(reply, size, value.as_bytes()),
                None => {
                    op.failed(libc::ENODATA);
                    reply.error(Errno::ENODATA);
                }
            },
            Err(error) => reply.error(refuse(&self.fs, &op, ino.0, &error)),
        }
    }

    pub(super) fn list_attributes(&self, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let op = self.begin(Operation::Listxattr, ino);
        let _span = debug_span!("listxattr", ino = ino.0, key = self.fs.key_of(ino.0)).entered();
        match self.fs.attributes(ino.0) {
            Ok(attributes) => {
                let names: String = attributes.into_iter().map(|(name, _)| name + "\0").collect();
                reply_sized(reply, size, names.as_bytes());
            }
            Err(error) => reply.error(refuse(&self.fs, &op, ino.0, &error)),
        }
    }
}

/// A value, or its length if the caller requests that with a size of 0 (getxattr(2)).
fn reply_sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match size as usize {
        0 => reply.size(value.len() as u32),
        room if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
