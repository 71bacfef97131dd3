//! What outputs send, as messages: a trajectory of an output's joints, and a stream's message, whose size never changes.
//! The node sends these bytes, the recorder writes them, `replay` makes them again.

use std::ops::Range;

use super::cdr::{self, CdrError};
use super::messages::{
    Duration, Float64MultiArray, Header, JointState, JointTrajectory, JointTrajectoryPoint, Time,
};
use crate::control::{Chunk, Motion, Tick};
use crate::observe::messages::Stamp;
use crate::settings::{Interpolation, Output, OutputKind, TrajectoryStamp};

/// The trajectory of `joints` of a chunk that leaves at the start of `motion`; `names` are all the chunk's. On straight
/// lines it has the chunk's points, along a spline the motion's, with velocities.
pub fn trajectory(
    joints: &[usize],
    stamp: TrajectoryStamp,
    names: &[String],
    chunk: &Chunk,
    motion: &Motion,
) -> JointTrajectory {
    let pick = |row: &[f64]| joints.iter().map(|&joint| row[joint]).collect::<Vec<f64>>();
    let now = motion.start();
    let (stamp, zero) = match stamp {
        TrajectoryStamp::Observation => (chunk.observation, chunk.observation),
        TrajectoryStamp::Now => (now, now),
        TrajectoryStamp::Zero => (Stamp(0), now),
    };
    let point = |time: Stamp, positions: &[f64], velocities: Option<&[f64]>| {
        let (sec, nanosec) = Stamp(time.0.saturating_sub(zero.0)).to_parts();
        JointTrajectoryPoint {
            positions: pick(positions),
            velocities: velocities.map(pick).unwrap_or_default(),
            time_from_start: Duration { sec, nanosec },
            ..JointTrajectoryPoint::default()
        }
    };
    // A controller whose clock starts when the message comes is led to its first point; one at its start would be a step.
    let is_led = |time: Stamp| stamp != Stamp(0) || time > now;
    let points = match motion.interpolation() {
        Interpolation::Spline => {
            let knots = motion.knots().filter(|(time, ..)| is_led(*time));
            knots.map(|(time, positions, velocities)| point(time, positions, Some(velocities))).collect()
        }
        Interpolation::Linear if stamp == Stamp(0) => {
            let knots = motion.knots().filter(|(time, ..)| is_led(*time));
            knots.map(|(time, positions, _)| point(time, positions, None)).collect()
        }
        Interpolation::Linear => {
            let points = chunk.points();
            points.map(|(index, positions)| point(chunk.time_of(index), positions, None)).collect()
        }
    };
    JointTrajectory {
        header: Header { stamp: stamp.into(), frame_id: String::new() },
        joint_names: joints.iter().map(|&joint| names[joint].clone()).collect(),
        points,
    }
}

/// A stream's message: encoded once, then only numbers are put into it.
pub struct StreamMessage {
    topic: String,
    type_name: &'static str,
    joints: Vec<usize>,
    bytes: Vec<u8>,
    /// Where the header's stamp is, if there is one.
    stamp: Option<Range<usize>>,
    positions: Range<usize>,
}

impl StreamMessage {
    /// The message of an output that is a stream; `names` are those of all joints. None for one that is none.
    pub fn new(output: &Output, names: &[String]) -> Result<Option<Self>, CdrError> {
        const NUMBER: usize = size_of::<f64>();
        let count = output.joints.len();
        // Behind the positions stand the lengths of two empty lists.
        const NO_VELOCITIES_NO_EFFORTS: usize = 2 * size_of::<u32>();
        let (type_name, bytes, stamp, behind) = match output.kind {
            OutputKind::Trajectory(_) => return Ok(None),
            OutputKind::Positions => {
                let message = Float64MultiArray { data: vec![0.0; count], ..Float64MultiArray::default() };
                (Float64MultiArray::TYPE, cdr::encode(&message)?, None, 0)
            }
            OutputKind::JointState => {
                let message = JointState {
                    name: output.names(names).map(str::to_owned).collect(),
                    position: vec![0.0; count],
                    ..JointState::default()
                };
                let stamp = cdr::HEADER.len()..cdr::HEADER.len() + 2 * size_of::<u32>();
                (JointState::TYPE, cdr::encode(&message)?, Some(stamp), NO_VELOCITIES_NO_EFFORTS)
            }
        };
        let end = bytes.len() - behind;
        let positions = end - NUMBER * count..end;
        let (topic, joints) = (output.topic.clone(), output.joints.clone());
        Ok(Some(Self { topic, type_name, joints, bytes, stamp, positions }))
    }

    /// The messages of all outputs that are streams.
    pub fn all(outputs: &[Output], names: &[String]) -> Result<Vec<Self>, CdrError> {
        outputs.iter().filter_map(|output| Self::new(output, names).transpose()).collect()
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// The encoded message of a tick. Allocates nothing.
    pub fn of(&mut self, tick: &Tick) -> &[u8] {
        if let Some(stamp) = &self.stamp {
            let Time { sec, nanosec } = tick.at.into();
            let (first, second) = self.bytes[stamp.clone()].split_at_mut(size_of::<i32>());
            first.copy_from_slice(&sec.to_le_bytes());
            second.copy_from_slice(&nanosec.to_le_bytes());
        }
        let places = self.bytes[self.positions.clone()].chunks_exact_mut(size_of::<f64>());
        for (place, &joint) in places.zip(&self.joints) {
            place.copy_from_slice(&tick.positions[joint].to_le_bytes());
        }
        &self.bytes
    }
}

/// A topic's name in a recording: below the node's, where it is below the node's own.
pub fn recorded_topic(topic: &str) -> String {
    topic.strip_prefix('~').map_or_else(|| topic.to_owned(), |below| format!("{}{below}", super::NODE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::TickState;

    fn output(kind: OutputKind) -> Output {
        Output { name: "arm".into(), topic: "~/arm".into(), kind, joints: vec![2, 0] }
    }

    fn names() -> Vec<String> {
        ["waist", "elbow", "wrist"].map(str::to_owned).into()
    }

    const TICK: Tick = Tick {
        at: Stamp(5_000_000_007),
        sequence: 3,
        state: TickState::Following,
        positions: &[0.1, 0.2, 0.3],
    };

    #[test]
    fn numbers_put_in_place_are_the_message() {
        for kind in [OutputKind::Positions, OutputKind::JointState] {
            let output = output(kind);
            let mut message = StreamMessage::new(&output, &names()).unwrap().unwrap();
            let bytes = message.of(&TICK).to_vec();
            let expected = match kind {
                OutputKind::Positions => {
                    cdr::encode(&Float64MultiArray { data: vec![0.3, 0.1], ..Float64MultiArray::default() })
                }
                _ => cdr::encode(&JointState {
                    header: Header { stamp: TICK.at.into(), frame_id: String::new() },
                    name: vec!["wrist".into(), "waist".into()],
                    position: vec![0.3, 0.1],
                    ..JointState::default()
                }),
            };
            assert_eq!(bytes, expected.unwrap());
        }
        let trajectory = output(OutputKind::Trajectory(TrajectoryStamp::Now));
        assert!(StreamMessage::new(&trajectory, &names()).unwrap().is_none());
    }

    #[test]
    fn topics_below_the_node_are_recorded_below_its_usual_name() {
        assert_eq!(recorded_topic("~/arm"), "/pi0_node/arm");
        assert_eq!(recorded_topic("/arm"), "/arm");
    }
}
