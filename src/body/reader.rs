//! The reader of a file handle: at most one body, and a window of the bytes it has brought.

use std::ops::Range;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::buffer::{Buffer, kib};
use super::pattern::{LAST_SPAN, NEAR, Pattern};
use super::{Accounts, Body, Holder, Idle, Patience, Permit, Unit};
use crate::error::{Error, Result};
use crate::store::{Object, Store, Version};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Weak};

/// What is missing of an object is taken in whole by the open that asks for it, up to this size:
/// its bytes follow the headers in the same packets, and the body is closed before the first read.
const SMALL: u64 = 128 << 10;

/// How often one read resumes a body that breaks (rule R3), and after which pause the first time;
/// each pause is twice as long as the one before, and up to as much again.
const RESUMES_A_READ: usize = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How much more often than it was read a handle's body is resumed.
const RESUMES: u32 = 16;

/// What a pull may bring beyond what was waited for: a chunk of the HTTP client.
const OVERSHOOT: u64 = crate::store::CHUNK as u64;

/// Reads one object version for one handle, through at most one body at a time.
pub struct Reader {
    me: Weak<Reader>,
    store: Arc<dyn Store>,
    accounts: Accounts,
    version: Arc<Version>,
    patience: Patience,
    born: Instant,
    /// Held by the one read whose turn it is, over its waits too: nobody else may touch the body
    /// then, and [`Holder::park`] sees by it that the body is busy. Reads queue in order.
    stream: Mutex<Stream>,
    gauges: Gauges,
}

#[derive(Default)]
struct Stream {
    body: Option<Body>,
    buffer: Buffer,
    pattern: Pattern,
    /// The longest request seen: the measure of what the kernel may reorder.
    request: u64,
    /// How many more times a broken body is resumed: each read that is answered adds one.
    resumes_left: u32,
}

/// What `status` shows of a reader without waiting for its turn.
#[derive(Default)]
struct Gauges {
    offset: AtomicU64,
    /// Milliseconds after `born`; 0: never.
    last_read: AtomicU64,
    begun: AtomicBool,
    /// When the body was opened or answered a read last, in milliseconds after `born`.
    active: AtomicU64,
    /// A read, here or by the kernel.
    answered: AtomicBool,
    parked: AtomicBool,
    /// A body is open. Written by who has the turn.
    open: AtomicBool,
    /// Reads under way, those waiting for their turn included.
    reading: AtomicUsize,
    delivered: AtomicBool,
    /// The rest of the object has come, and nobody is giving it to the kernel yet.
    surplus: AtomicBool,
}

/// One of a number of something, for as long as it lives.
struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn one_more(number: &'a AtomicUsize) -> Count<'a> {
        number.fetch_add(1, Ordering::Relaxed);
        Count(number)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One use of a reader. When it is over, cancelled or by a panic too, who waits is told.
struct Use<'a>(&'a Reader);

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.accounts.bodies.idle(self.0);
        self.0.accounts.memory.idle(self.0);
    }
}

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

impl Reader {
    /// A reader that has `first`, the first bytes of the object, already; they may be none. Where
    /// `given`, the kernel has some, too: what it answers with those is not seen here.
    pub fn new(
        store: Arc<dyn Store>,
        accounts: Accounts,
        version: Arc<Version>,
        first: Bytes,
        given: bool,
        patience: Patience,
    ) -> Arc<Reader> {
        Arc::new_cyclic(|me: &Weak<Reader>| {
            let mut stream = Stream { resumes_left: RESUMES, ..Stream::default() };
            if !first.is_empty()
                && let Some(memory) =
                    accounts.memory.try_acquire(me.clone(), kib(first.len() as u64))
            {
                stream.buffer.memory = Some(memory);
                stream.buffer.window.push(0, first);
                stream.buffer.settle();
            }
            Reader {
                me: me.clone(),
                store,
                accounts,
                version,
                patience,
                born: Instant::now(),
                stream: Mutex::new(stream),
                gauges: Gauges { answered: AtomicBool::new(given), ..Gauges::default() },
            }
        })
    }

    /// Asks for what is missing of the object, and tells what its headers said; asks nothing
    /// where nothing is missing.
    pub async fn begin(&self) -> Result<Option<Object>> {
        let _use = Use(self);
        self.ask_for_the_rest().await
    }

    async fn ask_for_the_rest(&self) -> Result<Option<Object>> {
        let start = self.stream.lock().await.buffer.window.end();
        if start == self.version.size {
            return Ok(None);
        }
        let (cap, waited) = (self.accounts.bodies.cap(), self.patience.open_wait);
        let permit = self.accounts.bodies.acquire(self.me.clone(), 1, waited).await;
        let permit = permit.ok_or(Error::TooManyBodies { cap, waited })?;
        let begin = async {
            let mut turn = self.stream.lock().await;
            // While the permit was waited for, memory may have run short.
            let start = turn.buffer.window.end();
            let (body, object) = self.open(start..self.version.size, permit).await?;
            body.permit.touch();
            self.put(&mut turn, Some(body));
            if self.version.size - start <= SMALL && self.find_room(&mut turn, self.version.size) {
                self.fill(&mut turn, self.version.size).await;
                turn.buffer.settle();
                // Where it broke, the read that wants the rest asks again.
                if turn.body.as_ref().is_some_and(|body| body.broken.is_some()) {
                    self.put(&mut turn, None);
                }
            }
            Ok(Some(object))
        };
        self.within_timeout(begin).await
    }

    /// The bytes from `offset` on: `size`, or fewer at the object's end and nowhere else.
    ///
    /// Answers without waiting where the bytes are here.
    pub async fn read(&self, offset: u64, size: u32) -> Result<Bytes> {
        let end = offset.saturating_add(u64::from(size)).min(self.version.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let _use = Use(self);
        let _reading = Count::one_more(&self.gauges.reading);
        self.within_timeout(self.read_in_turn(offset..end)).await
    }

    async fn read_in_turn(&self, want: Range<u64>) -> Result<Bytes> {
        let mut turn = self.stream.lock().await;
        let stream = &mut *turn;
        stream.request = stream.request.max(want.end - want.start);
        let bytes = match self.bring(stream, &want).await {
            Ok(bytes) => bytes,
            Err(error) => {
                stream.buffer.settle();
                return Err(error);
            }
        };
        stream.resumes_left = (stream.resumes_left + 1).min(RESUMES);
        stream.pattern.read(&want);
        let behind = want.start.saturating_sub(self.reach(stream.request));
        self.deliver(stream, &want, behind);
        if let Some(body) = &stream.body {
            body.permit.touch();
        }
        self.gauges.offset.store(want.end, Ordering::Relaxed);
        self.gauges.last_read.store(self.now(), Ordering::Relaxed);
        self.note_active();
        self.gauges.answered.store(true, Ordering::Relaxed);
        Ok(bytes)
    }

    fn deliver(&self, stream: &mut Stream, range: &Range<u64>, behind: u64) {
        stream.buffer.deliver(range, behind);
        if stream.buffer.is_all_delivered(self.version.size) {
            self.gauges.delivered.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the rest of the object has come, for the kernel to be given unasked. Says so once,
    /// to who will do it: give it each [`Reader::surplus`], and call [`Reader::took_over`].
    pub fn has_surplus(&self) -> bool {
        self.gauges.surplus.load(Ordering::Relaxed)
            && self.gauges.surplus.swap(false, Ordering::Relaxed)
    }

    /// The next bytes that the kernel has not asked for and may be given.
    ///
    /// Who gives them must hold nothing that a read may need: the kernel makes it wait for the
    /// reads of these pages that are under way.
    pub async fn surplus(&self) -> Option<(Range<u64>, Bytes)> {
        self.stream.lock().await.buffer.surplus(self.version.size)
    }

    /// The kernel has taken these bytes over.
    pub async fn took_over(&self, range: &Range<u64>) {
        let _use = Use(self);
        let mut stream = self.stream.lock().await;
        self.deliver(&mut stream, range, 0);
    }

    /// Has the window hold what is wanted.
    async fn bring(&self, stream: &mut Stream, want: &Range<u64>) -> Result<Bytes> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_times(RESUMES_A_READ)
            .with_jitter()
            .build();
        loop {
            let window = &stream.buffer.window;
            if let Some(bytes) = window.get(want) {
                return Ok(bytes);
            }
            let here = window.start() <= want.start
                && want.start <= window.end() + self.reach(stream.request);
            if let Some(error) = stream.body.as_ref().and_then(|body| body.broken.clone()) {
                let next = pauses.next().filter(|_| stream.resumes_left > 0);
                let Some(pause) = next else {
                    self.put(stream, None);
                    return Err(error);
                };
                debug!(key = %self.version.key, offset = window.end(), "to be resumed: {error}");
                stream.resumes_left -= 1;
                self.accounts.resumed.add(1);
                tokio::time::sleep(pause).await;
                self.seek(stream, want, here).await?;
                continue;
            }
            match stream.body.as_ref().map(|body| (body.next, want.end.min(body.end))) {
                Some((_, end)) if here && self.find_room(stream, end) => {
                    self.fill(stream, end).await;
                }
                Some((next, end)) if here => self.wait_for_room(stream, next..end).await?,
                _ => self.seek(stream, want, here).await?,
            }
        }
    }

    /// How far from the stream a read may lie and still be part of it: four requests is what a
    /// kernel with several threads reorders (measured), and a short gap costs less to read
    /// through than a new request.
    fn reach(&self, request: u64) -> u64 {
        (4 * request).max(NEAR)
    }

    /// Closes what is open and asks for the range that the pattern of reads suggests.
    async fn seek(&self, stream: &mut Stream, want: &Range<u64>, on: bool) -> Result<()> {
        let permit = match self.put(stream, None) {
            Some(body) => body.close().await,
            None => match self.accounts.bodies.try_acquire(self.me.clone(), 1) {
                Some(permit) => permit,
                None => {
                    stream.buffer.empty(want.start);
                    self.permit().await?
                }
            },
        };
        let asked = Instant::now();
        if let Some(rest) = self.make_room_for_rest(stream, want) {
            debug!(start = rest.start, end = rest.end, "asking for the rest");
            self.take_in(stream, rest, permit).await?;
            stream.buffer.hold_rest();
            self.gauges.surplus.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let window = &stream.buffer.window;
        // A read that comes before the one it follows leaves a gap of one request.
        let on = on && window.len() > 0 && want.start <= window.end() + stream.request;
        let start = if on { window.end() } else { want.start };
        let size = self.version.size;
        // A range that is long enough to be measured costs as much again as its first byte.
        let measures = self.may_hold(size) && self.accounts.pace.time_of(size).is_none();
        let least = if measures { LAST_SPAN } else { 0 };
        let range = stream.pattern.ask(start, want, size, least);
        debug!(start = range.start, end = range.end, "asking");
        if !on {
            stream.buffer.restart(start);
        }
        let end = range.end;
        if end - start <= LAST_SPAN && end < size && self.find_room(stream, end) {
            // Its connection is free at once.
            self.take_in(stream, range, permit).await?;
        } else {
            let (body, _) = self.open(range, permit).await?;
            self.put(stream, Some(body));
        }
        stream.pattern.paid(asked.elapsed());
        Ok(())
    }

    /// Starts the window anew where the rest of the object is to come in one go: scattered reads
    /// have cost as much as that would, and there is room for it. Returns what is to be asked for.
    fn make_room_for_rest(&self, stream: &mut Stream, want: &Range<u64>) -> Option<Range<u64>> {
        let rest = stream.buffer.missing(want, self.version.size);
        let length = rest.end - rest.start;
        let transfer = self.accounts.pace.time_of(length)?;
        // One read waits for all of it.
        let bearable = self.may_hold(length) && transfer <= self.patience.timeout / 4;
        if !bearable || !stream.pattern.has_paid_for(transfer) {
            return None;
        }
        stream.buffer.restart(rest.start);
        if !self.find_room(stream, rest.end) {
            return None;
        }
        stream.pattern.settle();
        Some(rest)
    }

    /// Whether one handle may hold so many bytes: others want memory, too.
    fn may_hold(&self, bytes: u64) -> bool {
        kib(bytes) <= self.accounts.memory.cap() / 2
    }

    /// Asks for a range that there is room for, and takes it in whole.
    async fn take_in(&self, stream: &mut Stream, range: Range<u64>, permit: Permit) -> Result<()> {
        let (body, _) = self.open(range.clone(), permit).await?;
        self.put(stream, Some(body));
        let began = Instant::now();
        self.fill(stream, range.end).await;
        let come = stream.buffer.window.end().saturating_sub(range.start);
        self.accounts.pace.measured(come, began.elapsed());
        Ok(())
    }

    async fn permit(&self) -> Result<Permit> {
        // Shorter than the timeout, so that the error names what was waited for.
        let (cap, waited) = (self.accounts.bodies.cap(), self.patience.timeout / 2);
        let permit = self.accounts.bodies.acquire(self.me.clone(), 1, waited).await;
        permit.ok_or(Error::TooManyBodies { cap, waited })
    }

    async fn open(&self, range: Range<u64>, permit: Permit) -> Result<(Body, Object)> {
        if self.gauges.begun.load(Ordering::Relaxed) && !self.version.is_resumable() {
            return Err(Error::NotResumable);
        }
        let opened = Body::open(&*self.store, &self.version, range, permit).await?;
        self.gauges.begun.store(true, Ordering::Relaxed);
        self.note_active();
        self.gauges.parked.store(false, Ordering::Relaxed);
        Ok(opened)
    }

    /// Puts a body in place of the one that is there, which is returned.
    fn put(&self, stream: &mut Stream, body: Option<Body>) -> Option<Body> {
        self.gauges.open.store(body.is_some(), Ordering::Relaxed);
        std::mem::replace(&mut stream.body, body)
    }

    /// Takes the memory for a window up to `end`, if that can be had without waiting.
    fn find_room(&self, stream: &mut Stream, end: u64) -> bool {
        let buffer = &mut stream.buffer;
        let units = kib(end.saturating_sub(buffer.window.start()) + OVERSHOOT);
        match &mut buffer.memory {
            Some(memory) => memory.try_grow_to(units),
            None => {
                buffer.memory = self.accounts.memory.try_acquire(self.me.clone(), units);
                buffer.memory.is_some()
            }
        }
    }

    /// Waits for the memory to pull `range` with, of which the body brings the first byte next. It
    /// gives up what it has meanwhile, which others may be waiting for.
    async fn wait_for_room(&self, stream: &mut Stream, range: Range<u64>) -> Result<()> {
        stream.buffer.empty(range.start);
        let units = kib(range.end - range.start + OVERSHOOT);
        let timeout = self.patience.timeout;
        let memory = self.accounts.memory.acquire(self.me.clone(), units, timeout).await;
        stream.buffer.memory = Some(memory.ok_or(Error::TimedOut(timeout))?);
        Ok(())
    }

    /// Pulls until the body has come to `end`, or breaks; what it brings follows what the window
    /// holds. A drained one is closed.
    async fn fill(&self, stream: &mut Stream, end: u64) {
        let Some(body) = &mut stream.body else { return };
        let window = &mut stream.buffer.window;
        let pull = async {
            while body.next < end && !body.is_drained() {
                let at = body.next;
                window.push(at, body.pull().await?);
            }
            Ok(())
        };
        // One that stalls, or dribbles, leaves time for another to go on from where it came to.
        let most = self.patience.timeout / 2;
        let pulled = tokio::time::timeout(most, pull).await.unwrap_or(Err(Error::TimedOut(most)));
        if let Err(error) = pulled {
            body.break_off(error);
        } else if body.is_drained() {
            self.put(stream, None);
        }
    }

    async fn within_timeout<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.patience.timeout, work).await {
            Ok(result) => result,
            Err(_) => {
                // A body that has stalled once is of no more use. Where another read has the
                // turn already, that one finds out by itself.
                if let Ok(mut stream) = self.stream.try_lock() {
                    self.put(&mut stream, None);
                    stream.buffer.settle();
                }
                Err(Error::TimedOut(self.patience.timeout))
            }
        }
    }

    /// Whether every byte of the object has gone out through this handle.
    pub fn delivered_all(&self) -> bool {
        self.gauges.delivered.load(Ordering::Relaxed)
    }

    pub fn state(&self) -> State {
        let gauge = |gauge: &AtomicBool| gauge.load(Ordering::Relaxed);
        if self.gauges.reading.load(Ordering::Relaxed) > 0 {
            State::Reading
        } else if gauge(&self.gauges.open) {
            State::Idle
        } else if gauge(&self.gauges.parked) {
            State::Parked
        } else if gauge(&self.gauges.begun) {
            State::Drained
        } else {
            State::Unopened
        }
    }

    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// Offset after the last byte read.
    pub fn offset(&self) -> u64 {
        self.gauges.offset.load(Ordering::Relaxed)
    }

    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Time since the last read was answered, if there was one.
    pub fn unread_for(&self) -> Option<Duration> {
        match self.gauges.last_read.load(Ordering::Relaxed) {
            0 => None,
            at => Some(self.age().saturating_sub(Duration::from_millis(at))),
        }
    }

    fn note_active(&self) {
        self.gauges.active.store(self.age().as_millis() as u64, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        (self.age().as_millis() as u64).max(1)
    }
}

impl Holder for Reader {
    fn park(&self, unit: Unit, idle: Idle) -> bool {
        // What could not be asked for again is not given up.
        if !self.version.is_resumable() {
            return false;
        }
        // The lock is taken by who parks only: to others the stream would look busy.
        let answered = self.gauges.answered.load(Ordering::Relaxed);
        let keep = match (unit, answered, idle) {
            (Unit::Kib, _, Idle::Read) => Duration::ZERO,
            // Rule B4. Where the kernel may have answered a read, that counts as one.
            (Unit::Body, true, Idle::Read) => self.accounts.keep.read,
            (Unit::Body, false, Idle::Unread) => self.accounts.keep.unread,
            _ => return false,
        };
        let active = Duration::from_millis(self.gauges.active.load(Ordering::Relaxed));
        if self.age() < active + keep {
            return false;
        }
        let Ok(mut stream) = self.stream.try_lock() else { return false };
        let next = stream.body.as_ref().map(|body| body.next);
        match unit {
            Unit::Body => {
                if next.is_none() {
                    return false;
                }
                self.put(&mut stream, None);
                self.gauges.parked.store(true, Ordering::Relaxed);
                // What was read ahead goes too: a parked handle keeps its place and nothing else.
                stream.buffer.empty(self.offset());
                true
            }
            Unit::Kib => {
                let held = stream.buffer.memory.is_some();
                // A body that is open stays: a read of what went asks again under its permit.
                stream.buffer.empty(next.unwrap_or_else(|| self.offset()));
                drop(stream);
                // Who came for the body meanwhile took it for busy.
                self.accounts.bodies.idle(self);
                held
            }
        }
    }
}
