//! The value of `--format`, as the docker CLI reads it.

use serde_json::{Map, Value};

use crate::render::{Mode, render};
use crate::tree::Node;
use crate::{Functions, Settings, Template, TemplateError};

/// A parsed `--format`.
#[derive(Debug, Clone)]
pub enum Format {
    /// `table`, or nothing: the command's own columns.
    Table,
    /// `table TEMPLATE`: a header line, then rows, aligned at tabs.
    Columns(Template),
    /// `json`: one JSON object a line.
    Json,
    /// `raw`: one `key: value` a line.
    Raw,
    /// Any other text: one rendering per object.
    Template(Template),
}

impl Format {
    /// Parses what the user gave; `\t` and `\n` may be written as escapes.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let parse = |text: &str| Template::parse(&text.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n"));
        match text {
            "" | "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "raw" => Ok(Self::Raw),
            _ => match text.strip_prefix("table ") {
                Some(columns) if columns.trim().is_empty() => Ok(Self::Table),
                Some(columns) => parse(columns).map(Self::Columns),
                None => parse(text).map(Self::Template),
            },
        }
    }
}

pub(crate) fn header(source: &str, nodes: &[Node], headers: Map<String, Value>) -> Result<String, TemplateError> {
    render(source, nodes, &Value::Object(headers), &mut Headers, Settings::default(), Mode::Header)
}

/// The one method that headers have.
struct Headers;

impl Functions for Headers {
    fn method(&mut self, _: &Value, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (name, arguments) {
            ("Label", [Value::String(key)]) => {
                let last = key.rsplit('.').next().unwrap_or(key);
                Some(Ok(Value::String(last.replace(['-', '_'], " "))))
            }
            _ => None,
        }
    }
}
