//! Texts that others wrote (labels, variables, log lines), made fit for a terminal.

/// The text with its control characters escaped: what somebody stored cannot move the
/// cursor, colour what follows, or begin a line of its own.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(c),
            c if c.is_control() || is_format(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// The text for one cell of a table or one value of a line: tabs are escaped, too.
pub fn cell(text: &str) -> String {
    printable(text).replace('\t', "\\t")
}

/// Characters that change the direction or the separation of what follows.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How many columns a text takes at most: every character outside Latin may take two.
pub fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

fn width(c: char) -> usize {
    if u32::from(c) < 0x1100 { 1 } else { 2 }
}

/// The beginning of a text that takes at most so many columns.
pub fn shortened(text: &str, n_columns: usize) -> String {
    let mut left = n_columns;
    let fits = |c: &char| {
        let fits = width(*c) <= left;
        left = left.saturating_sub(width(*c));
        fits
    };
    text.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        let table = [
            ("plain é 見", "plain é 見", "plain é 見"),
            ("a\nb\r", "a\\nb\\r", "a\\nb\\r"),
            ("a\tb", "a\tb", "a\\tb"),
            ("\x1b[31mred", "\\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("a\u{202e}b\u{2028}", "a\\u{202e}b\\u{2028}", "a\\u{202e}b\\u{2028}"),
        ];
        for (text, line, one_cell) in table {
            assert_eq!((printable(text).as_str(), cell(text).as_str()), (line, one_cell), "{text:?}");
        }
    }

    #[test]
    fn a_shortened_text_fits() {
        assert_eq!((shortened("abc", 2).as_str(), shortened("見える", 5).as_str()), ("ab", "見え"));
        assert_eq!(columns("a見"), 3);
    }
}
