//! Which topic of a bag goes where, and its messages into the loop's inputs as the node would put them. Called by `replay`
//! and `follow`.

use std::fmt::Display;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use crate::bag::messages::{CompressedImage, Header, Image, JointState, Text};
use crate::bag::parameters::ParameterEvent;
use crate::bag::{Bag, CdrError, Message, PARAMETER_TOPIC, PROMPT_TOPIC, cdr};
use crate::control::{Arrival, Wiring};
use crate::observe::messages::Stamp;
use crate::settings::{Settings, StampSource, Transport};

/// Where a topic's messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// Number among the cameras that have a topic.
    Camera(usize, Transport),
    /// Number of the topic among those of the joint states.
    Joints(usize),
    Prompt,
    Parameters,
}

/// The target of every topic of the bag, by its number there.
pub(super) struct Topics {
    names: Vec<String>,
    targets: Vec<Option<Target>>,
    /// By camera with a topic: whether its images count as taken when they arrive.
    by_arrival: Vec<bool>,
}

impl Topics {
    /// Finds every configured topic in the bag; one that is missing or of another type is an error.
    pub(super) fn find(bag: &Bag, settings: &Settings) -> anyhow::Result<Self> {
        let cameras =
            settings.cameras.iter().filter_map(|camera| Some((camera.topic.as_ref()?, camera.transport)));
        let mut wanted: Vec<(String, &str, Target, bool)> = cameras
            .enumerate()
            .map(|(index, (topic, transport))| {
                let type_name = match transport {
                    Transport::Raw => Image::TYPE,
                    Transport::Compressed => CompressedImage::TYPE,
                };
                (topic.clone(), type_name, Target::Camera(index, transport), true)
            })
            .collect();
        let joints = settings.joint_states_topics.iter().enumerate();
        wanted.extend(
            joints.map(|(index, topic)| (topic.clone(), JointState::TYPE, Target::Joints(index), true)),
        );
        wanted.push((PROMPT_TOPIC.to_owned(), Text::TYPE, Target::Prompt, false));
        wanted.push((PARAMETER_TOPIC.to_owned(), ParameterEvent::TYPE, Target::Parameters, false));

        let mut targets = vec![None; bag.topics().len()];
        let mut problems = Vec::new();
        for (name, type_name, target, required) in &wanted {
            let found = bag.topics().iter().position(|topic| topic.name == *name && topic.count > 0);
            match found.map(|index| (index, &bag.topics()[index].type_name)) {
                Some((index, found)) if found == type_name => targets[index] = Some(*target),
                Some((_, found)) => {
                    problems.push(format!("{name} is {found}, but the configuration says {type_name}"))
                }
                None if *required => problems.push(format!("there are no messages on {name}")),
                None => {}
            }
        }
        if !problems.is_empty() {
            bail!(
                "the bag does not fit the configuration:\n  {}\nit has{}",
                problems.join("\n  "),
                bag.describe()
            );
        }
        let with_topic = settings.cameras.iter().filter(|camera| camera.topic.is_some());
        let by_arrival = with_topic.map(|camera| camera.stamps == StampSource::Arrival).collect();
        Ok(Self { names: wanted.into_iter().map(|(name, ..)| name).collect(), targets, by_arrival })
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// Where a message goes; nowhere if nobody asked for its topic.
    pub(super) fn target(&self, message: &Message) -> Option<Target> {
        self.targets[message.topic]
    }

    /// By what a cycle knows an image; none for what is damaged or no image.
    pub(super) fn key(&self, message: &Message) -> Option<(Target, Arrival)> {
        let target = self.target(message)?;
        let Target::Camera(camera, _) = target else { return None };
        let header: Header = cdr::decode(&message.data).ok()?;
        let received = message.log_time;
        let stamp = if self.by_arrival[camera] { received } else { header.stamp.into() };
        Some((target, Arrival { stamp, received }))
    }

    /// Puts a message in as the node would.
    pub(super) fn put(&self, message: &Message, wiring: &mut Wiring) -> anyhow::Result<()> {
        let Some(target) = self.target(message) else { return Ok(()) };
        let mut put = || -> anyhow::Result<()> {
            match target {
                Target::Camera(index, Transport::Raw) => {
                    let image: Image = self.decode(message, wiring)?;
                    wiring.cameras[index].put_image(&image.view(), message.log_time)?;
                }
                Target::Camera(index, Transport::Compressed) => {
                    let image: CompressedImage = self.decode(message, wiring)?;
                    wiring.cameras[index].put_compressed(&image.view(), message.log_time)?;
                }
                Target::Joints(topic) => {
                    let joints: JointState = self.decode(message, wiring)?;
                    wiring.joints.put_from(topic, &joints.view(), message.log_time)?;
                }
                Target::Prompt => {
                    let prompt: Text = self.decode(message, wiring)?;
                    wiring.prompt.put(&prompt.data)?;
                }
                // No input, but what the whole loop runs by: the player's affair.
                Target::Parameters => {}
            }
            Ok(())
        };
        put().with_context(|| format!("message of {target:?} logged at {}", message.log_time))
    }

    pub(super) fn decode<T: DeserializeOwned>(
        &self,
        message: &Message,
        wiring: &Wiring,
    ) -> Result<T, CdrError> {
        cdr::decode(&message.data)
            .inspect_err(|error| self.refuse(message.topic, error, message.log_time, wiring))
    }

    /// Counts a message that does not even get as far as its input.
    pub(super) fn refuse(&self, topic: usize, error: &dyn Display, at: Stamp, wiring: &Wiring) {
        match self.targets[topic] {
            Some(Target::Camera(index, _)) => wiring.cameras[index].refuse(error, at),
            Some(Target::Joints(_)) => wiring.joints.refuse(error, at),
            Some(Target::Prompt) => wiring.prompt.refuse(error),
            Some(Target::Parameters) | None => {}
        }
    }
}
