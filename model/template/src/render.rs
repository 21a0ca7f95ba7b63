//! Walks a tree and writes its output. Values are borrowed from the data as
//! long as possible; steps, output and intermediate strings are bounded.

use std::borrow::Cow;

use serde_json::Value;

use crate::function::{self, display, is_true, type_name};
use crate::shape::{self, Known, Shapes};
use crate::tree::{Branch, Command, Node, Operand, Pipeline, Term};
use crate::{Functions, Missing, OUTPUT_MAX, STEPS_MAX, Settings, TemplateError};

/// What is being rendered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Body,
    /// Headers in place of values: functions that would change a header's text
    /// give it back, and a field without a header is no error.
    Header,
}

pub(crate) fn render(
    source: &str,
    nodes: &[Node],
    data: &Value,
    functions: &mut dyn Functions,
    settings: Settings,
    mode: Mode,
) -> Result<String, TemplateError> {
    let variables = vec![("$", Cow::Borrowed(data))];
    let shapes = Shapes::of(data, settings.shape);
    let mut renderer = Renderer { source, functions, settings, shapes, mode, variables, out: String::new(), steps: 0, at: 0 };
    renderer.list(nodes, &Cow::Borrowed(data))?;
    Ok(renderer.out)
}

struct Renderer<'t> {
    source: &'t str,
    functions: &'t mut dyn Functions,
    settings: Settings,
    shapes: Shapes,
    mode: Mode,
    variables: Vec<(&'t str, Cow<'t, Value>)>,
    out: String,
    steps: usize,
    /// The operand last looked at, for errors that have no place of their own.
    at: usize,
}

/// Whether a loop goes on after a list of nodes.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

type Dot<'t> = Cow<'t, Value>;

impl<'t> Renderer<'t> {
    fn error<T>(&self, at: usize, text: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::new(self.source, at, text))
    }

    /// An error in the words of Go: what was executed, and why it failed.
    fn failed<T>(&self, operand: &Operand, why: &str) -> Result<T, TemplateError> {
        self.error(operand.at, format!("executing \"\" at <{}>: {why}", operand.text()))
    }

    fn write(&mut self, text: &str) -> Result<(), TemplateError> {
        if self.out.len() + text.len() > OUTPUT_MAX {
            return self.error(self.at, format!("output is longer than {OUTPUT_MAX} bytes"));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn step(&mut self) -> Result<(), TemplateError> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return self.error(self.at, format!("rendering takes more than {STEPS_MAX} steps"));
        }
        Ok(())
    }

    /// Copying a value takes as many steps as it is large, or a loop over a few
    /// steps could copy for hours.
    fn copy(&mut self, value: &Value) -> Result<Value, TemplateError> {
        self.steps += weight(value);
        self.step()?;
        Ok(value.clone())
    }

    fn share(&mut self, value: &Dot<'t>) -> Result<Dot<'t>, TemplateError> {
        match value {
            Cow::Borrowed(value) => Ok(Cow::Borrowed(value)),
            Cow::Owned(value) => self.copy(value).map(Cow::Owned),
        }
    }

    fn list(&mut self, nodes: &'t [Node], dot: &Dot<'t>) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.step()?;
                    self.write(text)?;
                    Flow::On
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.print(&value)?;
                    }
                    Flow::On
                }
                Node::If(branch) | Node::With(branch) => self.condition(branch, dot, matches!(node, Node::With(_)))?,
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn print(&mut self, value: &Dot<'t>) -> Result<(), TemplateError> {
        match value {
            // A key that a map lacks; what is nil in the data is borrowed.
            Cow::Owned(Value::Null) => self.write("<no value>"),
            Cow::Borrowed(Value::String(text)) => self.write(text),
            Cow::Owned(Value::String(text)) => self.write(text),
            _ => {
                let mut text = String::new();
                display(value, &mut text);
                self.write(&text)
            }
        }
    }

    /// Go's truth of what an operand gave: an object is true even without fields,
    /// unless it is a map.
    fn is_true(&self, operand: Option<&Operand>, value: &Value) -> bool {
        let is_struct = |name: &String| !self.settings.maps.contains(&name.as_str());
        match (operand.and_then(|operand| operand.fields.last()), value) {
            (Some(name), Value::Object(_)) if is_struct(name) => true,
            _ => is_true(value),
        }
    }

    fn condition(&mut self, branch: &'t Branch, dot: &Dot<'t>, sets_dot: bool) -> Result<Flow, TemplateError> {
        let n_variables = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        let flow = match self.is_true(single(&branch.pipeline), &value) {
            true => self.list(&branch.body, if sets_dot { &value } else { dot }),
            false => self.list(&branch.otherwise, dot),
        };
        self.variables.truncate(n_variables);
        flow
    }

    fn range(&mut self, branch: &'t Branch, dot: &Dot<'t>) -> Result<Flow, TemplateError> {
        let n_variables = self.variables.len();
        let value = self.commands(&branch.pipeline, dot)?;
        let flow = self.range_over(branch, dot, &value);
        self.variables.truncate(n_variables);
        flow
    }

    fn range_over(&mut self, branch: &'t Branch, dot: &Dot<'t>, value: &Dot<'t>) -> Result<Flow, TemplateError> {
        let mut n_turns = 0;
        let mut turn = |key: Value, item: Dot<'t>| {
            n_turns += 1;
            self.turn(branch, key, item)
        };
        match value {
            Cow::Borrowed(Value::Array(items)) => {
                for (n, item) in items.iter().enumerate() {
                    if turn(Value::from(n), Cow::Borrowed(item))? == Flow::Break {
                        break;
                    }
                }
            }
            Cow::Owned(Value::Array(items)) => {
                for (n, item) in items.iter().enumerate() {
                    if turn(Value::from(n), Cow::Owned(item.clone()))? == Flow::Break {
                        break;
                    }
                }
            }
            Cow::Borrowed(Value::Object(entries)) => {
                for (key, item) in function::in_order(entries) {
                    if turn(Value::from(key.as_str()), Cow::Borrowed(item))? == Flow::Break {
                        break;
                    }
                }
            }
            Cow::Owned(Value::Object(entries)) => {
                for (key, item) in function::in_order(entries) {
                    if turn(Value::from(key.as_str()), Cow::Owned(item.clone()))? == Flow::Break {
                        break;
                    }
                }
            }
            other if other.is_null() => {}
            other if other.is_i64() || other.is_u64() => {
                for n in 0..other.as_i64().unwrap_or(i64::MAX) {
                    if turn(Value::from(n), Cow::Owned(Value::from(n)))? == Flow::Break {
                        break;
                    }
                }
            }
            other => {
                let text = format!("range can't iterate over {}", type_name(other));
                return self.failed(&branch.pipeline.commands[0].words[0], &text);
            }
        }
        match n_turns {
            0 => self.list(&branch.otherwise, dot),
            _ => Ok(Flow::On),
        }
    }

    fn turn(&mut self, branch: &'t Branch, key: Value, item: Dot<'t>) -> Result<Flow, TemplateError> {
        self.step()?;
        let n_variables = self.variables.len();
        let pipeline = &branch.pipeline;
        match &pipeline.variables[..] {
            [name] => self.set(pipeline.assigns, name, item.clone()),
            [index, name] => {
                self.set(pipeline.assigns, index, Cow::Owned(key));
                self.set(pipeline.assigns, name, item.clone());
            }
            _ => {}
        }
        let flow = self.list(&branch.body, &item);
        self.variables.truncate(n_variables);
        flow
    }

    fn set(&mut self, assigns: bool, name: &'t str, value: Dot<'t>) {
        let existing = self.variables.iter_mut().rev().find(|(existing, _)| assigns && *existing == name);
        match existing {
            Some((_, place)) => *place = value,
            None => self.variables.push((name, value)),
        }
    }

    /// Evaluates a pipeline and sets its variable.
    fn pipeline(&mut self, pipeline: &'t Pipeline, dot: &Dot<'t>) -> Result<Dot<'t>, TemplateError> {
        let value = self.commands(pipeline, dot)?;
        if let [name] = &pipeline.variables[..] {
            let value = self.share(&value)?;
            self.set(pipeline.assigns, name, value);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &'t Pipeline, dot: &Dot<'t>) -> Result<Dot<'t>, TemplateError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or(Cow::Owned(Value::Null)))
    }

    /// Evaluates a command; `last` is what the stage before it gave.
    fn command(&mut self, command: &'t Command, dot: &Dot<'t>, last: Option<Dot<'t>>) -> Result<Dot<'t>, TemplateError> {
        let [first, words @ ..] = &command.words[..] else {
            return Ok(Cow::Owned(Value::Null));
        };
        if let Term::Function(name) = &first.term {
            return self.function(first, name, words, dot, last);
        }
        if words.is_empty() && last.is_none() {
            if matches!(first.term, Term::Nil) {
                return self.failed(first, "nil is not a command");
            }
            return self.operand(first, dot, &[]);
        }
        if first.fields.is_empty() {
            return self.failed(first, &format!("can't give argument to non-function {}", first.text()));
        }
        let arguments = self.arguments(words, dot, last)?;
        self.operand(first, dot, &arguments)
    }

    fn arguments(&mut self, words: &'t [Operand], dot: &Dot<'t>, last: Option<Dot<'t>>) -> Result<Vec<Value>, TemplateError> {
        let mut arguments = Vec::with_capacity(words.len() + 1);
        for word in words {
            let value = self.word(word, dot)?;
            arguments.push(match value {
                Cow::Borrowed(value) => self.copy(value)?,
                Cow::Owned(value) => value,
            });
        }
        arguments.extend(last.map(Cow::into_owned));
        Ok(arguments)
    }

    /// An operand in the place of an argument: a function takes none there.
    fn word(&mut self, word: &'t Operand, dot: &Dot<'t>) -> Result<Dot<'t>, TemplateError> {
        match &word.term {
            Term::Function(name) => self.function(word, name, &[], dot, None),
            _ => self.operand(word, dot, &[]),
        }
    }

    fn function(
        &mut self,
        operand: &'t Operand,
        name: &'t str,
        words: &'t [Operand],
        dot: &Dot<'t>,
        last: Option<Dot<'t>>,
    ) -> Result<Dot<'t>, TemplateError> {
        self.at = operand.at;
        self.step()?;
        if matches!(name, "and" | "or") {
            return self.and_or(operand, name == "and", words, dot, last);
        }
        if let ("not", [word], None) = (name, words, &last) {
            let value = self.word(word, dot)?;
            return Ok(Cow::Owned(Value::Bool(!self.is_true(Some(word), &value))));
        }
        let arguments = self.arguments(words, dot, last)?;
        if self.mode == Mode::Header
            && matches!(name, "json" | "title" | "lower" | "upper" | "truncate" | "join" | "split")
            && let Some(header) = arguments.first()
        {
            return Ok(Cow::Owned(header.clone()));
        }
        let result = function::call(name, &arguments).or_else(|| self.functions.call(name, &arguments));
        match result {
            Some(Ok(value)) => self.bounded(operand, value),
            Some(Err(why)) => self.failed(operand, &format!("error calling {name}: {why}")),
            None => self.failed(operand, &format!("{name:?} is not a defined function")),
        }
    }

    fn bounded(&self, operand: &Operand, value: Value) -> Result<Dot<'t>, TemplateError> {
        match &value {
            Value::String(text) if text.len() > OUTPUT_MAX => {
                self.failed(operand, &format!("value is longer than {OUTPUT_MAX} bytes"))
            }
            _ => Ok(Cow::Owned(value)),
        }
    }

    /// The first argument that decides; those after it are not evaluated.
    fn and_or(
        &mut self,
        operand: &'t Operand,
        is_and: bool,
        words: &'t [Operand],
        dot: &Dot<'t>,
        last: Option<Dot<'t>>,
    ) -> Result<Dot<'t>, TemplateError> {
        let mut value = None;
        for word in words {
            let argument = self.word(word, dot)?;
            if self.is_true(Some(word), &argument) != is_and {
                return Ok(argument);
            }
            value = Some(argument);
        }
        match last.or(value) {
            Some(value) => Ok(value),
            None => self.failed(operand, &format!("wrong number of args for {}: want at least 1 got 0", operand.text())),
        }
    }

    /// A term and its fields; the arguments are for the last field.
    fn operand(&mut self, operand: &'t Operand, dot: &Dot<'t>, arguments: &[Value]) -> Result<Dot<'t>, TemplateError> {
        self.at = operand.at;
        self.step()?;
        let mut value = match &operand.term {
            Term::Dot => self.share(dot)?,
            Term::Nil => Cow::Owned(Value::Null),
            Term::Literal(value) => Cow::Borrowed(value),
            Term::Variable(name) => match self.variables.iter().rev().find(|(existing, _)| existing == name) {
                Some((_, value)) => {
                    let value = value.clone();
                    self.steps += if matches!(value, Cow::Owned(_)) { weight(&value) } else { 0 };
                    value
                }
                None => return self.failed(operand, &format!("undefined variable {name:?}")),
            },
            Term::Group(pipeline) => self.pipeline(pipeline, dot)?,
            Term::Function(name) => self.function(operand, name, &[], dot, None)?,
        };
        let mut is_map = false;
        let mut shape = self.shapes.get(&value);
        for (n, name) in operand.fields.iter().enumerate() {
            let is_last = n + 1 == operand.fields.len();
            let known = shape.and_then(|shape| shape::field(shape, name));
            value = self.field(operand, value, name, if is_last { arguments } else { &[] }, is_map, known)?;
            is_map = self.settings.maps.contains(&name.as_str());
            shape = self.shapes.get(&value).or_else(|| known?.inner());
        }
        Ok(value)
    }

    fn field(
        &mut self,
        operand: &Operand,
        receiver: Dot<'t>,
        name: &str,
        arguments: &[Value],
        is_map: bool,
        known: Option<Known>,
    ) -> Result<Dot<'t>, TemplateError> {
        let name = if let Some(Known::Same(other)) = known { other } else { name };
        let found = match &receiver {
            _ if !arguments.is_empty() => None,
            Cow::Borrowed(Value::Object(entries)) => entries.get(name).map(Cow::Borrowed),
            Cow::Owned(Value::Object(entries)) => entries.get(name).cloned().map(Cow::Owned),
            _ => None,
        };
        if let Some(value) = found {
            return Ok(value);
        }
        match self.functions.method(&receiver, name, arguments) {
            Some(Ok(value)) => return self.bounded(operand, value),
            Some(Err(why)) => return self.failed(operand, &format!("error calling {name}: {why}")),
            None => {}
        }
        if !arguments.is_empty() && receiver.get(name).is_some() {
            return self.failed(operand, &format!("{name} is not a method but has arguments"));
        }
        if let (Value::Object(_), Some(known), []) = (&*receiver, known, arguments) {
            return Ok(known.absent());
        }
        let lenient = self.mode == Mode::Header || is_map && self.settings.missing == Missing::NoValue;
        match &*receiver {
            Value::Object(_) if lenient && arguments.is_empty() => Ok(Cow::Owned(Value::Null)),
            Value::Object(_) if arguments.is_empty() => self.failed(operand, &format!("map has no entry for key {name:?}")),
            Value::Null => self.failed(operand, &format!("nil pointer evaluating interface {{}}.{name}")),
            other => self.failed(operand, &format!("can't evaluate field {name} in type {}", type_name(other))),
        }
    }
}

/// The operand that a pipeline is, if it is nothing else.
fn single(pipeline: &Pipeline) -> Option<&Operand> {
    match &pipeline.commands[..] {
        [Command { words, .. }] if words.len() == 1 => words.first(),
        _ => None,
    }
}

/// The size of a value in steps.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len() / 64,
        Value::Array(items) => items.iter().map(|item| 1 + weight(item)).sum(),
        Value::Object(entries) => entries.iter().map(|(key, item)| 1 + key.len() / 64 + weight(item)).sum(),
    }
}
