//! The runtime that operations run on, as long as it runs.
//!
//! The kernel goes on to send requests for files that are open when a mount is detached, until the end
//! of the process. A timer that is polled after the end of its runtime panics (tokio::runtime::Handle).

use std::sync::{Arc, PoisonError, RwLock};

use tokio::runtime::Handle;

/// Where operations run.
#[derive(Debug)]
pub struct Workers(Arc<RwLock<Option<Handle>>>);

/// Dropped before the runtime ends; it waits for polls in progress, and nothing is polled afterwards.
#[derive(Debug)]
pub struct Closing(Arc<RwLock<Option<Handle>>>);

impl Workers {
    pub fn on(runtime: Handle) -> (Workers, Closing) {
        let runtime = Arc::new(RwLock::new(Some(runtime)));
        (Workers(runtime.clone()), Closing(runtime))
    }

    /// Runs this within the runtime; drops it if there is none any more.
    pub(super) fn run(&self, work: impl FnOnce(&Handle)) {
        let runtime = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            let _entered = runtime.enter();
            work(runtime);
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::time::sleep;

    use super::*;

    #[test]
    fn nothing_is_polled_after_the_end_of_the_runtime() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (workers, closing) = Workers::on(runtime.handle().clone());
        let mut polled = 0;
        let mut poll_once = || {
            workers.run(|_| {
                polled += 1;
                drop(sleep(Duration::ZERO));
            });
        };
        poll_once();
        drop(closing);
        drop(runtime);
        poll_once();
        assert_eq!(polled, 1);
    }
}
