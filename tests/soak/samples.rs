//! The resources of the daemon, sampled each second: whether they grew, as a table and as a plot.

use std::fmt::Write as _;
use std::time::Duration;

use super::support::content::MIB;
use super::support::mount::Mount;

/// The resources of the daemon at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    at: f64,
    fds: f64,
    tcp: f64,
    close_wait: f64,
    rss_mib: f64,
    bodies: f64,
    parked: f64,
    waiting: f64,
    pending: f64,
    /// Memory of pending files.
    written_mib: f64,
    spool_mib: f64,
    buffers_mib: f64,
    pub resumed: f64,
}

type Series = (&'static str, fn(&Sample) -> f64);

const SERIES: [Series; 11] = [
    ("descriptors", |s| s.fds),
    ("TCP sockets", |s| s.tcp),
    ("in CLOSE_WAIT", |s| s.close_wait),
    ("memory, MiB", |s| s.rss_mib),
    ("buffers, MiB", |s| s.buffers_mib),
    ("bodies open", |s| s.bodies),
    ("bodies parked", |s| s.parked),
    ("opens waiting", |s| s.waiting),
    ("pending files", |s| s.pending),
    ("written, MiB", |s| s.written_mib),
    ("spool, MiB", |s| s.spool_mib),
];

impl Sample {
    pub fn take(mount: &Mount, at: Duration) -> Sample {
        let (process, status) = (mount.process(), mount.status());
        let number = |name| status.number(name) as f64;
        Sample {
            at: at.as_secs_f64(),
            fds: process.fds() as f64,
            tcp: process.tcp_sockets() as f64,
            close_wait: process.close_wait() as f64,
            rss_mib: process.memory("VmRSS:") as f64 / 1024.0,
            bodies: number("bodies_open"),
            parked: number("bodies_parked"),
            waiting: number("opens_waiting"),
            pending: status.0["writing"]["pending"].as_array().map_or(0, Vec::len) as f64,
            written_mib: number("writing.memory_bytes") / MIB as f64,
            spool_mib: number("writing.spool_bytes") / MIB as f64,
            buffers_mib: number("buffer_bytes") / MIB as f64,
            resumed: number("bodies_resumed"),
        }
    }
}

fn median(samples: &[Sample], value: fn(&Sample) -> f64) -> f64 {
    quantile(samples, value, 2)
}

/// The value below which one of `parts` of the samples lies.
fn quantile(samples: &[Sample], value: fn(&Sample) -> f64, parts: usize) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / parts).copied().unwrap_or_default()
}

fn most(samples: &[Sample], value: fn(&Sample) -> f64) -> f64 {
    samples.iter().map(value).fold(0.0, f64::max)
}

/// The first third, without its start, and the last third.
fn thirds(samples: &[Sample]) -> (&[Sample], &[Sample]) {
    let n = samples.len();
    (&samples[n / 6..n / 2], &samples[2 * n / 3..])
}

/// Resources that grew from the first third to the last, or exceeded their limit.
pub fn growth(samples: &[Sample]) -> Vec<String> {
    let (early, late) = thirds(samples);
    let mut wrong = Vec::new();
    for (name, value) in SERIES {
        // What is held in the calmest quarter: a leak shows there as well, and a burst of writers does not.
        let [before, after] = [early, late].map(|third| quantile(third, value, 4));
        // Under load a third more may be chance; memory settles slowly, and a part of the spool is 5 MiB.
        let slack = if name.ends_with("MiB") { 16.0 } else { 12.0 };
        if after > 1.34 * before + slack {
            wrong.push(format!("{name} grew from {before:.0} to {after:.0}"));
        }
    }
    let fds = most(samples, |s| s.fds);
    if fds > 128.0 {
        wrong.push(format!("{fds} descriptors of 128"));
    }
    // A half-closed connection is noticed at its next use, or by the idle timeout.
    let stuck = samples.windows(30).any(|w| w.iter().all(|s| s.close_wait > 0.0))
        && median(late, |s| s.close_wait) > 4.0;
    if stuck {
        wrong.push("sockets stay in CLOSE_WAIT".to_owned());
    }
    wrong
}

pub fn table(samples: &[Sample]) -> String {
    let (early, late) = thirds(samples);
    let mut text = format!("{:<15} {:>10} {:>10} {:>10}\n", "", "early", "late", "most");
    for (name, value) in SERIES {
        let [a, b] = [early, late].map(|part| median(part, value));
        let _ = writeln!(text, "{name:<15} {a:>10.1} {b:>10.1} {:>10.1}", most(samples, value));
    }
    text
}

/// The time series, one above the other.
pub fn svg(samples: &[Sample]) -> String {
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 70.0;
    let end = samples.last().map_or(1.0, |s| s.at);
    let height = HEIGHT * SERIES.len() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='{height}' \
         font-family='sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n",
        WIDTH + 160.0
    );
    for (i, (name, value)) in SERIES.into_iter().enumerate() {
        let (top, most) = (HEIGHT * i as f64 + 10.0, most(samples, value).max(1.0));
        let points: String = samples
            .iter()
            .map(|s| {
                let y = top + (HEIGHT - 15.0) * (1.0 - value(s) / most);
                format!("{:.1},{y:.1} ", 150.0 + WIDTH * s.at / end)
            })
            .collect();
        let _ = writeln!(
            svg,
            "<text x='5' y='{:.0}'>{name}</text><text x='5' y='{:.0}' fill='gray'>most {most:.0}</text>\
             <polyline points='{points}' fill='none' stroke='steelblue'/>",
            top + 20.0,
            top + 36.0
        );
    }
    let _ = writeln!(svg, "<text x='150' y='{:.0}'>{end:.0} s</text>\n</svg>", height - 8.0);
    svg
}
