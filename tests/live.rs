//! The live node over real DDS: the node, the player and this test are three processes on a ROS domain of their own.
#![cfg(feature = "ros")]

#[path = "support/bags.rs"]
mod bags;
#[path = "support/ros.rs"]
mod ros;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::{FutureExt, StreamExt};
use pi0_node::bag::messages::{JointState, JointTrajectory};
use pi0_node::bag::{Bag, cdr};
use pi0_node::observe::messages::Stamp;
use pi0_node::policy::PolicyConfig;
use pi0_node::settings::{NODE_NAME, Settings, Value, read_parameters};
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus};
use r2r::qos::QosProfile;
use r2r::std_msgs::msg::String as Text;
use r2r::std_srvs::srv::SetBool;
use r2r::trajectory_msgs::msg::JointTrajectory as Trajectory;
use ros::{Domain, pi0_node};
use tempfile::TempDir;

const BAG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/aloha_transfer_cube");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aloha.yaml");
const CHUNKS: &str = "/pi0_node/action_chunk";

/// A tiny model with random weights, its tokenizer and statistics.
fn checkpoint(folder: &TempDir) -> PathBuf {
    checkpoint_of(folder, "tiny")
}

fn checkpoint_of(folder: &TempDir, preset: &str) -> PathBuf {
    let checkpoint = folder.path().join(preset);
    let made = pi0_node(&["checkpoint", "init", "--preset", preset]).arg(&checkpoint).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    checkpoint
}

/// Two seconds of the bag with all joints held where they are at first: which joint state is the newest when a frame set is complete
/// is a matter of milliseconds, so live and replay can only be compared where it does not matter.
fn bag_with_held_joints(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("held.mcap");
    let (start, _) = Bag::open(Path::new(BAG)).unwrap().span();
    let mut held: Option<Vec<f64>> = None;
    bags::copy(Path::new(BAG), &path, |topic, mut message| {
        if topic.type_name == JointState::TYPE {
            let mut joints: JointState = cdr::decode(&message.data).unwrap();
            joints.position = held.get_or_insert(joints.position).clone();
            message.data = cdr::encode(&joints).unwrap();
        }
        (message.log_time.ms_since(start) <= 2000.0).then_some(message)
    });
    path
}

/// What `replay` makes of a bag, by observation.
fn replay(bag: &Path, checkpoint: &Path, folder: &TempDir) -> BTreeMap<Stamp, JointTrajectory> {
    let output = folder.path().join("chunks.mcap");
    let replayed = pi0_node(&["replay", "--config", CONFIG, "--checkpoint"])
        .arg(checkpoint)
        .arg("--output")
        .arg(&output)
        .arg(bag)
        .output()
        .unwrap();
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let mut chunks = Bag::open(&output).unwrap();
    let decode = |data: &[u8]| cdr::decode::<JointTrajectory>(data).unwrap();
    let trajectories = chunks.messages(&[CHUNKS]).unwrap().map(|message| decode(&message.unwrap().data));
    trajectories.map(|trajectory| (trajectory.header.stamp.into(), trajectory)).collect()
}

fn start_node(domain: &Domain, checkpoint: &Path, parameters: &[&str]) -> ros::Process {
    let mut command = pi0_node(&["run", "--status=lines", "--ros-args", "--params-file", CONFIG]);
    command.args(["-p", &format!("checkpoint:={}", checkpoint.display()), "-p", "use_sim_time:=true"]);
    for parameter in parameters {
        command.args(["-p", parameter]);
    }
    domain.start("node", &mut command)
}

/// Joints, cameras, their stamps and the clock as recorded, again and again, at half speed.
fn start_player(domain: &Domain, bag: &Path, wait_for_subscribers: usize) -> ros::Process {
    let mut command = pi0_node(&["play", "--loop", "--rate", "0.5", "--stamp", "bag", "--clock"]);
    command.args(["--wait-for-subscribers", &wait_for_subscribers.to_string()]);
    domain.start("player", command.arg(bag))
}

fn stamp(trajectory: &Trajectory) -> Stamp {
    Stamp::from_parts(trajectory.header.stamp.sec, trajectory.header.stamp.nanosec)
}

#[test]
fn chunks_on_the_wire_are_bit_for_bit_those_of_replay() {
    on_the_wire_as_in_replay("tiny");
}

#[test]
fn pi05s_chunks_on_the_wire_are_those_of_replay_too() {
    on_the_wire_as_in_replay("pi05-tiny");
}

fn on_the_wire_as_in_replay(preset: &str) {
    const ENOUGH: usize = 4;
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint_of(&folder, preset);
    let bag = bag_with_held_joints(&folder);
    let expected = replay(&bag, &checkpoint, &folder);

    let mut domain = Domain::join();
    let mut chunks = domain.node.subscribe::<Trajectory>(CHUNKS, QosProfile::default()).unwrap();
    let mut node = start_node(&domain, &checkpoint, &[]);
    let mut player = start_player(&domain, &bag, 4);
    let mut received: BTreeMap<Stamp, Trajectory> = BTreeMap::new();
    domain.spin_until("chunks", &mut [&node, &player], |context| {
        while let std::task::Poll::Ready(Some(chunk)) = chunks.poll_next_unpin(context) {
            received.insert(stamp(&chunk), chunk);
        }
        received.len() >= ENOUGH
    });

    let publishers = domain.node.get_publishers_info_by_topic(CHUNKS, false).unwrap();
    assert_eq!(publishers.len(), 1);
    assert_eq!(publishers[0].topic_type, "trajectory_msgs/msg/JointTrajectory");
    let mut values = read_parameters(Path::new(CONFIG), NODE_NAME).unwrap();
    values.insert("checkpoint".into(), Value::Text(checkpoint.display().to_string()));
    let settings = Settings::from_values(&values).unwrap();
    for (observation, live) in &received {
        let Some(replayed) = expected.get(observation) else {
            panic!("{observation} is no observation of the bag");
        };
        assert_eq!(live.joint_names, settings.joints);
        // Which points are past when a chunk leaves is the clock's affair; those that leave end with the last.
        let past = PolicyConfig::TINY.action_horizon - live.points.len();
        let past_in_replay = PolicyConfig::TINY.action_horizon - replayed.points.len();
        for (index, live) in (past..).zip(&live.points) {
            let after = &live.time_from_start;
            let expected_ns = (index as f64 / settings.control_hz * 1e9).round() as i64;
            assert_eq!(i64::from(after.sec) * 1_000_000_000 + i64::from(after.nanosec), expected_ns);
            let Some(replayed) = index.checked_sub(past_in_replay).map(|index| &replayed.points[index])
            else {
                continue;
            };
            assert_eq!(live.positions.len(), settings.joints.len());
            assert!(live.positions.iter().all(|position| position.is_finite()));
            let bits =
                |positions: &[f64]| positions.iter().map(|position| position.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&live.positions), bits(&replayed.positions), "{observation}, point {index}");
        }
    }

    player.stop("TERM");
    let output = node.stop("INT");
    assert!(output.contains("chunks out"), "{output}");
    assert!(output.contains("observation_to_chunk"), "{output}");
}

/// The part of the newest `/diagnostics` with this name.
fn part<'a>(newest: &'a Option<DiagnosticArray>, name: &str) -> Option<&'a DiagnosticStatus> {
    let parts = newest.as_ref().map(|array| &array.status)?;
    parts.iter().find(|part| part.name == format!("pi0_node: {name}"))
}

#[test]
fn a_camera_that_never_comes_shows_in_diagnostics_and_sigterm_stops_the_node() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let mut domain = Domain::join();
    let mut diagnostics =
        domain.node.subscribe::<DiagnosticArray>("/diagnostics", QosProfile::default()).unwrap();
    let topics = "camera_topics:=['/top/image_raw', '/left_wrist/image_raw/compressed', '/no/such/camera']";
    let mut node = start_node(&domain, &checkpoint, &[topics]);
    let mut player = start_player(&domain, Path::new(BAG), 3);

    let mut newest = None;
    domain.spin_until("an error for the silent camera only", &mut [&node, &player], |context| {
        while let std::task::Poll::Ready(Some(array)) = diagnostics.poll_next_unpin(context) {
            newest = Some(array);
        }
        let silent = part(&newest, "camera right_wrist_0_rgb");
        let others =
            ["camera base_0_rgb", "camera left_wrist_0_rgb", "joints"].map(|name| part(&newest, name));
        silent.is_some_and(|part| part.level == DiagnosticStatus::ERROR as u8)
            && others.iter().flatten().filter(|part| part.level == DiagnosticStatus::OK as u8).count() == 3
    });
    let silent = part(&newest, "camera right_wrist_0_rgb").unwrap();
    assert_eq!(silent.message, "no message has come: nobody publishes /no/such/camera");
    let base = part(&newest, "camera base_0_rgb").unwrap();
    let value =
        |key: &str| base.values.iter().find(|value| value.key == key).map(|value| value.value.as_str());
    assert_eq!(value("topic"), Some("/top/image_raw"));
    assert!(value("rate_hz").unwrap().parse::<f64>().unwrap() > 0.0);
    assert!(value("decode_p50_ms").is_some());
    let control = part(&newest, "control").unwrap();
    assert_eq!(
        control.message,
        "no chunk yet: no image came from right_wrist_0_rgb (/no/such/camera): is its driver running?"
    );

    player.stop("INT");
    let output = node.stop("TERM");
    assert!(output.contains("chunks out                            0"), "{output}");
}

#[test]
fn a_prompt_on_its_topic_changes_the_task_unless_it_is_too_long() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let mut domain = Domain::join();
    let prompts = domain.node.create_publisher::<Text>("/pi0_node/prompt", QosProfile::default()).unwrap();
    let mut node = start_node(&domain, &checkpoint, &[]);
    domain.spin_until("the node's subscription", &mut [&node], |_| {
        prompts.get_inter_process_subscription_count().unwrap() > 0
    });
    for (prompt, answer) in [
        ("fold the towel".to_owned(), "the task is now: fold the towel"),
        ("transfer cube ".repeat(200), "the task stays as it was"),
    ] {
        prompts.publish(&Text { data: prompt }).unwrap();
        domain.spin_until(answer, &mut [&node], |_| node.log().contains(answer));
    }
    node.stop("INT");
}

#[test]
fn nothing_is_sent_until_enable_is_called_and_sigterm_stops_the_node_in_the_middle_of_it() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let mut domain = Domain::join();
    let mut chunks = domain.node.subscribe::<Trajectory>(CHUNKS, QosProfile::default()).unwrap();
    let mut diagnostics =
        domain.node.subscribe::<DiagnosticArray>("/diagnostics", QosProfile::default()).unwrap();
    let service = QosProfile::services_default();
    let enable = domain.node.create_client::<SetBool::Service>("/pi0_node/enable", service).unwrap();
    let mut node = start_node(&domain, &checkpoint, &["require_enable:=true"]);
    let mut player = start_player(&domain, Path::new(BAG), 4);

    let mut newest = None;
    domain.spin_until("a disabled node with refused chunks", &mut [&node, &player], |context| {
        while let std::task::Poll::Ready(Some(array)) = diagnostics.poll_next_unpin(context) {
            newest = Some(array);
        }
        let refused = part(&newest, "control").and_then(|control| {
            let value = control.values.iter().find(|value| value.key == "dropped_not_enabled")?;
            value.value.parse::<u64>().ok()
        });
        refused.is_some_and(|refused| refused > 0)
    });
    let control = part(&newest, "control").unwrap();
    assert!(control.message.starts_with("disabled: call the service ~/enable"), "{}", control.message);
    assert!(chunks.next().now_or_never().is_none());

    let mut answer = enable.request(&SetBool::Request { data: true }).unwrap();
    let mut enabled = false;
    domain.spin_until("a chunk after enabling", &mut [&node, &player], |context| {
        if !enabled && let std::task::Poll::Ready(response) = answer.poll_unpin(context) {
            enabled = response.unwrap().success;
        }
        enabled && chunks.poll_next_unpin(context).is_ready()
    });

    // The player goes on: this is in the middle of it all.
    let output = node.stop("TERM");
    assert!(output.contains("dropped: not_enabled"), "{output}");
    player.stop("INT");
}

/// Runs the node with parameters that it must refuse; gives back what it says.
fn refused(parameters: &[&str]) -> String {
    let domain = Domain::join();
    let mut node = start_node(&domain, Path::new("no/such/folder"), parameters);
    let (status, said) = node.wait();
    assert!(!status.success(), "{said}");
    said
}

#[test]
fn wrong_parameters_are_refused_all_at_once_by_name() {
    let said = refused(&["control_hertz:=50.0", "sync_tolerance_ms:=-1.0", "threads:=two"]);
    assert!(said.contains("control_hertz: there is no such parameter; did you mean 'control_hz'?"), "{said}");
    assert!(said.contains("sync_tolerance_ms: must be a number from 0 to 1000 (ms), but is -1.0"), "{said}");
    assert!(said.contains("threads: must be an integer, but is the text \"two\""), "{said}");
}

#[test]
fn a_missing_checkpoint_folder_is_named() {
    let said = refused(&[]);
    assert!(said.contains("error: ") && said.contains("no/such/folder"), "{said}");
}

#[test]
fn a_missing_parameter_file_is_named() {
    let domain = Domain::join();
    let mut command = pi0_node(&["--ros-args", "--params-file", "no/such.yaml"]);
    let (status, said) = domain.start("node", &mut command).wait();
    assert!(!status.success());
    assert!(said.contains("error: ROS 2 refuses the arguments") && said.contains("no/such.yaml"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
