//! The ledger under many thread interleavings: each waiter is woken, and each permit is counted.

use std::time::Duration;

use interleavings::body::{Buffer, Holder, Idle, Ledger, Permit, Unit};
use shuttle::current::{Labels, me, set_label_for_task};
use shuttle::sync::{Arc, Mutex, Weak};
use shuttle::{check_pct, check_random, future, thread};

/// Never elapses: see the crate.
const FOREVER: Duration = Duration::from_secs(3600);

/// Random interleavings, and those with few switches at the worst moments.
fn check(scenario: fn()) {
    check_random(scenario, 3000);
    check_pct(scenario, 3000, 3);
}

/// A holder of at most one permit, which it releases unless it is in use.
struct Hand {
    ledger: Arc<Ledger>,
    units: usize,
    permit: Mutex<Option<Permit>>,
}

impl Holder for Hand {
    fn park(&self, _: Unit, idle: Idle) -> bool {
        idle == Idle::Read && self.permit.try_lock().is_ok_and(|mut permit| permit.take().is_some())
    }
}

impl Hand {
    fn new(ledger: &Arc<Ledger>, units: usize) -> Arc<Hand> {
        Arc::new(Hand { ledger: ledger.clone(), units, permit: Mutex::new(None) })
    }

    fn weak(self: &Arc<Self>) -> Weak<dyn Holder> {
        let weak: Weak<Hand> = Arc::downgrade(self);
        weak
    }

    /// Like a read: acquires its permit again if it was parked, uses it, and becomes idle.
    async fn read(self: &Arc<Self>) {
        // No other read runs on this holder, so no permit can arrive in between.
        if self.permit.lock().unwrap().is_none() {
            let permit = self
                .ledger
                .acquire(self.weak(), self.units, Buffer::default().empty(0), FOREVER)
                .await;
            let permit = permit.unwrap();
            let mut mine = self.permit.lock().unwrap();
            permit.touch();
            *mine = Some(permit);
        }
        if let Some(permit) = &*self.permit.lock().unwrap() {
            thread::yield_now();
            permit.touch();
        }
        self.ledger.idle(&**self);
        assert!(self.ledger.held() <= self.ledger.cap());
    }
}

fn must_be_at_rest(ledger: &Ledger) {
    assert_eq!((ledger.held(), ledger.waiting()), (0, 0));
    assert!(ledger.peak() <= ledger.cap());
}

/// Each of `hands` reads several times, all concurrently, and stays open afterwards.
fn all_read(ledger: Arc<Ledger>, units: &[usize], reads: usize) {
    let hands: Vec<_> = units.iter().map(|units| Hand::new(&ledger, *units)).collect();
    let read = |hand: Arc<Hand>| async move {
        for _ in 0..reads {
            hand.read().await;
        }
    };
    let reading: Vec<_> = hands.iter().cloned().map(|hand| future::spawn(read(hand))).collect();
    for task in reading {
        future::block_on(task).unwrap();
    }
    drop(hands);
    must_be_at_rest(&ledger);
}

/// Rule B4: a waiter gets the permit of a holder that becomes idle, whenever that is.
#[test]
fn idle_holders_are_found_by_all_waiters() {
    check(|| all_read(Ledger::new(Unit::Body, 1, true), &[1, 1, 1], 2));
    check(|| all_read(Ledger::new(Unit::Body, 2, true), &[1, 1, 1, 1], 2));
}

#[test]
fn large_and_small_requests_are_both_granted() {
    check(|| all_read(Ledger::new(Unit::Kib, 4, true), &[3, 2, 4], 2));
    check(|| all_read(Ledger::new(Unit::Kib, 5, true), &[1, 5, 2, 2], 2));
}

/// Windows grow and shrink while others wait for the memory.
#[test]
fn memory_released_in_part_goes_to_waiters() {
    check(|| {
        let ledger = Ledger::new(Unit::Kib, 4, true);
        let mut tasks = Vec::new();
        for want in [2, 3] {
            let ledger = ledger.clone();
            tasks.push(future::spawn(async move {
                let hand = Hand::new(&ledger, 1);
                for _ in 0..2 {
                    hand.read().await;
                    let mut mine = hand.permit.lock().unwrap().take();
                    if let Some(permit) = &mut mine {
                        let grown = permit.try_grow_to(want);
                        assert_eq!(permit.units(), if grown { want } else { 1 });
                        thread::yield_now();
                        permit.shrink_to(1);
                    }
                    *hand.permit.lock().unwrap() = mine;
                    ledger.idle(&*hand);
                }
            }));
        }
        let all = ledger.clone();
        tasks.push(future::spawn(async move { Hand::new(&all, 4).read().await }));
        for task in tasks {
            future::block_on(task).unwrap();
        }
        must_be_at_rest(&ledger);
    });
}

/// A wait that is cancelled at any moment keeps no permit and no place in the queue.
#[test]
fn a_wait_cancelled_while_it_gets_the_permit_loses_nothing() {
    check(|| {
        let ledger = Ledger::new(Unit::Body, 1, false);
        let nobody = || Weak::<Hand>::new();
        let wait = || {
            let ledger = ledger.clone();
            future::spawn(async move {
                ledger.acquire(nobody(), 1, Buffer::default().empty(0), FOREVER).await.map(drop)
            })
        };
        let held =
            future::block_on(ledger.acquire(nobody(), 1, Buffer::default().empty(0), FOREVER))
                .unwrap();
        let (cancelled, waits) = (wait(), wait());
        let release = thread::spawn(move || drop(held));
        cancelled.abort();
        future::block_on(waits).unwrap().unwrap();
        let _ = future::block_on(cancelled);
        release.join().unwrap();
        must_be_at_rest(&ledger);
    });
}

#[derive(Clone, Debug)]
struct Impatient;

/// The same for a wait that times out: it gets the permit, or the next waiter does.
#[test]
fn a_wait_that_times_out_while_it_gets_the_permit_loses_nothing() {
    check(|| {
        tokio::time::clear_triggers();
        let ledger = Ledger::new(Unit::Body, 1, true);
        let nobody = || Weak::<Hand>::new();
        let held =
            future::block_on(ledger.acquire(nobody(), 1, Buffer::default().empty(0), FOREVER))
                .unwrap();
        let impatient = future::spawn({
            let ledger = ledger.clone();
            async move {
                set_label_for_task(me(), Impatient);
                ledger.acquire(nobody(), 1, Buffer::default().empty(0), FOREVER).await.map(drop)
            }
        });
        let waits = future::spawn({
            let ledger = ledger.clone();
            async move {
                ledger.acquire(nobody(), 1, Buffer::default().empty(0), FOREVER).await.map(drop)
            }
        });
        let release = thread::spawn(move || drop(held));
        tokio::time::trigger_timeouts(|labels: &Labels| labels.get::<Impatient>().is_some());
        future::block_on(waits).unwrap().unwrap();
        future::block_on(impatient).unwrap();
        release.join().unwrap();
        must_be_at_rest(&ledger);
    });
}
