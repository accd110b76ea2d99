//! The inode table: what each number stands for, and which names to invalidate next. Never blocks.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::idle::{Kind, Lines};
use super::{Node, ROOT};
use crate::name::{self, Prefix};
use crate::pending::Pending;
use crate::store::Version;

/// In-use inodes examined before the lock of the table is released for a while.
const LOOKS: usize = 1024;

/// How long to wait before a name is tried again whose directory has a request in flight.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Slot {
    pub(super) node: Node,
    /// The lookup count of the kernel: replies with this inode, minus FORGETs.
    pub(super) lookups: u64,
    /// Its directory; for the root, the root itself.
    pub(super) parent: u64,
    /// Known inodes in this directory: the kernel keeps a directory while it has children.
    pub(super) children: u32,
    /// Requests in flight in it, for which the kernel holds its lock (`i_rwsem`).
    pub(super) working: u32,
    pub(super) kind: Kind,
    /// Its name was invalidated, and it has not been used since.
    pub(super) asked: bool,
    /// Its name must be invalidated.
    pub(super) doubted: bool,
}

pub(super) struct Table {
    pub(super) slots: HashMap<u64, Slot>,
    /// How many numbers there are.
    pub(super) numbers: u64,
    /// Inodes that took another number after a collision, by the number of their hash.
    pub(super) displaced: HashMap<u64, Vec<u64>>,
    /// All inodes except the root and those whose name was invalidated.
    pub(super) lines: Lines,
    /// Inodes whose names must be invalidated, whatever their age.
    pub(super) doubted: VecDeque<u64>,
}

/// A directory and a name in it to invalidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    pub parent: u64,
    pub name: String,
}

/// What to do next about the names the kernel knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Drop(Idle),
    /// Nothing yet: look again at this time.
    At(Instant),
    Nothing,
}

pub(super) fn hash_of_file(hasher: &RandomState, version: &Version) -> u64 {
    hasher.hash_one((0u8, version))
}

pub(super) fn hash_of_directory(hasher: &RandomState, prefix: &Prefix) -> u64 {
    hasher.hash_one((1u8, prefix))
}

pub(super) fn hash_of_pending(hasher: &RandomState, pending: &Pending) -> u64 {
    hasher.hash_one((2u8, pending.serial))
}

fn hash_of(hasher: &RandomState, node: &Node) -> u64 {
    match node {
        Node::File(file) => hash_of_file(hasher, &file.version),
        Node::Directory(prefix) => hash_of_directory(hasher, prefix),
        Node::Pending(pending) => hash_of_pending(hasher, pending),
    }
}

pub(super) fn is_directory(node: &Node, prefix: &Prefix) -> bool {
    matches!(node, Node::Directory(known) if known == prefix)
}

fn kind_of(node: &Node) -> Kind {
    match node {
        Node::Directory(_) => Kind::Directory,
        Node::File(file) if file.kernel.was_opened() => Kind::Opened,
        Node::File(_) => Kind::Unopened,
        // Creating it opens it.
        Node::Pending(_) => Kind::Opened,
    }
}

impl Slot {
    pub(super) fn new(node: Node, parent: u64) -> Slot {
        let kind = kind_of(&node);
        Slot {
            node,
            lookups: 1,
            parent,
            children: 0,
            working: 0,
            kind,
            asked: false,
            doubted: false,
        }
    }

    /// Whether to keep its name: the kernel would keep the inode anyway, or look it up again at
    /// once.
    pub(super) fn is_in_use(&self) -> bool {
        match &self.node {
            Node::Directory(_) => self.children > 0 || self.working > 0,
            Node::File(file) => file.kernel.is_open(),
            // What was written is stored nowhere else yet.
            Node::Pending(_) => true,
        }
    }

    fn name(&self) -> String {
        match &self.node {
            Node::File(file) => name::last(&file.version.key).to_owned(),
            Node::Pending(pending) => name::last(&pending.key()).to_owned(),
            Node::Directory(prefix) => name::last(prefix.as_str().trim_end_matches('/')).to_owned(),
        }
    }
}

impl Table {
    /// The number that this hash stands for, unless it is taken.
    pub(super) fn home(&self, hash: u64) -> u64 {
        ROOT + 1 + hash % self.numbers
    }

    pub(super) fn find<T>(&self, home: u64, same: impl Fn(&Node) -> Option<T>) -> Option<(u64, T)> {
        let at = |ino: u64| Some((ino, same(&self.slots.get(&ino)?.node)?));
        at(home).or_else(|| self.displaced.get(&home)?.iter().find_map(|ino| at(*ino)))
    }

    pub(super) fn number(&self, hash: u64, same: impl Fn(&Node) -> Option<()>) -> u64 {
        let home = self.home(hash);
        self.find(home, same).map_or(home, |(ino, ())| ino)
    }

    pub(super) fn look_up<T>(
        &mut self,
        parent: u64,
        hash: u64,
        same: impl Fn(&Node) -> Option<T>,
        fresh: impl FnOnce() -> (Node, T),
    ) -> (u64, T) {
        let home = self.home(hash);
        if let Some((ino, found)) = self.find(home, same) {
            if let Some(slot) = self.slots.get_mut(&ino) {
                slot.lookups += 1;
            }
            return (ino, found);
        }
        let mut ino = home;
        while self.slots.contains_key(&ino) {
            ino = self.home(ino - ROOT);
        }
        if ino != home {
            self.displaced.entry(home).or_default().push(ino);
        }
        let (node, found) = fresh();
        self.slots.insert(ino, Slot::new(node, parent));
        self.joins(parent);
        (ino, found)
    }

    fn joins(&mut self, parent: u64) {
        if let Some(parent) = self.slots.get_mut(&parent) {
            parent.children += 1;
        }
    }

    fn leaves(&mut self, parent: u64) {
        if let Some(parent) = self.slots.get_mut(&parent) {
            parent.children = parent.children.saturating_sub(1);
        }
    }

    /// See [`super::Inodes::moved`].
    pub(super) fn moved(&mut self, ino: u64, parent: u64) {
        let Some(slot) = self.slots.get_mut(&ino).filter(|_| ino != ROOT) else { return };
        let before = std::mem::replace(&mut slot.parent, parent);
        self.leaves(before);
        self.joins(parent);
    }

    /// Records a use of an inode. Returns whether its kind now exceeds its limit.
    pub(super) fn meet(&mut self, ino: u64, now: Instant) -> bool {
        let Some(slot) = self.slots.get_mut(&ino).filter(|_| ino != ROOT) else { return false };
        slot.asked = false;
        self.lines.meet(slot.kind, ino, now)
    }

    pub(super) fn remove(&mut self, ino: u64, hasher: &RandomState) {
        let Some(slot) = self.slots.remove(&ino) else { return };
        self.lines.leave(slot.kind, ino);
        self.leaves(slot.parent);
        self.unlist(ino, &slot.node, hasher);
    }

    /// See [`super::Inodes::rebind`].
    pub(super) fn rebind(&mut self, ino: u64, node: Node, hasher: &RandomState) -> bool {
        let home = self.home(hash_of(hasher, &node));
        let Some(slot) = self.slots.get_mut(&ino).filter(|_| ino != ROOT) else { return false };
        let kind = kind_of(&node);
        if kind != slot.kind && !slot.asked {
            self.lines.leave(slot.kind, ino);
        }
        slot.kind = kind;
        let before = std::mem::replace(&mut slot.node, node);
        self.unlist(ino, &before, hasher);
        if ino != home {
            self.displaced.entry(home).or_default().push(ino);
        }
        true
    }

    /// Takes a number off the list of those that do not have the number of their hash.
    fn unlist(&mut self, ino: u64, node: &Node, hasher: &RandomState) {
        let home = self.home(hash_of(hasher, node));
        if ino != home
            && let Entry::Occupied(mut displaced) = self.displaced.entry(home)
        {
            displaced.get_mut().retain(|other| *other != ino);
            if displaced.get().is_empty() {
                displaced.remove();
            }
        }
    }

    pub(super) fn next(&mut self, now: Instant) -> Next {
        if let Some(idle) = self.next_doubted() {
            return Next::Drop(idle);
        }
        let mut soonest = (!self.doubted.is_empty()).then(|| now + PAUSE);
        let mut looks = LOOKS;
        for kind in Kind::ALL {
            while let Some((ino, from)) = self.lines.next(kind) {
                // Let others take the lock.
                let from = if looks == 0 { from.max(now + Duration::from_millis(1)) } else { from };
                if now < from {
                    soonest = Some(soonest.map_or(from, |at| at.min(from)));
                    break;
                }
                looks -= 1;
                match self.slots.get(&ino) {
                    Some(slot) if slot.is_in_use() || self.is_worked_in(slot.parent) => {
                        // Counts as used just now.
                        self.lines.meet(kind, ino, now);
                    }
                    Some(slot) => {
                        let idle = Idle { parent: slot.parent, name: slot.name() };
                        self.lines.leave(kind, ino);
                        if let Some(slot) = self.slots.get_mut(&ino) {
                            slot.asked = true;
                        }
                        return Next::Drop(idle);
                    }
                    None => self.lines.leave(kind, ino),
                }
            }
        }
        soonest.map_or(Next::Nothing, Next::At)
    }

    fn next_doubted(&mut self) -> Option<Idle> {
        for _ in 0..self.doubted.len() {
            let ino = self.doubted.pop_front()?;
            // The kernel has forgotten those that are gone from the table.
            let Some(slot) = self.slots.get(&ino) else { continue };
            if self.is_worked_in(slot.parent) {
                self.doubted.push_back(ino);
                continue;
            }
            let idle = Idle { parent: slot.parent, name: slot.name() };
            if let Some(slot) = self.slots.get_mut(&ino) {
                slot.doubted = false;
            }
            return Some(idle);
        }
        None
    }

    fn is_worked_in(&self, directory: u64) -> bool {
        self.slots.get(&directory).is_some_and(|slot| slot.working > 0)
    }
}
