//! The robot's part of the settings: its cameras, joints, units and limits. Called by `read`.

use std::collections::BTreeSet;

use super::value::{Problem, Values, problem};
use super::{Camera, LimitSettings, MissingCamera, StampSource, Transport};
use crate::observe::{JointConversion, JointUnits};
use crate::wording::Shown;

impl Values {
    /// The conversions; says what is wrong with all that makes up [`JointUnits`].
    pub(super) fn units(&self, problems: &mut Vec<Problem>) -> Vec<JointConversion> {
        let (scale, offset) = (self.floats("joint_scale"), self.floats("joint_offset"));
        let find = |name: String| JointConversion::ALL.into_iter().find(|known| known.name() == name);
        let conversion: Vec<_> = self.texts("joint_conversion").into_iter().filter_map(find).collect();
        let joints = self.texts("joints").len();
        // Where there are no joints, that has been said already.
        if joints > 0 {
            for (scale, offset, conversion) in
                [(&scale[..], &[][..], &[][..]), (&[], &offset, &[]), (&[], &[], &conversion)]
            {
                if let Err(error) = JointUnits::new(scale, offset, conversion, joints) {
                    let parameter = error.parameter();
                    let message = error.to_string();
                    problems.push(problem(parameter, message.trim_start_matches(parameter).trim_start()));
                }
            }
        }
        conversion
    }

    pub(super) fn limits(&self, problems: &mut Vec<Problem>) -> LimitSettings {
        let joints = self.texts("joints").len();
        let mut list = |name: &str| {
            let list = self.floats(name);
            // Where there are no joints, that has been said already.
            if !list.is_empty() && joints > 0 && list.len() != joints {
                let message =
                    format!("must have one number for each of the {joints} joints, but has {}", list.len());
                problems.push(problem(name, message));
            }
            list
        };
        let (position_min, position_max) = (list("joint_position_min"), list("joint_position_max"));
        let (velocity_max, step_max) = (list("joint_velocity_max"), list("joint_step_max"));
        if let Some(joint) = position_min.iter().zip(&position_max).position(|(min, max)| min > max) {
            let message = format!("is below joint_position_min for joint {joint} (counted from 0)");
            problems.push(problem("joint_position_max", message));
        }
        let urdf = Some(self.text("urdf")).filter(|path| !path.is_empty()).map(Into::into);
        LimitSettings { urdf, position_min, position_max, velocity_max, step_max }
    }

    pub(super) fn cameras(&self, problems: &mut Vec<Problem>) -> Vec<Camera> {
        let names = self.texts("cameras");
        let topics = self.texts("camera_topics");
        let mut transports = self.texts("camera_transports");
        if transports.is_empty() {
            transports = vec!["raw".to_owned(); names.len()];
        }
        let mut missing = self.texts("camera_missing");
        if missing.is_empty() {
            missing = vec!["wait".to_owned(); names.len()];
        }
        let mut stamps = self.texts("camera_stamps");
        if stamps.is_empty() {
            stamps = vec!["header".to_owned(); names.len()];
        }
        problems.extend(not_unique("cameras", &names));
        let given: Vec<String> = topics.iter().filter(|topic| !topic.is_empty()).cloned().collect();
        problems.extend(not_unique("camera_topics", &given));
        // Where the list is missing altogether, that has been said already.
        let lists = [
            ("camera_topics", &topics),
            ("camera_transports", &transports),
            ("camera_missing", &missing),
            ("camera_stamps", &stamps),
        ];
        for (parameter, list) in lists {
            if list.len() != names.len() && !list.is_empty() {
                let message = format!(
                    "must have one entry for each of the {} cameras ({}), but has {}",
                    names.len(),
                    names.join(", "),
                    list.len()
                );
                problems.push(problem(parameter, message));
            }
        }
        if !topics.is_empty() && given.is_empty() {
            problems.push(problem("camera_topics", "at least one camera must have a topic"));
        }
        for topic in &given {
            if let Err(message) = check_topic(topic) {
                problems.push(problem("camera_topics", message));
            }
        }
        let entries = names.into_iter().zip(topics).zip(transports).zip(missing).zip(stamps);
        entries
            .map(|((((name, topic), transport), missing), stamps)| Camera {
                name,
                topic: Some(topic).filter(|topic| !topic.is_empty()),
                transport: match transport.as_str() {
                    "compressed" => Transport::Compressed,
                    _ => Transport::Raw,
                },
                missing: match missing.as_str() {
                    "mask" => MissingCamera::Mask,
                    _ => MissingCamera::Wait,
                },
                stamps: stamp_source(&stamps),
            })
            .collect()
    }
}

pub(super) fn stamp_source(name: &str) -> StampSource {
    match name {
        "arrival" => StampSource::Arrival,
        _ => StampSource::Header,
    }
}

pub(super) fn not_unique(parameter: &str, names: &[String]) -> Option<Problem> {
    let mut seen = BTreeSet::new();
    let twice = names.iter().find(|name| !seen.insert(name.as_str()))?;
    Some(problem(parameter, format!("'{}' stands there more than once", Shown(twice))))
}

/// The rules of <https://design.ros2.org/articles/topic_and_service_names.html>, without substitutions.
pub(super) fn check_topic(topic: &str) -> Result<(), String> {
    let name = topic.strip_prefix('~').unwrap_or(topic);
    let relative = name.strip_prefix('/').unwrap_or(name);
    let token_ok = |token: &str| {
        !token.is_empty()
            && !token.starts_with(|first: char| first.is_ascii_digit())
            && token.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if (name == topic || name.starts_with('/')) && relative.split('/').all(token_ok) {
        Ok(())
    } else {
        Err(format!(
            "'{}' is not a topic name: letters, digits and _ between single slashes, no part starting with a digit",
            Shown(topic)
        ))
    }
}
