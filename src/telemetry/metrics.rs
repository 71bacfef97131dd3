//! Everything that is counted and timed, shared by all threads of a node. Filled by `control`'s inputs and cycle.

use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::latency::Latency;
use super::snapshot::{SensorSnapshot, Snapshot};

/// A part of a cycle that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From an image's stamp until the edge received it, by the node's clock.
    Transport,
    /// Images to the model's input, on the edge's thread: the slowest camera of a set.
    Decode,
    /// From the first decoded frame of a set until the cycle starts on it.
    SyncWait,
    /// Images to the device.
    Write,
    /// Images and prompt to the KV cache.
    Perceive,
    /// The part of it that looks at the images.
    Siglip,
    /// The rest of it: the language model's prefix.
    Prefix,
    /// State and noise to the device, and all denoising steps.
    Act,
    /// One denoising step.
    DenoiseStep,
    /// Actions back from the device.
    Readback,
    /// Normalised actions to joint positions.
    DecodeActions,
    /// From the images' way to the device to the chunk's way out.
    Cycle,
    /// From the chunk's way out until it is published.
    Publish,
    /// From the observation's stamp until the chunk is published, by the clock that made the stamp.
    Age,
    /// How much longer or shorter it is from cycle to cycle than from observation to observation.
    Jitter,
}

impl Stage {
    pub const ALL: [Stage; 15] = [
        Stage::Transport,
        Stage::Decode,
        Stage::SyncWait,
        Stage::Write,
        Stage::Perceive,
        Stage::Siglip,
        Stage::Prefix,
        Stage::Act,
        Stage::DenoiseStep,
        Stage::Readback,
        Stage::DecodeActions,
        Stage::Cycle,
        Stage::Publish,
        Stage::Age,
        Stage::Jitter,
    ];

    /// The name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Transport => "transport",
            Stage::Decode => "decode",
            Stage::SyncWait => "sync_wait",
            Stage::Write => "write",
            Stage::Perceive => "perceive",
            Stage::Siglip => "siglip",
            Stage::Prefix => "prefix",
            Stage::Act => "act",
            Stage::DenoiseStep => "denoise_step",
            Stage::Readback => "readback",
            Stage::DecodeActions => "decode_actions",
            Stage::Cycle => "cycle",
            Stage::Publish => "publish",
            Stage::Age => "observation_to_chunk",
            Stage::Jitter => "cycle_jitter",
        }
    }
}

/// Why a frame set led to no chunk, or a chunk was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No joint state has arrived yet.
    JointsMissing,
    /// The newest joint state is older than `max_joint_age_ms`.
    JointsStale,
    /// The images are older than `max_image_age_ms`.
    ImagesStale,
    /// Images or joint state have stamps that the node's clock has not reached: clocks disagree, or one was set back.
    StampsAhead,
    /// The model's actions are not all finite numbers.
    NotFinite,
    /// The device refused; the snapshot's last error says why.
    Device,
    /// A newer chunk came before anybody took this one.
    Overwritten,
    /// The chunk came later than `latency_budget_ms`, and `on_deadline_miss` says not to send it.
    Late,
    /// The times of all its points were past.
    Past,
    /// A joint would leave its position limits.
    PositionLimit,
    /// A joint would move faster than it may.
    VelocityLimit,
    /// A joint would make a larger step than it may.
    StepLimit,
    /// Nobody has enabled the node.
    Disabled,
    /// The loop showed no sign of life for longer than `watchdog_ms`.
    Stalled,
    /// ROS 2 refused to send it.
    Unsent,
}

impl DropReason {
    pub const ALL: [DropReason; 15] = [
        DropReason::JointsMissing,
        DropReason::JointsStale,
        DropReason::ImagesStale,
        DropReason::StampsAhead,
        DropReason::NotFinite,
        DropReason::Device,
        DropReason::Overwritten,
        DropReason::Late,
        DropReason::Past,
        DropReason::PositionLimit,
        DropReason::VelocityLimit,
        DropReason::StepLimit,
        DropReason::Disabled,
        DropReason::Stalled,
        DropReason::Unsent,
    ];

    /// The name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::JointsMissing => "joints_missing",
            DropReason::JointsStale => "joints_stale",
            DropReason::ImagesStale => "images_stale",
            DropReason::StampsAhead => "stamps_ahead_of_clock",
            DropReason::NotFinite => "actions_not_finite",
            DropReason::Device => "device_error",
            DropReason::Overwritten => "not_taken_in_time",
            DropReason::Late => "deadline_missed",
            DropReason::Past => "all_points_past",
            DropReason::PositionLimit => "position_limit",
            DropReason::VelocityLimit => "velocity_limit",
            DropReason::StepLimit => "step_limit",
            DropReason::Disabled => "not_enabled",
            DropReason::Stalled => "loop_stalled",
            DropReason::Unsent => "not_sent",
        }
    }
}

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is known about one stream of messages.
#[derive(Debug)]
pub struct SensorMetrics {
    pub name: String,
    received: Counter,
    refused: Counter,
    /// Nanoseconds from the start of the metrics to the last good message.
    last_received_ns: AtomicU64,
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
            decode: Latency::new(),
        }
    }

    fn snapshot(&self, now: Duration) -> SensorSnapshot {
        let received = self.received.get();
        let last = Duration::from_nanos(self.last_received_ns.load(Relaxed));
        SensorSnapshot {
            name: self.name.clone(),
            received,
            refused: self.refused.get(),
            age_ms: (received > 0).then(|| now.saturating_sub(last).as_secs_f64() * 1e3),
            decode: self.decode.summary(),
        }
    }
}

/// The counters and histograms of one node.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    pub cameras: Vec<SensorMetrics>,
    pub joints: SensorMetrics,
    pub prompts: SensorMetrics,
    pub frame_sets: Counter,
    pub chunks: Counter,
    /// Bits of an f64: the spread of the last complete but unmatched frames.
    last_spread_ms: AtomicU64,
    dropped: [Counter; DropReason::ALL.len()],
    /// By the stage that made a chunk miss its deadline.
    missed: [Counter; Stage::ALL.len()],
    stages: [Latency; Stage::ALL.len()],
    last_error: Mutex<Option<String>>,
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
            chunks: Counter::default(),
            last_spread_ms: AtomicU64::new(0.0_f64.to_bits()),
            dropped: Default::default(),
            missed: Default::default(),
            stages: Default::default(),
            last_error: Mutex::new(None),
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
        self.stages[stage as usize].record_ms(ms);
    }

    /// Adds the age of an observation when its chunk is finished.
    pub fn age(&self, ms: f64) {
        self.stages[Stage::Age as usize].record_ms(ms);
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

    /// Everything as of now.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.started.elapsed();
        Snapshot {
            cameras: self.cameras.iter().map(|camera| camera.snapshot(now)).collect(),
            joints: self.joints.snapshot(now),
            prompts: self.prompts.snapshot(now),
            frame_sets: self.frame_sets.get(),
            chunks: self.chunks.get(),
            last_spread_ms: f64::from_bits(self.last_spread_ms.load(Relaxed)),
            dropped: DropReason::ALL.map(|reason| (reason, self.dropped[reason as usize].get())),
            missed: Stage::ALL.map(|stage| (stage, self.missed[stage as usize].get())),
            stages: Stage::ALL.map(|stage| (stage, self.stages[stage as usize].summary())),
            last_error: self.last_error.lock().map_or(None, |last| last.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_reasons_stand_where_their_number_says() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
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
}
