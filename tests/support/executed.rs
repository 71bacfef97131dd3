//! Chunks as a robot executes them: the known policy moves joints that follow every trajectory as ros2_control's
//! joint_trajectory_controller does, straight lines between positions alone, cubics between positions with velocities. Used by the
//! tests that measure how smooth that is.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::path::Path;

use pi0_node::bag::commands::trajectory;
use pi0_node::bag::messages::JointTrajectory;
use pi0_node::control::{Outcome, assemble};
use pi0_node::device::Silent;
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::settings::{
    ChunkJoin, Interpolation, NODE_NAME, Settings, TrajectoryStamp, Value, read_parameters,
};

use super::known_policy::{JOINTS, Known, is_gripper};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aloha.yaml");
/// The controller's update, 1 kHz.
pub const UPDATE_NS: i64 = 1_000_000;
const CHUNKS: i64 = 12;

fn settings(checkpoint: &Path, interpolation: Interpolation, join: ChunkJoin) -> Settings {
    let mut values = read_parameters(Path::new(CONFIG), NODE_NAME).unwrap();
    for (name, value) in [
        ("checkpoint", Value::Text(checkpoint.display().to_string())),
        ("dtype", Value::Text("f32".into())),
        ("camera_transports", Value::Texts(vec!["raw".into(); 3])),
    ] {
        values.insert(name.into(), value);
    }
    let mut settings = Settings::from_values(&values).unwrap();
    (settings.interpolation, settings.chunk_join) = (interpolation, join);
    settings
}

/// What the controller executes: knots of time, positions and, if it has them, velocities, which replace each other.
struct Controller {
    knots: Vec<(i64, Vec<f64>, Vec<f64>)>,
}

impl Controller {
    /// A new message, whose past points are dropped; what came before leads up to the first that is not.
    fn take(&mut self, message: &JointTrajectory, now: i64) {
        let stamp = Stamp::from(message.header.stamp).0;
        let came = (now, self.at(now), self.velocity(now));
        let times = message.points.iter().map(|point| {
            let after = &point.time_from_start;
            let time = stamp + i64::from(after.sec) * 1_000_000_000 + i64::from(after.nanosec);
            (time, point.positions.clone(), point.velocities.clone())
        });
        let mut knots: Vec<_> = times.collect();
        if knots[0].0 > now {
            let velocities = if knots[0].2.is_empty() { Vec::new() } else { came.2 };
            knots.insert(0, (now, came.1, velocities));
        }
        self.knots = knots;
    }

    fn segment(&self, time: i64) -> Option<usize> {
        let after = self.knots.partition_point(|knot| knot.0 <= time);
        (after > 0 && after < self.knots.len()).then(|| after - 1)
    }

    fn at(&self, time: i64) -> Vec<f64> {
        let Some(start) = self.segment(time) else {
            let last = if time < self.knots[0].0 { self.knots.first() } else { self.knots.last() };
            return last.unwrap().1.clone();
        };
        let (from, to) = (&self.knots[start], &self.knots[start + 1]);
        let duration = (to.0 - from.0) as f64 / 1e9;
        let s = (time - from.0) as f64 / 1e9 / duration;
        (0..JOINTS)
            .map(|joint| {
                let (p0, p1) = (from.1[joint], to.1[joint]);
                if from.2.is_empty() {
                    return p0 + s * (p1 - p0);
                }
                let (v0, v1) = (from.2[joint] * duration, to.2[joint] * duration);
                let (square, cube) = (3.0 * (p1 - p0) - 2.0 * v0 - v1, 2.0 * (p0 - p1) + v0 + v1);
                p0 + s * (v0 + s * (square + s * cube))
            })
            .collect()
    }

    fn velocity(&self, time: i64) -> Vec<f64> {
        let (before, after) = (self.at(time - 1000), self.at(time));
        before.iter().zip(after).map(|(before, after)| (after - before) / 1e-6).collect()
    }
}

/// What joints did.
#[derive(Default)]
pub struct Executed {
    /// At every update, of the arms' joints, the largest: steps of velocity, acceleration and jerk by differences.
    pub speed: f64,
    pub velocity_step: f64,
    pub acceleration: f64,
    pub jerk: f64,
    /// The largest distance of a chunk's first point, as it left, from where the joints were to be then by what was sent before.
    pub jump: f64,
    /// Chunks that continued what was sent.
    pub led: u64,
    /// By update: where the first joint was.
    pub first_joint: Vec<f64>,
}

/// A chunk every `every_ms`, of an observation that is `latency_ms` old when it leaves. From point `step_at` on each chunk leads 20 to
/// 46 mrad away from where its observation found the joints.
pub fn execute(
    interpolation: Interpolation,
    join: ChunkJoin,
    (every_ms, latency_ms): (i64, i64),
    step_at: usize,
) -> Executed {
    let delta =
        std::array::from_fn(|joint| if is_gripper(joint) { 0.0 } else { 0.02 + 0.002 * joint as f64 });
    let known = Known { delta, step_at, masked: [false; JOINTS] };
    let folder = tempfile::tempdir().unwrap();
    known.write(folder.path());
    let settings = settings(folder.path(), interpolation, join);
    let mut wiring = assemble(&settings, &Silent).unwrap();
    let all: Vec<usize> = (0..JOINTS).collect();
    let home: Vec<f64> = (0..JOINTS).map(|joint| 0.05 * joint as f64 - 0.3).collect();
    let start = 1_000_000_000;
    let (every, latency) = (every_ms * 1_000_000, latency_ms * 1_000_000);
    let mut controller = Controller { knots: vec![(start - latency, home, vec![0.0; JOINTS])] };
    let mut positions: Vec<Vec<f64>> = Vec::new();
    let mut executed = Executed::default();
    let mut observed_at = controller.knots[0].1.clone();
    for now in (start - latency..start + CHUNKS * every).step_by(UPDATE_NS as usize) {
        // What the loop looks at when it begins.
        if (now + latency - start) % every == 0 {
            observed_at = controller.at(now);
        }
        if now >= start && (now - start) % every == 0 {
            let (observed, sent) = (Stamp(now - latency), Stamp(now));
            let state = JointState { stamp: observed, names: &settings.joints, positions: &observed_at };
            wiring.joints.put(&state, observed).unwrap();
            let pixels = [90; 24 * 32 * 3];
            for camera in &mut wiring.cameras {
                let image = Image::rgb8(observed, (24, 32), &pixels);
                camera.put_image(&image, observed).unwrap();
            }
            assert_eq!(wiring.cycle.step(observed), Outcome::Chunk);
            let before = wiring.chunks.motion().clone();
            let chunk = wiring.chunks.try_recv(sent).unwrap();
            let names = &settings.joints;
            let message =
                trajectory(&all, TrajectoryStamp::Observation, names, &chunk, wiring.chunks.motion());
            controller.take(&message, now);
            // The first two: nothing is known of the delay yet.
            if now >= start + 2 * every {
                let (point, row) = chunk.points().next().unwrap();
                let was = |joint| before.position_at(joint, chunk.time_of(point));
                let jumps = (0..JOINTS)
                    .filter(|&joint| !is_gripper(joint))
                    .map(|joint| (row[joint] - was(joint)).abs());
                executed.jump = jumps.fold(executed.jump, f64::max);
            }
        }
        if now >= start + 2 * every - UPDATE_NS {
            positions.push(controller.at(now));
        }
    }
    executed.led = wiring.monitor.snapshot().joins.led;
    let seconds = UPDATE_NS as f64 / 1e9;
    let differences = |list: &[Vec<f64>]| -> Vec<Vec<f64>> {
        let difference = |pair: &[Vec<f64>]| {
            pair[1].iter().zip(&pair[0]).map(|(after, before)| (after - before) / seconds).collect()
        };
        list.windows(2).map(difference).collect()
    };
    let arms = |list: &[Vec<f64>]| {
        let rows = list.iter().flat_map(|row| row.iter().enumerate());
        rows.filter(|(joint, _)| !is_gripper(*joint)).map(|(_, value)| value.abs()).fold(0.0, f64::max)
    };
    let velocities = differences(&positions);
    let accelerations = differences(&velocities);
    Executed {
        speed: arms(&velocities),
        velocity_step: arms(&accelerations) * seconds,
        acceleration: arms(&accelerations),
        jerk: arms(&differences(&accelerations)),
        first_joint: positions.iter().map(|row| row[0]).collect(),
        ..executed
    }
}
