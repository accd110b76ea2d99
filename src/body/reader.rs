//! The reader of a file handle: at most one body, and a window of bytes received from it.

use std::ops::Range;
use std::time::Duration;

use backon::BackoffBuilder;
use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::buffer::{Buffer, kib};
use super::gauges::{Gauges, State};
use super::pattern::{LAST_SPAN, NEAR, Pattern};
use super::stage::{Response, Stage};
use super::{Accounts, Body, Holder, Idle, Patience, Permit, Unit};
use crate::deadline::{Deadline, pauses};
use crate::error::{Error, Result};
use crate::store::{Object, Store, Version};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Weak};
use crate::waits::Wait;

/// If an object has at most this many missing bytes, the open that requests them reads them all:
/// they arrive in the same packets as the headers, and the body is closed before the first read.
const SMALL: u64 = 128 << 10;

/// How often one read resumes a broken body (rule R3), and the first pause before that; pauses
/// double and have jitter (see [`pauses`]).
const RESUMES_A_READ: usize = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How many more times a handle's body may be resumed than the handle was read.
const RESUMES: u32 = 16;

/// A pull may overshoot by one chunk of the HTTP client.
const OVERSHOOT: u64 = crate::store::CHUNK as u64;

/// Reads one object version for one handle, through at most one body at a time.
pub struct Reader {
    me: Weak<Reader>,
    store: Arc<dyn Store>,
    accounts: Accounts,
    version: Arc<Version>,
    patience: Patience,
    /// Held by one read at a time, also while it waits: no other task may touch the body then, and
    /// [`Holder::park`] knows by the lock that the body is busy. Reads queue in order.
    stream: Mutex<Stream>,
    gauges: Arc<Gauges>,
}

struct Stream {
    response: Response,
    buffer: Buffer,
    pattern: Pattern,
    /// The longest read seen: it determines how far the kernel may reorder reads.
    request: u64,
    /// How many more times a broken body may be resumed; each answered read adds one.
    resumes_left: u32,
}

/// The next step of a read that needs bytes outside the window.
enum Step {
    /// Pull them from the open body.
    Pull(Range<u64>),
    /// The body broke before them: resume it.
    Resume(Error),
    /// Send a new request.
    Ask,
}

/// One use of a reader. Its end, also by cancellation or panic, notifies waiters.
struct Use<'a>(&'a Reader);

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.accounts.bodies.idle(self.0);
        self.0.accounts.memory.idle(self.0);
    }
}

impl Reader {
    /// `first`: the first bytes of the object, as far as they are known; may be empty. `given`: the
    /// page cache has some bytes, so some reads may never arrive here.
    pub fn new(
        store: Arc<dyn Store>,
        accounts: Accounts,
        version: Arc<Version>,
        first: Bytes,
        given: bool,
        patience: Patience,
    ) -> Arc<Reader> {
        Arc::new_cyclic(|me: &Weak<Reader>| {
            let gauges = Arc::new(Gauges::new(given));
            let mut buffer = Buffer::default();
            if !first.is_empty()
                && let Some(memory) =
                    accounts.memory.try_acquire(me.clone(), kib(first.len() as u64))
            {
                buffer.memory = Some(memory);
                buffer.window.push(0, first);
                buffer.settle();
            }
            let stream = Stream {
                response: Response::unopened(gauges.clone()),
                buffer,
                pattern: Pattern::default(),
                request: 0,
                resumes_left: RESUMES,
            };
            let (me, stream) = (me.clone(), Mutex::new(stream));
            Reader { me, store, accounts, version, patience, stream, gauges }
        })
    }

    /// Requests the missing bytes of the object, and returns what its headers said; `None` without
    /// a request if no byte is missing.
    pub async fn begin(&self) -> Result<Option<Object>> {
        let _use = Use(self);
        let mut turn = self.stream.lock().await;
        let stream = &mut *turn;
        if stream.buffer.window.end() == self.version.size {
            return Ok(None);
        }
        let permit = self.permit(stream, 0, Deadline::after(self.patience.open_wait)).await?;
        let by = Deadline::after(self.patience.timeout);
        let begun = by.bound(self.ask_for_the_rest(stream, permit, by)).await;
        begun.map(Some).inspect_err(|error| self.give_up(stream, error))
    }

    async fn ask_for_the_rest(
        &self,
        stream: &mut Stream,
        permit: Permit,
        by: Deadline,
    ) -> Result<Object> {
        let (start, size) = (stream.buffer.window.end(), self.version.size);
        let object = self.open(stream, start..size, permit).await?;
        if let Some(body) = stream.response.body() {
            body.permit.touch();
        }
        if size - start <= SMALL && self.find_room(stream, size) {
            self.fill(stream, size, by).await;
            stream.buffer.settle();
            // If it broke, a later read resumes it.
            if matches!(stream.response.stage(), Stage::Broken(_)) {
                stream.response.end();
            }
        }
        Ok(object)
    }

    /// `size` bytes from `offset` on; fewer only at the end of the object.
    ///
    /// Ready at once if the window has the bytes.
    pub async fn read(&self, offset: u64, size: u32) -> Result<Bytes> {
        let end = offset.saturating_add(u64::from(size)).min(self.version.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let _use = Use(self);
        let _reading = self.gauges.reading();
        let by = Deadline::after(self.patience.timeout);
        let turn = Wait::Turn.during(self.stream.lock());
        let mut turn = by.bound(async { Ok(turn.await) }).await?;
        let read = by.bound(self.read_in_turn(&mut turn, offset..end, by)).await;
        read.inspect_err(|error| self.give_up(&mut turn, error))
    }

    /// Cleans up after a failed call. A body that has stalled is not used again.
    fn give_up(&self, stream: &mut Stream, error: &Error) {
        if matches!(error, Error::TimedOut(_)) {
            stream.response.end();
        }
        stream.buffer.settle();
    }

    async fn read_in_turn(
        &self,
        stream: &mut Stream,
        want: Range<u64>,
        by: Deadline,
    ) -> Result<Bytes> {
        stream.request = stream.request.max(want.end - want.start);
        let bytes = self.bring(stream, &want, by).await?;
        stream.resumes_left = (stream.resumes_left + 1).min(RESUMES);
        stream.pattern.read(&want);
        let behind = want.start.saturating_sub(self.reach(stream.request));
        self.deliver(stream, &want, behind);
        if let Some(body) = stream.response.body() {
            body.permit.touch();
        }
        self.gauges.read_to(want.end);
        Ok(bytes)
    }

    fn deliver(&self, stream: &mut Stream, range: &Range<u64>, behind: u64) {
        stream.buffer.deliver(range, behind);
        if stream.buffer.is_all_delivered(self.version.size) {
            self.gauges.delivered.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the rest of the object was fetched and should be stored in the page cache. True
    /// once: that caller stores each [`Reader::surplus`] and reports it by [`Reader::took_over`].
    pub fn has_surplus(&self) -> bool {
        self.gauges.surplus.load(Ordering::Relaxed)
            && self.gauges.surplus.swap(false, Ordering::Relaxed)
    }

    /// The next fetched bytes that the kernel has not read.
    ///
    /// The caller must hold nothing that a read may need: the kernel blocks it until the reads of
    /// these pages that are in flight have ended.
    pub async fn surplus(&self) -> Option<(Range<u64>, Bytes)> {
        self.stream.lock().await.buffer.surplus(self.version.size)
    }

    /// Records that the page cache has these bytes.
    pub async fn took_over(&self, range: &Range<u64>) {
        let _use = Use(self);
        let mut stream = self.stream.lock().await;
        self.deliver(&mut stream, range, 0);
    }

    /// Fills the window until it holds `want`.
    async fn bring(&self, stream: &mut Stream, want: &Range<u64>, by: Deadline) -> Result<Bytes> {
        let mut pauses = pauses(FIRST_PAUSE).with_max_times(RESUMES_A_READ).build();
        loop {
            let window = &stream.buffer.window;
            if let Some(bytes) = window.get(want) {
                return Ok(bytes);
            }
            let here = window.start() <= want.start
                && want.start <= window.end() + self.reach(stream.request);
            let step = match stream.response.stage() {
                Stage::Broken(broken) => Step::Resume(broken.error.clone()),
                Stage::Open(body) if here => Step::Pull(body.next..want.end.min(body.end)),
                _ => Step::Ask,
            };
            match step {
                Step::Pull(range) if self.find_room(stream, range.end) => {
                    self.fill(stream, range.end, by).await;
                }
                Step::Pull(range) => self.wait_for_room(stream, range, by).await?,
                Step::Ask => self.seek(stream, want, here, by).await?,
                Step::Resume(error) => {
                    let next = pauses.next().filter(|_| stream.resumes_left > 0);
                    let Some(pause) = next else {
                        stream.response.end();
                        return Err(error);
                    };
                    let offset = stream.buffer.window.end();
                    debug!(key = %self.version.key, offset, "the body broke and is resumed: {error}");
                    stream.resumes_left -= 1;
                    self.accounts.resumed.add(1);
                    Wait::Backoff.during(tokio::time::sleep(pause)).await;
                    self.seek(stream, want, here, by).await?;
                }
            }
        }
    }

    /// How far ahead of the stream a read may begin and still wait for it: a kernel with several
    /// threads reorders up to four reads (measured), and reading through a short gap costs less
    /// than a new request.
    fn reach(&self, request: u64) -> u64 {
        (4 * request).max(NEAR)
    }

    /// Closes the open response and requests the range that the access pattern suggests.
    async fn seek(
        &self,
        stream: &mut Stream,
        want: &Range<u64>,
        on: bool,
        by: Deadline,
    ) -> Result<()> {
        let permit = match stream.response.close().await {
            Some(permit) => permit,
            // Shorter than the deadline, so that the error says that bodies were exhausted.
            None => self.permit(stream, want.start, by.half()).await?,
        };
        let asked = Instant::now();
        if let Some(rest) = self.make_room_for_rest(stream, want) {
            debug!(start = rest.start, end = rest.end, "requesting the rest");
            self.take_in(stream, rest, permit, by).await?;
            stream.buffer.hold_rest();
            self.gauges.surplus.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let window = &stream.buffer.window;
        // Two reads that arrive in reverse order leave a gap of one read.
        let on = on && window.len() > 0 && want.start <= window.end() + stream.request;
        let start = if on { window.end() } else { want.start };
        let size = self.version.size;
        // The first range is long enough to measure throughput, at the cost of about one more first
        // byte.
        let measures = self.may_hold(size) && self.accounts.pace.time_of(size).is_none();
        let least = if measures { LAST_SPAN } else { 0 };
        let range = stream.pattern.ask(start, want, size, least);
        debug!(start = range.start, end = range.end, "requesting a range");
        if !on {
            stream.buffer.restart(start);
        }
        let end = range.end;
        if end - start <= LAST_SPAN && end < size && self.find_room(stream, end) {
            // Reading it whole frees its connection at once.
            self.take_in(stream, range, permit, by).await?;
        } else {
            self.open(stream, range, permit).await?;
        }
        stream.pattern.paid(asked.elapsed());
        Ok(())
    }

    /// Decides whether to fetch the rest of the object in one request: if scattered reads have cost
    /// as much and there is room. If so, restarts the window there and returns the range.
    fn make_room_for_rest(&self, stream: &mut Stream, want: &Range<u64>) -> Option<Range<u64>> {
        let rest = stream.buffer.missing(want, self.version.size);
        let length = rest.end - rest.start;
        let transfer = self.accounts.pace.time_of(length)?;
        // One read waits for the whole transfer.
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

    /// Whether one handle may buffer this many bytes: at most half of the memory.
    fn may_hold(&self, bytes: u64) -> bool {
        kib(bytes) <= self.accounts.memory.cap() / 2
    }

    /// Requests a range that fits into the window's memory, and reads all of it.
    async fn take_in(
        &self,
        stream: &mut Stream,
        range: Range<u64>,
        permit: Permit,
        by: Deadline,
    ) -> Result<()> {
        self.open(stream, range.clone(), permit).await?;
        let began = Instant::now();
        self.fill(stream, range.end, by).await;
        let come = stream.buffer.window.end().saturating_sub(range.start);
        self.accounts.pace.measured(come, began.elapsed());
        Ok(())
    }

    /// A permit for a body: at once if one is free or an idle holder can be parked. Otherwise it
    /// empties the window, which restarts at `offset`, and waits.
    async fn permit(&self, stream: &mut Stream, offset: u64, by: Deadline) -> Result<Permit> {
        let bodies = &self.accounts.bodies;
        if let Some(permit) = bodies.try_acquire(self.me.clone(), 1) {
            return Ok(permit);
        }
        let emptied = stream.buffer.empty(offset);
        let permit = bodies.acquire(self.me.clone(), 1, emptied, by.left());
        let permit = Wait::BodyPermit.during(permit).await;
        permit.ok_or(Error::TooManyBodies { cap: bodies.cap(), waited: by.whole() })
    }

    async fn open(&self, stream: &mut Stream, range: Range<u64>, permit: Permit) -> Result<Object> {
        if stream.response.has_begun() && !self.version.is_resumable() {
            return Err(Error::NotResumable);
        }
        let (body, object) = Body::open(&*self.store, &self.version, range, permit).await?;
        stream.response.opened(body);
        self.gauges.note_active();
        Ok(object)
    }

    /// Reserves the memory for a window up to `end`, if that is possible without waiting.
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

    /// Waits for memory to pull `range`, whose first byte is the body's next. Releases its own
    /// memory first, since others may wait for it.
    async fn wait_for_room(
        &self,
        stream: &mut Stream,
        range: Range<u64>,
        by: Deadline,
    ) -> Result<()> {
        let emptied = stream.buffer.empty(range.start);
        let units = kib(range.end - range.start + OVERSHOOT);
        let memory = &self.accounts.memory;
        let memory = memory.acquire(self.me.clone(), units, emptied, by.left());
        let memory = Wait::Memory.during(memory).await;
        stream.buffer.memory = Some(memory.ok_or(by.missed())?);
        Ok(())
    }

    /// Pulls until the body has reached `end`, or breaks, and appends to the window. Closes a
    /// drained body.
    async fn fill(&self, stream: &mut Stream, end: u64, by: Deadline) {
        let Stream { response, buffer, .. } = stream;
        let Some(body) = response.body() else { return };
        let window = &mut buffer.window;
        let pull = async {
            while body.next < end && !body.is_drained() {
                let at = body.next;
                window.push(at, body.pull().await?);
            }
            Ok(body.is_drained())
        };
        // Half the time, so that a stalled or slow response can still be resumed.
        match by.half().bound(Wait::Receive.during(pull)).await {
            Err(error) => response.broke(error),
            Ok(true) => response.end(),
            Ok(false) => {}
        }
    }

    /// Whether every byte of the object was delivered through this handle.
    pub fn delivered_all(&self) -> bool {
        self.gauges.delivered.load(Ordering::Relaxed)
    }

    pub fn state(&self) -> State {
        self.gauges.state()
    }

    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// Offset after the last byte read.
    pub fn offset(&self) -> u64 {
        self.gauges.offset()
    }

    pub fn age(&self) -> Duration {
        self.gauges.age()
    }

    /// Time since the last read was answered, if there was one.
    pub fn unread_for(&self) -> Option<Duration> {
        self.gauges.unread_for()
    }
}

impl Holder for Reader {
    fn park(&self, unit: Unit, idle: Idle) -> bool {
        // A body that cannot be resumed is not parked.
        if !self.version.is_resumable() {
            return false;
        }
        // Check before locking: a lock taken in vain would make the stream look busy to others.
        let answered = self.gauges.answered.load(Ordering::Relaxed);
        let keep = match (unit, answered, idle) {
            (Unit::Kib, _, Idle::Read) => Duration::ZERO,
            // Rule B4. A read that the page cache may have answered counts as a read.
            (Unit::Body, true, Idle::Read) => self.accounts.keep.read,
            (Unit::Body, false, Idle::Unread) => self.accounts.keep.unread,
            _ => return false,
        };
        if !self.gauges.inactive_for(keep) {
            return false;
        }
        let Ok(mut turn) = self.stream.try_lock() else { return false };
        let Stream { response, buffer, .. } = &mut *turn;
        match unit {
            Unit::Body => {
                if !response.holds_permit() {
                    return false;
                }
                response.park();
                // Read-ahead bytes are dropped too: a parked handle keeps only its offset.
                buffer.empty(self.offset());
                true
            }
            Unit::Kib => {
                let held = buffer.memory.is_some();
                // An open body stays: a read of dropped bytes sends a new request under its permit.
                let next = response.body().map_or_else(|| self.offset(), |body| body.next);
                buffer.empty(next);
                drop(turn);
                // A waiter may have found the body locked and taken it for busy.
                self.accounts.bodies.idle(self);
                held
            }
        }
    }
}
