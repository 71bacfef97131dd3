//! The ways in: each turns a message into what the model reads, on the thread that received it, and leaves it in a
//! mailbox for the cycle. A message that cannot be used changes nothing there.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use super::mailbox::Sender;
use super::prompt::Prompts;
use super::sync::Frame;
use super::witness::{Arrival, Witness};
use crate::observe::messages::{CompressedImage, Image, JointState, Stamp};
use crate::observe::{ImageError, ImagePreprocessor, JointError, JointOrder, PromptTokens, TokenizerError};
use crate::settings::Camera;
use crate::telemetry::Metrics;

/// Where an edge puts the images of one camera.
pub struct CameraInput {
    pub(super) camera: Camera,
    pub(super) topic: String,
    /// Position in [`Metrics::cameras`].
    pub(super) index: usize,
    pub(super) preprocessor: ImagePreprocessor,
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

    /// Counts a message from which the edge could not even get an image message.
    pub fn refuse(&self, error: &dyn Display) {
        let _ = self.metrics.received(&self.metrics.cameras[self.index], Instant::now(), Err::<(), _>(error));
    }

    fn put(
        &mut self,
        stamp: Stamp,
        received: Stamp,
        preprocess: impl FnOnce(&mut ImagePreprocessor, &mut [f32]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let since = Instant::now();
        let frame = self.mailbox.buffer();
        let result = preprocess(&mut self.preprocessor, &mut frame.pixels);
        (frame.stamp, frame.received) = (stamp, received);
        frame.decoding = (since, Instant::now());
        self.metrics.received(&self.metrics.cameras[self.index], since, result)?;
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
}

impl JointSample {
    /// What its age counts from: the stamp, unless the driver leaves it out or the message came before it.
    pub fn since(&self) -> Stamp {
        if self.stamp.0 == 0 { self.received } else { self.stamp.min(self.received) }
    }

    pub fn arrival(&self) -> Arrival {
        Arrival { stamp: self.stamp, received: self.received }
    }
}

/// Where an edge puts joint states.
pub struct JointInput {
    pub(super) topic: String,
    pub(super) order: JointOrder,
    pub(super) mailbox: Sender<JointSample>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

impl JointInput {
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Joint names in the order of a chunk's columns.
    pub fn names(&self) -> &[String] {
        self.order.names()
    }

    /// `received` is the time now, by the clock that the cycle is given.
    pub fn put(&mut self, joints: &JointState, received: Stamp) -> Result<(), JointError> {
        let since = Instant::now();
        let sample = self.mailbox.buffer();
        let result = self.order.read(joints, &mut sample.positions);
        (sample.stamp, sample.received) = (joints.stamp, received);
        if let Some(witness) = &self.witness {
            witness.joints(self, joints, received);
        }
        self.metrics.received(&self.metrics.joints, since, result)?;
        self.mailbox.send();
        Ok(())
    }

    /// Counts a message from which the edge could not even get a joint state.
    pub fn refuse(&self, error: &dyn Display) {
        let _ = self.metrics.received(&self.metrics.joints, Instant::now(), Err::<(), _>(error));
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
