//! All metrics at one moment, as plain data; printed by `cli replay`, published by `node`.

use std::fmt;

use super::complaints::Complaint;
use super::distribution::LatencySummary;
use super::joins::JoinSnapshot;
use super::names::{DropReason, Stage};

/// The metrics of one node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The cameras that have a topic, in the order of the settings.
    pub cameras: Vec<SensorSnapshot>,
    pub joints: SensorSnapshot,
    pub prompts: SensorSnapshot,
    pub frame_sets: u64,
    /// States that lay outside the bins of a model that reads them in its prompt.
    pub clamped_states: u64,
    /// Chunks sent.
    pub chunks: u64,
    /// How the last ones followed each other.
    pub joins: JoinSnapshot,
    /// Ticks of the streams, and those that were left out because the one before was late.
    pub ticks: u64,
    pub missed_ticks: u64,
    /// Largest difference of stamps of the last frames that were all there but did not match; 0 if there were none.
    pub last_spread_ms: f64,
    pub dropped: [(DropReason, u64); DropReason::ALL.len()],
    /// Chunks that missed their deadline, by the stage that made them.
    pub missed: [(Stage, u64); Stage::ALL.len()],
    pub stages: [(Stage, LatencySummary); Stage::ALL.len()],
    pub last_error: Option<String>,
    /// How the task goes, in the words of whoever judges it.
    pub task_outcome: Option<String>,
    /// What is wrong with messages, each kind once.
    pub complaints: Vec<Complaint>,
    /// Which joints have not come, in words; none once all have.
    pub missing_joints: Option<String>,
    /// Number of the joint whose position is the oldest.
    pub oldest_joint: usize,
}

/// How the stamps of a stream of messages are, by the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Stamps {
    /// None came, or the time of arrival is taken instead.
    #[default]
    Unknown,
    /// The driver leaves them 0.
    Zero,
    /// From the stamp to reception; negative where the stamp is ahead of the clock.
    LagMs(f64),
}

/// One stream of messages.
#[derive(Clone, Debug, PartialEq)]
pub struct SensorSnapshot {
    pub name: String,
    /// Good messages.
    pub received: u64,
    /// Messages that could not be used.
    pub refused: u64,
    pub stamps: Stamps,
    /// Time since the last good message, by this machine's clock.
    pub age_ms: Option<f64>,
    /// From the message to the model's input.
    pub decode: LatencySummary,
}

impl Snapshot {
    /// Drops for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].1
    }

    /// Deadlines missed because of one stage.
    pub fn missed(&self, stage: Stage) -> u64 {
        self.missed[stage as usize].1
    }

    /// Latency of one stage.
    pub fn stage(&self, stage: Stage) -> &LatencySummary {
        &self.stages[stage as usize].1
    }

    /// A camera's good frames that are in no frame set: a newer one came before they had partners, or their partners' stamps
    /// are too far from theirs. The newest may still find partners.
    pub fn unmatched(&self, camera: &SensorSnapshot) -> u64 {
        // Every set has one frame of each camera. The two are not counted at the same moment.
        camera.received.saturating_sub(self.frame_sets)
    }

    /// Every stream of messages.
    pub fn sensors(&self) -> impl Iterator<Item = &SensorSnapshot> {
        self.cameras.iter().chain([&self.joints, &self.prompts])
    }
}

/// Two tables: what came in and went out, and how long each stage took.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<30} {:>8} {:>10}", "", "count", "refused")?;
        for sensor in self.sensors() {
            let SensorSnapshot { name, received, refused, .. } = sensor;
            writeln!(f, "{:<30} {received:>8} {refused:>10}", format!("in: {name}"))?;
        }
        writeln!(f, "{:<30} {:>8}", "frame sets", self.frame_sets)?;
        for camera in &self.cameras {
            let name = format!("unmatched: {}", camera.name);
            writeln!(f, "{name:<30} {:>8}", self.unmatched(camera))?;
        }
        if self.clamped_states > 0 {
            writeln!(f, "{:<30} {:>8}", "states outside the bins", self.clamped_states)?;
        }
        writeln!(f, "{:<30} {:>8}", "chunks out", self.chunks)?;
        if self.joins.led > 0 {
            writeln!(f, "{:<30} {:>8}", "continuing what was sent", self.joins.led)?;
            writeln!(f, "{:<30} {:>8}", "  later than assumed", self.joins.led_late)?;
        }
        for (name, count) in [("stream ticks", self.ticks), ("missed: stream ticks", self.missed_ticks)] {
            if count > 0 {
                writeln!(f, "{name:<30} {count:>8}")?;
            }
        }
        for (reason, count) in self.dropped.iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "{:<30} {count:>8}", format!("dropped: {}", reason.name()))?;
        }
        for (stage, count) in self.missed.iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "{:<30} {count:>8}", format!("late: {}", stage.name()))?;
        }
        for complaint in &self.complaints {
            writeln!(f, "complaint: {complaint}")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<30} {:>8} {:>10} {:>10} {:>10} {:>10}",
            "latency (ms)", "count", "p50", "p90", "p99", "max"
        )?;
        for camera in &self.cameras {
            writeln!(f, "{:<30} {}", format!("decode {}", camera.name), camera.decode)?;
        }
        for (stage, summary) in &self.stages {
            writeln!(f, "{:<30} {summary}", stage.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::Metrics;
    use super::*;

    #[test]
    fn the_table_shows_every_stage_and_the_reasons_that_occurred() {
        let metrics = Metrics::new(["base_0_rgb"]);
        metrics.time(Stage::Act, Instant::now());
        metrics.dropped(DropReason::JointsStale);
        let table = metrics.snapshot().to_string();
        for stage in Stage::ALL {
            assert!(table.contains(stage.name()), "{table}");
        }
        assert!(table.contains("in: base_0_rgb") && table.contains("decode base_0_rgb"));
        assert!(table.contains("joints_stale") && !table.contains("device_error"));
    }

    #[test]
    fn frames_in_no_set_are_those_received_but_not_in_one() {
        let metrics = Metrics::new(["base_0_rgb", "left_wrist_0_rgb"]);
        for camera in [0, 0, 0, 1] {
            let _ = metrics.received(&metrics.cameras[camera], Instant::now(), Ok::<_, String>(()));
        }
        metrics.frame_sets.add_one();
        let snapshot = metrics.snapshot();
        assert_eq!([0, 1].map(|camera| snapshot.unmatched(&snapshot.cameras[camera])), [2, 0]);
        let table = snapshot.to_string();
        assert!(table.contains("unmatched: base_0_rgb                 2"), "{table}");
    }
}
