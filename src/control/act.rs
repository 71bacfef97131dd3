//! The joint state and the KV cache to a chunk: noise, the denoising steps, the actions back in the robot's units, and
//! the chunk handed out. The second half of a cycle; nothing here allocates, locks or blocks, as long as the device works.

use std::time::Instant;

use super::chunk::Made;
use super::cycle::{Began, Cycle, Now, Outcome};
use super::noise;
use super::state::Phase;
use crate::device::{DeviceError, SectionTime};
use crate::observe::messages::Stamp;
use crate::policy::Continuation;
use crate::telemetry::{CycleRecord, DropReason, Metrics, Stage};

impl Cycle {
    /// The joint state and the KV cache to a chunk whose first point is for `observation`: the newest joint state, or the one
    /// that the KV cache has in it.
    pub(super) fn act(
        &mut self,
        observation: Stamp,
        mut began: Began,
        now: &Now,
    ) -> Result<Outcome, DeviceError> {
        // Perceiving may have taken long.
        let stamp = (now.clock)();
        let (taken, state) = match self.state_writer {
            Some(_) => (began.stamp, Ok(())),
            None => (stamp, self.take_state(stamp)),
        };
        let (Some(joints), Some(view)) = (self.joints.held(), &mut self.view) else {
            return Ok(self.dropped(DropReason::JointsMissing));
        };
        let since = joints.since();
        (view.acted, view.joints) = (Some(stamp), since);
        let images = view.images;
        if joints.contested {
            return Ok(self.dropped(DropReason::JointsDisagree));
        }
        if let Some(reason) = state.err().or(self.images_too_old(images, stamp)) {
            return Ok(self.dropped(reason));
        }

        let left_ms = self.timing.budget_ms - stamp.ms_since(observation) - self.shared.publish_ms();
        let choice = match now.steps {
            Some(choice) => choice,
            None if now.runs => self.steps.choose(left_ms),
            None => 0,
        };
        self.shared.set_busy(true);
        let start = Instant::now();
        self.normalizer.normalize_state(&self.model_joints, &mut self.model.state);
        // Of the images, so that acts on the same set follow the same flow.
        noise::fill(self.seed, images.1, &mut self.model.noise);
        let continuation = self.model.continuation();
        if !now.is_guide_known {
            self.led.find(&self.timing.lead, continuation, (observation, stamp));
        }
        if continuation != Continuation::Free {
            let (units, relative, normalizer) = (&self.units, &self.relative, &self.normalizer);
            let actions = self.led.actions(&self.model_joints, units, relative);
            self.model.previous_chunk.fill(0.0);
            normalizer.normalize_actions(actions, &mut self.model.previous_chunk);
            let weights = &mut self.model.prefix_weights;
            self.led.guide.write_weights(continuation, weights);
        }
        let device_start = Instant::now();
        self.model.act(choice)?;
        let device_end = Instant::now();
        began.device += device_end - device_start;
        began.parts.set(Stage::Act, self.metrics.time(Stage::Act, start));
        note_act_sections(&self.metrics, self.model.act_sections(choice));
        let read = Instant::now();
        let denoising_steps = self.model.step_counts()[choice];
        let actions = self.model.read_actions(choice)?;
        began.parts.set(Stage::Readback, self.metrics.time(Stage::Readback, read));

        let decode = Instant::now();
        if !actions.iter().all(|action| action.is_finite()) {
            self.hold(DropReason::NotFinite, stamp);
            return Ok(self.dropped(DropReason::NotFinite));
        }
        let chunk = self.chunks.buffer();
        self.normalizer.unnormalize_actions(actions, &mut chunk.actions);
        self.relative.to_positions(&self.model_joints, &mut chunk.actions);
        self.units.to_robot(&mut chunk.actions);
        chunk.measured.copy_from_slice(&joints.positions);
        chunk.used.frames.copy_from_slice(&self.seen);
        (chunk.used.looked, chunk.used.acted) = (began.stamp, taken);
        chunk.used.joints = joints.arrival();
        chunk.used.guide.copy_from(&self.led.guide);
        if self.led.guide.leads() {
            let assumed_ms = self.led.guide.delay as f64 / chunk.control_hz * 1e3;
            self.metrics.joins.led(assumed_ms, self.led.guide.mismatch(&chunk.actions, chunk.joints));
        }
        chunk.used.prompt = self.prompt.held().map_or(0, |prompt| prompt.number);
        (chunk.first, chunk.horizon) = (0, chunk.actions.len() / chunk.joints);
        (chunk.hold, chunk.denoising_steps) = (None, denoising_steps);
        (chunk.observation, chunk.joint_stamp, chunk.sequence) = (observation, joints.stamp, self.sequence);
        began.parts.set(Stage::DecodeActions, self.metrics.time(Stage::DecodeActions, decode));
        self.metrics.time(Stage::Cycle, began.at);
        // With what follows it, so that the time that is left need only cover that.
        self.steps.record(choice, start.elapsed());
        chunk.made = Made {
            images: images.0,
            joints: since,
            began: (began.stamp, began.at),
            waited: began.waited,
            device: (began.device, device_end),
            handed_out: Instant::now(),
            parts: began.parts,
        };
        self.hand_out();
        Ok(Outcome::Chunk)
    }

    /// Hands out a chunk that tells the robot to stay where it was measured; without a joint state, there is no such
    /// place.
    pub(super) fn hold(&mut self, reason: DropReason, now: Stamp) {
        self.shared.set(Phase::Holding, Some(reason));
        self.led.fresh_from = self.sequence;
        self.joints.take();
        // Where nobody knows where it is, there is nothing to hold.
        let Some(joints) = self.joints.held().filter(|joints| !joints.contested) else { return };
        let chunk = self.chunks.buffer();
        chunk.measured.copy_from_slice(&joints.positions);
        chunk.hold = Some(reason);
        (chunk.used.joints, chunk.used.looked, chunk.used.acted) = (joints.arrival(), now, now);
        (chunk.observation, chunk.joint_stamp, chunk.sequence) = (now, joints.stamp, self.sequence);
        (chunk.made.joints, chunk.made.handed_out) = (joints.since(), Instant::now());
        self.hand_out();
    }

    fn hand_out(&mut self) {
        self.sequence += 1;
        if self.chunks.send() {
            self.metrics.dropped(DropReason::Overwritten);
            self.metrics.cycle_finished(&CycleRecord::dropped(DropReason::Overwritten));
        }
    }
}

/// Each denoising step's time.
fn note_act_sections(metrics: &Metrics, sections: &[SectionTime]) {
    let steps = sections.iter().filter(|section| section.name.starts_with("steps."));
    steps.for_each(|section| metrics.record(Stage::DenoiseStep, section.time));
}
