//! Sends chunks as `trajectory_msgs/JointTrajectory` on `~/action_chunk`, on a thread of its own.
//!
//! The message is encoded by the same function that `replay` writes files with, so both are the same bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use r2r::qos::QosProfile;

use super::clock::Clock;
use super::stop::Stop;
use crate::bag::cdr;
use crate::bag::messages::JointTrajectory;
use crate::control::{Chunk, ChunkOutput};

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
    joints: Vec<String>,
    pub last: LastChunk,
}

impl ChunkPublisher {
    /// Chunks have a column for each of `joints`.
    pub fn new(node: &mut r2r::Node, joints: &[String]) -> anyhow::Result<Self> {
        let publisher = node
            .create_publisher_untyped("~/action_chunk", JointTrajectory::TYPE, QosProfile::default())
            .context("cannot publish ~/action_chunk")?;
        Ok(Self { publisher, joints: joints.to_vec(), last: LastChunk::default() })
    }

    /// Sends every chunk that may leave, until it is time to stop.
    pub fn run(&self, mut chunks: ChunkOutput, clock: &Clock, stop: &Stop) {
        const PATIENCE: Duration = Duration::from_millis(50);
        while !stop.is_set() {
            if chunks.wait(PATIENCE)
                && let Err(error) = chunks.send(|| clock.now(), |chunk| self.publish(chunk))
            {
                tracing::error!("cannot publish a chunk: {error:#}");
            }
        }
    }

    /// Takes the topic off the graph.
    pub fn destroy(self, node: &mut r2r::Node) {
        node.destroy_publisher_untyped(self.publisher);
    }

    fn publish(&self, chunk: &Chunk) -> anyhow::Result<()> {
        let Chunk { observation, control_hz, .. } = chunk;
        let trajectory = JointTrajectory::new(*observation, &self.joints, chunk.points(), *control_hz);
        self.publisher.publish_raw(&cdr::encode(&trajectory)?)?;
        self.last.set(chunk.clone());
        Ok(())
    }
}
