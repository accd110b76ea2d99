//! Inodes: a number for each object version and each directory the kernel knows of (rule R2).
//!
//! Owns the numbers, their lookup counts and what the kernel caches of each version. Knows nothing
//! of the store, of bodies, or of whether an object has expired.
//!
//! A number is a keyed hash of what it stands for (a new key for each mount), so it is the same
//! when the kernel forgets an inode and looks it up again. It fits into 32 bits: a program compiled
//! for 32-bit numbers gets EOVERFLOW from stat(2) and getdents(2) for a larger one. On a collision,
//! the later inode takes the next free number.

mod idle;
mod kernel_copy;
mod table;

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::expiry::Expiry;
use crate::name::Prefix;
use crate::pending::Pending;
use crate::store::{Object, Version};
use crate::xattr::About;
use idle::{Kind, Limits, Lines};
pub use kernel_copy::{KernelCopy, Opened};
pub use table::Idle;
use table::{Next, Slot, Table, hash_of_directory, hash_of_file, hash_of_pending, is_directory};

/// The kernel's name for the mount's root (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// The `d_ino` of entries whose inode number is not known (FUSE_UNKNOWN_INO). No inode has it.
pub const UNKNOWN: u64 = 0xffff_ffff;

/// How many numbers inodes other than the root can have: ROOT + 1 up to UNKNOWN - 1.
const NUMBERS: u64 = UNKNOWN - 1 - ROOT;

/// An object version the kernel knows of.
#[derive(Debug)]
pub struct File {
    pub version: Arc<Version>,
    pub expiry: Expiry,
    /// Its headers for xattrs, once they were seen.
    pub about: OnceLock<Arc<About>>,
    /// Shared with a later version of the same content under the same inode.
    pub kernel: Arc<KernelCopy>,
}

impl File {
    /// A version of which the kernel has nothing yet.
    pub fn new(version: Arc<Version>, expiry: Expiry, about: Option<Arc<About>>) -> File {
        File::cached(version, expiry, about, Arc::default())
    }

    /// A version of which the kernel has this.
    pub fn cached(
        version: Arc<Version>,
        expiry: Expiry,
        about: Option<Arc<About>>,
        kernel: Arc<KernelCopy>,
    ) -> File {
        let about = about.map_or_else(OnceLock::new, OnceLock::from);
        File { version, expiry, about, kernel }
    }

    /// The object, with its headers as far as they are known.
    pub fn object(&self) -> Object {
        let headers = self.about.get().map(|about| about.headers(self.expiry));
        Object { version: (*self.version).clone(), headers: headers.unwrap_or_default() }
    }
}

impl AsRef<KernelCopy> for File {
    fn as_ref(&self) -> &KernelCopy {
        &self.kernel
    }
}

/// What an inode number stands for.
#[derive(Clone, Debug)]
pub enum Node {
    Directory(Prefix),
    File(Arc<File>),
    /// A file that is being written: the store has no version of it yet.
    Pending(Arc<Pending>),
}

pub struct Inodes {
    hasher: RandomState,
    table: Mutex<Table>,
    /// There is, or will soon be, a name to invalidate.
    changed: Notify,
}

/// A request in flight in a directory. While there is one, no name in the directory is invalidated:
/// the kernel locks the directory exclusively for that, and while it waits for the lock, it blocks
/// all new lookups.
pub struct Working<'a> {
    inodes: &'a Inodes,
    directory: u64,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.inodes.table().slots.get_mut(&self.directory) {
            slot.working -= 1;
        }
    }
}

impl Inodes {
    pub fn new(root: Prefix) -> Inodes {
        Inodes::limited(root, NUMBERS, Limits::DEFAULT)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "bucket writers must not be able to predict the hashes of keys"
    )]
    fn limited(root: Prefix, numbers: u64, limits: Limits) -> Inodes {
        let slot = Slot::new(Node::Directory(root), ROOT);
        let table = Table {
            slots: HashMap::from([(ROOT, slot)]),
            numbers,
            displaced: HashMap::new(),
            lines: Lines::new(limits),
            doubted: VecDeque::new(),
        };
        Inodes { hasher: RandomState::new(), table: Mutex::new(table), changed: Notify::new() }
    }

    pub fn get(&self, ino: u64) -> Option<Node> {
        self.table().slots.get(&ino).map(|slot| slot.node.clone())
    }

    /// The inode of a version in the directory `parent`, counted as looked up once more.
    pub fn file(
        &self,
        parent: u64,
        version: &Arc<Version>,
        expiry: Expiry,
        about: Option<&Arc<About>>,
    ) -> (u64, Arc<File>) {
        let same = |node: &Node| match node {
            // The same bytes with another expiry are another version: two writes within a second
            // have the same Last-Modified.
            Node::File(file)
                if *file.version == **version
                    && file.expiry == expiry
                    && !file.kernel.is_superseded() =>
            {
                Some(file.clone())
            }
            _ => None,
        };
        let (ino, file) = self.look_up(parent, self.hash_of_file(version), same, || {
            let file = Arc::new(File::new(version.clone(), expiry, None));
            (Node::File(file.clone()), file)
        });
        if let Some(about) = about {
            file.about.get_or_init(|| about.clone());
        }
        (ino, file)
    }

    /// The inode of a directory in the directory `parent`, counted as looked up once more.
    pub fn directory(&self, parent: u64, prefix: &Prefix) -> u64 {
        let same = |node: &Node| is_directory(node, prefix).then_some(());
        let fresh = || (Node::Directory(prefix.clone()), ());
        self.look_up(parent, self.hash_of_directory(prefix), same, fresh).0
    }

    /// The inode of a pending file in the directory `parent`, counted as looked up once more.
    pub fn pending(&self, parent: u64, pending: &Arc<Pending>) -> u64 {
        let same = |node: &Node| match node {
            Node::Pending(known) if Arc::ptr_eq(known, pending) => Some(()),
            _ => None,
        };
        let fresh = || (Node::Pending(pending.clone()), ());
        self.look_up(parent, hash_of_pending(&self.hasher, pending), same, fresh).0
    }

    /// Has a number stand for something else from now on: a version that is being edited, a pending
    /// file that was committed. `false` if the kernel has forgotten it.
    pub fn rebind(&self, ino: u64, node: Node) -> bool {
        let mut table = self.table();
        let known = table.rebind(ino, node, &self.hasher);
        let crowded = known && table.meet(ino, Instant::now());
        drop(table);
        if crowded {
            self.changed.notify_one();
        }
        known
    }

    /// Records that the name of an inode is in another directory from now on.
    pub fn moved(&self, ino: u64, parent: u64) {
        self.table().moved(ino, parent);
    }

    /// Whether the kernel knows this version and has opened it: it has content or will get it.
    pub fn was_opened(&self, version: &Version) -> bool {
        let opened = |node: &Node| match node {
            Node::File(file) if *file.version == *version => Some(file.kernel.was_opened()),
            _ => None,
        };
        let table = self.table();
        let home = table.home(self.hash_of_file(version));
        table.find(home, opened).is_some_and(|(_, opened)| opened)
    }

    /// The number a version has, or would have: a hint for `d_ino` of readdir.
    pub fn number_of_file(&self, version: &Version) -> u64 {
        let same = |node: &Node| {
            matches!(node, Node::File(file) if *file.version == *version).then_some(())
        };
        self.table().number(self.hash_of_file(version), same)
    }

    /// The number under which readers have this version open, if an edit gets another inode.
    pub fn superseded(&self, version: &Version) -> Option<u64> {
        let same = |node: &Node| match node {
            Node::File(file) if *file.version == *version => {
                file.kernel.is_superseded().then_some(())
            }
            _ => None,
        };
        let table = self.table();
        let home = table.home(self.hash_of_file(version));
        table.find(home, same).map(|(ino, ())| ino)
    }

    /// The number of a version that the kernel knows.
    pub fn known_number_of_file(&self, version: &Version) -> Option<u64> {
        let same = |node: &Node| {
            matches!(node, Node::File(file) if *file.version == *version).then_some(())
        };
        let table = self.table();
        let home = table.home(self.hash_of_file(version));
        table.find(home, same).map(|(ino, ())| ino)
    }

    /// The number of a pending file that the kernel knows.
    pub fn known_number_of_pending(&self, pending: &Arc<Pending>) -> Option<u64> {
        let same = |node: &Node| match node {
            Node::Pending(known) if Arc::ptr_eq(known, pending) => Some(()),
            _ => None,
        };
        let table = self.table();
        let home = table.home(hash_of_pending(&self.hasher, pending));
        table.find(home, same).map(|(ino, ())| ino)
    }

    /// The number a directory has, or would have.
    pub fn number_of_directory(&self, prefix: &Prefix) -> u64 {
        let same = |node: &Node| is_directory(node, prefix).then_some(());
        self.table().number(self.hash_of_directory(prefix), same)
    }

    fn hash_of_file(&self, version: &Version) -> u64 {
        hash_of_file(&self.hasher, version)
    }

    fn hash_of_directory(&self, prefix: &Prefix) -> u64 {
        hash_of_directory(&self.hasher, prefix)
    }

    fn look_up<T>(
        &self,
        parent: u64,
        hash: u64,
        same: impl Fn(&Node) -> Option<T>,
        fresh: impl FnOnce() -> (Node, T),
    ) -> (u64, T) {
        let now = Instant::now();
        let mut table = self.table();
        let (ino, found) = table.look_up(parent, hash, same, fresh);
        let crowded = table.meet(ino, now);
        drop(table);
        if crowded {
            self.changed.notify_one();
        }
        (ino, found)
    }

    /// Records that a file is being opened: the kernel will have its content.
    pub fn opened(&self, ino: u64) {
        let mut table = self.table();
        let Table { slots, lines, .. } = &mut *table;
        let Some(slot) = slots.get_mut(&ino) else { return };
        if slot.kind != Kind::Opened && !slot.asked {
            lines.leave(slot.kind, ino);
        }
        slot.kind = Kind::Opened;
        let crowded = table.meet(ino, Instant::now());
        drop(table);
        if crowded {
            self.changed.notify_one();
        }
    }

    /// Records a request in a directory until the result is dropped.
    pub fn working(&self, directory: u64) -> Working<'_> {
        let mut table = self.table();
        if let Some(slot) = table.slots.get_mut(&directory) {
            slot.working += 1;
        }
        let crowded = table.meet(directory, Instant::now());
        drop(table);
        if crowded {
            self.changed.notify_one();
        }
        Working { inodes: self, directory }
    }

    /// Has the name of an inode invalidated, so that the kernel looks it up again.
    pub fn doubt(&self, ino: u64) {
        let mut table = self.table();
        let Some(slot) = table.slots.get_mut(&ino) else { return };
        if ino != ROOT && !std::mem::replace(&mut slot.doubted, true) {
            table.doubted.push_back(ino);
            drop(table);
            self.changed.notify_one();
        }
    }

    /// The kernel has dropped `count` of its references.
    pub fn forget(&self, ino: u64, count: u64) {
        if ino == ROOT {
            return;
        }
        let mut table = self.table();
        if let Some(slot) = table.slots.get_mut(&ino) {
            slot.lookups = slot.lookups.saturating_sub(count);
            if slot.lookups == 0 {
                table.remove(ino, &self.hasher);
            }
        }
    }

    /// Inodes the kernel knows of.
    pub fn count(&self) -> usize {
        self.table().slots.len()
    }

    /// Waits until there is a name to invalidate.
    pub async fn idle(&self) -> Idle {
        loop {
            let changed = self.changed.notified();
            let next = self.table().next(Instant::now());
            match next {
                Next::Drop(idle) => return idle,
                Next::At(at) => _ = tokio::time::timeout_at(at, changed).await,
                Next::Nothing => changed.await,
            }
        }
    }

    /// A name to invalidate, if there is one now.
    pub fn idle_now(&self) -> Option<Idle> {
        match self.table().next(Instant::now()) {
            Next::Drop(idle) => Some(idle),
            Next::At(_) | Next::Nothing => None,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pending::Wanted;
    use idle::REST;
    use std::time::{Duration, SystemTime};
    use tokio::time::advance;

    fn version_of(key: &str, etag: &str) -> Arc<Version> {
        let last_modified = SystemTime::UNIX_EPOCH;
        Arc::new(Version {
            key: key.into(),
            etag: etag.into(),
            last_modified,
            slack: Duration::ZERO,
            size: 1,
        })
    }

    fn version(etag: &str) -> Arc<Version> {
        version_of("k", etag)
    }

    const FEW: Limits = Limits { directories: 2, unopened: 4, opened: 3 };

    fn few() -> Inodes {
        Inodes::limited(Prefix::default(), NUMBERS, FEW)
    }

    impl Inodes {
        fn met(&self, parent: u64, key: &str) -> u64 {
            self.file(parent, &version_of(key, "e"), Expiry::Never, None).0
        }

        fn names(&self) -> Vec<String> {
            std::iter::from_fn(|| self.idle_now()).map(|idle| idle.name).collect()
        }
    }

    #[test]
    fn a_version_keeps_its_number_and_another_gets_another() {
        let inodes = Inodes::new(Prefix::default());
        let (a, file) = inodes.file(ROOT, &version("a"), Expiry::Never, None);
        let (b, _) = inodes.file(ROOT, &version("b"), Expiry::Never, None);
        assert_ne!(a, b);
        let (again, same) = inodes.file(ROOT, &version("a"), Expiry::Never, None);
        assert!(a == again && Arc::ptr_eq(&file, &same));
        inodes.forget(a, 2);
        assert!(inodes.get(a).is_none());
        let number = inodes.file(ROOT, &version("a"), Expiry::Never, None).0;
        assert_eq!(number, a, "after a forget too");
    }

    #[test]
    fn numbers_fit_into_32_bits_and_none_is_reserved() {
        let inodes = Inodes::new(Prefix::default());
        for i in 0..10_000 {
            let numbers = [
                inodes.met(ROOT, &i.to_string()),
                inodes.directory(ROOT, &Prefix::new(&i.to_string())),
            ];
            assert!(numbers.iter().all(|n| (ROOT + 1..UNKNOWN).contains(n)), "{numbers:?}");
        }
        let table = inodes.table();
        assert_eq!(
            [table.home(0), table.home(u64::MAX - u64::MAX % NUMBERS - 1)],
            [2, UNKNOWN - 1]
        );
    }

    #[test]
    fn versions_with_equal_hashes_keep_their_numbers() {
        // Ten inodes for ten numbers: hashes collide, but each inode has its own number.
        let inodes = Inodes::limited(Prefix::default(), 10, FEW);
        let prefix = |i: usize| Prefix::new(&i.to_string());
        let version = |i: usize| version_of(&i.to_string(), "e");
        let files: Vec<u64> = (0..5).map(|i| inodes.met(ROOT, &i.to_string())).collect();
        let dirs: Vec<u64> = (0..5).map(|i| inodes.directory(ROOT, &prefix(i))).collect();
        let mut all: Vec<u64> = [files.clone(), dirs.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (2..12).collect::<Vec<u64>>());
        for i in 0..5 {
            assert_eq!(inodes.number_of_file(&version(i)), files[i]);
            assert_eq!(inodes.number_of_directory(&prefix(i)), dirs[i]);
        }
        // An inode keeps its number when others that collide with it are forgotten.
        for gone in 0..4 {
            inodes.forget(files[gone], 1);
            inodes.forget(dirs[gone], 1);
            assert_eq!(inodes.met(ROOT, "4"), files[4]);
            assert_eq!(inodes.directory(ROOT, &prefix(4)), dirs[4]);
        }
        inodes.forget(files[4], 5);
        inodes.forget(dirs[4], 5);
        assert_eq!(inodes.count(), 1);
        assert!(inodes.table().displaced.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn least_recently_used_inodes_are_dropped_first() {
        let inodes = few();
        let d = inodes.directory(ROOT, &Prefix::new("d"));
        for i in 0..6 {
            inodes.met(d, &format!("d/{i}"));
        }
        assert_eq!(inodes.names(), [""; 0], "all were used just now: an open may follow");
        advance(REST / 2).await;
        inodes.met(d, "d/0");
        advance(REST / 2).await;
        let idle = inodes.idle().await;
        assert_eq!(idle, Idle { parent: d, name: "1".into() });
        assert_eq!(inodes.names(), ["2"], "four may stay");
        // An inode whose name was invalidated is in no LRU list; used again, it counts as new.
        inodes.met(d, "d/2");
        advance(REST).await;
        assert_eq!(inodes.names(), ["3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn directories_opened_and_unopened_files_have_separate_limits() {
        let inodes = few();
        let dirs: Vec<u64> =
            (0..4).map(|i| inodes.directory(ROOT, &Prefix::new(&format!("d{i}")))).collect();
        let files: Vec<u64> = (0..8).map(|i| inodes.met(dirs[0], &format!("d0/{i}"))).collect();
        files[..5].iter().for_each(|ino| inodes.opened(*ino));
        let Some(Node::File(held)) = inodes.get(files[0]) else { panic!("a file") };
        let _held = Opened::new(held);
        advance(REST).await;
        // Three unopened files are within the limit. The oldest opened file has a handle, and the
        // oldest directory has children.
        assert_eq!(inodes.names(), ["1", "2", "d1", "d2"]);
        advance(REST).await;
        assert_eq!(inodes.names(), [""; 0]);
        files.iter().for_each(|ino| inodes.forget(*ino, 1));
        inodes.directory(ROOT, &Prefix::new("d4"));
        advance(REST).await;
        assert_eq!(
            inodes.names(),
            ["d3"],
            "the directory that became empty was used more recently"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_name_is_dropped_in_a_directory_with_a_request_in_flight() {
        let inodes = few();
        let [a, b] = ["a", "b"].map(|name| inodes.directory(ROOT, &Prefix::new(name)));
        let one = inodes.met(a, "a/1");
        (2..4).for_each(|i| _ = inodes.met(a, &format!("a/{i}")));
        (0..3).for_each(|i| _ = inodes.met(b, &format!("b/{i}")));
        let working = inodes.working(a);
        inodes.doubt(one);
        advance(REST).await;
        assert_eq!(inodes.names(), ["0", "1"]);
        drop(working);
        assert_eq!(inodes.names(), ["1"], "the one in doubt");
        inodes.doubt(one);
        inodes.forget(one, 1);
        assert_eq!(inodes.names(), [""; 0], "the kernel has forgotten it");
    }

    fn draft(key: &str) -> Arc<Pending> {
        Pending::create(&crate::pending::tests::writer(), key, Wanted::Any)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pending_file_has_a_number_of_its_own_and_keeps_it() {
        let inodes = few();
        let version = inodes.met(ROOT, "k");
        let [first, second] = [(); 2].map(|()| draft("k"));
        let [a, b] = [&first, &second].map(|pending| inodes.pending(ROOT, pending));
        assert!(
            a != b && ![a, b].contains(&version),
            "two writers of one name, and the version in the store"
        );
        assert_eq!(inodes.pending(ROOT, &first), a, "looked up again");
        assert!(matches!(inodes.get(b), Some(Node::Pending(node)) if Arc::ptr_eq(&node, &second)));
        // No file is evicted while it is written, however many there are.
        let more: Vec<u64> = (0..5).map(|i| inodes.pending(ROOT, &draft(&i.to_string()))).collect();
        advance(REST).await;
        assert_eq!(inodes.names(), [""; 0]);
        for ino in more.into_iter().chain([a, a, b, version]) {
            inodes.forget(ino, 1);
        }
        assert_eq!(inodes.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_can_stand_for_a_version_then_for_its_edit_and_the_new_version() {
        let inodes = Inodes::new(Prefix::default());
        let (before, after) = (version("1"), version("2"));
        let (ino, _) = inodes.file(ROOT, &before, Expiry::Never, None);
        let edit = draft("k");
        assert!(inodes.rebind(ino, Node::Pending(edit.clone())));
        assert_eq!(inodes.pending(ROOT, &edit), ino);
        let (other, _) = inodes.file(ROOT, &before, Expiry::Never, None);
        assert_ne!(other, ino, "the version that is edited has another number meanwhile");
        let file = Arc::new(File::new(after.clone(), Expiry::Never, None));
        assert!(inodes.rebind(ino, Node::File(file.clone())));
        let (found, same) = inodes.file(ROOT, &after, Expiry::Never, None);
        assert!(found == ino && Arc::ptr_eq(&file, &same));
        assert_eq!(inodes.known_number_of_file(&after), Some(ino));
        inodes.forget(ino, 3);
        inodes.forget(other, 1);
        assert_eq!((inodes.count(), inodes.known_number_of_file(&after)), (1, None));
        assert!(!inodes.rebind(ino, Node::File(file)), "the kernel has forgotten it");
    }

    #[test]
    fn numbers_live_until_the_last_reference_is_forgotten() {
        let inodes = Inodes::new(Prefix::default());
        let d = inodes.directory(ROOT, &Prefix::new("d"));
        assert_eq!(d, inodes.directory(ROOT, &Prefix::new("d")));
        inodes.forget(d, 1);
        assert!(inodes.get(d).is_some());
        inodes.forget(d, 5);
        assert!(inodes.get(d).is_none());
        inodes.forget(ROOT, 99);
        assert!(inodes.get(ROOT).is_some());
        assert_eq!(inodes.count(), 1);
    }
}
