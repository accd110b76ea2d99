//! The status of a mount as metrics, in the formats of OpenMetrics and of Prometheus.
//!
//! No label holds a key: there would be as many series as keys.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
    prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Status;
use crate::metrics::{ByKind, Counts, LATENCY, LIFETIME, Scale};

/// All names begin with it.
const PREFIX: &str = "expirefs";

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4, which `promtool check metrics` reads.
    Prometheus,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Samples {
    Counter(Vec<(Labels, f64)>),
    Gauge(Vec<(Labels, f64)>),
    Histogram(&'static Scale, Vec<(Labels, Counts)>),
    Info(Labels),
}

/// A metric and its values.
#[derive(Debug)]
pub struct Family {
    /// Without prefix, unit and suffix.
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: Samples,
}

impl Family {
    /// As its series are named in queries; those of a histogram have one more suffix.
    pub fn full_name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let suffix = match self.samples {
            Samples::Counter(_) => "_total",
            Samples::Info(_) => "_info",
            Samples::Gauge(_) | Samples::Histogram(..) => "",
        };
        format!("{PREFIX}_{}{unit}{suffix}", self.name)
    }

    pub fn help(&self) -> &'static str {
        self.help
    }

    pub fn kind(&self) -> &'static str {
        match self.samples {
            Samples::Counter(_) => "counter",
            Samples::Gauge(_) => "gauge",
            Samples::Histogram(..) => "histogram",
            Samples::Info(_) => "info",
        }
    }

    pub fn labels(&self) -> Vec<&'static str> {
        let of = |labels: &Labels| labels.iter().map(|(name, _)| *name).collect();
        match &self.samples {
            Samples::Counter(all) | Samples::Gauge(all) => {
                all.first().map(|(labels, _)| of(labels))
            }
            Samples::Histogram(_, all) => all.first().map(|(labels, _)| of(labels)),
            Samples::Info(labels) => Some(of(labels)),
        }
        .unwrap_or_default()
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.samples {
            Samples::Counter(_) => MetricType::Counter,
            Samples::Gauge(_) => MetricType::Gauge,
            Samples::Histogram(..) => MetricType::Histogram,
            Samples::Info(_) => MetricType::Info,
        };
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        match &self.samples {
            Samples::Counter(all) => each(&mut metric, all, |metric, value| {
                metric.encode_counter::<NoLabelSet, _, u64>(&Number(*value), None)
            }),
            Samples::Gauge(all) => {
                each(&mut metric, all, |metric, value| metric.encode_gauge(&Number(*value)))
            }
            Samples::Histogram(scale, all) => each(&mut metric, all, |metric, value| {
                let bounds = scale.bounds_s().chain([f64::INFINITY]);
                let counts = value.counts.iter().copied().chain(std::iter::repeat(0));
                let buckets: Vec<_> = bounds.zip(counts).collect();
                metric.encode_histogram::<NoLabelSet>(value.sum_s, value.count(), &buckets, None)
            }),
            Samples::Info(labels) => metric.encode_info(labels),
        }
    }
}

fn each<V>(
    metric: &mut MetricEncoder<'_>,
    all: &[(Labels, V)],
    encode: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in all {
        match labels.is_empty() {
            true => encode(metric, value)?,
            false => encode(&mut metric.encode_family(labels)?, value)?,
        }
    }
    Ok(())
}

/// Written without a fraction if it has none.
struct Number(f64);

impl Number {
    fn whole(&self) -> Option<i64> {
        (self.0.fract() == 0.0 && self.0.abs() < 1e15).then_some(self.0 as i64)
    }
}

impl EncodeGaugeValue for Number {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::GaugeValueEncoder<'_>,
    ) -> fmt::Result {
        match self.whole() {
            Some(whole) => EncodeGaugeValue::encode(&whole, encoder),
            None => EncodeGaugeValue::encode(&self.0, encoder),
        }
    }
}

impl EncodeCounterValue for Number {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::CounterValueEncoder<'_>,
    ) -> fmt::Result {
        match self.whole().and_then(|whole| u64::try_from(whole).ok()) {
            Some(whole) => EncodeCounterValue::encode(&whole, encoder),
            None => EncodeCounterValue::encode(&self.0, encoder),
        }
    }
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Status {
    /// All metrics, in the order in which they are described.
    pub fn metrics(&self) -> Vec<Family> {
        let mut families = Vec::new();
        super::families::of(self, &mut Describing(&mut families));
        families
    }

    /// The same as a text.
    pub fn exposed(&self, format: Format) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(Families(self.metrics())));
        let mut encoded = String::new();
        let written = match format {
            Format::OpenMetrics => text::encode(&mut encoded, &registry),
            Format::Prometheus => prometheus_text::encode(&mut encoded, &registry),
        };
        debug_assert!(written.is_ok(), "writing to a String never fails");
        encoded
    }
}

/// Adds metrics to a list.
pub(super) struct Describing<'a>(&'a mut Vec<Family>);

impl Describing<'_> {
    fn add(
        &mut self,
        name: &'static str,
        unit: Option<Unit>,
        help: &'static str,
        samples: Samples,
    ) {
        self.0.push(Family { name, help, unit, samples });
    }

    pub(super) fn info(&mut self, name: &'static str, help: &'static str, labels: Labels) {
        self.add(name, None, help, Samples::Info(labels));
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str, value: usize) {
        self.add(name, None, help, Samples::Gauge(vec![(Labels::new(), value as f64)]));
    }

    pub(super) fn gauge_of(
        &mut self,
        name: &'static str,
        unit: Unit,
        help: &'static str,
        value: f64,
    ) {
        self.add(name, Some(unit), help, Samples::Gauge(vec![(Labels::new(), value)]));
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, None, help, Samples::Counter(vec![(Labels::new(), value as f64)]));
    }

    pub(super) fn counter_of(
        &mut self,
        name: &'static str,
        unit: Unit,
        help: &'static str,
        value: f64,
    ) {
        self.add(name, Some(unit), help, Samples::Counter(vec![(Labels::new(), value)]));
    }

    pub(super) fn counters<V: IntoIterator<Item = (Labels, u64)>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: V,
    ) {
        let values = values.into_iter().map(|(labels, value)| (labels, value as f64)).collect();
        self.add(name, None, help, Samples::Counter(values));
    }

    /// Two metrics: how often, by kind and result, and how long it took, by kind.
    pub(super) fn timed(
        &mut self,
        (name, help): (&'static str, &'static str),
        (duration, about): (&'static str, &'static str),
        all: &ByKind,
    ) {
        let results = all.iter().flat_map(|(kind, timed)| {
            timed.results.iter().map(|(result, count)| {
                (vec![("operation", kind.clone()), ("result", result.clone())], *count)
            })
        });
        self.counters(name, help, results);
        let took =
            all.iter().map(|(kind, timed)| (vec![("operation", kind.clone())], timed.took.clone()));
        let took = Samples::Histogram(&LATENCY, took.collect());
        self.add(duration, Some(Unit::Seconds), about, took);
    }

    pub(super) fn lifetimes(&mut self, name: &'static str, help: &'static str, counts: &Counts) {
        let samples = Samples::Histogram(&LIFETIME, vec![(Labels::new(), counts.clone())]);
        self.add(name, Some(Unit::Seconds), help, samples);
    }
}
