//! A recorded cycle once more: the same frame set, joint state, denoising steps and times, whatever this machine would
//! have chosen. Called by `cli replay` on bags that `record` wrote.
//!
//! A live loop's choices depend on how fast the machine was: which frames were the newest when it looked, which joint
//! state when it had perceived. The recording says what it chose, and this makes the cycle choose the same.

use super::cycle::{Began, Cycle, Now, Outcome, View};
use super::witness::Arrival;
use crate::device::DeviceError;
use crate::observe::messages::Stamp;
use crate::policy::{Continuation, Schedule};
use crate::telemetry::DropReason;

/// What a recorded cycle did. Its messages must have been put into the inputs before it is repeated, and no others.
#[derive(Clone, Copy, Debug)]
pub struct Repeat<'a> {
    /// The new frame set that it began with, none for cameras that were missing. Without a new set it acted again on the
    /// one before.
    pub new_set: Option<&'a [Option<Arrival>]>,
    pub observation: Stamp,
    pub looked: Stamp,
    pub acted: Stamp,
    pub denoising_steps: usize,
    /// What led its chunk, if something did.
    pub guide: Option<RecordedGuide<'a>>,
}

/// What led a chunk, as a recording has it.
#[derive(Clone, Copy, Debug)]
pub struct RecordedGuide<'a> {
    pub delay: usize,
    pub until: usize,
    pub schedule: Schedule,
    /// `[until, joints]`
    pub positions: &'a [f64],
}

/// A cycle that cannot be repeated.
#[derive(Debug, thiserror::Error)]
pub enum RepeatError {
    #[error("its images are not those that were recorded")]
    NoSet,
    #[error("it acts on images that were not perceived, because the cycle before it could not be repeated")]
    NoView,
    #[error(
        "it took {steps} denoising steps, and the model is prepared for {}; set denoise_steps as it was when it was recorded",
        .prepared.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
    )]
    Steps { steps: usize, prepared: Vec<usize> },
    #[error(
        "what led its chunk has {found} numbers; {until} points of {joints} joints would be as many as a chunk has, or fewer"
    )]
    Guide { found: usize, until: usize, joints: usize },
    #[error(
        "its chunk continued the one before, and the model is not prepared for that; set chunk_join as it was when it was recorded"
    )]
    NotLed,
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Cycle {
    /// Does what a recorded cycle did. What it used was young enough then, so nothing is asked about that.
    pub fn repeat(&mut self, cycle: &Repeat) -> Result<Outcome, RepeatError> {
        self.shared.beat();
        (self.timing.max_image_age_ms, self.timing.max_joint_age_ms) = (f64::INFINITY, f64::INFINITY);
        self.update_prompt()?;
        let prepared = self.model.step_counts();
        let steps = prepared.iter().position(|&steps| steps == cycle.denoising_steps).ok_or_else(|| {
            RepeatError::Steps { steps: cycle.denoising_steps, prepared: prepared.to_vec() }
        })?;
        self.take_guide(cycle.guide)?;
        let mut began = Began::now(cycle.looked);
        if let Some(set) = cycle.new_set {
            self.view = None;
            if !self.frames.repeat(set) {
                return Err(RepeatError::NoSet);
            }
            self.metrics.frame_sets.add_one();
            let images = self.frames.span().ok_or(RepeatError::NoSet)?;
            self.note_arrival(&mut began, images.1, false);
            if let Some(reason) = self.read_prompt_state(&mut began)? {
                return Ok(self.dropped(reason));
            }
            self.perceive(&mut began)?;
            self.view = Some(View::new(images));
        } else if self.view.is_none() {
            return Err(RepeatError::NoView);
        } else if let Some(reason) = self.perceive_again(&mut began)? {
            return Ok(self.dropped(reason));
        }
        let acted = || cycle.acted;
        Ok(self.act(
            cycle.observation,
            began,
            &Now { clock: &acted, runs: false, steps: Some(steps), is_guide_known: true },
        )?)
    }

    /// Takes what led a recorded chunk.
    fn take_guide(&mut self, recorded: Option<RecordedGuide>) -> Result<(), RepeatError> {
        (self.led.guide.delay, self.led.guide.until) = (0, 0);
        let Some(RecordedGuide { delay, until, schedule, positions }) = recorded else { return Ok(()) };
        if self.model.continuation() == Continuation::Free {
            return Err(RepeatError::NotLed);
        }
        let joints = self.model_joints.len();
        match self.led.guide.positions.get_mut(..positions.len()) {
            Some(room) if until.checked_mul(joints) == Some(positions.len()) => {
                room.copy_from_slice(positions)
            }
            _ => return Err(RepeatError::Guide { found: positions.len(), until, joints }),
        }
        (self.led.guide.delay, self.led.guide.until) = (delay.min(until), until);
        self.led.guide.schedule = schedule;
        Ok(())
    }

    /// Tells the robot to hold, as a recorded cycle did.
    pub fn repeat_hold(&mut self, reason: DropReason, now: Stamp) {
        self.hold(reason, now);
    }
}
