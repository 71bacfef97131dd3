//! Everything that is counted and timed, shared by all threads of a node. Filled by `control`'s inputs and cycle.

use std::fmt::Display;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::complaints::Complaints;
use super::cycles::{CycleRecord, CycleRing, FinishedCycle, KEPT_CYCLES};
use super::distribution::{Distribution, LatencySummary};
use super::joins::Joins;
use super::latency::{Latency, from_ms};
use super::names::{DropReason, LatencyName, Stage};
use super::snapshot::{SensorSnapshot, Snapshot, Stamps};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add_one(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

const UNSTAMPED: i64 = i64::MIN;
const UNKNOWN: i64 = i64::MIN + 1;

/// What is known about one stream of messages.
#[derive(Debug)]
pub struct SensorMetrics {
    pub name: String,
    received: Counter,
    refused: Counter,
    /// Nanoseconds from the start of the metrics to the last good message.
    last_received_ns: AtomicU64,
    /// From the last stamp to its reception, nanoseconds; [`UNSTAMPED`] where it was 0, [`UNKNOWN`] before the first.
    stamp_lag_ns: AtomicI64,
    /// From the message to the model's input, on the edge's thread.
    decode: Latency,
}

impl SensorMetrics {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            received: Counter::default(),
            refused: Counter::default(),
            last_received_ns: AtomicU64::new(0),
            stamp_lag_ns: AtomicI64::new(UNKNOWN),
            decode: Latency::new(),
        }
    }

    /// Notes the stamp of a message and when it was received, in nanoseconds of the same clock.
    pub fn note_stamp(&self, stamp_ns: i64, received_ns: i64) {
        let lag =
            if stamp_ns == 0 { UNSTAMPED } else { received_ns.saturating_sub(stamp_ns).max(UNKNOWN + 1) };
        self.stamp_lag_ns.store(lag, Relaxed);
    }

    fn snapshot(&self, now: Duration, summary: impl Fn(&Latency) -> LatencySummary) -> SensorSnapshot {
        let received = self.received.get();
        let last = Duration::from_nanos(self.last_received_ns.load(Relaxed));
        SensorSnapshot {
            name: self.name.clone(),
            received,
            refused: self.refused.get(),
            stamps: match self.stamp_lag_ns.load(Relaxed) {
                UNSTAMPED => Stamps::Zero,
                UNKNOWN => Stamps::Unknown,
                lag => Stamps::LagMs(lag as f64 / 1e6),
            },
            age_ms: (received > 0).then(|| now.saturating_sub(last).as_secs_f64() * 1e3),
            decode: summary(&self.decode),
        }
    }
}

/// Of what is kept of a task's outcome.
const OUTCOME_CHARACTERS: usize = 200;

/// The counters and histograms of one node.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    pub cameras: Vec<SensorMetrics>,
    pub joints: SensorMetrics,
    pub prompts: SensorMetrics,
    pub frame_sets: Counter,
    /// States in a prompt that lay outside the model's bins, so that it saw the nearest.
    pub clamped_states: Counter,
    pub chunks: Counter,
    /// How they follow each other.
    pub joins: Joins,
    /// Ticks of the streams, and those that were left out because the one before was late.
    pub ticks: Counter,
    pub missed_ticks: Counter,
    /// Bits of an f64: the spread of the last complete but unmatched frames.
    last_spread_ms: AtomicU64,
    dropped: [Counter; DropReason::ALL.len()],
    /// By the stage that made a chunk miss its deadline.
    missed: [Counter; Stage::ALL.len()],
    stages: [Latency; Stage::ALL.len()],
    cycles: CycleRing,
    last_error: Mutex<Option<String>>,
    task_outcome: Mutex<Option<String>>,
    /// What is wrong with messages.
    pub complaints: Complaints,
    /// Which joints have not come, in words; none once all have.
    missing_joints: Mutex<Option<String>>,
    /// Number of the joint whose position is the oldest.
    oldest_joint: AtomicUsize,
}

impl Metrics {
    /// Metrics for cameras of these names.
    pub fn new<'a>(cameras: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            started: Instant::now(),
            cameras: cameras.into_iter().map(SensorMetrics::new).collect(),
            joints: SensorMetrics::new("joints"),
            prompts: SensorMetrics::new("prompt"),
            frame_sets: Counter::default(),
            clamped_states: Counter::default(),
            chunks: Counter::default(),
            joins: Joins::default(),
            ticks: Counter::default(),
            missed_ticks: Counter::default(),
            last_spread_ms: AtomicU64::new(0.0_f64.to_bits()),
            dropped: Default::default(),
            missed: Default::default(),
            stages: Default::default(),
            cycles: CycleRing::new(KEPT_CYCLES),
            last_error: Mutex::new(None),
            task_outcome: Mutex::new(None),
            complaints: Complaints::default(),
            missing_joints: Mutex::new(None),
            oldest_joint: AtomicUsize::new(0),
        }
    }

    /// Counts a message of `sensor` that took from `since` until now to decode, or that was refused. Gives the
    /// result back.
    pub fn received<T, E: Display>(
        &self,
        sensor: &SensorMetrics,
        since: Instant,
        result: Result<T, E>,
    ) -> Result<T, E> {
        match &result {
            Ok(_) => {
                sensor.decode.record(since.elapsed());
                let at = self.started.elapsed().as_nanos();
                sensor.last_received_ns.store(u64::try_from(at).unwrap_or(u64::MAX), Relaxed);
                sensor.received.add_one();
            }
            Err(error) => {
                sensor.refused.add_one();
                self.report(&sensor.name, error);
            }
        }
        result
    }

    /// Adds the time since `since` to a stage, and gives it.
    pub fn time(&self, stage: Stage, since: Instant) -> Duration {
        let duration = since.elapsed();
        self.stages[stage as usize].record(duration);
        duration
    }

    /// Adds a duration to a stage.
    pub fn record(&self, stage: Stage, duration: Duration) {
        self.stages[stage as usize].record(duration);
    }

    /// Adds a duration in milliseconds to a stage; a negative one (clocks that disagree) counts as zero.
    pub fn record_ms(&self, stage: Stage, ms: f64) {
        self.record(stage, from_ms(ms));
    }

    /// Adds the age of an observation when its chunk is finished, and gives it.
    pub fn age(&self, ms: f64) -> Duration {
        let duration = from_ms(ms);
        self.stages[Stage::Age as usize].record(duration);
        duration
    }

    /// Keeps what a cycle came to, for whoever draws the last ones. Called by the control thread and by whoever sends the
    /// chunks; neither locks nor allocates.
    pub fn cycle_finished(&self, record: &CycleRecord) {
        self.cycles.push(self.started.elapsed(), record);
    }

    /// The cycles from number `first` on, oldest first, as far as they are kept.
    pub fn cycles_since(&self, first: u64) -> Vec<FinishedCycle> {
        self.cycles.since(first)
    }

    /// How many cycles have finished: the next one's number.
    pub fn cycles(&self) -> u64 {
        self.cycles.next()
    }

    /// Time since the start, on which [`FinishedCycle::finished`] stands.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Every latency under its name, as of now: the stages, then what each sensor takes to decode.
    pub fn distributions(&self) -> Vec<(LatencyName, Distribution)> {
        let stages = Stage::ALL.into_iter().zip(&self.stages);
        let stages = stages.map(|(stage, latency)| (LatencyName::Stage(stage), latency.distribution()));
        let sensors = self.cameras.iter().chain([&self.joints]);
        let decode =
            sensors.map(|sensor| (LatencyName::Decode(sensor.name.clone()), sensor.decode.distribution()));
        stages.chain(decode).collect()
    }

    /// Counts frames that are all there but `spread_ms` apart, too far for a frame set.
    pub fn apart(&self, spread_ms: f64) {
        self.last_spread_ms.store(spread_ms.to_bits(), Relaxed);
    }

    /// Counts a drop.
    pub fn dropped(&self, reason: DropReason) {
        self.dropped[reason as usize].add_one();
    }

    /// Counts a chunk that missed its deadline, by the stage that made it.
    pub fn missed(&self, stage: Stage) {
        self.missed[stage as usize].add_one();
    }

    /// Keeps an error's text for whoever watches. Never waits: where another thread is at it, that one's text stays.
    pub fn report(&self, what: &str, error: &dyn Display) {
        if let Ok(mut last) = self.last_error.try_lock() {
            *last = Some(format!("{what}: {error}"));
        }
    }

    /// How the task goes, in the words of whoever judges it: a line for a terminal, so without control characters and no longer than
    /// 200. Called by that topic's edge.
    pub fn set_task_outcome(&self, outcome: &str) {
        let plain = |character: char| if character.is_control() { ' ' } else { character };
        let line: String = outcome.chars().map(plain).take(OUTCOME_CHARACTERS).collect();
        *self.task_outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }

    /// Which joints have not come, in words. Called by the joints' edge, and only while that changes.
    pub fn set_missing_joints(&self, missing: Option<String>) {
        *self.missing_joints.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// The joint with this number has the oldest position.
    pub fn set_oldest_joint(&self, joint: usize) {
        self.oldest_joint.store(joint, Relaxed);
    }

    /// Everything as of now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_with(Latency::summary)
    }

    /// The counters as of now, with all latencies left zero: far less work, for who looks several times a second.
    pub fn counts(&self) -> Snapshot {
        self.snapshot_with(|_| LatencySummary::default())
    }

    fn snapshot_with(&self, summary: impl Fn(&Latency) -> LatencySummary) -> Snapshot {
        let now = self.started.elapsed();
        Snapshot {
            cameras: self.cameras.iter().map(|camera| camera.snapshot(now, &summary)).collect(),
            joints: self.joints.snapshot(now, &summary),
            prompts: self.prompts.snapshot(now, &summary),
            frame_sets: self.frame_sets.get(),
            clamped_states: self.clamped_states.get(),
            joins: self.joins.snapshot(),
            chunks: self.chunks.get(),
            ticks: self.ticks.get(),
            missed_ticks: self.missed_ticks.get(),
            last_spread_ms: f64::from_bits(self.last_spread_ms.load(Relaxed)),
            dropped: DropReason::ALL.map(|reason| (reason, self.dropped[reason as usize].get())),
            missed: Stage::ALL.map(|stage| (stage, self.missed[stage as usize].get())),
            stages: Stage::ALL.map(|stage| (stage, summary(&self.stages[stage as usize]))),
            last_error: self.last_error.lock().map_or(None, |last| last.clone()),
            task_outcome: self.task_outcome.lock().map_or(None, |outcome| outcome.clone()),
            complaints: self.complaints.list(),
            missing_joints: self.missing_joints.lock().map_or(None, |missing| missing.clone()),
            oldest_joint: self.oldest_joint.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_deadline_is_counted_by_its_stage_and_kept_with_the_cycle() {
        let metrics = Metrics::new(["base_0_rgb"]);
        let mut record = CycleRecord::default();
        record.set(Stage::Act, metrics.time(Stage::Act, Instant::now()));
        metrics.cycle_finished(&record);
        record.missed = Some(Stage::Act);
        metrics.missed(Stage::Act);
        metrics.cycle_finished(&record);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.missed.iter().map(|(_, count)| count).sum::<u64>(), 1);
        assert_eq!(snapshot.missed[Stage::Act as usize], (Stage::Act, 1));
        let cycles = metrics.cycles_since(0);
        assert_eq!((cycles.len(), metrics.cycles()), (2, 2));
        assert_eq!((cycles[0].record.missed, cycles[1].record.missed), (None, Some(Stage::Act)));
        assert!(cycles[1].finished <= metrics.uptime());
    }

    #[test]
    fn every_latency_has_a_name_of_its_own() {
        let metrics = Metrics::new(["base_0_rgb"]);
        let names: Vec<String> = metrics.distributions().iter().map(|(name, _)| name.to_string()).collect();
        let decode = ["decode base_0_rgb", "decode joints"];
        assert_eq!(names, [&Stage::ALL.map(Stage::name)[..], &decode].concat());
    }

    #[test]
    fn good_and_refused_messages_are_counted_apart() {
        let metrics = Metrics::new(["base_0_rgb"]);
        let camera = &metrics.cameras[0];
        let before = metrics.snapshot();
        assert_eq!((before.cameras[0].received, before.cameras[0].age_ms), (0, None));

        let _ = metrics.received(camera, Instant::now(), Ok::<_, String>(()));
        let _ = metrics.received(camera, Instant::now(), Err::<(), _>("short buffer"));

        let after = metrics.snapshot();
        assert_eq!((after.cameras[0].received, after.cameras[0].refused), (1, 1));
        assert!(after.cameras[0].age_ms.is_some());
        assert_eq!(after.cameras[0].decode.count, 1);
        assert_eq!(after.last_error.as_deref(), Some("base_0_rgb: short buffer"));
    }

    #[test]
    fn an_outcome_is_a_line_that_a_terminal_can_show() {
        let metrics = Metrics::new(["base_0_rgb"]);
        metrics.set_task_outcome(&format!("done\n\x1b[31m{}", "x".repeat(5000)));
        let outcome = metrics.snapshot().task_outcome.unwrap();
        assert!(outcome.starts_with("done  [31mxxx"), "{outcome}");
        assert_eq!(outcome.chars().count(), OUTCOME_CHARACTERS);
    }
}
