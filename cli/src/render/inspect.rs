//! What `inspect` prints: objects as an array, or a template of each.

use crate::failure::Failure;
use serde::Serialize;
use skep_template::{Format, Shape};

/// The text for these objects, ending in a newline; `shape` is what they may have.
pub fn render<T: Serialize>(objects: &[T], shape: Shape, format: Option<&str>) -> Result<String, Failure> {
    match Format::parse(format.unwrap_or(""))? {
        Format::Template(template) => {
            let mut text = String::new();
            for object in objects {
                text.push_str(&template.render_shaped(&serde_json::to_value(object).map_err(unprintable)?, shape)?);
                text.push('\n');
            }
            Ok(text)
        }
        Format::Json => Ok(format!("{}\n", serde_json::to_string(objects).map_err(unprintable)?)),
        Format::Table if format.is_none_or(str::is_empty) => Ok(format!("{}\n", indented(objects)?)),
        _ => Err(Failure::usage("the format of inspect is json or a Go template")),
    }
}

/// With four spaces for each level, as docker prints it.
fn indented<T: Serialize>(objects: &[T]) -> Result<String, Failure> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    objects.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).map_err(unprintable)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn unprintable(error: serde_json::Error) -> Failure {
    Failure::refused(format!("cannot print the object: {error}"))
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
