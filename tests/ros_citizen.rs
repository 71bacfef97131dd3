//! The node among other ROS 2 nodes: parameters that change while it runs, its log on /rosout, its lifecycle, two of it side by
//! side. Over real DDS, on a ROS domain of the test's own.
#![cfg(feature = "ros")]

#[path = "support/ros.rs"]
mod ros;

use std::path::{Path, PathBuf};
use std::pin::Pin;

use futures::Stream;
use r2r::diagnostic_msgs::msg::DiagnosticArray;
use r2r::lifecycle_msgs::msg::TransitionEvent;
use r2r::lifecycle_msgs::srv::{GetAvailableStates, GetAvailableTransitions, GetState};
use r2r::qos::QosProfile;
use r2r::rcl_interfaces::msg::{Log, Parameter, ParameterEvent, ParameterValue};
use r2r::rcl_interfaces::srv::{DescribeParameters, GetParameters, ListParameters, SetParameters};
use r2r::trajectory_msgs::msg::JointTrajectory;
use ros::{Domain, Process, pi0_node, take};
use tempfile::TempDir;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aloha.yaml");
const BAG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/aloha_transfer_cube");
const NO_DASHBOARD: &str = "dashboard:=127.0.0.1:0";

fn checkpoint(folder: &TempDir) -> PathBuf {
    let checkpoint = folder.path().join("tiny");
    let made = pi0_node(&["checkpoint", "init", "--preset", "tiny"]).arg(&checkpoint).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    checkpoint
}

fn start_node(domain: &Domain, name: &'static str, checkpoint: &Path, arguments: &[&str]) -> Process {
    let mut command = pi0_node(&["run", "--ros-args", "--params-file", CONFIG, "-p", NO_DASHBOARD]);
    command.args(["-p", &format!("checkpoint:={}", checkpoint.display())]).args(arguments);
    domain.start(name, &mut command)
}

/// Recorded cameras and joints, with stamps of now.
fn start_player(domain: &Domain) -> Process {
    let mut command = pi0_node(&["play", "--loop", "--rate", "0.5", "--stamp", "now", BAG]);
    domain.start("player", &mut command)
}

/// Sets one parameter; gives back why not, if it was refused.
fn set(domain: &mut Domain, node: &Process, name: &str, value: ParameterValue) -> Result<(), String> {
    let parameters = vec![Parameter { name: name.to_owned(), value }];
    let request = SetParameters::Request { parameters };
    let answer = domain.call::<SetParameters::Service>(&mut [node], "/pi0_node/set_parameters", &request);
    match &answer.results[0] {
        result if result.successful => Ok(()),
        result => Err(result.reason.clone()),
    }
}

fn text(text: &str) -> ParameterValue {
    ParameterValue { type_: 4, string_value: text.to_owned(), ..ParameterValue::default() }
}

fn float(value: f64) -> ParameterValue {
    ParameterValue { type_: 3, double_value: value, ..ParameterValue::default() }
}

fn integer(value: i64) -> ParameterValue {
    ParameterValue { type_: 2, integer_value: value, ..ParameterValue::default() }
}

/// Waits until the part of `/diagnostics` has this value.
fn wait_for_diagnostics(
    domain: &mut Domain,
    processes: &mut [&Process],
    diagnostics: &mut Pin<Box<dyn Stream<Item = DiagnosticArray>>>,
    part: &str,
    key: &str,
    wanted: &str,
) {
    domain.spin_until(&format!("{key} {wanted}"), processes, |_| {
        take(diagnostics).iter().flat_map(|array| &array.status).any(|status| {
            let is = |(found, value): (&str, &str)| found == key && value == wanted;
            let mut values = status.values.iter().map(|value| (value.key.as_str(), value.value.as_str()));
            status.name == part && (values.any(is) || (key == "message" && status.message == wanted))
        })
    });
}

fn diagnostics(domain: &mut Domain) -> Pin<Box<dyn Stream<Item = DiagnosticArray>>> {
    Box::pin(domain.node.subscribe("/diagnostics", QosProfile::default()).unwrap())
}

#[test]
fn parameters_have_ranges_and_change_a_running_loop_or_say_why_not() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let mut domain = Domain::join();
    let mut diagnostics = diagnostics(&mut domain);
    let mut events =
        domain.node.subscribe::<ParameterEvent>("/parameter_events", QosProfile::parameter_events()).unwrap();
    let mut logs = domain.node.subscribe::<Log>("/rosout", rosout_qos()).unwrap();
    let mut node = start_node(&domain, "node", &checkpoint, &[]);
    let mut player = start_player(&domain);
    domain.spin_until("the node", &mut [&node], |_| node.log().contains("is running on"));

    let request = ListParameters::Request::default();
    let listed =
        domain.call::<ListParameters::Service>(&mut [&node], "/pi0_node/list_parameters", &request).result;
    assert!(
        ["latency_budget_ms", "use_sim_time", "autostart"]
            .iter()
            .all(|name| listed.names.iter().any(|n| n == name))
    );
    let names = ["latency_budget_ms", "seed", "on_deadline_miss"].map(str::to_owned).to_vec();
    let request = DescribeParameters::Request { names };
    let described =
        domain.call::<DescribeParameters::Service>(&mut [&node], "/pi0_node/describe_parameters", &request);
    let [budget, seed, miss] = &described.descriptors[..] else { panic!("{described:?}") };
    assert_eq!((budget.type_, budget.read_only), (3, false));
    let range = &budget.floating_point_range[0];
    assert_eq!((range.from_value, range.to_value), (0.1, 600_000.0));
    assert!(budget.description.starts_with("Time from the observation's stamp"), "{budget:?}");
    assert!(seed.read_only && seed.integer_range[0].from_value == 0, "{seed:?}");
    assert!(miss.additional_constraints.contains("each one of: publish, drop, hold"), "{miss:?}");

    // No chunk is in time any more, so none is sent: the running loop has taken both over.
    set(&mut domain, &node, "on_deadline_miss", text("drop")).unwrap();
    set(&mut domain, &node, "latency_budget_ms", float(0.1)).unwrap();
    let (part, busy) = ("pi0_node: control", &mut [&node, &player]);
    wait_for_diagnostics(&mut domain, busy, &mut diagnostics, part, "latency_budget_ms", "0.1");
    wait_for_diagnostics(&mut domain, busy, &mut diagnostics, part, "chunks_hz", "0.00");
    set(&mut domain, &node, "latency_budget_ms", integer(60_000)).unwrap();
    let mut chunks =
        domain.node.subscribe::<JointTrajectory>("/pi0_node/action_chunk", QosProfile::default()).unwrap();
    domain.spin_until("chunks again", &mut [&node, &player], |_| !take(&mut chunks).is_empty());

    for (name, value, reason) in [
        ("latency_budget_ms", float(-1.0), "must be a number from 0.1 to 600000 (ms), but is -1.0"),
        ("latency_budget_ms", text("fast"), "must be a number, but is the text \"fast\""),
        ("on_deadline_miss", text("panic"), "each one of: publish, drop, hold"),
        ("seed", integer(5), "read when the node is configured"),
        (
            "use_sim_time",
            ParameterValue { type_: 1, ..ParameterValue::default() },
            "read when the process starts",
        ),
        ("latency_budget", float(5.0), "there is no such parameter"),
        ("prompt", text(&"transfer cube ".repeat(200)), "prompt: "),
        ("prompt", ParameterValue::default(), "nothing"),
    ] {
        let refused = set(&mut domain, &node, name, value).unwrap_err();
        assert!(refused.contains(reason), "{name}: {refused}");
    }
    let limits = ParameterValue { type_: 8, double_array_value: vec![1.0, 2.0], ..ParameterValue::default() };
    let refused = set(&mut domain, &node, "joint_step_max", limits).unwrap_err();
    assert!(refused.contains("one number for each of the 14 joints"), "{refused}");
    // r2r keeps ten messages: what was said before makes room.
    take(&mut logs);
    take(&mut events);
    set(&mut domain, &node, "prompt", text("fold the towel")).unwrap();
    let request = GetParameters::Request { names: vec!["prompt".to_owned(), "latency_budget_ms".to_owned()] };
    let got =
        domain.call::<GetParameters::Service>(&mut [&node], "/pi0_node/get_parameters", &request).values;
    assert_eq!((got[0].string_value.as_str(), got[1].double_value), ("fold the towel", 60_000.0));

    let changed =
        |event: &ParameterEvent| event.changed_parameters.iter().any(|changed| changed.name == "prompt");
    domain.spin_until("a parameter event", &mut [&node], |_| take(&mut events).iter().any(changed));
    let is_told = |line: &Log| {
        line.msg == "parameter prompt is now the text \"fold the towel\", was the text \"Transfer cube\""
            && (line.level, line.name.as_str()) == (Log::INFO as u8, "pi0_node")
            && line.file.ends_with("parameter_services.rs")
            && line.line > 0
    };
    domain.spin_until("the change on /rosout", &mut [&node], |_| take(&mut logs).iter().any(is_told));
    player.stop("INT");
    node.stop("INT");
}

/// Gets what was said before, too.
fn rosout_qos() -> QosProfile {
    QosProfile::default().keep_last(1000).transient_local()
}

/// The states that the node has come to since the last call.
fn note(events: &mut (impl Stream<Item = TransitionEvent> + Unpin), goals: &mut Vec<String>) {
    goals.extend(take(events).into_iter().map(|event| event.goal_state.label));
}

fn state(domain: &mut Domain, node: &Process) -> String {
    let request = GetState::Request::default();
    domain.call::<GetState::Service>(&mut [node], "/pi0_node/get_state", &request).current_state.label
}

#[test]
fn a_lifecycle_manager_takes_the_node_through_an_error_and_all_states() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let mut domain = Domain::join();
    let mut events = domain
        .node
        .subscribe::<TransitionEvent>("/pi0_node/transition_event", QosProfile::default())
        .unwrap();
    let mut chunks =
        domain.node.subscribe::<JointTrajectory>("/pi0_node/action_chunk", QosProfile::default()).unwrap();
    let mut diagnostics = diagnostics(&mut domain);
    let mut node = start_node(&domain, "node", Path::new("no/such/folder"), &["-p", "autostart:=false"]);
    let mut player = start_player(&domain);
    let mut goals = Vec::new();
    assert_eq!(state(&mut domain, &node), "unconfigured");
    let request = GetAvailableStates::Request::default();
    let service = "/pi0_node/get_available_states";
    let states = domain.call::<GetAvailableStates::Service>(&mut [&node], service, &request);
    assert_eq!(states.available_states.len(), 10);

    // What cannot be configured is an error with its reason, and the node can be helped.
    assert!(!domain.change_state(&node, "configure"));
    assert!(
        node.log().contains("configure failed: ") && node.log().contains("no/such/folder"),
        "{}",
        node.log()
    );
    assert_eq!(state(&mut domain, &node), "unconfigured");
    assert!(!domain.change_state(&node, "activate"));
    set(&mut domain, &node, "checkpoint", text(&checkpoint.display().to_string())).unwrap();
    assert!(domain.change_state(&node, "configure"));
    assert_eq!(state(&mut domain, &node), "inactive");
    note(&mut events, &mut goals);
    let request = GetAvailableTransitions::Request::default();
    let service = "/pi0_node/get_available_transitions";
    let next = domain.call::<GetAvailableTransitions::Service>(&mut [&node], service, &request);
    let labels: Vec<_> = next.available_transitions.iter().map(|way| way.transition.label.as_str()).collect();
    assert_eq!(labels, ["cleanup", "activate", "shutdown"]);

    // Cameras are seen, but nothing is made of them.
    let busy = &mut [&node, &player];
    wait_for_diagnostics(&mut domain, busy, &mut diagnostics, "pi0_node: control", "state", "inactive");
    assert!(take(&mut chunks).is_empty());
    assert!(domain.change_state(&node, "activate"));
    domain.spin_until("a chunk", &mut [&node, &player], |_| !take(&mut chunks).is_empty());
    assert!(domain.change_state(&node, "deactivate"));
    take(&mut chunks);
    wait_for_diagnostics(
        &mut domain,
        &mut [&node, &player],
        &mut diagnostics,
        "pi0_node: control",
        "state",
        "inactive",
    );
    assert!(take(&mut chunks).is_empty());

    note(&mut events, &mut goals);
    // And again, with another model in memory.
    assert!(domain.change_state(&node, "cleanup"));
    set(&mut domain, &node, "seed", integer(9)).unwrap();
    assert!(domain.change_state(&node, "configure"));
    assert!(domain.change_state(&node, "activate"));
    domain.spin_until("a chunk", &mut [&node, &player], |_| !take(&mut chunks).is_empty());
    note(&mut events, &mut goals);
    let publishers = domain.node.get_publishers_info_by_topic("/pi0_node/action_chunk", false).unwrap();
    assert_eq!(publishers.len(), 1);
    assert!(domain.change_state(&node, "shutdown"));
    assert_eq!(state(&mut domain, &node), "finalized");

    domain.spin_until("all transition events", &mut [&node], |_| {
        note(&mut events, &mut goals);
        goals.last().is_some_and(|goal| goal == "finalized")
    });
    let expected = "configuring errorprocessing unconfigured configuring inactive activating active deactivating inactive \
                    cleaningup unconfigured configuring inactive activating active shuttingdown finalized";
    assert_eq!(goals.join(" "), expected);
    player.stop("INT");
    node.stop("TERM");
}

#[test]
fn two_nodes_in_namespaces_live_side_by_side() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let mut domain = Domain::join();
    let mut diagnostics = diagnostics(&mut domain);
    let mut left_chunks = domain
        .node
        .subscribe::<JointTrajectory>("/left/pi0_node/action_chunk", QosProfile::default())
        .unwrap();
    let mut right_chunks = domain
        .node
        .subscribe::<JointTrajectory>("/right/pi0_node/action_chunk", QosProfile::default())
        .unwrap();
    let mut left = start_node(&domain, "left", &checkpoint, &["-r", "__ns:=/left"]);
    let remap = ["-r", "__ns:=/right", "-r", "/joint_states:=/joint_states", "-p", "prompt:=fold the towel"];
    let mut right = start_node(&domain, "right", &checkpoint, &remap);
    let mut player = start_player(&domain);
    let (mut from_left, mut from_right) = (false, false);
    domain.spin_until("chunks of both", &mut [&left, &right, &player], |_| {
        from_left |= !take(&mut left_chunks).is_empty();
        from_right |= !take(&mut right_chunks).is_empty();
        from_left && from_right
    });
    for (part, prompt) in
        [("left/pi0_node: control", "Transfer cube"), ("right/pi0_node: control", "fold the towel")]
    {
        let busy = &mut [&left, &right, &player];
        wait_for_diagnostics(&mut domain, busy, &mut diagnostics, part, "prompt", prompt);
    }
    player.stop("INT");
    left.stop("INT");
    right.stop("TERM");
}
