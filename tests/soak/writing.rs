//! The writing half of the soak: each writer changes its own files in all ways that programs do, and
//! replaces files that all of them share. After each call the store itself is asked, past the proxy:
//! what a program was told to be done is there, and what failed has left the old version or a whole
//! new one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::support::content::{KIB, MIB, content};
use super::support::mount::{Mount, Status};
use super::support::proxy::{Answer, Fault, Request};
use super::support::s3_server::Bucket;
use super::{Chance, KEYS, SHARED, Version, World, name};

/// Of each writer. The first one has several parts (`--part-size 5MiB`).
const FILES: usize = 6;
const SMALL: [usize; 5] = [1, 700, 5 * KIB, 100 * KIB, 300 * KIB];
const LARGE: [usize; 3] = [6 * MIB, 11 * MIB + 5, 16 * MIB];
/// An append makes no file larger than this.
const LARGEST: usize = 20 * MIB;

/// What an object holds; `None` if there is none.
type Content = Option<Bytes>;

/// What is under each key.
pub type Files = BTreeMap<String, Content>;

/// Faults of changes: more than reads get, and those that matter to them. One in `one_in`.
pub fn faults_of_changes(request: &Request, one_in: u64) -> Fault {
    let mut chance = Chance(request.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    // The id of an upload that is lost with its answer is known to nobody.
    let creates = request.method == "POST" && request.query.contains("uploads");
    let completes = request.method == "POST" && request.query.contains("uploadId");
    if chance.below(one_in as usize) != 0 {
        return Fault::None;
    }
    match chance.below(8) {
        0 | 1 if !creates => Fault::Lose,
        2 if completes => Fault::Answer(
            Answer::new(200)
                .header("content-type", "application/xml")
                .body("<Error><Code>InternalError</Code><Message>too late</Message></Error>"),
        ),
        2 if !creates => Fault::Truncate(0),
        3 => Fault::status(500, None),
        4 => Fault::status(503, None),
        5 => Fault::Delay(Duration::from_millis(chance.below(400) as u64)),
        // Longer than a try may take.
        6 if chance.below(8) == 0 => Fault::Delay(Duration::from_secs(12)),
        _ => Fault::Close,
    }
}

/// Whether it changes something.
pub fn is_change(request: &Request) -> bool {
    !matches!(&*request.method, "GET" | "HEAD")
}

/// A writer, and what the store holds under its keys.
pub struct Writer<'a> {
    world: &'a World,
    mount: &'a Mount,
    chance: Chance,
    number: u64,
    files: Files,
}

impl<'a> Writer<'a> {
    /// Makes its directory.
    pub fn new(world: &'a World, mount: &'a Mount, number: u64) -> Writer<'a> {
        fs::create_dir(mount.path(format!("w{number}")))
            .expect("a directory, before there are faults");
        Writer { world, mount, chance: Chance(5000 + number), number, files: BTreeMap::new() }
    }

    /// Writes until the run is over. Returns what the store has to hold then.
    pub fn run(mut self) -> Files {
        while !self.world.over.load(Ordering::Relaxed) {
            self.step();
        }
        self.files
    }

    fn step(&mut self) {
        let number = self.chance.below(FILES);
        let key = format!("w{}/f{number}", self.number);
        let before = self.files.get(&key).cloned().flatten();
        let action = self.chance.below(12);
        match (action, before) {
            (0..=1, _) => self.replace(&key, number == 0),
            (2, _) => self.rename_after_close(&key, "tmp", number == 0),
            (3, _) => self.rename_after_close(&key, "staged", number == 0),
            (4, _) => self.rename_while_open(&key, number == 0),
            (5, _) => self.share(),
            (6..=7, Some(old)) if old.len() < LARGEST => self.append(&key, &old),
            (8, Some(old)) if !old.is_empty() => self.edit(&key, &old),
            (9, Some(old)) => self.truncate(&key, &old),
            (10, Some(_)) => self.unlink(&key),
            (_, Some(old)) => self.touch(&key, old),
            (_, None) => self.create_empty(&key),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.mount.path(key)
    }

    /// A new content, unlike any other.
    fn new_content(&mut self, large: bool) -> Bytes {
        let sizes: &[usize] = if large { &LARGE } else { &SMALL };
        let len = sizes[self.chance.below(sizes.len())];
        content(self.world.seeds.fetch_add(1, Ordering::Relaxed), len)
    }

    fn told(&self, what: &str, answer: io::Result<()>) -> bool {
        let what = format!("{what}, writing");
        if let Err(error) = &answer
            && error.raw_os_error() != Some(libc::EIO)
        {
            self.world.wrong(format!("{what}: {error}"));
        }
        self.world.told(&what, answer).is_some()
    }

    /// Opens a file, changes it, and closes it. Returns what the store may hold afterwards; `committed`
    /// is what a close makes of it.
    fn change(
        &self,
        what: &str,
        path: PathBuf,
        options: &OpenOptions,
        before: Content,
        committed: &Bytes,
        change: impl FnOnce(&File) -> io::Result<()>,
    ) -> Vec<Content> {
        let opened = self.world.timed(|| options.open(path));
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                self.told(&format!("{what}: open"), Err(error));
                return vec![before];
            }
        };
        let written = self.told(&format!("{what}: write"), change(&file));
        let closed = self.world.timed(|| Ok(nix::unistd::close(file)?));
        // What failed before its close is not committed by that, and says so again.
        if !written && closed.is_ok() {
            self.world.wrong(format!("{what}: a write has failed, and close has not"));
        }
        match (self.told(&format!("{what}: close"), closed), written) {
            (true, _) => vec![Some(committed.clone())],
            (false, true) => vec![before, Some(committed.clone())],
            (false, false) => vec![before],
        }
    }

    fn write_all(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(MIB).try_for_each(|piece| self.world.timed(|| file.write_all(piece)))
    }

    /// Asks the store, which has to hold one of these.
    fn check(&mut self, what: &str, key: &str, may: &[Content]) -> Content {
        let now = self.world.bucket.content(key);
        if !may.contains(&now) {
            self.world.wrong(format!(
                "{what}: {key} is {}, not {}",
                described(&now),
                may.iter().map(described).collect::<Vec<_>>().join(" or ")
            ));
        }
        self.files.insert(key.to_owned(), now.clone());
        if self.chance.below(3) == 0 {
            self.read_back(key, &now);
        }
        now
    }

    /// This mount has to show what the store holds (W15).
    fn read_back(&self, key: &str, held: &Content) {
        match (self.world.timed(|| fs::read(self.path(key))), held) {
            (Ok(got), Some(held)) if got == *held => {}
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => {}
            (Err(error), _) if error.raw_os_error() == Some(libc::EIO) => {
                self.told("read back", Err(error));
            }
            (got, _) => {
                let got = got.map(|bytes| described(&Some(bytes.into())));
                self.world.wrong(format!("{key} reads as {got:?}, not {}", described(held)));
            }
        }
    }

    fn before(&self, key: &str) -> Content {
        self.files.get(key).cloned().flatten()
    }

    /// O_TRUNC, at times with an fsync in the middle.
    fn replace(&mut self, key: &str, large: bool) {
        let new = self.new_content(large);
        let half = new.len() / 2;
        let mut old = self.before(key);
        let syncs = self.chance.below(4) == 0;
        let mut synced = false;
        let may = self.change(
            "replace",
            self.path(key),
            File::options().write(true).create(true).truncate(true),
            old.clone(),
            &new,
            |file| {
                self.write_all(file, &new[..half])?;
                if syncs {
                    self.world.timed(|| file.sync_all())?;
                    synced = true;
                }
                self.write_all(file, &new[half..])
            },
        );
        if syncs {
            let prefix = Some(new.slice(..half));
            if !synced {
                // It is unknown whether fsync or a write has failed.
                old = self.before(key);
                let may = [may, vec![old, prefix]].concat();
                self.check("replace with an fsync that failed", key, &may);
                return;
            }
            let may: Vec<Content> =
                may.into_iter().map(|it| if it == old { prefix.clone() } else { it }).collect();
            self.check("replace with fsync", key, &may);
            return;
        }
        self.check("replace", key, &may);
    }

    fn append(&mut self, key: &str, old: &Bytes) {
        let more = self.new_content(false);
        let new = Bytes::from([&old[..], &more].concat());
        let options = File::options().append(true).to_owned();
        let before = Some(old.clone());
        let may = self.change("append", self.path(key), &options, before, &new, |file| {
            self.write_all(file, &more)
        });
        self.check("append", key, &may);
    }

    fn edit(&mut self, key: &str, old: &Bytes) {
        let at = self.chance.below(old.len());
        let patch = self.new_content(false);
        let mut new = old.to_vec();
        new.resize(old.len().max(at + patch.len()), 0);
        new[at..at + patch.len()].copy_from_slice(&patch);
        let new = Bytes::from(new);
        let options = File::options().write(true).read(true).to_owned();
        let before = Some(old.clone());
        let may = self.change("edit", self.path(key), &options, before, &new, |file| {
            self.world.timed(|| file.write_all_at(&patch, at as u64))
        });
        self.check("edit", key, &may);
    }

    /// truncate(2), by path: it commits.
    fn truncate(&mut self, key: &str, old: &Bytes) {
        let size = self.chance.below(old.len() + 100);
        let mut new = old.to_vec();
        new.resize(size, 0);
        let path = self.path(key);
        let truncated = self.world.timed(|| Ok(nix::unistd::truncate(&path, size as i64)?));
        let mut may = vec![Some(new.into())];
        if !self.told("truncate", truncated) {
            may.push(Some(old.clone()));
        }
        self.check("truncate", key, &may);
    }

    fn unlink(&mut self, key: &str) {
        let path = self.path(key);
        let mut may = vec![None];
        if !self.told("unlink", self.world.timed(|| fs::remove_file(&path))) {
            may.push(self.before(key));
        }
        self.check("unlink", key, &may);
    }

    fn touch(&mut self, key: &str, old: Bytes) {
        let path = self.path(key);
        let touch = || File::open(&path)?.set_modified(SystemTime::now());
        self.told("touch", self.world.timed(touch));
        self.check("touch", key, &[Some(old)]);
    }

    fn create_empty(&mut self, key: &str) {
        let options = File::options().write(true).create_new(true).to_owned();
        let may = self.change("create", self.path(key), &options, None, &Bytes::new(), |file| {
            self.world.timed(|| file.sync_all())
        });
        // Of an fsync that fails nobody knows whether it was made.
        let may = [may, vec![Some(Bytes::new())]].concat();
        self.check("create", key, &may);
    }

    /// Writes a temporary file and closes it.
    fn write_tmp(&mut self, suffix: &str, new: &Bytes) -> (String, Vec<Content>) {
        let tmp = format!("w{}/x.{suffix}", self.number);
        let options = File::options().write(true).create(true).truncate(true).to_owned();
        let before = self.before(&tmp);
        let may = self.change("tmp", self.path(&tmp), &options, before.clone(), new, |file| {
            self.write_all(file, new)
        });
        // A staged file is committed by its rename, or after a while.
        match suffix {
            "staged" if may != [before.clone()] => (tmp, vec![before, Some(new.clone())]),
            _ => (tmp, may),
        }
    }

    fn rename(&self, from: &str, to: &str) -> bool {
        let (from, to) = (self.path(from), self.path(to));
        self.told("rename", self.world.timed(|| fs::rename(from, to)))
    }

    /// As careful programs replace a file.
    fn rename_after_close(&mut self, key: &str, suffix: &str, large: bool) {
        let (new, old) = (self.new_content(large), self.before(key));
        let (tmp, may) = self.write_tmp(suffix, &new);
        if !may.contains(&Some(new.clone())) || (suffix == "tmp" && may.len() > 1) {
            self.check("tmp", &tmp, &may);
            return;
        }
        let what = format!("rename of a file that is {suffix}");
        let renamed = self.rename(&tmp, key);
        // A DELETE of the source that fails is no error of the rename.
        let left = [may, vec![None, Some(new.clone())]].concat();
        if renamed {
            self.check(&what, key, &[Some(new)]);
            self.check(&what, &tmp, &left);
            return;
        }
        let here = self.check(&what, key, &[old, Some(new.clone())]);
        let there = self.check(&what, &tmp, &left);
        // A closed file is in the store, under one of its names.
        if suffix == "tmp" && here != Some(new.clone()) && there != Some(new) {
            self.world.wrong(format!("{what}: {key} is lost"));
        }
    }

    fn rename_while_open(&mut self, key: &str, large: bool) {
        let (new, old) = (self.new_content(large), self.before(key));
        let more = self.new_content(false);
        let all = Bytes::from([&new[..], &more].concat());
        let tmp = format!("w{}/x.tmp", self.number);
        let before = self.before(&tmp);
        let options = File::options().write(true).create(true).truncate(true).to_owned();
        let mut renamed = None;
        let may = self.change("tmp", self.path(&tmp), &options, old.clone(), &all, |file| {
            self.write_all(file, &new)?;
            renamed = Some(self.rename(&tmp, key));
            self.write_all(file, &more)
        });
        let what = "rename while open";
        match renamed {
            Some(true) => {
                let may = may.into_iter().map(|it| if it == old { Some(new.clone()) } else { it });
                self.check(what, key, &may.collect::<Vec<_>>());
                self.check(what, &tmp, &[None, before]);
            }
            Some(false) => {
                self.check(what, key, &[old, Some(new)]);
                self.check(what, &tmp, &[before]);
            }
            None => {
                self.check(what, key, &[old]);
                self.check(what, &tmp, &[before]);
            }
        }
    }

    /// Replaces a file that all writers replace and all readers read: it is one of their versions.
    fn share(&mut self) {
        let shared = KEYS + self.chance.below(SHARED);
        let seed = self.world.seeds.fetch_add(1, Ordering::Relaxed);
        let large = self.chance.below(3) == 0;
        let len = if large { LARGE[0] } else { SMALL[1 + self.chance.below(4)] };
        self.world.versions.lock().unwrap().insert((shared, seed), Version { len, ends: None });
        let new = content(seed, len);
        let (tmp, may) = self.write_tmp("tmp", &new);
        if may != [Some(new.clone())] {
            self.check("tmp", &tmp, &may);
            return;
        }
        self.rename(&tmp, &name(shared));
        self.check("share", &tmp, &[None, Some(new)]);
        self.world.assert_shared(shared);
    }
}

impl World {
    /// The store holds a whole version of a shared file, or none.
    fn assert_shared(&self, shared: usize) {
        let Some(bytes) = self.bucket.content(&name(shared)) else { return };
        let stamp = bytes.first_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp));
        let version = self.versions.lock().unwrap().get(&(shared, stamp)).copied();
        if version.is_none_or(|version| bytes != content(stamp, version.len)) {
            let shown = described(&Some(bytes));
            self.wrong(format!("{} is no version of it: {shown}", name(shared)));
        }
    }

    /// In the end the store holds what the writers say, and nothing else.
    pub fn assert_written(&self, files: &Files) {
        for (key, content) in files {
            let now = self.bucket.content(key);
            if now != *content {
                let (now, content) = (described(&now), described(content));
                self.wrong(format!("in the end {key} is {now}, not {content}"));
            }
        }
        (KEYS..KEYS + SHARED).for_each(|shared| self.assert_shared(shared));
        for key in self.bucket.keys() {
            let is_directory = key.ends_with('/');
            let is_known = key.starts_with('d') || key.starts_with("shared/");
            if !is_directory && !is_known && !files.contains_key(&key) {
                self.wrong(format!("in the end there is {key}"));
            }
        }
    }
}

/// What is pending in the daemon, which is nothing in the end.
pub fn held(status: &Status) -> Vec<String> {
    let mut held = Vec::new();
    for gauge in ["memory_bytes", "spool_bytes", "writes_waiting", "failed_untold"] {
        let n = status.number(&format!("writing.{gauge}"));
        if n != 0 {
            held.push(format!("{n} {gauge} in the end"));
        }
    }
    let pending = &status.0["writing"]["pending"];
    if pending.as_array().is_none_or(|pending| !pending.is_empty()) {
        held.push(format!("pending in the end: {pending}"));
    }
    held
}

/// The keys of uploads that are left, once those that are being aborted are gone.
pub fn uploads_left(bucket: &Bucket, bound: Duration) -> Vec<String> {
    let deadline = Instant::now() + bound;
    loop {
        let left = bucket.uploads();
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        thread::sleep(Duration::from_millis(200)); // a store tells nobody of an abort
    }
}

/// Its length, and the seed that it begins with.
fn described(content: &Content) -> String {
    match content {
        None => "absent".to_owned(),
        Some(bytes) => {
            let seed = bytes.first_chunk().map(|seed| u64::from_be_bytes(*seed));
            let hash = bytes.iter().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add((*b).into()));
            format!("{} bytes of seed {seed:?} ({hash:08x})", bytes.len())
        }
    }
}
