//! Whether anybody listens to the outputs. Called by `check`: a publisher of the output's type that nobody matches has no
//! controller, or one of another name or type.

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use r2r::qos::QosProfile;

use crate::bag::messages::{Float64MultiArray, JointState, JointTrajectory};
use crate::check::Verdict;
use crate::settings::{OutputKind, Settings};

/// The outputs, and who listens to each.
pub struct Listeners(Vec<Listener>);

struct Listener {
    name: String,
    topic: String,
    type_name: &'static str,
    /// Waits for the first that listens; none once there was one.
    waiting: Option<BoxFuture<'static, bool>>,
    /// Its end takes the topic off the graph.
    _publisher: r2r::PublisherUntyped,
}

impl Listeners {
    /// Publishers as the node will have them, which publish nothing.
    pub fn new(node: &mut r2r::Node, settings: &Settings) -> anyhow::Result<Self> {
        let mut listeners = Vec::new();
        for output in &settings.outputs {
            let type_name = match output.kind {
                OutputKind::Trajectory(_) => JointTrajectory::TYPE,
                OutputKind::Positions => Float64MultiArray::TYPE,
                OutputKind::JointState => JointState::TYPE,
            };
            let cannot = || format!("cannot publish {}", output.topic);
            let publisher = node
                .create_publisher_untyped(&output.topic, type_name, QosProfile::default())
                .with_context(cannot)?;
            let first = publisher.wait_for_inter_process_subscribers().with_context(cannot)?;
            listeners.push(Listener {
                name: output.name.clone(),
                topic: output.topic.clone(),
                type_name,
                waiting: Some(first.map(|found| found.is_ok()).boxed()),
                _publisher: publisher,
            });
        }
        Ok(Self(listeners))
    }

    /// To be called between spins.
    pub fn look(&mut self) {
        for listener in &mut self.0 {
            let found = listener.waiting.as_mut().and_then(|waiting| waiting.now_or_never());
            if found == Some(true) {
                listener.waiting = None;
            }
        }
    }

    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        self.0.iter().map(|listener| {
            let Listener { name, topic, type_name, waiting, .. } = listener;
            let subject = format!("output {name}");
            match waiting {
                None => Verdict::ok(&subject, format!("somebody listens to {topic}")),
                Some(_) => Verdict::warning(
                    &subject,
                    format!(
                        "nobody listens to {topic} as {type_name}: is the controller loaded and active, and of this type?"
                    ),
                ),
            }
        })
    }
}
