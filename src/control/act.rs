//! The joint state and the KV cache to a chunk: noise, the denoising steps, the actions back in the robot's units, and
//! the chunk handed out. The second half of a cycle; nothing here allocates, locks or blocks, as long as the device works.

use std::time::Instant;

use super::chunk::Made;
use super::cycle::{Began, Cycle, Now, Outcome};
use super::noise;
use super::state::Phase;
use crate::device::DeviceError;
use crate::observe::messages::Stamp;
use crate::policy::Continuation;
use crate::telemetry::{CycleRecord, DropReason, Stage};

impl Cycle {
    /// The joint state and the KV cache to a chunk whose first point is for `observation`: the newest joint state, or the one
    /// that the KV cache has in it.
    pub(super) fn act(
        &mut self,
        observation: Stamp,
        mut began: Began,
        now: &Now,
    ) -> Result<Outcome, DeviceError> {
        let continuation = self.model.continuation();
        // A chunk continues what was sent last. The chunk before may still be on its way out: perceive's time is given to it.
        if !now.is_guide_known && self.led.is_behind(&self.timing.lead, continuation, self.sequence) {
            self.wait_for_device(&mut began)?;
        }
        // Perceiving may have taken long, on a device that had to be waited for.
        let stamp = (now.clock)();
        let (taken, state) = match self.state_writer {
            Some(_) => (began.stamp, Ok(())),
            None => (stamp, self.take_state(stamp)),
        };
        let (Some(joints), Some(view)) = (self.joints.held(), &mut self.view) else {
            return self.dropped_act(&mut began, DropReason::JointsMissing);
        };
        let since = joints.since();
        (view.acted, view.joints) = (Some(stamp), since);
        let images = view.images;
        if joints.contested {
            return self.dropped_act(&mut began, DropReason::JointsDisagree);
        }
        if let Some(reason) = state.err().or(self.images_too_old(images, stamp)) {
            return self.dropped_act(&mut began, reason);
        }

        let perceive_left_ms = self.perceive_left(&began).as_secs_f64() * 1e3;
        let gone_ms = stamp.ms_since(observation) + perceive_left_ms;
        let left_ms = self.timing.budget_ms - gone_ms - self.shared.publish_ms();
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
        self.model.start_act(choice)?;
        self.wait_for_device(&mut began)?;
        let device_end = Instant::now();
        // Act's time is from the end of perceive, where that was not waited for.
        let after = |start: Instant| began.perceived.map_or(start, |end| start.max(end));
        let (start, device_start) = (after(start), after(device_start));
        began.device += device_end.saturating_duration_since(device_start);
        let took = device_end.saturating_duration_since(start);
        self.metrics.record(Stage::Act, took);
        began.parts.set(Stage::Act, took);
        let read = Instant::now();
        // Still the one that was taken above.
        let Some(joints) = self.joints.held() else { return Ok(self.dropped(DropReason::JointsMissing)) };
        let denoising_steps = self.model.step_counts()[choice];
        let actions = self.model.read_actions(choice)?;
        began.parts.set(Stage::Readback, self.metrics.time(Stage::Readback, read));

        let decode = Instant::now();
        if !actions.iter().all(|action| action.is_finite()) {
            self.hold(DropReason::NotFinite, stamp);
            self.note_sections(&began, Some(choice));
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
        self.note_sections(&began, Some(choice));
        Ok(Outcome::Chunk)
    }

    /// No chunk, for this reason; perceive may have been started.
    fn dropped_act(&mut self, began: &mut Began, reason: DropReason) -> Result<Outcome, DeviceError> {
        self.wait_for_device(began)?;
        self.note_sections(began, None);
        Ok(self.dropped(reason))
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
