//! What parameters become, and what is said about those that are no good.

use super::super::{MissingCamera, StampSource, Transport};
use super::*;
use crate::observe::JointConversion;

fn texts(texts: &[&str]) -> Value {
    Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect())
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// One camera and two joints, with `changes` on top.
fn read(changes: &[(&str, Value)]) -> Result<Settings, SettingsError> {
    let mut values = BTreeMap::from([
        ("checkpoint".to_owned(), text("model")),
        ("cameras".to_owned(), texts(&["base_0_rgb"])),
        ("camera_topics".to_owned(), texts(&["/top/image_raw"])),
        ("joints".to_owned(), texts(&["waist", "elbow"])),
    ]);
    for (name, value) in changes {
        values.insert((*name).to_owned(), value.clone());
    }
    Settings::from_values(&values)
}

fn refusal(changes: &[(&str, Value)]) -> String {
    read(changes).unwrap_err().to_string()
}

#[test]
fn what_is_not_given_has_its_default() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings.device, "cpu");
    assert_eq!(settings.control_hz, 50.0);
    assert!(settings.denoise_steps.is_empty() && !settings.require_enable);
    assert_eq!((settings.latency_budget_ms, settings.on_deadline_miss), (50.0, OnDeadlineMiss::Publish));
    assert_eq!(settings.real_time, RealTimeSettings::default());
    assert_eq!(settings.cameras[0].missing, MissingCamera::Wait);
    assert_eq!(settings.normalization, Normalization::Checkpoint);
    assert_eq!(settings.cameras[0].topic.as_deref(), Some("/top/image_raw"));
    assert_eq!(settings.cameras[0].transport, Transport::Raw);
}

#[test]
fn a_camera_without_topic_is_absent() {
    let settings = read(&[
        ("cameras", texts(&["base_0_rgb", "left_wrist_0_rgb"])),
        ("camera_topics", texts(&["/top/image_raw", ""])),
        ("camera_transports", texts(&["compressed", "raw"])),
    ])
    .unwrap();
    assert_eq!(settings.cameras[0].transport, Transport::Compressed);
    assert_eq!(settings.cameras[1].topic, None);
}

#[test]
fn an_integer_is_a_number_too() {
    assert_eq!(read(&[("control_hz", Value::Integer(30))]).unwrap().control_hz, 30.0);
}

#[test]
fn an_empty_list_is_a_list_of_anything() {
    let settings = read(&[("delta_actions", Value::EmptyList), ("camera_transports", Value::EmptyList)]);
    assert!(settings.unwrap().delta_actions.is_empty());
}

#[test]
fn every_problem_is_reported_at_once() {
    let message = refusal(&[
        ("control_hz", Value::Float(0.0)),
        ("normalization", text("minmax")),
        ("joints", Value::Integer(14)),
        ("sed", Value::Integer(1)),
    ]);
    for expected in [
        "control_hz: must be a number from 0.1 to 1000 (Hz), but is 0.0",
        "normalization: must be a text, each one of: checkpoint, file, none, but is the text \"minmax\"",
        "joints: must be a list of texts, but is 14",
        "sed: there is no such parameter; did you mean 'seed'?",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_unknown_name_unlike_any_other_lists_what_there_is() {
    let message = refusal(&[("frobnicate", text("x"))]);
    assert!(message.contains("there are checkpoint, device, "), "{message}");
}

#[test]
fn parameters_of_every_ros_node_are_not_ours_to_refuse() {
    let name = "qos_overrides./clock.subscription.depth";
    assert!(read(&[("use_sim_time", Value::Other("true")), (name, Value::Integer(1))]).is_ok());
}

#[test]
fn a_missing_checkpoint_says_how_to_give_it() {
    let message = refusal(&[("checkpoint", text(""))]);
    assert!(message.contains("checkpoint: is not set (Checkpoint folder:"), "{message}");
    assert!(message.contains("parameter file or on the command line"), "{message}");
}

#[test]
fn camera_lists_must_have_the_same_length() {
    let message = refusal(&[("cameras", texts(&["base_0_rgb", "left_wrist_0_rgb"]))]);
    assert!(
        message.contains("camera_topics: must have one entry for each of the 2 cameras (base_0_rgb, left_wrist_0_rgb), but has 1"),
        "{message}"
    );
}

#[test]
fn stamps_are_the_headers_unless_the_time_of_arrival_is_wanted() {
    let settings = read(&[]).unwrap();
    assert_eq!(
        (settings.cameras[0].stamps, settings.joint_stamps),
        (StampSource::Header, StampSource::Header)
    );
    let settings =
        read(&[("camera_stamps", texts(&["arrival"])), ("joint_stamps", text("arrival"))]).unwrap();
    assert_eq!(
        (settings.cameras[0].stamps, settings.joint_stamps),
        (StampSource::Arrival, StampSource::Arrival)
    );
    assert!(refusal(&[("camera_stamps", texts(&["sensor"]))]).contains("each one of: header, arrival"));
    let message = refusal(&[("camera_stamps", texts(&["header", "arrival"]))]);
    assert!(message.contains("camera_stamps: must have one entry for each of the 1 cameras"), "{message}");
}

#[test]
fn names_and_topics_must_not_repeat() {
    let message = refusal(&[("joints", texts(&["waist", "waist"]))]);
    assert!(message.contains("joints: 'waist' stands there more than once"), "{message}");
}

#[test]
fn topics_must_be_topic_names() {
    for topic in ["/top//image", "/top/", "top image", "/1top", "~top", "/"] {
        let message = refusal(&[("joint_states_topic", text(topic))]);
        assert!(message.contains("joint_states_topic: '") && message.contains(topic), "{message}");
    }
    for topic in ["/joint_states", "joint_states", "~/joint_states", "/arm_1/joints"] {
        let settings = read(&[("joint_states_topic", text(topic))]).unwrap();
        assert_eq!(settings.joint_states_topics, [topic]);
    }
    let both =
        read(&[("joint_states_topic", texts(&["/left/joint_states", "/right/joint_states"]))]).unwrap();
    assert_eq!(both.joint_states_topics, ["/left/joint_states", "/right/joint_states"]);
    let message = refusal(&[("joint_states_topic", texts(&["/a", "/a"]))]);
    assert!(message.contains("joint_states_topic: '/a' stands there more than once"), "{message}");
}

#[test]
fn a_statistics_file_is_used_or_refused_but_never_ignored() {
    let file = ("norm_stats", text("stats.json"));
    let settings = read(&[("normalization", text("file")), file.clone()]).unwrap();
    assert_eq!(settings.normalization, Normalization::File("stats.json".into()));
    assert!(refusal(&[file]).contains("would not be used with `normalization: checkpoint`"));
    assert!(refusal(&[("normalization", text("file"))]).contains("norm_stats: is not set"));
}

#[test]
fn a_data_set_is_used_or_refused_but_never_ignored() {
    let data_set = ("norm_stats_dataset", text("so100"));
    let settings = read(std::slice::from_ref(&data_set)).unwrap();
    assert_eq!(settings.normalization, Normalization::DataSet("so100".into()));
    let message = refusal(&[("normalization", text("none")), data_set]);
    assert!(
        message.contains("norm_stats_dataset: would not be used with `normalization: none`"),
        "{message}"
    );
}

#[test]
fn the_dashboard_has_an_address_or_none() {
    let dashboard = |address| read(&[("dashboard", text(address))]).map(|settings| settings.dashboard);
    assert_eq!(dashboard("[::1]:80").unwrap(), Some("[::1]:80".parse().unwrap()));
    assert_eq!(dashboard("").unwrap(), None);
    assert!(dashboard("9464").unwrap_err().to_string().contains("such as 127.0.0.1:9464, but is '9464'"));
}

#[test]
fn denoising_steps_are_sorted_and_must_be_possible() {
    let steps = |steps: &[i64]| read(&[("denoise_steps", Value::Integers(steps.to_vec()))]);
    assert_eq!(steps(&[5, 10, 8, 10]).unwrap().denoise_steps, [10, 8, 5]);
    let message = refusal(&[("denoise_steps", Value::Integers(vec![10, 0]))]);
    let expected =
        "denoise_steps: must be a list of integers, each from 1 to 1000 (steps), but is the list [10, 0]";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn units_have_one_entry_per_joint_and_no_scale_is_0() {
    let scale = |scale: &[f64]| ("joint_scale", Value::Floats(scale.to_vec()));
    assert_eq!(read(&[scale(&[57.3, -1.0])]).unwrap().joint_scale, [57.3, -1.0]);
    assert!(refusal(&[scale(&[1.0])]).contains("joint_scale: must have one entry for each of the 2 joints"));
    assert!(refusal(&[scale(&[1.0, 0.0])]).contains("joint_scale: is 0 for joint 1 (counted from 0)"));
    let conversion = |names: &[&str]| ("joint_conversion", texts(names));
    let given = read(&[conversion(&["linear", "aloha_gripper"])]).unwrap();
    assert_eq!(given.joint_conversion, [JointConversion::Linear, JointConversion::AlohaGripper]);
    assert!(refusal(&[conversion(&["linear", "spline"])]).contains("each one of: linear, aloha_gripper"));
    assert!(refusal(&[conversion(&["linear"])]).contains("joint_conversion: must have one entry"));
}

#[test]
fn limits_have_one_number_per_joint() {
    let floats = |floats: &[f64]| Value::Floats(floats.to_vec());
    let given = read(&[
        ("joint_position_min", Value::Integers(vec![-1, -2])),
        ("joint_step_max", floats(&[0.1, 0.2])),
    ]);
    let limits = given.unwrap().limits;
    assert_eq!((limits.position_min, limits.step_max), (vec![-1.0, -2.0], vec![0.1, 0.2]));
    let message = refusal(&[
        ("joint_velocity_max", floats(&[1.0])),
        ("joint_position_min", floats(&[0.0, 1.0])),
        ("joint_position_max", floats(&[1.0, 0.0])),
        ("joint_step_max", floats(&[f64::NAN, 1.0])),
    ]);
    for expected in [
        "joint_velocity_max: must have one number for each of the 2 joints, but has 1",
        "joint_position_max: is below joint_position_min for joint 1",
        "joint_step_max: must be a list of numbers, each from",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_must_be_true_or_false_says_so() {
    assert!(read(&[("require_enable", Value::Bool(true))]).unwrap().require_enable);
    let message = refusal(&[("require_enable", text("yes"))]);
    assert!(message.contains("require_enable: must be true or false, but is the text \"yes\""), "{message}");
}

#[test]
fn not_a_number_is_out_of_any_range() {
    assert!(refusal(&[("diagnostics_hz", Value::Float(f64::NAN))]).contains("diagnostics_hz"));
}

#[test]
fn a_value_of_any_length_is_refused_in_a_few_words() {
    let long = "x".repeat(15_000);
    let many = vec![long.as_str(); 1000];
    for (name, value) in [
        ("on_deadline_miss", text(&long)),
        ("seed", text(&long)),
        ("seed", texts(&many)),
        ("dashboard", text(&long)),
        ("joint_states_topic", texts(&[&long, &long, "/ok", "/ok"])),
    ] {
        let message = refusal(&[(name, value)]);
        assert!(message.contains(name) && message.contains(" characters)"), "{message}");
        assert!(message.len() < 1000, "{name}: {} characters", message.len());
    }
}
