//! The parsed form of a template. Positions are byte offsets into its source.

use serde_json::Value;

/// A piece of a template, in order of output.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

/// A block with a condition; an `else if` is the only node of `otherwise`.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    pub(crate) pipeline: Pipeline,
    pub(crate) body: Vec<Node>,
    pub(crate) otherwise: Vec<Node>,
}

/// `$x := a | b c`. Two variables only in a range.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    pub(crate) variables: Vec<String>,
    /// `=` instead of `:=`.
    pub(crate) assigns: bool,
    pub(crate) commands: Vec<Command>,
}

/// An operand and its arguments; never empty.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) words: Vec<Operand>,
}

/// A term, and the fields that follow it without a space.
#[derive(Debug, Clone)]
pub(crate) struct Operand {
    pub(crate) at: usize,
    pub(crate) term: Term,
    pub(crate) fields: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Term {
    /// `.`, and what the fields of `.A.B` start from.
    Dot,
    Nil,
    /// A number, string or boolean as written.
    Literal(Value),
    /// With its `$`; `$` alone is the data.
    Variable(String),
    Function(String),
    Group(Box<Pipeline>),
}

impl Operand {
    /// How the operand is written, for error messages.
    pub(crate) fn text(&self) -> String {
        let mut text = match &self.term {
            Term::Dot if self.fields.is_empty() => ".".to_owned(),
            Term::Dot => String::new(),
            Term::Nil => "nil".to_owned(),
            Term::Literal(value) => value.to_string(),
            Term::Variable(name) | Term::Function(name) => name.clone(),
            Term::Group(_) => "(…)".to_owned(),
        };
        for field in &self.fields {
            text.push('.');
            text.push_str(field);
        }
        text
    }
}
