//! ROS 2 parameters by the parameter table: what was given becomes [`Settings`], everything is declared with its value
//! and description, and the parameter services answer. Called once, at start.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};

use anyhow::Context;
use r2r::indexmap::IndexMap;
use r2r::{ParameterValue, RosParams};

use crate::settings::{PARAMETERS, Parameter, Settings, Value, complete};

/// What the node was started with.
pub struct Parameters {
    pub settings: Settings,
    /// The value of every parameter that was given.
    pub given: BTreeMap<String, Value>,
    pub use_sim_time: bool,
    /// Answers the parameter services; to be polled after every spin.
    pub services: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Reads and declares the node's parameters.
pub fn declare(node: &mut r2r::Node) -> anyhow::Result<Parameters> {
    let given = given(node)?;
    let settings = Settings::from_values(&given)?;
    let (values, _) = complete(&given);
    let use_sim_time = use_sim_time(node)?;
    let declared = Arc::new(Mutex::new(Declared(values)));
    let (services, _changes) =
        node.make_derived_parameter_handler(declared).context("cannot offer the parameter services")?;
    Ok(Parameters { settings, given, use_sim_time, services: Box::pin(services) })
}

/// Parameters from the command line and parameter files, as they stand there.
fn given(node: &r2r::Node) -> anyhow::Result<BTreeMap<String, Value>> {
    let params = node.params.lock().ok().context("the node's parameters cannot be read")?;
    let given = params
        .iter()
        .filter(|(_, parameter)| parameter.value != ParameterValue::NotSet)
        .map(|(name, parameter)| (name.clone(), from_ros(&parameter.value)));
    Ok(given.collect())
}

/// Whether `/clock` is the node's clock.
pub fn use_sim_time(node: &r2r::Node) -> anyhow::Result<bool> {
    let value: Option<bool> =
        node.get_parameter("use_sim_time").context("use_sim_time must be true or false")?;
    Ok(value.unwrap_or(false))
}

fn from_ros(value: &ParameterValue) -> Value {
    match value {
        ParameterValue::String(text) => Value::Text(text.clone()),
        ParameterValue::Integer(integer) => Value::Integer(*integer),
        ParameterValue::Double(float) => Value::Float(*float),
        ParameterValue::StringArray(texts) => Value::Texts(texts.clone()),
        ParameterValue::IntegerArray(integers) => Value::Integers(integers.clone()),
        ParameterValue::Bool(value) => Value::Bool(*value),
        ParameterValue::BoolArray(_) => Value::Other("a list of true and false"),
        ParameterValue::ByteArray(_) => Value::Other("a list of bytes"),
        ParameterValue::DoubleArray(floats) => Value::Floats(floats.clone()),
        ParameterValue::NotSet => Value::Other("nothing"),
    }
}

fn to_ros(value: &Value) -> ParameterValue {
    match value {
        Value::Text(text) => ParameterValue::String(text.clone()),
        Value::Integer(integer) => ParameterValue::Integer(*integer),
        Value::Float(float) => ParameterValue::Double(*float),
        Value::Texts(texts) => ParameterValue::StringArray(texts.clone()),
        Value::Integers(integers) => ParameterValue::IntegerArray(integers.clone()),
        Value::Floats(floats) => ParameterValue::DoubleArray(floats.clone()),
        Value::Bool(value) => ParameterValue::Bool(*value),
        Value::EmptyList | Value::Other(_) => ParameterValue::NotSet,
    }
}

/// What is declared about a parameter: its description with type, range and unit, for which r2r has no fields. r2r wants a
/// text that is there for ever, so it is made once.
fn description(parameter: &Parameter) -> &'static str {
    static DESCRIPTIONS: LazyLock<BTreeMap<&str, String>> = LazyLock::new(|| {
        let describe = |parameter: &'static Parameter| {
            (parameter.name, format!("{}; {parameter}", parameter.description))
        };
        PARAMETERS.iter().map(describe).collect()
    });
    DESCRIPTIONS.get(parameter.name).map_or(parameter.description, String::as_str)
}

/// The values in use, for r2r's parameter services. They are fixed while the node runs.
struct Declared(BTreeMap<&'static str, Value>);

impl RosParams for Declared {
    fn register_parameters(
        &mut self,
        _prefix: &str,
        _parameter: Option<r2r::Parameter>,
        declared: &mut IndexMap<String, r2r::Parameter>,
    ) -> r2r::Result<()> {
        for parameter in PARAMETERS {
            let value = self.get_parameter(parameter.name)?;
            let description = description(parameter);
            declared.insert(parameter.name.to_owned(), r2r::Parameter { value, description });
        }
        Ok(())
    }

    fn get_parameter(&mut self, name: &str) -> r2r::Result<ParameterValue> {
        self.0.get(name).map(to_ros).ok_or_else(|| r2r::Error::InvalidParameterName { name: name.to_owned() })
    }

    fn set_parameter(&mut self, name: &str, value: &ParameterValue) -> r2r::Result<()> {
        self.check_parameter(name, value)
    }

    fn check_parameter(&self, name: &str, _value: &ParameterValue) -> r2r::Result<()> {
        Err(r2r::Error::ParameterValueConv {
            name: name.to_owned(),
            msg: "parameters are read when the node starts; restart it with the new value".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> Declared {
        let given = BTreeMap::from([("seed".to_owned(), Value::Integer(7))]);
        Declared(complete(&given).0)
    }

    #[test]
    fn every_parameter_is_declared_with_value_description_range_and_unit() {
        let mut params = IndexMap::new();
        declared().register_parameters("", None, &mut params).unwrap();
        assert_eq!(params.len(), PARAMETERS.len());
        assert_eq!(params["seed"].value, ParameterValue::Integer(7));
        assert_eq!(params["control_hz"].value, ParameterValue::Double(50.0));
        assert!(params["checkpoint"].description.starts_with("Checkpoint folder"));
        let described =
            "Largest difference between the stamps of one frame set; a number from 0 to 1000 (ms)";
        assert_eq!(params["sync_tolerance_ms"].description, described);
    }

    #[test]
    fn a_change_while_running_is_refused_with_the_reason() {
        let error = declared().set_parameter("seed", &ParameterValue::Integer(8)).unwrap_err();
        assert!(error.to_string().contains("restart it with the new value"), "{error}");
    }
}
