//! What `inspect` prints: objects as an array, or a template of each.

use crate::failure::Failure;
use serde::Serialize;
use serde_json::Value;
use skep_template::{Format, Shape};

/// The text for these objects, ending in a newline; `shape` is what they may have.
pub fn render(objects: &[Value], shape: Shape, format: Option<&str>) -> Result<String, Failure> {
    match Format::parse(format.unwrap_or(""))? {
        Format::Template(template) => {
            let mut text = String::new();
            for object in objects {
                text.push_str(&template.render_shaped(object, shape)?);
                text.push('\n');
            }
            Ok(text)
        }
        Format::Json => Ok(format!("{}\n", Value::from(objects.to_vec()))),
        Format::Table if format.is_none_or(str::is_empty) => Ok(format!("{}\n", indented(&Value::from(objects.to_vec())))),
        _ => Err(Failure::usage("the format of inspect is json or a Go template")),
    }
}

/// With four spaces for each level, as docker prints it.
fn indented(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, serde_json::ser::PrettyFormatter::with_indent(b"    "));
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        // A value of JSON that was just built can be written; the short form says the same.
        Err(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_have_three_forms() {
        let objects = [json!({ "ID": "a" }), json!({ "ID": "b" })];
        assert_eq!(render(&objects, &[], Some("{{.ID}}")).expect("a template"), "a\nb\n");
        assert_eq!(render(&objects, &[], Some("json")).expect("json"), "[{\"ID\":\"a\"},{\"ID\":\"b\"}]\n");
        assert_eq!(render(&objects[..1], &[], None).expect("json"), "[\n    {\n        \"ID\": \"a\"\n    }\n]\n");
        assert!(render(&objects, &[], Some("{{.Missing}}")).is_err() && render(&objects, &[], Some("table")).is_err());
    }
}
