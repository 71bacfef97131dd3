//! The cycle: a look at the mailboxes, and when there is a new frame set, perceive, act, decode, hand out the chunk.
//! Owned by the control thread; nothing here allocates, locks or blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::chunk::Chunk;
use super::inputs::JointSample;
use super::mailbox::{Receiver, Sender};
use super::model::Model;
use super::noise;
use super::sync::{FrameSync, Look};
use super::wake::Wake;
use crate::device::DeviceError;
use crate::observe::messages::Stamp;
use crate::observe::{DeltaMask, Normalizer, PromptTokens};
use crate::telemetry::{CycleRecord, CycleResult, DropReason, Metrics, Stage};

/// Longest sleep without a new message: how long a stop may go unnoticed.
const SLEEP: Duration = Duration::from_millis(20);

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// No new frame set.
    Idle,
    /// A frame set led to no chunk.
    Dropped(DropReason),
    /// A chunk was handed out.
    Chunk,
}

/// The control loop's state.
pub struct Cycle {
    pub(super) model: Model,
    pub(super) frames: FrameSync,
    pub(super) prompt: Receiver<PromptTokens>,
    pub(super) joints: Receiver<JointSample>,
    pub(super) normalizer: Normalizer,
    pub(super) delta: DeltaMask,
    pub(super) chunks: Sender<Chunk>,
    pub(super) seed: u64,
    pub(super) sequence: u64,
    pub(super) sensor_timeout_ms: f64,
    pub(super) wake: Wake,
    pub(super) metrics: Arc<Metrics>,
    /// What the cycle under way did so far.
    pub(super) record: CycleRecord,
}

impl Cycle {
    /// Steps whenever something has come, until `stop`. `clock` is the clock of the messages' receivers.
    pub fn run(&mut self, clock: impl Fn() -> Stamp, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            self.step_by(&clock);
            self.wake.wait(SLEEP);
        }
    }

    /// Looks at the mailboxes once, and makes a chunk if there is a new frame set. `now` is the time on the clock of the
    /// messages' receivers, which stands still meanwhile: what comes out does not depend on how long this takes.
    pub fn step(&mut self, now: Stamp) -> Outcome {
        self.step_by(&|| now)
    }

    fn step_by(&mut self, clock: &impl Fn() -> Stamp) -> Outcome {
        let result = self.update_prompt().and_then(|()| self.look(clock));
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                self.metrics.report("device", &error);
                self.dropped(DropReason::Device)
            }
        };
        self.record.result = match outcome {
            Outcome::Idle => return outcome,
            Outcome::Chunk => CycleResult::Chunk,
            Outcome::Dropped(reason) => CycleResult::Dropped(reason),
        };
        self.metrics.cycle_finished(&self.record);
        self.record = CycleRecord::default();
        outcome
    }

    fn update_prompt(&mut self) -> Result<(), DeviceError> {
        if self.prompt.take()
            && let Some(prompt) = self.prompt.held()
        {
            self.model.set_prompt(prompt)?;
        }
        Ok(())
    }

    fn look(&mut self, clock: &impl Fn() -> Stamp) -> Result<Outcome, DeviceError> {
        match self.frames.look() {
            Look::Waiting => Ok(Outcome::Idle),
            Look::Apart { spread_ms } => {
                self.metrics.apart(spread_ms);
                Ok(Outcome::Idle)
            }
            Look::Complete => {
                self.metrics.frame_sets.add_one();
                let (now, start) = (clock(), Instant::now());
                self.perceive()?;
                let outcome = self.act(clock())?;
                if outcome == Outcome::Chunk {
                    self.record.set(Stage::Cycle, self.metrics.time(Stage::Cycle, start));
                    let age_ms = self.frames.newest().map_or(0.0, |observation| now.ms_since(observation));
                    let age = self.metrics.age(age_ms + start.elapsed().as_secs_f64() * 1e3);
                    self.record.set(Stage::Age, age);
                }
                Ok(outcome)
            }
        }
    }

    /// The frame set to the KV cache.
    fn perceive(&mut self) -> Result<(), DeviceError> {
        let start = Instant::now();
        for (camera, frame) in self.frames.frames().enumerate() {
            self.model.set_image(camera, &frame.pixels)?;
        }
        self.record.set(Stage::Write, self.metrics.time(Stage::Write, start));
        let start = Instant::now();
        self.model.perceive()?;
        self.record.set(Stage::Perceive, self.metrics.time(Stage::Perceive, start));
        Ok(())
    }

    /// The newest joint state and the KV cache to a chunk. Perceiving may have taken long, so `now` is later than when
    /// the cycle began.
    fn act(&mut self, now: Stamp) -> Result<Outcome, DeviceError> {
        self.joints.take();
        let (Some(joints), Some(observation)) = (self.joints.held(), self.frames.newest()) else {
            return Ok(self.dropped(DropReason::JointsMissing));
        };
        if now.ms_since(joints.received) > self.sensor_timeout_ms {
            return Ok(self.dropped(DropReason::JointsStale));
        }

        let start = Instant::now();
        self.normalizer.normalize_state(&joints.positions, &mut self.model.state);
        noise::fill(self.seed, observation, &mut self.model.noise);
        let actions = self.model.act()?;
        self.record.set(Stage::Act, self.metrics.time(Stage::Act, start));

        let start = Instant::now();
        if !actions.iter().all(|action| action.is_finite()) {
            return Ok(self.dropped(DropReason::NotFinite));
        }
        let chunk = self.chunks.buffer();
        self.normalizer.unnormalize_actions(actions, &mut chunk.actions);
        self.delta.add_state(&joints.positions, &mut chunk.actions);
        (chunk.observation, chunk.joint_stamp, chunk.sequence) = (observation, joints.stamp, self.sequence);
        self.sequence += 1;
        self.record.set(Stage::DecodeActions, self.metrics.time(Stage::DecodeActions, start));
        if self.chunks.send() {
            self.metrics.dropped(DropReason::Overwritten);
        }
        self.metrics.chunks.add_one();
        Ok(Outcome::Chunk)
    }

    fn dropped(&self, reason: DropReason) -> Outcome {
        self.metrics.dropped(reason);
        Outcome::Dropped(reason)
    }
}
