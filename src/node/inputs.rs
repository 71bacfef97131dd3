//! From subscriptions to `control`'s inputs.
//!
//! r2r keeps ten messages per subscription and drops the newest when they are full. So every subscription is emptied
//! after every spin, on the spin thread; images go on to a thread per camera, where only the newest is decoded.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{FutureExt, Stream, StreamExt};
use r2r::qos::QosProfile;
use r2r::sensor_msgs::msg as sensor;
use r2r::std_msgs::msg as std_msgs;
use r2r::std_srvs::srv::SetBool;

use super::clock::Clock;
use super::graph::Publishers;
use super::latest::Latest;
use super::parameters::Parameters;
use super::session::Switch;
use super::stop::{Stop, StopOnDrop};
use crate::control::{self, CameraInput, JointInput, Monitor};
use crate::observe::messages::{CompressedImage, Image, JointState, Stamp};
use crate::settings::{RealTimeSettings, Transport};
use crate::wording::Shown;

/// Empties one subscription; called after every spin.
pub type Drain = Box<dyn FnMut() + Send>;

/// How long a camera's thread waits before it looks whether to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// Sensor data: newest only, and a lost message is better than a late one.
pub const SENSOR_QOS: QosProfile = QosProfile::sensor_data().keep_last(1);

/// Subscribes to a camera's topic and starts its thread.
pub fn camera(
    node: &mut r2r::Node,
    input: CameraInput,
    real_time: RealTimeSettings,
    clock: &Clock,
    stop: &Stop,
) -> anyhow::Result<(Drain, thread::JoinHandle<()>)> {
    match input.camera().transport {
        Transport::Raw => camera_of(node, input, real_time, clock, stop, |input, message, received| {
            input.put_image(&image(message), received)
        }),
        Transport::Compressed => {
            camera_of(node, input, real_time, clock, stop, |input, message, received| {
                input.put_compressed(&compressed_image(message), received)
            })
        }
    }
}

fn camera_of<M, E>(
    node: &mut r2r::Node,
    mut input: CameraInput,
    real_time: RealTimeSettings,
    clock: &Clock,
    stop: &Stop,
    put: impl Fn(&mut CameraInput, &M, Stamp) -> Result<(), E> + Send + 'static,
) -> anyhow::Result<(Drain, thread::JoinHandle<()>)>
where
    M: r2r::WrappedTypesupport + Send + 'static,
    E: std::fmt::Display,
{
    let topic = input.topic().to_owned();
    let mut images = node
        .subscribe::<M>(&topic, SENSOR_QOS)
        .with_context(|| format!("cannot subscribe to {topic} (camera_topics)"))?;
    let newest = Arc::new(Latest::default());
    let drain = {
        let (newest, clock) = (Arc::clone(&newest), clock.clone());
        Box::new(move || {
            if let Some(image) = ready(&mut images).last() {
                newest.put((image, clock.now()));
            }
        })
    };

    let ending = StopOnDrop(stop.clone());
    let decode = move || {
        control::make_almost_as_urgent(real_time);
        while !ending.0.is_set() {
            if let Some((image, received)) = newest.take(PATIENCE) {
                // What is wrong is counted, told below once, and in `/diagnostics`.
                let _ = put(&mut input, &image, received);
                input.news().iter().for_each(|line| tracing::warn!("{line}"));
            }
        }
    };
    let thread = thread::Builder::new().name("camera".into()).spawn(decode);
    Ok((drain, thread.context("cannot start a camera's thread")?))
}

/// Subscribes to the joint states, on all their topics. They are small: read on the spin thread.
pub fn joints(
    node: &mut r2r::Node,
    mut input: JointInput,
    clock: &Clock,
    publishers: Publishers,
) -> anyhow::Result<Drain> {
    let subscribe = |topic: &String| {
        node.subscribe::<sensor::JointState>(topic, SENSOR_QOS)
            .with_context(|| format!("cannot subscribe to {topic} (joint_states_topic)"))
    };
    let mut topics = input.topics().iter().map(subscribe).collect::<anyhow::Result<Vec<_>>>()?;
    let clock = clock.clone();
    let mut dispute = Dispute::default();
    Ok(Box::new(move || {
        for (topic, states) in topics.iter_mut().enumerate() {
            for state in ready(states) {
                let put = input.put_from(topic, &joint_state(&state), clock.now());
                if put.is_err_and(|error| error.is_dispute()) {
                    dispute.note(Instant::now());
                }
                input.news().iter().for_each(|line| tracing::warn!("{line}"));
            }
        }
        if dispute.is_to_be_explained(Instant::now()) {
            let who = publishers.who(input.topics());
            tracing::warn!("joints disagree{who}");
        }
    }))
}

/// Joint states that contradict each other: who publishes them is told once, when the graph knows whoever has just come.
#[derive(Default)]
struct Dispute {
    first: Option<Instant>,
    last: Option<Instant>,
    told: bool,
}

impl Dispute {
    /// The graph is looked at every second.
    const DISCOVERY: Duration = Duration::from_secs(2);
    /// After so long without any, the next one is another.
    const OVER: Duration = Duration::from_secs(10);

    fn note(&mut self, now: Instant) {
        if self.last.is_none_or(|last| now - last > Self::OVER) {
            (self.first, self.told) = (Some(now), false);
        }
        self.last = Some(now);
    }

    fn is_to_be_explained(&mut self, now: Instant) -> bool {
        let due = !self.told && self.first.is_some_and(|first| now - first > Self::DISCOVERY);
        self.told |= due;
        due
    }
}

/// Subscribes to `~/prompt`: another way to set the parameter of that name.
pub fn prompt(node: &mut r2r::Node, parameters: Parameters) -> anyhow::Result<Drain> {
    let mut prompts = node
        .subscribe::<std_msgs::String>("~/prompt", QosProfile::default())
        .context("cannot subscribe to ~/prompt")?;
    Ok(Box::new(move || {
        if let Some(prompt) = ready(&mut prompts).last() {
            match parameters.set_prompt(&prompt.data) {
                Ok(_) => tracing::info!("the task is now: {}", Shown(&prompt.data)),
                Err(error) => tracing::warn!("~/prompt: {error}; the task stays as it was"),
            }
        }
    }))
}

/// Subscribes to `~/task_outcome`: whoever judges how the task goes says it there, and whoever watches the node reads it.
pub fn task_outcome(node: &mut r2r::Node, monitor: Monitor) -> anyhow::Result<Drain> {
    // Longer texts are none that somebody reads at a glance.
    const LONGEST: usize = 500;
    let mut outcomes = node
        .subscribe::<std_msgs::String>("~/task_outcome", QosProfile::default())
        .context("cannot subscribe to ~/task_outcome")?;
    Ok(Box::new(move || {
        if let Some(outcome) = ready(&mut outcomes).last() {
            let text: String = outcome.data.chars().take(LONGEST).collect();
            monitor.metrics().set_task_outcome(&text);
        }
    }))
}

/// Offers `~/enable`, for the session that is there when it is called.
pub fn enable(node: &mut r2r::Node, switch: Switch) -> anyhow::Result<Drain> {
    let mut requests = node
        .create_service::<SetBool::Service>("~/enable", QosProfile::services_default())
        .context("cannot offer the service ~/enable")?;
    Ok(Box::new(move || {
        for request in ready(&mut requests) {
            let on = request.message.data;
            let enable = switch.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let message = match (&enable, on) {
                (None, _) => "the node is not configured: there is nothing to enable or disable",
                (Some(_), true) => "enabled: chunks are sent while the node is active",
                (Some(_), false) => "disabled: no chunk is sent",
            };
            let success = enable.inspect(|enable| enable.set(on)).is_some();
            tracing::info!("~/enable: {message}");
            let response = SetBool::Response { success, message: message.to_owned() };
            if let Err(error) = request.respond(response) {
                tracing::warn!("~/enable: cannot answer: {error}");
            }
        }
    }))
}

/// The messages that are there, oldest first.
pub fn ready<M>(stream: &mut (impl Stream<Item = M> + Unpin)) -> impl Iterator<Item = M> {
    std::iter::from_fn(|| stream.next().now_or_never().flatten())
}

pub fn image(message: &sensor::Image) -> Image<'_> {
    Image {
        stamp: stamp(&message.header),
        height: message.height,
        width: message.width,
        encoding: &message.encoding,
        is_bigendian: message.is_bigendian != 0,
        step: message.step,
        data: &message.data,
    }
}

pub fn compressed_image(message: &sensor::CompressedImage) -> CompressedImage<'_> {
    CompressedImage { stamp: stamp(&message.header), format: &message.format, data: &message.data }
}

pub fn joint_state(message: &sensor::JointState) -> JointState<'_> {
    JointState { stamp: stamp(&message.header), names: &message.name, positions: &message.position }
}

fn stamp(header: &std_msgs::Header) -> Stamp {
    Stamp::from_parts(header.stamp.sec, header.stamp.nanosec)
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;

    use super::*;

    #[test]
    fn a_subscription_is_emptied_without_waiting_for_more() {
        let (mut sender, mut receiver) = mpsc::channel(10);
        for message in 0..3 {
            sender.try_send(message).unwrap();
        }
        assert_eq!(ready(&mut receiver).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(ready(&mut receiver).last(), None);
        sender.try_send(3).unwrap();
        assert_eq!(ready(&mut receiver).last(), Some(3));
    }
}
