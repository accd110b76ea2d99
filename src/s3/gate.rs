//! Permits for HEAD and LIST requests: as many in flight as the store accepts.
//!
//! When the store throttles (503 SlowDown, 429), the number of permits is halved; each time that
//! many requests were answered, it grows by a few: additive increase, multiplicative decrease, as
//! in TCP (RFC 5681 §3.1).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::waits::Wait;

/// Throttling responses within this time are one burst and count once.
const BURST: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Gate {
    turns: Semaphore,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The target number of permits.
    width: usize,
    /// The current number of permits: larger than the target until permits in use are returned and
    /// removed.
    now: usize,
    answered: usize,
    narrowed: Option<Instant>,
}

/// The right to one request.
pub struct Turn<'a> {
    gate: &'a Gate,
    permit: Option<SemaphorePermit<'a>>,
}

impl Gate {
    pub fn new(most: usize) -> Gate {
        let state = State { width: most, now: most, answered: 0, narrowed: None };
        Gate { turns: Semaphore::new(most), most, state: Mutex::new(state) }
    }

    /// Waits for a permit, in FIFO order.
    pub async fn turn(&self) -> Turn<'_> {
        // The semaphore is never closed.
        Turn { gate: self, permit: Wait::MetadataPermit.during(self.turns.acquire()).await.ok() }
    }

    /// Records a throttling response.
    pub fn throttled(&self) {
        let mut state = self.state();
        if state.narrowed.is_some_and(|at| at.elapsed() < BURST) {
            return;
        }
        state.narrowed = Some(Instant::now());
        state.answered = 0;
        state.width = (state.width / 2).max(1);
        // Permits in use are removed when they are returned.
        state.now -= self.turns.forget_permits(state.now - state.width);
    }

    /// Records any other response.
    pub fn answered(&self) {
        let mut state = self.state();
        if state.width == self.most {
            return;
        }
        state.answered += 1;
        if state.answered >= state.width {
            state.answered = 0;
            state.width = (state.width + 1 + state.width / 8).min(self.most);
            let more = state.width.saturating_sub(state.now);
            state.now += more;
            self.turns.add_permits(more);
        }
    }

    /// The number of requests that may be in flight now.
    #[cfg(test)]
    fn width(&self) -> usize {
        self.state().width
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if state.now > state.width
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            state.now -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    /// Free permits.
    fn free(gate: &Gate) -> usize {
        gate.turns.available_permits()
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_narrows_once_a_burst_and_widens_again() {
        let gate = Gate::new(64);
        assert_eq!(free(&gate), 64);
        gate.throttled();
        gate.throttled();
        assert_eq!((gate.width(), free(&gate)), (32, 32));
        for _ in 0..10 {
            tokio::time::advance(BURST).await;
            gate.throttled();
        }
        assert_eq!((gate.width(), free(&gate)), (1, 1));
        let mut answers = 0;
        while gate.width() < 64 {
            gate.answered();
            answers += 1;
            assert_eq!(free(&gate), gate.width());
        }
        assert!((64..2000).contains(&answers), "{answers}");
    }

    #[tokio::test(start_paused = true)]
    async fn permits_in_use_are_removed_when_they_are_returned() {
        let gate = Gate::new(8);
        let mut taken: Vec<_> = (0..8).filter_map(|_| gate.turn().now_or_never()).collect();
        gate.throttled();
        assert_eq!((gate.width(), taken.len()), (4, 8));
        for left in (4..8).rev() {
            taken.truncate(left);
            assert_eq!(free(&gate), 0, "{left} are still in use");
        }
        taken.clear();
        assert_eq!(free(&gate), 4);
    }
}
