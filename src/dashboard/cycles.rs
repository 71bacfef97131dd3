//! `/api/cycles`: the last cycles for the timeline, and the parts of the newest for the breakdown. Made by `watch`.
//!
//! Rows are lists, not objects: a page that has just been opened wants thousands of them.

use std::time::Duration;

use serde::Serialize;

use super::status::round;
use crate::telemetry::{CycleResult, DropReason, FinishedCycle, Metrics, Stage};

/// How far back the timeline goes.
const TIMELINE: Duration = Duration::from_secs(300);
/// Cycles in the breakdown.
const DETAILED: usize = 60;

/// The answer of `/api/cycles`.
#[derive(Serialize)]
pub struct Cycles {
    /// Where to go on from next time.
    next: u64,
    /// The present, on the clock of the cycles.
    now_s: f64,
    /// Names for `dropped` and `missed` of a cycle.
    reasons: Vec<&'static str>,
    stages: Vec<&'static str>,
    /// Names for the parts of a cycle.
    parts: Vec<&'static str>,
    cycles: Vec<Cycle>,
    /// The newest cycles: number, and milliseconds of each part.
    breakdown: Vec<(u64, Vec<f64>)>,
}

/// Number, seconds at its end, milliseconds end to end (if there was an end), index of the reason why there is no chunk
/// (or none), index of the stage that missed the deadline (or none).
#[derive(Serialize)]
struct Cycle(u64, f64, Option<f64>, Option<usize>, Option<usize>);

impl Cycles {
    /// Those from number `first` on that are not too old.
    pub fn since(first: u64, metrics: &Metrics) -> Self {
        let now = metrics.uptime();
        let oldest = now.saturating_sub(TIMELINE);
        // Before they are read: one that ends meanwhile comes next time.
        let next = metrics.cycles();
        let mut found = metrics.cycles_since(first);
        found.retain(|cycle| cycle.finished >= oldest && cycle.number < next);
        let newest = &found[found.len().saturating_sub(DETAILED)..];
        Self {
            next,
            now_s: seconds(now),
            reasons: DropReason::ALL.map(DropReason::name).into(),
            stages: Stage::ALL.map(Stage::name).into(),
            parts: parts().map(Stage::name).collect(),
            breakdown: newest.iter().map(|cycle| (cycle.number, durations(cycle))).collect(),
            cycles: found.iter().map(Cycle::new).collect(),
        }
    }
}

impl Cycle {
    fn new(cycle: &FinishedCycle) -> Self {
        let dropped = match cycle.record.result {
            CycleResult::Chunk => None,
            CycleResult::Dropped(reason) => Some(reason as usize),
        };
        let end_to_end = cycle.record.duration(Stage::END_TO_END).map(milliseconds);
        let missed = cycle.record.missed.map(|stage| stage as usize);
        Self(cycle.number, seconds(cycle.finished), end_to_end, dropped, missed)
    }
}

fn parts() -> impl Iterator<Item = Stage> {
    Stage::ALL.into_iter().filter(|stage| stage.adds_up())
}

fn durations(cycle: &FinishedCycle) -> Vec<f64> {
    parts().map(|stage| cycle.record.duration(stage).map_or(0.0, milliseconds)).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1e3, 1000.0)
}

fn seconds(duration: Duration) -> f64 {
    round(duration.as_secs_f64(), 1000.0)
}
