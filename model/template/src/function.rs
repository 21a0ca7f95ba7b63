//! The functions a template may call: Go's own, and those of the docker CLI.
//! `and` and `or` are not here, as they leave arguments unevaluated.

use std::cmp::Ordering;

use serde_json::Value;

use crate::{OUTPUT_MAX, number, printf};

const BUILT_IN: [&str; 28] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice", "print", "printf", "println", "html", "js",
    "urlquery", "json", "join", "split", "lower", "upper", "title", "pad", "truncate", "trim", "contains",
];

pub(crate) fn is_built_in(name: &str) -> bool {
    BUILT_IN.contains(&name)
}

/// Calls a built-in function; `None` if there is none of that name.
///
/// The output may be longer than the limit by a constant factor only; the
/// caller checks it.
pub(crate) fn call(name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
    if !is_built_in(name) {
        return None;
    }
    Some(expect_count(name, arguments).and_then(|()| built_in(name, arguments)))
}

fn built_in(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let string = |nth: usize| string(&arguments[nth]);
    let text = match name {
        "not" => return Ok(Value::Bool(!is_true(&arguments[0]))),
        "eq" => return equals_any(arguments).map(Value::Bool),
        "ne" => return equal(&arguments[0], &arguments[1]).map(|equal| Value::Bool(!equal)),
        "lt" | "le" | "gt" | "ge" => return ordered(name, &arguments[0], &arguments[1]).map(Value::Bool),
        "len" => return len(&arguments[0]).map(Value::from),
        "index" => return index(arguments),
        "slice" => return slice(arguments),
        "split" => return split(string(0)?, string(1)?),
        "contains" => return Ok(Value::Bool(string(0)?.contains(string(1)?))),
        "print" => print(arguments),
        "println" => println(arguments),
        "printf" => printf::printf(string(0)?, &arguments[1..])?,
        "html" => escape_html(&print(arguments)),
        "js" => escape_js(&print(arguments)),
        "urlquery" => escape_query(&print(arguments)),
        "json" => arguments[0].to_string(),
        "join" => join(&arguments[0], string(1)?)?,
        "lower" => string(0)?.to_lowercase(),
        "upper" => string(0)?.to_uppercase(),
        "title" => title(string(0)?),
        "trim" => string(0)?.trim().to_owned(),
        "pad" => pad(string(0)?, integer(&arguments[1])?, integer(&arguments[2])?)?,
        "truncate" => truncate(string(0)?, integer(&arguments[1])?),
        _ => return Err(format!("function {name:?} not defined")),
    };
    Ok(Value::String(text))
}

fn expect_count(name: &str, arguments: &[Value]) -> Result<(), String> {
    let (least, exact) = match name {
        "not" | "len" | "json" | "lower" | "upper" | "title" | "trim" => (1, true),
        "ne" | "lt" | "le" | "gt" | "ge" | "join" | "split" | "truncate" | "contains" => (2, true),
        "pad" => (3, true),
        "eq" | "index" | "slice" | "printf" => (1, false),
        _ => (0, false),
    };
    let got = arguments.len();
    if got < least || exact && got > least {
        let at_least = if exact { "" } else { "at least " };
        return Err(format!("wrong number of args for {name}: want {at_least}{least} got {got}"));
    }
    Ok(())
}

/// Go's truth: what is not empty, zero, false or missing.
pub(crate) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}

/// What Go would call the type of a value decoded from JSON.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Appends a value as Go's `%v` prints it.
pub(crate) fn display(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number::print(number)),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { " " });
                display(item, out);
            }
            out.push(']');
        }
        Value::Object(entries) => {
            out.push_str("map[");
            for (n, (key, value)) in in_order(entries).into_iter().enumerate() {
                out.push_str(if n == 0 { "" } else { " " });
                out.push_str(key);
                out.push(':');
                display(value, out);
            }
            out.push(']');
        }
    }
}

/// The entries by key, whatever order the map itself keeps.
pub(crate) fn in_order(entries: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

fn string(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("wrong type for value; expected string; got {}", type_name(value)))
}

fn integer(value: &Value) -> Result<i64, String> {
    value.as_i64().ok_or_else(|| format!("wrong type for value; expected int; got {}", type_name(value)))
}

/// Go's Sprint: a space between two operands of which neither is a string.
fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (n, argument) in arguments.iter().enumerate() {
        if n > 0 && !argument.is_string() && !arguments[n - 1].is_string() {
            out.push(' ');
        }
        display(argument, &mut out);
    }
    out
}

fn println(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (n, argument) in arguments.iter().enumerate() {
        out.push_str(if n == 0 { "" } else { " " });
        display(argument, &mut out);
    }
    out.push('\n');
    out
}

fn equals_any(arguments: &[Value]) -> Result<bool, String> {
    let [first, others @ ..] = arguments else {
        return Err("missing argument for comparison".to_owned());
    };
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    match (left, right) {
        (Value::Null, _) | (_, Value::Null) => Ok(left == right),
        (Value::Array(_) | Value::Object(_), _) => Err(format!("non-comparable type {}", type_name(left))),
        (_, Value::Array(_) | Value::Object(_)) => Err(format!("non-comparable type {}", type_name(right))),
        (Value::Bool(left), Value::Bool(right)) => Ok(left == right),
        (Value::String(left), Value::String(right)) => Ok(left == right),
        // JSON does not tell 1 from 1.0, so neither do we.
        (Value::Number(_), Value::Number(_)) => Ok(compare_numbers(left, right) == Some(Ordering::Equal)),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn ordered(name: &str, left: &Value, right: &Value) -> Result<bool, String> {
    let ordering = match (left, right) {
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Number(_), Value::Number(_)) => compare_numbers(left, right).ok_or("invalid type for comparison")?,
        (Value::String(_) | Value::Number(_), Value::String(_) | Value::Number(_)) => {
            return Err("incompatible types for comparison".to_owned());
        }
        _ => return Err("invalid type for comparison".to_owned()),
    };
    Ok(match name {
        "lt" => ordering.is_lt(),
        "le" => ordering.is_le(),
        "gt" => ordering.is_gt(),
        _ => ordering.is_ge(),
    })
}

fn compare_numbers(left: &Value, right: &Value) -> Option<Ordering> {
    let wide = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    match (wide(left), wide(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

fn len(value: &Value) -> Result<usize, String> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(entries) => Ok(entries.len()),
        _ => Err(format!("len of type {}", type_name(value))),
    }
}

/// A position in something of the given length; `closed` allows the end itself.
fn position(value: &Value, length: usize, closed: bool) -> Result<usize, String> {
    let Value::Number(number) = value else {
        return Err(format!("cannot index slice/array with type {}", type_name(value)));
    };
    let at = number.as_i64().ok_or_else(|| format!("cannot index slice/array with type {}", type_name(value)))?;
    match usize::try_from(at) {
        Ok(at) if at < length || closed && at == length => Ok(at),
        _ => Err(format!("index out of range: {at}")),
    }
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let mut value = &arguments[0];
    for key in &arguments[1..] {
        value = match value {
            Value::Array(items) => &items[position(key, items.len(), false)?],
            Value::String(text) => {
                let byte = text.as_bytes()[position(key, text.len(), false)?];
                return Ok(Value::from(byte));
            }
            Value::Object(entries) => match entries.get(string(key)?) {
                Some(value) => value,
                // A map of strings gives its zero value, as in Go.
                None if entries.values().all(Value::is_string) => return Ok(Value::String(String::new())),
                None => return Ok(Value::Null),
            },
            Value::Null => return Err("index of untyped nil".to_owned()),
            _ => return Err(format!("can't index item of type {}", type_name(value))),
        };
    }
    Ok(value.clone())
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let length = match &arguments[0] {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => return Err(format!("can't slice item of type {}", type_name(other))),
    };
    if arguments.len() > 3 {
        return Err(format!("too many slice indexes: {}", arguments.len() - 1));
    }
    let start = arguments.get(1).map_or(Ok(0), |start| position(start, length, true))?;
    let end = arguments.get(2).map_or(Ok(length), |end| position(end, length, true))?;
    if start > end {
        return Err(format!("invalid slice index: {start} > {end}"));
    }
    match &arguments[0] {
        Value::Array(items) => Ok(Value::Array(items[start..end].to_vec())),
        Value::String(text) => {
            text.get(start..end).map(Value::from).ok_or_else(|| format!("slice {start}:{end} cuts a character in two"))
        }
        _ => Ok(Value::Null),
    }
}

fn split(text: &str, separator: &str) -> Result<Value, String> {
    // Each part costs far more than its bytes.
    const PARTS_MAX: usize = OUTPUT_MAX / 64;
    let parts: Vec<Value> = if separator.is_empty() {
        text.chars().take(PARTS_MAX + 1).map(|c| Value::from(c.to_string())).collect()
    } else {
        text.split(separator).take(PARTS_MAX + 1).map(Value::from).collect()
    };
    if parts.len() > PARTS_MAX {
        return Err(format!("split gives more than {PARTS_MAX} parts"));
    }
    Ok(Value::Array(parts))
}

fn join(list: &Value, separator: &str) -> Result<String, String> {
    let Value::Array(items) = list else {
        return Err(format!("wrong type for value; expected []string; got {}", type_name(list)));
    };
    if separator.len().saturating_mul(items.len()) > OUTPUT_MAX {
        return Err(format!("join gives more than {OUTPUT_MAX} bytes"));
    }
    let mut out = String::new();
    for (n, item) in items.iter().enumerate() {
        out.push_str(if n == 0 { "" } else { separator });
        display(item, &mut out);
    }
    Ok(out)
}

/// Upper-cases the first letter of each word.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous = ' ';
    for c in text.chars() {
        let inside = previous.is_alphanumeric() || matches!(previous, '_' | '\'');
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        previous = c;
    }
    out
}

/// Spaces before and after, unless the text is empty.
fn pad(text: &str, before: i64, after: i64) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let spaces = |count: i64| match usize::try_from(count) {
        Ok(count) if count <= OUTPUT_MAX => Ok(" ".repeat(count)),
        _ => Err(format!("pad: not a number of spaces: {count}")),
    };
    Ok(format!("{}{text}{}", spaces(before)?, spaces(after)?))
}

/// The first characters; nothing for a negative length.
fn truncate(text: &str, length: i64) -> String {
    text.chars().take(usize::try_from(length).unwrap_or(0)).collect()
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            _ if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out
}

fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
