//! Rules for texts that many fields share.
//!
//! The limits are those of what a text becomes on a node: the kernel takes no longer
//! argument and no longer path, so what is longer is refused where it is asked for.

use crate::Refusal;
use std::collections::BTreeMap;

/// The longest single text of a spec, in bytes: an argument or a variable with its name.
/// Linux gives each 32 pages (`MAX_ARG_STRLEN`), the byte that ends it included.
pub const TEXT_MAX: usize = 128 * 1024 - 1;
/// The longest path in a container, in bytes: of the 4,095 that Linux takes, a fourth is
/// left to the folder that is the container's root on its node.
pub const PATH_MAX: usize = 3 * 1024;
/// The longest part of a path, in bytes (`NAME_MAX`).
pub const PATH_PART_MAX: usize = 255;

/// A text that may become an argument, variable or path: no NUL, bounded.
///
/// # Errors
/// Names the field.
pub fn check(field: &str, text: &str) -> Result<(), Refusal> {
    if text.contains('\0') {
        return Err(Refusal::invalid(field, text, "it must not contain a NUL character"));
    }
    check_length(field, text)
}

/// A text that is not too long.
///
/// # Errors
/// Names the field; the text, which is long or confidential, is not repeated.
pub fn check_length(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_MAX {
        return Err(Refusal::TooLarge { what: format!("{field} of {} bytes", text.len()), limit: format!("{TEXT_MAX} bytes") });
    }
    Ok(())
}

/// Labels have names.
///
/// # Errors
/// Names the field and the label.
pub fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (key, value) in labels {
        check(field, key)?;
        check(field, value)?;
        if key.is_empty() {
            return Err(Refusal::invalid(field, format!("={value}"), "a label needs a name: KEY=VALUE"));
        }
    }
    Ok(())
}

/// Whether a text stays on its line and in its field of `hosts` and `resolv.conf`.
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

/// A path that is not too long for a node, as a whole and in each part.
///
/// # Errors
/// Names the field.
pub fn check_path(field: &str, path: &str) -> Result<(), Refusal> {
    check(field, path)?;
    if path.len() > PATH_MAX {
        return Err(Refusal::TooLarge { what: format!("{field} of {} bytes", path.len()), limit: format!("{PATH_MAX} bytes") });
    }
    match path.split('/').find(|part| part.len() > PATH_PART_MAX) {
        Some(part) => Err(Refusal::TooLarge {
            what: format!("a part of {} bytes of the {field}", part.len()),
            limit: format!("{PATH_PART_MAX} bytes"),
        }),
        None => Ok(()),
    }
}

/// An absolute path without `.`, `..` or empty parts, and not the root itself.
///
/// # Errors
/// Names the field.
pub fn check_absolute(field: &str, path: &str) -> Result<(), Refusal> {
    check_path(field, path)?;
    let Some(rest) = path.strip_prefix('/') else {
        return Err(Refusal::invalid(field, path, "it must be an absolute path"));
    };
    if rest.is_empty() {
        return Err(Refusal::invalid(field, path, "the root folder itself cannot be used"));
    }
    check_parts(field, path, rest.strip_suffix('/').unwrap_or(rest))
}

/// The parts of a path: none is empty, `.` or `..`.
///
/// # Errors
/// Names the field and the whole path.
pub fn check_parts(field: &str, path: &str, parts: &str) -> Result<(), Refusal> {
    if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Refusal::invalid(field, path, "a path must not have empty parts, '.' or '..'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_fits_a_node() {
        let deep = format!("/{}", "a/".repeat(PATH_MAX / 2 - 1));
        let table = [
            ("/a/b", ""),
            ("/a/b/", ""),
            (&format!("/{}", "a".repeat(PATH_PART_MAX)), ""),
            (&format!("/{}", "a".repeat(PATH_PART_MAX + 1)), "a part of 256 bytes of the target is too large"),
            (&deep, ""),
            (&format!("{deep}aaa"), "target of 3074 bytes is too large"),
            ("a", "it must be an absolute path"),
            ("/", "the root folder itself"),
            ("//", "empty parts"),
            ("/a//b", "empty parts"),
            ("/a/../b", "empty parts"),
            ("/a\0", "NUL"),
        ];
        for (path, refused) in table {
            let said = check_absolute("target", path).err().map(|refusal| refusal.to_string()).unwrap_or_default();
            assert!(if refused.is_empty() { said.is_empty() } else { said.contains(refused) }, "{path:?}: {said}");
        }
    }

    #[test]
    fn a_text_is_as_long_as_an_argument() {
        assert_eq!(check("argument", &"a".repeat(TEXT_MAX)), Ok(()));
        assert!(matches!(check("argument", &"a".repeat(TEXT_MAX + 1)), Err(Refusal::TooLarge { .. })));
    }
}
