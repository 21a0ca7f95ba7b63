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

/// A mode is octal, with or without a 0 in front. Docker reads one without as a decimal number (its `256` is 0400); what
/// could be meant so is refused, with the fix, rather than taken for another mode.
fn mode(text: &str) -> Result<u32, String> {
    let invalid = |reason: String| format!("invalid mode {text:?}: {reason}");
    let (digits, is_plain) = match text.strip_prefix("0o").or_else(|| text.strip_prefix('0')) {
        Some(digits) => (digits, false),
        None => (text, true),
    };
    let is_octal = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    if text == "0" {
        return Ok(0);
    }
    let mode = Some(digits).filter(|digits| is_octal(digits)).and_then(|digits| u32::from_str_radix(digits, 8).ok());
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let decimal = || text.parse::<u32>().ok().filter(|mode| is_number && *mode <= 0o777);
    let meant = |mode: Option<u32>| match mode {
        Some(mode) => format!("a mode is octal: write {mode:04o} if that is meant"),
        None => "a mode is octal: write it as 0444".to_owned(),
    };
    match mode {
        // Three digits, each of which lets somebody read or nobody do anything.
        Some(mode) if is_plain && digits.len() == 3 && digits.bytes().all(|digit| b"04567".contains(&digit)) => Ok(mode),
        Some(_) if is_plain => Err(invalid(meant(decimal()))),
        Some(mode) if mode <= 0o7777 => Ok(mode),
        Some(_) => Err(invalid("the highest is 07777".into())),
        None => Err(invalid(meant(decimal()))),
    }
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
            ("src=db,mode=400", Some(("db", None, "db", 0, 0, 0o400))),
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

    #[test]
    fn a_mode_is_octal_and_an_odd_one_is_refused_with_the_fix() {
        for (text, expected) in [
            ("0400", 0o400),
            ("400", 0o400),
            ("0o400", 0o400),
            ("00400", 0o400),
            ("444", 0o444),
            ("440", 0o440),
            ("600", 0o600),
            ("755", 0o755),
            ("0111", 0o111),
            ("04755", 0o4755),
            ("0", 0),
            ("0000", 0),
        ] {
            assert_eq!(mode(text), Ok(expected), "{text}");
        }
        for (text, fix) in [
            ("256", "write 0400 if"),
            ("292", "write 0444 if"),
            ("288", "write 0440 if"),
            ("420", "write 0644 if"),
            ("511", "write 0777 if"),
            ("4", "write 0004 if"),
            ("44", "write 0054 if"),
            ("0x100", "write it as 0444"),
            ("0888", "write it as 0444"),
            ("04 0", "write it as 0444"),
            ("-400", "write it as 0444"),
            ("+400", "write it as 0444"),
            ("4444", "write it as 0444"),
            ("u=r", "write it as 0444"),
            ("", "write it as 0444"),
            ("0o", "write it as 0444"),
            ("017777", "the highest is 07777"),
        ] {
            let error = mode(text).expect_err(text);
            assert!(error.contains(fix) && error.contains(&format!("{text:?}")), "{text}: {error}");
        }
    }
}
