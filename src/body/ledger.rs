//! The account of open bodies: a permit for each, never more than the cap.
//!
//! A [`Permit`] lives inside a body and goes back when the body is dropped, so that no path can
//! keep one. At the cap, who asks for one more takes over the permit of the least recently read
//! idle body; where none is idle it waits its turn, first come first served, for a bounded time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// Somebody who owns an open body and may be asked to give it up.
pub trait Holder: Send + Sync {
    /// Closes the body and gives its permit back, if no read is waiting on it and it has
    /// answered one already. Must not block. Returns whether it did.
    fn park(&self) -> bool;

    /// How long nobody has read the body.
    fn idle_for(&self) -> Duration;
}

/// The account. One for a mount.
#[derive(Debug)]
pub struct Ledger {
    cap: usize,
    parking: bool,
    permits: Arc<Semaphore>,
    /// Lock order: nothing else is locked, and no holder dropped, while this is held.
    holders: Mutex<HashMap<u64, Weak<dyn Holder>>>,
    next_id: AtomicU64,
    waiting: AtomicUsize,
    peak: AtomicUsize,
}

/// The right to one open body. Dropping it gives it to whoever waits longest.
pub struct Permit {
    ledger: Arc<Ledger>,
    id: u64,
    // Last, so that it returns after the holder is off the list.
    _permit: OwnedSemaphorePermit,
}

impl Ledger {
    /// An account of `cap` permits. Without `parking` no open body is ever taken over.
    pub fn new(cap: usize, parking: bool) -> Arc<Ledger> {
        Arc::new(Ledger {
            cap,
            parking,
            permits: Arc::new(Semaphore::new(cap)),
            holders: Mutex::default(),
            next_id: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        })
    }

    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Bodies open now.
    pub fn open(&self) -> usize {
        self.cap - self.permits.available_permits()
    }

    /// The most bodies that were open at one time.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Those who wait for a permit now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a permit for `holder`, waiting up to `patience`.
    ///
    /// # Errors
    /// `TooManyBodies` when none became free in time.
    pub async fn acquire(
        self: &Arc<Self>,
        holder: Weak<dyn Holder>,
        patience: Duration,
    ) -> Result<Permit> {
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait(patience).await?,
        };
        self.peak.fetch_max(self.open(), Ordering::Relaxed);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.holders().insert(id, holder);
        Ok(Permit { ledger: self.clone(), id, _permit: permit })
    }

    async fn wait(&self, patience: Duration) -> Result<OwnedSemaphorePermit> {
        let _waiting = Waiting::new(self);
        let mut turn = std::pin::pin!(self.permits.clone().acquire_owned());
        // In the queue first: what is parked for us then comes in order to those before us.
        if let Some(Ok(permit)) = (&mut turn).now_or_never() {
            return Ok(permit);
        }
        self.park_least_recently_read();
        match tokio::time::timeout(patience, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(closed)) => Err(Error::Defect(closed.to_string())),
            Err(_) => Err(Error::TooManyBodies { cap: self.cap, waited: patience }),
        }
    }

    fn park_least_recently_read(&self) {
        if !self.parking {
            return;
        }
        // Pairs with `idle`: whoever comes second sees the other, so that no body falls idle
        // unseen between a wait that finds none and the end of the read that kept it busy.
        fence(Ordering::SeqCst);
        let mut open: Vec<_> = self.holders().values().filter_map(Weak::upgrade).collect();
        open.sort_by_cached_key(|holder| holder.idle_for());
        for holder in open.into_iter().rev() {
            if holder.park() {
                return;
            }
        }
    }

    /// To be called when a read is over and its body is free: it is parked at once if somebody
    /// waits for a permit.
    pub fn idle(&self, holder: &dyn Holder) {
        fence(Ordering::SeqCst);
        if self.parking && self.waiting.load(Ordering::SeqCst) > 0 {
            holder.park();
        }
    }

    fn holders(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Weak<dyn Holder>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.ledger.holders().remove(&self.id);
    }
}

/// Counts one who waits, for as long as it lives.
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

    /// Holds at most one permit, and parks it when it may.
    #[derive(Default)]
    struct Idle {
        permit: Mutex<Option<Permit>>,
        idle: u64,
        busy: bool,
    }

    impl Holder for Idle {
        fn park(&self) -> bool {
            !self.busy && self.permit.lock().unwrap().take().is_some()
        }
        fn idle_for(&self) -> Duration {
            Duration::from_secs(self.idle)
        }
    }

    async fn hold(ledger: &Arc<Ledger>, idle: u64, busy: bool) -> Arc<Idle> {
        let holder = Arc::new(Idle { idle, busy, ..Idle::default() });
        let weak: Weak<Idle> = Arc::downgrade(&holder);
        let permit = ledger.acquire(weak, Duration::from_secs(5)).await.unwrap();
        *holder.permit.lock().unwrap() = Some(permit);
        holder
    }

    fn nobody() -> Weak<dyn Holder> {
        Weak::<Idle>::new()
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_read_idle_body_is_parked() {
        let ledger = Ledger::new(3, true);
        let busy = hold(&ledger, 9, true).await;
        let newer = hold(&ledger, 1, false).await;
        let older = hold(&ledger, 4, false).await;
        let _more = ledger.acquire(nobody(), Duration::from_secs(5)).await.unwrap();
        assert!(older.permit.lock().unwrap().is_none());
        assert!(newer.permit.lock().unwrap().is_some() && busy.permit.lock().unwrap().is_some());
        assert_eq!((ledger.open(), ledger.peak(), ledger.waiting()), (3, 3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_is_idle_an_open_waits_for_its_bound() {
        let ledger = Ledger::new(1, true);
        let busy = hold(&ledger, 1, true).await;
        let start = tokio::time::Instant::now();
        let patience = Duration::from_secs(2);
        let refused = ledger.acquire(nobody(), patience).await.err();
        assert_eq!(refused, Some(Error::TooManyBodies { cap: 1, waited: patience }));
        assert_eq!(start.elapsed(), patience);
        drop(busy);
        assert_eq!(ledger.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn permits_go_round_first_come_first_served() {
        let ledger = Ledger::new(1, false);
        let held = ledger.acquire(nobody(), Duration::ZERO).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..5)
            .map(|i| {
                let (ledger, order) = (ledger.clone(), order.clone());
                tokio::spawn(async move {
                    let permit = ledger.acquire(nobody(), Duration::from_secs(5)).await.unwrap();
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
        assert_eq!((ledger.open(), ledger.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_leaves_nothing_behind() {
        let ledger = Ledger::new(1, true);
        let held = ledger.acquire(nobody(), Duration::ZERO).await.unwrap();
        let task = tokio::spawn({
            let ledger = ledger.clone();
            async move { ledger.acquire(nobody(), Duration::from_secs(60)).await.map(drop) }
        });
        while ledger.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(ledger.waiting(), 0);
        drop(held);
        assert_eq!(ledger.open(), 0);
        ledger.acquire(nobody(), Duration::ZERO).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_falls_idle_goes_to_who_waits() {
        let ledger = Ledger::new(1, true);
        let reader = hold(&ledger, 1, true).await;
        let waiter = tokio::spawn({
            let ledger = ledger.clone();
            async move { ledger.acquire(nobody(), Duration::from_secs(5)).await.map(drop) }
        });
        while ledger.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        ledger.idle(&*reader);
        assert!(reader.permit.lock().unwrap().is_some(), "it is busy still");
        let now_idle =
            Idle { permit: Mutex::new(reader.permit.lock().unwrap().take()), ..Idle::default() };
        ledger.idle(&now_idle);
        waiter.await.unwrap().unwrap();
    }
}
