//! The log: one line per event on standard error. Keys, headers and messages of a store get into it
//! by fields of any kind, so the finished line is escaped, and no field is missed.

use std::fmt;
use std::io;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::shown;

/// Starts logging with `filter` (`--log`); the directive `quiet` limits its module further.
///
/// # Errors
/// If `filter` cannot be parsed, in words for the operator.
pub fn start(filter: &str, quiet: &str) -> Result<(), String> {
    let mut parsed = EnvFilter::try_new(filter).map_err(|e| {
        format!("--log {filter:?}: {e}; expected a level such as `info`, or `expirefs=debug,warn`")
    })?;
    if parsed.max_level_hint().is_none_or(|level| level == LevelFilter::TRACE) {
        let quiet = quiet.parse().map_err(|e| format!("{quiet}: {e}"))?;
        parsed = parsed.add_directive(quiet);
    }
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(io::stderr)
        // Otherwise it prints its own errors on standard error, and panics if that fails.
        .log_internal_errors(false)
        // Colours are escape sequences.
        .with_ansi(false)
        .event_format(Lines(Format::default()))
        .init();
    Ok(())
}

/// Formats each event as one line.
struct Lines<F>(F);

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        writeln!(writer, "{}", shown::line(line))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{info_span, warn};
    use tracing_subscriber::fmt::MakeWriter;

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

    #[test]
    fn an_event_is_one_line_whatever_its_fields_and_spans_hold() {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(written.clone())
            .with_ansi(false)
            .event_format(Lines(Format::default()));
        let evil = "x\n2026 ERROR forged\u{1b}]0;P\u{7}\u{9b}\u{202e}";
        tracing::subscriber::with_default(subscriber.finish(), || {
            let _span = info_span!("lookup", key = evil, more = %evil).entered();
            warn!(key = %evil, plain = evil, debug = ?evil, "said: {evil}");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(char::is_control) && !line.contains('\u{202e}'), "{line:?}");
        assert_eq!(line.matches("forged").count(), 6, "{line}");
    }
}
