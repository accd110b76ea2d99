//! A crash after each request: programs that write by the client of S3, and each prefix of the log of what
//! they have changed in the server. Rules W7, W13 and W14.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use expirefs::body::{Accounts, Ledger, Patience, Unit};
use expirefs::bucket::Bucket;
use expirefs::bucket::honours::Honours;
use expirefs::catalog::index::Index;
use expirefs::catalog::{Trust, probe};
use expirefs::embedded::{Contents, Effect, Mutation};
use expirefs::error::Error;
use expirefs::expiry::{Policy, Touch, Ttl, TtlRules};
use expirefs::fs::change::Replace;
use expirefs::fs::inode::ROOT;
use expirefs::fs::listing::{self, Exactness};
use expirefs::fs::{Fs, Lookup, OpenMode, Overlay, Settings, Writing};
use expirefs::glob::Globs;
use expirefs::name::Prefix;
use expirefs::pending::journal::{Entry, Journal};
use expirefs::pending::{self, Room, Spool, Writer};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngAlgorithm;

use super::{BUCKET, Rig, rig};

const SECOND: Duration = Duration::from_secs(1);
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Bytes of a part: the least that S3 takes.
const PART: usize = 5 << 20;

/// What a program does with a name. Numbers are modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    /// Opens it, writes pieces (where and how long), and closes it.
    Write {
        name: usize,
        truncates: bool,
        pieces: Vec<(usize, usize)>,
        /// fsync(2) between the pieces.
        syncs: bool,
        /// A new name before its close.
        renamed: Option<usize>,
    },
    Truncate(usize, usize),
    Rename(usize, usize),
    Unlink(usize),
    /// It gets another expiry.
    Renew(usize),
}

type State = BTreeMap<&'static str, Option<Bytes>>;

/// A mount without a kernel, and what is known of its bucket.
struct Program {
    rig: Rig,
    fs: Arc<Fs>,
    writer: Arc<Writer>,
    /// What it was told that the bucket has.
    told: State,
    /// What the bucket has after the mutations that were checked.
    contents: Contents,
    checked: usize,
    writes: u8,
}

fn file_system(rig: &Rig, honours: Honours, dir: &Path) -> (Arc<Fs>, Arc<Writer>) {
    let store = Arc::new(rig.store.clone());
    let bucket =
        Bucket { store: store.clone(), clock: rig.clock.clone(), policy: Policy::default() };
    let accounts = Accounts::new(8, true, 128 << 20);
    let (journal, left) = Journal::open(dir, BUCKET).unwrap();
    assert_eq!(left, []);
    let rules = pending::Rules {
        prefix: Prefix::default(),
        ttl: TtlRules::new(vec![], Ttl::For(3600 * SECOND)),
        content_type_by_name: true,
        storage_class: None,
        timeout: 10 * SECOND,
    };
    let spool = Spool::open(&std::env::temp_dir(), 1 << 30, PART as u64).unwrap();
    let memory = Ledger::new(Unit::Kib, (4 * PART) >> 10, true);
    let room = Room { part: PART as u64, memory, spool: Some(spool) };
    let bodies = accounts.bodies.clone();
    let writer = Writer::new(bucket.clone(), store, honours, rules, room, bodies, Some(journal));
    let writing = Writing {
        writer: writer.clone(),
        stage: Globs::new(vec![]),
        touch: Touch::Ignore,
        strict_attributes: false,
        overlay: Overlay::default(),
        told_of_order: AtomicBool::new(false),
    };
    let settings = Settings {
        prefix: Prefix::default(),
        trust: Trust::For(SECOND),
        negative_ttl: Duration::ZERO,
        patience: Patience { open_wait: 5 * SECOND, timeout: 10 * SECOND },
        probe: probe::Limits { size: 64 << 10, cache: 32 << 20 },
        listing: listing::Rules {
            page: 1000,
            fan_out: 64,
            patience: 7 * SECOND,
            exactness: Exactness::Exact,
        },
    };
    let index = Index::new(1 << 20, None);
    let fs = Fs::new(bucket, rig.metrics.clone(), accounts, settings, index, Some(writing));
    (Arc::new(fs), writer)
}

/// Has the journal read at each mutation, as the next mount would do if this one crashed then. Returns
/// what is missing in it.
fn watch(rig: &Rig, dir: &Path) -> Arc<Mutex<Vec<String>>> {
    let (missing, dir) = (Arc::<Mutex<Vec<String>>>::default(), dir.to_owned());
    let (told, mut begun) = (missing.clone(), BTreeMap::new());
    rig.server.handle().watch_mutations(move |mutation| {
        for effect in &mutation.effects {
            match effect {
                Effect::Begun { key, id } => _ = begun.insert(id.clone(), key.clone()),
                Effect::Ended { id } => _ = begun.remove(id),
                _ => {}
            }
        }
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let (_, left) = Journal::open(copy.path(), BUCKET).unwrap();
        let is_there = |id: &str, key: &str| {
            left.iter().any(|entry| match entry {
                Entry::Upload(upload) => upload.id == id,
                // The answer with its id was not received.
                Entry::Creation(creation) => *creation.key == *key,
            })
        };
        let lost = begun.iter().filter(|(id, key)| !is_there(id, key));
        told.lock().unwrap().extend(lost.map(|(id, _)| format!("{id} after {mutation:?}")));
    });
    missing
}

impl Program {
    /// A call has returned that was to leave these contents. Each state of the bucket since the last one
    /// has the old content or the new one under each key. A rename has its bytes under one of both names.
    fn told(&mut self, call: &str, changed: &[(&'static str, Option<Bytes>)]) {
        let mut after = self.told.clone();
        after.extend(changed.iter().cloned());
        let log: Vec<Mutation> = self.rig.server.handle().mutations(BUCKET);
        let moved = match changed {
            [(from, None), (_, Some(bytes))] => self.told[from].clone().map(|_| bytes.clone()),
            _ => None,
        };
        for mutation in &log[self.checked..] {
            self.contents.apply(mutation);
            let at = format!("{call}, after {:?}", mutation.operation);
            for key in NAMES {
                let has = self.contents.objects.get(key).map(|object| object.body.clone());
                let size = |content: &Option<Bytes>| content.as_ref().map(Bytes::len);
                let (old, new) = (&self.told[key], &after[key]);
                let sizes = [&has, old, new].map(size);
                assert!(has == *old || has == *new, "{at}: {key} has, had, gets {sizes:?}");
            }
            let ends = |key: &str| self.contents.objects[key].expires.is_some();
            let keys: Vec<_> = self.contents.objects.keys().collect();
            assert!(keys.iter().all(|key| ends(key)), "{at}: no expiry");
            if let Some(bytes) = &moved {
                let old = self.told[changed[0].0].as_ref();
                let bodies = self.contents.objects.values().map(|object| &object.body);
                assert!({ bodies }.any(|body| body == bytes || Some(body) == old), "{at}: lost");
            }
        }
        self.checked = log.len();
        self.told = after;
        for key in NAMES {
            let has = self.contents.objects.get(key).map(|object| &object.body);
            assert!(has == self.told[key].as_ref(), "{call}: {key} is not what was told");
        }
    }

    async fn ino(&self, name: &str) -> Option<u64> {
        match self.fs.lookup(ROOT, OsStr::new(name)).await.unwrap() {
            Lookup::Found(attr) => Some(attr.ino),
            Lookup::Nothing(_) => None,
        }
    }

    /// open(2) with O_CREAT, as the kernel does it.
    async fn open(&self, name: &str, truncate: bool) -> (u64, u64) {
        let mode = OpenMode { writes: true, truncate, exclusive: false };
        for _ in 0..3 {
            let Some(ino) = self.ino(name).await else {
                let created = self.fs.create(ROOT, OsStr::new(name), mode, std::process::id());
                let (attr, fh) = created.await.unwrap();
                return (attr.ino, fh);
            };
            match self.fs.open_for_writing(ino, mode, std::process::id()).await {
                Err(Error::Stale) => {}
                opened => return (ino, opened.unwrap()),
            }
        }
        panic!("{name} is stale, time and again");
    }

    async fn write(&mut self, fh: u64, content: &mut Vec<u8>, at: usize, length: usize) {
        self.writes = self.writes.wrapping_add(1);
        let bytes = Bytes::from(vec![self.writes; length]);
        content.resize(content.len().max(at + length), 0);
        content[at..at + length].copy_from_slice(&bytes);
        // By pieces as large as the kernel's.
        for start in (0..length).step_by(1 << 20) {
            let end = length.min(start + (1 << 20));
            let fills = self.fs.write(fh, (at + start) as u64, bytes.slice(start..end)).await;
            if fills.unwrap() {
                self.fs.send_parts(fh, (at + end) as u64).await;
            }
        }
    }

    async fn step(&mut self, step: &Step) {
        let name = |i: usize| NAMES[i % NAMES.len()];
        match step {
            Step::Write { name: i, truncates, pieces, syncs, renamed } => {
                let mut key = name(*i);
                let (_, fh) = self.open(key, *truncates).await;
                let old = self.told[key].clone().filter(|_| !truncates);
                let mut content = old.map_or(vec![], |bytes| bytes.to_vec());
                for (at, length) in pieces {
                    self.write(fh, &mut content, *at, *length).await;
                    self.told("write", &[]);
                    if *syncs {
                        self.fs.fsync(fh).await.unwrap();
                        self.told("fsync", &[(key, Some(content.clone().into()))]);
                    }
                }
                if let Some(to) = renamed.map(name).filter(|to| *to != key) {
                    self.rename(key, to, content.clone().into()).await;
                    key = to;
                }
                self.fs.flush(fh, std::process::id()).await.unwrap();
                self.fs.release(fh).await.unwrap();
                self.told("close", &[(key, Some(content.into()))]);
            }
            Step::Truncate(i, size) => {
                let key = name(*i);
                let Some(ino) = self.ino(key).await else { return };
                self.fs.truncate(ino, None, *size as u64).await.unwrap();
                let mut content = self.told[key].clone().unwrap_or_default().to_vec();
                content.resize(*size, 0);
                self.told("truncate", &[(key, Some(content.into()))]);
            }
            Step::Rename(i, j) => {
                let (from, to) = (name(*i), name(*j));
                if let Some(content) = self.told[from].clone().filter(|_| from != to) {
                    self.rename(from, to, content).await;
                }
            }
            Step::Unlink(i) if self.told[name(*i)].is_some() => {
                self.fs.unlink(ROOT, OsStr::new(name(*i))).await.unwrap();
                self.told("unlink", &[(name(*i), None)]);
            }
            Step::Renew(i) => {
                let Some(ino) = self.ino(name(*i)).await else { return };
                let ttl = "user.expirefs.ttl".as_ref();
                self.fs.set_end(ino, ttl, Some(b"2h")).await.unwrap();
                self.told("setxattr", &[]);
            }
            Step::Unlink(_) => {}
        }
    }

    async fn rename(&mut self, from: &'static str, to: &'static str, content: Bytes) {
        let [source, target] = [from, to].map(|name| (ROOT, OsStr::new(name)));
        self.fs.rename(source, target, Replace::Yes, 1).await.unwrap();
        self.told("rename", &[(from, None), (to, Some(content))]);
    }
}

async fn any_program(honours: Honours, steps: Vec<Step>) {
    let (rig, _budget) = rig(10 * SECOND).await;
    let dir = tempfile::tempdir().unwrap();
    let missing = watch(&rig, dir.path());
    let (fs, writer) = file_system(&rig, honours, dir.path());
    let told = NAMES.map(|key| (key, None)).into();
    let contents = Contents::default();
    let mut program = Program { rig, fs, writer, told, contents, checked: 0, writes: 0 };
    for step in &steps {
        program.step(step).await;
    }
    program.writer.until_aborted().await;
    program.told("the end", &[]);
    assert_eq!(program.contents.uploads, BTreeMap::new(), "uploads that nobody completes");
    assert_eq!(*missing.lock().unwrap(), [""; 0], "W14: not in the journal");
}

fn step() -> impl Strategy<Value = Step> {
    let i = || 0usize..NAMES.len();
    let piece = || {
        let at = select(vec![0, 100, PART - 1, PART, 2 * PART + 7]);
        (at, select(vec![1usize, 5000, 5000, PART + 1]))
    };
    let write = (
        (i(), any::<bool>(), any::<bool>()),
        prop::collection::vec(piece(), 1..3),
        prop::option::weighted(0.3, i()),
    );
    prop_oneof![
        5 => write.prop_map(|((name, truncates, syncs), pieces, renamed)| {
            Step::Write { name, truncates, pieces, syncs, renamed }
        }),
        1 => (i(), select(vec![0, 50, PART, PART + 50])).prop_map(|(i, n)| Step::Truncate(i, n)),
        2 => (i(), i()).prop_map(|(i, j)| Step::Rename(i, j)),
        1 => i().prop_map(Step::Unlink),
        1 => i().prop_map(Step::Renew),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_algorithm: RngAlgorithm::XorShift,
        max_shrink_iters: 60,
        ..ProptestConfig::with_cases(10)
    })]

    #[test]
    fn after_a_crash_each_key_has_its_old_or_its_new_content_and_uploads_are_in_the_journal(
        honours in select(vec![
            Honours::ALL, Honours { rename: false, ..Honours::ALL }, Honours::NONE,
        ]),
        steps in prop::collection::vec(step(), 3..12),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(any_program(honours, steps));
    }
}
