//! Bodies: one open GetObject response each, and the reader of a file handle that owns it.
//!
//! A [`Body`] cannot be written down without a [`Permit`]: it takes one to ask for it, and
//! dropping it on any path (expired, refused, cancelled, panicked, unmounted) closes the response
//! first and gives the permit back next, by the order of its fields.

mod ledger;
mod window;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Mutex;
use tracing::debug;

pub use ledger::{Holder, Ledger, Permit};
use window::{Coverage, Window};

use crate::error::{Error, Result};
use crate::store::{Content, Object, Store, Version};

/// Objects up to this size are taken in whole by the open that asks for them: their bytes follow
/// the headers in the same packets, and the body is closed before the first read.
const SMALL: u64 = 128 << 10;

/// The first range a random reader is given; each one it reads on from doubles it.
const FIRST_SPAN: u64 = 64 << 10;

/// A range longer than this reads sequentially: the next request is for all the rest.
const LAST_SPAN: u64 = 1 << 20;

/// What is left of a response is read and dropped up to this length, so that the connection
/// lives; a longer rest costs more than a new connection.
const DRAIN: u64 = 64 << 10;
/// And for this long.
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// An open response, and the right to have it.
struct Body {
    content: Content,
    /// Offset of the next byte to come.
    next: u64,
    /// Offset after the last one.
    end: u64,
    // Last: it goes back when the response is gone.
    permit: Permit,
}

impl Body {
    async fn open(
        store: &dyn Store,
        version: &Version,
        range: Range<u64>,
        permit: Permit,
    ) -> Result<(Body, Object)> {
        let (object, content) = store.get(version, range.clone()).await?;
        Ok((Body { content, next: range.start, end: range.end, permit }, object))
    }

    fn is_drained(&self) -> bool {
        self.next == self.end
    }

    /// The next bytes; to be called until it is drained.
    async fn pull(&mut self) -> Result<Bytes> {
        let missing = self.end - self.next;
        match self.content.next().await {
            Some(Ok(chunk)) if chunk.len() as u64 <= missing => {
                self.next += chunk.len() as u64;
                Ok(chunk)
            }
            Some(Ok(_)) => Err(Error::Protocol("a body longer than announced".into())),
            Some(Err(error)) => Err(error),
            None => Err(Error::Protocol(format!("a body that ends {missing} bytes early"))),
        }
    }

    /// Closes the response and keeps the right to the next one.
    async fn close(mut self) -> Permit {
        let drain = async {
            while !self.is_drained() && self.end - self.next <= DRAIN && self.pull().await.is_ok() {
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
        self.permit
    }
}

/// What bounds a reader's waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a permit, at open.
    pub open_wait: Duration,
    /// For everything a call asks of the store.
    pub timeout: Duration,
}

/// Reads one object version for one handle, through at most one body at a time.
pub struct Reader {
    me: Weak<Reader>,
    store: Arc<dyn Store>,
    ledger: Arc<Ledger>,
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
    window: Window,
    pattern: Pattern,
    delivered: Coverage,
    /// The longest request seen: the measure of what the kernel may reorder.
    request: u64,
}

/// What `status` shows of a reader without waiting for its turn.
#[derive(Default)]
struct Gauges {
    offset: AtomicU64,
    /// Milliseconds after `born`; 0: never.
    last_read: AtomicU64,
    begun: AtomicBool,
    answered: AtomicBool,
    parked: AtomicBool,
    /// A body is open. Written by who has the turn.
    open: AtomicBool,
    /// Reads under way, those waiting for their turn included.
    reading: AtomicUsize,
    delivered: AtomicBool,
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

/// What a reader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No body yet: the kernel holds the content.
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
    pub fn new(
        store: Arc<dyn Store>,
        ledger: Arc<Ledger>,
        version: Arc<Version>,
        patience: Patience,
    ) -> Arc<Reader> {
        Arc::new_cyclic(|me| Reader {
            me: me.clone(),
            store,
            ledger,
            version,
            patience,
            born: Instant::now(),
            stream: Mutex::default(),
            gauges: Gauges::default(),
        })
    }

    /// Asks for the object from its first byte on, and tells what its headers said.
    pub async fn begin(&self) -> Result<Object> {
        let permit = self.ledger.acquire(self.me.clone(), self.patience.open_wait).await?;
        let begin = async {
            let mut turn = self.stream.lock().await;
            let (body, object) = self.open(0..self.version.size, permit).await?;
            self.put(&mut turn, Some(body));
            if self.version.size <= SMALL {
                self.fill(&mut turn, self.version.size).await?;
            }
            Ok(object)
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
        let reading = Count::one_more(&self.gauges.reading);
        let answer = self.within_timeout(self.read_in_turn(offset..end)).await;
        drop(reading);
        self.ledger.idle(self);
        answer
    }

    async fn read_in_turn(&self, want: Range<u64>) -> Result<Bytes> {
        let mut turn = self.stream.lock().await;
        let stream = &mut *turn;
        stream.request = stream.request.max(want.end - want.start);
        let bytes = loop {
            if let Some(bytes) = stream.window.get(&want) {
                break bytes;
            }
            let here = stream.window.start() <= want.start
                && want.start <= stream.window.end() + self.reach(stream);
            if here && stream.body.is_some() {
                self.fill(stream, want.end.min(self.end_of_body(stream))).await?;
            } else {
                self.seek(stream, &want, here).await?;
            }
        };
        stream.pattern.read(&want);
        stream.delivered.add(&want);
        // The kernel may ask for what lies just behind in the wrong order, never far.
        stream.window.release_before(want.start.saturating_sub(2 * stream.request));
        if stream.delivered.is_all_of(self.version.size) {
            if stream.body.is_none() {
                stream.window.restart(self.version.size);
            }
            self.gauges.delivered.store(true, Ordering::Relaxed);
        }
        self.gauges.offset.store(want.end, Ordering::Relaxed);
        self.gauges.last_read.store(self.now(), Ordering::Relaxed);
        self.gauges.answered.store(true, Ordering::Relaxed);
        Ok(bytes)
    }

    /// How far ahead of the stream a read may lie and still be waited for: four requests is what
    /// a kernel with several threads reorders (measured), and a short gap costs less to read
    /// through than a new request.
    fn reach(&self, stream: &Stream) -> u64 {
        (4 * stream.request).max(FIRST_SPAN)
    }

    fn end_of_body(&self, stream: &Stream) -> u64 {
        stream.body.as_ref().map_or(0, |body| body.end)
    }

    /// Closes what is open and asks for the range that the pattern of reads suggests.
    async fn seek(&self, stream: &mut Stream, want: &Range<u64>, on: bool) -> Result<()> {
        let on = on && stream.window.end() > stream.window.start();
        let start = if on { stream.window.end() } else { want.start };
        let range = stream.pattern.ask(start, want, self.version.size);
        let permit = match self.put(stream, None) {
            Some(body) => body.close().await,
            // Shorter than the timeout, so that the error names what was waited for.
            None => self.ledger.acquire(self.me.clone(), self.patience.timeout / 2).await?,
        };
        debug!(start = range.start, end = range.end, "asking");
        if !on {
            stream.window.restart(start);
        }
        let end = range.end;
        let (body, _) = self.open(range, permit).await?;
        self.put(stream, Some(body));
        if end - start <= LAST_SPAN && end < self.version.size {
            // A bounded range is taken in whole, so that its connection is free at once.
            self.fill(stream, end).await?;
        }
        Ok(())
    }

    async fn open(&self, range: Range<u64>, permit: Permit) -> Result<(Body, Object)> {
        let opened = Body::open(&*self.store, &self.version, range, permit).await?;
        self.gauges.begun.store(true, Ordering::Relaxed);
        self.gauges.parked.store(false, Ordering::Relaxed);
        Ok(opened)
    }

    /// Puts a body in place of the one that is there, which is returned.
    fn put(&self, stream: &mut Stream, body: Option<Body>) -> Option<Body> {
        self.gauges.open.store(body.is_some(), Ordering::Relaxed);
        std::mem::replace(&mut stream.body, body)
    }

    /// Pulls until the body has come to `end`; what it brings follows what the window holds. A body
    /// that fails is closed, and so is a drained one.
    async fn fill(&self, stream: &mut Stream, end: u64) -> Result<()> {
        let Some(body) = &mut stream.body else { return Ok(()) };
        let mut result = Ok(());
        while body.next < end && !body.is_drained() {
            let at = body.next;
            match body.pull().await {
                Ok(chunk) => stream.window.push(at, chunk),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_err() || body.is_drained() {
            self.put(stream, None);
        }
        result
    }

    async fn within_timeout<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.patience.timeout, work).await {
            Ok(result) => result,
            Err(_) => {
                // A body that has stalled once is of no more use. Where another read has the
                // turn already, that one finds out by itself.
                if let Ok(mut stream) = self.stream.try_lock() {
                    self.put(&mut stream, None);
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

    fn now(&self) -> u64 {
        (self.age().as_millis() as u64).max(1)
    }
}

impl Holder for Reader {
    fn park(&self) -> bool {
        let Ok(mut stream) = self.stream.try_lock() else { return false };
        if stream.body.is_none() || !self.gauges.answered.load(Ordering::Relaxed) {
            return false;
        }
        self.gauges.parked.store(true, Ordering::Relaxed);
        self.put(&mut stream, None);
        // What was read ahead goes too: a parked handle keeps its place and nothing else.
        let place = self.offset();
        stream.window.restart(place);
        true
    }

    fn idle_for(&self) -> Duration {
        self.unread_for().unwrap_or_default()
    }
}

/// Follows how an object is read, and says how much to ask for next.
#[derive(Debug, Default)]
struct Pattern {
    /// Offset after the last read.
    position: u64,
    /// Jumps since reading was last sequential for a while.
    jumps: u32,
    /// Length of the last range asked for.
    span: u64,
    /// Bytes read in one run.
    run: u64,
}

impl Pattern {
    /// Takes note of an answered read.
    fn read(&mut self, range: &Range<u64>) {
        self.run += range.end - range.start;
        self.position = range.end;
        if self.run >= LAST_SPAN {
            self.jumps = 0;
        }
    }

    /// The range to ask for so as to read `want`, from `start` on, of an object of `size` bytes.
    fn ask(&mut self, start: u64, want: &Range<u64>, size: u64) -> Range<u64> {
        let goes_on = start.abs_diff(self.position) <= FIRST_SPAN;
        if !goes_on {
            self.jumps += 1;
            self.run = 0;
            self.span = 0;
        }
        // One jump is what readers of archives and media do before they read on; after a second
        // one a response to the end would be thrown away.
        if self.jumps < 2 || self.span >= LAST_SPAN {
            return start..size;
        }
        self.span = (2 * self.span).max(FIRST_SPAN);
        start..(start + self.span).max(want.end).min(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for, when `reads` of 4 KiB each find nothing in the window.
    fn asked(reads: &[u64]) -> Vec<u64> {
        let (size, mut pattern) = (1 << 30, Pattern::default());
        reads
            .iter()
            .map(|&at| {
                let want = at..at + 4096;
                let range = pattern.ask(at, &want, size);
                pattern.read(&want);
                range.end - range.start
            })
            .collect()
    }

    #[test]
    fn sequential_reading_is_one_request() {
        assert_eq!(asked(&[0]), [1 << 30]);
    }

    #[test]
    fn one_jump_reads_on_to_the_end_and_more_get_bounded_ranges() {
        let (a, b, c) = (500 << 20, 100 << 20, 700 << 20);
        let to_end = |at: u64| (1 << 30) - at;
        assert_eq!(asked(&[a]), [to_end(a)]);
        assert_eq!(asked(&[a, b, c]), [to_end(a), FIRST_SPAN, FIRST_SPAN]);
    }

    #[test]
    fn ranges_grow_while_reading_goes_on() {
        let mut reads = vec![500 << 20, 100 << 20];
        let base = 700 << 20;
        reads.extend((0..8).map(|i| base + i * 4096));
        let got = asked(&reads);
        let growing = (0..5).map(|i| FIRST_SPAN << i);
        assert!(got[2..7].iter().copied().eq(growing), "{got:?}");
        assert_eq!(*got.last().unwrap(), (1 << 30) - (base + 7 * 4096));
    }
}
