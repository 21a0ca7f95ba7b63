//! Comma-separated `key=value` fields, with quotes where a value has a comma.

/// Splits one line of CSV: fields may be quoted with `"`, `""` is a quote.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.last_mut().expect("there is always a last field");
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if field.is_empty() => is_quoted = true,
            ',' if !is_quoted => fields.push(String::new()),
            _ => field.push(character),
        }
    }
    if is_quoted { Err(format!("{text:?} has a quote that does not end")) } else { Ok(fields) }
}

/// `(key, value)` pairs in lower-case keys; the value is `None` where there is no `=`.
pub fn pairs(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let split = |field: String| match field.split_once('=') {
        Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
        None => (field.to_ascii_lowercase(), None),
    };
    Ok(fields(text)?.into_iter().map(split).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hide_commas() {
        let table: [(&str, &[&str]); 4] =
            [("a=1,b", &["a=1", "b"]), ("\"a=1,2\",b", &["a=1,2", "b"]), ("\"a=\"\"x\"\"\"", &["a=\"x\""]), ("", &[""])];
        for (text, expected) in table {
            assert_eq!(fields(text).expect(text), expected, "{text}");
        }
        assert!(fields("\"a").is_err());
    }
}
