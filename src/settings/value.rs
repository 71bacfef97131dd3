//! Raw parameter values, and the check of each by the parameter table. Called by `read`, and by `node` for what it
//! declares to ROS 2.

use std::collections::BTreeMap;
use std::fmt;

use super::parameter::{Allowed, DefaultValue, Parameter};
use super::table::PARAMETERS;
use crate::wording::{Shown, shorten};

/// A parameter's value as a source gives it, before its type is checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
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
            DefaultValue::Floats(floats) => Self::Floats(floats.to_vec()),
            DefaultValue::Bool(value) => Self::Bool(value),
        }
    }
}

/// For messages: what was given instead.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Of a list: the numbers of a robot with two arms stand in it.
        const MOST: usize = 400;
        let mut list = |list: &dyn fmt::Debug| {
            write!(f, "the list ")?;
            shorten(&format!("{list:?}"), MOST, f)
        };
        match self {
            Self::Text(text) => write!(f, "the text \"{}\"", Shown(text)),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Bool(value) => write!(f, "{value} (for a text, write it in quotes)"),
            Self::Texts(texts) => list(texts),
            Self::Integers(integers) => list(integers),
            Self::Floats(floats) => list(floats),
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

/// Parameters that every ROS 2 node has; they are none of ours.
fn belongs_to_ros(name: &str) -> bool {
    matches!(name, "use_sim_time" | "start_type_description_service") || name.starts_with("qos_overrides.")
}

/// A value of the right type for every parameter of the table, the default where `given` has none or a wrong one; and
/// what is wrong with `given`, parameter by parameter.
pub fn complete(given: &BTreeMap<String, Value>) -> (BTreeMap<&'static str, Value>, Vec<Problem>) {
    let unknown = given.keys().filter(|name| !belongs_to_ros(name) && Parameter::find(name).is_none());
    let mut problems: Vec<Problem> = unknown.map(|name| problem(name, no_such_parameter(name))).collect();
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

pub(super) fn problem(parameter: &str, message: impl Into<String>) -> Problem {
    Problem { parameter: parameter.to_owned(), message: message.into() }
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
        // A single one needs no brackets.
        (DefaultValue::Texts(_), Value::Text(text)) => Ok(Value::Texts(vec![text.clone()])),
        (DefaultValue::Texts(_), Value::EmptyList) => Ok(Value::Texts(Vec::new())),
        (DefaultValue::Integers(_), Value::EmptyList) => Ok(Value::Integers(Vec::new())),
        (DefaultValue::Floats(_), Value::EmptyList) => Ok(Value::Floats(Vec::new())),
        (DefaultValue::Floats(_), Value::Integers(integers)) => {
            Ok(Value::Floats(integers.iter().map(|&integer| integer as f64).collect()))
        }
        (DefaultValue::Text(_), Value::Text(_))
        | (DefaultValue::Texts(_), Value::Texts(_))
        | (DefaultValue::Integer(_), Value::Integer(_))
        | (DefaultValue::Integers(_), Value::Integers(_))
        | (DefaultValue::Float(_), Value::Float(_))
        | (DefaultValue::Floats(_), Value::Floats(_))
        | (DefaultValue::Bool(_), Value::Bool(_)) => Ok(value.clone()),
        _ => Err(format!("must be {}, but is {value}", parameter.default.type_name())),
    }
}

fn check(parameter: &Parameter, value: &Value) -> Result<(), String> {
    let numbers = match value {
        Value::Integer(integer) => vec![*integer as f64],
        Value::Float(float) => vec![*float],
        Value::Integers(integers) => integers.iter().map(|&integer| integer as f64).collect(),
        Value::Floats(floats) => floats.clone(),
        _ => Vec::new(),
    };
    let texts = match value {
        Value::Text(text) => std::slice::from_ref(text),
        Value::Texts(texts) => texts,
        _ => &[],
    };
    let ok = match parameter.allowed {
        Allowed::Any => numbers.iter().all(|number| number.is_finite()),
        Allowed::Range(min, max) => numbers.iter().all(|number| (min..=max).contains(number)),
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
    if ok { Ok(()) } else { Err(format!("must be {parameter}, but is {value}")) }
}

/// A value of the right type for every parameter, as [`complete`] makes them: asking for a parameter that the table
/// lacks, or as another type, is a mistake of the reader that every test finds.
pub(super) struct Values(pub(super) BTreeMap<&'static str, Value>);

impl Values {
    pub(super) fn text(&self, name: &str) -> String {
        match &self.0[name] {
            Value::Text(text) => text.clone(),
            other => unreachable!("{name} is {other}"),
        }
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        match &self.0[name] {
            Value::Texts(texts) => texts.clone(),
            other => unreachable!("{name} is {other}"),
        }
    }

    pub(super) fn integer(&self, name: &str) -> i64 {
        match &self.0[name] {
            Value::Integer(integer) => *integer,
            other => unreachable!("{name} is {other}"),
        }
    }

    /// For parameters whose range starts at 0.
    pub(super) fn count(&self, name: &str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or_default()
    }

    pub(super) fn integers(&self, name: &str) -> Vec<i64> {
        match &self.0[name] {
            Value::Integers(integers) => integers.clone(),
            other => unreachable!("{name} is {other}"),
        }
    }

    pub(super) fn float(&self, name: &str) -> f64 {
        match &self.0[name] {
            Value::Float(float) => *float,
            other => unreachable!("{name} is {other}"),
        }
    }

    pub(super) fn floats(&self, name: &str) -> Vec<f64> {
        match &self.0[name] {
            Value::Floats(floats) => floats.clone(),
            other => unreachable!("{name} is {other}"),
        }
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        match &self.0[name] {
            Value::Bool(value) => *value,
            other => unreachable!("{name} is {other}"),
        }
    }
}
