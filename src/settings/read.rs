//! Raw parameter values to [`Settings`]: every problem is found before any is reported. Called by `node` with what
//! ROS 2 gives, by `cli replay` with what a parameter file gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::parameters::{Allowed, DefaultValue, PARAMETERS, Parameter};
use super::{Camera, Normalization, Settings, Transport};

/// A parameter's value as a source gives it, before its type is checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    /// Its elements' type is unknown.
    EmptyList,
    /// Something that no parameter takes; what it is, for messages.
    Other(&'static str),
}

impl From<DefaultValue> for Value {
    fn from(default: DefaultValue) -> Self {
        match default {
            DefaultValue::Text(text) => Self::Text(text.to_owned()),
            DefaultValue::Texts(texts) => Self::Texts(texts.iter().map(|text| (*text).to_owned()).collect()),
            DefaultValue::Integer(integer) => Self::Integer(integer),
            DefaultValue::Integers(integers) => Self::Integers(integers.to_vec()),
            DefaultValue::Float(float) => Self::Float(float),
        }
    }
}

/// For messages: what was given instead.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "the text {text:?}"),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Texts(texts) => write!(f, "the list {texts:?}"),
            Self::Integers(integers) => write!(f, "the list {integers:?}"),
            Self::EmptyList => write!(f, "an empty list"),
            Self::Other(what) => write!(f, "{what}"),
        }
    }
}

/// What is wrong with one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub parameter: String,
    pub message: String,
}

/// Parameters that cannot be used: all of them, not just the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the parameters cannot be used:")?;
        for Problem { parameter, message } in &self.problems {
            write!(f, "\n  {parameter}: {message}")?;
        }
        Ok(())
    }
}

/// Parameters that every ROS 2 node has; they are none of ours.
fn belongs_to_ros(name: &str) -> bool {
    matches!(name, "use_sim_time" | "start_type_description_service") || name.starts_with("qos_overrides.")
}

/// A value of the right type for every parameter of the table, the default where `given` has none or a wrong one; and
/// what is wrong with `given`, parameter by parameter.
pub fn complete(given: &BTreeMap<String, Value>) -> (BTreeMap<&'static str, Value>, Vec<Problem>) {
    let unknown = given
        .keys()
        .filter(|name| !belongs_to_ros(name) && Parameter::find(name).is_none());
    let mut problems: Vec<Problem> = unknown
        .map(|name| problem(name, no_such_parameter(name)))
        .collect();
    let mut values = BTreeMap::new();
    for parameter in PARAMETERS {
        let value = match given.get(parameter.name) {
            None => Ok(Value::from(parameter.default)),
            Some(value) => typed(parameter, value),
        };
        let checked = value.and_then(|value| check(parameter, &value).map(|()| value));
        let value = checked.unwrap_or_else(|message| {
            problems.push(problem(parameter.name, message));
            Value::from(parameter.default)
        });
        values.insert(parameter.name, value);
    }
    (values, problems)
}

fn problem(parameter: &str, message: impl Into<String>) -> Problem {
    Problem {
        parameter: parameter.to_owned(),
        message: message.into(),
    }
}

fn no_such_parameter(name: &str) -> String {
    // Two slips of the keyboard look similar; beyond that a suggestion would mislead.
    const SIMILAR: f64 = 0.75;
    let similarity = |other: &str| strsim::normalized_damerau_levenshtein(name, other);
    let nearest = PARAMETERS
        .iter()
        .map(|parameter| (parameter.name, similarity(parameter.name)))
        .filter(|(_, similarity)| *similarity >= SIMILAR)
        .max_by(|(_, a), (_, b)| a.total_cmp(b));
    match nearest {
        Some((nearest, _)) => format!("there is no such parameter; did you mean '{nearest}'?"),
        None => {
            let names: Vec<_> = PARAMETERS.iter().map(|parameter| parameter.name).collect();
            format!("there is no such parameter; there are {}", names.join(", "))
        }
    }
}

/// The value as the parameter's type: an integer is a number too, an empty list is a list of anything.
fn typed(parameter: &Parameter, value: &Value) -> Result<Value, String> {
    match (parameter.default, value) {
        (DefaultValue::Float(_), Value::Integer(integer)) => Ok(Value::Float(*integer as f64)),
        (DefaultValue::Texts(_), Value::EmptyList) => Ok(Value::Texts(Vec::new())),
        (DefaultValue::Integers(_), Value::EmptyList) => Ok(Value::Integers(Vec::new())),
        (DefaultValue::Text(_), Value::Text(_))
        | (DefaultValue::Texts(_), Value::Texts(_))
        | (DefaultValue::Integer(_), Value::Integer(_))
        | (DefaultValue::Integers(_), Value::Integers(_))
        | (DefaultValue::Float(_), Value::Float(_)) => Ok(value.clone()),
        _ => Err(format!(
            "must be {}, but is {value}",
            parameter.default.type_name()
        )),
    }
}

fn check(parameter: &Parameter, value: &Value) -> Result<(), String> {
    let number = match value {
        Value::Integer(integer) => Some(*integer as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    };
    let texts = match value {
        Value::Text(text) => std::slice::from_ref(text),
        Value::Texts(texts) => texts,
        _ => &[],
    };
    let ok = match parameter.allowed {
        Allowed::Any => true,
        Allowed::Range(min, max) => number.is_some_and(|number| (min..=max).contains(&number)),
        Allowed::OneOf(choices) => texts.iter().all(|text| choices.contains(&text.as_str())),
        Allowed::NotEmpty if *value == Value::from(parameter.default) && parameter.must_be_given() => {
            return Err(format!(
                "is not set ({}); give it in the parameter file or on the command line",
                parameter.description
            ));
        }
        Allowed::NotEmpty => {
            !matches!(value, Value::Text(text) if text.is_empty()) && *value != Value::Texts(Vec::new())
        }
    };
    if ok {
        Ok(())
    } else {
        Err(format!("must be {parameter}, but is {value}"))
    }
}

impl Settings {
    /// Settings from raw values by the parameter table.
    pub fn from_values(given: &BTreeMap<String, Value>) -> Result<Self, SettingsError> {
        let (values, mut problems) = complete(given);
        let settings = Values(values).settings(&mut problems);
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError { problems })
        }
    }
}

/// A value of the right type for every parameter, as [`complete`] makes them: asking for a parameter that the table
/// lacks, or as another type, is a mistake in this file that every test finds.
struct Values(BTreeMap<&'static str, Value>);

impl Values {
    fn text(&self, name: &str) -> String {
        match &self.0[name] {
            Value::Text(text) => text.clone(),
            other => unreachable!("{name} is {other}"),
        }
    }

    fn texts(&self, name: &str) -> Vec<String> {
        match &self.0[name] {
            Value::Texts(texts) => texts.clone(),
            other => unreachable!("{name} is {other}"),
        }
    }

    fn integer(&self, name: &str) -> i64 {
        match &self.0[name] {
            Value::Integer(integer) => *integer,
            other => unreachable!("{name} is {other}"),
        }
    }

    /// For parameters whose range starts at 0.
    fn count(&self, name: &str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or_default()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        match &self.0[name] {
            Value::Integers(integers) => integers.clone(),
            other => unreachable!("{name} is {other}"),
        }
    }

    fn float(&self, name: &str) -> f64 {
        match &self.0[name] {
            Value::Float(float) => *float,
            other => unreachable!("{name} is {other}"),
        }
    }

    fn settings(&self, problems: &mut Vec<Problem>) -> Settings {
        let optional = |text: String| (!text.is_empty()).then_some(text);
        let joint_states_topic = self.text("joint_states_topic");
        if let Err(message) = check_topic(&joint_states_topic) {
            problems.push(problem("joint_states_topic", message));
        }
        let joints = self.texts("joints");
        problems.extend(not_unique("joints", &joints));
        Settings {
            checkpoint: self.text("checkpoint").into(),
            device: self.text("device"),
            threads: self.count("threads"),
            seed: self.integer("seed").unsigned_abs(),
            cameras: self.cameras(problems),
            joint_states_topic,
            joints,
            prompt: self.text("prompt"),
            tokenizer: optional(self.text("tokenizer")).map(Into::into),
            normalization: self.normalization(problems),
            delta_actions: self.integers("delta_actions"),
            control_hz: self.float("control_hz"),
            sync_tolerance_ms: self.float("sync_tolerance_ms"),
            num_inference_steps: Some(self.count("num_inference_steps")).filter(|steps| *steps > 0),
            sensor_timeout_ms: self.float("sensor_timeout_ms"),
            diagnostics_hz: self.float("diagnostics_hz"),
        }
    }

    fn cameras(&self, problems: &mut Vec<Problem>) -> Vec<Camera> {
        let names = self.texts("cameras");
        let topics = self.texts("camera_topics");
        let mut transports = self.texts("camera_transports");
        if transports.is_empty() {
            transports = vec!["raw".to_owned(); names.len()];
        }
        problems.extend(not_unique("cameras", &names));
        let given: Vec<String> = topics.iter().filter(|topic| !topic.is_empty()).cloned().collect();
        problems.extend(not_unique("camera_topics", &given));
        // Where the list is missing altogether, that has been said already.
        for (parameter, list) in [("camera_topics", &topics), ("camera_transports", &transports)] {
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
        let entries = names.into_iter().zip(topics).zip(transports);
        entries
            .map(|((name, topic), transport)| Camera {
                name,
                topic: Some(topic).filter(|topic| !topic.is_empty()),
                transport: match transport.as_str() {
                    "compressed" => Transport::Compressed,
                    _ => Transport::Raw,
                },
            })
            .collect()
    }

    fn normalization(&self, problems: &mut Vec<Problem>) -> Normalization {
        let file = self.text("norm_stats");
        match self.text("normalization").as_str() {
            "file" if file.is_empty() => {
                let message = "is not set, but `normalization: file` needs it";
                problems.push(problem("norm_stats", message));
                Normalization::Checkpoint
            }
            "file" => Normalization::File(file.into()),
            other => {
                if !file.is_empty() {
                    let message =
                        format!("would not be used with `normalization: {other}`; set that to file");
                    problems.push(problem("norm_stats", message));
                }
                match other {
                    "none" => Normalization::None,
                    _ => Normalization::Checkpoint,
                }
            }
        }
    }
}

fn not_unique(parameter: &str, names: &[String]) -> Option<Problem> {
    let mut seen = BTreeSet::new();
    let twice = names.iter().find(|name| !seen.insert(name.as_str()))?;
    Some(problem(
        parameter,
        format!("'{twice}' stands there more than once"),
    ))
}

/// The rules of <https://design.ros2.org/articles/topic_and_service_names.html>, without substitutions.
fn check_topic(topic: &str) -> Result<(), String> {
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
            "'{topic}' is not a topic name: letters, digits and _ between single slashes, no part starting with a digit"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(settings.num_inference_steps, None);
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
        assert_eq!(
            read(&[("control_hz", Value::Integer(30))]).unwrap().control_hz,
            30.0
        );
    }

    #[test]
    fn an_empty_list_is_a_list_of_anything() {
        let settings = read(&[
            ("delta_actions", Value::EmptyList),
            ("camera_transports", Value::EmptyList),
        ]);
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
        assert!(
            message.contains("checkpoint: is not set (Checkpoint folder:"),
            "{message}"
        );
        assert!(
            message.contains("parameter file or on the command line"),
            "{message}"
        );
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
    fn names_and_topics_must_not_repeat() {
        let message = refusal(&[("joints", texts(&["waist", "waist"]))]);
        assert!(
            message.contains("joints: 'waist' stands there more than once"),
            "{message}"
        );
    }

    #[test]
    fn topics_must_be_topic_names() {
        for topic in ["/top//image", "/top/", "top image", "/1top", "~top", "/"] {
            let message = refusal(&[("joint_states_topic", text(topic))]);
            assert!(
                message.contains("joint_states_topic: '") && message.contains(topic),
                "{message}"
            );
        }
        for topic in ["/joint_states", "joint_states", "~/joint_states", "/arm_1/joints"] {
            assert!(read(&[("joint_states_topic", text(topic))]).is_ok(), "{topic}");
        }
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
    fn not_a_number_is_out_of_any_range() {
        assert!(refusal(&[("diagnostics_hz", Value::Float(f64::NAN))]).contains("diagnostics_hz"));
    }
}
