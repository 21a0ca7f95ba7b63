//! `--secret` and `--config`: a name, or `source=…,target=…,uid=…,gid=…,mode=…`,
//! and skep's own `version=N`.

use super::csv;
use skep_model::container::FileTarget;

/// What a service shall see of a secret or config; the source is not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Name or id.
    pub source: String,
    /// Follow the current version if `None`.
    pub version: Option<u64>,
    /// Where it appears.
    pub target: FileTarget,
}

/// Parses `--secret`; the target defaults to the name.
pub fn secret(text: &str) -> Result<File, String> {
    parse(text, |source| source.to_owned())
}

/// Parses `--config`; the target defaults to the name in the root folder.
pub fn config(text: &str) -> Result<File, String> {
    parse(text, |source| format!("/{source}"))
}

fn parse(text: &str, target: fn(&str) -> String) -> Result<File, String> {
    let mut file =
        File { source: String::new(), version: None, target: FileTarget { name: String::new(), uid: 0, gid: 0, mode: 0o444 } };
    let pairs = csv::pairs(text)?;
    if let [(_, None)] = &pairs[..] {
        file.source = text.to_owned();
    } else {
        for (key, value) in pairs {
            let value = value.ok_or_else(|| format!("invalid field '{key}' in {text:?}: it must be a key=value pair"))?;
            set(&mut file, &key, value)?;
        }
    }
    if file.source.is_empty() {
        return Err(format!("{text:?} has no source"));
    }
    if file.target.name.is_empty() {
        file.target.name = target(&file.source);
    }
    Ok(file)
}

fn set(file: &mut File, key: &str, value: String) -> Result<(), String> {
    let id = |value: &str| value.parse::<u32>().map_err(|_| format!("invalid {key} {value:?}: it must be a number"));
    match key {
        "source" | "src" => file.source = value,
        "target" => file.target.name = value,
        "uid" => file.target.uid = id(&value)?,
        "gid" => file.target.gid = id(&value)?,
        "mode" => file.target.mode = mode(&value)?,
        "version" => {
            let version = value.parse::<u64>().ok().filter(|version| *version > 0);
            file.version = Some(version.ok_or_else(|| format!("invalid version {value:?}: versions are 1, 2, 3, …"))?);
        }
        _ => return Err(format!("invalid field in secret or config reference: '{key}' is not known")),
    }
    Ok(())
}

/// As Go reads numbers: octal after `0`, hexadecimal after `0x`, else decimal.
fn mode(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => match text.strip_prefix("0o").or_else(|| text.strip_prefix('0')).filter(|rest| !rest.is_empty()) {
            Some(octal) => u32::from_str_radix(octal, 8),
            None => text.parse(),
        },
    };
    parsed.ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| format!("invalid mode {text:?}: write it as 0444"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_a_short_and_a_long_form() {
        let row = |file: File| (file.source, file.version, file.target.name, file.target.uid, file.target.gid, file.target.mode);
        let table = [
            ("db", Some(("db", None, "db", 0, 0, 0o444))),
            ("source=db,target=pw,uid=5,gid=6,mode=0400", Some(("db", None, "pw", 5, 6, 0o400))),
            ("src=db,version=3", Some(("db", Some(3), "db", 0, 0, 0o444))),
            ("src=db,mode=256", Some(("db", None, "db", 0, 0, 0o400))),
            ("src=db,target=/etc/pw", Some(("db", None, "/etc/pw", 0, 0, 0o444))),
            ("", None),
            ("target=x", None),
            ("src=db,mode=999999", None),
            ("src=db,uid=root", None),
            ("src=db,version=0", None),
            ("src=db,colour=red", None),
            ("src=db,target", None),
        ];
        for (text, expected) in table {
            let expected = expected
                .map(|(source, version, name, uid, gid, mode)| (source.to_owned(), version, name.to_owned(), uid, gid, mode));
            assert_eq!(secret(text).ok().map(row), expected, "{text}");
        }
        assert_eq!(config("app").expect("a config").target.name, "/app");
    }
}
