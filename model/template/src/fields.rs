//! Lists what a template reads, by following its paths without any data.

use crate::TemplateError;
use crate::tree::{Branch, Command, Node, Operand, Pipeline, Term};

/// One place where a template reads a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldUse {
    /// From the data inwards; `"*"` stands for an element of a list or map.
    pub path: Vec<String>,
    /// Whether the last name is called with arguments, as in `.Label "k"`.
    pub has_arguments: bool,
    /// Line in the template, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
}

/// Where a value came from, as far as that is known.
type Origin = Option<Vec<String>>;

pub(crate) fn fields(source: &str, nodes: &[Node]) -> Vec<FieldUse> {
    let mut lister = Lister { source, variables: vec![("$".to_owned(), Some(Vec::new()))], found: Vec::new() };
    lister.list(nodes, &Some(Vec::new()));
    lister.found
}

struct Lister<'t> {
    source: &'t str,
    variables: Vec<(String, Origin)>,
    found: Vec<FieldUse>,
}

impl Lister<'_> {
    fn list(&mut self, nodes: &[Node], dot: &Origin) {
        for node in nodes {
            match node {
                Node::Action(pipeline) => {
                    self.pipeline(pipeline, dot);
                }
                Node::If(branch) => self.branch(branch, dot, |_| dot.clone()),
                Node::With(branch) => self.branch(branch, dot, |value| value),
                Node::Range(branch) => self.branch(branch, dot, element),
                Node::Text(_) | Node::Break | Node::Continue => {}
            }
        }
    }

    fn branch(&mut self, branch: &Branch, dot: &Origin, body_dot: impl Fn(Origin) -> Origin) {
        let n_variables = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot);
        // In a range, `$x` is an element and `$i` a key; elsewhere this changes nothing.
        let item = body_dot(value);
        if let [index, name] = &branch.pipeline.variables[..] {
            self.variables.push((index.clone(), None));
            self.variables.push((name.clone(), item.clone()));
        } else if let [name] = &branch.pipeline.variables[..]
            && item.as_ref().is_some_and(|path| path.last().is_some_and(|last| last == "*"))
        {
            self.variables.push((name.clone(), item.clone()));
        }
        self.list(&branch.body, &item);
        self.list(&branch.otherwise, dot);
        self.variables.truncate(n_variables);
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Origin) -> Origin {
        let mut value = None;
        for (stage, command) in pipeline.commands.iter().enumerate() {
            value = self.command(command, dot, stage > 0);
        }
        for name in &pipeline.variables {
            if pipeline.assigns {
                // Which assignment runs last is not known here.
                self.variables.iter_mut().filter(|(existing, _)| existing == name).for_each(|(_, origin)| *origin = None);
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        value
    }

    fn command(&mut self, command: &Command, dot: &Origin, is_piped: bool) -> Origin {
        let has_arguments = command.words.len() > 1 || is_piped;
        let mut first = None;
        for (n, word) in command.words.iter().enumerate() {
            let origin = self.operand(word, dot, n == 0 && has_arguments);
            if n == 0 && !has_arguments {
                first = origin;
            }
        }
        first
    }

    fn operand(&mut self, operand: &Operand, dot: &Origin, has_arguments: bool) -> Origin {
        let start = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Variable(name) => {
                self.variables.iter().rev().find(|(existing, _)| existing == name).and_then(|(_, origin)| origin.clone())
            }
            Term::Group(pipeline) => self.pipeline(pipeline, dot),
            Term::Nil | Term::Literal(_) | Term::Function(_) => None,
        };
        let mut path = start?;
        if operand.fields.is_empty() {
            return Some(path);
        }
        path.extend(operand.fields.iter().cloned());
        let place = TemplateError::new(self.source, operand.at, "");
        self.found.push(FieldUse { path: path.clone(), has_arguments, line: place.line, column: place.column });
        Some(path)
    }
}

fn element(origin: Origin) -> Origin {
    let mut path = origin?;
    path.push("*".to_owned());
    Some(path)
}
