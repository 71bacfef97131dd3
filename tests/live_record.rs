//! Recording and checking over real DDS: the node, the player, `check` and this test are processes on a ROS domain of
//! their own.
#![cfg(feature = "ros")]

#[path = "support/ros.rs"]
mod ros;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::task::Poll;

use futures::StreamExt;
use pi0_node::bag::messages::JointTrajectory;
use pi0_node::bag::{Bag, CHUNK_TOPIC, PARAMETER_TOPIC, cdr};
use pi0_node::observe::messages::Stamp;
use r2r::qos::QosProfile;
use r2r::rcl_interfaces::msg::{Parameter, ParameterValue};
use r2r::rcl_interfaces::srv::SetParameters;
use r2r::std_msgs::msg::String as Text;
use r2r::trajectory_msgs::msg::JointTrajectory as Trajectory;
use ros::{Domain, pi0_node, take};
use tempfile::TempDir;

const BAG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/aloha_transfer_cube");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aloha.yaml");

/// A tiny model with random weights, its tokenizer and statistics.
fn checkpoint(folder: &TempDir) -> PathBuf {
    let checkpoint = folder.path().join("tiny");
    let made = pi0_node(&["checkpoint", "init", "--preset", "tiny"]).arg(&checkpoint).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    checkpoint
}

/// The bag's cameras and joints, again and again, as if they were here now.
fn start_player(domain: &Domain, wait_for_subscribers: &str) -> ros::Process {
    let mut command = pi0_node(&["play", "--loop", "--rate", "0.5"]);
    command.args(["--wait-for-subscribers", wait_for_subscribers, BAG]);
    domain.start("player", &mut command)
}

fn trajectories(bag: &Path) -> BTreeMap<Stamp, JointTrajectory> {
    let mut bag = Bag::open(bag).unwrap();
    let messages = bag.messages(&[CHUNK_TOPIC]).unwrap();
    let decode = |data: &[u8]| cdr::decode::<JointTrajectory>(data).unwrap();
    let trajectories = messages.map(|message| decode(&message.unwrap().data));
    trajectories.map(|trajectory| (trajectory.header.stamp.into(), trajectory)).collect()
}

#[test]
fn what_was_on_the_wire_comes_out_of_a_replay_of_the_recording_bit_for_bit() {
    const ENOUGH: usize = 8;
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let recording = folder.path().join("recording");
    let mut domain = Domain::join();
    let mut chunks = domain.node.subscribe::<Trajectory>(CHUNK_TOPIC, QosProfile::default()).unwrap();
    let prompts = domain.node.create_publisher::<Text>("/pi0_node/prompt", QosProfile::default()).unwrap();
    let mut command = pi0_node(&["record", "--output"]);
    command.arg(&recording).args(["--ros-args", "--params-file", CONFIG]);
    // Neither a slow machine nor a wild policy keeps chunks from being sent; joints move while it runs.
    for parameter in [
        &format!("checkpoint:={}", checkpoint.display()),
        "act_rate_hz:=20.0",
        "chunk_join:=blend",
        "max_image_age_ms:=5000.0",
        "max_joint_age_ms:=5000.0",
        "dashboard:=''",
    ] {
        command.args(["-p", parameter]);
    }
    let mut node = domain.start("node", &mut command);
    let mut player = start_player(&domain, "4");

    let mut wire: BTreeMap<Stamp, Trajectory> = BTreeMap::new();
    let mut told = false;
    domain.spin_until("chunks", &mut [&node, &player], |context| {
        while let Poll::Ready(Some(chunk)) = chunks.poll_next_unpin(context) {
            wire.insert(Stamp::from_parts(chunk.header.stamp.sec, chunk.header.stamp.nanosec), chunk);
        }
        if wire.len() >= ENOUGH / 2 && !told {
            prompts.publish(&Text { data: "fold the towel".into() }).unwrap();
            told = true;
        }
        wire.len() >= ENOUGH
    });
    // Another blend from here on.
    let value = ParameterValue { type_: 3, double_value: 400.0, ..ParameterValue::default() };
    let request =
        SetParameters::Request { parameters: vec![Parameter { name: "blend_ms".to_owned(), value }] };
    let set = domain.call::<SetParameters::Service>(&mut [&node], "/pi0_node/set_parameters", &request);
    assert!(set.results[0].successful, "{set:?}");
    domain.spin_until("more chunks", &mut [&node, &player], |context| {
        while let Poll::Ready(Some(chunk)) = chunks.poll_next_unpin(context) {
            wire.insert(Stamp::from_parts(chunk.header.stamp.sec, chunk.header.stamp.nanosec), chunk);
        }
        wire.len() >= 2 * ENOUGH
    });
    // A second session has a recording of its own.
    for transition in ["deactivate", "cleanup", "configure", "activate"] {
        assert!(domain.change_state(&node, transition), "{transition}: {}", node.log());
    }
    take(&mut chunks);
    domain.spin_until("a chunk of it", &mut [&node, &player], |_| !take(&mut chunks).is_empty());
    player.stop("TERM");
    let output = node.stop("INT");
    assert_eq!(output.matches("/pi0_node/cycle").count(), 2, "{output}");
    assert!(!trajectories(&folder.path().join("recording_2")).is_empty());
    let mut changes = Bag::open(&recording).unwrap();
    assert_eq!(changes.messages(&[PARAMETER_TOPIC]).unwrap().len(), 1);

    let replayed = folder.path().join("chunks.mcap");
    let ran = pi0_node(&["replay", "--output"]).arg(&replayed).arg(&recording).output().unwrap();
    let table = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{table}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(table.contains(" came out bit for bit, 0 differ; 0 cycles"), "{table}");
    let replayed = trajectories(&replayed);
    for (stamp, live) in &wire {
        let replayed = &replayed[stamp];
        assert_eq!(live.joint_names, replayed.joint_names);
        assert_eq!(live.points.len(), replayed.points.len());
        for (live, replayed) in live.points.iter().zip(&replayed.points) {
            let bits =
                |positions: &[f64]| positions.iter().map(|position| position.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&live.positions), bits(&replayed.positions), "{stamp}");
            assert_eq!(live.time_from_start.nanosec, replayed.time_from_start.nanosec);
        }
    }
}

/// What `check --live` says of a configuration.
fn check(domain: &Domain, config: &Path, checkpoint: &Path) -> (bool, String) {
    let mut command = pi0_node(&["check", "--live", "--seconds", "6", "--config"]);
    command.arg(config).arg("--checkpoint").arg(checkpoint);
    let mut check = domain.start("check", &mut command);
    let (status, _) = check.wait();
    (status.success(), check.output())
}

#[test]
fn check_tells_a_robot_that_fits_from_one_that_does_not() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let domain = Domain::join();
    let mut player = start_player(&domain, "0");

    let (success, said) = check(&domain, Path::new(CONFIG), &checkpoint);
    assert!(success, "{said}");
    for expected in [
        "/top/image_raw from /pi0_player (reliable)",
        "all 14 joints are there",
        "ms old on arrival",
        " Hz",
        "frame sets               frames are",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    let config = folder.path().join("wrong.yaml");
    let text = fs::read_to_string(CONFIG)
        .unwrap()
        .replace("[raw, compressed, compressed]", "[compressed, compressed, compressed]")
        .replace("/left_wrist/image_raw/compressed", "/no/such/camera")
        .replace("- right_gripper", "- right_hand")
        .replace("sync_tolerance_ms: 20.0", "sync_tolerance_ms: 0.5");
    fs::write(&config, text).unwrap();
    let (success, said) = check(&domain, &config, &checkpoint);
    assert!(!success, "{said}");
    for expected in [
        "/top/image_raw is published by /pi0_player as sensor_msgs/msg/Image, but sensor_msgs/msg/CompressedImage is expected",
        "nobody publishes /no/such/camera",
        "joints right_hand have not come; names that came and are not in 'joints': right_gripper",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    player.stop("INT");
}
