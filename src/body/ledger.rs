//! A capped account of what readers hold: open bodies, or the memory of their windows.
//!
//! A [`Permit`] is a field of what it stands for and is released when that is dropped, so no path
//! can leak one. At the cap, a request parks the least recently read idle holder, or else the
//! unread holder that has been open longest. If there is neither, it waits in FIFO order for a
//! bounded time.

use std::time::Duration;

use futures_util::FutureExt;
use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Emptied;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Holders asked to park in one batch.
const ASKED: usize = 32;

/// What an account counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// An open body.
    Body,
    /// 1,024 bytes of a window.
    Kib,
}

/// How often a waiter looks for holders that have become idle because time has passed.
const LOOK: Duration = Duration::from_millis(20);

/// Which holders are asked to give up a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Those that have answered a read and have none in flight.
    Read,
    /// Those that were opened some time ago and have answered no read.
    Unread,
}

/// The owner of a permit, which may be asked to give it up.
pub trait Holder: Send + Sync {
    /// Releases all it holds of this unit, if it is idle in this way and not in use. Must not
    /// block. Returns whether it did.
    fn park(&self, unit: Unit, idle: Idle) -> bool;
}

/// The holder of permits that are never given up early: those of uploads, whose bytes lie nowhere
/// else.
pub enum Nobody {}

impl Nobody {
    pub fn weak() -> Weak<dyn Holder> {
        Weak::<Nobody>::new()
    }
}

impl Holder for Nobody {
    fn park(&self, _: Unit, _: Idle) -> bool {
        false
    }
}

/// Holders by number, with the units each one holds.
type Held = LruCache<u64, (Weak<dyn Holder>, usize)>;

/// The account of one unit.
#[derive(Debug)]
pub struct Ledger {
    unit: Unit,
    cap: usize,
    parking: bool,
    free: Arc<Semaphore>,
    /// Holders that may be asked to park; the least recently opened or read comes last.
    ///
    /// Lock order: no other lock is taken, and no holder dropped, while this is held.
    holders: Mutex<Held>,
    next_id: AtomicU64,
    waiting: AtomicUsize,
    peak: AtomicUsize,
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Permit({} of {:?})", self.units(), self.ledger.unit)
    }
}

/// The right to hold a number of units. Dropping it passes them to the longest waiter.
pub struct Permit {
    ledger: Arc<Ledger>,
    id: u64,
    holder: Weak<dyn Holder>,
    // Last, so that they are released after the holder is off the list.
    units: OwnedSemaphorePermit,
}

impl Ledger {
    /// An account of `cap` units. Without `parking` no holder is ever parked.
    pub fn new(unit: Unit, cap: usize, parking: bool) -> Arc<Ledger> {
        let cap = cap.min(Semaphore::MAX_PERMITS);
        Arc::new(Ledger {
            unit,
            cap,
            parking,
            free: Arc::new(Semaphore::new(cap)),
            holders: Mutex::new(LruCache::unbounded()),
            next_id: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        })
    }

    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Units held now.
    pub fn held(&self) -> usize {
        self.cap - self.free.available_permits()
    }

    /// The highest number of units held so far.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Current number of waiters.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes `units` (the whole cap, if that is fewer) for `holder`, waiting up to `patience`;
    /// `None` if they did not become free in time. No deadlock is possible: `buffer` is empty
    /// during the wait, so a reader that waits for a body holds no memory, and none waits for more
    /// of what it holds. A reader that waits for memory may hold a body.
    ///
    /// A holder is not asked to park before its first [`Permit::touch`], to be called once it has
    /// what the permit stands for.
    pub async fn acquire(
        self: &Arc<Self>,
        holder: Weak<dyn Holder>,
        units: usize,
        _buffer: Emptied<'_>,
        patience: Duration,
    ) -> Option<Permit> {
        self.acquire_any(holder, units, patience).await
    }

    /// The same for a body that sends an upload, or for the memory of what is written. These never
    /// wait for readers that wait for them: the memory of readers is another account, and a body
    /// that uploads waits for nothing but the store.
    pub async fn acquire_for_upload(
        self: &Arc<Self>,
        units: usize,
        patience: Duration,
    ) -> Option<Permit> {
        self.acquire_any(Nobody::weak(), units, patience).await
    }

    async fn acquire_any(
        self: &Arc<Self>,
        holder: Weak<dyn Holder>,
        units: usize,
        patience: Duration,
    ) -> Option<Permit> {
        let units = self.whole(units);
        let taken = match self.free.clone().try_acquire_many_owned(units) {
            Ok(taken) => taken,
            Err(_) => self.wait(units, patience).await?,
        };
        Some(self.permit(holder, taken))
    }

    /// The same without waiting: takes free units, or those of idle holders parked at once.
    pub fn try_acquire(self: &Arc<Self>, holder: Weak<dyn Holder>, units: usize) -> Option<Permit> {
        let taken = self.try_take(self.whole(units))?;
        Some(self.permit(holder, taken))
    }

    fn try_take(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        let take = || self.free.clone().try_acquire_many_owned(units).ok();
        take().or_else(|| {
            self.park_idle(self.missing(units));
            take()
        })
    }

    /// How many of `units` are not free now.
    fn missing(&self, units: u32) -> usize {
        (units as usize).saturating_sub(self.free.available_permits())
    }

    fn whole(&self, units: usize) -> u32 {
        u32::try_from(units.min(self.cap)).unwrap_or(u32::MAX)
    }

    fn permit(self: &Arc<Self>, holder: Weak<dyn Holder>, units: OwnedSemaphorePermit) -> Permit {
        self.peak.fetch_max(self.held(), Ordering::Relaxed);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Permit { ledger: self.clone(), id, holder, units }
    }

    async fn wait(&self, units: u32, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let _waiting = Waiting::new(self);
        let missing = self.missing(units);
        let mut turn = std::pin::pin!(self.free.clone().acquire_many_owned(units));
        // Enter the queue first: units parked for this waiter then go to earlier waiters first.
        if let Some(Ok(taken)) = (&mut turn).now_or_never() {
            return Some(taken);
        }
        self.park_idle(missing);
        let waiting = async {
            loop {
                match tokio::time::timeout(LOOK, &mut turn).await {
                    Ok(taken) => return taken.ok(),
                    Err(_) => self.park_idle(missing),
                }
            }
        };
        tokio::time::timeout(patience, waiting).await.ok()?
    }

    /// Parks idle holders until `units` have become free or all were asked: first those that were
    /// read, least recently read first; then the unread ones, longest open first.
    fn park_idle(&self, units: usize) {
        if !self.parking {
            return;
        }
        // Pairs with the fence in `idle`: either this search sees the idle holder, or that holder
        // sees the waiter.
        fence(Ordering::SeqCst);
        let mut freed = 0;
        for idle in [Idle::Read, Idle::Unread] {
            // Reads change the order meanwhile: search again as long as that frees units.
            while freed < units {
                match self.park_some(units - freed, idle) {
                    0 => break,
                    more => freed += more,
                }
            }
        }
    }

    /// Asks each holder once, until `units` have become free. Returns how many were freed.
    fn park_some(&self, units: usize, idle: Idle) -> usize {
        let (mut freed, mut busy) = (0, 0);
        loop {
            let asked: Vec<_> = {
                let holders = self.holders();
                let idlest = holders.iter().rev().skip(busy).take(ASKED);
                idlest.map(|(_, (holder, units))| (holder.upgrade(), *units)).collect()
            };
            if asked.is_empty() {
                return freed;
            }
            for (holder, held) in asked {
                match holder.is_some_and(|holder| holder.park(self.unit, idle)) {
                    true => freed += held,
                    false => busy += 1,
                }
                if freed >= units {
                    return freed;
                }
            }
        }
    }

    /// To be called when a read has ended and released its lock: parks the holder at once if there
    /// is a waiter.
    pub fn idle(&self, holder: &dyn Holder) {
        fence(Ordering::SeqCst);
        if self.parking && self.waiting.load(Ordering::SeqCst) > 0 {
            let _ = holder.park(self.unit, Idle::Read) || holder.park(self.unit, Idle::Unread);
        }
    }

    fn holders(&self) -> MutexGuard<'_, Held> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    pub fn units(&self) -> usize {
        self.units.num_permits()
    }

    /// Records that its holder was just opened or read: it becomes the last one to be parked.
    pub fn touch(&self) {
        let held = (self.holder.clone(), self.units());
        self.ledger.holders().put(self.id, held);
    }

    /// Grows to `units` (or the whole cap), if that is possible without waiting.
    pub fn try_grow_to(&mut self, units: usize) -> bool {
        let more = (self.ledger.whole(units) as usize).saturating_sub(self.units());
        if more == 0 {
            return true;
        }
        let Some(taken) = self.ledger.try_take(more as u32) else { return false };
        self.units.merge(taken);
        self.ledger.peak.fetch_max(self.ledger.held(), Ordering::Relaxed);
        self.note();
        true
    }

    /// Releases all but `units`.
    pub fn shrink_to(&mut self, units: usize) {
        let more = self.units().saturating_sub(units);
        if more > 0 {
            let returned = self.units.split(more);
            self.note();
            drop(returned);
        }
    }

    fn note(&self) {
        if let Some((_, units)) = self.ledger.holders().peek_mut(&self.id) {
            *units = self.units();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.ledger.holders().pop(&self.id);
    }
}

/// Counts one waiter until it is dropped.
struct Waiting<'a>(&'a Ledger);

impl<'a> Waiting<'a> {
    fn new(ledger: &'a Ledger) -> Self {
        ledger.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(ledger)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Buffer;

    const SECOND: Duration = Duration::from_secs(1);

    /// Holds at most one permit; parks unless busy.
    #[derive(Default)]
    struct Holding {
        permit: Mutex<Option<Permit>>,
        busy: bool,
        unread: bool,
    }

    impl Holder for Holding {
        fn park(&self, _: Unit, idle: Idle) -> bool {
            let fits = idle == if self.unread { Idle::Unread } else { Idle::Read };
            fits && !self.busy && self.permit.lock().unwrap().take().is_some()
        }
    }

    impl Holding {
        fn holds(&self) -> bool {
            self.permit.lock().unwrap().is_some()
        }
    }

    async fn hold(ledger: &Arc<Ledger>, units: usize, busy: bool) -> Arc<Holding> {
        let holder = Arc::new(Holding { busy, ..Holding::default() });
        let weak: Weak<Holding> = Arc::downgrade(&holder);
        let permit =
            ledger.acquire(weak, units, Buffer::default().empty(0), 5 * SECOND).await.unwrap();
        permit.touch();
        *holder.permit.lock().unwrap() = Some(permit);
        holder
    }

    fn nobody() -> Weak<dyn Holder> {
        Weak::<Holding>::new()
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_read_idle_body_is_parked() {
        let ledger = Ledger::new(Unit::Body, 4, true);
        let busy = hold(&ledger, 1, true).await;
        let read = hold(&ledger, 1, false).await;
        let unread = hold(&ledger, 1, false).await;
        read.permit.lock().unwrap().as_ref().unwrap().touch();
        let _unanswered =
            ledger.acquire(nobody(), 1, Buffer::default().empty(0), SECOND).await.unwrap();
        let _more =
            ledger.acquire(nobody(), 1, Buffer::default().empty(0), 5 * SECOND).await.unwrap();
        assert_eq!((busy.holds(), read.holds(), unread.holds()), (true, true, false));
        assert_eq!((ledger.held(), ledger.peak(), ledger.waiting()), (4, 4, 0));
    }

    /// Of two unread holders the older one is parked, and only if no read holder is idle.
    #[tokio::test(start_paused = true)]
    async fn unread_bodies_are_parked_after_those_that_were_read() {
        let ledger = Ledger::new(Unit::Body, 3, true);
        let unread = |permit| Arc::new(Holding { permit, unread: true, ..Holding::default() });
        let [eldest, younger] = [unread(Mutex::default()), unread(Mutex::default())];
        for holder in [&eldest, &younger] {
            let weak: Weak<Holding> = Arc::downgrade(holder);
            let permit = ledger.acquire(weak, 1, Buffer::default().empty(0), SECOND).await.unwrap();
            permit.touch();
            *holder.permit.lock().unwrap() = Some(permit);
        }
        let read = hold(&ledger, 1, false).await;
        let _first = ledger.acquire(nobody(), 1, Buffer::default().empty(0), SECOND).await.unwrap();
        assert_eq!((eldest.holds(), younger.holds(), read.holds()), (true, true, false));
        let _second =
            ledger.acquire(nobody(), 1, Buffer::default().empty(0), SECOND).await.unwrap();
        assert_eq!((eldest.holds(), younger.holds()), (false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn only_as_many_holders_as_needed_are_parked() {
        let ledger = Ledger::new(Unit::Body, 100, true);
        let mut holders = Vec::new();
        for _ in 0..10 {
            holders.push(hold(&ledger, 10, false).await);
        }
        let more = ledger.try_acquire(nobody(), 25).unwrap();
        assert_eq!(holders.iter().filter(|h| h.holds()).count(), 7);
        assert_eq!((more.units(), ledger.held()), (25, 95));
    }

    #[tokio::test(start_paused = true)]
    async fn released_units_go_to_waiters() {
        let ledger = Ledger::new(Unit::Body, 100, true);
        let busy = hold(&ledger, 90, true).await;
        assert!(ledger.try_acquire(nobody(), 20).is_none());
        let mut buffer = Buffer::default();
        let waits = ledger.acquire(nobody(), 20, buffer.empty(0), SECOND);
        let shrink = async { busy.permit.lock().unwrap().as_mut().unwrap().shrink_to(30) };
        let (got, ()) = tokio::join!(waits, shrink);
        assert_eq!((got.map(|got| got.units()), ledger.held()), (Some(20), 30));
        let all = hold(&ledger, 70, false).await;
        drop(busy);
        // A request above the cap gets the whole cap once it is free.
        drop(all);
        assert_eq!(ledger.try_acquire(nobody(), 1000).unwrap().units(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn without_idle_holders_an_open_waits_until_its_limit() {
        let ledger = Ledger::new(Unit::Body, 1, true);
        let busy = hold(&ledger, 1, true).await;
        let start = tokio::time::Instant::now();
        assert!(
            ledger.acquire(nobody(), 1, Buffer::default().empty(0), 2 * SECOND).await.is_none()
        );
        assert_eq!(start.elapsed(), 2 * SECOND);
        drop(busy);
        assert_eq!(ledger.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn permits_are_granted_in_fifo_order() {
        let ledger = Ledger::new(Unit::Body, 1, false);
        let held =
            ledger.acquire(nobody(), 1, Buffer::default().empty(0), Duration::ZERO).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..5)
            .map(|i| {
                let (ledger, order) = (ledger.clone(), order.clone());
                tokio::spawn(async move {
                    let permit = ledger
                        .acquire(nobody(), 1, Buffer::default().empty(0), 5 * SECOND)
                        .await
                        .unwrap();
                    order.lock().unwrap().push(i);
                    drop(permit);
                })
            })
            .collect();
        while ledger.waiting() < 5 {
            tokio::task::yield_now().await;
        }
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!((ledger.held(), ledger.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_leaves_nothing_behind() {
        let ledger = Ledger::new(Unit::Body, 1, true);
        let held =
            ledger.acquire(nobody(), 1, Buffer::default().empty(0), Duration::ZERO).await.unwrap();
        let task = tokio::spawn({
            let ledger = ledger.clone();
            async move {
                ledger.acquire(nobody(), 1, Buffer::default().empty(0), 60 * SECOND).await.map(drop)
            }
        });
        while ledger.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(ledger.waiting(), 0);
        drop(held);
        assert_eq!(ledger.held(), 0);
        ledger.acquire(nobody(), 1, Buffer::default().empty(0), Duration::ZERO).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_becomes_idle_is_parked_for_a_waiter() {
        let ledger = Ledger::new(Unit::Body, 1, true);
        let reader = hold(&ledger, 1, true).await;
        let waiter = tokio::spawn({
            let ledger = ledger.clone();
            async move {
                ledger.acquire(nobody(), 1, Buffer::default().empty(0), 5 * SECOND).await.map(drop)
            }
        });
        while ledger.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        ledger.idle(&*reader);
        assert!(reader.holds(), "it is busy still");
        let now_idle = Holding {
            permit: Mutex::new(reader.permit.lock().unwrap().take()),
            ..Holding::default()
        };
        ledger.idle(&now_idle);
        waiter.await.unwrap().unwrap();
    }
}
