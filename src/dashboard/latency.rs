//! `/api/latency`: quantiles and histogram of every stage, since the start and of the last minute. Made by `watch`.

use std::sync::LazyLock;

use serde::Serialize;

use super::status::round;
use super::watch::Moment;
use crate::settings::Settings;
use crate::telemetry::{Distribution, LatencyName, LatencySummary, Stage};

/// Edges of the histograms in seconds: 20 to a decade, from 1 us to 100 s.
static EDGES_S: LazyLock<Vec<f64>> =
    LazyLock::new(|| (-120..=40).map(|step| 10_f64.powf(f64::from(step) / 20.0)).collect());

/// The answer of `/api/latency`.
#[derive(Serialize)]
pub struct Latencies {
    uptime_s: f64,
    /// What `recent` is over.
    recent_s: f64,
    budget_ms: f64,
    /// The latency that the budget bounds.
    end_to_end: &'static str,
    /// Edges of the bins: bin 0 is below the first, the last bin above the last.
    edges_ms: Vec<f64>,
    latencies: Vec<Latency>,
}

#[derive(Serialize)]
struct Latency {
    name: String,
    /// Whether it is one of the parts that make up a cycle.
    part: bool,
    /// Since the start.
    total: Numbers,
    recent: Numbers,
}

#[derive(Serialize)]
struct Numbers {
    #[serde(flatten)]
    summary: LatencySummary,
    /// The first bin that is not empty, and the bins from there to the last one that is not.
    first_bin: usize,
    bins: Vec<u64>,
}

impl Latencies {
    /// The present, beside the moment a minute ago.
    pub fn new(now: &Moment, before: Option<&Moment>, settings: &Settings) -> Self {
        let latencies = now.latencies.iter().enumerate().map(|(index, (name, total))| {
            // Every moment has the same latencies in the same order.
            let before = before.and_then(|before| before.latencies.get(index));
            Latency {
                name: name.to_string(),
                part: matches!(name, LatencyName::Stage(stage) if stage.adds_up()),
                total: Numbers::new(total),
                recent: Numbers::new(
                    &before.map_or_else(|| total.clone(), |(_, before)| total.since(before)),
                ),
            }
        });
        let uptime_s = now.counted.at.as_secs_f64();
        let before_s = before.map_or(0.0, |before| before.counted.at.as_secs_f64());
        Self {
            uptime_s: round(uptime_s, 10.0),
            recent_s: round(uptime_s - before_s, 10.0),
            budget_ms: settings.latency_budget_ms,
            end_to_end: Stage::END_TO_END.name(),
            edges_ms: EDGES_S.iter().map(|edge| round(edge * 1e3, 1e6)).collect(),
            latencies: latencies.collect(),
        }
    }
}

impl Numbers {
    fn new(distribution: &Distribution) -> Self {
        let mut bins = distribution.between(&EDGES_S);
        while bins.last() == Some(&0) {
            bins.pop();
        }
        let first_bin = bins.iter().take_while(|count| **count == 0).count();
        bins.drain(..first_bin);
        Self { summary: distribution.summary(), first_bin, bins }
    }
}
