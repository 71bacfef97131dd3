//! The ways in: each turns a message into what the model reads, on the thread that received it, and leaves it in a
//! mailbox for the cycle. A message that cannot be used changes nothing there.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use super::mailbox::{Receiver, Sender};
use super::prompt::Prompts;
use super::reason::{stamp_remark, taken_at};
use super::sync::Frame;
use super::witness::{Arrival, Witness};
use crate::observe::joined::since;
use crate::observe::messages::{CompressedImage, Image, JointState, Stamp};
use crate::observe::{
    ImageError, ImagePreprocessor, Joined, JoinedJoints, JointError, PromptTokens, TokenizerError,
};
use crate::settings::{Camera, Settings, StampSource};
use crate::telemetry::Metrics;

/// Where an edge puts the images of one camera.
pub struct CameraInput {
    pub(super) camera: Camera,
    pub(super) topic: String,
    /// Position in [`Metrics::cameras`].
    pub(super) index: usize,
    pub(super) preprocessor: ImagePreprocessor,
    /// Images that are older are of no use.
    pub(super) max_age_ms: f64,
    pub(super) mailbox: Sender<Frame>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

impl CameraInput {
    /// The camera's settings.
    pub fn camera(&self) -> &Camera {
        &self.camera
    }

    /// The topic its images come on.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// `received` is when the edge received it, by the clock that the cycle is given.
    pub fn put_image(&mut self, image: &Image, received: Stamp) -> Result<(), ImageError> {
        let put = self.put(image.stamp, received, |preprocessor, pixels| preprocessor.raw(image, pixels));
        if let Some(witness) = &self.witness {
            witness.image(self, image, received);
        }
        put
    }

    /// As [`Self::put_image`].
    pub fn put_compressed(&mut self, image: &CompressedImage, received: Stamp) -> Result<(), ImageError> {
        let put =
            self.put(image.stamp, received, |preprocessor, pixels| preprocessor.compressed(image, pixels));
        if let Some(witness) = &self.witness {
            witness.compressed_image(self, image, received);
        }
        put
    }

    /// Counts a message, received at `at`, from which the edge could not even get an image message.
    pub fn refuse(&self, error: &dyn Display, at: Stamp) {
        let sensor = &self.metrics.cameras[self.index];
        let _ = self.metrics.received(sensor, Instant::now(), Err::<(), _>(error));
        self.metrics.complaints.add(&sensor.name, error, at.0);
    }

    /// What is to be told of messages now, of any sensor.
    pub fn news(&self) -> Vec<String> {
        self.metrics.complaints.news()
    }

    fn put(
        &mut self,
        header: Stamp,
        received: Stamp,
        preprocess: impl FnOnce(&mut ImagePreprocessor, &mut [f32]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let since = Instant::now();
        let frame = self.mailbox.buffer();
        let result = preprocess(&mut self.preprocessor, &mut frame.pixels);
        (frame.stamp, frame.received) = (taken_at(self.camera.stamps, header, received), received);
        frame.decoding = (since, Instant::now());
        let sensor = &self.metrics.cameras[self.index];
        let complain = |text: &dyn Display| self.metrics.complaints.add(&sensor.name, text, received.0);
        self.metrics.received(sensor, since, result).inspect_err(|error| complain(error))?;
        if self.camera.stamps == StampSource::Header {
            sensor.note_stamp(header.0, received.0);
            if let Some(remark) = stamp_remark(header, received, self.max_age_ms) {
                complain(&remark);
            }
        }
        if let Some(remark) = self.preprocessor.take_remark() {
            complain(&remark);
        }
        self.mailbox.send();
        Ok(())
    }
}

/// Joint positions in the model's order.
#[derive(Clone, Debug)]
pub(super) struct JointSample {
    pub stamp: Stamp,
    /// When the edge received it, by the clock that the cycle is given.
    pub received: Stamp,
    /// `[joints]`, radians or metres.
    pub positions: Vec<f64>,
    /// Whether the joints jumped so lately that nobody knows where they are.
    pub contested: bool,
}

impl JointSample {
    /// Room for so many joints.
    pub fn empty(joints: usize) -> Self {
        Self { stamp: Stamp(0), received: Stamp(0), positions: vec![0.0; joints], contested: false }
    }

    /// What its age counts from: that of the joint that is the oldest.
    pub fn since(&self) -> Stamp {
        since(self.stamp, self.received)
    }

    pub fn arrival(&self) -> Arrival {
        Arrival { stamp: self.stamp, received: self.received }
    }
}

/// Where an edge puts joint states, of one topic or of several.
pub struct JointInput {
    pub(super) topics: Vec<String>,
    pub(super) stamps: StampSource,
    pub(super) max_age_ms: f64,
    pub(super) joined: JoinedJoints,
    /// Velocity limits `[joints]` that were changed.
    pub(super) velocity_max: Receiver<Vec<f64>>,
    pub(super) mailbox: Sender<JointSample>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

impl JointInput {
    pub(super) fn new(
        settings: &Settings,
        joined: JoinedJoints,
        velocity_max: Receiver<Vec<f64>>,
        mailbox: Sender<JointSample>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.set_missing_joints(joined.missing());
        Self {
            topics: settings.joint_states_topics.clone(),
            stamps: settings.joint_stamps,
            max_age_ms: settings.max_joint_age_ms,
            joined,
            velocity_max,
            mailbox,
            metrics,
            witness: None,
        }
    }

    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Joint names in the order of a chunk's columns.
    pub fn names(&self) -> &[String] {
        self.joined.names()
    }

    /// A joint state of the only topic. `received` is the time now, by the clock that the cycle is given.
    pub fn put(&mut self, joints: &JointState, received: Stamp) -> Result<(), JointError> {
        self.put_from(0, joints, received)
    }

    /// A joint state of the topic with this number.
    pub fn put_from(&mut self, topic: usize, joints: &JointState, received: Stamp) -> Result<(), JointError> {
        let since = Instant::now();
        if let Some(witness) = &self.witness {
            witness.joints(&self.topics[topic], joints, received);
        }
        if self.velocity_max.take() {
            self.joined.set_velocity_max(self.velocity_max.value());
        }
        let was_whole = self.joined.is_whole();
        let stamp = taken_at(self.stamps, joints.stamp, received);
        let result = self.joined.put(joints, stamp, received);
        if !was_whole {
            self.metrics.set_missing_joints(self.joined.missing());
        }
        if matches!(result, Ok(Joined::Foreign)) {
            return Ok(());
        }
        let complain =
            |text: &dyn Display| self.metrics.complaints.add(&self.metrics.joints.name, text, received.0);
        if result.is_ok() && self.stamps == StampSource::Header {
            self.metrics.joints.note_stamp(joints.stamp.0, received.0);
            if let Some(remark) =
                stamp_remark(joints.stamp, received, self.max_age_ms).filter(|_| joints.stamp.0 != 0)
            {
                complain(&remark);
            }
        }
        let result =
            self.metrics.received(&self.metrics.joints, since, result).inspect_err(|error| match error {
                // One complaint, whichever joint shows it first.
                error if error.is_dispute() => {
                    let (about, text) = (&self.metrics.joints.name, error.to_string());
                    self.metrics.complaints.add_kind(about, "jump".into(), text, received.0);
                }
                _ => complain(error),
            });
        // Of a jump the loop must know: neither where the joints are nor where they were is to be believed.
        let is_dispute = result.as_ref().is_err_and(JointError::is_dispute);
        let has_changed = is_dispute || matches!(result, Ok(Joined::Whole));
        if has_changed && self.joined.is_whole() {
            self.send(received);
        }
        result.map(|_| ())
    }

    fn send(&mut self, now: Stamp) {
        let (oldest, stamp, received) = self.joined.oldest();
        self.metrics.set_oldest_joint(oldest);
        let sample = self.mailbox.buffer();
        self.joined.copy_positions(&mut sample.positions);
        (sample.stamp, sample.received) = (stamp, received);
        sample.contested = self.joined.is_contested(now);
        self.mailbox.send();
    }

    /// A joint state as a recorded cycle used it, whatever messages it was joined of.
    pub fn repeat(&mut self, used: Arrival, positions: &[f64]) -> Result<(), JointError> {
        let joints = self.names().len();
        if positions.len() != joints {
            return Err(JointError::Lengths { names: joints, positions: positions.len() });
        }
        let sample = self.mailbox.buffer();
        sample.positions.copy_from_slice(positions);
        (sample.stamp, sample.received, sample.contested) = (used.stamp, used.received, false);
        let _ = self.metrics.received(&self.metrics.joints, Instant::now(), Ok::<_, JointError>(()));
        self.metrics.set_missing_joints(None);
        self.mailbox.send();
        Ok(())
    }

    /// Counts a message, received at `at`, from which the edge could not even get a joint state.
    pub fn refuse(&self, error: &dyn Display, at: Stamp) {
        let _ = self.metrics.received(&self.metrics.joints, Instant::now(), Err::<(), _>(error));
        self.metrics.complaints.add(&self.metrics.joints.name, error, at.0);
    }

    /// What is to be told of messages now, of any sensor.
    pub fn news(&self) -> Vec<String> {
        self.metrics.complaints.news()
    }
}

/// A prompt's tokens, those behind its state left out, and which prompt it is.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub tokens: PromptTokens,
    /// Counts accepted prompts; the first has 1.
    pub number: u32,
}

/// Where an edge puts prompts.
pub struct PromptInput {
    pub(super) prompts: Prompts,
    /// Accepted prompts so far.
    pub(super) number: u32,
    pub(super) mailbox: Sender<Prompt>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

impl PromptInput {
    pub fn put(&mut self, prompt: &str) -> Result<(), TokenizerError> {
        let since = Instant::now();
        if let Some(witness) = &self.witness {
            witness.prompt(prompt);
        }
        let result = self.prompts.encode(prompt);
        let tokens = self.metrics.received(&self.metrics.prompts, since, result)?;
        self.number += 1;
        *self.mailbox.buffer() = Prompt { tokens, number: self.number };
        self.mailbox.send();
        Ok(())
    }

    /// Number of the newest prompt; the one that the node started with has 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Counts a message from which the edge could not even get a prompt.
    pub fn refuse(&self, error: &dyn Display) {
        let _ = self.metrics.received(&self.metrics.prompts, Instant::now(), Err::<(), _>(error));
    }
}
