//! `/parameter_events`: what somebody set while a loop ran. Written by the recorder, followed by `replay`.

use serde::{Deserialize, Serialize};

use super::messages::Time;
use crate::settings::Value;

/// `rcl_interfaces/ParameterEvent`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ParameterEvent {
    pub stamp: Time,
    /// Fully qualified name.
    pub node: String,
    pub new_parameters: Vec<Parameter>,
    pub changed_parameters: Vec<Parameter>,
    pub deleted_parameters: Vec<Parameter>,
}

/// `rcl_interfaces/Parameter`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    pub name: String,
    pub value: ParameterValue,
}

/// `rcl_interfaces/ParameterValue`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ParameterValue {
    /// Which of the fields below counts.
    pub r#type: u8,
    pub bool_value: bool,
    pub integer_value: i64,
    pub double_value: f64,
    pub string_value: String,
    pub byte_array_value: Vec<u8>,
    pub bool_array_value: Vec<bool>,
    pub integer_array_value: Vec<i64>,
    pub double_array_value: Vec<f64>,
    pub string_array_value: Vec<String>,
}

impl ParameterEvent {
    pub const TYPE: &str = "rcl_interfaces/msg/ParameterEvent";

    /// Of a node whose parameters now have these values.
    pub fn changed<'a>(
        stamp: Time,
        node: &str,
        changes: impl IntoIterator<Item = (&'a str, &'a Value)>,
    ) -> Self {
        let parameter =
            |(name, value): (&str, &Value)| Parameter { name: name.to_owned(), value: value.into() };
        Self {
            stamp,
            node: node.to_owned(),
            changed_parameters: changes.into_iter().map(parameter).collect(),
            ..Self::default()
        }
    }
}

// `rcl_interfaces/ParameterType`
const NOT_SET: u8 = 0;
const BOOL: u8 = 1;
const INTEGER: u8 = 2;
const DOUBLE: u8 = 3;
const STRING: u8 = 4;
const INTEGER_ARRAY: u8 = 7;
const DOUBLE_ARRAY: u8 = 8;
const STRING_ARRAY: u8 = 9;

impl From<&Value> for ParameterValue {
    fn from(value: &Value) -> Self {
        let none = Self::default();
        match value.clone() {
            Value::Bool(value) => Self { r#type: BOOL, bool_value: value, ..none },
            Value::Integer(integer) => Self { r#type: INTEGER, integer_value: integer, ..none },
            Value::Float(float) => Self { r#type: DOUBLE, double_value: float, ..none },
            Value::Text(text) => Self { r#type: STRING, string_value: text, ..none },
            Value::Integers(integers) => {
                Self { r#type: INTEGER_ARRAY, integer_array_value: integers, ..none }
            }
            Value::Floats(floats) => Self { r#type: DOUBLE_ARRAY, double_array_value: floats, ..none },
            Value::Texts(texts) => Self { r#type: STRING_ARRAY, string_array_value: texts, ..none },
            Value::EmptyList => Self { r#type: STRING_ARRAY, ..none },
            Value::Other(_) => Self { r#type: NOT_SET, ..none },
        }
    }
}

/// An empty list has the type that its sender happened to choose.
impl From<&ParameterValue> for Value {
    fn from(value: &ParameterValue) -> Self {
        let list = |is_empty: bool, value: Value| if is_empty { Value::EmptyList } else { value };
        let ParameterValue { integer_array_value: integers, double_array_value: floats, .. } = value;
        let texts = &value.string_array_value;
        match value.r#type {
            BOOL => Self::Bool(value.bool_value),
            INTEGER => Self::Integer(value.integer_value),
            DOUBLE => Self::Float(value.double_value),
            STRING => Self::Text(value.string_value.clone()),
            INTEGER_ARRAY => list(integers.is_empty(), Self::Integers(integers.clone())),
            DOUBLE_ARRAY => list(floats.is_empty(), Self::Floats(floats.clone())),
            STRING_ARRAY => list(texts.is_empty(), Self::Texts(texts.clone())),
            _ => Self::Other("nothing that a parameter can be"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cdr;
    use super::*;

    #[test]
    fn values_survive_the_way_through_a_file() {
        let values = [
            Value::Bool(true),
            Value::Integer(-3),
            Value::Float(0.25),
            Value::Text("hold".to_owned()),
            Value::Integers(vec![10, 5]),
            Value::Floats(vec![0.5, -1.0]),
            Value::Texts(vec!["waist".to_owned(), String::new()]),
            Value::EmptyList,
        ];
        let changes = values.iter().map(|value| ("parameter", value));
        let event = ParameterEvent::changed(Time { sec: 7, nanosec: 8 }, "/pi0_node", changes);
        let read: ParameterEvent = cdr::decode(&cdr::encode(&event).unwrap()).unwrap();
        assert_eq!(read, event);
        let read: Vec<Value> = read.changed_parameters.iter().map(|read| (&read.value).into()).collect();
        assert_eq!(read, values);
    }
}
