//! The outputs: which joints go to which topic, as what. Read by `read`; `control`, `bag` and `node` send by it.

use std::collections::BTreeSet;

use super::Settings;
use super::robot::{check_topic, not_unique};
use super::value::{Problem, Values, problem};
use crate::wording::Shown;

/// One controller or driver that moves some of the joints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The user's name for it.
    pub name: String,
    pub topic: String,
    pub kind: OutputKind,
    /// Its joints in its order, as numbers in [`super::Settings::joints`].
    pub joints: Vec<usize>,
}

/// What an output sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// `trajectory_msgs/JointTrajectory`: each chunk.
    Trajectory(TrajectoryStamp),
    /// `std_msgs/Float64MultiArray`: the positions of this moment, again and again.
    Positions,
    /// `sensor_msgs/JointState`: the same with names and a stamp.
    JointState,
}

/// What a trajectory's header stamp is, from which the times of its points count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrajectoryStamp {
    /// The observation's.
    #[default]
    Observation,
    /// The moment at which it is sent.
    Now,
    /// None: controllers take it as the moment at which it comes.
    Zero,
}

impl Output {
    /// Whether it is sent at `stream_hz` rather than with every chunk.
    pub fn is_stream(&self) -> bool {
        !matches!(self.kind, OutputKind::Trajectory(_))
    }

    /// Its joints' names, of all `joints`.
    pub fn names<'a>(&'a self, joints: &'a [String]) -> impl Iterator<Item = &'a str> {
        self.joints.iter().map(|&joint| joints[joint].as_str())
    }
}

impl OutputKind {
    /// As the parameter `output_types` has it.
    pub fn name(self) -> &'static str {
        match self {
            OutputKind::Trajectory(_) => "trajectory",
            OutputKind::Positions => "positions",
            OutputKind::JointState => "joint_state",
        }
    }
}

impl TrajectoryStamp {
    /// As the parameter `output_stamps` has it.
    pub fn name(self) -> &'static str {
        match self {
            TrajectoryStamp::Observation => "observation",
            TrajectoryStamp::Now => "now",
            TrajectoryStamp::Zero => "zero",
        }
    }
}

impl Settings {
    /// Joints that no output takes, if there are outputs.
    pub fn joints_without_output(&self) -> Vec<&str> {
        let taken = |joint: &usize| self.outputs.iter().any(|output| output.joints.contains(joint));
        let missing = (0..self.joints.len()).filter(|joint| !self.outputs.is_empty() && !taken(joint));
        missing.map(|joint| self.joints[joint].as_str()).collect()
    }
}

impl Values {
    pub(super) fn outputs(&self, problems: &mut Vec<Problem>) -> Vec<Output> {
        let names = self.texts("outputs");
        problems.extend(not_unique("outputs", &names));
        let mut list = |parameter: &str, default: &str| {
            let list = self.texts(parameter);
            // Topics have no default.
            if list.is_empty() && parameter != "output_topics" {
                return vec![default.to_owned(); names.len()];
            }
            if list.len() != names.len() {
                let message = format!(
                    "must have one entry for each of the {} outputs ({}), but has {}",
                    names.len(),
                    names.join(", "),
                    list.len()
                );
                problems.push(problem(parameter, message));
            }
            list
        };
        let (topics, types) = (list("output_topics", ""), list("output_types", "trajectory"));
        let (joints, stamps) = (list("output_joints", ""), list("output_stamps", "observation"));
        self.check_topics(&topics, problems);
        let entries = names.iter().zip(topics).zip(types).zip(joints).zip(stamps);
        entries
            .map(|((((name, topic), kind), joints), stamp)| Output {
                name: name.clone(),
                topic,
                kind: match kind.as_str() {
                    "positions" => OutputKind::Positions,
                    "joint_state" => OutputKind::JointState,
                    _ => OutputKind::Trajectory(match stamp.as_str() {
                        "now" => TrajectoryStamp::Now,
                        "zero" => TrajectoryStamp::Zero,
                        _ => TrajectoryStamp::Observation,
                    }),
                },
                joints: self.joints_of(name, &joints, problems),
            })
            .collect()
    }

    /// What is sent on a topic that the node reads would come back to it.
    fn check_topics(&self, topics: &[String], problems: &mut Vec<Problem>) {
        problems.extend(not_unique("output_topics", topics));
        for topic in topics {
            if let Err(message) = check_topic(topic) {
                problems.push(problem("output_topics", message));
            }
        }
        let own = |topic: &&String| {
            let names = ["action_chunk", "prompt", "enable", "status"];
            let is_own =
                |name| ["~", "/pi0_node"].into_iter().any(|node| **topic == format!("{node}/{name}"));
            names.into_iter().any(is_own)
                || ["/diagnostics", "/rosout", "/parameter_events", "/clock", "/tf"].contains(&topic.as_str())
        };
        if let Some(topic) = topics.iter().find(own) {
            problems.push(problem("output_topics", format!("'{topic}' is for something else already")));
        }
        let read = [self.texts("joint_states_topic"), self.texts("camera_topics")].concat();
        if let Some(topic) = topics.iter().find(|topic| read.contains(topic)) {
            problems.push(problem("output_topics", format!("the node itself reads '{topic}'")));
        }
    }

    /// The joints that `listed` names; all where it names none.
    fn joints_of(&self, output: &str, listed: &str, problems: &mut Vec<Problem>) -> Vec<usize> {
        let known = self.texts("joints");
        if listed.trim().is_empty() {
            return (0..known.len()).collect();
        }
        let (mut seen, mut joints) = (BTreeSet::new(), Vec::new());
        for name in listed.split_whitespace() {
            let message = match known.iter().position(|joint| joint == name) {
                Some(joint) if seen.insert(joint) => {
                    joints.push(joint);
                    continue;
                }
                Some(_) => format!("'{}' stands more than once in output '{}'", Shown(name), Shown(output)),
                None => format!(
                    "output '{}' has '{}', which is none of the parameter joints; names are parted by spaces",
                    Shown(output),
                    Shown(name)
                ),
            };
            problems.push(problem("output_joints", message));
        }
        joints
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Value;
    use super::*;

    fn texts(texts: &[&str]) -> Value {
        Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn read(changes: &[(&str, Value)]) -> Result<Vec<Output>, String> {
        let mut values = BTreeMap::from([
            ("checkpoint".to_owned(), Value::Text("model".into())),
            ("cameras".to_owned(), texts(&["base_0_rgb"])),
            ("camera_topics".to_owned(), texts(&["/top"])),
            ("joints".to_owned(), texts(&["waist", "elbow", "gripper"])),
        ]);
        values.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let settings = Settings::from_values(&values).map_err(|error| error.to_string())?;
        Ok(settings.outputs)
    }

    #[test]
    fn each_output_has_its_joints_in_its_own_order() {
        let outputs = read(&[
            ("outputs", texts(&["arm", "gripper", "all"])),
            ("output_topics", texts(&["/arm/joint_trajectory", "/gripper/commands", "~/command"])),
            ("output_types", texts(&["trajectory", "positions", "joint_state"])),
            ("output_joints", texts(&["elbow  waist", "gripper", ""])),
            ("output_stamps", texts(&["zero", "observation", "observation"])),
        ])
        .unwrap();
        assert_eq!(outputs[0].joints, [1, 0]);
        assert_eq!(outputs[0].kind, OutputKind::Trajectory(TrajectoryStamp::Zero));
        assert_eq!((outputs[1].kind, &outputs[1].joints[..]), (OutputKind::Positions, &[2][..]));
        assert_eq!((outputs[2].kind, &outputs[2].joints[..]), (OutputKind::JointState, &[0, 1, 2][..]));
        assert_eq!(outputs.iter().map(Output::is_stream).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn topics_alone_are_trajectories_of_all_joints() {
        let outputs = read(&[("outputs", texts(&["arm"])), ("output_topics", texts(&["/arm"]))]).unwrap();
        assert_eq!(outputs[0].kind, OutputKind::Trajectory(TrajectoryStamp::Observation));
        assert_eq!(outputs[0].joints, [0, 1, 2]);
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    #[test]
    fn what_cannot_be_sent_is_said() {
        for (changes, expected) in [
            (
                &[("outputs", texts(&["arm"]))][..],
                "output_topics: must have one entry for each of the 1 outputs (arm)",
            ),
            (
                &[("outputs", texts(&["a", "b"])), ("output_topics", texts(&["/a", "/a"]))],
                "output_topics: '/a' stands there more than once",
            ),
            (
                &[("outputs", texts(&["a"])), ("output_topics", texts(&["/joint_states"]))],
                "output_topics: the node itself reads '/joint_states'",
            ),
            (
                &[("outputs", texts(&["a"])), ("output_topics", texts(&["a b"]))],
                "output_topics: 'a b' is not a topic name",
            ),
            (
                &[
                    ("outputs", texts(&["a"])),
                    ("output_topics", texts(&["/a"])),
                    ("output_joints", texts(&["waist,elbow"])),
                ],
                "output_joints: output 'a' has 'waist,elbow', which is none of the parameter joints",
            ),
            (
                &[
                    ("outputs", texts(&["a"])),
                    ("output_topics", texts(&["/a"])),
                    ("output_joints", texts(&["waist waist"])),
                ],
                "output_joints: 'waist' stands more than once in output 'a'",
            ),
            (
                &[("output_types", texts(&["positions"]))],
                "output_types: must have one entry for each of the 0 outputs (), but has 1",
            ),
        ] {
            let message = read(changes).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
