//! Inodes: a number for each object version and each directory the kernel knows of (rule R2).
//!
//! A number is a hash of what it stands for, keyed anew for each mount: it stays the same while
//! the mount lives, however often the kernel forgets and asks again, at no cost in memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::about::About;
use crate::expiry::Expiry;
use crate::name::Prefix;
use crate::store::Version;

/// The kernel's name for the mount's root (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// An object version the kernel knows of.
#[derive(Debug)]
pub struct File {
    pub version: Arc<Version>,
    pub expiry: Expiry,
    /// What its headers tell people, once they were seen.
    pub about: OnceLock<Arc<About>>,
    /// All of its bytes have been given to the kernel once, which may hold them still.
    pub delivered: AtomicBool,
    /// Open handles.
    pub open: AtomicUsize,
}

/// What an inode number stands for.
#[derive(Clone, Debug)]
pub enum Node {
    Directory(Prefix),
    File(Arc<File>),
}

struct Slot {
    node: Node,
    /// Answers that named it, less what the kernel has forgotten of them.
    lookups: u64,
}

pub struct Inodes {
    hasher: RandomState,
    slots: Mutex<HashMap<u64, Slot>>,
}

impl Inodes {
    pub fn new(root: Prefix) -> Inodes {
        let root = Slot { node: Node::Directory(root), lookups: 1 };
        Inodes { hasher: RandomState::new(), slots: Mutex::new(HashMap::from([(ROOT, root)])) }
    }

    pub fn get(&self, ino: u64) -> Option<Node> {
        self.slots().get(&ino).map(|slot| slot.node.clone())
    }

    /// The inode of a version, counted as looked up once more.
    pub fn file(
        &self,
        version: &Arc<Version>,
        expiry: Expiry,
        about: Option<&Arc<About>>,
    ) -> (u64, Arc<File>) {
        let fresh = || File {
            version: version.clone(),
            expiry,
            about: OnceLock::new(),
            delivered: AtomicBool::new(false),
            open: AtomicUsize::new(0),
        };
        let same = |node: &Node| match node {
            // The same bytes with another end are another version, within the second that
            // Last-Modified can tell.
            Node::File(file) if *file.version == **version && file.expiry == expiry => {
                Some(file.clone())
            }
            _ => None,
        };
        let (ino, file) = self.look_up(self.number_of_file(version), same, || {
            let file = Arc::new(fresh());
            (Node::File(file.clone()), file)
        });
        if let Some(about) = about {
            file.about.get_or_init(|| about.clone());
        }
        (ino, file)
    }

    /// The inode of a directory, counted as looked up once more.
    pub fn directory(&self, prefix: &Prefix) -> u64 {
        let same = |node: &Node| matches!(node, Node::Directory(p) if p == prefix).then_some(());
        let fresh = || (Node::Directory(prefix.clone()), ());
        self.look_up(self.number_of_directory(prefix), same, fresh).0
    }

    /// The number a version has, or would have: a hint for who only lists names.
    pub fn number_of_file(&self, version: &Version) -> u64 {
        self.hasher.hash_one((0u8, version)).max(ROOT + 1)
    }

    /// The number a directory has, or would have.
    pub fn number_of_directory(&self, prefix: &Prefix) -> u64 {
        self.hasher.hash_one((1u8, prefix)).max(ROOT + 1)
    }

    fn look_up<T>(
        &self,
        mut ino: u64,
        same: impl Fn(&Node) -> Option<T>,
        fresh: impl FnOnce() -> (Node, T),
    ) -> (u64, T) {
        let mut slots = self.slots();
        loop {
            match slots.entry(ino) {
                Entry::Occupied(mut slot) => {
                    if let Some(found) = same(&slot.get().node) {
                        slot.get_mut().lookups += 1;
                        return (ino, found);
                    }
                    // Two that hash alike, one in 2^64: the later one takes the next number.
                    ino = ino.wrapping_add(1).max(ROOT + 1);
                }
                Entry::Vacant(slot) => {
                    let (node, found) = fresh();
                    slot.insert(Slot { node, lookups: 1 });
                    return (ino, found);
                }
            }
        }
    }

    /// The kernel has dropped `count` of its references.
    pub fn forget(&self, ino: u64, count: u64) {
        if ino == ROOT {
            return;
        }
        if let Entry::Occupied(mut slot) = self.slots().entry(ino) {
            let left = slot.get().lookups.saturating_sub(count);
            slot.get_mut().lookups = left;
            if left == 0 {
                slot.remove();
            }
        }
    }

    /// Inodes the kernel knows of.
    pub fn count(&self) -> usize {
        self.slots().len()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn version(etag: &str) -> Arc<Version> {
        let last_modified = SystemTime::UNIX_EPOCH;
        Arc::new(Version { key: "k".into(), etag: etag.into(), last_modified, size: 1 })
    }

    #[test]
    fn a_version_keeps_its_number_and_another_gets_another() {
        let inodes = Inodes::new(Prefix::default());
        let (a, file) = inodes.file(&version("a"), Expiry::Never, None);
        let (b, _) = inodes.file(&version("b"), Expiry::Never, None);
        assert_ne!(a, b);
        let (again, same) = inodes.file(&version("a"), Expiry::Never, None);
        assert!(a == again && Arc::ptr_eq(&file, &same));
        inodes.forget(a, 2);
        assert!(inodes.get(a).is_none());
        assert_eq!(inodes.file(&version("a"), Expiry::Never, None).0, a, "after a forget too");
    }

    #[test]
    fn numbers_live_until_the_last_reference_is_forgotten() {
        let inodes = Inodes::new(Prefix::default());
        let d = inodes.directory(&Prefix::new("d"));
        assert_eq!(d, inodes.directory(&Prefix::new("d")));
        inodes.forget(d, 1);
        assert!(inodes.get(d).is_some());
        inodes.forget(d, 5);
        assert!(inodes.get(d).is_none());
        inodes.forget(ROOT, 99);
        assert!(inodes.get(ROOT).is_some());
        assert_eq!(inodes.count(), 1);
    }
}
