//! Lines for people, as `inspect --pretty` prints them.

use super::text::printable;
use std::collections::BTreeMap;

/// A text that grows by lines; control characters in values are escaped.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// A line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(&printable(line.as_ref()));
        self.0.push('\n');
    }

    /// A line for a value that is not empty.
    pub fn some(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            self.line(format!("{label}{value}"));
        }
    }

    /// A line of words, each followed by a space, as docker prints lists.
    pub fn words(&mut self, label: &str, words: &[String]) {
        if !words.is_empty() {
            self.line(words.iter().fold(label.to_owned(), |line, word| line + word + " "));
        }
    }

    /// A title and a line for each entry.
    pub fn map(&mut self, title: &str, indent: &str, map: &BTreeMap<String, String>) {
        if !map.is_empty() {
            self.line(title);
        }
        for (key, value) in map {
            let equals = if value.is_empty() { "" } else { "=" };
            self.line(format!("{indent}{key}{equals}{value}"));
        }
    }

    /// A title and other lines, unless there are none.
    pub fn section(&mut self, title: &str, lines: Self) {
        if !lines.0.is_empty() {
            self.line(title);
            self.0.push_str(&lines.0);
        }
    }

    /// Text that has lines of its own, such as a certificate; its other control characters
    /// are escaped.
    pub fn block(&mut self, block: &str) {
        block.lines().for_each(|line| self.line(line));
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.0
    }
}
