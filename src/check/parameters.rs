//! A parameter file by itself: known names, types, ranges, and whether the values make sense together.

use std::collections::BTreeMap;

use super::Verdict;
use crate::control::{check_limits, empty_task};
use crate::observe::{RelativeActions, RelativeActionsError};
use crate::settings::{LimitSettings, MissingCamera, Normalization, Settings, Transport, Value};

/// openpi's cameras for pi0, in its order (its `models/model.py`, `IMAGE_KEYS`).
const OPENPI_CAMERAS: [&str; 3] = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];

/// The settings, if the values are any, and what there is to say about them.
pub fn parameters(given: &BTreeMap<String, Value>) -> (Option<Settings>, Vec<Verdict>) {
    let settings = match Settings::from_values(given) {
        Ok(settings) => settings,
        Err(error) => {
            let problem =
                |problem: &crate::settings::Problem| Verdict::error(&problem.parameter, &problem.message);
            return (None, error.problems.iter().map(problem).collect());
        }
    };
    let mut verdicts =
        vec![Verdict::ok("parameters", format!("{} given, all known and in range", given.len()))];
    verdicts.extend(cameras(&settings));
    verdicts.extend(joints(&settings));
    verdicts.extend(super::outputs::outputs(&settings));
    verdicts.push(limits(&settings.limits, &settings.joints));
    verdicts.extend(times(&settings));
    verdicts.extend(empty_task(&settings.prompt).map(|said| Verdict::warning("prompt", said)));
    if settings.normalization == Normalization::None {
        let message = "none: joints and actions go in and out as they are; only for models trained so";
        verdicts.push(Verdict::warning("normalization", message));
    }
    (Some(settings), verdicts)
}

fn cameras(settings: &Settings) -> Vec<Verdict> {
    let camera = |camera: &crate::settings::Camera| {
        let subject = format!("camera {}", camera.name);
        let Some(topic) = &camera.topic else {
            return Verdict::ok(&subject, "absent; the model is told so");
        };
        let transport = match camera.transport {
            Transport::Raw => "raw",
            Transport::Compressed => "compressed",
        };
        // By name alone; `--live` knows.
        let looks_compressed = topic.ends_with("/compressed");
        if looks_compressed != (camera.transport == Transport::Compressed) {
            let message =
                format!("{topic} is to be {transport}, but its name says otherwise; see camera_transports");
            return Verdict::warning(&subject, message);
        }
        let missing = match camera.missing {
            MissingCamera::Wait => "",
            MissingCamera::Mask => ", may be missing",
        };
        Verdict::ok(&subject, format!("{topic} ({transport}{missing})"))
    };
    let mut verdicts: Vec<Verdict> = settings.cameras.iter().map(camera).collect();
    let names: Vec<&str> = settings.cameras.iter().map(|camera| camera.name.as_str()).collect();
    let mut order = names.iter().filter_map(|name| OPENPI_CAMERAS.iter().position(|known| known == name));
    if !order.by_ref().is_sorted() {
        let message = format!("openpi's order is {}, not {}", OPENPI_CAMERAS.join(", "), names.join(", "));
        verdicts.push(Verdict::warning("cameras", message));
    }
    verdicts
}

fn joints(settings: &Settings) -> Vec<Verdict> {
    let joints = settings.joints.len();
    let own = settings.joint_scale.is_empty()
        && settings.joint_offset.is_empty()
        && settings.joint_conversion.is_empty();
    let units =
        if own { "in the robot's own units (radians, metres)" } else { "converted to the model's units" };
    let mut verdicts = vec![Verdict::ok("joints", format!("{joints}, {units}"))];
    verdicts.push(actions(settings));
    verdicts
}

/// What the policy's actions are.
fn actions(settings: &Settings) -> Verdict {
    let Settings { delta_actions, velocity_step, joints, .. } = settings;
    let joints = joints.len();
    match RelativeActions::new(delta_actions, velocity_step, joints) {
        Err(error @ RelativeActionsError::Delta(_)) => Verdict::error("delta_actions", error.to_string()),
        Err(error) => Verdict::error("velocity_step", error.to_string()),
        Ok(_) => {
            let differences: i64 = delta_actions.iter().filter(|run| **run > 0).sum();
            let velocities = velocity_step.iter().filter(|step| **step != 0.0).count();
            let message = match (differences, velocities) {
                (0, 0) => "every action is an absolute position, if the checkpoint does not say otherwise"
                    .to_owned(),
                (_, 0) => format!("{differences} of {joints} joints are differences from the state"),
                (0, _) => format!("{velocities} of {joints} joints are velocities"),
                _ => format!("of {joints} joints {differences} are differences, {velocities} velocities"),
            };
            Verdict::ok("actions", message)
        }
    }
}

fn limits(limits: &LimitSettings, joints: &[String]) -> Verdict {
    if let Err(error) = check_limits(limits, joints) {
        return Verdict::error("limits", error.to_string());
    }
    let lists = [
        ("positions", !limits.position_min.is_empty() && !limits.position_max.is_empty()),
        ("velocities", !limits.velocity_max.is_empty()),
        ("steps", !limits.step_max.is_empty()),
    ];
    let set: Vec<&str> = lists.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    match (&limits.urdf, set.is_empty()) {
        (Some(urdf), _) => {
            Verdict::ok("limits", format!("from {}, and lists for {}", urdf.display(), or_none(&set)))
        }
        (None, false) => Verdict::ok("limits", format!("of {}", set.join(", "))),
        (None, true) => {
            let message =
                "none: set joint_position_min and _max, joint_velocity_max or urdf before you connect an arm";
            Verdict::warning("limits", message)
        }
    }
}

fn or_none(list: &[&str]) -> String {
    if list.is_empty() { "nothing".into() } else { list.join(", ") }
}

fn times(settings: &Settings) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let budget = settings.latency_budget_ms;
    for (name, age) in
        [("max_image_age_ms", settings.max_image_age_ms), ("max_joint_age_ms", settings.max_joint_age_ms)]
    {
        if age < budget {
            let message = format!(
                "{age} is below latency_budget_ms ({budget}): a chunk in time would be refused for its age"
            );
            verdicts.push(Verdict::warning(name, message));
        }
    }
    if settings.watchdog_ms < budget {
        let message = format!("{} is below latency_budget_ms ({budget})", settings.watchdog_ms);
        verdicts.push(Verdict::warning("watchdog_ms", message));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn check(changes: &[(&str, Value)]) -> Vec<Verdict> {
        let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
        let mut values = BTreeMap::from([
            ("checkpoint".to_owned(), Value::Text("model".into())),
            ("cameras".to_owned(), texts(&["base_0_rgb", "left_wrist_0_rgb"])),
            ("camera_topics".to_owned(), texts(&["/top/image_raw", ""])),
            ("joints".to_owned(), texts(&["waist", "gripper"])),
            ("joint_velocity_max".to_owned(), Value::Floats(vec![1.0, 1.0])),
            ("prompt".to_owned(), Value::Text("pick up the cube".into())),
        ]);
        values.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        parameters(&values).1
    }

    fn find(verdicts: &[Verdict], subject: &str) -> (Level, String) {
        let found = verdicts.iter().find(|verdict| verdict.subject == subject);
        found
            .map(|verdict| (verdict.level, verdict.message.clone()))
            .unwrap_or_else(|| panic!("{subject}: {verdicts:?}"))
    }

    #[test]
    fn every_joint_is_shown_with_where_it_goes() {
        let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
        assert_eq!(find(&check(&[]), "outputs").0, Level::Ok);
        let outputs = |joints: &[&str]| {
            check(&[
                ("outputs", texts(&["arm", "all"])),
                ("output_topics", texts(&["/arm/joint_trajectory", "/commands"])),
                ("output_types", texts(&["trajectory", "positions"])),
                ("output_joints", texts(joints)),
                ("stream_hz", Value::Float(20.0)),
            ])
        };
        let verdicts = outputs(&["waist", ""]);
        let message = "/arm/joint_trajectory (trajectory, stamp: observation), joints: 1";
        assert_eq!(find(&verdicts, "output arm"), (Level::Ok, message.to_owned()));
        assert_eq!(find(&verdicts, "output all").1, "/commands (positions, 20 Hz), joints: 2");
        let table = "waist   -> arm and all\ngripper -> all";
        assert_eq!(find(&verdicts, "joints to outputs"), (Level::Ok, table.to_owned()));
        assert_eq!(find(&verdicts, "stream_hz").0, Level::Warning);
        let (level, table) = find(&outputs(&["waist", "waist"]), "joints to outputs");
        assert_eq!(level, Level::Warning);
        assert!(table.ends_with("gripper -> nothing\nno output takes gripper: they do not move"), "{table}");
    }

    #[test]
    fn what_is_right_is_said_too() {
        let verdicts = check(&[]);
        assert!(verdicts.iter().all(|verdict| verdict.level == Level::Ok), "{verdicts:?}");
        assert_eq!(find(&verdicts, "camera base_0_rgb").1, "/top/image_raw (raw)");
        assert_eq!(find(&verdicts, "camera left_wrist_0_rgb").1, "absent; the model is told so");
    }

    #[test]
    fn every_wrong_value_is_an_error_of_its_own() {
        let verdicts = check(&[("control_hz", Value::Float(0.0)), ("sed", Value::Integer(1))]);
        assert_eq!(find(&verdicts, "control_hz").0, Level::Error);
        assert!(find(&verdicts, "sed").1.contains("did you mean 'seed'?"));
        let verdicts = check(&[("delta_actions", Value::Integers(vec![6, -1]))]);
        assert_eq!(find(&verdicts, "delta_actions").0, Level::Error);
        let verdicts = check(&[("velocity_step", Value::Floats(vec![0.2]))]);
        assert!(find(&verdicts, "velocity_step").1.contains("but has 1"));
    }

    #[test]
    fn what_is_unwise_is_a_warning() {
        let verdicts = check(&[
            ("joint_velocity_max", Value::EmptyList),
            ("max_image_age_ms", Value::Float(20.0)),
            ("normalization", Value::Text("none".into())),
            ("prompt", Value::Text(String::new())),
            ("camera_topics", Value::Texts(vec!["/top/image_raw/compressed".into(), String::new()])),
            ("cameras", Value::Texts(vec!["left_wrist_0_rgb".into(), "base_0_rgb".into()])),
        ]);
        for subject in
            ["limits", "max_image_age_ms", "prompt", "normalization", "camera left_wrist_0_rgb", "cameras"]
        {
            assert_eq!(find(&verdicts, subject).0, Level::Warning, "{subject}");
        }
    }
}
