//! Inodes: a number for each object version and each directory the kernel knows of (rule R2).
//!
//! A number is a hash of what it stands for, keyed anew for each mount: it stays the same while
//! the mount lives, however often the kernel forgets and asks again, at no cost in memory.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use crate::about::About;
use crate::expiry::Expiry;
use crate::name::{self, Prefix};
use crate::store::Version;

/// The kernel's name for the mount's root (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// Inodes above which those of files that nobody has opened are to be forgotten, at some 300 bytes
/// each: a walk through a large directory leaves one for each name with the kernel, which drops
/// them only when it is short of memory itself.
const CROWD: usize = 32 << 10;

/// An object version the kernel knows of.
#[derive(Debug)]
pub struct File {
    pub version: Arc<Version>,
    pub expiry: Expiry,
    /// What its headers tell people, once they were seen.
    pub about: OnceLock<Arc<About>>,
    /// All of its bytes have been given to the kernel once, which may hold them still.
    pub delivered: AtomicBool,
    /// Some of them have: the kernel may answer reads without asking.
    pub given: AtomicBool,
    /// Open handles.
    pub open: AtomicUsize,
    /// It was opened once: the kernel may hold its content.
    pub opened: AtomicBool,
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
    /// The kernel was asked to forget it, and has not met it since.
    asked: bool,
}

pub struct Inodes {
    hasher: RandomState,
    root: Prefix,
    table: Mutex<Table>,
    crowded: Notify,
}

struct Table {
    slots: HashMap<u64, Slot>,
    /// Files in the order they were met, and some that are forgotten since.
    met: VecDeque<u64>,
    /// How many the kernel was asked to forget and has not yet.
    asked: usize,
}

/// A directory and the name in it that the kernel may forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    pub parent: u64,
    pub name: String,
}

impl Inodes {
    pub fn new(root: Prefix) -> Inodes {
        let node = Node::Directory(root.clone());
        let slots = HashMap::from([(ROOT, Slot { node, lookups: 1, asked: false })]);
        Inodes {
            hasher: RandomState::new(),
            root,
            table: Mutex::new(Table { slots, met: VecDeque::new(), asked: 0 }),
            crowded: Notify::new(),
        }
    }

    pub fn get(&self, ino: u64) -> Option<Node> {
        self.table().slots.get(&ino).map(|slot| slot.node.clone())
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
            given: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            opened: AtomicBool::new(false),
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
        let mut table = self.table();
        let Table { slots, met, asked } = &mut *table;
        loop {
            match slots.entry(ino) {
                Entry::Occupied(mut slot) => {
                    if let Some(found) = same(&slot.get().node) {
                        slot.get_mut().lookups += 1;
                        if std::mem::take(&mut slot.get_mut().asked) {
                            *asked -= 1;
                            met.push_back(ino);
                        }
                        return (ino, found);
                    }
                    // Two that hash alike, one in 2^64: the later one takes the next number.
                    ino = ino.wrapping_add(1).max(ROOT + 1);
                }
                Entry::Vacant(slot) => {
                    let (node, found) = fresh();
                    if matches!(node, Node::File(_)) {
                        met.push_back(ino);
                    }
                    slot.insert(Slot { node, lookups: 1, asked: false });
                    if met.len() > 2 * (slots.len() + CROWD) {
                        met.retain(|ino| slots.contains_key(ino));
                    }
                    if slots.len() > CROWD + *asked {
                        self.crowded.notify_one();
                    }
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
        let mut table = self.table();
        if let Entry::Occupied(mut slot) = table.slots.entry(ino) {
            let left = slot.get().lookups.saturating_sub(count);
            slot.get_mut().lookups = left;
            if left == 0 && slot.remove().asked {
                table.asked -= 1;
            }
        }
    }

    /// Inodes the kernel knows of.
    pub fn count(&self) -> usize {
        self.table().slots.len()
    }

    /// Waits until there are too many, and returns some that the kernel should be asked to forget:
    /// files that it was told of longest ago, and that nobody has opened.
    pub async fn idle(&self, at_most: usize) -> Vec<Idle> {
        loop {
            let idle = self.idle_now(at_most);
            if !idle.is_empty() {
                return idle;
            }
            self.crowded.notified().await;
        }
    }

    fn idle_now(&self, at_most: usize) -> Vec<Idle> {
        let mut idle = Vec::new();
        let mut table = self.table();
        let Table { slots, met, asked } = &mut *table;
        // Each is asked for once: where it is in use, the kernel keeps it as long as it likes.
        while slots.len() > CROWD + *asked
            && idle.len() < at_most
            && let Some(ino) = met.pop_front()
        {
            if let Some(slot) = slots.get_mut(&ino)
                && let Node::File(file) = &slot.node
                && !slot.asked
                && !file.opened.load(Ordering::Relaxed)
            {
                idle.push(self.name_of(&file.version.key));
                slot.asked = true;
                *asked += 1;
            }
        }
        idle
    }

    fn name_of(&self, key: &str) -> Idle {
        let (prefix, name) = key.split_at(name::directory(key).len());
        let prefix = Prefix::new(prefix);
        let parent = match prefix == self.root {
            true => ROOT,
            false => self.number_of_directory(&prefix),
        };
        Idle { parent, name: name.to_owned() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn of_too_many_the_longest_known_that_nobody_opened_are_to_go() {
        let inodes = Inodes::new(Prefix::new("p"));
        let d = inodes.directory(&Prefix::new("p/d"));
        let name =
            |i: usize| if i.is_multiple_of(2) { format!("p/{i}") } else { format!("p/d/{i}") };
        for i in 0..CROWD + 100 {
            let key = name(i).into();
            let version = Version { key, ..(*version("a")).clone() };
            let (_, file) = inodes.file(&Arc::new(version), Expiry::Never, None);
            file.opened.store(i < 4, Ordering::Relaxed);
        }
        // With the root and the other directory there are 102 too many.
        assert_eq!(inodes.count(), CROWD + 102);
        let idle = inodes.idle_now(3);
        let want = [(4, ROOT), (5, d), (6, ROOT)];
        let want = want.map(|(i, parent)| Idle { parent, name: i.to_string() });
        assert_eq!(idle, want);
        assert_eq!(inodes.idle_now(1000).len(), 99, "those before are on their way");
        assert_eq!(inodes.idle_now(1000), []);
        let again = |i: usize| {
            let key = name(i).into();
            Arc::new(Version { key, ..(*version("a")).clone() })
        };
        for i in 10..106 {
            inodes.forget(inodes.number_of_file(&again(i)), 1);
        }
        assert_eq!(inodes.count(), CROWD + 6);
        // What the kernel meets again is as new.
        inodes.file(&again(5), Expiry::Never, None);
        let idle = inodes.idle_now(1000);
        assert_eq!(idle, [Idle { parent: ROOT, name: "106".into() }]);
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
