//! `--env` and `--env-file`.

use std::path::Path;

/// The largest file of variables, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// `KEY=VALUE`, or `KEY` for the value that this program sees (nothing if none).
pub fn variable(text: &str) -> Result<Option<String>, String> {
    resolve(text, |key| std::env::var(key).ok())
}

fn resolve(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    let key = text.split_once('=').map_or(text, |(key, _)| key);
    if key.is_empty() {
        // The value may be confidential.
        let shown = if text.is_empty() { "" } else { "=…" };
        return Err(format!(
            "invalid environment variable {shown:?}: it has no name; write it as KEY=VALUE, or as KEY for the value of this shell"
        ));
    }
    if text.contains('=') { Ok(Some(text.to_owned())) } else { Ok(lookup(key).map(|value| format!("{key}={value}"))) }
}

/// The variables of a file: a line each, `#` begins a comment line.
pub fn file(path: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("cannot read the environment file {}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_MAX {
        return Err(format!("the environment file {} is too large: the limit is {FILE_MAX} bytes", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    lines(&text).map_err(|reason| format!("the environment file {}: {reason}", path.display()))
}

fn lines(text: &str) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split_once('=').map_or(line, |(key, _)| key);
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!("line {}: the name of a variable is missing or holds white space", n + 1));
        }
        variables.extend(resolve(line, |key| std::env::var(key).ok())?);
    }
    Ok(variables)
}

/// Sets variables: a later one of the same key takes the place of an earlier one.
pub fn merge(variables: &mut Vec<String>, added: impl IntoIterator<Item = String>) {
    for variable in added {
        let key = key(&variable).to_owned();
        match variables.iter_mut().find(|existing| self::key(existing) == key) {
            Some(existing) => *existing = variable,
            None => variables.push(variable),
        }
    }
}

/// The name of a variable.
pub fn key(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_takes_the_callers_value() {
        let lookup = |key: &str| (key == "HOME").then(|| "/root".to_owned());
        assert_eq!(resolve("HOME", lookup), Ok(Some("HOME=/root".into())));
        assert_eq!(resolve("NONE", lookup), Ok(None));
        assert_eq!(resolve("A=", lookup), Ok(Some("A=".into())));
        for (text, shown) in [("", "\"\""), ("=hunter2", "\"=…\"")] {
            let error = resolve(text, lookup).expect_err("it has no name");
            let begin = format!("invalid environment variable {shown}: it has no name; write it as KEY=VALUE");
            assert!(error.starts_with(&begin) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn files_have_comments_and_no_white_space_in_names() {
        assert_eq!(lines("# c\n\nA=1\n  B= x # y\n"), Ok(vec!["A=1".into(), "B= x # y".into()]));
        assert!(lines("A B=1").is_err_and(|error| error.starts_with("line 1")));
    }

    #[test]
    fn the_last_value_wins_in_the_first_place() {
        let mut variables = vec!["A=1".to_owned(), "B=2".to_owned()];
        merge(&mut variables, ["A=3".to_owned(), "C=4".to_owned()]);
        assert_eq!(variables, ["A=3", "B=2", "C=4"]);
    }
}
