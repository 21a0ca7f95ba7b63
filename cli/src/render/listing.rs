//! Lists of objects under `--format` and `--quiet`.

use super::{table, text};
use crate::failure::Failure;
use serde_json::{Map, Value};
use skep_template::{Format, Functions, Settings, Template};
use std::collections::BTreeMap;

/// A list that can be printed: rows of fields, with the columns it shows by itself.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The columns shown by default, as a template with tabs.
    pub columns: &'static str,
    /// `(field, header)` of every field.
    pub headers: &'static [(&'static str, &'static str)],
    /// `(label, field)` of the form `raw`; empty = this list has no such form.
    pub raw: &'static [(&'static str, &'static str)],
    /// One object each; all have the same fields.
    pub rows: Vec<Value>,
    /// What `{{.Label "key"}}` looks up, for each row; empty = this list has no labels.
    pub labels: Vec<Labels>,
    /// What `--quiet` prints of each row.
    pub quiet: Vec<String>,
}

impl Listing {
    /// The text of the list, ending in a newline unless it is empty.
    pub fn render(&self, format: Option<&str>, quiet: bool) -> Result<String, Failure> {
        let format = Format::parse(format.unwrap_or(""))?;
        if quiet && matches!(format, Format::Table | Format::Columns(_)) {
            return Ok(self.quiet.iter().map(|id| format!("{id}\n")).collect());
        }
        match format {
            Format::Table => self.columns(&Template::parse(self.columns)?),
            Format::Columns(template) => self.columns(&template),
            Format::Json => Ok(self.rows.iter().map(|row| format!("{row}\n")).collect()),
            Format::Raw if self.raw.is_empty() => {
                Err(Failure::usage("this list has no format \"raw\"; use table, json or a template"))
            }
            Format::Raw => Ok(self.rows.iter().map(|row| self.raw(row, quiet)).collect()),
            Format::Template(template) => self.lines(&self.rows, &template, str::to_owned),
        }
    }

    fn columns(&self, template: &Template) -> Result<String, Failure> {
        let mut text = template.header(self.headers)?;
        text.push('\n');
        let cells: Vec<Value> = self.rows.iter().map(cells).collect();
        text.push_str(&self.lines(&cells, template, text::cell)?);
        Ok(table::align(&text))
    }

    /// A line for each row, with labels as `shown` has them.
    fn lines(&self, rows: &[Value], template: &Template, shown: fn(&str) -> String) -> Result<String, Failure> {
        let mut text = String::new();
        for (n, row) in rows.iter().enumerate() {
            let mut methods = Methods { labels: self.labels.get(n), shown };
            text.push_str(&template.render_with(row, &mut methods, Settings::default())?);
            text.push('\n');
        }
        Ok(text)
    }

    fn raw(&self, row: &Value, quiet: bool) -> String {
        let shown = if quiet { &self.raw[..1] } else { self.raw };
        let text: String = shown.iter().map(|(label, field)| format!("{label}: {}\n", plain(&row[field]))).collect();
        if quiet { text } else { format!("{text}\n") }
    }
}

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Labels as docker's lists have them: one text.
pub fn labels(labels: &Labels) -> Value {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",").into()
}

/// The one method of a row: the value of a label, which is empty if there is none of that name.
struct Methods<'a> {
    labels: Option<&'a Labels>,
    shown: fn(&str) -> String,
}

impl Functions for Methods<'_> {
    fn method(&mut self, _: &Value, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (name, self.labels, arguments) {
            ("Label", Some(labels), [Value::String(key)]) => {
                Some(Ok((self.shown)(labels.get(key).map_or("", String::as_str)).into()))
            }
            _ => None,
        }
    }
}

/// A row whose texts cannot break the table or move the cursor.
fn cells(row: &Value) -> Value {
    match row {
        Value::String(text) => Value::String(text::cell(text)),
        Value::Array(items) => items.iter().map(cells).collect(),
        Value::Object(fields) => fields.iter().map(|(field, value)| (field.clone(), cells(value))).collect(),
        other => other.clone(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A row from its fields.
pub fn row<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::Object(fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect::<Map<String, Value>>())
}

/// The first twelve characters of an id.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_control_characters_and_a_template_gives_the_text() {
        let listing = Listing {
            columns: "{{.Name}}\t{{.Label \"tier\"}}\t{{.Ports}}",
            headers: &[("Name", "NAME"), ("Ports", "PORTS")],
            raw: &[],
            rows: vec![row([("Name", "a\tb\n".into()), ("Ports", "80".into())])],
            labels: vec![Labels::from([("tier".into(), "\u{1b}[2J".into())])],
            quiet: Vec::new(),
        };
        let text = listing.render(None, false).expect("a table");
        assert_eq!(text, "NAME      tier        PORTS\na\\tb\\n    \\u{1b}[2J   80\n");
        assert_eq!(listing.render(Some("{{.Name}}"), false).expect("a text"), "a\tb\n\n");
        assert_eq!(listing.render(Some("{{.Label \"tier\"}}|{{.Label \"x\"}}"), false).expect("a text"), "\u{1b}[2J|\n");
    }
}
