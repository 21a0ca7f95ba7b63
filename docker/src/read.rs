//! Reading of Docker's JSON: null and absent are the zero value, as in Go; what does not fit is
//! refused with the path of its field, and so is what this version does not know.
//!
//! A refusal never shows a value that was given, since some of them are secrets.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use skep_model::Refusal;

/// An object of Docker's JSON; `what` names it to whoever sent it.
///
/// # Errors
/// Names the field.
pub(crate) fn read<T: DeserializeOwned + Serialize>(what: &str, text: &str) -> Result<T, Refusal> {
    let refuse = |reason: String| Refusal::invalid(what, "", reason);
    let value: Value = serde_json::from_str(text)
        .map_err(|error| refuse(format!("it is not JSON: line {}, column {}", error.line(), error.column())))?;
    if !value.is_object() {
        return Err(refuse("it must be a JSON object".into()));
    }
    let given = without_nulls(value);
    let Ok(read) = T::deserialize(&given) else {
        let (path, value) = culprit::<T>(&given);
        let reason = format!("{} does not belong there: see the documentation of Docker's API", kind(value));
        return Err(Refusal::invalid(field(&path), "", reason));
    };
    let written = serde_json::to_value(&read).map_err(|_| refuse("it cannot be written again".into()))?;
    match unknown(&given, &written, &mut Vec::new()) {
        Some(path) => Err(Refusal::invalid(field(&path), "", "it is not supported by this version of skep: leave it out")),
        None => Ok(read),
    }
}

fn field(path: &[String]) -> String {
    if path.is_empty() { "object".into() } else { path.join(".") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number of this size or sign",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// The path of the innermost value that does not read, and the value. Each is tried alone, so
/// that the work grows with the text and its depth only.
fn culprit<T: DeserializeOwned>(given: &Value) -> (Vec<String>, &Value) {
    let (mut path, mut at) = (Vec::new(), given);
    loop {
        let fails = |value: Value| T::deserialize(alone(&path, value)).is_err();
        let children: Vec<(Step, &Value)> = match at {
            // Not even an empty one belongs there.
            Value::Object(_) if fails(Value::Object(Map::new())) => Vec::new(),
            Value::Array(_) if fails(Value::Array(Vec::new())) => Vec::new(),
            Value::Object(fields) => fields.iter().map(|(key, value)| (Step::Key(key.clone()), value)).collect(),
            Value::Array(items) => items.iter().enumerate().map(|(n, value)| (Step::Item(n), value)).collect(),
            _ => Vec::new(),
        };
        let fails = |(step, value): &(Step, &Value)| fails(step.around((*value).clone()));
        match children.into_iter().find(fails) {
            Some((step, value)) => {
                path.push(step);
                at = value;
            }
            None => return (path.iter().map(Step::name).collect(), at),
        }
    }
}

/// A step from a value into it.
enum Step {
    Key(String),
    Item(usize),
}

impl Step {
    fn name(&self) -> String {
        match self {
            Self::Key(key) => key.clone(),
            Self::Item(n) => n.to_string(),
        }
    }

    /// A value that has nothing else at this step.
    fn around(&self, value: Value) -> Value {
        match self {
            Self::Key(key) => Value::Object(Map::from_iter([(key.clone(), value)])),
            Self::Item(_) => Value::Array(vec![value]),
        }
    }
}

/// A value with nothing beside it up to the root; whatever is absent is zero.
fn alone(path: &[Step], value: Value) -> Value {
    path.iter().rev().fold(value, |value, step| step.around(value))
}

/// The path of the first value that was given and is not zero, and that what was read lacks.
fn unknown(given: &Value, read: &Value, path: &mut Vec<String>) -> Option<Vec<String>> {
    let mut step = |key: String, value: &Value, read: Option<&Value>| {
        path.push(key);
        let found = match read {
            Some(read) => unknown(value, read, path),
            None if is_zero(value) => None,
            None => Some(path.clone()),
        };
        path.pop();
        found
    };
    match (given, read) {
        (Value::Object(given), Value::Object(read)) => {
            given.iter().find_map(|(key, value)| step(key.clone(), value, read.get(key)))
        }
        (Value::Array(given), Value::Array(read)) => {
            given.iter().enumerate().find_map(|(n, value)| step(n.to_string(), value, read.get(n)))
        }
        _ => None,
    }
}

/// Whether a value is Go's zero value, within objects, too.
fn is_zero(value: &Value) -> bool {
    let all_zero = |fields: &Map<String, Value>| fields.values().all(is_zero);
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => all_zero(fields),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Sample {
        name: String,
        ports: Vec<Port>,
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Port {
        number: u16,
    }

    fn refusal(text: &str) -> String {
        read::<Sample>("sample", text).expect_err("it is refused").to_string()
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path_and_never_shown() {
        for (text, expected) in [
            ("{", "invalid sample: it is not JSON: line 1, column 1"),
            ("[]", "invalid sample: it must be a JSON object"),
            (r#"{"Ports":[{"Number":1},{"Number":"hunter2"}]}"#, "invalid Ports.1.Number: a string does not belong there"),
            (r#"{"Ports":{"hunter2":{}}}"#, "invalid Ports: an object does not belong there"),
            (r#"{"Ports":[{"Number":-1}]}"#, "invalid Ports.0.Number: a number of this size or sign"),
            (r#"{"Ports":[{"Nubmer":7}]}"#, "invalid Ports.0.Nubmer: it is not supported by this version"),
            (r#"{"Driver":{"Name":"hunter2"}}"#, "invalid Driver: it is not supported by this version"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.starts_with(expected) && !refusal.contains("hunter2"), "{text}: {refusal}");
        }
    }

    #[test]
    fn null_and_zero_are_nothing() {
        let text = r#"{"Name":null,"Ports":[{"Number":7,"Gone":null}],"Driver":{"Name":"","Options":{}},"TTY":false}"#;
        let expected = Sample { name: String::new(), ports: vec![Port { number: 7 }] };
        assert_eq!(read::<Sample>("sample", text), Ok(expected));
    }
}
