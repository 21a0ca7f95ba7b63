//! Names of objects and their limits, as Swarm has them.

use crate::Refusal;

/// The longest name of a service, network or node, in bytes.
pub const NAME_MAX: usize = 63;
/// The longest name of a secret or config, in bytes.
pub const SECRET_NAME_MAX: usize = 64;

/// Checks the name of a service or network: letters and digits, joined by
/// `-` or `_`, at most 63 bytes (Swarm: `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`).
pub fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    let form = "a name consists of letters, digits, '-' and '_', begins and ends with a letter or digit";
    check(field, name, NAME_MAX, form, |byte| matches!(byte, b'-' | b'_'))
}

/// Checks the name of a secret or config: as [`check_name`], with `.` allowed
/// inside, at most 64 bytes (Swarm: `^[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?$`).
pub fn check_secret_name(field: &str, name: &str) -> Result<(), Refusal> {
    let form = "a name consists of letters, digits, '-', '_' and '.', begins and ends with a letter or digit";
    check(field, name, SECRET_NAME_MAX, form, |byte| matches!(byte, b'-' | b'_' | b'.'))
}

fn check(field: &str, name: &str, max: usize, form: &str, inner: fn(u8) -> bool) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid(field, name, "a name must be given"));
    }
    if name.len() > max {
        return Err(Refusal::invalid(field, name, format!("a name has at most {max} characters, this one has {}", name.len())));
    }
    let bytes = name.as_bytes();
    let ends = [bytes[0], bytes[bytes.len() - 1]];
    let valid =
        ends.iter().all(u8::is_ascii_alphanumeric) && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || inner(byte));
    if valid { Ok(()) } else { Err(Refusal::invalid(field, name, form)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_swarms_rules() {
        let long = "a".repeat(64);
        let table = [
            ("web", true, true),
            ("a-b_c", true, true),
            ("a--b", true, true),
            ("db.password", false, true),
            ("-web", false, false),
            ("web-", false, false),
            ("", false, false),
            ("w b", false, false),
            ("wéb", false, false),
            (long.as_str(), false, true),
        ];
        for (name, service, secret) in table {
            assert_eq!(check_name("name", name).is_ok(), service, "{name}");
            assert_eq!(check_secret_name("name", name).is_ok(), secret, "{name}");
        }
    }
}
