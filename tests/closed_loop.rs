//! The loop closed over ROS 2: the node with a policy whose actions are known moves the simulated ALOHA of `launch/sim`,
//! which publishes what the node sees next. In lockstep, so that it does not matter how fast this machine is.
//!
//! One wrong sign, joint order, unit, normalisation, delta mask or time stamp, on either side, and the joints go elsewhere.

#![cfg(feature = "ros")]

#[path = "support/known_policy.rs"]
mod known_policy;
#[path = "support/ros.rs"]
mod ros;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::task::Poll;

use futures::{FutureExt, StreamExt};
use known_policy::{HORIZON, JOINTS, Known, is_gripper, turn};
use pi0_node::settings::{NODE_NAME, read_parameters};
use r2r::builtin_interfaces::msg::Time;
use r2r::qos::QosProfile;
use r2r::sensor_msgs::msg::JointState;
use r2r::std_srvs::srv::SetBool;
use r2r::trajectory_msgs::msg::JointTrajectory;
use ros::{Domain, pi0_node};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aloha.yaml");
const CHUNKS: &str = "/pi0_node/action_chunk";
/// openpi's for ALOHA: arms as differences, grippers absolute.
const ALOHA_MASK: [bool; JOINTS] =
    [true, true, true, true, true, true, false, true, true, true, true, true, true, false];
/// Of positions up to 3 rad that went through f32.
const EXACT: f64 = 2e-5;
/// The simulator's control step, in ns; chunk points are as far apart.
const STEP_NS: i64 = 20_000_000;

/// The Python that has rclpy, with the packages of `cargo xtask simulator` if they are there; none if it cannot `import`.
fn python(imports: &str) -> Option<Command> {
    let own = Path::new(ROOT).join(".ros/bin/python");
    let prefixes = env::var_os("AMENT_PREFIX_PATH").unwrap_or_default();
    let is_own = env::split_paths(&prefixes).all(|prefix| prefix == Path::new(ROOT).join(".ros"));
    let python = || {
        let mut python = if is_own { Command::new(&own) } else { Command::new("python3") };
        let packages = std::fs::read_dir(Path::new(ROOT).join(".sim/lib")).into_iter().flatten().flatten();
        let packages = packages.map(|version| version.path().join("site-packages"));
        let given = env::var_os("PYTHONPATH").unwrap_or_default();
        let given = env::split_paths(&given).filter(|path| !path.as_os_str().is_empty());
        let paths = env::join_paths(packages.chain(given));
        python.env("PYTHONPATH", paths.unwrap_or_default()).env("PYTHONDONTWRITEBYTECODE", "1");
        python
    };
    let imported = python().args(["-c", &format!("import {imports}")]).output();
    imported.is_ok_and(|output| output.status.success()).then(python)
}

/// What went over the wire, by stamp in ns.
struct Run {
    joints: BTreeMap<i64, Vec<f64>>,
    chunks: BTreeMap<i64, JointTrajectory>,
}

fn nanoseconds(time: &Time) -> i64 {
    i64::from(time.sec) * 1_000_000_000 + i64::from(time.nanosec)
}

/// Starts the node and the simulator.
fn start(
    domain: &Domain,
    mut python: Command,
    simulator: &[&str],
    checkpoint: &Path,
    files: &[&Path],
    parameters: &[&str],
) -> (ros::Process, ros::Process) {
    let mut command = pi0_node(&["run", "--ros-args", "--params-file", CONFIG]);
    for file in files {
        command.arg("--params-file").arg(file);
    }
    let checkpoint = format!("checkpoint:={}", checkpoint.display());
    let raw = "camera_topics:=['/top/image_raw', '/left_wrist/image_raw', '/right_wrist/image_raw']";
    let transports = "camera_transports:=['raw', 'raw', 'raw']";
    let all = [&checkpoint, raw, transports, "dtype:=f32", "dashboard:=''"];
    for parameter in all.iter().chain(parameters) {
        command.args(["-p", parameter]);
    }
    let node = domain.start("node", &mut command);
    // Its environment is the node's: the same domain, the same transport.
    python.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    python.arg(Path::new(ROOT).join("launch/sim/aloha_sim.py")).args(simulator);
    (node, domain.start("simulator", &mut python))
}

/// Runs simulator and node in lockstep until there are `enough` chunks.
fn run(
    python: Command,
    simulator: &[&str],
    checkpoint: &Path,
    files: &[&Path],
    delta_actions: &str,
    enough: usize,
) -> Run {
    let mut domain = Domain::join();
    let deep = QosProfile::default().keep_last(1000);
    let mut states = domain.node.subscribe::<JointState>("/joint_states", deep.clone()).unwrap();
    let mut chunks = domain.node.subscribe::<JointTrajectory>(CHUNKS, deep).unwrap();
    let simulator = [&["--sim-time"], simulator].concat();
    let parameters = ["use_sim_time:=true", delta_actions];
    let (mut node, mut robot) = start(&domain, python, &simulator, checkpoint, files, &parameters);

    let mut run = Run { joints: BTreeMap::new(), chunks: BTreeMap::new() };
    domain.spin_until("chunks", &mut [&node, &robot], |context| {
        while let Poll::Ready(Some(state)) = states.poll_next_unpin(context) {
            run.joints.insert(nanoseconds(&state.header.stamp), state.position);
        }
        while let Poll::Ready(Some(chunk)) = chunks.poll_next_unpin(context) {
            run.chunks.insert(nanoseconds(&chunk.header.stamp), chunk);
        }
        run.chunks.len() > enough
    });
    robot.stop("INT");
    node.stop("INT");
    assert!(!robot.log().contains("rejected a message"), "{}", robot.log());
    // The simulator may not have followed the last one.
    run.chunks.pop_last();
    run
}

/// Each chunk says what the policy is known to say of the joint state that has the images' stamp.
fn check_chunks(run: &Run, known: &Known) {
    let values = read_parameters(Path::new(CONFIG), NODE_NAME).unwrap();
    let Some(pi0_node::settings::Value::Texts(names)) = values.get("joints") else { panic!("no joints") };
    for (stamp, chunk) in &run.chunks {
        let measured = &run.joints[stamp];
        assert_eq!((&chunk.joint_names, chunk.points.len()), (names, HORIZON));
        for (index, point) in chunk.points.iter().enumerate() {
            let after = &point.time_from_start;
            let after_ns = i64::from(after.sec) * 1_000_000_000 + i64::from(after.nanosec);
            assert_eq!(after_ns, index as i64 * STEP_NS);
            for (joint, name) in names.iter().enumerate() {
                let (found, expected) =
                    (point.positions[joint], known.position(joint, index, measured[joint]));
                let error = (found - expected).abs();
                assert!(
                    error < EXACT,
                    "{name}, point {index} of {stamp}: {found} is not {expected} ({error:e} away)"
                );
            }
        }
    }
}

fn write(known: &Known) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let checkpoint = folder.path().join("known");
    known.write(&checkpoint);
    (folder, checkpoint)
}

/// Neighbours in opposite directions, each by another amount.
fn alternating(smallest: f64, further: f64) -> [f64; JOINTS] {
    std::array::from_fn(|joint| (smallest + further * joint as f64) * if joint % 2 == 0 { 1.0 } else { -1.0 })
}

/// Where the joints are at each moment when the robot has these outputs, which the simulator reads from the same file; none
/// where this machine cannot run it.
fn motion(known: &Known, outputs: Option<&str>, enough: usize) -> Option<(Run, Vec<i64>)> {
    let python = python("rclpy, numpy, yaml")?;
    let (folder, checkpoint) = write(known);
    let file = folder.path().join("outputs.yaml");
    let mut simulator = vec!["--kinematic", "--camera-hz", "10"];
    let mut files = Vec::new();
    if let Some(outputs) = outputs {
        std::fs::write(&file, outputs).unwrap();
        simulator.extend(["--outputs", file.to_str().unwrap()]);
        files.push(file.as_path());
    }
    let run = run(python, &simulator, &checkpoint, &files, "delta_actions:=[6, -1, 6, -1]", enough);
    let observations = run.chunks.keys().copied().collect();
    Some((run, observations))
}

/// Both arms with a controller each and the grippers streamed; everything streamed with names; everything streamed by order.
const OUTPUTS: [&str; 3] = [
    "
/**:
  ros__parameters:
    outputs: [left, right, grippers]
    output_types: [trajectory, trajectory, positions]
    output_topics: [/left_arm/joint_trajectory, /right_arm/joint_trajectory, /grippers/commands]
    output_joints:
      - left_waist left_shoulder left_elbow left_forearm_roll left_wrist_angle left_wrist_rotate
      - right_wrist_rotate right_waist right_shoulder right_elbow right_forearm_roll right_wrist_angle
      - right_gripper left_gripper
    output_stamps: [observation, now, observation]
    interpolation: spline
    stream_hz: 50.0
",
    "
/**:
  ros__parameters:
    outputs: [robot]
    output_types: [joint_state]
    output_topics: [/joint_command]
    interpolation: spline
    stream_hz: 50.0
",
    "
/**:
  ros__parameters:
    outputs: [left, right]
    output_types: [positions, positions]
    output_topics: [/left/commands, /right/commands]
    output_joints:
      - left_waist left_shoulder left_elbow left_forearm_roll left_wrist_angle left_wrist_rotate left_gripper
      - right_waist right_shoulder right_elbow right_forearm_roll right_wrist_angle right_wrist_rotate right_gripper
    stream_hz: 50.0
",
];

/// Knots of splines lie on the points, and the simulator looks at the joints at these moments: the motion is the same but for
/// what f32 makes of a state that is read back, a few times over.
#[test]
fn the_motion_is_the_same_through_one_trajectory_through_controllers_and_through_streams() {
    const TOLERANCE: f64 = 10.0 * EXACT;
    const ENOUGH: usize = 8;
    let known = Known { delta: alternating(0.002, 0.001), step_at: 3, masked: ALOHA_MASK };
    let Some((one, observations)) = motion(&known, None, ENOUGH) else {
        eprintln!("skipped: there is no Python with rclpy and yaml");
        return;
    };
    for outputs in OUTPUTS {
        let Some((other, _)) = motion(&known, Some(outputs), ENOUGH) else { return };
        let both =
            one.joints.iter().filter_map(|(stamp, joints)| Some((stamp, joints, other.joints.get(stamp)?)));
        let both: Vec<_> = both.filter(|(stamp, ..)| **stamp <= observations[ENOUGH - 1]).collect();
        assert!(both.len() > 5 * (ENOUGH - 2), "{}", both.len());
        for (stamp, expected, found) in both {
            for joint in 0..JOINTS {
                let error = (expected[joint] - found[joint]).abs();
                assert!(error < TOLERANCE, "joint {joint} at {stamp}: {error:e} apart with {outputs}");
            }
        }
    }
}

/// A robot that is where it is told to be shows every point of a chunk in its joint states: in each observation's five
/// steps it stays until the third, and then is `delta` further.
fn follow_exactly(masked: [bool; JOINTS], delta_actions: &str) {
    const STEPS: i64 = 5;
    let Some(python) = python("rclpy, numpy") else {
        eprintln!("skipped: there is no Python with rclpy");
        return;
    };
    let known = Known { delta: alternating(0.002, 0.001), step_at: 3, masked };
    let (_folder, checkpoint) = write(&known);
    let run = run(python, &["--kinematic", "--camera-hz", "10"], &checkpoint, &[], delta_actions, 8);
    check_chunks(&run, &known);
    let observations: Vec<i64> = run.chunks.keys().copied().collect();
    for two in observations.windows(2) {
        assert_eq!(two[1] - two[0], STEPS * STEP_NS, "an observation had no chunk");
    }
    for &observation in &observations {
        let start = &run.joints[&observation];
        for step in 1..=STEPS {
            let then = &run.joints[&(observation + step * STEP_NS)];
            for joint in 0..JOINTS {
                let expected = known.position(joint, step as usize, start[joint]);
                let error = (then[joint] - expected).abs();
                assert!(
                    error < EXACT,
                    "joint {joint}, {step} steps after {observation}: {} is not {expected}",
                    then[joint]
                );
            }
        }
    }
}

#[test]
fn a_robot_follows_a_policy_of_absolute_positions_exactly() {
    follow_exactly([false; JOINTS], "delta_actions:=[-14]");
}

#[test]
fn a_robot_follows_a_policy_of_differences_exactly() {
    follow_exactly(ALOHA_MASK, "delta_actions:=[6, -1, 6, -1]");
}

/// Real arms have weight, friction and soft controllers, so each joint need only go the right way and a good part of it. And
/// however long anything takes, the same run is the same.
#[test]
fn the_arms_of_the_aloha_scene_follow_and_do_it_again() {
    const OBSERVATIONS: usize = 6;
    const IMPORTS: &str = "rclpy, mujoco, importlib.util as util; assert util.find_spec('gym_aloha')";
    let mut delta = alternating(0.05, 0.0);
    // Radians of a motor that opens the gripper within 2.1.
    (delta[6], delta[13]) = (0.25, 0.2);
    let known = Known { delta, step_at: 0, masked: ALOHA_MASK };
    let (_folder, checkpoint) = write(&known);
    let simulator = ["--synthetic-images", "--camera-hz", "1"];
    let mut runs = Vec::new();
    for _ in 0..2 {
        let Some(python) = python(IMPORTS) else {
            eprintln!(
                "skipped: MuJoCo and gym-aloha are not installed (cargo xtask simulator installs them)"
            );
            return;
        };
        runs.push(run(python, &simulator, &checkpoint, &[], "delta_actions:=[6, -1, 6, -1]", OBSERVATIONS));
    }
    for run in &runs {
        check_chunks(run, &known);
        let stamps: Vec<i64> = run.chunks.keys().copied().collect();
        let (first, last) = (&run.joints[&stamps[0]], &run.joints[&stamps[stamps.len() - 1]]);
        let told = (stamps.len() - 1) as f64;
        for joint in 0..JOINTS {
            let (wanted, most) = if is_gripper(joint) {
                (told * delta[joint] / 2.1, 2.0)
            } else {
                (told * turn(joint) * delta[joint], 1.3)
            };
            let share = (last[joint] - first[joint]) / wanted;
            assert!(
                (0.3..most).contains(&share),
                "joint {joint} went {share:.2} of the way that it was told"
            );
        }
    }
    let [one, other] = &runs[..] else { unreachable!() };
    let both: Vec<&i64> = one.joints.keys().filter(|stamp| other.joints.contains_key(stamp)).collect();
    assert!(both.len() > OBSERVATIONS * 50, "{}", both.len());
    for stamp in both {
        assert_eq!(one.joints[stamp], other.joints[stamp], "at {stamp}");
    }
}

/// In real time, where a message comes after the moment that it is for. The policy's chunks go somewhere after 0.6 s, which no
/// robot sees while new ones come; one whose node was stopped by `stop` must not see it either.
fn holds_after(stop: impl Fn(&mut Domain, &ros::Process)) {
    let Some(python) = python("rclpy, numpy") else {
        eprintln!("skipped: there is no Python with rclpy");
        return;
    };
    let known = Known { delta: alternating(0.05, 0.0), step_at: 30, masked: [false; JOINTS] };
    let (_folder, checkpoint) = write(&known);
    let mut domain = Domain::join();
    let mut states = domain.node.subscribe::<JointState>("/joint_states", QosProfile::default()).unwrap();
    let mut chunks = domain.node.subscribe::<JointTrajectory>(CHUNKS, QosProfile::default()).unwrap();
    let (mut node, mut robot) = start(&domain, python, &["--kinematic"], &checkpoint, &[], &[]);
    domain.spin_until("a chunk", &mut [&node, &robot], |context| chunks.poll_next_unpin(context).is_ready());

    stop(&mut domain, &node);
    // What has piled up is from before.
    while states.next().now_or_never().is_some() {}
    let (mut held, mut newest) = (None, None);
    domain.spin_until("1.5 s of joint states", &mut [&node, &robot], |context| {
        while let Poll::Ready(Some(state)) = states.poll_next_unpin(context) {
            let state = (nanoseconds(&state.header.stamp), state.position);
            held.get_or_insert_with(|| state.clone());
            newest = Some(state);
        }
        let since = |(start, _): &(i64, _), (end, _): &(i64, _)| end - start;
        held.as_ref().zip(newest.as_ref()).is_some_and(|(held, newest)| since(held, newest) > 1_500_000_000)
    });
    robot.stop("INT");
    node.stop("INT");
    assert!(!robot.log().contains("rejected a message"), "{}", robot.log());
    let ((_, held), (_, newest)) = (held.unwrap(), newest.unwrap());
    let moved = held.iter().zip(&newest).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(moved < EXACT, "a joint moved by {moved}");
}

#[test]
fn a_robot_whose_node_is_disabled_does_not_follow_the_last_chunk() {
    holds_after(|domain, node| {
        let request = SetBool::Request { data: false };
        domain.call::<SetBool::Service>(&mut [node], "/pi0_node/enable", &request);
    });
}

#[test]
fn a_robot_whose_node_is_deactivated_does_not_follow_the_last_chunk() {
    holds_after(|domain, node| assert!(domain.change_state(node, "deactivate")));
}

#[test]
fn the_simulators_controller_treats_trajectories_as_ros2_control_does() {
    let tests = Path::new(ROOT).join("tests/sim");
    let tested = Command::new("python3").args(["-m", "unittest", "discover"]).arg(tests).output();
    let Ok(tested) = tested else {
        eprintln!("skipped: there is no python3");
        return;
    };
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}
