//! Operations on one pending file that run at the same time. Tasks are polled, and answers of the store
//! come, in another order for each seed: every operation ends, each commit has the bytes of one moment, and
//! in the end nothing is held. Rules W2, W3, W7, W8 and W13.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use expirefs::bucket::honours::Honours;
use expirefs::error::{Error, Result};
use expirefs::fs::OpenMode;
use expirefs::fs::change::Replace;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::memory::writes::{Change, Changed, Fate};
use super::{MakeWriting, Rig, Write, this_process};

/// Bytes of a part.
const PART: usize = 4 << 10;

/// How long operations may take that wait for nothing but the store's answers and the spool.
const HANG: Duration = Duration::from_secs(60);

/// A generator of numbers (SplitMix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// Polls a future only sometimes when it is woken, so that others run before it.
struct Shuffled<F>(Pin<Box<F>>, Random);

impl<F: Future> Future for Shuffled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.1.chance() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0.as_mut().poll(cx)
    }
}

/// What is open.
#[derive(Clone, Copy)]
struct Files {
    file: Write,
    /// The same file, once more.
    other: Write,
    /// Another file, which has the name that the first one may get.
    target: Option<Write>,
}

/// What is written to that.
const BELOW: &[u8] = b"below";

/// What runs at the same time.
#[derive(Clone, Debug)]
enum Operation {
    Write(usize, usize, u8),
    Truncate(usize),
    Fsync,
    /// close(2) of a duplicate.
    Flush,
    /// The close of the handle of all other operations: they do not run then.
    Close,
    /// The close of the other handle.
    CloseOther,
    CloseTarget,
    /// It is opened once more, by its inode as the kernel does that has looked it up before, its first
    /// byte is written, and it is closed.
    Reopen(u8),
    Stamp,
    Read,
    Rename,
    Unlink,
}

impl Operation {
    fn any(random: &mut Random, byte: u8, others: &mut Vec<Operation>) -> Operation {
        match random.below(12) {
            0..4 => {
                let at = random.of(&[0, 100, PART - 1, PART, 2 * PART]);
                Operation::Write(at, random.of(&[1, 50, PART, PART + 9]), byte)
            }
            4 => Operation::Truncate(random.of(&[0, 10, PART, PART + 7, 3 * PART])),
            5 | 6 => Operation::Fsync,
            7 => Operation::Flush,
            8 => random.of(&[Operation::Stamp, Operation::Reopen(byte)]),
            9 => Operation::Read,
            _ if others.is_empty() => Operation::Fsync,
            _ => others.swap_remove(random.below(others.len())),
        }
    }

    /// What it makes of some content; none: it changes no content.
    fn apply(&self, content: &[u8]) -> Option<Vec<u8>> {
        let mut content = content.to_vec();
        match *self {
            Operation::Write(at, length, byte) => {
                content.resize(content.len().max(at + length), 0);
                content[at..at + length].fill(byte);
            }
            Operation::Truncate(size) => content.resize(size, 0),
            Operation::Reopen(byte) => {
                content.resize(content.len().max(1), 0);
                content[0] = byte;
            }
            _ => return None,
        }
        Some(content)
    }

    async fn run(&self, rig: &Rig, files: Files) -> Result<Vec<u8>> {
        let (fs, Files { file, other, target }) = (&rig.fs, files);
        match *self {
            Operation::Write(at, length, byte) => {
                rig.write(file, at as u64, &vec![byte; length]).await?;
            }
            Operation::Truncate(size) => {
                _ = fs.truncate(file.ino, Some(file.fh), size as u64).await?;
            }
            Operation::Fsync => fs.fsync(file.fh).await?,
            Operation::Flush => fs.flush(file.fh, this_process()).await?,
            Operation::Close => rig.close(file).await?,
            Operation::CloseOther => rig.close(other).await?,
            Operation::CloseTarget => rig.close(target.expect("it is open")).await?,
            Operation::Reopen(byte) => {
                let mode = OpenMode { writes: true, truncate: false, exclusive: false };
                let fh = fs.open_for_writing(file.ino, mode, this_process()).await?;
                let again = Write { ino: file.ino, fh };
                let wrote = rig.write(again, 0, &[byte]).await;
                // What it has written is there, whatever becomes of this commit.
                let _ = rig.close(again).await;
                wrote?;
            }
            Operation::Stamp => {
                fs.set_end(file.ino, "user.expirefs.ttl".as_ref(), Some(b"2h")).await?
            }
            // In one piece, as a read(2) is.
            Operation::Read => {
                return fs.read(file.fh, 0, 1 << 20).await.map(|bytes| bytes.to_vec());
            }
            Operation::Rename => rig.rename("a", "b", Replace::Yes).await?,
            Operation::Unlink => rig.unlink("a").await?,
        }
        Ok(Vec::new())
    }
}

/// An operation that has ended. Times are numbers of events.
#[derive(Debug)]
struct Ended {
    operation: Operation,
    began: usize,
    ended: usize,
    /// Changes of the store when it began, and when it ended.
    changes: (usize, usize),
    answer: Result<Vec<u8>>,
}

/// The contents that some of these operations may have made, one after the other: all of `first`, and each
/// only after those that had ended before it began.
fn reachable(
    ended: &[Ended],
    initial: &[u8],
    first: impl Fn(&Ended) -> bool,
    may: impl Fn(&Ended) -> bool,
) -> BTreeSet<Vec<u8>> {
    let changes = |it: &&Ended| it.answer.is_ok() && it.operation.apply(&[]).is_some();
    let all: Vec<&Ended> = ended.iter().filter(changes).collect();
    let mut contents = BTreeSet::new();
    let mut paths = vec![(initial.to_vec(), BTreeSet::new())];
    while let Some((content, done)) = paths.pop() {
        let is_left = |i: &usize| !done.contains(i);
        let left: Vec<usize> = (0..all.len()).filter(is_left).collect();
        for i in &left {
            let is_next = left.iter().all(|other| all[*other].ended > all[*i].began);
            if is_next && may(all[*i]) {
                let mut done = done.clone();
                done.insert(*i);
                paths.push((all[*i].operation.apply(&content).unwrap(), done));
            }
        }
        if !left.iter().any(|i| first(all[*i])) {
            contents.insert(content);
        }
    }
    contents
}

/// Answers of the store that nobody has got yet.
type Held = Arc<Mutex<Vec<Arc<Semaphore>>>>;

/// Has the store answer when it is told to, or fail now and then.
fn hold_answers(rig: &Rig, faulty: bool, mut random: Random) -> Held {
    let held = Held::default();
    let holds = held.clone();
    rig.store.decide(move |change, _| {
        // What becomes of uploads whose begin or abort has no answer is not looked at here.
        if faulty && !matches!(change, Change::Create | Change::Abort) && random.below(8) == 0 {
            return match random.below(3) {
                0 => Fate::Fails(Error::Store("500".into())),
                made => Fate::Unclear { made: made == 1 },
            };
        }
        let until = Arc::new(Semaphore::new(0));
        match random.below(3) {
            0 => Fate::Well,
            1 => {
                holds.lock().unwrap().push(until.clone());
                Fate::Waits(until)
            }
            _ => {
                holds.lock().unwrap().push(until.clone());
                Fate::Lags(until)
            }
        }
    });
    held
}

fn release_one(held: &Held, random: &mut Random) {
    let mut held = held.lock().unwrap();
    if !held.is_empty() {
        let i = random.below(held.len());
        held.swap_remove(i).add_permits(1);
    }
}

/// Runs operations to their ends, in some order.
async fn run(
    rig: &Arc<Rig>,
    operations: Vec<Operation>,
    files: Files,
    faulty: bool,
    random: &mut Random,
) -> Vec<Ended> {
    let held = hold_answers(rig, faulty, Random(random.below(1 << 30) as u64));
    let events = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for operation in operations {
        let (rig, events) = (rig.clone(), events.clone());
        let run = async move {
            let (began, log) = (events.fetch_add(1, Ordering::SeqCst), rig.store.log().len());
            let answer = operation.run(&rig, files).await;
            let changes = (log, rig.store.log().len());
            let ended = events.fetch_add(1, Ordering::SeqCst);
            Ended { operation, began, ended, changes, answer }
        };
        tasks.spawn(Shuffled(Box::pin(run), Random(random.below(1 << 30) as u64)));
    }
    let (mut ended, started) = (Vec::new(), Instant::now());
    while !tasks.is_empty() {
        match tasks.try_join_next() {
            Some(done) => ended.push(done.unwrap()),
            // A commit that is tried again makes a pause.
            None if faulty => tokio::time::advance(Duration::from_millis(1)).await,
            None => tokio::task::yield_now().await,
        }
        if random.below(4) == 0 {
            release_one(&held, random);
        }
        assert!(started.elapsed() < HANG, "{} operations hang", tasks.len());
    }
    rig.store.make_all();
    while !held.lock().unwrap().is_empty() {
        release_one(&held, random);
    }
    ended
}

/// One race: what the seed says.
async fn race(seed: u64) {
    let mut random = Random(seed);
    let honours = Honours { rename: random.chance(), ..Honours::ALL };
    let memory = random.of(&[2 * PART, 16 * PART]);
    let make = MakeWriting { honours, memory, part: PART as u64, ..MakeWriting::default() };
    let rig = Arc::new(make.rig());
    // A new file, or the edit of an object; of one part, or more.
    let size = random.of(&[0, 100, PART, 2 * PART + 100]);
    let mut initial = vec![1; size];
    let is_edit = random.chance();
    let file = match is_edit {
        true => {
            rig.store.put("a", initial.clone(), None);
            rig.edit("a", false).await.unwrap()
        }
        false => {
            let file = rig.create("a", false).await.unwrap();
            rig.write(file, 0, &initial).await.unwrap();
            file
        }
    };
    if random.chance() {
        rig.write(file, 10, &[2; 20]).await.unwrap();
        initial.resize(size.max(30), 0);
        initial[10..30].fill(2);
    }
    let other = rig.edit("a", false).await.unwrap();
    let name = random.of(&[Operation::Rename, Operation::Unlink]);
    let mut others = vec![name, Operation::CloseOther];
    let mut target = None;
    if random.below(3) == 0 {
        let below = rig.create("b", false).await.unwrap();
        rig.write(below, 0, BELOW).await.unwrap();
        others.push(Operation::CloseTarget);
        target = Some(below);
    }
    let files = Files { file, other, target };
    let operations: Vec<Operation> = match random.below(4) {
        0 => {
            let mut all = [&others[..], &[Operation::Close, Operation::Reopen(9)]].concat();
            all.remove(random.below(all.len()));
            all
        }
        _ => (0..2 + random.below(4) as u8)
            .map(|i| Operation::any(&mut random, 10 + i, &mut others))
            .collect(),
    };
    let before = rig.store.log().len();
    let faulty = random.below(4) == 0;
    let ended = run(&rig, operations, files, faulty, &mut random).await;
    if std::env::var("EXPIREFS_SEED").is_ok() {
        println!("{size} bytes, an edit: {is_edit}, {:#?}", (&ended, rig.store.log()));
    }
    check(&rig, &ended, &initial, before);

    let has = |wanted: fn(&Operation) -> bool| ended.iter().any(|it| wanted(&it.operation));
    let is_gone = has(|it| matches!(it, Operation::Unlink));
    // An edit of more than a part needs its object.
    let may_fail = faulty || is_gone && is_edit && size > PART;
    if !has(|it| matches!(it, Operation::CloseOther)) {
        let closed = rig.close(other).await;
        assert!(closed.is_ok() || may_fail, "{closed:?}");
    }
    if let Some(target) = target.filter(|_| !has(|it| matches!(it, Operation::CloseTarget))) {
        let closed = rig.close(target).await;
        assert!(closed.is_ok() || may_fail, "{closed:?}");
    }
    if !has(|it| matches!(it, Operation::Close)) {
        let closed = rig.close(file).await;
        assert!(closed.is_ok() || may_fail, "{closed:?}");
    }
    assert!(rig.fs.writing().unwrap().overlay.drafts().is_empty(), "it is pending still");
    rig.must_be_written().await;
    let is_right = |it: &Ended| match it.operation {
        // The kernel looks the name up again.
        Operation::Reopen(_) if it.answer == Err(Error::Stale) => true,
        _ => it.answer.is_ok() || may_fail,
    };
    assert!(ended.iter().all(is_right), "an error: {ended:?}");
    if faulty {
        // That each commit has the bytes of one moment was checked, and is all that is known.
        return;
    }
    let last = reachable(&ended, &initial, |_| true, |_| true);
    let below = target.map(|_| BELOW.to_vec());
    let (key, beside) = match has(|it| matches!(it, Operation::Rename)) {
        true => ("b", ("a", None)),
        false => ("a", ("b", below)),
    };
    let content = rig.store.content(key).map(|bytes| bytes.to_vec());
    match is_gone {
        true => assert_eq!(content, None, "W8"),
        false => {
            let content = content.expect("it was committed");
            assert!(last.contains(&content), "{} bytes in the end", content.len());
            assert!(rig.cat(key).await.unwrap() == content, "W15");
        }
    }
    let (beside, content) = beside;
    assert_eq!(rig.store.content(beside).map(|bytes| bytes.to_vec()), content, "W7: {beside}");
    assert_eq!(rig.cat(beside).await, content.ok_or(Error::NotFound), "{beside}");
}

/// Each commit and each read has what was there at one moment of it.
fn check(rig: &Rig, ended: &[Ended], initial: &[u8], before: usize) {
    let log = rig.store.log();
    let mut last = None;
    for (i, changed) in log.iter().enumerate().skip(before) {
        if let Changed::Stored(_, bytes) | Changed::Completed(_, bytes) = changed {
            if bytes == BELOW {
                continue;
            }
            let contents = reachable(ended, initial, |_| false, |it| it.changes.0 <= i);
            assert!(contents.contains(&bytes[..]), "W13: a commit of {} bytes", bytes.len());
            last = Some((i, bytes.clone()));
        }
        for it in ended.iter().filter(|it| it.answer.is_ok() && it.changes.1 == i + 1) {
            let commits = matches!(it.operation, Operation::Fsync | Operation::Rename);
            if let Some((_, bytes)) = last.as_ref().filter(|_| commits) {
                let earlier = |other: &Ended| other.ended < it.began;
                let contents = reachable(ended, initial, earlier, |_| true);
                assert!(contents.contains(&bytes[..]), "W3: {it:?} has committed too little");
            }
        }
    }
    for it in ended.iter().filter(|it| matches!(it.operation, Operation::Read)) {
        let Ok(bytes) = &it.answer else { continue };
        let earlier = |other: &Ended| other.ended < it.began;
        let contents = reachable(ended, initial, earlier, |other| other.began < it.ended);
        assert!(contents.contains(bytes), "W2: a read of {} bytes", bytes.len());
    }
}

/// A runtime of one thread, on which nothing but the seed and the disk decide what runs next.
fn block_on(work: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(work);
}

#[test]
fn operations_that_race_end_and_each_commit_has_the_bytes_of_one_moment() {
    let seeds = match std::env::var("EXPIREFS_SEED") {
        Ok(seed) => seed.parse().unwrap()..seed.parse::<u64>().unwrap() + 1,
        Err(_) => 0..3000,
    };
    for seed in seeds {
        let raced = std::panic::catch_unwind(|| block_on(race(seed)));
        assert!(raced.is_ok(), "seed {seed}: run it alone with EXPIREFS_SEED={seed}");
    }
}
