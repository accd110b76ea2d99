//! Programs that write, over a store whose changes fail or whose answers are lost, against a model: what
//! a program is told agrees with what the store holds, and at each request of it, at which the mount may
//! crash, each key has a content that was meant to be committed under it. Rules W1 to W9 and W13 to W15.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use expirefs::bucket::honours::Honours;
use expirefs::error::{Error, Result};
use expirefs::expiry::{Ttl, http_date};
use expirefs::fs::Kind;
use expirefs::fs::change::Replace;
use expirefs::pending::journal::Journal;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngAlgorithm;

use super::memory::writes::{Changed, Fate};
use super::{MakeWriting, PART, Rig, SECOND, Write, pattern, this_process};

/// `e` is a file, or a directory.
const NAMES: [&str; 5] = ["a", "b", "d/c", "e", "e/f"];
const DIRECTORIES: [&str; 2] = ["d", "e"];

/// The values of the TTL attribute, in seconds.
const STAMPS: [u64; 2] = [600, 7200];

/// Targets are numbers, each modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Open(usize, How),
    /// Opened with O_TRUNC, written and closed.
    Make(usize, usize),
    Write(usize, usize, usize),
    Append(usize, usize),
    Truncate(usize, usize),
    Fsync(usize),
    /// close(2) of a duplicate of its descriptor.
    CloseDuplicate(usize),
    CloseInChild(usize),
    Close(usize),
    Rename(usize, usize, Replace),
    Unlink(usize),
    Mkdir(usize),
    Rmdir(usize),
    Stamp(usize, usize),
    /// Time passes, in seconds.
    Advance(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// O_CREAT | O_TRUNC
    Create,
    /// O_CREAT | O_EXCL
    CreateNew,
    /// Neither.
    Edit,
}

/// A file that is open, once or more often.
struct File {
    handles: Vec<Write>,
    /// None: its name is gone.
    key: Option<&'static str>,
    content: Vec<u8>,
    /// Since its last commit: a close commits it.
    written: bool,
    /// The TTL that was set.
    end: Option<Duration>,
    /// Since its last commit.
    stamped: bool,
    failed: Option<Error>,
    /// It edits a version of more than a part, which may be gone.
    large: bool,
    /// It may have failed, without a call that said so.
    doubtful: bool,
}

impl File {
    fn resize(&mut self, size: usize) {
        self.written = size > 0 && (self.written || self.content.len() != size);
        self.content.resize(size, 0);
    }
}

type Content = Option<Vec<u8>>;

struct Model {
    rig: Rig,
    ttl: Ttl,
    /// What the store holds.
    state: BTreeMap<&'static str, Content>,
    directories: BTreeSet<&'static str>,
    files: Vec<File>,
    /// All contents that a commit may have, by the key.
    meant: BTreeSet<(&'static str, Vec<u8>)>,
    writes: u8,
    faulty: bool,
}

impl Model {
    fn holding(&self, key: &str) -> Content {
        self.rig.store.content(key).map(|bytes| bytes.to_vec())
    }

    fn ends(&self, key: &str) -> Option<SystemTime> {
        let expires = self.rig.store.expires(key)?;
        Some(http_date(&expires, self.rig.clock.now()).expect("a date"))
    }

    /// What the store holds that has not expired.
    fn live(&self, key: &'static str) -> Content {
        let is_over = self.ends(key).is_some_and(|at| at <= self.rig.clock.now());
        self.state.get(key).cloned().flatten().filter(|_| !is_over)
    }

    /// The store holds what it did, but for these keys, which have one of these contents.
    fn changed(&mut self, step: &Step, changed: &[(&'static str, Vec<Content>)]) {
        for key in NAMES {
            let now = self.holding(key);
            let may = changed.iter().find(|(of, _)| *of == key).map(|(_, may)| may);
            let is_right = match may {
                Some(may) => may.contains(&now),
                None => self.state[key] == now,
            };
            let size = |content: &Content| content.as_ref().map(Vec::len);
            assert!(
                is_right,
                "{step:?}: {key} has {:?}, had {:?}",
                size(&now),
                size(&self.state[key])
            );
            self.state.insert(key, now);
        }
    }

    fn of(&self, key: &str) -> Option<usize> {
        self.files.iter().position(|file| file.key == Some(key))
    }

    /// Whether the directory of a key is there, and the key itself is none.
    fn may_be_a_file(&self, key: &str) -> bool {
        let there = |directory| self.directories.contains(directory);
        !there(key) && key.split_once('/').is_none_or(|(directory, _)| there(directory))
    }

    /// The file of the `i`th handle, and which of its handles that is.
    fn handle(&self, i: usize) -> Option<(usize, usize)> {
        let numbers = |(f, file): (usize, &File)| (0..file.handles.len()).map(move |h| (f, h));
        let all: Vec<_> = self.files.iter().enumerate().flat_map(numbers).collect();
        all.get(i % all.len().max(1)).copied()
    }

    /// A call on a file has failed: it will fail the same way from now on.
    fn failed(&mut self, f: usize, error: Error) {
        let file = &mut self.files[f];
        let is_gone = file.key.is_none() && file.large && error == Error::Stale;
        assert!(self.faulty || is_gone, "{error}");
        if let Some(before) = &file.failed {
            assert_eq!(before, &error, "W13");
        }
        file.failed = Some(error);
    }

    async fn open(&mut self, key: &'static str, how: How) {
        if !self.may_be_a_file(key) {
            return;
        }
        let (live, file) = (self.live(key), self.of(key));
        let is_there = live.is_some() || file.is_some();
        if let Some(f) = file {
            // A part may have failed since its last call. The name may be another file's then.
            self.close_in_child(f, 0).await;
            if self.files[f].failed.is_some() {
                return;
            }
        }
        let opened = match how {
            How::Edit | How::Create if is_there => self.rig.edit(key, how == How::Create).await,
            How::Edit => {
                assert_eq!(self.rig.edit(key, false).await.err(), Some(Error::NotFound), "{key}");
                return;
            }
            // The kernel answers it.
            How::CreateNew if is_there => {
                assert!(self.rig.look(key).await.unwrap().is_some(), "{key}: W6");
                return;
            }
            How::Create | How::CreateNew => self.rig.create(key, how == How::CreateNew).await,
        };
        let opened = opened.unwrap_or_else(|error| panic!("{key}: {error}"));
        match file {
            Some(f) => {
                let file = &mut self.files[f];
                file.handles.push(opened);
                if how == How::Create {
                    file.resize(0);
                }
            }
            None => {
                let content = live.filter(|_| how == How::Edit).unwrap_or_default();
                let large = content.len() > PART;
                self.files.push(File {
                    handles: vec![opened],
                    key: Some(key),
                    content,
                    written: false,
                    end: None,
                    stamped: false,
                    failed: None,
                    large,
                    doubtful: false,
                });
            }
        }
    }

    async fn write(&mut self, f: usize, h: usize, at: usize, length: usize) {
        self.writes = self.writes.wrapping_add(1);
        let bytes = pattern(self.writes, length);
        let file = &mut self.files[f];
        match self.rig.write(file.handles[h], at as u64, &bytes).await {
            Ok(()) => {
                assert_eq!(file.failed, None, "W13");
                let end = at + length;
                file.content.resize(file.content.len().max(end), 0);
                file.content[at..end].copy_from_slice(&bytes);
                file.written = true;
            }
            Err(error) => self.failed(f, error),
        }
    }

    async fn close_in_child(&mut self, f: usize, h: usize) {
        if let Err(error) = self.rig.fs.flush(self.files[f].handles[h].fh, 1).await {
            self.failed(f, error);
        }
    }

    /// An operation that may commit a file, and what its key may hold then.
    async fn commit(
        &mut self,
        step: &Step,
        (f, h): (usize, usize),
    ) -> Option<(&'static str, Vec<Content>)> {
        let File { key, content, written, end, stamped, failed, .. } = &self.files[f];
        let (key, content, written) = (*key, content.clone(), *written);
        let (end, stamped) = (*end, *stamped);
        let (handle, has_failed) = (self.files[f].handles[h], failed.is_some());
        let is_last = self.files[f].handles.len() == 1;
        let is_due = match step {
            Step::Fsync(_) => true,
            Step::Close(_) => written || is_last,
            _ => written,
        };
        if let Some(key) = key {
            self.meant.insert((key, content.clone()));
        }
        let untold = self.rig.writer().commits.untold.get();
        let changes = self.rig.store.log().len();
        let done = match step {
            Step::Fsync(_) => self.rig.fs.fsync(handle.fh).await,
            Step::Close(_) => self.rig.close(handle).await,
            _ => self.rig.fs.flush(handle.fh, this_process()).await,
        };
        let untold = self.rig.writer().commits.untold.get() > untold;
        assert!(!untold || self.faulty);
        let is_committed = done.is_ok() && !untold && is_due;
        let may = key.map(|key| {
            let before = self.state[key].clone();
            let may = match (done.is_ok() && !untold, is_due && !has_failed) {
                (true, true) => vec![Some(content)],
                (_, false) => vec![before],
                (false, true) => vec![before, Some(content)],
            };
            (key, may)
        });
        if let Some(key) = key.filter(|_| is_committed && !self.faulty) {
            self.ends_as_told(key, end, changes, stamped);
        }
        if is_committed {
            self.files[f].written = false;
            self.files[f].stamped = false;
        }
        if let Err(error) = done {
            self.failed(f, error);
        }
        if let Step::Close(_) = step {
            self.files[f].handles.remove(h);
            self.files.retain(|file| !file.handles.is_empty());
        }
        may
    }

    /// W1: what was committed since `changes` ends as the attribute or the rules say.
    fn ends_as_told(&self, key: &str, end: Option<Duration>, changes: usize, stamped: bool) {
        let is_whole = |changed: &Changed| match changed {
            Changed::Stored(of, _) if of == key => Some(true),
            Changed::Completed(upload, _) if *upload.key == *key => Some(false),
            _ => None,
        };
        let log = self.rig.store.log();
        let Some(is_whole) = log[changes..].iter().filter_map(is_whole).next_back() else {
            return assert!(!stamped, "W10: {key}");
        };
        let ttl = match (end, self.ttl) {
            (Some(ttl), _) | (None, Ttl::For(ttl)) => ttl,
            (None, Ttl::Never) => return assert_eq!(self.ends(key), None, "W1: {key}"),
        };
        let left = self.ends(key).map(|at| at.duration_since(self.rig.clock.now()).unwrap());
        let left = left.expect("W1: it ends");
        // The headers of an upload are those of its begin.
        let least = if is_whole { ttl } else { ttl / 2 };
        assert!((least..=ttl).contains(&left), "W1: {key} ends in {left:?} of {ttl:?}");
    }

    async fn rename(
        &mut self,
        from: &'static str,
        to: &'static str,
        replace: Replace,
    ) -> Vec<(&'static str, Vec<Content>)> {
        let (source, target) = (self.of(from), self.of(to));
        let (old, live, there) = (self.state[from].clone(), self.live(from), self.live(to));
        let (before, is_new) = (self.state[to].clone(), live.is_none());
        if from == to || !self.may_be_a_file(from) || !self.may_be_a_file(to) {
            return vec![];
        }
        if self.files.iter().any(|file| file.failed.is_some()) {
            return vec![];
        }
        let content = match (source, live) {
            (Some(f), _) => self.files[f].content.clone(),
            (None, Some(live)) => live,
            (None, None) => {
                assert_eq!(self.rig.rename(from, to, Replace::Yes).await, Err(Error::NotFound));
                return vec![];
            }
        };
        self.meant.insert((to, content.clone()));
        let refuses = replace == Replace::No && (there.is_some() || target.is_some());
        match self.rig.rename(from, to, replace).await {
            Ok(()) => {
                assert!(!refuses, "W6");
                if let Some(f) = target {
                    self.files[f].key = None;
                }
                if let Some(f) = source {
                    self.files[f].key = Some(to);
                    self.files[f].written = false;
                    self.files[f].stamped = false;
                }
                // The DELETE of the source may have failed, which is logged. A corpse may stay.
                let left = if self.faulty || is_new { vec![None, old] } else { vec![None] };
                vec![(from, left), (to, vec![Some(content)])]
            }
            Err(Error::Exists) if refuses => vec![],
            Err(error) => {
                assert!(self.faulty, "{error}");
                if let Some(f) = source {
                    // Under which name it failed, if it did, is not told.
                    self.files[f].doubtful = true;
                }
                vec![(to, vec![before, Some(content)])]
            }
        }
    }

    async fn mkdir(&mut self, path: &'static str) {
        let file = self.of(path);
        if file.is_some_and(|f| self.files[f].failed.is_some()) {
            return;
        }
        let is_there =
            self.directories.contains(path) || file.is_some() || self.live(path).is_some();
        let (parent, name) = self.rig.place(path).await;
        match self.rig.fs.mkdir(parent, name).await {
            Ok(attr) => {
                assert!(!is_there, "{path}: W9");
                self.rig.tell(attr.ino);
                self.directories.insert(path);
            }
            Err(error) => {
                assert!(is_there && error == Error::Exists || self.faulty, "{path}: {error}");
                self.look_again(path).await;
            }
        }
    }

    async fn rmdir(&mut self, path: &'static str) -> Vec<(&'static str, Vec<Content>)> {
        if !self.directories.contains(path) {
            return vec![];
        }
        let is_below = |key: &str| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        let below: Vec<_> = NAMES.into_iter().filter(|key| is_below(key)).collect();
        let files = self.files.iter().filter(|file| file.key.is_some_and(is_below));
        // One that has failed may be shown still.
        let (failed, files): (Vec<_>, Vec<_>) = files.partition(|file| file.failed.is_some());
        let is_full = !files.is_empty() || below.iter().any(|key| self.live(key).is_some());
        let may_fail = !failed.is_empty() || self.faulty;
        let (parent, name) = self.rig.place(path).await;
        match self.rig.fs.rmdir(parent, name).await {
            Ok(()) => {
                assert!(!is_full, "{path}: W9");
                assert_eq!(self.rig.store.content(&format!("{path}/")), None);
                self.directories.remove(path);
                below.into_iter().map(|key| (key, vec![None])).collect()
            }
            Err(error) => {
                let is_right = is_full && matches!(error, Error::NotEmpty(_));
                assert!(is_right || may_fail, "{path}: {error}");
                self.look_again(path).await;
                let may = |key| (key, vec![None, self.state[key].clone()]);
                if is_full { vec![] } else { below.into_iter().map(may).collect() }
            }
        }
    }

    /// Whether a directory was made or removed after all.
    async fn look_again(&mut self, path: &'static str) {
        match self.is_directory(path).await {
            true => _ = self.directories.insert(path),
            false => _ = self.directories.remove(path),
        }
    }

    async fn is_directory(&self, path: &str) -> bool {
        let found = self.rig.look(path).await.unwrap();
        found.is_some_and(|attr| attr.kind == Kind::Directory)
    }

    async fn stamp(&mut self, key: &'static str, seconds: u64) {
        let file = self.of(key);
        if !self.may_be_a_file(key) || (file.is_none() && self.live(key).is_none()) {
            return;
        }
        let ino = match file {
            Some(f) => self.files[f].handles[0].ino,
            None => self.rig.ino(key).await,
        };
        let (ttl, value) = (Duration::from_secs(seconds), format!("{seconds}s"));
        let set = self.rig.fs.set_end(ino, "user.expirefs.ttl".as_ref(), Some(value.as_bytes()));
        match (set.await, file) {
            (Ok(()), Some(f)) => {
                self.files[f].end = Some(ttl);
                self.files[f].stamped = true;
            }
            (Ok(()), None) => assert_eq!(self.ends(key), Some(self.rig.clock.now() + ttl), "W10"),
            (Err(error), Some(f)) => self.failed(f, error),
            (Err(error), None) => assert!(self.faulty, "{error}"),
        }
    }

    async fn unlink(&mut self, key: &'static str) -> Vec<(&'static str, Vec<Content>)> {
        if !self.may_be_a_file(key) {
            return vec![];
        }
        let file = self.of(key);
        let unlinked = self.rig.unlink(key).await;
        if file.is_none() && self.live(key).is_none() {
            assert_eq!(unlinked, Err(Error::NotFound), "{key}: W8");
            return vec![];
        }
        if let Some(f) = file {
            self.files[f].key = None;
        }
        let may = match unlinked {
            // A corpse under a new file may stay.
            Ok(()) if self.live(key).is_none() => vec![None, self.state[key].clone()],
            Ok(()) => vec![None],
            Err(error) => {
                assert!(self.faulty, "{error}");
                vec![None, self.state[key].clone()]
            }
        };
        vec![(key, may)]
    }

    async fn step(&mut self, step: &Step) {
        let name = |i: usize| NAMES[i % NAMES.len()];
        let directory = |i: usize| DIRECTORIES[i % DIRECTORIES.len()];
        let mut changed = Vec::new();
        match *step {
            Step::Open(i, how) => self.open(name(i), how).await,
            Step::Make(i, length) => {
                self.open(name(i), How::Create).await;
                if let Some(f) = self.of(name(i)) {
                    self.write(f, 0, 0, length).await;
                    let last = self.files[f].handles.len() - 1;
                    changed.extend(self.commit(&Step::Close(0), (f, last)).await);
                }
            }
            Step::Rename(i, j, replace) => changed = self.rename(name(i), name(j), replace).await,
            Step::Unlink(i) => changed = self.unlink(name(i)).await,
            Step::Mkdir(i) => self.mkdir(directory(i)).await,
            Step::Rmdir(i) => changed = self.rmdir(directory(i)).await,
            Step::Stamp(i, j) => self.stamp(name(i), STAMPS[j % STAMPS.len()]).await,
            Step::Advance(seconds) => self.rig.clock.advance(Duration::from_secs(seconds)),
            Step::Write(i, ..)
            | Step::Append(i, _)
            | Step::Truncate(i, _)
            | Step::Fsync(i)
            | Step::CloseDuplicate(i)
            | Step::CloseInChild(i)
            | Step::Close(i) => {
                if let Some(handle) = self.handle(i) {
                    changed.extend(self.step_of_handle(step, handle).await);
                }
            }
        }
        self.changed(step, &changed);
        self.close_doubtful(step).await;
        for key in NAMES {
            if self.of(key).is_none() && !self.directories.contains(key) {
                let seen = self.seen(key).await.unwrap_or_else(|error| panic!("{key}: {error}"));
                assert!(seen == self.live(key), "W15: {key} after {step:?}");
            }
        }
        for path in DIRECTORIES {
            let is_there = self.directories.contains(path);
            assert_eq!(self.is_directory(path).await, is_there, "{path} after {step:?}");
        }
    }

    async fn step_of_handle(
        &mut self,
        step: &Step,
        (f, h): (usize, usize),
    ) -> Option<(&'static str, Vec<Content>)> {
        match *step {
            Step::Write(_, at, length) => self.write(f, h, at, length).await,
            // The kernel knows how long it is.
            Step::Append(_, length) => {
                let at = self.files[f].content.len();
                if self.files[f].failed.is_none() {
                    let size = self.rig.fs.getattr(self.files[f].handles[h].ino).unwrap().size;
                    assert_eq!(size, at as u64, "W2");
                }
                self.write(f, h, at, length).await;
            }
            Step::Truncate(_, size) => {
                let Write { ino, fh } = self.files[f].handles[h];
                match self.rig.fs.truncate(ino, Some(fh), size as u64).await {
                    Ok(_) => self.files[f].resize(size),
                    Err(error) => self.failed(f, error),
                }
            }
            Step::CloseInChild(_) => self.close_in_child(f, h).await,
            _ => return self.commit(step, (f, h)).await,
        }
        None
    }

    /// A file whose failure was not told is closed: the model cannot tell what it holds.
    async fn close_doubtful(&mut self, step: &Step) {
        while let Some(f) = self.files.iter().position(|file| file.doubtful) {
            let file = self.files.remove(f);
            self.meant.extend(NAMES.map(|key| (key, file.content.clone())));
            for handle in file.handles {
                let _ = self.rig.close(handle).await;
            }
            let any = |key| (key, vec![self.state[key].clone(), Some(file.content.clone())]);
            let changed: Vec<_> = NAMES.map(any).into();
            self.changed(step, &changed);
        }
    }

    /// What this mount shows.
    async fn seen(&self, key: &str) -> Result<Content> {
        match self.rig.cat(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound | Error::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Checks that the journal has all uploads, each time that something is asked of the store.
fn watch(
    rig: &Rig,
    dir: Arc<tempfile::TempDir>,
    mut fates: Vec<Fate>,
    wrong: Arc<Mutex<Vec<String>>>,
) {
    let store = Arc::downgrade(&rig.store);
    rig.store.decide(move |_, _| {
        let store = store.upgrade().expect("it asks");
        // With the lines of ended ones: what is asked for was recorded before.
        let mut journal = String::new();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            journal += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
        }
        for (id, key) in store.upload_ids() {
            let created = format!("\"key\":\"{key}\",\"at\"");
            if !journal.contains(&format!("\"id\":\"{id}\"")) && !journal.contains(&created) {
                wrong.lock().unwrap().push(format!("W14: upload {id} is in no journal"));
            }
        }
        match fates.pop() {
            Some(fate) => fate,
            None => Fate::Well,
        }
    });
}

async fn any_program(honours: Honours, ttl: Ttl, fates: Vec<Fate>, steps: Vec<Step>) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (journal, _) = Journal::open(dir.path(), "bucket").unwrap();
    let make = MakeWriting { honours, ttl, journal: Some(journal), ..MakeWriting::default() };
    let rig = make.rig();
    rig.store.put("d/", "", None);
    let faulty = fates.iter().any(|fate| !matches!(fate, Fate::Well));
    let wrong = Arc::default();
    watch(&rig, dir, fates, Arc::clone(&wrong));
    let state = NAMES.map(|key| (key, None)).into();
    let (files, meant, directories) = (Vec::new(), BTreeSet::new(), BTreeSet::from(["d"]));
    let mut model = Model { rig, ttl, state, directories, files, meant, writes: 0, faulty };
    for step in steps {
        model.step(&step).await;
    }
    while !model.files.is_empty() {
        model.step(&Step::Close(0)).await;
    }
    model.rig.store.make_all();
    model.rig.writer().until_aborted().await;
    assert_eq!(*wrong.lock().unwrap(), [""; 0]);
    for changed in model.rig.store.log() {
        let (key, bytes) = match &changed {
            Changed::Stored(key, bytes) | Changed::Moved(_, key, bytes) => (&**key, bytes),
            Changed::Completed(upload, bytes) => (&*upload.key, bytes),
            _ => continue,
        };
        let is_meant = model.meant.iter().any(|(of, meant)| *of == key && meant == bytes);
        assert!(is_meant || key.ends_with('/'), "W14: {key} has {}", bytes.len());
    }
}

fn step() -> impl Strategy<Value = Step> {
    let i = || 0usize..60;
    // Some names more often, so that there is a story to each.
    let name = || select(vec![0usize, 0, 0, 1, 1, 2, 2, 3, 4, 4]);
    let directory = || 0usize..DIRECTORIES.len();
    let at = || select(vec![0usize, 1000, PART, 2 * PART + 7]);
    let length = || select(vec![1usize, 5000, PART, 2 * PART]);
    let how = select(vec![How::Create, How::CreateNew, How::CreateNew, How::Edit, How::Edit]);
    let replace = select(vec![Replace::Yes, Replace::Yes, Replace::No]);
    prop_oneof![
        6 => (name(), how).prop_map(|(i, how)| Step::Open(i, how)),
        4 => (name(), length()).prop_map(|(i, length)| Step::Make(i, length)),
        6 => (i(), at(), length()).prop_map(|(i, at, length)| Step::Write(i, at, length)),
        2 => (i(), length()).prop_map(|(i, length)| Step::Append(i, length)),
        2 => (i(), at()).prop_map(|(i, at)| Step::Truncate(i, at)),
        2 => i().prop_map(Step::Fsync),
        1 => i().prop_map(Step::CloseDuplicate),
        1 => i().prop_map(Step::CloseInChild),
        6 => i().prop_map(Step::Close),
        3 => (name(), name(), replace).prop_map(|(i, j, replace)| Step::Rename(i, j, replace)),
        1 => name().prop_map(Step::Unlink),
        2 => directory().prop_map(Step::Mkdir),
        2 => directory().prop_map(Step::Rmdir),
        1 => (name(), i()).prop_map(|(i, j)| Step::Stamp(i, j)),
        2 => select(vec![10u64, 2000, 4000, 8000]).prop_map(Step::Advance),
    ]
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        6 => Just(Fate::Well),
        1 => Just(Fate::Fails(Error::Store("500".into()))),
        1 => Just(Fate::Unclear { made: true }),
        1 => Just(Fate::Unclear { made: false }),
    ];
    prop_oneof![Just(Vec::new()), prop::collection::vec(fate, 1..30)]
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::with_cases(400)
    })]

    #[test]
    fn what_a_program_is_told_is_what_the_store_holds_at_each_request(
        honours in select(vec![
            Honours::ALL,
            Honours { rename: false, ..Honours::ALL },
            Honours { put_if_absent: true, put_if_match: true, ..Honours::NONE },
            Honours::NONE,
        ]),
        ttl in select(vec![Ttl::Never, Ttl::For(3600 * SECOND), Ttl::For(3600 * SECOND)]),
        fates in fates(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(any_program(honours, ttl, fates, steps));
    }
}
