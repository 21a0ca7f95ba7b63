//! Rules for texts that many fields share.

use skep_model::Refusal;
use std::collections::BTreeMap;

/// The longest single text of a spec, in bytes.
pub(super) const TEXT_MAX: usize = 128 * 1024;

/// A text that may become an argument, variable or path: no NUL, bounded.
pub(super) fn check(field: &str, text: &str) -> Result<(), Refusal> {
    if text.contains('\0') {
        return Err(Refusal::invalid(field, text, "it must not contain a NUL character"));
    }
    if text.len() > TEXT_MAX {
        return Err(Refusal::TooLarge { what: format!("{field} of {} bytes", text.len()), limit: format!("{TEXT_MAX} bytes") });
    }
    Ok(())
}

/// Labels have names.
pub(super) fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (key, value) in labels {
        check(field, key)?;
        check(field, value)?;
        if key.is_empty() {
            return Err(Refusal::invalid(field, format!("={value}"), "a label needs a name: KEY=VALUE"));
        }
    }
    Ok(())
}

/// An absolute path without `.`, `..` or empty parts, and not the root itself.
pub(super) fn check_absolute(field: &str, path: &str) -> Result<(), Refusal> {
    check(field, path)?;
    let Some(rest) = path.strip_prefix('/') else {
        return Err(Refusal::invalid(field, path, "it must be an absolute path"));
    };
    if rest.is_empty() {
        return Err(Refusal::invalid(field, path, "the root folder itself cannot be used"));
    }
    check_parts(field, path, rest.strip_suffix('/').unwrap_or(rest))
}

/// The parts of a path: none is empty, `.` or `..`.
pub(super) fn check_parts(field: &str, path: &str, parts: &str) -> Result<(), Refusal> {
    if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Refusal::invalid(field, path, "a path must not have empty parts, '.' or '..'"));
    }
    Ok(())
}
