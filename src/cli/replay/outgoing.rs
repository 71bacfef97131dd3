//! What a replay sends, as the messages that the node would send, and into the file of `--output`. Called by `replay` and
//! `follow`.

use std::path::Path;

use crate::bag::commands::{StreamMessage, recorded_topic, trajectory};
use crate::bag::messages::JointTrajectory;
use crate::bag::{CHUNK_TOPIC, CdrError, FileWriter, WriteError, cdr};
use crate::control::{Chunk, Motion, Tick};
use crate::observe::messages::Stamp;
use crate::settings::{Output, OutputKind, Settings};

/// A topic and an encoded message for it.
pub(super) type Message = (String, Vec<u8>);

/// Makes the messages, and keeps them if there is a file.
pub(super) struct Outgoing {
    joints: Vec<String>,
    trajectories: Vec<Output>,
    streams: Vec<StreamMessage>,
    file: Option<FileWriter>,
}

impl Outgoing {
    /// By the settings' outputs, into a file at `path`.
    pub fn new(settings: &Settings, path: Option<&Path>) -> anyhow::Result<Self> {
        let streams = StreamMessage::all(&settings.outputs, &settings.joints)?;
        let trajectories = settings.outputs.iter().filter(|output| !output.is_stream()).cloned().collect();
        let file = path.map(FileWriter::create).transpose()?;
        let mut outgoing = Self { joints: settings.joints.clone(), trajectories, streams, file };
        let topics = outgoing.topics();
        if let Some(file) = &mut outgoing.file {
            topics.iter().try_for_each(|(topic, type_name)| file.add_topic(topic, type_name))?;
        }
        Ok(outgoing)
    }

    /// Every topic, and the type of its messages; the chunks' first.
    pub fn topics(&self) -> Vec<(String, &'static str)> {
        let chunks = [(CHUNK_TOPIC.to_owned(), JointTrajectory::TYPE)].into_iter();
        let trajectories = self.trajectories.iter();
        let trajectories = trajectories.map(|output| (recorded_topic(&output.topic), JointTrajectory::TYPE));
        let streams = self.streams.iter();
        let streams = streams.map(|message| (recorded_topic(message.topic()), message.type_name()));
        chunks.chain(trajectories).chain(streams).collect()
    }

    /// The messages of a chunk that was sent: on the chunks' topic, then of each output.
    pub fn of_chunk(&self, chunk: &Chunk, motion: &Motion) -> Result<Vec<Message>, CdrError> {
        let whole = JointTrajectory::new(chunk.observation, &self.joints, chunk.points(), chunk.control_hz);
        let mut messages = vec![(CHUNK_TOPIC.to_owned(), cdr::encode(&whole)?)];
        for output in &self.trajectories {
            let OutputKind::Trajectory(stamp) = output.kind else { continue };
            let message = trajectory(&output.joints, stamp, &self.joints, chunk, motion);
            messages.push((recorded_topic(&output.topic), cdr::encode(&message)?));
        }
        Ok(messages)
    }

    /// The messages of a tick of the streams.
    pub fn of_tick(&mut self, tick: &Tick) -> Vec<Message> {
        let streams = self.streams.iter_mut();
        streams.map(|message| (recorded_topic(message.topic()), message.of(tick).to_vec())).collect()
    }

    /// Keeps messages that were sent at a time.
    pub fn write(&mut self, messages: &[Message], at: Stamp) -> Result<(), WriteError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        messages.iter().try_for_each(|(topic, data)| file.write(topic, data, at))
    }

    /// Completes the file. How many chunks it has, and how many messages of outputs; none where there is no file.
    pub fn finish(self) -> Result<Option<(u32, u32)>, WriteError> {
        let Some(file) = self.file else { return Ok(None) };
        let mut counts = file.finish()?;
        let chunks = counts.remove(CHUNK_TOPIC).unwrap_or(0);
        Ok(Some((chunks, counts.into_values().sum())))
    }
}
