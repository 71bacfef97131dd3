//! The loop closed in memory: a policy whose actions are known moves a robot that is at once where it is told to be. Cameras
//! and joints go in, chunks come out and are followed in absolute time; neither ROS nor a simulator is needed.
//!
//! tests/closed_loop.rs does the same over ROS 2.

#[path = "support/known_policy.rs"]
mod known_policy;

use std::path::Path;

use known_policy::{HORIZON, JOINTS, Known, is_gripper, turn};
use pi0_node::control::{Outcome, Wiring, assemble};
use pi0_node::device::Silent;
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::settings::{NODE_NAME, Settings, Value, read_parameters};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aloha.yaml");
/// Joints of up to 3 rad through f32, a flow of ten steps and back.
const TOLERANCE: f64 = 2e-5;

/// Each joint to another place, neighbours in opposite directions.
fn delta() -> [f64; JOINTS] {
    std::array::from_fn(|joint| (0.002 + 0.001 * joint as f64) * if joint % 2 == 0 { 1.0 } else { -1.0 })
}

fn settings(checkpoint: &Path, delta_actions: &str) -> Settings {
    let mut values = read_parameters(Path::new(CONFIG), NODE_NAME).unwrap();
    let texts = |value: &str| Value::Texts(vec![value.into(); 3]);
    for (name, value) in [
        ("checkpoint", Value::Text(checkpoint.display().to_string())),
        ("dtype", Value::Text("f32".into())),
        ("camera_transports", texts("raw")),
    ] {
        values.insert(name.into(), value);
    }
    let mut settings = Settings::from_values(&values).unwrap();
    settings.delta_actions =
        delta_actions.split_terminator(',').map(|run| run.trim().parse().unwrap()).collect();
    settings
}

/// Joint states come in another order than the model's.
fn observe(wiring: &mut Wiring, names: &[String], positions: &[f64], stamp: Stamp) {
    let (names, positions): (Vec<_>, Vec<_>) =
        names.iter().cloned().zip(positions.iter().copied()).rev().unzip();
    wiring.joints.put(&JointState { stamp, names: &names, positions: &positions }, stamp).unwrap();
    let pixels = [90; 24 * 32 * 3];
    for camera in &mut wiring.cameras {
        let image = Image::rgb8(stamp, (24, 32), &pixels);
        camera.put_image(&image, stamp).unwrap();
    }
}

/// Goes through the loop a few times, ten chunk points between observations.
fn follow(known: &Known, delta_actions: &str) {
    let folder = tempfile::tempdir().unwrap();
    known.write(folder.path());
    let settings = settings(folder.path(), delta_actions);
    let mut wiring = assemble(&settings, &Silent).unwrap();
    let interval_ns = (1e9 / settings.control_hz) as i64;
    let mut positions: Vec<f64> = (0..JOINTS).map(|joint| 0.2 * joint as f64 - 1.0).collect();
    for observation in 0..6 {
        let start = Stamp(1_000_000_000 + observation * 10 * interval_ns);
        observe(&mut wiring, &settings.joints, &positions, start);
        assert_eq!(wiring.cycle.step(start), Outcome::Chunk, "{:?}", wiring.monitor.snapshot());
        let chunk = wiring.chunks.try_recv(start).unwrap();
        assert_eq!((chunk.observation, chunk.horizon, chunk.first), (start, HORIZON, 0));
        for (point, found) in chunk.points() {
            for joint in 0..JOINTS {
                let expected = known.position(joint, point, positions[joint]);
                let error = (found[joint] - expected).abs();
                assert!(
                    error < TOLERANCE,
                    "joint {joint} point {point}: {} is not {expected} ({error:e})",
                    found[joint]
                );
            }
        }
        positions = chunk.points().nth(10).unwrap().1.to_vec();
    }
    let end = 6.0;
    for (joint, delta) in known.delta.iter().enumerate().filter(|(joint, _)| !is_gripper(*joint)) {
        let expected = 0.2 * joint as f64 - 1.0 + end * turn(joint) * delta;
        assert!((positions[joint] - expected).abs() < end * TOLERANCE, "joint {joint}");
    }
}

#[test]
fn a_policy_that_copies_the_state_is_followed_in_absolute_positions() {
    follow(&Known { delta: delta(), step_at: 3, masked: [false; JOINTS] }, "");
}

#[test]
fn a_policy_of_differences_is_followed_through_the_delta_mask() {
    let masked = std::array::from_fn(|joint| joint % 7 != 6);
    follow(&Known { delta: delta(), step_at: 3, masked }, "6,-1,6,-1");
}

#[test]
fn every_point_may_have_the_step() {
    follow(&Known { delta: delta(), step_at: 0, masked: [false; JOINTS] }, "");
}
