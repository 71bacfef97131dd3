//! How smoothly joints move by what is sent, with and without `interpolation: spline`: the known policy's chunks, replaced every
//! 100 ms, executed as ros2_control's joint_trajectory_controller does: straight lines between positions alone, cubics between
//! positions with velocities. Prints what docs/ros2.md has:
//!
//!     cargo test --test smoothness -- --nocapture

#[path = "support/known_policy.rs"]
mod known_policy;

use std::path::Path;

use known_policy::{JOINTS, Known, is_gripper};
use pi0_node::bag::commands::trajectory;
use pi0_node::bag::messages::JointTrajectory;
use pi0_node::control::{Outcome, assemble};
use pi0_node::device::Silent;
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::settings::{
    ChunkJoin, Interpolation, NODE_NAME, Settings, TrajectoryStamp, Value, read_parameters,
};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aloha.yaml");
/// A chunk leaves every five points.
const EVERY_NS: i64 = 100_000_000;
/// The controller's update, 1 kHz.
const UPDATE_NS: i64 = 1_000_000;
const CHUNKS: i64 = 12;

fn settings(checkpoint: &Path, interpolation: Interpolation) -> Settings {
    let mut values = read_parameters(Path::new(CONFIG), NODE_NAME).unwrap();
    for (name, value) in [
        ("checkpoint", Value::Text(checkpoint.display().to_string())),
        ("dtype", Value::Text("f32".into())),
        ("camera_transports", Value::Texts(vec!["raw".into(); 3])),
    ] {
        values.insert(name.into(), value);
    }
    let mut settings = Settings::from_values(&values).unwrap();
    (settings.interpolation, settings.chunk_join) = (interpolation, ChunkJoin::Blend { blend_ms: 100.0 });
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

/// The largest step of velocity, acceleration and jerk of any joint of the arms, by differences from update to update.
#[derive(Debug, Default)]
struct Roughness {
    velocity_step: f64,
    acceleration: f64,
    jerk: f64,
    speed: f64,
}

fn roughness(interpolation: Interpolation) -> Roughness {
    // Points go back and forth, as a policy's do, and each chunk leads elsewhere from the fourth point on.
    let delta =
        std::array::from_fn(|joint| if is_gripper(joint) { 0.0 } else { 0.02 + 0.002 * joint as f64 });
    let known = Known { delta, step_at: 3, masked: [false; JOINTS] };
    let folder = tempfile::tempdir().unwrap();
    known.write(folder.path());
    let settings = settings(folder.path(), interpolation);
    let mut wiring = assemble(&settings, &Silent).unwrap();
    let all: Vec<usize> = (0..JOINTS).collect();
    let home: Vec<f64> = (0..JOINTS).map(|joint| 0.05 * joint as f64 - 0.3).collect();
    let start = 1_000_000_000;
    let mut controller = Controller { knots: vec![(start, home, vec![0.0; JOINTS])] };
    let mut positions: Vec<Vec<f64>> = Vec::new();
    for now in (start..start + CHUNKS * EVERY_NS).step_by(UPDATE_NS as usize) {
        if (now - start) % EVERY_NS == 0 {
            // The camera's picture is 30 ms old when its chunk leaves.
            let (observed, sent) = (Stamp(now - 30_000_000), Stamp(now));
            let measured = controller.at(now - 30_000_000);
            let state = JointState { stamp: observed, names: &settings.joints, positions: &measured };
            wiring.joints.put(&state, observed).unwrap();
            let pixels = [90; 24 * 32 * 3];
            for camera in &mut wiring.cameras {
                let image = Image::rgb8(observed, (24, 32), &pixels);
                camera.put_image(&image, observed).unwrap();
            }
            assert_eq!(wiring.cycle.step(observed), Outcome::Chunk);
            let chunk = wiring.chunks.try_recv(sent).unwrap();
            let names = &settings.joints;
            let message =
                trajectory(&all, TrajectoryStamp::Observation, names, &chunk, wiring.chunks.motion());
            controller.take(&message, now);
        }
        positions.push(controller.at(now));
    }
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
    Roughness {
        speed: arms(&velocities),
        velocity_step: arms(&accelerations) * seconds,
        acceleration: arms(&accelerations),
        jerk: arms(&differences(&accelerations)),
    }
}

#[test]
fn a_spline_moves_joints_without_the_steps_of_velocity_that_straight_lines_have() {
    let (linear, spline) = (roughness(Interpolation::Linear), roughness(Interpolation::Spline));
    println!("largest of any arm joint      straight lines          spline");
    for (name, linear, spline) in [
        ("velocity (rad/s)", linear.speed, spline.speed),
        ("step of velocity (rad/s)", linear.velocity_step, spline.velocity_step),
        ("acceleration (rad/s^2)", linear.acceleration, spline.acceleration),
        ("jerk (rad/s^3)", linear.jerk, spline.jerk),
    ] {
        println!("{name:<26} {linear:>17.3} {spline:>15.3}");
    }
    // By how much depends on the policy's points; that a line's corners are gone does not.
    assert!(linear.velocity_step > 0.1, "{linear:?}");
    assert!(spline.velocity_step < linear.velocity_step / 4.0, "{spline:?} beside {linear:?}");
    assert!(spline.jerk < linear.jerk / 4.0, "{spline:?} beside {linear:?}");
}
