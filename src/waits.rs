//! What an operation waits for, and how long: an account that is carried with its task.
//!
//! Each moment counts for one wait, so the parts never exceed the whole. If requests run at the same
//! time, it is the first of those under way in the order of [`Wait`]: what is further from the end
//! of a request matters only while nothing is nearer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Content of a response.
    Receive,
    /// A new connection: a free socket, DNS, TCP, TLS.
    Connect,
    /// A request, from its signature to the headers of the response.
    Response,
    /// The pause before a request is repeated.
    Backoff,
    /// A permit for a HEAD or LIST.
    MetadataPermit,
    /// A permit for a body.
    BodyPermit,
    /// Memory for content.
    Memory,
    /// Another operation on the same file, or with the same question.
    Turn,
    /// The commit of a file, apart from the waits above.
    Commit,
}

const KINDS: usize = 9;

tokio::task_local! {
    static OF_OPERATION: Arc<Waits>;
}

/// The account of one operation.
#[derive(Debug)]
pub struct Waits(Mutex<State>);

#[derive(Debug)]
struct State {
    began: Instant,
    /// Up to when the time is accounted for.
    until: Instant,
    /// Waits under way, by kind.
    ongoing: [u32; KINDS],
    spent: [Duration; KINDS],
}

/// How long an operation has taken, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    pub total: Duration,
    waits: [Duration; KINDS],
}

impl Spent {
    pub fn on(&self, wait: Wait) -> Duration {
        self.waits[wait as usize]
    }

    /// Time without any of the waits.
    pub fn rest(&self) -> Duration {
        self.total.saturating_sub(self.waits.iter().sum())
    }
}

impl Waits {
    /// The account of an operation that begins now.
    pub fn begin() -> Arc<Waits> {
        let now = Instant::now();
        let state = State { began: now, until: now, ongoing: [0; KINDS], spent: <_>::default() };
        Arc::new(Waits(Mutex::new(state)))
    }

    /// Runs an operation on this account.
    pub fn of<F: Future>(
        self: &Arc<Self>,
        operation: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        OF_OPERATION.scope(self.clone(), operation)
    }

    pub fn spent(&self) -> Spent {
        let mut state = self.state();
        let now = state.account();
        Spent { total: now - state.began, waits: state.spent }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Accounts for the time up to now.
    fn account(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(wait) = self.ongoing.iter().position(|count| *count > 0) {
            self.spent[wait] += now - self.until;
        }
        self.until = now;
        now
    }
}

/// For a task that works for the current operation: the same account.
pub fn inherited<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let account = OF_OPERATION.try_with(Arc::clone).ok();
    async move {
        match account {
            Some(account) => OF_OPERATION.scope(account, work).await,
            None => work.await,
        }
    }
}

impl Wait {
    /// Begins to wait; ends when the result is dropped. Nothing without an account.
    pub fn begin(self) -> Waiting {
        let account = OF_OPERATION.try_with(Arc::clone).ok();
        if let Some(account) = &account {
            let mut state = account.state();
            state.account();
            state.ongoing[self as usize] += 1;
        }
        Waiting { account, wait: self }
    }

    /// Waits for `work`. Costs nothing if it is ready.
    pub async fn during<F: Future>(self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        let mut waiting = None;
        std::future::poll_fn(move |context| {
            let polled = work.as_mut().poll(context);
            if polled.is_pending() {
                waiting.get_or_insert_with(|| self.begin());
            }
            polled
        })
        .await
    }
}

/// A wait under way.
#[derive(Debug)]
pub struct Waiting {
    account: Option<Arc<Waits>>,
    wait: Wait,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            let mut state = account.state();
            state.account();
            state.ongoing[self.wait as usize] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_parts_are_the_whole() {
        let account = Waits::begin();
        let task = account.of(async {
            sleep(SECOND).await;
            Wait::MetadataPermit.during(sleep(2 * SECOND)).await;
            Wait::Response.during(Wait::Connect.during(sleep(3 * SECOND))).await;
            Wait::Response.during(sleep(4 * SECOND)).await;
        });
        task.await;
        let spent = account.spent();
        let parts = [
            (spent.rest(), 1),
            (spent.on(Wait::MetadataPermit), 2),
            (spent.on(Wait::Connect), 3),
            (spent.on(Wait::Response), 4),
            (spent.on(Wait::Backoff), 0),
            (spent.total, 10),
        ];
        for (nth, (found, seconds)) in parts.into_iter().enumerate() {
            assert_eq!(found, seconds * SECOND, "part {nth}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_waits_at_the_same_time_one_counts() {
        let account = Waits::begin();
        let requests = account.of(async {
            tokio::join!(
                Wait::Response.during(sleep(2 * SECOND)),
                Wait::MetadataPermit.during(sleep(5 * SECOND)),
                Wait::Response.during(sleep(3 * SECOND)),
            )
        });
        requests.await;
        let spent = account.spent();
        assert_eq!(spent.on(Wait::Response), 3 * SECOND);
        assert_eq!(spent.on(Wait::MetadataPermit), 2 * SECOND);
        assert_eq!((spent.total, spent.rest()), (5 * SECOND, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_of_the_operation_counts_and_one_of_nobody_does_not() {
        let account = Waits::begin();
        let operation = account.of(async {
            let task = inherited(Wait::Receive.during(sleep(SECOND)));
            #[expect(clippy::disallowed_methods, reason = "joined at once")]
            tokio::spawn(task).await.expect("no panic");
            Wait::Backoff.during(std::future::ready(())).await;
        });
        operation.await;
        inherited(Wait::Memory.during(sleep(SECOND))).await;
        let spent = account.spent();
        assert_eq!((spent.on(Wait::Receive), spent.on(Wait::Memory)), (SECOND, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_cancelled_ends() {
        let account = Waits::begin();
        let operation = account.of(async {
            let _ = tokio::time::timeout(SECOND, Wait::Turn.during(sleep(9 * SECOND))).await;
            sleep(SECOND).await;
        });
        operation.await;
        assert_eq!((account.spent().on(Wait::Turn), account.spent().rest()), (SECOND, SECOND));
    }
}
