//! Who is told of everything that the loop saw and did: the recorder of `pi0_node record`, tests. Told by the inputs and
//! by the output on their own threads, never by the control thread; what it is told of a cycle travelled with the chunk.

use std::sync::Arc;
use std::time::Duration;

use super::chunk::Chunk;
use super::guide::Guide;
use super::motion::Motion;
use super::stream::Tick;
use super::{CameraInput, Wiring};
use crate::observe::messages::{CompressedImage, Image, JointState, Stamp};
use crate::settings::Value;
use crate::telemetry::{DropReason, Stage};

/// Is told of messages and chunks. Must return at once: whoever tells it has more important things to do.
pub trait Witness: Send + Sync {
    /// An image came in, whether it can be decoded or not. `received` is by the clock that the cycle is given.
    fn image(&self, camera: &CameraInput, image: &Image, received: Stamp);
    /// As [`Self::image`].
    fn compressed_image(&self, camera: &CameraInput, image: &CompressedImage, received: Stamp);
    /// A joint state came in on this topic, whether it can be used or not.
    fn joints(&self, topic: &str, state: &JointState, received: Stamp);
    /// A prompt came in, whether it can be used or not.
    fn prompt(&self, prompt: &str);
    /// These parameters have these values from the loop's next look on.
    fn changed(&self, changes: &[(&str, Value)]);
    /// Somebody enabled or disabled the node.
    fn enabled(&self, enabled: bool);
    /// A cycle's chunk was sent or refused.
    fn departure(&self, departure: &Departure);
    /// The streams sent the positions of a moment.
    fn tick(&self, tick: &Tick);
}

/// What became of a chunk on the way out.
#[derive(Clone, Copy, Debug)]
pub struct Departure<'a> {
    /// As the cycle handed it out.
    pub made: &'a Chunk,
    /// As it was to leave: points that are past cut off, joined to the one before, or turned into a hold.
    pub leaving: &'a Chunk,
    /// The motion that it makes, where it was sent.
    pub motion: &'a Motion,
    /// Whether it was sent.
    pub sent: bool,
    /// Why what the cycle made was not sent as it is; a hold may have been sent in its place.
    pub refused: Option<DropReason>,
    /// By which parameters: 0 are those that the loop was made with; every change adds 1.
    pub parameters: u32,
    /// The clock when this was decided.
    pub at: Stamp,
}

impl Departure<'_> {
    /// How long each stage on the chunk's way took, in the order of the way.
    pub fn latencies(&self) -> impl Iterator<Item = (Stage, Duration)> {
        let record = self.leaving.made.parts.record();
        Stage::ALL.into_iter().filter_map(move |stage| Some((stage, record.duration(stage)?)))
    }
}

/// The messages that a chunk was made of, and when. With the messages themselves, this is enough to make it again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// Each camera's frame; none where a camera was missing.
    pub frames: Vec<Option<Arrival>>,
    pub joints: Arrival,
    /// Number of the prompt in force: the parameter's is 1, each that was accepted afterwards is one more.
    pub prompt: u32,
    /// The clock when the cameras were looked at.
    pub looked: Stamp,
    /// What led the chunk.
    pub guide: Guide,
    /// The clock when the joint state was taken: for a model that has it in the prompt, when the cameras were looked at.
    pub acted: Stamp,
}

impl Used {
    /// Room for so many cameras and points.
    pub(super) fn room(cameras: usize, points: usize, joints: usize) -> Self {
        Self { frames: vec![None; cameras], guide: Guide::room(points, joints), ..Self::default() }
    }

    /// Takes over another one of the same size without allocating.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.frames.copy_from_slice(&other.frames);
        self.guide.copy_from(&other.guide);
        (self.joints, self.prompt) = (other.joints, other.prompt);
        (self.looked, self.acted) = (other.looked, other.acted);
    }
}

/// By what a message of a topic is known: the stamp in its header, and when it was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arrival {
    pub stamp: Stamp,
    pub received: Stamp,
}

impl Wiring {
    /// From now on `witness` is told of everything.
    pub fn tell(&mut self, witness: &Arc<dyn Witness>) {
        self.cameras.iter_mut().for_each(|camera| camera.witness = Some(witness.clone()));
        self.joints.witness = Some(witness.clone());
        self.prompt.witness = Some(witness.clone());
        self.tuner.witness = Some(witness.clone());
        self.enable.witness = Some(witness.clone());
        self.chunks.witness = Some(witness.clone());
        if let Some(stream) = &mut self.stream {
            stream.witness = Some(witness.clone());
        }
    }
}
