//! Sends positions at every tick to the outputs that are streams (`std_msgs/Float64MultiArray`, `sensor_msgs/JointState`), on
//! a thread of its own. Messages are encoded once; a tick only puts numbers into them.

use std::time::{Duration, Instant};

use anyhow::Context;
use r2r::qos::QosProfile;

use super::clock::Clock;
use super::stop::Stop;
use crate::bag::commands::StreamMessage;
use crate::control::{Pace, Stream, Tick};
use crate::settings::Output;

pub struct StreamPublisher {
    outputs: Vec<(StreamMessage, r2r::PublisherUntyped)>,
    /// When a failure was said last.
    complained: Option<Instant>,
}

impl StreamPublisher {
    /// The outputs that are streams; ticks have a position for each of `joints`.
    pub fn new(node: &mut r2r::Node, joints: &[String], outputs: &[Output]) -> anyhow::Result<Self> {
        // What is late is of no use: a newer position follows.
        let qos = QosProfile::default().keep_last(1);
        let mut streams = Vec::new();
        for message in StreamMessage::all(outputs, joints)? {
            let publisher = node.create_publisher_untyped(message.topic(), message.type_name(), qos.clone());
            let publisher = publisher.with_context(|| format!("cannot publish {}", message.topic()))?;
            streams.push((message, publisher));
        }
        Ok(Self { outputs: streams, complained: None })
    }

    /// Sends the positions of every tick until it is time to stop.
    pub fn run(&mut self, mut stream: Stream, clock: &Clock, stop: &Stop) {
        let pace = if clock.is_simulated() { Pace::Clock } else { Pace::Machine };
        clock.wakes(stream.wake());
        stream.run(|| clock.now(), pace, stop.flag(), |tick| self.publish(tick));
    }

    /// Takes the topics off the graph.
    pub fn destroy(self, node: &mut r2r::Node) {
        self.outputs.into_iter().for_each(|(_, publisher)| node.destroy_publisher_untyped(publisher));
    }

    fn publish(&mut self, tick: &Tick) {
        for (message, publisher) in &mut self.outputs {
            let sent = publisher.publish_raw(message.of(tick));
            if let Err(error) = sent {
                complain(&mut self.complained, message.topic(), &error);
            }
        }
    }
}

/// A line now and then, not one for every tick.
#[cold]
fn complain(last: &mut Option<Instant>, topic: &str, error: &r2r::Error) {
    const INTERVAL: Duration = Duration::from_secs(5);
    if last.is_none_or(|last| last.elapsed() > INTERVAL) {
        tracing::error!("cannot publish {topic}: {error}");
        *last = Some(Instant::now());
    }
}
