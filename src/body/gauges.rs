//! What others can read of a reader without waiting for its lock.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// What a reader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No body yet: the content came with the lookup, or is in the page cache.
    Unopened,
    /// A read is in flight.
    Reading,
    /// The body is open and no read is in flight.
    Idle,
    /// The body was closed to free its permit for another handle; the next read resumes it.
    Parked,
    /// The body was read to the end of the requested range, and closed.
    Drained,
}

impl State {
    const ALL: [State; 5] =
        [State::Unopened, State::Reading, State::Idle, State::Parked, State::Drained];
}

/// See the module.
pub struct Gauges {
    born: Instant,
    /// Whether a read was answered, by this reader or from the page cache.
    pub answered: AtomicBool,
    /// Every byte of the object has been delivered.
    pub delivered: AtomicBool,
    /// The rest of the object was fetched, and no task is storing it in the page cache yet.
    pub surplus: AtomicBool,
    /// A [`State`]. Written by [`super::stage::Response`] alone.
    pub stage: AtomicU8,
    /// Reads in flight, including those that wait for the lock.
    reading: AtomicUsize,
    /// Offset after the last byte read.
    offset: AtomicU64,
    /// Milliseconds after `born`; 0: never.
    last_read: AtomicU64,
    /// When the body was opened or last answered a read, in milliseconds after `born`.
    active: AtomicU64,
}

impl Gauges {
    /// `answered`: the page cache has some of the object, and may have answered reads.
    pub fn new(answered: bool) -> Gauges {
        Gauges {
            born: Instant::now(),
            answered: AtomicBool::new(answered),
            delivered: AtomicBool::new(false),
            surplus: AtomicBool::new(false),
            stage: AtomicU8::new(State::Unopened as u8),
            reading: AtomicUsize::new(0),
            offset: AtomicU64::new(0),
            last_read: AtomicU64::new(0),
            active: AtomicU64::new(0),
        }
    }

    /// Counts a read as in flight until the result is dropped.
    pub fn reading(&self) -> Reading<'_> {
        self.reading.fetch_add(1, Ordering::Relaxed);
        Reading(self)
    }

    /// A read up to this offset was answered.
    pub fn read_to(&self, offset: u64) {
        self.offset.store(offset, Ordering::Relaxed);
        self.last_read.store(self.millis().max(1), Ordering::Relaxed);
        self.answered.store(true, Ordering::Relaxed);
        self.note_active();
    }

    pub fn note_active(&self) {
        self.active.store(self.millis(), Ordering::Relaxed);
    }

    /// Whether the reader has been inactive for at least `time`.
    pub fn inactive_for(&self, time: Duration) -> bool {
        let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
        self.age() >= active + time
    }

    pub fn state(&self) -> State {
        if self.reading.load(Ordering::Relaxed) > 0 {
            return State::Reading;
        }
        let stage = usize::from(self.stage.load(Ordering::Relaxed));
        State::ALL.get(stage).copied().unwrap_or(State::Unopened)
    }

    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Time since the last read was answered, if there was one.
    pub fn unread_for(&self) -> Option<Duration> {
        match self.last_read.load(Ordering::Relaxed) {
            0 => None,
            at => Some(self.age().saturating_sub(Duration::from_millis(at))),
        }
    }

    fn millis(&self) -> u64 {
        self.age().as_millis() as u64
    }
}

/// A read in flight.
pub struct Reading<'a>(&'a Gauges);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::Relaxed);
    }
}
