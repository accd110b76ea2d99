//! The log of this process: which events, in which form, and where they go.
//!
//! Nothing that logs ever waits for the destination, and a destination that fails changes nothing
//! but the log (rule O4).

mod destination;
mod filter;
mod line;
mod queue;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use destination::{Datagrams, JOURNAL, LogFile, SYSLOG, Stderr};
pub use filter::{Filter, Filtering};
use line::{Frame, Lines};
use queue::{Destination, Queue};

/// How long the end of the process waits for lines that are not written yet.
const FAREWELL: Duration = Duration::from_secs(1);

/// The form of a line (`--log-format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Text,
    Json,
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Stderr,
    File(PathBuf),
    Syslog,
    Journal,
    Nowhere,
}

impl Place {
    /// The journal if there is one, else syslog, else nowhere: for a process without a terminal.
    pub fn of_the_host() -> Place {
        match () {
            () if Datagrams::to(JOURNAL).is_ok() => Place::Journal,
            () if Datagrams::to(SYSLOG).is_ok() => Place::Syslog,
            () => Place::Nowhere,
        }
    }
}

/// The log of this process. Dropping it waits a moment for lines that are not written yet.
pub struct Log {
    queue: Option<Arc<Queue>>,
    file: Option<PathBuf>,
    pub filter: Filter,
}

impl Log {
    /// Starts logging; `has_starter`: on standard error too, which the command that has started this
    /// daemon reads until it serves. It is /dev/null from then on.
    ///
    /// # Errors
    /// If the log cannot be written there, in words for the operator.
    pub fn start(
        filter: Filter,
        filtering: Filtering,
        place: &Place,
        style: Style,
        has_starter: bool,
    ) -> Result<Log, String> {
        let (queue, frame) = match place {
            Place::Nowhere => (None, Frame::Line),
            Place::Stderr => {
                (Some(Queue::start(Stderr).map_err(|e| cannot("standard error", &e))?), Frame::Line)
            }
            Place::File(path) => {
                let queue = LogFile::open(path).and_then(Queue::start);
                (Some(queue.map_err(|e| cannot(&path.display().to_string(), &e))?), Frame::Line)
            }
            Place::Syslog => {
                let queue = Datagrams::to(SYSLOG).and_then(Queue::start);
                (Some(queue.map_err(|e| cannot("syslog", &e))?), Frame::Syslog)
            }
            Place::Journal => {
                let queue = Datagrams::to(JOURNAL).and_then(Queue::start);
                (Some(queue.map_err(|e| cannot("the journal", &e))?), Frame::Journal)
            }
        };
        let lines = queue.clone().map(|queue| {
            let direct = (*place == Place::Stderr).then(Mutex::default);
            layer(style, frame, Sink { queue, direct })
        });
        let shown = has_starter.then(|| layer(style, Frame::Line, OnlyNow));
        let layers: Vec<_> = lines.into_iter().chain(shown).collect();
        registry().with(filtering).with(layers).init();
        let file = match place {
            Place::File(path) => Some(path.clone()),
            _ => None,
        };
        Ok(Log { queue, file, filter })
    }

    /// The file that it goes to.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// To open its file anew, if it goes to one.
    pub fn rotation(&self) -> Option<Rotation> {
        self.file.as_ref().and(self.queue.clone()).map(Rotation)
    }
}

/// Opens the file of a log anew.
#[derive(Clone)]
pub struct Rotation(Arc<Queue>);

impl Rotation {
    pub fn now(&self) {
        self.0.reopen();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.iter().for_each(|queue| queue.flush(FAREWELL));
    }
}

fn cannot(place: &str, error: &io::Error) -> String {
    format!("cannot log to {place}: {error}")
}

/// Where formatted lines go.
struct Sink {
    queue: Arc<Queue>,
    /// To standard error a line goes at once, if that takes it without waiting: in order with the
    /// output of the process. Held by who writes there.
    direct: Option<Mutex<()>>,
}

impl Sink {
    fn line(&self, line: &[u8]) {
        if let Some(turn) = &self.direct
            // A pipe that can be written takes this much.
            && line.len() <= libc::PIPE_BUF
            && let Ok(_turn) = turn.try_lock()
            && self.queue.is_idle()
            && Stderr.takes_more()
            && Stderr.write(line).is_ok()
        {
            return;
        }
        self.queue.push(line);
    }
}

impl io::Write for &Sink {
    /// An event comes as one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Sink;

    fn make_writer(&'a self) -> &'a Sink {
        self
    }
}

/// Standard error, if that takes a line without waiting.
struct OnlyNow;

impl io::Write for OnlyNow {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() <= libc::PIPE_BUF && Stderr.takes_more() {
            let _ = Stderr.write(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for OnlyNow {
    type Writer = OnlyNow;

    fn make_writer(&self) -> OnlyNow {
        OnlyNow
    }
}

/// Formats events and writes them.
fn layer<S, W>(style: Style, frame: Frame, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer()
        .with_writer(writer)
        // Otherwise it prints its own errors on standard error, and panics if that fails.
        .log_internal_errors(false)
        // Colours are escape sequences.
        .with_ansi(false);
    let lines = Lines::new(style, frame);
    match style {
        Style::Text => layer.event_format(lines).boxed(),
        // The format reads the fields of spans, and expects them in JSON.
        Style::Json => layer.fmt_fields(JsonFields::new()).event_format(lines).boxed(),
    }
}
