//! Lists of objects under `--format` and `--quiet`.

use super::table;
use crate::failure::Failure;
use serde_json::{Map, Value};
use skep_template::{Format, Template};

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
            Format::Template(template) => self.lines(&template),
        }
    }

    fn columns(&self, template: &Template) -> Result<String, Failure> {
        let mut text = template.header(self.headers)?;
        text.push('\n');
        text.push_str(&self.lines(template)?);
        Ok(table::align(&text))
    }

    fn lines(&self, template: &Template) -> Result<String, Failure> {
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(&template.render(row)?);
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
