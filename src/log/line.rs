//! The form of one event: a line of text or JSON, framed for its destination. Keys, headers and
//! messages of a store get into it by fields of any kind, so the finished line is escaped, and no
//! field is missed.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Style;
use crate::shown;

/// What a destination adds to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A line of its own, with time and level.
    Line,
    /// A datagram of RFC 3164, without the time, which the receiver adds (§4.3.2).
    Syslog,
    /// A datagram of the journal's native protocol, with each field of the event.
    Journal,
}

/// Many receivers of syslog cut off what is longer.
const SYSLOG_MAX: usize = 8 << 10;

/// Of a field of the journal, so that all fit into a datagram.
const JOURNAL_MAX: usize = 16 << 10;

/// The facility `daemon` (RFC 3164, §4.1.1).
const FACILITY: u32 = 3;

const NAME: &str = "expirefs";

/// Formats each event as one line.
pub struct Lines {
    style: Style,
    frame: Frame,
    text: Format<Full, SystemTime>,
    timeless: Format<Full, ()>,
    json: Format<Json, SystemTime>,
}

impl Lines {
    pub fn new(style: Style, frame: Frame) -> Lines {
        let text = Format::default();
        // Both destinations store the level.
        let timeless = text.clone().without_time().with_level(frame != Frame::Journal);
        let json = text.clone().json().with_current_span(false);
        Lines { style, frame, text, timeless, json }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        let inner = Writer::new(&mut text);
        match (self.style, self.frame) {
            (Style::Json, _) => self.json.format_event(context, inner, event)?,
            (Style::Text, Frame::Line) => self.text.format_event(context, inner, event)?,
            (Style::Text, _) => self.timeless.format_event(context, inner, event)?,
        }
        let line = text.trim_end_matches('\n');
        let line = match self.style {
            Style::Json => shown::json(line),
            Style::Text => shown::line(line),
        };
        let severity = severity(*event.metadata().level());
        match self.frame {
            Frame::Line => writeln!(writer, "{line}"),
            Frame::Syslog => {
                let (priority, pid) = (8 * FACILITY + severity, std::process::id());
                write!(writer, "<{priority}>{NAME}[{pid}]: {}", cut(&line, SYSLOG_MAX - 64))
            }
            Frame::Journal => {
                writeln!(writer, "MESSAGE={}", cut(&line, JOURNAL_MAX))?;
                writeln!(writer, "PRIORITY={severity}\nSYSLOG_IDENTIFIER={NAME}")?;
                writeln!(writer, "{PREFIX}TARGET={}", event.metadata().target())?;
                let mut fields = JournalFields { writer, outcome: Ok(()) };
                event.record(&mut fields);
                fields.outcome
            }
        }
    }
}

/// RFC 3164, §4.1.1, as journald uses it.
fn severity(level: Level) -> u32 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// The start of a line, of at most so many bytes.
fn cut(line: &str, most: usize) -> &str {
    &line[..line.floor_char_boundary(most)]
}

/// Of the names of fields, so that none is one of the journal's own.
const PREFIX: &str = "EXPIREFS_";

/// Writes fields of an event as fields of the journal.
struct JournalFields<'a> {
    writer: Writer<'a>,
    outcome: fmt::Result,
}

impl JournalFields<'_> {
    fn field(&mut self, name: &str, value: &str) {
        // The text has it.
        if name == "message" || self.outcome.is_err() {
            return;
        }
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_ascii_uppercase();
        // Without control characters a value is one line, and needs no length before it.
        let value = shown::line(value);
        self.outcome = writeln!(self.writer, "{PREFIX}{name}={}", cut(&value, JOURNAL_MAX));
    }
}

impl Visit for JournalFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field.name(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing::{info_span, warn};
    use tracing_subscriber::fmt::MakeWriter;

    use super::super::layer;
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Written;

        fn make_writer(&'a self) -> Written {
            self.clone()
        }
    }

    const EVIL: &str = "x\n2026 ERROR forged\u{1b}]0;P\u{7}\u{9b}\u{202e}\"}";

    /// What an event with evil fields is written as.
    fn written(style: Style, frame: Frame) -> String {
        let written = Written::default();
        use tracing_subscriber::layer::SubscriberExt;
        let subscriber = tracing_subscriber::registry().with(layer(style, frame, written.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _span = info_span!("lookup", key = EVIL, more = %EVIL).entered();
            warn!(key = %EVIL, plain = EVIL, debug = ?EVIL, n = 7, "said: {EVIL}");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn is_harmless(text: &str) -> bool {
        !text.chars().any(char::is_control) && !text.contains('\u{202e}')
    }

    #[test]
    fn an_event_is_one_line_whatever_its_fields_and_spans_hold() {
        let text = written(Style::Text, Frame::Line);
        let line = text.strip_suffix('\n').unwrap();
        assert!(is_harmless(line), "{line:?}");
        assert_eq!(line.matches("forged").count(), 6, "{line}");
    }

    #[test]
    fn an_event_in_json_is_one_object_on_one_line_with_the_values_as_they_are() {
        let text = written(Style::Json, Frame::Line);
        let line = text.strip_suffix('\n').unwrap();
        assert!(is_harmless(line), "{line:?}");
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&event["level"], &event["fields"]["n"]), (&"WARN".into(), &7.into()));
        for field in ["key", "plain"] {
            assert_eq!(event["fields"][field], EVIL);
        }
        assert_eq!(event["fields"]["message"], format!("said: {EVIL}"));
        assert_eq!(event["spans"][0]["key"], EVIL);
        assert!(event["timestamp"].is_string() && event["target"].is_string(), "{event}");
    }

    #[test]
    fn a_datagram_for_syslog_has_priority_name_and_process() {
        for style in [Style::Text, Style::Json] {
            let text = written(style, Frame::Syslog);
            let start = format!("<28>expirefs[{}]: ", std::process::id());
            assert!(text.starts_with(&start) && is_harmless(&text), "{text:?}");
        }
        assert_eq!(cut("aä", 2), "a");
    }

    #[test]
    fn a_datagram_for_the_journal_has_each_field_and_no_other() {
        for style in [Style::Text, Style::Json] {
            let text = written(style, Frame::Journal);
            let lines: Vec<_> = text.strip_suffix('\n').unwrap().split('\n').collect();
            assert!(lines.iter().all(|line| is_harmless(line)), "{text:?}");
            let names: Vec<_> = lines.iter().map(|line| line.split_once('=').unwrap().0).collect();
            let fields =
                ["TARGET", "KEY", "PLAIN", "DEBUG", "N"].map(|name| PREFIX.to_owned() + name);
            let own = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"].map(str::to_owned);
            assert_eq!(names, [&own[..], &fields].concat());
            assert!(lines.contains(&"PRIORITY=4") && lines.contains(&"EXPIREFS_N=7"), "{text}");
        }
    }
}
