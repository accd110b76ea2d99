//! Programs that write, over a store whose changes fail or whose answers are lost, against a model: what
//! a program is told agrees with what the store holds, and at each request of it, at which the mount may
//! crash, each key has a content that was meant to be committed. Rules W2 to W8 and W13 to W15.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use expirefs::bucket::honours::Honours;
use expirefs::error::Error;
use expirefs::expiry::Ttl;
use expirefs::fs::change::Replace;
use expirefs::pending::journal::Journal;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngAlgorithm;

use super::memory::writes::{Change, Changed, Fate};
use super::{MakeWriting, PART, Rig, Write, pattern};

const NAMES: [&str; 3] = ["a", "b", "d/c"];

/// Targets are numbers, each modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Edit(usize),
    Write(usize, usize, usize),
    Truncate(usize, usize),
    Fsync(usize),
    Close(usize),
    CloseInChild(usize),
    Rename(usize, usize, bool),
    Unlink(usize),
    Stamp(usize),
}

struct Handle {
    file: Write,
    /// None: its name is gone.
    key: Option<&'static str>,
    content: Vec<u8>,
    failed: Option<Error>,
    /// It edits a version of more than a part, which may be gone.
    large: bool,
    /// It may have failed, without a call that said so.
    doubtful: bool,
}

type Content = Option<Vec<u8>>;

struct Model {
    rig: Rig,
    /// What the store holds.
    state: BTreeMap<&'static str, Content>,
    handles: Vec<Handle>,
    /// All contents that a commit may have.
    meant: BTreeSet<Vec<u8>>,
    writes: u8,
    faulty: bool,
}

impl Model {
    fn holding(&self, key: &str) -> Content {
        self.rig.store.content(key).map(|bytes| bytes.to_vec())
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
        self.handles.iter().position(|handle| handle.key == Some(key))
    }

    /// A call on a handle has failed: it will fail the same way from now on.
    fn failed(&mut self, i: usize, error: Error) {
        let handle = &mut self.handles[i];
        let is_gone = handle.key.is_none() && handle.large && error == Error::Stale;
        assert!(self.faulty || is_gone, "{error}");
        if let Some(before) = &handle.failed {
            assert_eq!(before, &error, "W13");
        }
        handle.failed = Some(error);
    }

    async fn step(&mut self, step: &Step) {
        let count = self.handles.len().max(1);
        let mut changed = Vec::new();
        match *step {
            Step::Create(i) | Step::Edit(i) => {
                let key = NAMES[i % NAMES.len()];
                let truncates = matches!(step, Step::Create(_));
                let there = self.state[key].is_some();
                if self.of(key).is_some() || (!there && !truncates) {
                    return;
                }
                let file = match there {
                    true => self.rig.edit(key, truncates).await.unwrap(),
                    false => self.rig.create(key, false).await.unwrap(),
                };
                let content = self.state[key].clone().filter(|_| !truncates).unwrap_or_default();
                let key = Some(key);
                let (failed, large) = (None, content.len() > PART);
                self.handles.push(Handle { file, key, content, failed, large, doubtful: false });
            }
            Step::Write(i, at, length) if !self.handles.is_empty() => {
                self.writes = self.writes.wrapping_add(1);
                let bytes = pattern(self.writes, length);
                let handle = &mut self.handles[i % count];
                match self.rig.write(handle.file, at as u64, &bytes).await {
                    Ok(()) => {
                        assert_eq!(handle.failed, None, "W13");
                        let end = at + length;
                        handle.content.resize(handle.content.len().max(end), 0);
                        handle.content[at..end].copy_from_slice(&bytes);
                    }
                    Err(error) => self.failed(i % count, error),
                }
            }
            Step::Truncate(i, size) if !self.handles.is_empty() => {
                let handle = &mut self.handles[i % count];
                let Write { ino, fh } = handle.file;
                match self.rig.fs.truncate(ino, Some(fh), size as u64).await {
                    Ok(_) => handle.content.resize(size, 0),
                    Err(error) => self.failed(i % count, error),
                }
            }
            Step::Fsync(i) | Step::Close(i) if !self.handles.is_empty() => {
                let i = i % count;
                let Handle { file, key, content, .. } = &self.handles[i];
                let (file, key, content) = (*file, *key, content.clone());
                self.meant.insert(content.clone());
                let closes = matches!(step, Step::Close(_));
                let untold = self.rig.writer().commits.untold.get();
                let done = match closes {
                    true => self.rig.close(file).await,
                    false => self.rig.fs.fsync(file.fh).await,
                };
                let untold = self.rig.writer().commits.untold.get() > untold;
                if let Some(key) = key {
                    let may = match done.is_ok() && !untold {
                        true => vec![Some(content)],
                        false => vec![self.state[key].clone(), Some(content)],
                    };
                    changed.push((key, may));
                }
                assert!(!untold || self.faulty);
                if let Err(error) = done {
                    self.failed(i, error);
                }
                if closes {
                    self.handles.remove(i);
                }
            }
            Step::CloseInChild(i) if !self.handles.is_empty() => {
                let flushed = self.rig.fs.flush(self.handles[i % count].file.fh, 1).await;
                if let Err(error) = flushed {
                    self.failed(i % count, error);
                }
            }
            Step::Rename(i, j, replaces) => {
                let (from, to) = (NAMES[i % NAMES.len()], NAMES[j % NAMES.len()]);
                let replace = if replaces { Replace::Yes } else { Replace::No };
                let (source, target) = (self.of(from), self.of(to));
                let is_there = source.is_some() || self.state[from].is_some();
                if from == to || !is_there || self.handles.iter().any(|it| it.failed.is_some()) {
                    return;
                }
                let content = match source {
                    Some(i) => self.handles[i].content.clone(),
                    None => self.state[from].clone().unwrap_or_default(),
                };
                self.meant.insert(content.clone());
                let (old, there) = (self.state[from].clone(), self.state[to].clone());
                let renamed = self.rig.rename(from, to, replace).await;
                match &renamed {
                    Ok(()) => {
                        assert!(replaces || there.is_none(), "W6");
                        // The DELETE of the source may have failed, which is logged.
                        let left = if self.faulty { vec![None, old] } else { vec![None] };
                        changed.extend([(from, left), (to, vec![Some(content)])]);
                        if let Some(i) = target {
                            self.handles[i].key = None;
                        }
                        if let Some(i) = source {
                            self.handles[i].key = Some(to);
                        }
                    }
                    Err(error) => {
                        let refused = *error == Error::Exists && !replaces;
                        assert!(self.faulty || refused, "{error}");
                        if !refused || self.faulty {
                            changed.push((to, vec![there, Some(content)]));
                            if let Some(i) = source {
                                // Under which name it failed, if it did, is not told.
                                self.handles[i].doubtful = true;
                            }
                        }
                    }
                }
            }
            Step::Unlink(i) => {
                let key = NAMES[i % NAMES.len()];
                let handle = self.of(key);
                if handle.is_none() && self.state[key].is_none() {
                    return;
                }
                let unlinked = self.rig.unlink(key).await;
                let may = match unlinked {
                    Ok(()) => vec![None],
                    Err(error) => {
                        assert!(self.faulty, "{error}");
                        vec![None, self.state[key].clone()]
                    }
                };
                changed.push((key, may));
                if let Some(i) = handle {
                    self.handles[i].key = None;
                }
            }
            Step::Stamp(i) if !self.handles.is_empty() => {
                let ino = self.handles[i % count].file.ino;
                let name = "user.expirefs.ttl".as_ref();
                if let Err(error) = self.rig.fs.set_end(ino, name, Some(b"1h")).await {
                    self.failed(i % count, error);
                }
            }
            _ => {}
        }
        self.changed(step, &changed);
        // A handle whose failure was not told is closed: the model cannot tell what it holds.
        while let Some(i) = self.handles.iter().position(|handle| handle.doubtful) {
            let handle = self.handles.remove(i);
            self.meant.insert(handle.content.clone());
            let _ = self.rig.close(handle.file).await;
            let any = |key| (key, vec![self.state[key].clone(), Some(handle.content.clone())]);
            let changed: Vec<_> = NAMES.map(any).into();
            self.changed(step, &changed);
        }
        for key in NAMES {
            if self.of(key).is_none() {
                let seen = match self.rig.cat(key).await {
                    Ok(bytes) => Some(bytes),
                    Err(Error::NotFound) => None,
                    Err(error) => panic!("{key}: {error}"),
                };
                assert!(seen == self.state[key], "W15: {key} after {step:?}");
            }
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
    rig.store.decide(move |change, _| {
        let store = store.upgrade().expect("it asks");
        let mut journal = String::new();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            journal += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
        }
        for id in store.upload_ids() {
            if !journal.contains(&format!("\"id\":\"{id}\"")) {
                wrong.lock().unwrap().push(format!("W14: upload {id} is in no journal"));
            }
        }
        match fates.pop() {
            // An upload whose id nobody was told is for a lifecycle rule of the bucket.
            Some(Fate::Unclear { made: true }) if change == Change::Create => Fate::Well,
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
    let (handles, meant) = (Vec::new(), BTreeSet::new());
    let mut model = Model { rig, state, handles, meant, writes: 0, faulty };
    for step in steps {
        model.step(&step).await;
    }
    while !model.handles.is_empty() {
        model.step(&Step::Close(0)).await;
    }
    model.rig.store.make_all();
    model.rig.writer().until_aborted().await;
    assert_eq!(*wrong.lock().unwrap(), [""; 0]);
    for changed in model.rig.store.log() {
        if let Changed::Stored(_, bytes)
        | Changed::Completed(_, bytes)
        | Changed::Moved(_, _, bytes) = changed
        {
            assert!(bytes.is_empty() || model.meant.contains(&bytes[..]), "W14: {}", bytes.len());
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let i = || 0usize..6;
    let at = || select(vec![0usize, 1000, PART, 2 * PART + 7]);
    let length = || select(vec![1usize, 5000, PART, 2 * PART]);
    prop_oneof![
        4 => i().prop_map(Step::Create),
        2 => i().prop_map(Step::Edit),
        6 => (i(), at(), length()).prop_map(|(i, at, length)| Step::Write(i, at, length)),
        1 => (i(), at()).prop_map(|(i, at)| Step::Truncate(i, at)),
        2 => i().prop_map(Step::Fsync),
        4 => i().prop_map(Step::Close),
        1 => i().prop_map(Step::CloseInChild),
        3 => (i(), i(), prop::bool::weighted(0.7)).prop_map(|(i, j, all)| Step::Rename(i, j, all)),
        2 => i().prop_map(Step::Unlink),
        1 => i().prop_map(Step::Stamp),
    ]
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        6 => Just(Fate::Well),
        1 => Just(Fate::Fails(Error::Store("500".to_owned()))),
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
        renames in any::<bool>(),
        ttl in select(vec![Ttl::Never, Ttl::For(3600 * super::SECOND)]),
        fates in fates(),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let honours = Honours { rename: renames, ..Honours::ALL };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(any_program(honours, ttl, fates, steps));
    }
}
