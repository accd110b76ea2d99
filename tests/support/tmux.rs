//! A terminal, as tmux shows it.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::wait::eventually;

/// A tmux server with one window. It ends, with what runs in it, when this is dropped.
pub struct Tmux {
    server: String,
}

impl Tmux {
    /// Runs a script of sh(1) in a window of this size.
    pub fn start(width: u16, height: u16, script: &str) -> Tmux {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let tmux = Tmux { server: format!("expirefs-{}-{number}", std::process::id()) };
        let (width, height) = (width.to_string(), height.to_string());
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, script]);
        tmux
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let run = Command::new("tmux").args(["-u", "-L", &self.server]).args(args).output();
        let Output { status, stdout, stderr } = run.expect("tmux");
        assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("text")
    }

    /// Presses keys, by their names in tmux(1).
    pub fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    pub fn resize(&self, width: u16, height: u16) {
        self.run(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// The lines on the screen.
    pub fn lines(&self) -> Vec<String> {
        self.run(&["capture-pane", "-p"]).lines().map(str::to_owned).collect()
    }

    /// The same with their colours and attributes, as escape sequences.
    pub fn coloured(&self) -> String {
        self.run(&["capture-pane", "-p", "-e"])
    }

    /// The lines, once they are `right`.
    #[track_caller]
    pub fn eventually(&self, what: &str, right: impl Fn(&[String]) -> bool) -> Vec<String> {
        eventually(Duration::from_secs(30), || {
            let lines = self.lines();
            match right(&lines) {
                true => Ok(lines),
                false => Err(format!("{what}:\n{}", lines.join("\n"))),
            }
        })
    }

    /// The process that runs the script.
    pub fn process(&self) -> String {
        self.run(&["list-panes", "-F", "#{pane_pid}"]).trim().to_owned()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}
