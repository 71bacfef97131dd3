//! Who publishes the topics that the node listens to: when a camera stays silent, the reason is most often a wrong
//! name or type, and only ROS 2's graph knows it. Written by the spin thread, read for `/diagnostics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::names::Names;
use crate::bag::messages::{CompressedImage, Image, JointState};
use crate::settings::{Settings, Transport};

/// Who publishes each topic.
#[derive(Clone, Debug, Default)]
pub struct Publishers(Arc<Mutex<BTreeMap<String, Vec<Publisher>>>>);

/// One of those who publish a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// With its namespace.
    pub node: String,
    /// Such as `sensor_msgs/msg/Image`.
    pub type_name: String,
}

impl Publishers {
    /// Why nothing comes on a topic, as far as the graph knows.
    pub fn explain(&self, topic: &str, expected: &str) -> String {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match found.get(topic).map(Vec::as_slice) {
            None | Some([]) => format!("nobody publishes {topic}"),
            Some(found) => match found.iter().find(|found| found.type_name != expected) {
                Some(Publisher { type_name, .. }) => {
                    format!("{topic} is published as {type_name}, but {expected} is expected")
                }
                None => format!(
                    "{topic} is published, but nothing arrives: is its publisher running, on this domain?"
                ),
            },
        }
    }

    /// Who publishes these topics, as the end of a message: "; /joint_states is published by /driver, /gui".
    pub fn who(&self, topics: &[String]) -> String {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let who = |topic: &String| {
            let nodes: Vec<&str> =
                found.get(topic)?.iter().map(|publisher| publisher.node.as_str()).collect();
            (!nodes.is_empty()).then(|| format!("; {topic} is published by {}", nodes.join(", ")))
        };
        topics.iter().filter_map(who).collect()
    }

    fn set(&self, topic: &str, publishers: Vec<Publisher>) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(topic.to_owned(), publishers);
    }
}

/// What the joint states feed.
pub const JOINTS: &str = "joints";

/// A topic that must be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What it feeds: `camera base_0_rgb`, `joints`.
    pub part: String,
    pub topic: String,
    /// Such as `sensor_msgs/msg/Image`.
    pub type_name: &'static str,
}

/// The topics that must be published: cameras in the order of the settings, then those of the joint states.
pub fn expected_topics(settings: &Settings) -> Vec<Expected> {
    let cameras = settings.cameras.iter().filter_map(|camera| {
        Some(Expected {
            part: format!("camera {}", camera.name),
            topic: camera.topic.clone()?,
            type_name: match camera.transport {
                Transport::Raw => Image::TYPE,
                Transport::Compressed => CompressedImage::TYPE,
            },
        })
    });
    let joints = settings.joint_states_topics.iter().map(|topic| Expected {
        part: JOINTS.to_owned(),
        topic: topic.clone(),
        type_name: JointState::TYPE,
    });
    cameras.chain(joints).collect()
}

/// Looks at the graph now and then.
pub struct GraphWatch {
    /// As in the settings, and as the graph has them.
    topics: Vec<(String, String)>,
    publishers: Publishers,
    next: Instant,
}

impl GraphWatch {
    const INTERVAL: Duration = Duration::from_secs(1);

    pub fn new(settings: &Settings, names: &Names, publishers: Publishers) -> Self {
        let resolved = |Expected { topic, .. }: Expected| (topic.clone(), names.resolve(&topic));
        let topics = expected_topics(settings).into_iter().map(resolved).collect();
        Self { topics, publishers, next: Instant::now() }
    }

    /// Looks if it is time to.
    pub fn look(&mut self, node: &r2r::Node) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + Self::INTERVAL;
        for (topic, resolved) in &self.topics {
            // The graph is for explanations only; without it, they say less.
            if let Ok(found) = node.get_publishers_info_by_topic(resolved, false) {
                let publishers = found.into_iter().map(|publisher| Publisher {
                    node: format!(
                        "{}/{}",
                        publisher.node_namespace.trim_end_matches('/'),
                        publisher.node_name
                    ),
                    type_name: publisher.topic_type,
                });
                self.publishers.set(topic, publishers.collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_topic_is_explained_by_who_publishes_it() {
        let publishers = Publishers::default();
        let explain = || publishers.explain("/top/image_raw", Image::TYPE);
        assert_eq!(explain(), "nobody publishes /top/image_raw");

        let publisher =
            |node: &str, type_name: &str| Publisher { node: node.into(), type_name: type_name.into() };
        publishers.set("/top/image_raw", vec![publisher("/driver", "sensor_msgs/msg/CompressedImage")]);
        assert_eq!(
            explain(),
            "/top/image_raw is published as sensor_msgs/msg/CompressedImage, but sensor_msgs/msg/Image is expected"
        );

        publishers.set(
            "/top/image_raw",
            vec![publisher("/driver", Image::TYPE), publisher("/arm/gui", Image::TYPE)],
        );
        assert!(explain().contains("is published, but nothing arrives"));
        let who = publishers.who(&["/top/image_raw".to_owned(), "/none".to_owned()]);
        assert_eq!(who, "; /top/image_raw is published by /driver, /arm/gui");
    }
}
