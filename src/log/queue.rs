//! Lines on their way to a destination that may be slow: a thread writes them, and who logs never
//! waits. If there are too many, or one cannot be written, it is counted, and the count is logged
//! once lines arrive again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use tracing::error;

/// Bytes that wait at most.
const ROOM: usize = 1 << 20;

/// Where lines go.
pub trait Destination: Send + 'static {
    /// Writes one line. May block.
    ///
    /// # Errors
    /// If the line is lost.
    fn write(&mut self, line: &[u8]) -> io::Result<()>;

    /// Opens the destination anew.
    ///
    /// # Errors
    /// If it cannot be opened; the old one is kept.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Item {
    Line(Vec<u8>),
    Reopen,
}

/// The queue of one destination.
#[derive(Default)]
pub struct Queue {
    /// Lock order: no other lock is taken while this is held.
    state: Mutex<State>,
    /// There is an item.
    filled: Condvar,
    /// There is none, and none is being written.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// An item is being written.
    busy: bool,
    lost: u64,
}

impl Queue {
    /// Starts the thread, which ends with the process: a write may block for ever.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(destination: impl Destination) -> io::Result<Arc<Queue>> {
        let queue = Arc::new(Queue::default());
        let writer = queue.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "a write that blocks must not block the end"
        )]
        Builder::new().name("log".into()).spawn(move || writer.write_all(destination))?;
        Ok(queue)
    }

    /// Adds a line, unless there are too many.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.bytes + line.len() > ROOM {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.items.push_back(Item::Line(line.to_vec()));
        self.filled.notify_one();
    }

    /// Opens the destination anew, after the lines so far.
    pub fn reopen(&self) {
        self.state().items.push_back(Item::Reopen);
        self.filled.notify_one();
    }

    /// Whether all is written.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.items.is_empty() && !state.busy
    }

    /// Waits until all is written, at most for `patience`.
    pub fn flush(&self, patience: Duration) {
        let waiting = |state: &mut State| !state.items.is_empty() || state.busy;
        drop(self.emptied.wait_timeout_while(self.state(), patience, waiting));
    }

    fn write_all(&self, mut destination: impl Destination) {
        loop {
            let item = {
                let empty = |state: &mut State| state.items.is_empty();
                let waited = self.filled.wait_while(self.state(), empty);
                let mut state = waited.unwrap_or_else(PoisonError::into_inner);
                state.busy = true;
                state.items.pop_front()
            };
            let (bytes, outcome) = match item {
                Some(Item::Line(line)) => (line.len(), destination.write(&line)),
                Some(Item::Reopen) => {
                    if let Err(error) = destination.reopen() {
                        error!(
                            "the log file cannot be opened anew, and the old one is kept: {error}"
                        );
                    }
                    (0, Ok(()))
                }
                None => (0, Ok(())),
            };
            let lost = {
                let mut state = self.state();
                state.bytes -= bytes;
                match outcome {
                    Ok(()) => std::mem::take(&mut state.lost),
                    Err(_) => {
                        state.lost += 1;
                        0
                    }
                }
            };
            if lost > 0 {
                error!(lines = lost, "lines of the log were lost: it was too slow, or failed");
            }
            let mut state = self.state();
            state.busy = false;
            if state.items.is_empty() {
                self.emptied.notify_all();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Writes a line when it is told to, and fails if it is told so.
    struct Told {
        told: mpsc::Receiver<bool>,
        written: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Destination for Told {
        fn write(&mut self, line: &[u8]) -> io::Result<()> {
            match self.told.recv() {
                Ok(true) => self.written.lock().unwrap().push(line.to_vec()),
                _ => return Err(io::ErrorKind::StorageFull.into()),
            }
            Ok(())
        }
    }

    #[test]
    fn who_logs_never_waits_and_lost_lines_are_counted() {
        let (tell, told) = mpsc::channel();
        let written = Arc::<Mutex<Vec<_>>>::default();
        let queue = Queue::start(Told { told, written: written.clone() }).unwrap();
        let line = vec![b'x'; ROOM / 4];
        // The first ones fit, also while the destination hangs.
        for _ in 0..100 {
            queue.push(&line);
        }
        assert!(!queue.is_idle());
        assert_eq!(queue.state().lost, 96);
        queue.flush(Duration::from_millis(1));
        assert!(!queue.is_idle(), "it still hangs");
        for fails in [false, true, true, true] {
            tell.send(!fails).unwrap();
        }
        queue.flush(PATIENCE);
        assert_eq!(written.lock().unwrap().len(), 1);
        assert_eq!(queue.state().lost, 3, "the 96 were logged after the first line");
        assert_eq!(queue.state().bytes, 0);
    }
}
