//! The six parameter services that `ros2 param` and rqt_reconfigure use, and `/parameter_events`. r2r's own know neither
//! ranges nor constraints nor that a parameter is read-only, so they are served here, on the spin thread.

use anyhow::Context;
use r2r::qos::QosProfile;
use r2r::rcl_interfaces::msg::{
    FloatingPointRange, IntegerRange, ListParametersResult, Parameter as Message, ParameterDescriptor,
    ParameterEvent, ParameterType, ParameterValue, SetParametersResult,
};
use r2r::rcl_interfaces::srv::{
    DescribeParameters, GetParameterTypes, GetParameters, ListParameters, SetParameters,
    SetParametersAtomically,
};

use super::clock::Clock;
use super::inputs::{Drain, ready};
use super::parameters::{Changed, Parameters, USE_SIM_TIME};
use crate::settings::{Allowed, DefaultValue, PARAMETERS, Parameter, Value};

// The types of parameters, as messages number them.
const NOT_SET: u8 = ParameterType::PARAMETER_NOT_SET as u8;
const BOOL: u8 = ParameterType::PARAMETER_BOOL as u8;
const INTEGER: u8 = ParameterType::PARAMETER_INTEGER as u8;
const DOUBLE: u8 = ParameterType::PARAMETER_DOUBLE as u8;
const STRING: u8 = ParameterType::PARAMETER_STRING as u8;
const BYTE_ARRAY: u8 = ParameterType::PARAMETER_BYTE_ARRAY as u8;
const BOOL_ARRAY: u8 = ParameterType::PARAMETER_BOOL_ARRAY as u8;
const INTEGER_ARRAY: u8 = ParameterType::PARAMETER_INTEGER_ARRAY as u8;
const DOUBLE_ARRAY: u8 = ParameterType::PARAMETER_DOUBLE_ARRAY as u8;
const STRING_ARRAY: u8 = ParameterType::PARAMETER_STRING_ARRAY as u8;

/// Offers the services.
pub fn serve(node: &mut r2r::Node, parameters: &Parameters, clock: &Clock) -> anyhow::Result<Vec<Drain>> {
    let events = Events::new(node, clock)?;
    events.publish(ParameterEvent {
        new_parameters: names().map(|name| message(name, parameters)).collect(),
        ..ParameterEvent::default()
    });
    let all = || parameters.clone();
    let (describing, getting, typing, setting, atomically) = (all(), all(), all(), all(), all());
    let (set_events, atomic_events) = (events.clone(), events);
    Ok(vec![
        service::<DescribeParameters::Service>(node, "describe_parameters", move |request| {
            let descriptors = request.names.iter().map(|name| descriptor(name, &describing)).collect();
            DescribeParameters::Response { descriptors }
        })?,
        service::<GetParameters::Service>(node, "get_parameters", move |request| {
            let values = request.names.iter().map(|name| value_of(name, &getting)).collect();
            GetParameters::Response { values }
        })?,
        service::<GetParameterTypes::Service>(node, "get_parameter_types", move |request| {
            let types = request.names.iter().map(|name| value_of(name, &typing).type_).collect();
            GetParameterTypes::Response { types }
        })?,
        service::<ListParameters::Service>(node, "list_parameters", |request| ListParameters::Response {
            result: list(&request.prefixes),
        })?,
        service::<SetParameters::Service>(node, "set_parameters", move |request| {
            let one = |message: &Message| set(std::slice::from_ref(message), &setting, &set_events);
            SetParameters::Response { results: request.parameters.iter().map(one).collect() }
        })?,
        service::<SetParametersAtomically::Service>(node, "set_parameters_atomically", move |request| {
            SetParametersAtomically::Response {
                result: set(&request.parameters, &atomically, &atomic_events),
            }
        })?,
    ])
}

/// A service below the node's name.
pub fn service<S: r2r::WrappedServiceTypeSupport + 'static>(
    node: &mut r2r::Node,
    name: &'static str,
    answer: impl Fn(&S::Request) -> S::Response + Send + 'static,
) -> anyhow::Result<Drain> {
    let mut requests = node
        .create_service::<S>(&format!("~/{name}"), QosProfile::parameters())
        .with_context(|| format!("cannot offer the service ~/{name}"))?;
    Ok(Box::new(move || {
        for request in ready(&mut requests) {
            let response = answer(&request.message);
            if let Err(error) = request.respond(response) {
                tracing::warn!("~/{name}: cannot answer: {error}");
            }
        }
    }))
}

fn names() -> impl Iterator<Item = &'static str> {
    PARAMETERS.iter().map(|parameter| parameter.name).chain([USE_SIM_TIME])
}

/// None of the names has a prefix of its own.
fn list(prefixes: &[String]) -> ListParametersResult {
    let wanted = |name: &&str| prefixes.is_empty() || prefixes.iter().any(|prefix| prefix == name);
    ListParametersResult { names: names().filter(wanted).map(str::to_owned).collect(), prefixes: Vec::new() }
}

fn value_of(name: &str, parameters: &Parameters) -> ParameterValue {
    parameters.get(name).map(|value| to_message(&value)).unwrap_or_default()
}

fn message(name: &str, parameters: &Parameters) -> Message {
    Message { name: name.to_owned(), value: value_of(name, parameters) }
}

/// Sets all or nothing, says so in the log and to who listens to parameter events.
fn set(messages: &[Message], parameters: &Parameters, events: &Events) -> SetParametersResult {
    let changes: Vec<(String, Value)> =
        messages.iter().map(|message| (message.name.clone(), from_message(&message.value))).collect();
    match parameters.set(&changes) {
        Ok(changed) => {
            announce(&changed, events);
            SetParametersResult { successful: true, reason: String::new() }
        }
        Err(reason) => {
            tracing::warn!("a parameter stays as it was: {reason}");
            SetParametersResult { successful: false, reason }
        }
    }
}

fn announce(changed: &[Changed], events: &Events) {
    changed.iter().for_each(|changed| tracing::info!("parameter {changed}"));
    if !changed.is_empty() {
        let message = |changed: &Changed| Message {
            name: changed.parameter.name.to_owned(),
            value: to_message(&changed.now),
        };
        events.publish(ParameterEvent {
            changed_parameters: changed.iter().map(message).collect(),
            ..ParameterEvent::default()
        });
    }
}

/// `/parameter_events`
#[derive(Clone)]
struct Events {
    publisher: r2r::Publisher<ParameterEvent>,
    node: String,
    clock: Clock,
}

impl Events {
    fn new(node: &mut r2r::Node, clock: &Clock) -> anyhow::Result<Self> {
        let publisher = node
            .create_publisher("/parameter_events", QosProfile::parameter_events())
            .context("cannot publish /parameter_events")?;
        Ok(Self { publisher, node: node.fully_qualified_name()?, clock: clock.clone() })
    }

    fn publish(&self, mut event: ParameterEvent) {
        (event.stamp.sec, event.stamp.nanosec) = self.clock.now().to_parts();
        event.node.clone_from(&self.node);
        if let Err(error) = self.publisher.publish(&event) {
            tracing::warn!("cannot publish /parameter_events: {error}");
        }
    }
}

/// What `ros2 param describe` shows.
fn descriptor(name: &str, parameters: &Parameters) -> ParameterDescriptor {
    let mut descriptor = ParameterDescriptor {
        name: name.to_owned(),
        type_: value_of(name, parameters).type_,
        read_only: parameters.is_read_only(name),
        ..ParameterDescriptor::default()
    };
    if name == USE_SIM_TIME {
        descriptor.description = "Whether the node's clock is the one on /clock".to_owned();
    }
    let Some(parameter) = Parameter::find(name) else { return descriptor };
    descriptor.description = parameter.description.to_owned();
    descriptor.additional_constraints = parameter.to_string();
    if parameter.is_changeable() {
        descriptor.additional_constraints += "; changeable at run time";
    }
    if let Allowed::Range(min, max) = parameter.allowed {
        match parameter.default {
            DefaultValue::Float(_) => {
                let range = FloatingPointRange { from_value: min, to_value: max, step: 0.0 };
                descriptor.floating_point_range.push(range);
            }
            DefaultValue::Integer(_) => {
                let range = IntegerRange { from_value: min as i64, to_value: max as i64, step: 1 };
                descriptor.integer_range.push(range);
            }
            _ => {}
        }
    }
    descriptor
}

fn to_message(value: &Value) -> ParameterValue {
    let mut message = ParameterValue::default();
    let kind = match value {
        Value::Bool(value) => {
            message.bool_value = *value;
            BOOL
        }
        Value::Integer(integer) => {
            message.integer_value = *integer;
            INTEGER
        }
        Value::Float(float) => {
            message.double_value = *float;
            DOUBLE
        }
        Value::Text(text) => {
            message.string_value.clone_from(text);
            STRING
        }
        Value::Integers(integers) => {
            message.integer_array_value.clone_from(integers);
            INTEGER_ARRAY
        }
        Value::Floats(floats) => {
            message.double_array_value.clone_from(floats);
            DOUBLE_ARRAY
        }
        Value::Texts(texts) => {
            message.string_array_value.clone_from(texts);
            STRING_ARRAY
        }
        Value::EmptyList | Value::Other(_) => NOT_SET,
    };
    message.type_ = kind;
    message
}

/// An empty list has the type that its sender happened to choose.
fn from_message(message: &ParameterValue) -> Value {
    let list = |empty: bool, value: Value| if empty { Value::EmptyList } else { value };
    match message.type_ {
        BOOL => Value::Bool(message.bool_value),
        INTEGER => Value::Integer(message.integer_value),
        DOUBLE => Value::Float(message.double_value),
        STRING => Value::Text(message.string_value.clone()),
        INTEGER_ARRAY => {
            let integers = &message.integer_array_value;
            list(integers.is_empty(), Value::Integers(integers.clone()))
        }
        DOUBLE_ARRAY => {
            let floats = &message.double_array_value;
            list(floats.is_empty(), Value::Floats(floats.clone()))
        }
        STRING_ARRAY => {
            let texts = &message.string_array_value;
            list(texts.is_empty(), Value::Texts(texts.clone()))
        }
        BOOL_ARRAY => list(message.bool_array_value.is_empty(), Value::Other("a list of true and false")),
        BYTE_ARRAY => list(message.byte_array_value.is_empty(), Value::Other("a list of bytes")),
        _ => Value::Other("nothing (a parameter cannot be removed)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_way_through_messages() {
        for parameter in PARAMETERS {
            let value = Value::from(parameter.default);
            let empty = matches!(&value, Value::Texts(texts) if texts.is_empty())
                || matches!(&value, Value::Integers(list) if list.is_empty())
                || matches!(&value, Value::Floats(list) if list.is_empty());
            let expected = if empty { Value::EmptyList } else { value.clone() };
            assert_eq!(from_message(&to_message(&value)), expected, "{}", parameter.name);
        }
        assert_eq!(
            from_message(&ParameterValue::default()),
            Value::Other("nothing (a parameter cannot be removed)")
        );
    }

    #[test]
    fn lists_of_names_can_be_narrowed() {
        assert_eq!(list(&[]).names.len(), PARAMETERS.len() + 1);
        assert_eq!(list(&["seed".to_owned(), "no_such".to_owned()]).names, ["seed"]);
    }
}
