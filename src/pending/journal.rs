//! The multipart uploads in progress, on disk, so that the next mount of the bucket can abort those
//! left by a crash; also the requests for new ones, whose answers the crash may have prevented.
//!
//! Each mount has its own file, and a lock on it (flock(2)) that ends with the process, however it
//! ends. A file without a lock has no owner any more: the next mount locks it and takes over its
//! uploads, so that only one of several mounts does. Files of other users or buckets are left
//! alone, and no link is followed, since all users may be able to write to the directory, such as
//! /var/tmp.
//!
//! Owns these files. Knows no store: the caller aborts the uploads. All calls block on the disk.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::store::write::Upload;

/// A file longer than this is written anew without the uploads that have ended, so that it does not
/// grow without limit if one is always in progress.
const LONG: u64 = 1 << 20;

/// The first line of a file. A file with another first line belongs to another version of expirefs.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// The bucket of the uploads, and its endpoint.
    of: String,
}

const FORMAT: u32 = 1;

/// How often another mount that starts at the same moment may win.
const TRIES: usize = 100;

/// A later line. Lines are appended; a line truncated by a crash is ignored. It has the id of an upload,
/// or the time of a creation.
#[derive(Serialize, Deserialize)]
struct Line {
    event: Event,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    Began,
    Ended,
}

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Upload(Upload),
    Creation(Creation),
}

/// A CreateMultipartUpload whose answer is not known. It may have created an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    pub key: Arc<str>,
    /// When it was sent, by the store's clock, in seconds since 1970.
    pub at: u64,
}

/// The uploads of one mount. Holds one descriptor.
///
/// Nothing is synced to the disk: the file outlives this process, but perhaps not this host.
#[derive(Debug)]
pub struct Journal {
    place: Place,
    /// Held while the file is written, so that its lines are in the order of `open`.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    own: Own,
    /// Entries of the file that have not ended. There are few, so a linear search is enough.
    open: Vec<Entry>,
}

impl Journal {
    /// Begins a journal in this directory, and takes over the entries of journals whose owner has
    /// died. They stay recorded until [`Journal::ended`]. `identity` names bucket and endpoint.
    ///
    /// Uses one more descriptor until it returns.
    ///
    /// # Errors
    /// If the directory cannot be read, or no file in it can be written or locked.
    pub fn open(dir: &Path, identity: &str) -> io::Result<(Journal, Vec<Entry>)> {
        let place = Place::new(dir, identity);
        let mut state = State { own: place.create(&[])?, open: Vec::new() };
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // Our own file is locked, like that of any live mount.
            let is_one = entry.file_name().to_string_lossy().starts_with(&place.prefix);
            let Some(orphan) = is_one.then(|| place.orphan(&entry.path())).flatten() else {
                continue;
            };
            // A crash after the first of these lines leaves some of them in two files.
            for entry in orphan.open {
                if !state.open.contains(&entry) {
                    state.began(&entry)?;
                }
            }
            // Its lock is held until it is removed. If it stays, its uploads are aborted twice.
            let _ = fs::remove_file(entry.path());
            drop(orphan.file);
        }
        let left = state.open.clone();
        Ok((Journal { place, state: Mutex::new(state) }, left))
    }

    /// Records a creation before it is sent, or an upload before its first part is.
    ///
    /// # Errors
    /// If the file cannot be written. Nothing is recorded then.
    pub fn began(&self, entry: &Entry) -> io::Result<()> {
        let mut state = self.state();
        // systemd-tmpfiles removes from /var/tmp what has not been written to for 30 days.
        if state.own.is_gone() {
            state.own = self.place.create(&state.open)?;
        }
        state.began(entry)
    }

    /// Records that an upload is complete or aborted, or that what a creation has led to is known.
    ///
    /// # Errors
    /// If the file cannot be written. Then the next mount aborts the upload once more, which is
    /// harmless.
    pub fn ended(&self, entry: &Entry) -> io::Result<()> {
        let mut state = self.state();
        let Some(index) = state.open.iter().position(|open| open == entry) else {
            return Ok(());
        };
        state.open.swap_remove(index);
        if state.open.is_empty() {
            return state.own.truncate();
        }
        state.own.append(Event::Ended, entry)?;
        if state.own.is_long() {
            let new = self.place.create(&state.open)?;
            std::mem::replace(&mut state.own, new).remove();
        }
        Ok(())
    }

    /// Removes the file, unless it has entries that have not ended: those are left to the next mount.
    /// What is recorded afterwards gets a new file.
    pub fn close(&self) {
        let state = self.state();
        if state.open.is_empty() {
            state.own.remove();
        }
    }

    /// The entries of a key that have not ended.
    pub fn open_of(&self, key: &str) -> Vec<Entry> {
        self.state().open.iter().filter(|entry| entry.key() == key).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn began(&mut self, entry: &Entry) -> io::Result<()> {
        self.own.append(Event::Began, entry)?;
        self.open.push(entry.clone());
        Ok(())
    }
}

impl Entry {
    fn key(&self) -> &str {
        match self {
            Entry::Upload(upload) => &upload.key,
            Entry::Creation(creation) => &creation.key,
        }
    }
}

impl From<&Upload> for Entry {
    fn from(upload: &Upload) -> Entry {
        Entry::Upload(upload.clone())
    }
}

impl From<&Creation> for Entry {
    fn from(creation: &Creation) -> Entry {
        Entry::Creation(creation.clone())
    }
}

impl Line {
    fn new(event: Event, entry: &Entry) -> Line {
        let (id, at) = match entry {
            Entry::Upload(upload) => (Some(upload.id.clone()), None),
            Entry::Creation(creation) => (None, Some(creation.at)),
        };
        Line { event, key: entry.key().to_owned(), id, at }
    }

    /// `None`: a line of a later version.
    fn entry(self) -> Option<Entry> {
        let key = self.key.into();
        match (self.id, self.at) {
            (Some(id), _) => Some(Entry::Upload(Upload { key, id })),
            (None, Some(at)) => Some(Entry::Creation(Creation { key, at })),
            (None, None) => None,
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where the journals of a bucket are.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    identity: String,
    /// The prefix of their names: a hash, since the identity may be too long for a name.
    prefix: String,
}

impl Place {
    fn new(dir: &Path, identity: &str) -> Place {
        let hash = Sha256::digest(identity);
        let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let prefix = format!("expirefs-uploads-{hash}-");
        Place { dir: dir.to_owned(), identity: identity.to_owned(), prefix }
    }

    /// Makes a file, locks it and records these entries in it.
    fn create(&self, open: &[Entry]) -> io::Result<Own> {
        // A mount that starts at this moment may find the file before it is locked, and remove it.
        let locked = (0..TRIES).find_map(|_| self.create_and_lock().transpose());
        let mut own = locked.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
        let header = Header { format: FORMAT, of: self.identity.clone() };
        let written = own.write(&header).and_then(|()| {
            own.header = own.length;
            open.iter().try_for_each(|entry| own.append(Event::Began, entry))
        });
        if let Err(error) = written {
            own.remove();
            return Err(error);
        }
        own.compact = own.length;
        Ok(own)
    }

    /// An empty file, locked; `None` if another mount was faster.
    fn create_and_lock(&self) -> io::Result<Option<Own>> {
        let path = self.dir.join(format!("{}{:016x}", self.prefix, random()));
        // O_EXCL follows no link.
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        let locked = file.try_lock();
        let own = Own { path, file, length: 0, header: 0, compact: 0 };
        match locked {
            Ok(()) if own.is_gone() => Ok(None),
            Ok(()) => Ok(Some(own)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                own.remove();
                Err(error)
            }
        }
    }

    /// A journal of this bucket and user that has lost its owner, locked.
    fn orphan(&self, path: &Path) -> Option<Orphan> {
        let mut options = OpenOptions::new();
        // NFS locks only what is open for writing. Without O_NONBLOCK a FIFO could keep us waiting.
        options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(path).ok()?;
        let meta = file.metadata().ok()?;
        let is_ours =
            meta.is_file() && meta.uid() == Uid::effective().as_raw() && meta.mode() & 0o077 == 0;
        // Another mount may have taken it over between the open and the lock.
        if !is_ours || file.try_lock().is_err() || is_gone(&file) {
            return None;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().unwrap_or_default();
        // Its owner died before the first line was written, so it had begun no upload.
        if header.ends_with(b"\n") {
            let header: Header = serde_json::from_slice(header).ok()?;
            if header != (Header { format: FORMAT, of: self.identity.clone() }) {
                return None;
            }
        }
        let mut open = Vec::new();
        for line in lines {
            let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
            let event = line.event;
            let Some(entry) = line.entry() else { continue };
            match event {
                Event::Began => open.push(entry),
                Event::Ended => {
                    // Two creations of a key may have been sent in one second.
                    if let Some(index) = open.iter().position(|other| *other == entry) {
                        open.remove(index);
                    }
                }
            }
        }
        Some(Orphan { file, open })
    }
}

struct Orphan {
    /// Holds the lock.
    file: File,
    open: Vec<Entry>,
}

/// The file of this mount.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    /// Locked while it is open.
    file: File,
    length: u64,
    /// The length of its first line.
    header: u64,
    /// Its length when it was made.
    compact: u64,
}

impl Own {
    fn append(&mut self, event: Event, entry: &Entry) -> io::Result<()> {
        self.write(&Line::new(event, entry))
    }

    /// Appends a line, by one write(2).
    fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // The next line must not follow half of this one.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Removes all lines but the first.
    fn truncate(&mut self) -> io::Result<()> {
        self.file.set_len(self.header)?;
        self.length = self.header;
        Ok(())
    }

    fn is_long(&self) -> bool {
        self.length > LONG.max(2 * self.compact)
    }

    fn is_gone(&self) -> bool {
        is_gone(&self.file)
    }

    fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_gone(file: &File) -> bool {
    file.metadata().is_ok_and(|meta| meta.nlink() == 0)
}

/// For a name that cannot be taken by others.
fn random() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "names of files in a directory that others may write to"
    )]
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::thread;

    use nix::sys::stat::Mode;
    use tempfile::TempDir;

    use super::*;

    const BUCKET: &str = "bucket at https://store";

    /// Each fourth is a creation.
    fn upload(n: usize) -> Entry {
        let key = format!("d/ü {n:02}\n\"").into();
        match n % 4 {
            3 => Entry::Creation(Creation { key, at: n as u64 }),
            _ => Entry::Upload(Upload { key, id: format!("id {n:02}") }),
        }
    }

    fn uploads(which: impl IntoIterator<Item = usize>) -> Vec<Entry> {
        which.into_iter().map(upload).collect()
    }

    fn dir() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn open(dir: &TempDir) -> (Journal, Vec<Entry>) {
        Journal::open(dir.path(), BUCKET).unwrap()
    }

    /// A journal of these uploads whose owner has died. (Dropped with uploads in progress it leaves
    /// the same as a crash: its file, without a lock.)
    fn orphan(dir: &TempDir, which: impl IntoIterator<Item = usize>) {
        let place = Place::new(dir.path(), BUCKET);
        drop(place.create(&uploads(which)).unwrap());
    }

    fn files(dir: &TempDir) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn uploads_left_by_a_crash_are_taken_over_by_the_next_mount() {
        let dir = dir();
        let (journal, left) = open(&dir);
        assert_eq!(left, []);
        (0..4).for_each(|n| journal.began(&upload(n)).unwrap());
        [1, 3, 9].iter().for_each(|n| journal.ended(&upload(*n)).unwrap());
        drop(journal);
        let (journal, left) = open(&dir);
        assert_eq!(left, uploads([0, 2]));
        assert_eq!(files(&dir).len(), 1, "taken over");
        // Until they have ended they are passed on.
        journal.ended(&upload(0)).unwrap();
        drop(journal);
        let (journal, left) = open(&dir);
        assert_eq!(left, uploads([2]));
        journal.ended(&upload(2)).unwrap();
        drop(journal);
        assert_eq!(files(&dir), Vec::<PathBuf>::new(), "all have ended");
    }

    #[test]
    fn a_truncated_file_has_the_lines_before_the_cut() {
        let source = dir();
        let (journal, _) = open(&source);
        let mut noted = vec![(0, vec![])];
        for (began, n) in [(true, 0), (true, 1), (false, 0), (true, 3), (false, 1), (false, 3)] {
            match began {
                true => journal.began(&upload(n)).unwrap(),
                false => journal.ended(&upload(n)).unwrap(),
            }
            let mut open = journal.state().open.clone();
            open.sort_by(|a, b| a.key().cmp(b.key()));
            noted.push((journal.state().own.length, open));
        }
        let path = files(&source).remove(0);
        let bytes = fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            let dir = dir();
            let copy = dir.path().join(path.file_name().unwrap());
            fs::write(&copy, &bytes[..length]).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
            // A line counts once it is complete, even without its line break.
            let (_, wanted) = noted.iter().rfind(|(end, _)| *end <= length as u64 + 1).unwrap();
            assert_eq!(&open(&dir).1, wanted, "{length} bytes");
        }
    }

    #[test]
    fn a_journal_in_use_is_left_alone() {
        let dir = dir();
        let (first, _) = open(&dir);
        first.began(&upload(1)).unwrap();
        let (second, left) = open(&dir);
        assert_eq!(left, []);
        drop((first, second));
        assert_eq!(open(&dir).1, uploads([1]));
    }

    #[test]
    fn only_one_of_concurrent_mounts_takes_an_upload_over() {
        for _ in 0..20 {
            let dir = dir();
            (0..10).for_each(|n| orphan(&dir, [2 * n, 2 * n + 1]));
            let mounts: Vec<_> = thread::scope(|scope| {
                let mounts: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&dir))).collect();
                mounts.into_iter().map(|mount| mount.join().unwrap()).collect()
            });
            let mut left: Vec<_> = mounts.iter().flat_map(|(_, left)| left).collect();
            left.sort_by(|a, b| a.key().cmp(b.key()));
            assert_eq!(left, uploads(0..20).iter().collect::<Vec<_>>());
            assert_eq!(files(&dir).len(), mounts.len());
        }
    }

    #[test]
    fn other_buckets_and_versions_are_left_alone() {
        let dir = dir();
        let (other, _) = Journal::open(dir.path(), "other at https://store").unwrap();
        other.began(&upload(1)).unwrap();
        drop(other);
        let place = Place::new(dir.path(), BUCKET);
        for (n, header) in ["{\"format\":2,\"of\":\"bucket at https://store\"}\n", "else\n"]
            .into_iter()
            .enumerate()
        {
            let path = dir.path().join(format!("{}{n}", place.prefix));
            fs::write(&path, header).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let before = files(&dir).len();
        assert_eq!(open(&dir).1, []);
        assert_eq!(files(&dir).len(), before);
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let (dir, elsewhere) = (dir(), dir());
        let name =
            |n: &str| dir.path().join(format!("{}{n}", Place::new(dir.path(), BUCKET).prefix));
        orphan(&elsewhere, [1]);
        let target = files(&elsewhere).remove(0);
        symlink(&target, name("link")).unwrap();
        symlink("nowhere", name("dangling")).unwrap();
        fs::create_dir(name("directory")).unwrap();
        nix::unistd::mkfifo(&name("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        fs::copy(&target, name("open to others")).unwrap();
        fs::set_permissions(name("open to others"), fs::Permissions::from_mode(0o640)).unwrap();
        let mut planted = 5;
        if Uid::effective().is_root() {
            fs::copy(&target, name("of another user")).unwrap();
            chown(name("of another user"), Some(1), None).unwrap();
            planted += 1;
        }
        let (journal, left) = open(&dir);
        assert_eq!((left, files(&dir).len()), (vec![], planted + 1));
        let own = journal.state().own.file.metadata().unwrap();
        assert_eq!(own.mode() & 0o777, 0o600);
        drop(journal);
        assert_eq!(files(&dir).len(), planted);
        assert_eq!(open(&elsewhere).1, uploads([1]), "the target of the link");
    }

    #[test]
    fn a_file_does_not_grow_without_limit() {
        let dir = dir();
        let (journal, _) = open(&dir);
        journal.began(&upload(0)).unwrap();
        let long = Entry::Upload(Upload { key: "x".repeat(1000).into(), id: "y".repeat(1000) });
        let mut longest = 0;
        for _ in 0..600 {
            journal.began(&long).unwrap();
            journal.ended(&long).unwrap();
            longest = longest.max(journal.state().own.length);
        }
        assert!((LONG - 5000..LONG + 5000).contains(&longest), "{longest}");
        assert_eq!(files(&dir), [journal.state().own.path.clone()]);
        drop(journal);
        let (journal, left) = open(&dir);
        assert_eq!(left, uploads([0]));
        journal.ended(&upload(0)).unwrap();
        let own = &journal.state().own;
        assert_eq!(own.file.metadata().unwrap().len(), own.header);
    }

    #[test]
    fn a_closed_journal_leaves_no_file_and_can_be_written_to() {
        let dir = dir();
        let (journal, _) = open(&dir);
        journal.close();
        assert_eq!(files(&dir), Vec::<PathBuf>::new());
        journal.began(&upload(1)).unwrap();
        journal.close();
        assert_eq!(files(&dir).len(), 1, "an upload is open");
        drop(journal);
        assert_eq!(open(&dir).1, uploads([1]));
    }

    #[test]
    fn a_deleted_file_is_made_again() {
        let dir = dir();
        let (journal, _) = open(&dir);
        journal.began(&upload(1)).unwrap();
        fs::remove_file(&files(&dir)[0]).unwrap();
        journal.began(&upload(2)).unwrap();
        drop(journal);
        assert_eq!(open(&dir).1, uploads([1, 2]));
    }
}
