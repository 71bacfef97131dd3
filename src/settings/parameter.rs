//! What a parameter is, and how people read it: in `--help`, in the documentation, in a refusal. The parameters
//! themselves are in `table`.

use std::fmt;

use super::table::{CHANGEABLE, PARAMETERS};

/// A ROS parameter of the node.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    /// Its variant is the parameter's type.
    pub default: DefaultValue,
    /// Empty for what has none.
    pub unit: &'static str,
    pub allowed: Allowed,
    pub description: &'static str,
}

/// The value of a parameter that nobody gives, and by its variant the type of all its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DefaultValue {
    Text(&'static str),
    Texts(&'static [&'static str]),
    Integer(i64),
    Integers(&'static [i64]),
    Float(f64),
    Floats(&'static [f64]),
    Bool(bool),
}

/// Which values of the right type are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    Any,
    /// A text or list that is not empty. Where the default is empty, the parameter must be given.
    NotEmpty,
    OneOf(&'static [&'static str]),
    /// Integers or numbers, alone or each of a list, both ends included.
    Range(f64, f64),
}

use Allowed::{Any, NotEmpty, OneOf, Range};
use DefaultValue::{Bool, Float, Floats, Integer, Integers, Text, Texts};

impl Parameter {
    /// The parameter of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PARAMETERS.iter().find(|parameter| parameter.name == name)
    }

    /// Whether it may be set while the loop runs.
    pub fn is_changeable(&self) -> bool {
        CHANGEABLE.contains(&self.name)
    }

    /// Whether there is no default to fall back to.
    pub fn must_be_given(&self) -> bool {
        let empty = matches!(self.default, Text("") | Texts([]) | Integers([]));
        empty && self.allowed == NotEmpty
    }
}

impl DefaultValue {
    /// The type, for messages: "must be {..}".
    pub fn type_name(self) -> &'static str {
        match self {
            Text(_) => "a text",
            Texts(_) => "a list of texts",
            Integer(_) => "an integer",
            Integers(_) => "a list of integers",
            Float(_) => "a number",
            Floats(_) => "a list of numbers",
            Bool(_) => "true or false",
        }
    }
}

/// As in a parameter file.
impl fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text(text) => write!(f, "{text:?}"),
            Texts(texts) => write!(f, "{texts:?}"),
            Integer(integer) => write!(f, "{integer}"),
            Integers(integers) => write!(f, "{integers:?}"),
            Float(float) => write!(f, "{float:?}"),
            Floats(floats) => write!(f, "{floats:?}"),
            Bool(value) => write!(f, "{value}"),
        }
    }
}

/// What follows the type in a sentence: ", 0.1 to 1000 Hz".
impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default.type_name())?;
        match self.allowed {
            Range(min, max) if matches!(self.default, Floats(_) | Integers(_)) => {
                write!(f, ", each from {min} to {max}")?;
            }
            Range(min, max) if max < i64::MAX as f64 => write!(f, " from {min} to {max}")?,
            Range(min, _) => write!(f, " from {min}")?,
            OneOf(choices) => write!(f, ", each one of: {}", choices.join(", "))?,
            NotEmpty => write!(f, ", not empty")?,
            Any => {}
        }
        if !self.unit.is_empty() {
            write!(f, " ({})", self.unit)?;
        }
        Ok(())
    }
}

/// All parameters with type, range, unit and default, for `--help`.
pub fn reference() -> String {
    let mut text = String::from(
        "Parameters (ROS 2 parameters of the node; paths are relative to the working directory):\n",
    );
    for parameter in PARAMETERS {
        let default = if parameter.must_be_given() {
            "must be given".to_owned()
        } else {
            format!("default {}", parameter.default)
        };
        let Parameter { name, description, .. } = parameter;
        let changeable = if parameter.is_changeable() { "; changeable at run time" } else { "" };
        text += &format!("\n  {name}: {parameter}; {default}{changeable}\n      {description}.\n");
    }
    text
}

/// All parameters as a table, for the documentation.
pub fn markdown_reference() -> String {
    let mut text = String::from("| parameter | | default | at run time | |\n|---|---|---|---|---|\n");
    for parameter in PARAMETERS {
        let default = if parameter.must_be_given() {
            "must be given".to_owned()
        } else {
            format!("`{}`", parameter.default)
        };
        let changeable = if parameter.is_changeable() { "yes" } else { "" };
        let Parameter { name, description, .. } = parameter;
        text += &format!("| `{name}` | {parameter} | {default} | {changeable} | {description} |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_parameter_is_described() {
        let names: BTreeSet<_> = PARAMETERS.iter().map(|parameter| parameter.name).collect();
        assert_eq!(names.len(), PARAMETERS.len());
        assert!(PARAMETERS.iter().all(|parameter| !parameter.description.is_empty()));
        assert!(CHANGEABLE.iter().all(|name| names.contains(name)));
    }

    #[test]
    fn rates_and_times_have_their_unit_in_name_and_table() {
        for parameter in PARAMETERS {
            assert_eq!(parameter.name.ends_with("_hz"), parameter.unit == "Hz", "{}", parameter.name);
            assert_eq!(parameter.name.ends_with("_ms"), parameter.unit == "ms", "{}", parameter.name);
        }
    }

    #[test]
    fn the_reference_says_type_range_unit_and_default() {
        let text = reference();
        assert!(text.contains("control_hz: a number from 0.1 to 1000 (Hz); default 50.0"), "{text}");
        assert!(text.contains("checkpoint: a text, not empty; must be given"), "{text}");
        assert!(text.contains("seed: an integer from 0; default 0\n"), "{text}");
        assert!(
            text.contains("blend_ms: a number from 1 to 10000 (ms); default 100.0; changeable at run time"),
            "{text}"
        );
    }
}
