//! The subset of Go's `text/template` that Swarm's users meet: `--format` of the
//! CLI, placeholders such as `{{.Node.Hostname}}` in a service, and the payload
//! templates of secrets and configs.
//!
//! Supported are fields, pipelines, parentheses, variables, `if`, `with` and
//! `range` with `else`, `break` and `continue`, comments, trim markers, Go's own
//! functions except `call`, and those the docker CLI adds. Not supported, and
//! refused by name, are `define`, `template` and `block`.
//!
//! What holds:
//! - Parsing and rendering never panic, whatever the text and the data.
//! - Both are bounded: input, nesting, steps and output have a maximum, so a
//!   manager may render what a user sent.
//! - Rendering is a function of its arguments: maps are walked in key order and
//!   nothing is read from outside, except through the caller's [`Functions`].
//!
//! Data are JSON values. Where Go distinguishes a struct from a map, JSON
//! cannot: a field that an object lacks is an error, as with Go's
//! `missingkey=error`, except below the fields that [`Settings::maps`] names, and
//! except for those that [`Settings::shape`] knows: these are nil or zero.

mod fields;
mod format;
mod function;
mod lex;
mod number;
mod parse;
mod printf;
mod render;
mod shape;
mod tree;

use std::fmt;

use serde_json::Value;

pub use fields::FieldUse;
pub use format::Format;
pub use shape::{Known, Shape};

/// The longest template, in bytes.
pub const INPUT_MAX: usize = 1 << 20;
/// How deep blocks and parentheses may nest.
pub const DEPTH_MAX: usize = 100;
/// The longest output, and the longest string on the way to it, in bytes.
pub const OUTPUT_MAX: usize = 16 << 20;
/// How many operands one rendering may evaluate.
pub const STEPS_MAX: usize = 4_000_000;

/// Why a template was refused or could not be rendered, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Line in the template, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
    /// What is wrong, in the words of Go's `text/template` where it has some.
    pub text: String,
}

impl TemplateError {
    fn new(source: &str, at: usize, text: impl Into<String>) -> Self {
        let before = &source.as_bytes()[..at.min(source.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        Self {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + before.len() - line_start,
            text: text.into(),
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template: :{}:{}: {}", self.line, self.column, self.text)
    }
}

impl std::error::Error for TemplateError {}

/// What a caller adds to a template's vocabulary while it is rendered.
///
/// Both methods answer `None` for a name that is not theirs, and `Some(Err)`
/// with a sentence for a call that fails.
pub trait Functions {
    /// Calls a function whose name was given to [`Template::parse_with`].
    fn call(&mut self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let _ = (name, arguments);
        None
    }

    /// Calls a method of a value, as in `{{.Label "k"}}`. A method comes before
    /// a field of the same name if it is given arguments, and after it if not.
    ///
    /// The default is docker's `Label`: the entry of the receiver's `Labels`,
    /// or an empty string.
    fn method(&mut self, receiver: &Value, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (name, receiver.get("Labels"), arguments) {
            ("Label", Some(Value::Object(labels)), [Value::String(key)]) => {
                Some(Ok(labels.get(key).cloned().unwrap_or_else(|| Value::String(String::new()))))
            }
            _ => None,
        }
    }
}

/// Adds nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFunctions;

impl Functions for NoFunctions {}

/// What a field gives that a map lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Prints `<no value>`, Go's default and the docker CLI's.
    NoValue,
    /// Fails, as Swarm does for placeholders.
    Error,
}

/// How to render.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Fields whose value is a map with keys of the user's choice; any other
    /// object is like a struct, whose missing field is always an error.
    pub maps: &'static [&'static str],
    /// What a missing key of such a map gives.
    pub missing: Missing,
    /// What the data may have beside what they have.
    pub shape: Shape,
}

impl Default for Settings {
    fn default() -> Self {
        let maps = &["Labels", "Options", "Attributes", "Containers", "Services", "Sysctls", "DriverOpts"];
        Self { maps, missing: Missing::NoValue, shape: &[] }
    }
}

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    source: String,
    nodes: Vec<tree::Node>,
}

impl Template {
    /// Parses a template that uses the built-in functions only.
    ///
    /// # Errors
    /// Bad syntax, an unknown function or variable, or a limit exceeded.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        Self::parse_with(source, &[])
    }

    /// Parses a template that may also call the named functions; what they do
    /// is given to [`Template::render_with`].
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse_with(source: &str, functions: &[&str]) -> Result<Self, TemplateError> {
        if source.len() > INPUT_MAX {
            return Err(TemplateError::new("", 0, format!("template is longer than {INPUT_MAX} bytes")));
        }
        let nodes = parse::parse(source, functions)?;
        Ok(Self { source: source.to_owned(), nodes })
    }

    /// Renders with default [`Settings`] and no functions of the caller's.
    ///
    /// # Errors
    /// A field the data lack, a call with wrong arguments, or a limit exceeded.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        self.render_with(data, &mut NoFunctions, Settings::default())
    }

    /// Renders data of which more is known than they show: see [`Settings::shape`].
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_shaped(&self, data: &Value, shape: Shape) -> Result<String, TemplateError> {
        self.render_with(data, &mut NoFunctions, Settings { shape, ..Settings::default() })
    }

    /// Renders with the caller's functions and settings.
    ///
    /// # Errors
    /// As [`Template::render`], and whatever a function of the caller's answers.
    pub fn render_with(&self, data: &Value, functions: &mut dyn Functions, settings: Settings) -> Result<String, TemplateError> {
        render::render(&self.source, &self.nodes, data, functions, settings, render::Mode::Body)
    }

    /// Renders the header line of a `table` format: `headers` maps a field to
    /// its header, functions such as `upper` and `json` leave headers alone,
    /// and `.Label "a.b-c"` gives `b c`, all as in the docker CLI.
    ///
    /// # Errors
    /// As [`Template::render`]; a field without a header gives `<no value>`.
    pub fn header(&self, headers: &[(&str, &str)]) -> Result<String, TemplateError> {
        let headers = headers.iter().map(|(field, header)| ((*field).to_owned(), Value::from(*header))).collect();
        format::header(&self.source, &self.nodes, headers)
    }

    /// Every field path that the template reads from its data, in order of
    /// appearance: `["Spec", "Name"]`; an element of a list is `"*"`. Paths that
    /// depend on a function's result are not listed.
    pub fn fields(&self) -> Vec<FieldUse> {
        fields::fields(&self.source, &self.nodes)
    }
}

#[cfg(test)]
mod tests;
