//! Names that the store does not have: pending files, and directories whose last file this mount
//! has deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::inode::File;
use crate::name::Prefix;
use crate::pending::{Access, OpenPending, Pending};

/// A pending file under its name.
#[derive(Clone, Debug)]
pub struct Draft {
    pub pending: Arc<Pending>,
    /// The version that it edits or replaces, if this mount knew one.
    pub origin: Option<Arc<File>>,
    /// The inode number of that version, if its readers keep its inode: an open file that is edited in
    /// place has the number of the one that is read, as nginx compares them.
    pub number: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub struct Overlay(Mutex<Names>);

#[derive(Default)]
struct Names {
    /// By key.
    drafts: BTreeMap<Arc<str>, Draft>,
    /// Directories to be shown although no key lies below them, each ending in `/`.
    emptied: BTreeSet<String>,
}

/// What the overlay shows in a directory.
#[derive(Clone, Debug)]
pub enum Shown {
    File(Arc<Pending>),
    Directory,
}

impl Overlay {
    pub fn draft(&self, key: &str) -> Option<Draft> {
        self.names().drafts.get(key).cloned()
    }

    pub fn insert(&self, draft: Draft) {
        let key = draft.pending.key();
        self.names().drafts.insert(key, draft);
    }

    /// Opens a pending file for writing, if it has its name still: what was settled is opened as the
    /// version that it has become.
    pub fn open(&self, pending: &Arc<Pending>) -> Option<OpenPending> {
        let names = self.names();
        let draft = names.drafts.get(&pending.key());
        let it = draft.filter(|draft| Arc::ptr_eq(&draft.pending, pending))?;
        Some(OpenPending::new(it.pending.clone(), Access::Write))
    }

    /// Takes a name out, if this pending file has it and nobody writes to it.
    pub fn settle(&self, pending: &Arc<Pending>) -> Option<Draft> {
        let mut names = self.names();
        let key = pending.key();
        let draft = names.drafts.get(&key)?;
        if !Arc::ptr_eq(&draft.pending, pending) || pending.has_writers() {
            return None;
        }
        names.drafts.remove(&key)
    }

    /// Removes a name, if this pending file has it.
    pub fn remove(&self, key: &str, pending: &Arc<Pending>) -> Option<Draft> {
        let mut names = self.names();
        names.drafts.get(key).filter(|draft| Arc::ptr_eq(&draft.pending, pending))?;
        names.drafts.remove(key)
    }

    /// Removes a name, whatever file has it.
    pub fn take(&self, key: &str) -> Option<Draft> {
        self.names().drafts.remove(key)
    }

    /// All pending files.
    pub fn drafts(&self) -> Vec<Draft> {
        self.names().drafts.values().cloned().collect()
    }

    /// Keeps a directory visible after a file in it was deleted.
    pub fn keep_directory(&self, prefix: &Prefix) {
        if !prefix.as_str().is_empty() {
            self.names().emptied.insert(prefix.as_str().to_owned());
        }
    }

    /// Records that the directory was removed.
    pub fn remove_directory(&self, prefix: &Prefix) {
        self.names().emptied.remove(prefix.as_str());
    }

    /// Whether a pending file lies below.
    pub fn has_drafts_below(&self, prefix: &Prefix) -> bool {
        self.names().below(prefix.as_str()).next().is_some()
    }

    /// Whether a directory must be shown, even if the store has no key below it.
    pub fn is_directory(&self, prefix: &Prefix) -> bool {
        let names = self.names();
        let prefix = prefix.as_str();
        let emptied = names.emptied.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        names.below(prefix).next().is_some()
            || emptied.take(1).any(|directory| directory.starts_with(prefix))
    }

    /// The names to show in a directory, in order.
    pub fn names_in(&self, prefix: &Prefix) -> Vec<(String, Shown)> {
        let names = self.names();
        let prefix = prefix.as_str();
        let mut shown = BTreeMap::new();
        let emptied = names.emptied.range::<str, _>((Bound::Excluded(prefix), Bound::Unbounded));
        for directory in emptied.take_while(|directory| directory.starts_with(prefix)) {
            if let Some((name, _)) = directory[prefix.len()..].split_once('/') {
                shown.insert(name.to_owned(), Shown::Directory);
            }
        }
        for (key, draft) in names.below(prefix) {
            match key[prefix.len()..].split_once('/') {
                Some((name, _)) => {
                    shown.entry(name.to_owned()).or_insert(Shown::Directory);
                }
                None => {
                    let name = key[prefix.len()..].to_owned();
                    shown.insert(name, Shown::File(draft.pending.clone()));
                }
            }
        }
        shown.into_iter().collect()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Draft)> {
        let from = self.drafts.range::<str, _>((Bound::Excluded(prefix), Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix))
    }
}
