//! Placeholders in a service's spec: they parse, and name what there is.
//!
//! The agent fills them in; a mistake is told to the user who made it.

use skep_model::Refusal;
use skep_model::container::check::has_placeholder;
use skep_template::Template;

/// What a placeholder may name, as in Swarm.
const KNOWN: &[&[&str]] = &[
    &["Service", "ID"],
    &["Service", "Name"],
    &["Service", "Labels"],
    &["Node", "ID"],
    &["Node", "Hostname"],
    &["Node", "Platform", "Architecture"],
    &["Node", "Platform", "OS"],
    &["Task", "ID"],
    &["Task", "Name"],
    &["Task", "Slot"],
];

/// Checks the placeholders of one field.
pub(super) fn check(field: &str, text: &str) -> Result<(), Refusal> {
    if !has_placeholder(text) {
        return Ok(());
    }
    let template = Template::parse(text).map_err(|error| Refusal::invalid(field, text, error.to_string()))?;
    for used in template.fields() {
        let path: Vec<&str> = used.path.iter().map(String::as_str).collect();
        // The value of one label, `.Service.Labels.KEY`, has one more part.
        let is_label = path.len() == 3 && path.starts_with(&["Service", "Labels"]);
        if !is_label && !KNOWN.contains(&path.as_slice()) {
            let known: Vec<String> = KNOWN.iter().map(|path| format!("{{{{.{}}}}}", path.join("."))).collect();
            let reason = format!("placeholder .{} is not known; there are {}", path.join("."), known.join(", "));
            return Err(Refusal::invalid(field, text, reason));
        }
    }
    Ok(())
}
