//! Reads a directory with the POSIX interface, which can seek to earlier positions.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::ptr::NonNull;

/// What opendir(3) returns. std's `read_dir` cannot seek.
pub struct DirStream(NonNull<libc::DIR>);

/// A position in a [`DirStream`], as telldir(3) returns it.
#[derive(Clone, Copy, Debug)]
pub struct Position(libc::c_long);

impl DirStream {
    pub fn open(path: &Path) -> io::Result<DirStream> {
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
        // SAFETY: `path` is a string that ends in NUL.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        NonNull::new(stream).map(DirStream).ok_or_else(io::Error::last_os_error)
    }

    /// The next name; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<OsString>> {
        // SAFETY: the stream is open; readdir(3) distinguishes an error from the end only by errno,
        // and the entry it returns is valid until the next call, which needs `self` again.
        unsafe {
            *libc::__errno_location() = 0;
            let entry = libc::readdir64(self.0.as_ptr());
            if entry.is_null() {
                return match io::Error::last_os_error() {
                    e if e.raw_os_error() == Some(0) => Ok(None),
                    e => Err(e),
                };
            }
            let name = CStr::from_ptr((*entry).d_name.as_ptr());
            Ok(Some(OsString::from_vec(name.to_bytes().to_vec())))
        }
    }

    /// The names from here to the end.
    pub fn rest(&mut self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        while let Some(name) = self.next()? {
            names.push(name);
        }
        Ok(names)
    }

    pub fn tell(&self) -> Position {
        // SAFETY: the stream is open.
        Position(unsafe { libc::telldir(self.0.as_ptr()) })
    }

    pub fn seek(&mut self, to: Position) {
        // SAFETY: the stream is open, and the position came from telldir(3).
        unsafe { libc::seekdir(self.0.as_ptr(), to.0) }
    }

    pub fn rewind(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0.as_ptr()) }
    }
}

impl Drop for DirStream {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and nobody uses it after this.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}
