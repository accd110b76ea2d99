//! A small disk, that can be filled up or made read-only.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::mount::detach;
use super::tools::attempt;

/// A tmpfs on its own folder; mounting it needs root.
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// `size` as mount(8) takes it.
    pub fn new(size: &str) -> Tmpfs {
        let tmpfs = Tmpfs(tempfile::tempdir().expect("a folder"));
        tmpfs.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        tmpfs
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn remount(&self, how: &str) {
        self.mount(&["-o", &format!("remount,{how}")]);
    }

    /// Fills all free pages; returns the file that does so.
    pub fn fill_up(&self) -> PathBuf {
        attempt(self.path(), "cat /dev/zero > ballast");
        self.path().join("ballast")
    }

    fn mount(&self, args: &[&str]) {
        let args = args.iter().map(OsStr::new).chain([self.path().as_os_str()]);
        let output = Command::new("mount").args(args).output().expect("mount(8)");
        assert!(output.status.success(), "mount(8) as root: {output:?}");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        detach(self.path());
    }
}
