//! The lines of `top`. All text of others is escaped here.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::figures::{Figures, Kind};
use super::model::{Seen, Top};
use crate::cmd::list;
use crate::config::terminal;
use crate::daemon::status::{HandleStatus, Status};
use crate::shown::Shown;

/// Rows of the table of operations and requests.
const KINDS: usize = 5;

const HELP: [&str; 9] = [
    "q, Esc, Ctrl-C   quit",
    "s                sort by the next of: idle, age, expires, pid, key",
    "r                reverse the order",
    "/                show only handles whose key or command has this text, or of this pid;",
    "                 Enter keeps it, Esc clears it",
    "p, Space         pause",
    "Up, Down, PgUp, PgDn, Home   scroll",
    "?                this help",
    "Rates are those since the last sample, at first those since the mount.",
];

/// As many as fit on a screen of this size. What does not fit on a line is cut off by the terminal.
pub fn lines(top: &Top, width: u16, height: u16) -> Vec<Line<'static>> {
    let height = usize::from(height);
    let mut lines = match top.last() {
        None => vec![Line::from("expirefs top: waiting for the mount")],
        Some(Seen::One(status)) => above(top, status, usize::from(width)),
        Some(Seen::All(mounts)) => vec![Line::from(format!("{} mounts", mounts.len()))],
    };
    if let Some(failure) = top.failure() {
        let text = format!("no answer, trying again: {}", Shown(failure));
        lines.insert(1.min(lines.len()), Line::styled(text, bad()));
    }
    let room = height.saturating_sub(lines.len() + 1);
    let mut below = match top.last() {
        _ if top.shows_help => HELP.iter().map(|line| Line::from(*line)).collect(),
        None => Vec::new(),
        Some(Seen::One(status)) => handles(top, status, Some(room)),
        Some(Seen::All(mounts)) => {
            let table = list::table(mounts);
            let mut rows = table.lines().map(|line| Line::from(line.to_owned()));
            let title = rows.next().map(|line| line.style(title()));
            title.into_iter().chain(rows.skip(top.skipped)).collect()
        }
    };
    below.truncate(room);
    lines.append(&mut below);
    lines.truncate(height.saturating_sub(1));
    lines.resize(height.saturating_sub(1), Line::default());
    lines.push(footer(top));
    lines
}

/// For a file or a pipe: all of it, once.
pub fn printed(top: &Top) -> String {
    let lines = match top.last() {
        None => Vec::new(),
        Some(Seen::All(mounts)) => return list::table(mounts),
        Some(Seen::One(status)) => {
            let mut lines = above(top, status, 80);
            lines.append(&mut handles(top, status, None));
            lines
        }
    };
    lines.iter().map(|line| format!("{}\n", line.to_string().trim_end())).collect()
}

fn title() -> Style {
    Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)
}

fn coloured(colour: Color) -> Style {
    let style = Style::new().add_modifier(Modifier::BOLD);
    if terminal::is_plain() { style } else { style.fg(colour) }
}

fn bad() -> Style {
    coloured(Color::Red)
}

fn footer(top: &Top) -> Line<'static> {
    let count = match top.last() {
        Some(Seen::One(status)) => {
            format!("  {} of {} handles", top.handles(status).len(), status.handles_detail.len())
        }
        Some(Seen::All(_)) => "  `expirefs top DIR` shows one of them".to_owned(),
        None => String::new(),
    };
    let text = match (top.is_typing, top.filter.is_empty()) {
        (true, _) => format!("/{}_", Shown(&top.filter)),
        (false, false) => format!("filter: {}  (Esc clears it){count}", Shown(&top.filter)),
        (false, true) => {
            let paused = if top.is_paused() { "PAUSED  " } else { "" };
            let order = top.order.name();
            format!("{paused}q quit  s sort: {order}  r reverse  / filter  p pause  ? help{count}")
        }
    };
    Line::styled(text, Style::new().add_modifier(Modifier::REVERSED))
}

/// What stands above the handles.
fn above(top: &Top, s: &Status, width: usize) -> Vec<Line<'static>> {
    let (figures, up) = (top.figures(), brief(s.uptime_s));
    let mount = format!("{} on {}, pid {}, up {up}", Shown(&s.source), Shown(&s.dir), s.pid);
    let mut lines = vec![Line::styled(mount, title()), gauge(s, width)];
    lines.push(Line::from(format!(
        "fds {} of {}, {} inodes, buffers {}/{} MiB, clock {:+.1}s",
        s.fds,
        s.fd_limit,
        s.inodes,
        s.buffer_bytes.div_ceil(1 << 20),
        s.buffer_bytes_cap >> 20,
        s.clock_offset_ms as f64 / 1000.0
    )));
    let pending = s.writing.as_ref().map(|w| {
        format!(
            ", written {}, {} pending, {} commits failed",
            speed(figures.written),
            w.pending.len(),
            w.failed
        )
    });
    lines.push(Line::from(format!(
        "read {}, received {}{}; {} resumed, throttled {}/s",
        speed(figures.read),
        speed(figures.received),
        pending.unwrap_or_default(),
        s.bodies_resumed,
        rate(figures.throttled_per_s)
    )));
    lines.push(Line::from(format!(
        "list price {:.4} USD so far, now {:.4} USD per hour",
        s.usd, figures.usd_per_hour
    )));
    let hits = figures.hits.iter().map(|(name, share)| format!(" {name} {:.0}%", share * 100.0));
    let hits: String = hits.collect();
    lines.push(Line::from(format!("cache hits:{}", if hits.is_empty() { " -" } else { &hits })));
    lines.append(&mut kinds(figures));
    let next = s.handles_detail.iter().filter(|h| h.expires_in_s.is_some_and(|left| left > 0.0));
    let next =
        next.min_by(|a, b| a.expires_in_s.unwrap_or(0.0).total_cmp(&b.expires_in_s.unwrap_or(0.0)));
    lines.push(Line::from(match next {
        Some(h) => {
            let left = brief(h.expires_in_s.unwrap_or(0.0));
            format!("of what is open, expires next: in {left} {}", Shown(&h.key))
        }
        None => "of what is open, expires next: nothing".to_owned(),
    }));
    lines
}

/// Open bodies and their cap.
fn gauge(s: &Status, width: usize) -> Line<'static> {
    let bar = width.saturating_sub(60).clamp(10, 60);
    let share = s.bodies_open as f64 / s.cap.max(1) as f64;
    let filled = ((share * bar as f64).ceil() as usize).min(bar);
    let colour = match share {
        _ if s.opens_waiting > 0 => Color::Red,
        0.9.. => Color::Red,
        0.7.. => Color::Yellow,
        _ => Color::Green,
    };
    let bar = format!("{}{}", "|".repeat(filled), " ".repeat(bar - filled));
    let numbers = format!(
        "] {} of {} open, {} parked, {} forgotten, ",
        s.bodies_open, s.cap, s.bodies_parked, s.bodies_forgotten
    );
    let waiting = format!("{} waiting", s.opens_waiting);
    let style = if s.opens_waiting > 0 { bad() } else { Style::new() };
    Line::from(vec![
        Span::from("bodies ["),
        Span::styled(bar, coloured(colour)),
        Span::from(numbers),
        Span::styled(waiting, style),
    ])
}

/// Operations on the left, requests on the right.
fn kinds(figures: &Figures) -> Vec<Line<'static>> {
    let row = |name: &str, cells: [String; 4]| {
        let [per_s, failed, median, p99] = cells;
        format!("{name:<11.11} {per_s:>6} {failed:>6} {median:>6} {p99:>6}")
    };
    let head = |name| row(name, ["/s", "fail/s", "median", "99 %"].map(str::to_owned));
    let cells = |kind: Option<&Kind>| match kind {
        None => String::new(),
        Some(kind) => {
            let time = |seconds: Option<f64>| seconds.map_or("-".to_owned(), brief);
            let rates = [rate(kind.per_s), rate(kind.failed_per_s)];
            let [per_s, failed] = rates;
            row(&kind.name, [per_s, failed, time(kind.median), time(kind.p99)])
        }
    };
    let mut lines =
        vec![Line::styled(format!("{:<39}  {}", head("OPERATION"), head("REQUEST")), title())];
    for i in 0..KINDS {
        let (left, right) = (cells(figures.operations.get(i)), cells(figures.requests.get(i)));
        lines.push(Line::from(format!("{left:<39}  {right}")));
    }
    lines
}

/// The title and as many handles as there is room for.
fn handles(top: &Top, status: &Status, room: Option<usize>) -> Vec<Line<'static>> {
    let head = format!(
        "{:>8} {:12} {:8} {:>5} {:>5} {:>7} {:>5} KEY",
        "PID", "COMMAND", "STATE", "AGE", "IDLE", "EXPIRES", "READ"
    );
    let shown = top.handles(status).into_iter().skip(top.skipped);
    let shown = shown.take(room.map_or(usize::MAX, |room| room.saturating_sub(1)));
    std::iter::once(Line::styled(head, title())).chain(shown.map(handle)).collect()
}

fn handle(h: &HandleStatus) -> Line<'static> {
    let expires = match h.expires_in_s {
        None => "never".to_owned(),
        Some(left) if left <= 0.0 => "expired".to_owned(),
        Some(left) => brief(left),
    };
    let read = match h.length {
        0 => 100.0,
        length => 100.0 * h.offset as f64 / length as f64,
    };
    Line::from(format!(
        "{:>8} {:12.12} {:8} {:>5} {:>5} {expires:>7} {:>4.0}% {}",
        h.pid,
        Shown(h.command.as_deref().unwrap_or("-")),
        format!("{:?}", h.state).to_lowercase(),
        brief(h.age_s),
        h.idle_s.map_or("-".to_owned(), brief),
        read,
        Shown(&h.key)
    ))
}

/// A time in at most five characters.
fn brief(seconds: f64) -> String {
    match seconds {
        s if s < 0.000_999_5 => format!("{:.0}µs", s * 1e6),
        s if s < 0.009_995 => format!("{:.1}ms", s * 1e3),
        s if s < 0.999_5 => format!("{:.0}ms", s * 1e3),
        s if s < 9.995 => format!("{s:.1}s"),
        s if s < 99.5 => format!("{s:.0}s"),
        s if s < 99.5 * 60.0 => format!("{:.0}m", s / 60.0),
        s if s < 99.5 * 3600.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

/// A rate in at most five characters.
fn rate(per_s: f64) -> String {
    match per_s {
        0.0 => "0".to_owned(),
        r if r < 9.995 => format!("{r:.1}"),
        r if r < 9_999.5 => format!("{r:.0}"),
        r if r < 999_500.0 => format!("{:.0}k", r / 1e3),
        r => format!("{:.0}M", r / 1e6),
    }
}

fn speed(bytes_per_s: f64) -> String {
    format!("{}/s", bytesize::ByteSize(bytes_per_s as u64).display().iec())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::cmd::top::model::tests::{handle, status};

    fn shown(top: &Top, width: u16, height: u16) -> Vec<String> {
        lines(top, width, height).iter().map(ToString::to_string).collect()
    }

    fn of(status: Status) -> Top {
        let mut top = Top::default();
        top.took(Seen::One(Box::new(status)), Instant::now());
        top
    }

    #[test]
    fn each_size_gets_as_many_lines_as_it_has_and_the_keys_on_the_last() {
        let many = (0..100).map(|n| handle(&format!("key{n}"), n, 1.0, None)).collect();
        let top = of(Status {
            bodies_open: 0,
            fd_limit: 1_048_576,
            fds: 12_345,
            inodes: 123_456,
            buffer_bytes: 1 << 30,
            buffer_bytes_cap: 1 << 30,
            clock_offset_ms: -3_600_000,
            usd: 1234.5678,
            ..status(many)
        });
        for (width, height) in [(80, 24), (80, 12), (40, 3), (10, 1), (200, 200)] {
            let lines = shown(&top, width, height);
            assert_eq!(lines.len(), usize::from(height));
            assert!(lines.last().expect("a line").starts_with("q quit"), "{lines:?}");
        }
        let lines = shown(&top, 80, 24);
        assert!(lines.iter().filter(|line| line.contains(" key")).count() >= 9, "{lines:#?}");
        assert!(lines[1].contains("0 of 100 open"), "{}", lines[1]);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert_eq!(printed(&top).lines().filter(|line| line.contains(" key")).count(), 100);
    }

    #[test]
    fn text_of_others_is_escaped() {
        let hostile = "a\u{1b}[2J\u{202e}\nb";
        let mut status = status(vec![handle(hostile, 1, 1.0, Some(3.0))]);
        status.handles_detail[0].command = Some("\u{1b}]0;x\u{7}".to_owned());
        (status.source, status.dir) = (hostile.to_owned(), hostile.to_owned());
        let mut top = of(status);
        top.failed(hostile.to_owned());
        for line in shown(&top, 80, 24).iter().chain([&printed(&top).replace('\n', "")]) {
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }

    #[test]
    fn times_and_rates_fit_into_their_columns() {
        let times = [0.0, 1e-6, 9.99e-4, 9.999e-4, 0.05, 0.9999, 9.99, 59.0, 99.9, 5e3, 9e4, 1e7];
        let longest = times.iter().map(|time| brief(*time).chars().count()).max();
        assert!(longest <= Some(5), "{:?}", times.map(brief));
        let rates = [0.0, 0.04, 9.99, 99.9, 9999.0, 9999.9, 123_456.0, 999_999.0, 5e8];
        assert!(rates.iter().all(|r| rate(*r).len() <= 5), "{:?}", rates.map(rate));
        assert_eq!([2.5e-3, 12.0, 240.0].map(brief), ["2.5ms", "12s", "4m"]);
    }

    #[test]
    fn what_expires_next_is_named_even_if_it_is_not_on_the_screen() {
        let handles = vec![handle("late", 1, 9.0, Some(90.0)), handle("soon", 2, 1.0, Some(5.0))];
        let gone = handle("gone", 3, 1.0, Some(-5.0));
        let top = of(status(handles.into_iter().chain([gone]).collect()));
        let lines = shown(&top, 80, 24);
        let next = lines.iter().find(|line| line.contains("expires next")).expect("a line");
        assert!(next.ends_with("in 5.0s soon"), "{next}");
        assert!(lines.iter().any(|line| line.contains("expired") && line.ends_with("gone")));
    }
}
