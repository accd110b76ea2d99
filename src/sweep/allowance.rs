//! How many objects may still be deleted (`--max-delete`).

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// See the module.
#[derive(Debug)]
pub struct Allowance {
    most: u64,
    used: AtomicU64,
    /// One permit for each object that may still be deleted; closed when none is left for good.
    left: Semaphore,
}

/// The right to delete one object. It returns to the allowance if it is dropped.
pub struct Allowed<'a> {
    allowance: &'a Allowance,
    permit: SemaphorePermit<'a>,
}

impl Allowance {
    pub fn new(most: u64) -> Allowance {
        let permits = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let left = Semaphore::new(permits);
        if most == 0 {
            left.close();
        }
        Allowance { most, used: AtomicU64::new(0), left }
    }

    /// Waits while all that is left is taken by objects in flight: some of them may turn out to be
    /// renewed. `None`: all is used.
    pub async fn take(&self) -> Option<Allowed<'_>> {
        let permit = self.left.acquire().await.ok()?;
        Some(Allowed { allowance: self, permit })
    }

    /// The same without waiting: `None` also if all that is left is taken.
    pub fn try_take(&self) -> Option<Allowed<'_>> {
        let permit = self.left.try_acquire().ok()?;
        Some(Allowed { allowance: self, permit })
    }

    pub fn most(&self) -> u64 {
        self.most
    }
}

impl Allowed<'_> {
    /// The object is deleted, or may be.
    pub fn used(self) {
        self.permit.forget();
        if self.allowance.used.fetch_add(1, Ordering::Relaxed) + 1 == self.allowance.most {
            self.allowance.left.close();
        }
    }
}
