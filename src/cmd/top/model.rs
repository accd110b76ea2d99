//! What `top` shows, and what its keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tokio::time::Instant;

use super::figures::Figures;
use crate::daemon::status::{HandleStatus, Status};
use crate::daemon::survey::Mount;

/// A sample.
pub enum Seen {
    One(Box<Status>),
    All(Vec<Mount>),
}

/// How the open handles are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The longest time since the last read first; since the open, if there was none.
    #[default]
    Idle,
    Age,
    /// What expires next first.
    Expiry,
    Process,
    Key,
}

impl Order {
    pub fn name(self) -> &'static str {
        match self {
            Order::Idle => "idle",
            Order::Age => "age",
            Order::Expiry => "expires",
            Order::Process => "pid",
            Order::Key => "key",
        }
    }

    fn next(self) -> Order {
        match self {
            Order::Idle => Order::Age,
            Order::Age => Order::Expiry,
            Order::Expiry => Order::Process,
            Order::Process => Order::Key,
            Order::Key => Order::Idle,
        }
    }
}

/// What to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    GoOn,
    Quit,
}

#[derive(Default)]
pub struct Top {
    last: Option<(Seen, Instant)>,
    figures: Figures,
    failure: Option<String>,
    pub order: Order,
    reversed: bool,
    pub filter: String,
    /// Whether keys are added to the filter.
    pub is_typing: bool,
    is_paused: bool,
    pub shows_help: bool,
    /// Lines of handles, or of mounts, that are scrolled away.
    pub skipped: usize,
}

impl Top {
    pub fn took(&mut self, seen: Seen, at: Instant) {
        self.failure = None;
        if let Seen::One(now) = &seen {
            self.figures = match &self.last {
                Some((Seen::One(before), then)) if is_same(before, now) => {
                    Figures::of(now, before, (at - *then).as_secs_f64())
                }
                // Of the whole time since the mount.
                _ => Figures::of(now, &Status::default(), now.uptime_s),
            };
        }
        self.last = Some((seen, at));
    }

    /// There is no new sample; the last one stays.
    pub fn failed(&mut self, error: String) {
        self.failure = Some(error);
    }

    pub fn last(&self) -> Option<&Seen> {
        self.last.as_ref().map(|(seen, _)| seen)
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The handles that the filter matches, sorted.
    pub fn handles<'a>(&self, status: &'a Status) -> Vec<&'a HandleStatus> {
        let mut handles: Vec<_> =
            status.handles_detail.iter().filter(|h| self.matches(h)).collect();
        let idle = |h: &HandleStatus| h.idle_s.unwrap_or(h.age_s);
        let expiry = |h: &HandleStatus| h.expires_in_s.unwrap_or(f64::INFINITY);
        handles.sort_by(|a, b| match self.order {
            Order::Idle => idle(b).total_cmp(&idle(a)),
            Order::Age => b.age_s.total_cmp(&a.age_s),
            Order::Expiry => expiry(a).total_cmp(&expiry(b)),
            Order::Process => a.pid.cmp(&b.pid),
            Order::Key => a.key.cmp(&b.key),
        });
        if self.reversed {
            handles.reverse();
        }
        handles
    }

    /// By key, command or process id.
    fn matches(&self, handle: &HandleStatus) -> bool {
        let HandleStatus { key, command, pid, .. } = handle;
        key.contains(&self.filter)
            || command.as_deref().is_some_and(|command| command.contains(&self.filter))
            || pid.to_string() == self.filter
    }

    pub fn key(&mut self, key: KeyEvent) -> Then {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Then::Quit;
        }
        match self.is_typing {
            true => self.type_key(key.code),
            false => return self.command(key.code),
        }
        Then::GoOn
    }

    fn type_key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.skipped = 0;
    }

    fn command(&mut self, key: KeyCode) -> Then {
        const PAGE: usize = 10;
        match key {
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Esc if !self.shows_help && self.filter.is_empty() => return Then::Quit,
            KeyCode::Esc => {
                self.shows_help = false;
                self.filter.clear();
            }
            KeyCode::Char('?' | 'h') => self.shows_help = !self.shows_help,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Down | KeyCode::Char('j') => self.skipped += 1,
            KeyCode::Up | KeyCode::Char('k') => self.skipped = self.skipped.saturating_sub(1),
            KeyCode::PageDown => self.skipped += PAGE,
            KeyCode::PageUp => self.skipped = self.skipped.saturating_sub(PAGE),
            KeyCode::Home => self.skipped = 0,
            _ => {}
        }
        self.skipped = self.skipped.min(self.most_skipped());
        Then::GoOn
    }

    /// The last line stays.
    fn most_skipped(&self) -> usize {
        match self.last() {
            None => 0,
            Some(Seen::One(status)) => self.handles(status).len().saturating_sub(1),
            Some(Seen::All(mounts)) => mounts.len().saturating_sub(1),
        }
    }
}

/// Whether both are of one daemon: another one counts from zero.
fn is_same(before: &Status, now: &Status) -> bool {
    (before.pid, before.started_unix_s.round()) == (now.pid, now.started_unix_s.round())
        || before.pid == now.pid && now.uptime_s >= before.uptime_s
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn handle(key: &str, pid: u32, idle_s: f64, expires_in_s: Option<f64>) -> HandleStatus {
        HandleStatus {
            handle: 1,
            key: key.to_owned(),
            offset: 50,
            length: 100,
            age_s: idle_s + 1.0,
            idle_s: Some(idle_s),
            expires_in_s,
            state: crate::body::State::Idle,
            ino: 7,
            pid,
            command: Some(format!("program{pid}")),
        }
    }

    pub fn status(handles_detail: Vec<HandleStatus>) -> Status {
        let pid = 42;
        Status { handles_detail, pid, uptime_s: 60.0, cap: 100, ..Status::default() }
    }

    fn typed(top: &mut Top, keys: &str) {
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                '\u{8}' => KeyCode::Backspace,
                c => KeyCode::Char(c),
            };
            assert_eq!(top.key(code.into()), Then::GoOn, "{c:?} of {keys:?}");
        }
    }

    fn keys(top: &Top) -> Vec<&str> {
        let Some(Seen::One(status)) = top.last() else { panic!("no status") };
        top.handles(status).iter().map(|handle| handle.key.as_str()).collect()
    }

    fn top() -> Top {
        let mut top = Top::default();
        let handles = vec![
            handle("b", 3, 10.0, Some(5.0)),
            handle("c", 1, 30.0, None),
            handle("a", 2, 20.0, Some(1.0)),
        ];
        top.took(Seen::One(Box::new(status(handles))), Instant::now());
        top
    }

    #[test]
    fn each_order_sorts_the_handles() {
        let mut top = top();
        assert_eq!(keys(&top), ["c", "a", "b"], "idle");
        for (order, sorted) in
            [("age", "cab"), ("expires", "abc"), ("pid", "cab"), ("key", "abc"), ("idle", "cab")]
        {
            typed(&mut top, "s");
            assert_eq!((top.order.name(), keys(&top).concat().as_str()), (order, sorted));
        }
        typed(&mut top, "r");
        assert_eq!(keys(&top), ["b", "a", "c"]);
    }

    #[test]
    fn a_filter_is_typed_and_cleared() {
        let mut top = top();
        typed(&mut top, "/q");
        assert_eq!((keys(&top).len(), top.is_typing), (0, true), "q is a letter now");
        typed(&mut top, "\u{8}b\n");
        assert_eq!((keys(&top), top.is_typing), (vec!["b"], false));
        typed(&mut top, "\u{1b}/program2\n");
        assert_eq!(keys(&top), ["a"]);
        typed(&mut top, "/\u{1b}/1\n");
        assert_eq!(keys(&top), ["c"], "by process or name: {}", top.filter);
    }

    #[test]
    fn some_keys_quit_and_others_pause_and_scroll() {
        let mut top = top();
        typed(&mut top, "p?");
        assert!(top.is_paused() && top.shows_help);
        typed(&mut top, " \u{1b}");
        assert!(!top.is_paused() && !top.shows_help);
        typed(&mut top, "jjjjj");
        assert_eq!(top.skipped, 2, "the last line stays");
        typed(&mut top, "kkk");
        assert_eq!(top.skipped, 0);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for key in [KeyCode::Char('q').into(), KeyCode::Esc.into(), interrupt] {
            assert_eq!(top.key(key), Then::Quit);
        }
        typed(&mut top, "/x");
        assert_eq!(top.key(interrupt), Then::Quit);
    }

    #[test]
    fn a_daemon_that_was_replaced_counts_from_zero() {
        let mut top = top();
        let start = Instant::now();
        let of = |pid, uptime_s, bytes_read| {
            Seen::One(Box::new(Status { pid, uptime_s, bytes_read, ..Status::default() }))
        };
        top.took(of(1, 100.0, 1000), start);
        assert_eq!(top.figures().read, 10.0, "since the mount");
        top.took(of(1, 102.0, 3000), start + std::time::Duration::from_secs(2));
        assert_eq!(top.figures().read, 1000.0);
        top.failed("silence".to_owned());
        assert!(top.failure().is_some() && top.last().is_some());
        top.took(of(2, 10.0, 50), start + std::time::Duration::from_secs(9));
        assert_eq!((top.figures().read, top.failure()), (5.0, None));
    }
}
