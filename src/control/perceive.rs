//! The frame set to the KV cache: what the frames went through is noted, they are written to the device, with the state where the
//! prompt has it in it, and SigLIP and the prefix are started. The first half of a cycle; nothing here allocates, locks or blocks, as long as the device works.

use std::time::{Duration, Instant};

use super::cycle::{Began, Cycle};
use super::output::too_old;
use super::sync::Frame;
use crate::device::{DeviceError, SectionTime};
use crate::observe::messages::Stamp;
use crate::telemetry::{DropReason, Metrics, Stage};

impl Cycle {
    /// What the frames of this set went through before the cycle began.
    pub(super) fn note_arrival(&mut self, began: &mut Began, observation: Stamp, clock_runs: bool) {
        let (mut transport_ms, mut decode, mut wait) = (0.0_f64, Duration::ZERO, Duration::ZERO);
        let mut waited_ms = f64::INFINITY;
        for frame in self.frames.frames().flatten() {
            let (start, end) = frame.decoding;
            transport_ms = transport_ms.max(frame.received.ms_since(frame.stamp));
            waited_ms = waited_ms.min(began.stamp.ms_since(frame.received));
            decode = decode.max(end.saturating_duration_since(start));
            wait = wait.max(began.at.saturating_duration_since(end));
        }
        // A clock that was set back gives a negative time.
        began.waited = Some(Duration::try_from_secs_f64(waited_ms / 1e3).unwrap_or(Duration::ZERO));
        let transport = Duration::try_from_secs_f64(transport_ms / 1e3).unwrap_or(Duration::MAX);
        for (stage, took) in [(Stage::Transport, transport), (Stage::Decode, decode), (Stage::SyncWait, wait)]
        {
            self.metrics.record(stage, took);
            began.parts.set(stage, took);
        }
        if clock_runs && let Some((last, last_observation)) = self.last_set {
            let cycles_ms = (began.at - last).as_secs_f64() * 1e3;
            self.metrics.record_ms(Stage::Jitter, (cycles_ms - observation.ms_since(last_observation)).abs());
        }
        self.last_set = Some((began.at, observation));
    }

    /// Takes the newest joint state, in the model's units, unless there is none that is young enough at `stamp`.
    pub(super) fn take_state(&mut self, stamp: Stamp) -> Result<(), DropReason> {
        self.joints.take();
        let joints = self.joints.held().ok_or(DropReason::JointsMissing)?;
        let max_age_ms = self.timing.max_joint_age_ms;
        if let Some(reason) = too_old(joints.since(), stamp, max_age_ms, DropReason::JointsStale) {
            return Err(reason);
        }
        self.units.to_model(&joints.positions, &mut self.model_joints);
        Ok(())
    }

    /// Makes the prompt of the newest joint state, where that is in it, as it is when the cycle begins; or says why there is
    /// none. The act that follows acts on this state.
    pub(super) fn read_prompt_state(&mut self, began: &mut Began) -> Result<Option<DropReason>, DeviceError> {
        if self.state_writer.is_none() {
            return Ok(None);
        }
        let start = Instant::now();
        if let Err(reason) = self.take_state(began.stamp) {
            return Ok(Some(reason));
        }
        if let (Some(writer), Some(task)) = (&mut self.state_writer, self.prompt.held()) {
            let state = self.normalizer.normalized(&self.model_joints);
            let (prompt, inside) = writer.write(&task.tokens, state);
            if !inside {
                self.metrics.clamped_states.add_one();
            }
            self.model.set_prompt(prompt)?;
        }
        began.prompted = start.elapsed();
        Ok(None)
    }

    /// The KV cache of the same frame set with the newest joint state, where that is in it.
    pub(super) fn perceive_again(&mut self, began: &mut Began) -> Result<Option<DropReason>, DeviceError> {
        if self.state_writer.is_none() {
            return Ok(None);
        }
        let dropped = self.read_prompt_state(began)?;
        if dropped.is_none() {
            self.shared.set_busy(true);
            let start = Instant::now();
            self.model.set_images_again()?;
            self.start_perceive(began, start)?;
        }
        Ok(dropped)
    }

    /// The frame set to the KV cache.
    pub(super) fn perceive(&mut self, began: &mut Began) -> Result<(), DeviceError> {
        let start = Instant::now();
        for (camera, frame) in self.frames.frames().enumerate() {
            self.seen[camera] = frame.map(Frame::arrival);
            self.model.set_image(camera, frame.map(|frame| frame.pixels.as_slice()))?;
        }
        self.start_perceive(began, start)
    }

    /// Starts perceive on what was written since `writing`.
    fn start_perceive(&mut self, began: &mut Began, writing: Instant) -> Result<(), DeviceError> {
        let written = began.prompted + writing.elapsed();
        self.metrics.record(Stage::Write, written);
        began.parts.set(Stage::Write, written);
        let start = Instant::now();
        if let Some(waited) = began.waited {
            self.metrics.record(Stage::BeforeDevice, waited + start.saturating_duration_since(began.at));
        }
        began.perceive_started = Some(start);
        self.model.start_perceive()
    }

    /// What perceive still needs, if it was started, by what it took the last time.
    pub(super) fn perceive_left(&self, began: &Began) -> Duration {
        match (began.perceive_started, began.perceived) {
            (Some(started), None) => self.model.perceive_time().saturating_sub(started.elapsed()),
            _ => Duration::ZERO,
        }
    }

    /// Waits until the device has done what was started, and notes what perceive took of it.
    pub(super) fn wait_for_device(&mut self, began: &mut Began) -> Result<(), DeviceError> {
        self.model.wait()?;
        let (Some(started), None) = (began.perceive_started, began.perceived) else { return Ok(()) };
        let took = self.model.perceive_time();
        self.metrics.record(Stage::Perceive, took);
        began.parts.set(Stage::Perceive, took);
        began.device += took;
        began.perceived = Some(started + took);
        Ok(())
    }

    /// Notes what the device's sections took, of perceive if it has run and of an act of `choice`. A GPU has to be asked for each,
    /// so this comes when nobody waits any more.
    pub(super) fn note_sections(&mut self, began: &Began, choice: Option<usize>) {
        if began.perceived.is_some() {
            note_perceive_sections(&self.metrics, self.model.perceive_sections());
        }
        if let Some(choice) = choice {
            let sections = self.model.act_sections(choice).iter();
            let steps = sections.filter(|section| section.name.starts_with("steps."));
            steps.for_each(|section| self.metrics.record(Stage::DenoiseStep, section.time));
        }
    }
}

/// SigLIP's time and the rest's.
fn note_perceive_sections(metrics: &Metrics, sections: &[SectionTime]) {
    if sections.is_empty() {
        return;
    }
    let (mut siglip, mut prefix) = (Duration::ZERO, Duration::ZERO);
    for section in sections {
        let part =
            if matches!(section.name.as_str(), "vision" | "projector") { &mut siglip } else { &mut prefix };
        *part += section.time;
    }
    metrics.record(Stage::Siglip, siglip);
    metrics.record(Stage::Prefix, prefix);
}
