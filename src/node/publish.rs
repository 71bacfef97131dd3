//! Sends chunks as `trajectory_msgs/JointTrajectory` on `~/action_chunk` and to the outputs that take trajectories, on a thread
//! of its own.
//!
//! The messages are encoded by the same functions that `replay` writes files with, so both are the same bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use r2r::qos::QosProfile;

use super::clock::Clock;
use super::stop::Stop;
use crate::bag::cdr;
use crate::bag::commands::trajectory;
use crate::bag::messages::JointTrajectory;
use crate::control::{Chunk, ChunkOutput, Motion};
use crate::settings::{Output, OutputKind, TrajectoryStamp};

/// The last chunk sent, for the status display.
#[derive(Clone, Debug, Default)]
pub struct LastChunk(Arc<Mutex<Option<Chunk>>>);

impl LastChunk {
    pub fn get(&self) -> Option<Chunk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, chunk: Chunk) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(chunk);
    }
}

pub struct ChunkPublisher {
    publisher: r2r::PublisherUntyped,
    outputs: Vec<TrajectoryOutput>,
    joints: Vec<String>,
    pub last: LastChunk,
}

/// A controller that takes trajectories.
struct TrajectoryOutput {
    publisher: r2r::PublisherUntyped,
    topic: String,
    joints: Vec<usize>,
    stamp: TrajectoryStamp,
}

impl ChunkPublisher {
    /// Chunks have a column for each of `joints`.
    pub fn new(node: &mut r2r::Node, joints: &[String], outputs: &[Output]) -> anyhow::Result<Self> {
        let mut publisher = |topic: &str| {
            node.create_publisher_untyped(topic, JointTrajectory::TYPE, QosProfile::default())
                .with_context(|| format!("cannot publish {topic}"))
        };
        let whole = publisher("~/action_chunk")?;
        let mut trajectories = Vec::new();
        for output in outputs {
            let OutputKind::Trajectory(stamp) = output.kind else { continue };
            let (topic, joints) = (output.topic.clone(), output.joints.clone());
            trajectories.push(TrajectoryOutput { publisher: publisher(&topic)?, topic, joints, stamp });
        }
        let last = LastChunk::default();
        Ok(Self { publisher: whole, outputs: trajectories, joints: joints.to_vec(), last })
    }

    /// Sends every chunk that may leave, until it is time to stop.
    pub fn run(&self, mut chunks: ChunkOutput, clock: &Clock, stop: &Stop) {
        const PATIENCE: Duration = Duration::from_millis(50);
        while !stop.is_set() {
            if chunks.wait(PATIENCE)
                && let Err(error) = chunks.send(|| clock.now(), |chunk, motion| self.publish(chunk, motion))
            {
                tracing::error!("cannot publish a chunk: {error:#}");
            }
        }
    }

    /// Takes the topics off the graph.
    pub fn destroy(self, node: &mut r2r::Node) {
        node.destroy_publisher_untyped(self.publisher);
        self.outputs.into_iter().for_each(|output| node.destroy_publisher_untyped(output.publisher));
    }

    /// To everybody, even if one of them cannot be reached: arms must not part.
    fn publish(&self, chunk: &Chunk, motion: &Motion) -> anyhow::Result<()> {
        let mut result = Ok(());
        for output in &self.outputs {
            let sent = output.publish(&self.joints, chunk, motion);
            result = result.and(sent.with_context(|| output.topic.clone()));
        }
        let Chunk { observation, control_hz, .. } = chunk;
        let whole = JointTrajectory::new(*observation, &self.joints, chunk.points(), *control_hz);
        self.publisher.publish_raw(&cdr::encode(&whole)?)?;
        self.last.set(chunk.clone());
        result
    }
}

impl TrajectoryOutput {
    fn publish(&self, names: &[String], chunk: &Chunk, motion: &Motion) -> anyhow::Result<()> {
        let message = trajectory(&self.joints, self.stamp, names, chunk, motion);
        Ok(self.publisher.publish_raw(&cdr::encode(&message)?)?)
    }
}
