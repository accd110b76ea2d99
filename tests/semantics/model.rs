//! Random sequences of calls, over a store with or without faults, are compared with a model: what
//! a name is, which bytes a handle returns, and which errors are allowed. Rules E1, E7, E8, E10,
//! N2, N3, B2 to B5, R1 to R3 and R5.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use expirefs::body::State;
use expirefs::catalog::Trust;
use expirefs::error::{Error, Result};
use expirefs::fs::inode::ROOT;
use expirefs::fs::{Attr, Kind, Lookup};
use futures_util::FutureExt;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngAlgorithm;

use super::memory::{Break, Mood};
use super::{Make, Rig, SECOND, expires, start};

/// Keys that are put and looked up; `d/` is a marker.
const KEYS: [&str; 10] = ["a", "b", "d", "d/", "d/a", "d/b", "d/e", "d/e/f", "a/x", "d-"];

/// Names that may be directories.
const DIRECTORIES: [&str; 4] = ["", "d", "d/e", "a"];

/// Targets are numbers, each taken modulo the number of targets at that time: so the sequence stays
/// valid when a step is removed.
#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize, End),
    Replace(usize, usize, End),
    Delete(usize),
    Advance(u64),
    Lookup(usize),
    /// This many entries at a time, with or without attributes.
    List(usize, usize, bool),
    Open(usize),
    /// Opens a file that was looked up earlier, as a kernel does that still has it cached.
    OpenKnown(usize),
    /// From an offset in thousandths of the object.
    ReadAt(usize, usize, u32),
    ReadOn(usize, u32),
    Release(usize),
    Forget(usize),
    Fault(Fault),
}

#[derive(Clone, Debug)]
enum Fault {
    None,
    Fails(Error),
    FailsAt(usize, Error),
    Stalls,
    Breaks(usize, Break),
}

/// When an object expires.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Never,
    /// Seconds after the start.
    At(i64),
    Unparsable,
}

impl End {
    fn header(self) -> Option<String> {
        match self {
            End::Never => None,
            End::At(seconds) => expires(seconds),
            End::Unparsable => Some("0".into()),
        }
    }

    /// The remaining lifetime at `now`; `None`: it has expired.
    fn left(self, now: SystemTime) -> Option<Duration> {
        match self {
            End::Never => Some(Duration::MAX),
            End::At(seconds) if seconds < 0 => None,
            End::At(seconds) => {
                let end = start() + Duration::from_secs(seconds.unsigned_abs());
                end.duration_since(now).ok().filter(|left| !left.is_zero())
            }
            End::Unparsable => None,
        }
    }
}

/// One version: the `n`th object put.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Version {
    n: usize,
    size: usize,
    end: End,
}

impl Version {
    fn bytes(&self) -> &'static [u8] {
        static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let step = |x: &u32| Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
            let noise = std::iter::successors(Some(1), step);
            noise.map(|x| (x >> 24) as u8).take(1 << 20).collect()
        });
        &NOISE[101 * self.n..][..self.size]
    }
}

type Objects = BTreeMap<&'static str, Version>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Nothing,
    Directory,
    File(Version),
}

/// What `path` is if the store has `objects`.
fn what(objects: &Objects, path: &str, now: SystemTime) -> What {
    let live = |version: &&Version| version.end.left(now).is_some();
    let below =
        || objects.keys().any(|key| key.starts_with(path) && key[path.len()..].starts_with('/'));
    match objects.get(path).filter(live) {
        Some(version) => What::File(*version),
        None if path.is_empty() || below() => What::Directory,
        None => What::Nothing,
    }
}

fn join(directory: &str, name: &str) -> String {
    let slash = if directory.is_empty() { "" } else { "/" };
    format!("{directory}{slash}{name}")
}

/// An open handle.
struct Handle {
    fh: u64,
    ino: u64,
    key: String,
    version: Version,
    /// Offset after the last read.
    position: usize,
    /// It may have a body that must not be parked: no read was answered yet.
    fresh: bool,
    /// It may have a body that was requested during a fault.
    doubtful: bool,
}

/// The rig, a kernel that caches entries, and the current and earlier objects of the store.
struct Model {
    rig: Rig,
    cap: usize,
    trust: Duration,
    objects: Objects,
    /// Earlier objects, and until when the store had them.
    past: Vec<(SystemTime, Objects)>,
    puts: usize,
    fault: Fault,
    handles: Vec<Handle>,
    /// Inodes with their lookup counts, and what they stand for.
    known: BTreeMap<u64, (u64, String, What)>,
}

impl Model {
    fn new(cap: usize, chunk: usize, probe: u64, page: u16, trust: u32) -> Model {
        let mut make = Make { cap, chunk, ..Make::default() };
        let trust = trust * SECOND;
        make.settings.trust = Trust::For(trust);
        make.settings.probe.size = probe;
        make.settings.listing.page = page;
        let rig = make.rig();
        let (handles, known) = (Vec::new(), BTreeMap::new());
        let (objects, past, puts, fault) = (Objects::new(), Vec::new(), 0, Fault::None);
        Model { rig, cap, trust, objects, past, puts, fault, handles, known }
    }

    fn now(&self) -> SystemTime {
        self.rig.clock.now()
    }

    fn change(&mut self, change: impl FnOnce(&mut Objects)) {
        self.past.push((self.now(), self.objects.clone()));
        change(&mut self.objects);
    }

    fn put(&mut self, key: &'static str, size: usize, end: End) {
        let size = if key.ends_with('/') { 0 } else { size };
        let version = Version { n: self.puts, size, end };
        self.puts += 1;
        self.rig.store.put(key, version.bytes(), end.header());
        self.change(|objects| _ = objects.insert(key, version));
    }

    /// Whether `path` may be reported as `found`: it is, or was so recently that it may be cached.
    fn may_be(&self, path: &str, found: What) -> bool {
        let believed = |(until, _): &&(SystemTime, Objects)| *until + self.trust > self.now();
        let past = self.past.iter().filter(believed).map(|(_, objects)| objects);
        past.chain([&self.objects]).any(|objects| what(objects, path, self.now()) == found)
    }

    /// Whether a request to the store may fail with this error.
    fn explains(&self, error: &Error) -> bool {
        match &self.fault {
            Fault::None => false,
            Fault::Fails(why) | Fault::FailsAt(_, why) => why == error,
            Fault::Stalls | Fault::Breaks(..) => error.errno() == libc::EIO,
        }
    }

    /// The maximum number of bodies that must not be parked, without that of `but`.
    fn unread(&self, but: Option<u64>) -> usize {
        self.handles.iter().filter(|handle| handle.fresh && Some(handle.fh) != but).count()
    }

    /// Records a lookup of `path`, and checks its attributes.
    fn told(&mut self, path: &str, attr: Attr) -> What {
        let found = match attr.kind {
            Kind::Directory => What::Directory,
            Kind::File => {
                let attributes = self.rig.fs.attributes(attr.ino).unwrap();
                let etag = attributes.iter().find(|(name, _)| name == "user.expirefs.etag");
                let n: usize = etag.unwrap().1[1..].parse().unwrap();
                let past = self.past.iter().map(|(_, objects)| objects);
                let all = past.chain([&self.objects]).flat_map(|objects| objects.values());
                let version = *all.into_iter().find(|version| version.n == n).unwrap();
                assert_eq!(attr.size, version.size as u64, "R2: {path}");
                let left = version.end.left(self.now()).unwrap_or_default();
                assert!(attr.ttl <= left, "E7: {path}");
                What::File(version)
            }
        };
        assert!(attr.ino == ROOT || attr.ttl <= self.trust, "E7: {path}");
        let new = (0, path.to_owned(), found);
        let known = self.known.entry(attr.ino).or_insert(new);
        known.0 += 1;
        assert_eq!((&*known.1, known.2), (path, found), "R2: one inode, one version");
        found
    }

    /// Looks a path up component by component; returns its inode, if it exists.
    async fn look(&mut self, path: &str) -> Result<Option<(u64, What)>> {
        let (mut at, mut parent, mut found) = (String::new(), ROOT, What::Directory);
        for name in path.split('/') {
            if found != What::Directory {
                return Ok(None);
            }
            at = join(&at, name);
            let answer = self.rig.fs.lookup(parent, OsStr::new(name)).await;
            found = match answer.inspect_err(|e| assert!(self.explains(e), "R5: {at}: {e}"))? {
                Lookup::Nothing(_) => What::Nothing,
                Lookup::Found(attr) => {
                    parent = attr.ino;
                    self.told(&at, attr)
                }
            };
            assert!(self.may_be(&at, found), "{at} is reported as {found:?}");
            if found == What::Nothing {
                return Ok(None);
            }
        }
        Ok(Some((parent, found)))
    }

    /// Lists a directory, `step` entries at a time.
    async fn list(&mut self, path: &str, step: usize, plus: bool) -> Result<()> {
        let ino = match path {
            "" => ROOT,
            path => match self.look(path).await? {
                Some((ino, What::Directory)) => ino,
                _ => return Ok(()),
            },
        };
        let fh = self.rig.fs.opendir(ino).unwrap();
        let (mut offset, mut shown) = (0, BTreeMap::new());
        let result = loop {
            let (mut some, from) = (Vec::new(), offset);
            let add = |entry: &expirefs::fs::Entry<'_>| {
                let room = some.len() < step;
                if room {
                    offset = entry.next;
                    some.push((entry.name.to_owned(), entry.kind, entry.attr));
                }
                room
            };
            match self.rig.fs.readdir(ino, fh, from, plus, add).await {
                Ok(()) if some.is_empty() => break Ok(()),
                Ok(()) => {}
                Err(error) => break Err(error),
            }
            for (name, kind, attr) in some {
                if let Some(attr) = attr {
                    self.told(&join(path, &name), attr);
                }
                assert!(shown.insert(name.clone(), kind).is_none(), "N4: {name} comes twice");
            }
        };
        self.rig.fs.releasedir(fh).unwrap();
        result.inspect_err(|e| assert!(self.explains(e), "R5: the listing of {path}: {e}"))?;
        let names = KEYS.iter().flat_map(|key| key.split('/'));
        for name in names.filter(|name| !name.is_empty()) {
            let want = match what(&self.objects, &join(path, name), self.now()) {
                What::Nothing => None,
                What::Directory => Some(Kind::Directory),
                What::File(_) => Some(Kind::File),
            };
            let shown = shown.get(name).copied();
            // An object whose HEAD fails is listed, whether it has expired or not.
            let unanswered = !matches!(self.fault, Fault::None)
                && shown == Some(Kind::File)
                && self.objects.contains_key(join(path, name).as_str());
            assert!(shown == want || unanswered, "{name} in the listing of {path}: {shown:?}");
        }
        Ok(())
    }

    async fn open(&mut self, ino: u64) {
        let (_, key, What::File(version)) = self.known[&ino].clone() else { return };
        let there = self.objects.get(&*key) == Some(&version);
        let live = version.end.left(self.now()).is_some();
        match self.rig.fs.open(ino, 1).await {
            Ok(fh) => {
                assert!(live, "E1: {key} has expired");
                let doubtful = !matches!(self.fault, Fault::None);
                let (position, fresh) = (0, true);
                self.handles.push(Handle { fh, ino, key, version, position, fresh, doubtful });
            }
            Err(Error::Stale) => assert!(!there || !live, "R1: {key} is as it was"),
            Err(Error::Expired) => assert!(!live, "E1: {key} has not expired"),
            Err(Error::TooManyBodies { .. }) => assert!(self.unread(None) >= self.cap, "B4"),
            Err(error) => assert!(self.explains(&error), "R5: open of {key}: {error}"),
        }
    }

    async fn read(&mut self, i: usize, offset: usize, len: u32) {
        let doubtful = !matches!(self.fault, Fault::None);
        self.handles[i].doubtful |= doubtful;
        let Handle { fh, key, version, .. } = &self.handles[i];
        let (fh, key, version) = (*fh, key.clone(), *version);
        let answer = self.rig.fs.read(fh, offset as u64, len).await;
        let answered = answer.is_ok();
        match answer {
            Ok(bytes) => {
                let content = version.bytes();
                let end = content.len().min(offset + len as usize);
                let want = &content[offset.min(end)..end];
                assert!(bytes == want, "R1, R3: {len} bytes of {key} at {offset}: {}", bytes.len());
            }
            Err(Error::Stale) => {
                let there = self.objects.get(&*key) == Some(&version);
                assert!(!there, "R1, E8: {key} is as it was");
            }
            Err(Error::TooManyBodies { .. }) => assert!(self.unread(Some(fh)) >= self.cap, "B4"),
            Err(error) if self.explains(&error) => {}
            Err(error) => {
                assert!(self.handles[i].doubtful, "R5: {key}: {error}");
                assert_eq!(error.errno(), libc::EIO, "R3: {key}: {error}");
            }
        }
        let handle = &mut self.handles[i];
        let at_end = answered && offset < version.size && version.size <= offset + len as usize;
        let open = self.rig.fs.open_handles();
        let reader = open
            .iter()
            .find(|(open, _)| *open == fh)
            .map(|(_, h)| h.reading().unwrap().reader.state());
        assert!(!at_end || reader != Some(State::Idle), "B5: {key} was read to its end");
        match answered {
            true => {
                handle.position = version.size.min(offset + len as usize);
                // A read beyond the end is answered without a body.
                handle.fresh &= offset >= version.size;
            }
            // The body of a failed read is closed.
            false => handle.doubtful = doubtful,
        }
    }

    async fn step(&mut self, step: Step) {
        let present: Vec<_> = self.objects.keys().copied().collect();
        let files: Vec<u64> = self.known.keys().copied().collect();
        match step {
            Step::Put(key, size, end) => self.put(KEYS[key % KEYS.len()], size, end),
            Step::Replace(i, size, end) if !present.is_empty() => {
                self.put(present[i % present.len()], size, end);
            }
            Step::Delete(i) if !present.is_empty() => {
                let key = present[i % present.len()];
                self.rig.store.delete(key);
                self.change(|objects| _ = objects.remove(key));
            }
            Step::Advance(seconds) => self.rig.clock.advance(Duration::from_secs(seconds)),
            Step::Lookup(i) => _ = self.look(KEYS[i % KEYS.len()].trim_end_matches('/')).await,
            Step::List(i, step, plus) => {
                let _ = self.list(DIRECTORIES[i % DIRECTORIES.len()], step, plus).await;
            }
            Step::Open(i) if !present.is_empty() => {
                let key = present[i % present.len()].trim_end_matches('/');
                if let Ok(Some((ino, _))) = self.look(key).await {
                    self.open(ino).await;
                }
            }
            Step::OpenKnown(i) if !files.is_empty() => self.open(files[i % files.len()]).await,
            Step::ReadAt(i, at, len) if !self.handles.is_empty() => {
                let i = i % self.handles.len();
                self.read(i, at * self.handles[i].version.size / 1000, len).await;
            }
            Step::ReadOn(i, len) if !self.handles.is_empty() => {
                let i = i % self.handles.len();
                self.read(i, self.handles[i].position, len).await;
            }
            Step::Release(i) if !self.handles.is_empty() => {
                let handle = self.handles.remove(i % self.handles.len());
                self.rig
                    .fs
                    .release(handle.fh)
                    .now_or_never()
                    .expect("nothing to wait for")
                    .unwrap();
            }
            Step::Forget(i) if !files.is_empty() => self.forget(files[i % files.len()]),
            Step::Fault(fault) => {
                self.rig.store.be(match fault.clone() {
                    Fault::None => Mood::Well,
                    Fault::Fails(error) => Mood::Fails(error),
                    Fault::FailsAt(n, error) => Mood::FailsAt(n, error),
                    Fault::Stalls => Mood::Stalls,
                    Fault::Breaks(after, how) => Mood::Breaks(after, how),
                });
                self.fault = fault;
            }
            _ => {}
        }
    }

    /// The kernel forgets an inode unless it is open.
    fn forget(&mut self, ino: u64) {
        if self.handles.iter().all(|handle| handle.ino != ino) {
            let (lookups, ..) = self.known.remove(&ino).unwrap();
            self.rig.fs.forget(ino, lookups);
        }
    }

    /// The invariants after every step.
    fn check(&self) {
        let open = self.rig.fs.open_handles();
        let state = |state| {
            open.iter().filter(|(_, h)| h.reading().unwrap().reader.state() == state).count()
        };
        let (held, contents) = (self.rig.accounts.bodies.held(), self.rig.store.open());
        assert_eq!(held, state(State::Idle), "B2: permits are of bodies");
        let doubtful = self.handles.iter().filter(|handle| handle.doubtful).count();
        // A broken body waits for the read that resumes it.
        assert!(contents <= held && held <= contents + doubtful, "B2: {contents} in {held}");
        assert!(held <= self.cap && self.rig.store.most_open() <= self.cap, "B3");
        assert_eq!((open.len(), state(State::Reading)), (self.handles.len(), 0));
        for (ino, (_, key, found)) in &self.known {
            let is_open = self.handles.iter().any(|handle| handle.ino == *ino);
            match (self.rig.fs.getattr(*ino), found) {
                (Ok(attr), What::File(version)) => {
                    assert_eq!(attr.size, version.size as u64, "{key}");
                    assert!(is_open || version.end.left(self.now()).is_some(), "E1: {key}");
                }
                (Ok(attr), _) => assert_eq!(attr.kind, Kind::Directory),
                (Err(Error::Expired), What::File(version)) if !is_open => {
                    assert!(version.end.left(self.now()).is_none(), "E1: {key}");
                }
                (Err(error), _) => panic!("E8: fstat of {key}: {error}"),
            }
        }
    }

    async fn check_tree(&mut self) {
        for path in KEYS {
            let _ = self.look(path.trim_end_matches('/')).await;
        }
        for path in DIRECTORIES {
            let _ = self.list(path, 3, true).await;
        }
    }

    /// Releases everything; the rig checks that nothing is left.
    fn end(&mut self) {
        for handle in self.handles.drain(..) {
            self.rig.fs.release(handle.fh).now_or_never().expect("nothing to wait for").unwrap();
        }
        for ino in self.known.keys().copied().collect::<Vec<_>>() {
            self.forget(ino);
        }
    }
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        3 => Just(End::Never),
        3 => (1i64..12).prop_map(End::At),
        1 => Just(End::At(-5)),
        1 => Just(End::Unparsable),
    ]
}

/// Sizes: less than a lookup fetches, less than an open fetches as a whole, and more.
fn size() -> impl Strategy<Value = usize> {
    select(vec![0usize, 1, 5000, 70_000, 131_073, 400_000])
}

fn fault() -> impl Strategy<Value = Fault> {
    let why = || "as told".to_owned();
    let passing = vec![
        Error::Unreachable(why().into()),
        Error::TimedOut(SECOND),
        Error::Store(why().into()),
        Error::Throttled(why().into()),
        Error::OutOfDescriptors(why()),
    ];
    // A listing still shows the name of an object whose HEAD is denied.
    let lasting = [passing.clone(), vec![Error::Denied(why().into())]].concat();
    let breaks = (select(vec![0usize, 1, 999, 70_000, 200_000]), any::<bool>());
    let how = |reset| if reset { Break::Reset } else { Break::Short };
    prop_oneof![
        4 => Just(Fault::None),
        1 => select(lasting).prop_map(Fault::Fails),
        3 => (2usize..5, select(passing)).prop_map(|(n, why)| Fault::FailsAt(n, why)),
        1 => Just(Fault::Stalls),
        4 => breaks.prop_map(move |(after, reset)| Fault::Breaks(after, how(reset))),
        1 => Just(Fault::Breaks(0, Break::Long)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let i = || 0usize..12;
    let len = || select(vec![1u32, 4096, 60_000, 131_072, 400_000]);
    prop_oneof![
        5 => (i(), size(), end()).prop_map(|(i, size, end)| Step::Put(i, size, end)),
        2 => (i(), size(), end()).prop_map(|(i, size, end)| Step::Replace(i, size, end)),
        1 => i().prop_map(Step::Delete),
        2 => (1u64..5).prop_map(Step::Advance),
        2 => i().prop_map(Step::Lookup),
        2 => (i(), 1usize..5, any::<bool>()).prop_map(|(i, n, plus)| Step::List(i, n, plus)),
        5 => i().prop_map(Step::Open),
        2 => i().prop_map(Step::OpenKnown),
        3 => (i(), 0usize..1100, len()).prop_map(|(i, at, len)| Step::ReadAt(i, at, len)),
        8 => (i(), len()).prop_map(|(i, len)| Step::ReadOn(i, len)),
        2 => i().prop_map(Step::Release),
        1 => i().prop_map(Step::Forget),
        2 => fault().prop_map(Step::Fault),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        // Random numbers take most of the time.
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn any_sequence_of_calls_matches_the_model(
        cap in 1usize..4,
        chunk in select(vec![0usize, 1000, 64 << 10]),
        probe in select(vec![0u64, 1000, 64 << 10]),
        page in select(vec![1u16, 2, 1000]),
        trust in select(vec![0u32, 0, 1, 3]),
        watched in prop::bool::weighted(0.25),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new(cap, chunk, probe, page, trust);
            for step in steps {
                model.step(step).await;
                model.check();
                if watched {
                    model.check_tree().await;
                }
            }
            model.check_tree().await;
            model.end();
        });
    }
}
