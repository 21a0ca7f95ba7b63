//! `--ulimit TYPE=SOFT[:HARD]`; −1 is unlimited.

use skep_model::container::{ULIMITS, Ulimit};

/// Parses one limit.
pub fn parse(text: &str) -> Result<Ulimit, String> {
    let invalid = |reason: &str| format!("invalid ulimit {text:?}: {reason}");
    let (name, limits) = text.split_once('=').ok_or_else(|| invalid("write it as TYPE=SOFT[:HARD]"))?;
    if !ULIMITS.contains(&name) {
        return Err(invalid(&format!("the types are {}", ULIMITS.join(", "))));
    }
    let number = |text: &str| text.parse::<i64>().ok().filter(|n| *n >= -1).ok_or_else(|| invalid("a limit is a number, or -1"));
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    let ulimit = Ulimit { name: name.to_owned(), soft, hard };
    if !ulimit.is_ordered() {
        return Err(invalid("the soft limit must not be above the hard limit"));
    }
    Ok(ulimit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_soft_and_a_hard_side() {
        let table = [
            ("nofile=1024", Some((1024, 1024))),
            ("nofile=1024:2048", Some((1024, 2048))),
            ("core=-1", Some((-1, -1))),
            ("core=0:-1", Some((0, -1))),
            ("nofile=3:2", None),
            ("nofile=-1:2", None),
            ("nofile=-2", None),
            ("nofile", None),
            ("files=1", None),
            ("nofile=x", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).ok().map(|ulimit| (ulimit.soft, ulimit.hard)), expected, "{text}");
        }
    }
}
