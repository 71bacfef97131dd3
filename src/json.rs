//! JSON that others wrote, as what it should be; errors name the key that is wrong. Used by whoever reads a checkpoint's files.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A file's text as an object that reads as `T`.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    typed(value)
}

/// A value as an object that reads as `T`. Without the first look a list would be taken for the object's values in their order.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let kind = match value {
        Value::Object(_) => None,
        Value::Null => Some("null"),
        Value::Bool(_) => Some("true or false"),
        Value::Number(_) => Some("a number"),
        Value::String(_) => Some("a text"),
        Value::Array(_) => Some("a list"),
    };
    if let Some(kind) = kind {
        return Err(format!("it is {kind}, but must be an object: {{\"key\": value, ..}}"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        key => format!("'{key}': {}", error.inner()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn errors_name_the_key() {
        let read = parse::<BTreeMap<String, Vec<f64>>>;
        assert_eq!(read(r#"{"mean": [1, 2.5]}"#).unwrap()["mean"], [1.0, 2.5]);
        let error = read(r#"{"mean": [0, "x"]}"#).unwrap_err();
        assert!(error.starts_with("'mean[1]': invalid type: string \"x\""), "{error}");
        assert!(read(r#"{"mean": ["#).unwrap_err().starts_with("EOF"));
    }

    #[test]
    fn what_is_no_object_is_said() {
        for (text, kind) in [("[1, 2]", "a list"), ("null", "null"), ("\"x\"", "a text"), ("1", "a number")] {
            assert!(parse::<Value>(text).unwrap_err().starts_with(&format!("it is {kind}, but must be")));
        }
    }
}
