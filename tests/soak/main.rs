//! A long test with all kinds of load (`scripts/soak`): a mount on SeaweedFS through a proxy that
//! causes faults in 2 % of all reads and 10 % of all changes, with a limit of 128 descriptors. Objects
//! are replaced and expire; readers read whole files, random pieces and parts, and hold files open;
//! writers change files in all ways that programs do (`writing.rs`). Every byte is checked, in the mount
//! and in the store; the resources of the daemon are sampled each second. Nothing may grow, hang, be
//! wrong or be lost.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use samples::{Sample, growth, svg, table};
use support::content::{KIB, MIB, content, part};
use support::mount::{Mount, Setup};
use support::proxy::{Fault, Proxy, at_random};
use support::s3_server::{Bucket, http_date, object, seaweedfs};
use writing::{Files, Writer, faults_of_changes, is_change, uploads_left};

mod samples;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses a part of it")]
mod support;
mod writing;

const KEYS: usize = 80;
/// Keys above [`KEYS`] that all writers replace.
const SHARED: usize = 4;
const READERS: u64 = 16;
const WRITERS: u64 = 6;
/// Handles that each reader keeps open.
const HELD: usize = 16;
/// One read in this many gets a fault, and one change in that many.
const ONE_IN: u64 = 50;
const ONE_CHANGE_IN: u64 = 10;
/// Longer than any system call may take: the kernel requests pages again if their read-ahead
/// failed, and each request may wait for a body and for the store.
const BOUND: Duration = Duration::from_secs(35);
/// An expiry is a whole second, and the store's clock is known to less than a second.
const SLACK: Duration = Duration::from_millis(1500);
const SIZES: [usize; 8] =
    [16, 5 * KIB, 60 * KIB, 200 * KIB, MIB + 1, 3 * MIB, 5 * MIB + 12345, 8 * MIB];

fn main() -> ExitCode {
    let minutes = std::env::args().nth(1).map_or(Ok(1.0), |arg| arg.parse::<f64>());
    let Ok(minutes) = minutes else {
        eprintln!("soak: expected a number of minutes");
        return ExitCode::from(2);
    };
    let length = Duration::from_secs_f64(60.0 * minutes);
    let bucket = seaweedfs().bucket("soak");
    let world = World::new(bucket);
    let proxy = Proxy::start(world.bucket.endpoint(), |_| Fault::None);
    let spool = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(proxy.endpoint(), &world.bucket.name)
        .writable()
        .with("--timeout 10s --log warn --part-size 5MiB --stage *.staged")
        .with(&format!("--spool {}", spool.path().display()))
        .nofile(128)
        .living(length + Duration::from_secs(300));
    let mount = setup.start();
    fs::create_dir(mount.path("shared")).expect("a directory, before there are faults");
    let writers: Vec<_> = (0..WRITERS).map(|i| Writer::new(&world, &mount, i)).collect();
    let fds_before = mount.process().fds();
    let reads = at_random(17, ONE_IN, true);
    proxy.script(move |request| match is_change(request) {
        true => faults_of_changes(request, ONE_CHANGE_IN),
        false => reads(request),
    });

    let (samples, files) = world.run(&mount, writers, length);
    let left = world.at_rest(&mount, fds_before);
    proxy.behave();
    world.assert_written(&files);
    let mut wrong = world.wrong.lock().unwrap().clone();
    wrong.extend(left);
    wrong.extend(growth(&samples));
    let slowest = Duration::from_micros(world.slowest.load(Ordering::Relaxed));
    if slowest > BOUND {
        wrong.push(format!("a call took {slowest:?}"));
    }
    let outcomes = world.outcomes.lock().unwrap();
    let all: u64 = outcomes.values().sum();
    let failed: u64 = outcomes.iter().filter(|(k, _)| k.contains("EIO")).map(|(_, n)| n).sum();
    // A body that breaks each time it is resumed finally is an error.
    if failed * 100 > all {
        wrong.push(format!("{failed} of {all} operations ended with EIO"));
    }
    println!("\n{}", table(&samples));
    println!("outcomes        {}", listed(&outcomes));
    println!("slowest call    {:.2} s", slowest.as_secs_f64());
    println!("faults          {} of {} requests", proxy.harm(), proxy.requests());
    println!("bodies resumed  {}", samples.last().map_or(0.0, |s| s.resumed));
    let plot = concat!(env!("CARGO_MANIFEST_DIR"), "/build/soak.svg");
    match fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/build"))
        .and_then(|()| fs::write(plot, svg(&samples)))
    {
        Ok(()) => println!("plot            {plot}"),
        Err(error) => println!("no plot: {plot}: {error}"),
    }
    let said = mount.said();
    drop(mount);
    // An abort may have failed: the next mount has it in the journal.
    let after_the_mount = world.bucket.uploads();
    let again = setup.start();
    let left = uploads_left(&world.bucket, Duration::from_secs(30));
    drop(again);
    println!("uploads left    {}, and {} by the next mount", after_the_mount.len(), left.len());
    wrong.extend(left.iter().map(|key| format!("an upload of {key} is left")));
    if !wrong.is_empty() {
        said.iter().filter(|line| line.contains("ERROR")).take(40).for_each(|l| println!("{l}"));
    }
    for line in wrong.iter().take(20) {
        println!("WRONG: {line}");
    }
    println!("{} passed, {} failed", u32::from(wrong.is_empty()), wrong.len());
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A version of an object: its seed determines its content.
#[derive(Clone, Copy)]
struct Version {
    len: usize,
    ends: Option<SystemTime>,
}

struct World {
    bucket: Bucket,
    /// All versions ever put, by key and seed.
    versions: Mutex<HashMap<(usize, u64), Version>>,
    seeds: AtomicU64,
    over: AtomicBool,
    outcomes: Mutex<BTreeMap<String, u64>>,
    /// Microseconds.
    slowest: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// Ends all threads when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Pseudo-random numbers (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

/// An open file, with its version and key.
struct Open {
    file: File,
    key: usize,
    seed: u64,
    len: usize,
}

fn name(key: usize) -> String {
    match key {
        0..KEYS => format!("d{}/k{key:02}", key % 4),
        shared => format!("shared/s{shared}"),
    }
}

impl World {
    fn new(bucket: Bucket) -> World {
        let world = World {
            bucket,
            versions: Mutex::default(),
            seeds: AtomicU64::new(1),
            over: AtomicBool::new(false),
            outcomes: Mutex::default(),
            slowest: AtomicU64::new(0),
            wrong: Mutex::default(),
        };
        let mut chance = Chance(7);
        (0..KEYS).for_each(|key| world.put(key, &mut chance));
        world
    }

    /// Puts a new version, which never expires, expires in some seconds, or has expired.
    fn put(&self, key: usize, chance: &mut Chance) {
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        let len = SIZES[chance.below(SIZES.len())];
        let ends = match chance.below(5) {
            0 => Some(SystemTime::now() - Duration::from_secs(5)),
            1 | 2 => Some(SystemTime::now() + Duration::from_secs(3 + chance.below(12) as u64)),
            _ => None,
        };
        self.versions.lock().unwrap().insert((key, seed), Version { len, ends });
        let upload = object(content(seed, len));
        let upload = match ends {
            Some(ends) => upload.expires(http_date(ends)),
            None => upload,
        };
        self.bucket.put(&name(key), upload);
    }

    /// Returns the samples, and what the writers have written.
    fn run(
        &self,
        mount: &Mount,
        writers: Vec<Writer<'_>>,
        length: Duration,
    ) -> (Vec<Sample>, Files) {
        let mut samples = Vec::new();
        let holding = Barrier::new(READERS as usize + 1);
        let files = thread::scope(|scope| {
            let over = Over(&self.over);
            scope.spawn(|| {
                let mut chance = Chance(99);
                while !self.over.load(Ordering::Relaxed) {
                    self.put(chance.below(KEYS), &mut chance);
                    thread::sleep(Duration::from_millis(150)); // the pace of a busy cache
                }
            });
            for reader in 0..READERS {
                let holding = &holding;
                scope.spawn(move || self.read(mount, &mut Chance(1000 + reader), holding));
            }
            let writers: Vec<_> =
                writers.into_iter().map(|writer| scope.spawn(move || writer.run())).collect();
            let mut done_before = 0;
            holding.wait();
            let started = Instant::now();
            while started.elapsed() < length {
                thread::sleep(Duration::from_secs(1)); // the period of the samples
                samples.push(Sample::take(mount, started.elapsed()));
                let n = samples.len();
                if n % 30 == 0 {
                    let done: u64 = self.outcomes.lock().unwrap().values().sum();
                    if done == done_before {
                        self.wrong(format!("no operation ended in the 30 s before {n} s"));
                    }
                    done_before = done;
                }
            }
            drop(over);
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
        });
        (samples, files)
    }

    fn read(&self, mount: &Mount, chance: &mut Chance, holding: &Barrier) {
        let mut held = Vec::new();
        // As many as later, so that what they need does not grow from the first sample to the last.
        while held.len() < HELD {
            held.extend(self.open(mount, chance.below(KEYS)));
        }
        holding.wait();
        while !self.over.load(Ordering::Relaxed) {
            let key = chance.below(KEYS + SHARED);
            match chance.below(10) {
                0 => self.tell("ls", self.timed(|| list(mount, key))),
                1 => self.tell("stat", self.timed(|| fs::metadata(mount.path(name(key))))),
                n => {
                    let Some(open) = self.open(mount, key) else { continue };
                    match n {
                        2 | 3 => self.whole(&open),
                        4 | 5 => (0..8).for_each(|_| self.piece(&open, chance)),
                        6 => self.range(&open, 0..open.len.min(64 * KIB), "read of a part"),
                        _ => held.push(open),
                    }
                }
            }
            if held.len() > HELD {
                let open: Open = held.remove(chance.below(HELD));
                self.piece(&open, chance);
                self.whole(&open);
            }
        }
    }

    /// Opens a key, and finds out its version.
    fn open(&self, mount: &Mount, key: usize) -> Option<Open> {
        let asked = SystemTime::now();
        let file = self.told("open", self.timed(|| File::open(mount.path(name(key)))))?;
        let mut stamp = [0; 8];
        let read = self.timed(|| file.read_exact_at(&mut stamp, 0));
        self.told("read of a stamp", read)?;
        let seed = u64::from_be_bytes(stamp);
        let Some(version) = self.versions.lock().unwrap().get(&(key, seed)).copied() else {
            self.wrong(format!("{} was never of seed {seed:#x}", name(key)));
            return None;
        };
        if version.ends.is_some_and(|ends| asked > ends + SLACK) {
            self.wrong(format!("{} was opened after its end", name(key)));
        }
        let len = self.told("fstat", self.timed(|| file.metadata()))?.len() as usize;
        if len != version.len {
            self.wrong(format!(
                "{} of seed {seed} has {len} bytes, not {}",
                name(key),
                version.len
            ));
        }
        Some(Open { file, key, seed, len })
    }

    fn whole(&self, open: &Open) {
        for start in (0..open.len).step_by(MIB) {
            self.range(open, start..open.len.min(start + MIB), "read of a whole");
        }
    }

    fn piece(&self, open: &Open, chance: &mut Chance) {
        let start = chance.below(open.len);
        let end = open.len.min(start + 1 + chance.below(64 * KIB));
        self.range(open, start..end, "read of a piece");
    }

    fn range(&self, open: &Open, range: std::ops::Range<usize>, what: &str) {
        let mut got = vec![0; range.len()];
        let read = self.timed(|| open.file.read_exact_at(&mut got, range.start as u64));
        if self.told(what, read).is_some() && got != part(open.seed, range.clone()) {
            self.wrong(format!("wrong bytes: {range:?} of {}, seed {}", name(open.key), open.seed));
        }
    }

    fn timed<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let started = Instant::now();
        let answer = call();
        self.slowest.fetch_max(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        answer
    }

    fn tell<T>(&self, what: &str, answer: io::Result<T>) {
        self.told(what, answer);
    }

    /// Counts the outcome of a call.
    fn told<T>(&self, what: &str, answer: io::Result<T>) -> Option<T> {
        let outcome = match &answer {
            Ok(_) => "ok".to_owned(),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => format!("{what}: ENOENT"),
                Some(libc::ESTALE) => format!("{what}: ESTALE"),
                Some(libc::EIO) => format!("{what}: EIO"),
                Some(libc::ENFILE) => format!("{what}: ENFILE"),
                _ => {
                    self.wrong(format!("{what}: {error}"));
                    format!("{what}: {error}")
                }
            },
        };
        *self.outcomes.lock().unwrap().entry(outcome).or_default() += 1;
        answer.ok()
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// Resources that are still held after all files and idle connections were closed.
    fn at_rest(&self, mount: &Mount, fds_before: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let status = mount.status();
            let mut held = writing::held(&status);
            for gauge in
                ["handles", "bodies_open", "opens_waiting", "reads_waiting", "buffer_bytes"]
            {
                let n = status.number(gauge);
                if n != 0 {
                    held.push(format!("{n} {gauge} in the end"));
                }
            }
            let process = mount.process();
            let (fds, close_wait) = (process.fds(), process.close_wait());
            if fds > fds_before || close_wait > 0 {
                held.push(format!(
                    "{fds} descriptors in the end, {fds_before} before; {close_wait} in CLOSE_WAIT"
                ));
            }
            if held.is_empty() || Instant::now() > deadline {
                return held;
            }
            thread::sleep(Duration::from_millis(200)); // descriptors tell nobody when they close
        }
    }
}

fn list(mount: &Mount, key: usize) -> io::Result<usize> {
    let name = name(key);
    let directory = name.split('/').next().unwrap_or_default();
    let entries = fs::read_dir(mount.path(directory))?;
    entries.map(|entry| entry.map(|_| 1)).sum()
}

fn listed(outcomes: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = outcomes.iter().map(|(what, n)| format!("{n} {what}")).collect();
    parts.join(", ")
}
