//! What can be seen of a reader without waiting for its turn.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// What a reader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No body yet: the content came with the lookup, or is with the kernel.
    Unopened,
    /// A read is under way.
    Reading,
    /// The body is open and nobody reads it.
    Idle,
    /// The body was closed in favour of another handle; the next read resumes it.
    Parked,
    /// The body was read to the end of what was asked for, and closed.
    Drained,
}

impl State {
    const ALL: [State; 5] =
        [State::Unopened, State::Reading, State::Idle, State::Parked, State::Drained];
}

/// See the module.
pub struct Gauges {
    born: Instant,
    /// Of a read, here or by the kernel.
    pub answered: AtomicBool,
    /// Every byte of the object has gone out.
    pub delivered: AtomicBool,
    /// The rest of the object has come, and nobody is giving it to the kernel yet.
    pub surplus: AtomicBool,
    /// A [`State`]. Written by [`super::stage::Response`] alone.
    pub stage: AtomicU8,
    /// Reads under way, those waiting for their turn included.
    reading: AtomicUsize,
    /// Offset after the last byte read.
    offset: AtomicU64,
    /// Milliseconds after `born`; 0: never.
    last_read: AtomicU64,
    /// When the body was opened or answered a read last, in milliseconds after `born`.
    active: AtomicU64,
}

impl Gauges {
    /// `answered`: the kernel has some of the object, and may have answered reads with it.
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

    /// Counts a read, as long as the result lives.
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

    /// Whether so much time has passed since it was active.
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

/// A read under way.
pub struct Reading<'a>(&'a Gauges);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::Relaxed);
    }
}
