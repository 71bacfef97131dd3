//! Parameter files as ROS 2 reads them, for commands that run without ROS 2: nodes' names (or `/**` for any), then
//! `ros__parameters`, then the values. Called by `cli replay`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_yaml_ng::Value as Yaml;

use super::Value;

/// The node's name, unless `--ros-args -r __node:=..` renames it.
pub const NODE_NAME: &str = "pi0_node";

/// A parameter file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ParameterFileError {
    #[error("cannot read parameter file {path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("parameter file {path} is not YAML: {error}")]
    Yaml { path: String, error: serde_yaml_ng::Error },
    #[error("parameter file {path}: {message}")]
    Layout { path: String, message: String },
}

/// The values that a parameter file has for a node of this name; where several sections apply, the later one wins.
pub fn read_parameters(path: &Path, node: &str) -> Result<BTreeMap<String, Value>, ParameterFileError> {
    let name = || path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| ParameterFileError::Io { path: name(), error })?;
    let yaml =
        serde_yaml_ng::from_str(&text).map_err(|error| ParameterFileError::Yaml { path: name(), error })?;
    parameters(&yaml, node).map_err(|message| ParameterFileError::Layout { path: name(), message })
}

fn parameters(yaml: &Yaml, node: &str) -> Result<BTreeMap<String, Value>, String> {
    let Yaml::Mapping(sections) = yaml else {
        return Err(format!("it must start with a node's name, such as `/**:` or `{node}:`"));
    };
    let mut values = BTreeMap::new();
    let mut found = false;
    for (name, section) in sections {
        let name = name.as_str().unwrap_or_default();
        if ![node, "**", "/**"].contains(&name) && name.strip_prefix('/') != Some(node) {
            continue;
        }
        found = true;
        let Some(Yaml::Mapping(section)) = section.get("ros__parameters") else {
            return Err(format!("`{name}:` must contain `ros__parameters:` with the values below it"));
        };
        for (key, value) in section {
            flatten(key.as_str().unwrap_or_default(), value, &mut values);
        }
    }
    if found {
        Ok(values)
    } else {
        let names: Vec<_> = sections.keys().filter_map(Yaml::as_str).collect();
        Err(format!(
            "it has values for {}, but none for node '{node}'; name the section `/**:` or `{node}:`",
            names.join(", ")
        ))
    }
}

/// Groups become dots, as in ROS 2.
fn flatten(name: &str, yaml: &Yaml, values: &mut BTreeMap<String, Value>) {
    match yaml {
        Yaml::Mapping(group) => {
            for (key, value) in group {
                flatten(&format!("{name}.{}", key.as_str().unwrap_or_default()), value, values);
            }
        }
        _ => {
            values.insert(name.to_owned(), value(yaml));
        }
    }
}

fn value(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => Value::Text(text.clone()),
        Yaml::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::Integer(integer),
            (None, Some(float)) if number.is_f64() => Value::Float(float),
            _ => Value::Other("an integer that is too large"),
        },
        Yaml::Sequence(elements) if elements.is_empty() => Value::EmptyList,
        Yaml::Sequence(elements) => {
            let texts: Option<Vec<_>> =
                elements.iter().map(|element| element.as_str().map(str::to_owned)).collect();
            let integers: Option<Vec<_>> = elements.iter().map(Yaml::as_i64).collect();
            let floats: Option<Vec<_>> = elements.iter().map(Yaml::as_f64).collect();
            match (texts, integers, floats) {
                (Some(texts), ..) => Value::Texts(texts),
                (_, Some(integers), _) => Value::Integers(integers),
                (.., Some(floats)) => Value::Floats(floats),
                _ => Value::Other("a list of other or mixed types"),
            }
        }
        Yaml::Bool(value) => Value::Bool(*value),
        Yaml::Null => Value::Other("nothing"),
        Yaml::Mapping(_) | Yaml::Tagged(_) => Value::Other("a tagged value"),
    }
}

/// Name of the parameter file in a recording's folder.
pub const PARAMETERS_FILE: &str = "parameters.yaml";

/// Values as a parameter file of the node, so that [`read_parameters`] gives them back.
pub fn write_parameters<'a>(
    path: &Path,
    values: impl IntoIterator<Item = (&'a str, &'a Value)>,
) -> Result<(), ParameterFileError> {
    let name = || path.display().to_string();
    let given = values.into_iter().filter_map(|(name, value)| Some((Yaml::from(name), to_yaml(value)?)));
    let section: Yaml = Yaml::Mapping(given.collect());
    let parameters: Yaml = Yaml::Mapping([(Yaml::from("ros__parameters"), section)].into_iter().collect());
    let file = Yaml::Mapping([(Yaml::from("/**"), parameters)].into_iter().collect());
    let text =
        serde_yaml_ng::to_string(&file).map_err(|error| ParameterFileError::Yaml { path: name(), error })?;
    std::fs::write(path, text).map_err(|error| ParameterFileError::Io { path: name(), error })
}

/// None for what no parameter can be.
fn to_yaml(value: &Value) -> Option<Yaml> {
    fn list<T: Clone + Into<Yaml>>(values: &[T]) -> Yaml {
        Yaml::Sequence(values.iter().cloned().map(Into::into).collect())
    }
    Some(match value {
        Value::Text(text) => text.as_str().into(),
        Value::Integer(integer) => (*integer).into(),
        Value::Float(float) => (*float).into(),
        Value::Bool(value) => (*value).into(),
        Value::Texts(texts) => list(texts),
        Value::Integers(integers) => list(integers),
        Value::Floats(floats) => list(floats),
        Value::EmptyList => Yaml::Sequence(Vec::new()),
        Value::Other(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::settings::{Normalization, Settings, Transport};

    fn read(text: &str) -> Result<BTreeMap<String, Value>, String> {
        parameters(&serde_yaml_ng::from_str(text).unwrap(), NODE_NAME)
    }

    #[test]
    fn sections_are_found_by_name_or_wildcard() {
        for name in ["/**", "**", "pi0_node", "/pi0_node"] {
            let values = read(&format!("'{name}':\n  ros__parameters:\n    seed: 7\n")).unwrap();
            assert_eq!(values["seed"], Value::Integer(7));
        }
        let error = read("camera_driver:\n  ros__parameters:\n    seed: 7\n").unwrap_err();
        assert!(error.contains("values for camera_driver, but none for node 'pi0_node'"), "{error}");
    }

    #[test]
    fn the_later_section_wins() {
        let text =
            "/**:\n  ros__parameters: {seed: 1, threads: 2}\npi0_node:\n  ros__parameters: {seed: 3}\n";
        let values = read(text).unwrap();
        assert_eq!(values["seed"], Value::Integer(3));
        assert_eq!(values["threads"], Value::Integer(2));
    }

    #[test]
    fn values_keep_the_type_they_are_written_in() {
        let text = "/**:\n  ros__parameters:\n    a: 1\n    b: 1.0\n    c: '1'\n    d: [x, y]\n    e: [6, -1]\n    f: []\n    g: {h: 2}\n    i: true\n    j: [1.5, 2]\n";
        let values = read(text).unwrap();
        assert_eq!(values["a"], Value::Integer(1));
        assert_eq!(values["b"], Value::Float(1.0));
        assert_eq!(values["c"], Value::Text("1".into()));
        assert_eq!(values["d"], Value::Texts(vec!["x".into(), "y".into()]));
        assert_eq!(values["e"], Value::Integers(vec![6, -1]));
        assert_eq!(values["f"], Value::EmptyList);
        assert_eq!(values["g.h"], Value::Integer(2));
        assert_eq!(values["i"], Value::Bool(true));
        assert_eq!(values["j"], Value::Floats(vec![1.5, 2.0]));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
        let values = BTreeMap::from([
            ("checkpoint".to_owned(), Value::Text("1.5".into())),
            ("camera_topics".to_owned(), texts(&["/top", ""])),
            ("delta_actions".to_owned(), Value::Integers(vec![6, -1])),
            ("joint_step_max".to_owned(), Value::Floats(vec![0.1, 2.0])),
            ("control_hz".to_owned(), Value::Float(50.0)),
            ("require_enable".to_owned(), Value::Bool(true)),
            ("seed".to_owned(), Value::Integer(i64::MAX)),
            ("denoise_steps".to_owned(), Value::EmptyList),
        ]);
        let file = tempfile::NamedTempFile::new().unwrap();
        write_parameters(file.path(), values.iter().map(|(name, value)| (name.as_str(), value))).unwrap();
        assert_eq!(read_parameters(file.path(), NODE_NAME).unwrap(), values);
    }

    #[test]
    fn a_file_without_ros_parameters_says_what_is_missing() {
        let error = read("pi0_node:\n  seed: 7\n").unwrap_err();
        assert!(error.contains("`pi0_node:` must contain `ros__parameters:`"), "{error}");
        assert!(read("- seed\n").unwrap_err().contains("must start with a node's name"));
    }

    #[test]
    fn a_file_that_is_missing_or_not_yaml_is_named() {
        let error = read_parameters(Path::new("no/such.yaml"), NODE_NAME).unwrap_err();
        assert!(error.to_string().starts_with("cannot read parameter file no/such.yaml"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a: [").unwrap();
        let error = read_parameters(file.path(), NODE_NAME).unwrap_err();
        assert!(error.to_string().contains("is not YAML"), "{error}");
    }

    /// Every robot's file lacks only the checkpoint, and gives scales, limits and masks that fit its joints.
    #[test]
    fn every_committed_robot_is_valid_once_a_checkpoint_is_given() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let robots: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
        assert!(robots.len() >= 4, "{robots:?}");
        for path in robots {
            let mut values = read_parameters(&path, NODE_NAME).unwrap();
            values.insert("checkpoint".into(), Value::Text("model".into()));
            let settings = Settings::from_values(&values).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            crate::observe::DeltaMask::from_openpi(&settings.delta_actions, settings.joints.len()).unwrap();
            assert!(settings.cameras.iter().any(|camera| camera.topic.is_some()), "{path:?}");
            assert_eq!(settings.joints_without_output(), Vec::<&str>::new(), "{path:?}");
        }
    }

    /// What the documentation says of each that has outputs.
    #[test]
    fn committed_robots_have_the_outputs_that_are_said_of_them() {
        for (file, expected) in [
            ("aloha_controllers", &["trajectory of 6", "trajectory of 6", "positions of 2"][..]),
            ("droid_franka", &["trajectory of 7", "positions of 1"]),
            ("ur5e", &["trajectory of 6", "positions of 1"]),
            ("so101", &["positions of 6"]),
            ("isaac_franka", &["joint_state of 8"]),
        ] {
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("config/{file}.yaml"));
            let mut values = read_parameters(&path, NODE_NAME).unwrap();
            values.insert("checkpoint".into(), Value::Text("model".into()));
            let settings = Settings::from_values(&values).unwrap();
            let outputs = settings.outputs.iter();
            let found: Vec<String> =
                outputs.map(|output| format!("{} of {}", output.kind.name(), output.joints.len())).collect();
            assert_eq!(found, expected, "{file}");
        }
    }

    /// The gripper's ends in the model's units, where it has its ends in the robot's.
    #[test]
    fn grippers_reach_the_ends_of_the_models_range() {
        for (file, ends, expected) in [
            ("droid_franka", [0.0, 0.7929], [0.0_f64, 1.0]),
            ("libero_panda", [0.0, 0.04], [1.0, -1.0]),
            ("so101", [-0.174533, 1.74533], [0.0, 100.0]),
        ] {
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("config/{file}.yaml"));
            let mut values = read_parameters(&path, NODE_NAME).unwrap();
            values.insert("checkpoint".into(), Value::Text("model".into()));
            let settings = Settings::from_values(&values).unwrap();
            let joints = settings.joints.len();
            let units =
                crate::observe::JointUnits::new(&settings.joint_scale, &settings.joint_offset, &[], joints)
                    .unwrap();
            let span = (expected[1] - expected[0]).abs();
            let limits = settings.limits.position_min[joints - 1]..settings.limits.position_max[joints - 1];
            for (end, expected) in ends.into_iter().zip(expected) {
                let mut model = vec![0.0; joints];
                units.to_model(&vec![end; joints], &mut model);
                let found = model[joints - 1];
                assert!((found - expected).abs() < 0.001 * span, "{file}: {found} is not {expected}");
                assert!(limits.contains(&end), "{file}: {end} is outside {limits:?}");
            }
        }
    }

    /// The committed file lacks only the checkpoint, which differs from user to user.
    #[test]
    fn the_committed_aloha_file_is_valid_once_a_checkpoint_is_given() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/aloha.yaml");
        let mut values = read_parameters(&path, NODE_NAME).unwrap();
        let error = Settings::from_values(&values).unwrap_err();
        let missing: Vec<_> = error.problems.iter().map(|problem| problem.parameter.as_str()).collect();
        assert_eq!(missing, ["checkpoint"]);

        values.insert("checkpoint".into(), Value::Text("model".into()));
        let settings = Settings::from_values(&values).unwrap();
        let cameras: Vec<_> = settings.cameras.iter().map(|camera| camera.name.as_str()).collect();
        assert_eq!(cameras, ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]);
        assert_eq!(settings.cameras[2].transport, Transport::Compressed);
        assert_eq!(settings.joints.len(), 14);
        assert_eq!(settings.normalization, Normalization::Checkpoint);
        assert!(settings.delta_actions.is_empty());
        assert_eq!(settings.prompt, "Transfer cube");
    }
}
