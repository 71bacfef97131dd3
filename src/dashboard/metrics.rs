//! `/metrics` for Prometheus: every counter, every histogram, ages and state. Made by `watch`.
//!
//! Encoded by `prometheus-client` from the same atomic buckets as everything else, so that nothing is recorded twice. It
//! writes OpenMetrics; who does not ask for that gets the older text format, which differs in how counters are announced.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Sources;
use super::state::Condition;
use crate::control::Phase;
use crate::telemetry::{Distribution, LatencyName, SensorSnapshot, Snapshot};

/// Upper ends of the buckets in seconds; close together around the usual budget of 50 ms.
const BUCKETS_S: [f64; 30] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.015, 0.02,
    0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.07, 0.08, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.5,
    10.0,
];

/// The text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
    Text,
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header asks for.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Format::OpenMetrics } else { Format::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything as of now.
pub fn encode(sources: &Sources, condition: &Condition, format: Format) -> String {
    let metrics = sources.monitor.metrics();
    let scrape = Scrape {
        device: sources.monitor.device().to_owned(),
        model: sources.monitor.model().to_owned(),
        budget_s: sources.settings.get().latency_budget_ms / 1e3,
        state: condition.state,
        uptime: metrics.uptime(),
        cycles: metrics.cycles(),
        counts: metrics.counts(),
        latencies: metrics.distributions(),
    };
    let mut registry = Registry::with_prefix("pi0");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    // Only the writer could fail, and a String does not.
    let _ = text::encode(&mut text, &registry);
    match format {
        Format::OpenMetrics => text,
        Format::Text => older(&text),
    }
}

/// The older text format: counters are announced by the name that their samples have; there are no units and no end.
fn older(text: &str) -> String {
    let mut counters: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(("counter", name)) = line
            .strip_prefix("# TYPE ")
            .and_then(|line| line.rsplit_once(' '))
            .map(|(name, kind)| (kind, name))
        {
            counters.push(name);
        }
    }
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT" | "EOF"), ..) => continue,
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                out += &format!("# {kind} {name}_total {rest}\n");
            }
            _ => {
                out += line;
                out.push('\n');
            }
        }
    }
    out
}

/// All values of one answer.
#[derive(Debug)]
struct Scrape {
    device: String,
    model: String,
    budget_s: f64,
    state: &'static str,
    uptime: Duration,
    cycles: u64,
    counts: Snapshot,
    latencies: Vec<(LatencyName, Distribution)>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(&mut encoder);
        let Snapshot { frame_sets, clamped_states, chunks, joins, dropped, missed, .. } = &self.counts;
        let build =
            [("version", env!("CARGO_PKG_VERSION")), ("device", &self.device), ("model", &self.model)];
        out.gauge("build_info", "Version of the node, device and model in use", None, [(Some(build), 1.0)])?;
        let start =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(self.uptime);
        // To the second, so that it stands still from one answer to the next.
        let start_s = start.as_secs_f64().round();
        out.gauge(
            "start_time",
            "When the node started, since the Unix epoch",
            Some(Unit::Seconds),
            [(NONE, start_s)],
        )?;
        let states = Phase::ALL
            .map(Phase::name)
            .map(|state| (Some([("state", state)]), f64::from(u8::from(state == self.state))));
        out.gauge("state", "1 for the state that the control loop is in, 0 for the others", None, states)?;
        out.gauge(
            "latency_budget",
            "What the end-to-end latency should stay below",
            Some(Unit::Seconds),
            [(NONE, self.budget_s)],
        )?;

        out.counter("frame_sets", "Frame sets that were complete", [(NONE, *frame_sets)])?;
        let clamped = "Joint states outside the bins of a model that reads them in its prompt";
        out.counter("clamped_states", clamped, [(NONE, *clamped_states)])?;
        out.counter("cycles", "Cycles that ended, with or without a chunk", [(NONE, self.cycles)])?;
        out.counter("chunks", "Action chunks handed out", [(NONE, *chunks)])?;
        let led = "Chunks that continue what was sent before them (real-time chunking)";
        out.counter("chunks_led", led, [(NONE, joins.led)])?;
        let late = "Chunks that continue what was sent and left later than they assumed";
        out.counter("chunks_led_late", late, [(NONE, joins.led_late)])?;
        let delays = [("assumed", joins.assumed_delay_ms), ("real", joins.delay_ms)];
        let delays = delays.map(|(which, ms)| (Some([("delay", which)]), ms / 1e3));
        let delay = "From the last chunk's observation to its leaving: as a chunk that continues another assumed, and as it was";
        out.gauge("join_delay", delay, Some(Unit::Seconds), delays)?;
        let mismatch =
            "Largest distance of the last led chunk's first points from what was sent, in the robot's units";
        out.gauge("join_mismatch", mismatch, None, [(NONE, joins.mismatch)])?;
        let jumps = [("before", joins.jump), ("after", joins.joined_jump)];
        let jumps = jumps.map(|(when, jump)| (Some([("joining", when)]), jump));
        let jump = "Largest distance of the last chunk from where the joints were to be when it left, in the robot's units";
        out.gauge("join_jump", jump, None, jumps)?;
        let ticks = [(NONE, self.counts.ticks)];
        out.counter(
            "stream_ticks",
            "Moments whose positions were sent to the outputs that are streams",
            ticks,
        )?;
        let missed_ticks = [(NONE, self.counts.missed_ticks)];
        out.counter(
            "stream_ticks_missed",
            "Such moments that passed before the one before was done",
            missed_ticks,
        )?;
        let drops = dropped.iter().map(|(reason, count)| (Some([("reason", reason.name())]), *count));
        out.counter(
            "drops",
            "Frame sets that led to no chunk, and chunks that led nowhere, by reason",
            drops,
        )?;
        let misses = missed.iter().map(|(stage, count)| (Some([("stage", stage.name())]), *count));
        out.counter(
            "deadline_misses",
            "Chunks that came after their deadline, by the stage that made them late",
            misses,
        )?;

        let received = self.sensors(|sensor| Some(sensor.received));
        out.counter("messages_received", "Good messages of a sensor", received)?;
        let refused = self.sensors(|sensor| Some(sensor.refused));
        out.counter("messages_refused", "Messages of a sensor that could not be used", refused)?;
        let ages = self.sensors(|sensor| Some(sensor.age_ms? / 1e3));
        out.gauge("sensor_age", "Time since the last good message of a sensor", Some(Unit::Seconds), ages)?;
        let spread = [(NONE, self.counts.last_spread_ms / 1e3)];
        out.gauge(
            "unmatched_frames_spread",
            "How far apart the last frames were that made no set",
            Some(Unit::Seconds),
            spread,
        )?;

        let stages = self.latencies.iter().filter_map(|(name, distribution)| match name {
            LatencyName::Stage(stage) => Some(([("stage", stage.name())], distribution)),
            LatencyName::Decode(_) => None,
        });
        out.histogram("stage_duration", "How long the stages of a cycle take", stages)?;
        let decode = self.latencies.iter().filter_map(|(name, distribution)| match name {
            LatencyName::Stage(_) => None,
            LatencyName::Decode(sensor) => Some(([("sensor", sensor.as_str())], distribution)),
        });
        out.histogram(
            "decode_duration",
            "How long it takes from a sensor's message to the model's input",
            decode,
        )
    }
}

/// Labels of a metric that has none.
const NONE: Option<[(&str, &str); 0]> = None;

impl Scrape {
    /// A value of every sensor that has one.
    fn sensors<T>(
        &self,
        value: impl Fn(&SensorSnapshot) -> Option<T>,
    ) -> impl Iterator<Item = (Option<[(&'static str, &str); 1]>, T)> {
        self.counts
            .sensors()
            .filter_map(move |sensor| Some((Some([("sensor", sensor.name.as_str())]), value(sensor)?)))
    }
}

/// Writes one metric at a time.
struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Option<L>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        samples.into_iter().try_for_each(|(labels, value)| match labels {
            Some(labels) => metric.encode_family(&labels)?.encode_gauge(&value),
            None => metric.encode_gauge(&value),
        })
    }

    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Option<L>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples.into_iter().try_for_each(|(labels, value)| match labels {
            Some(labels) => metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None),
            None => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        })
    }

    /// Of durations in seconds.
    fn histogram<'d, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, &'d Distribution)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        samples.into_iter().try_for_each(|(labels, distribution)| {
            let counts = distribution.between(&BUCKETS_S);
            let bounds = BUCKETS_S.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let (sum, count) = (distribution.sum_s(), distribution.count());
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_by_their_samples() {
        let text = "# HELP pi0_chunks Chunks out.\n# TYPE pi0_chunks counter\npi0_chunks_total 5\n\
            # HELP pi0_age_seconds Age.\n# TYPE pi0_age_seconds gauge\n# UNIT pi0_age_seconds seconds\n\
            pi0_age_seconds{a=\"# UNIT x\"} 1\n# EOF\n";
        let expected = "# HELP pi0_chunks_total Chunks out.\n# TYPE pi0_chunks_total counter\npi0_chunks_total 5\n\
            # HELP pi0_age_seconds Age.\n# TYPE pi0_age_seconds gauge\npi0_age_seconds{a=\"# UNIT x\"} 1\n";
        assert_eq!(older(text), expected);
    }

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        assert_eq!(Format::accepted(""), Format::Text);
        assert_eq!(Format::accepted("text/plain"), Format::Text);
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
    }

    #[test]
    fn buckets_ascend() {
        assert!(BUCKETS_S.is_sorted());
    }
}
