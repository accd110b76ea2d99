//! The progress of a command on standard error: only on a terminal, once the command has run for a
//! while, and never with `--quiet`.

use std::fmt::Display;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// How long a command runs before it shows its progress.
pub const SILENCE: Duration = Duration::from_secs(1);

/// See the module.
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
    began: Instant,
}

impl Progress {
    /// Of bytes of one object.
    pub fn of_bytes(quiet: bool) -> Progress {
        Progress::new(quiet, "{spinner} {bytes}, {bytes_per_sec}")
    }

    /// Of objects of a bucket.
    pub fn of_objects(quiet: bool) -> Progress {
        Progress::new(quiet, "{spinner} {human_pos} objects ({per_sec}), {msg}")
    }

    fn new(quiet: bool, template: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let progress = Progress { bar, quiet, began: Instant::now() };
        progress.looks_like(template);
        progress
    }

    fn looks_like(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    /// Its end is known: so many bytes.
    pub fn ends_at(&self, bytes: u64) {
        self.bar.set_length(bytes);
        self.looks_like("{bytes} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta}");
    }

    /// So many bytes or objects are done.
    pub fn at(&self, position: u64) {
        if !self.quiet && self.bar.is_hidden() && self.began.elapsed() > SILENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
        self.bar.set_position(position);
    }

    /// The same, and what else there is to say.
    pub fn tell(&self, position: u64, what: impl Display) {
        self.at(position);
        if !self.bar.is_hidden() {
            self.bar.set_message(what.to_string());
        }
    }

    /// Prints something else meanwhile.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
