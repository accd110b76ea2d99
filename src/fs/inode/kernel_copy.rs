//! How much of a version's content this mount has given to the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// How much of the content has been given to the kernel, which may have dropped it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    Nothing,
    /// The file has been opened: content is on its way.
    Opened,
    /// The kernel may answer some reads by itself.
    Some,
    /// The kernel may answer all of them.
    All,
}

/// See the module.
#[derive(Debug)]
pub struct KernelCopy {
    extent: AtomicU8,
    handles: AtomicUsize,
    /// A file that is being read is to be edited: the next lookup gets another inode, whose pages
    /// may change.
    superseded: AtomicBool,
}

impl Default for KernelCopy {
    fn default() -> KernelCopy {
        KernelCopy {
            extent: AtomicU8::new(Extent::Nothing as u8),
            handles: AtomicUsize::new(0),
            superseded: AtomicBool::new(false),
        }
    }
}

impl KernelCopy {
    /// What was written through the kernel: it has all of the content.
    pub fn written() -> KernelCopy {
        let copy = KernelCopy::default();
        copy.takes_all();
        copy
    }

    fn has(&self, least: Extent) -> bool {
        self.extent.load(Ordering::Relaxed) >= least as u8
    }

    /// Raises the extent. Returns whether it was lower before.
    fn grows_to(&self, extent: Extent) -> bool {
        self.extent.fetch_max(extent as u8, Ordering::Relaxed) < extent as u8
    }

    /// Records an open. Returns whether it is the first one.
    pub fn opens(&self) -> bool {
        self.grows_to(Extent::Opened)
    }

    /// Records that some of the content was given to the kernel.
    pub fn takes_some(&self) {
        self.grows_to(Extent::Some);
    }

    /// Records that all of it was. Returns whether this is the first time.
    pub fn takes_all(&self) -> bool {
        self.grows_to(Extent::All)
    }

    /// The version was replaced or deleted: what the kernel has is not relied on.
    pub fn is_doubtful(&self) {
        self.extent.fetch_min(Extent::Opened as u8, Ordering::Relaxed);
    }

    pub fn was_opened(&self) -> bool {
        self.has(Extent::Opened)
    }

    pub fn has_some(&self) -> bool {
        self.has(Extent::Some)
    }

    pub fn has_all(&self) -> bool {
        self.has(Extent::All)
    }

    /// Has lookups of this version get another inode from now on.
    pub fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
    }

    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }

    /// Whether a handle is open.
    pub fn is_open(&self) -> bool {
        self.handles.load(Ordering::Relaxed) > 0
    }
}

/// Counts one open handle of a file until dropped.
pub struct Opened<T: AsRef<KernelCopy>>(Arc<T>);

impl<T: AsRef<KernelCopy>> Opened<T> {
    pub fn new(of: Arc<T>) -> Opened<T> {
        (*of).as_ref().handles.fetch_add(1, Ordering::Relaxed);
        Opened(of)
    }

    pub fn get(&self) -> &T {
        &self.0
    }
}

impl<T: AsRef<KernelCopy>> Drop for Opened<T> {
    fn drop(&mut self) {
        (*self.0).as_ref().handles.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extent_grows_and_is_lowered_by_doubt() {
        let copy = KernelCopy::default();
        assert!(!copy.was_opened() && copy.opens() && !copy.opens() && !copy.has_some());
        copy.takes_some();
        assert!(copy.has_some() && !copy.has_all() && copy.takes_all() && !copy.takes_all());
        copy.is_doubtful();
        assert!(copy.was_opened() && !copy.has_some() && copy.takes_all());
    }
}
