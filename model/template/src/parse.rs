//! Lexemes to a tree. Names of functions and variables are checked here, so
//! that a template which parses can only fail for its data.

use serde_json::Value;

use crate::lex::{Lexeme, Token, lex};
use crate::tree::{Branch, Command, Node, Operand, Pipeline, Term};
use crate::{DEPTH_MAX, TemplateError, function};

pub(crate) fn parse(source: &str, functions: &[&str]) -> Result<Vec<Node>, TemplateError> {
    let lexemes = lex(source)?;
    let variables = vec!["$".to_owned()];
    let mut parser = Parser { source, functions, lexemes, next: 0, variables, depth: 0, n_ranges: 0 };
    let (nodes, end) = parser.list()?;
    match end {
        Stop::Input => Ok(nodes),
        Stop::Else(at) => parser.error(at, "unexpected {{else}}"),
        Stop::End(at) => parser.error(at, "unexpected {{end}}"),
    }
}

struct Parser<'s> {
    source: &'s str,
    functions: &'s [&'s str],
    lexemes: Vec<Lexeme>,
    next: usize,
    /// Those in scope, the innermost last.
    variables: Vec<String>,
    depth: usize,
    n_ranges: usize,
}

/// What ended a list of nodes, and where; after an `else` its action is open.
#[derive(Clone, Copy)]
enum Stop {
    Input,
    Else(usize),
    End(usize),
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    If,
    With,
    Range,
}

impl Block {
    fn name(self) -> &'static str {
        match self {
            Block::If => "if",
            Block::With => "with",
            Block::Range => "range",
        }
    }
}

impl Parser<'_> {
    fn error<T>(&self, at: usize, text: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::new(self.source, at, text))
    }

    fn peek(&self) -> Option<&Token> {
        self.lexemes.get(self.next).map(|lexeme| &lexeme.token)
    }

    fn at(&self) -> usize {
        self.lexemes.get(self.next).map_or(self.source.len(), |lexeme| lexeme.at)
    }

    fn is_spaced(&self) -> bool {
        self.lexemes.get(self.next).is_none_or(|lexeme| lexeme.spaced)
    }

    fn unexpected<T>(&self, context: &str) -> Result<T, TemplateError> {
        let name = match self.peek() {
            None => "EOF".to_owned(),
            Some(token) => format!("{:?}", spelled(token)),
        };
        self.error(self.at(), format!("unexpected {name} in {context}"))
    }

    fn enter(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.error(self.at(), format!("nested deeper than {DEPTH_MAX}"));
        }
        Ok(())
    }

    fn close(&mut self, context: &str) -> Result<(), TemplateError> {
        if self.peek() != Some(&Token::Close) {
            return self.unexpected(context);
        }
        self.next += 1;
        Ok(())
    }

    /// Nodes up to an `else`, an `end` or the end.
    fn list(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(lexeme) = self.lexemes.get(self.next) {
            let at = lexeme.at;
            let token = lexeme.token.clone();
            self.next += 1;
            if let Token::Text(text) = token {
                nodes.push(Node::Text(text));
                continue;
            }
            let keyword = match self.peek() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            if keyword == "else" {
                self.next += 1;
                return Ok((nodes, Stop::Else(at)));
            }
            if keyword == "end" {
                self.next += 1;
                self.close("end")?;
                return Ok((nodes, Stop::End(at)));
            }
            nodes.push(self.action(&keyword, at)?);
        }
        Ok((nodes, Stop::Input))
    }

    fn action(&mut self, keyword: &str, at: usize) -> Result<Node, TemplateError> {
        if matches!(keyword, "if" | "with" | "range" | "break" | "continue") {
            self.next += 1;
        }
        match keyword {
            "if" => Ok(Node::If(self.branch(Block::If, at)?)),
            "with" => Ok(Node::With(self.branch(Block::With, at)?)),
            "range" => Ok(Node::Range(self.branch(Block::Range, at)?)),
            "break" | "continue" => {
                if self.n_ranges == 0 {
                    return self.error(at, format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
                }
                self.close(keyword)?;
                Ok(if keyword == "break" { Node::Break } else { Node::Continue })
            }
            "define" | "template" | "block" => self.error(at, format!("{{{{{keyword}}}}} is not supported")),
            _ => {
                let pipeline = self.pipeline("command", false)?;
                self.close("command")?;
                Ok(Node::Action(pipeline))
            }
        }
    }

    /// The rest of a block, its keyword read; variables end with it.
    fn branch(&mut self, block: Block, at: usize) -> Result<Branch, TemplateError> {
        self.enter()?;
        let n_variables = self.variables.len();
        let pipeline = self.pipeline(block.name(), block == Block::Range)?;
        self.close(block.name())?;
        let n_in_scope = self.variables.len();
        self.n_ranges += usize::from(block == Block::Range);
        let (body, end) = self.list()?;
        self.variables.truncate(n_in_scope);
        self.n_ranges -= usize::from(block == Block::Range);
        let otherwise = match end {
            Stop::Input => return self.error(at, format!("unclosed {{{{{}}}}}: unexpected EOF", block.name())),
            Stop::End(_) => Vec::new(),
            Stop::Else(at) => self.otherwise(block, at)?,
        };
        self.variables.truncate(n_variables);
        self.depth -= 1;
        Ok(Branch { pipeline, body, otherwise })
    }

    fn otherwise(&mut self, block: Block, at: usize) -> Result<Vec<Node>, TemplateError> {
        let chained = match (block, self.peek()) {
            (Block::If, Some(Token::Word(word))) if word == "if" => Some(Block::If),
            (Block::With, Some(Token::Word(word))) if word == "with" => Some(Block::With),
            _ => None,
        };
        if let Some(block) = chained {
            // One `end` closes the whole chain.
            self.next += 1;
            let branch = self.branch(block, at)?;
            return Ok(vec![if block == Block::If { Node::If(branch) } else { Node::With(branch) }]);
        }
        self.close("else")?;
        match self.list()? {
            (nodes, Stop::End(_)) => Ok(nodes),
            (_, Stop::Else(at)) => self.error(at, "expected end; found {{else}}"),
            (_, Stop::Input) => self.error(at, "unclosed {{else}}: unexpected EOF"),
        }
    }

    fn pipeline(&mut self, context: &str, in_range: bool) -> Result<Pipeline, TemplateError> {
        self.enter()?;
        let (variables, assigns) = self.declarations(in_range)?;
        let mut commands = Vec::new();
        loop {
            let at = self.at();
            let command = self.command(context)?;
            let executable = matches!(command.words[0].term, Term::Function(_) | Term::Variable(_) | Term::Group(_))
                || !command.words[0].fields.is_empty();
            if !commands.is_empty() && !executable {
                let stage = commands.len() + 1;
                return self.error(at, format!("non executable command in pipeline stage {stage}"));
            }
            commands.push(command);
            if self.peek() != Some(&Token::Pipe) {
                break;
            }
            self.next += 1;
        }
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        self.depth -= 1;
        Ok(Pipeline { variables, assigns, commands })
    }

    /// `$x :=`, `$x =` or, in a range, `$i, $x :=`; nothing if none is there.
    fn declarations(&mut self, in_range: bool) -> Result<(Vec<String>, bool), TemplateError> {
        let token = |ahead: usize| self.lexemes.get(self.next + ahead).map(|lexeme| &lexeme.token);
        let (variables, sign) = match (token(0), token(1), token(2)) {
            (Some(Token::Variable(x)), Some(Token::Declare | Token::Assign), _) => (vec![x.clone()], 1),
            (Some(Token::Variable(i)), Some(Token::Comma), Some(Token::Variable(x))) => {
                if !in_range {
                    return self.error(self.at(), "too many declarations in command");
                }
                (vec![i.clone(), x.clone()], 3)
            }
            _ => return Ok((Vec::new(), false)),
        };
        let assigns = match token(sign) {
            Some(Token::Declare) => false,
            Some(Token::Assign) => true,
            _ => return self.error(self.at(), "too many declarations in range"),
        };
        if assigns && let Some(name) = variables.iter().find(|name| !self.variables.contains(name)) {
            return self.error(self.at(), format!("undefined variable {name:?}"));
        }
        self.next += sign + 1;
        Ok((variables, assigns))
    }

    fn command(&mut self, context: &str) -> Result<Command, TemplateError> {
        let mut words = Vec::new();
        loop {
            match self.peek() {
                Some(Token::Close | Token::Pipe | Token::RightParen) | None => break,
                _ if !words.is_empty() && !self.is_spaced() => return self.unexpected("operand"),
                _ => words.push(self.operand(context)?),
            }
        }
        if words.is_empty() {
            return self.error(self.at(), format!("missing value for {context}"));
        }
        Ok(Command { words })
    }

    fn operand(&mut self, context: &str) -> Result<Operand, TemplateError> {
        let at = self.at();
        let mut fields = Vec::new();
        let term = match self.peek().cloned() {
            Some(Token::Dot) => Term::Dot,
            Some(Token::Field(name)) => {
                fields.push(name);
                Term::Dot
            }
            Some(Token::Literal(value)) => Term::Literal(value),
            Some(Token::Variable(name)) => {
                if !self.variables.contains(&name) {
                    return self.error(at, format!("undefined variable {name:?}"));
                }
                Term::Variable(name)
            }
            Some(Token::Word(word)) => self.word(word, at)?,
            Some(Token::LeftParen) => {
                self.next += 1;
                let pipeline = self.pipeline("parenthesized pipeline", false)?;
                if self.peek() != Some(&Token::RightParen) {
                    return self.unexpected("parenthesized pipeline");
                }
                Term::Group(Box::new(pipeline))
            }
            _ => return self.unexpected(context),
        };
        self.next += 1;
        while let Some(Token::Field(name)) = self.peek() {
            if self.is_spaced() {
                break;
            }
            fields.push(name.clone());
            self.next += 1;
        }
        let operand = Operand { at, term, fields };
        let takes_fields = match &operand.term {
            Term::Variable(_) | Term::Group(_) => true,
            // A field is a dot with a first field; a lone dot takes none.
            Term::Dot => self.source[at..].starts_with('.') && !self.source[at + 1..].starts_with('.'),
            _ => false,
        };
        if !operand.fields.is_empty() && !takes_fields {
            return self.error(at, format!("unexpected . after term {:?}", operand.text()));
        }
        Ok(operand)
    }

    fn word(&self, word: String, at: usize) -> Result<Term, TemplateError> {
        match word.as_str() {
            "true" | "false" => Ok(Term::Literal(Value::Bool(word == "true"))),
            "nil" => Ok(Term::Nil),
            "if" | "else" | "end" | "with" | "range" | "break" | "continue" | "define" | "template" | "block" => {
                self.error(at, format!("unexpected <{word}> in operand"))
            }
            _ if function::is_built_in(&word) || self.functions.contains(&word.as_str()) => Ok(Term::Function(word)),
            _ => self.error(at, format!("function {word:?} not defined")),
        }
    }
}

fn spelled(token: &Token) -> String {
    match token {
        Token::Text(text) | Token::Variable(text) | Token::Word(text) => text.clone(),
        Token::Field(name) => format!(".{name}"),
        Token::Literal(value) => value.to_string(),
        Token::Open => "{{".to_owned(),
        Token::Close => "}}".to_owned(),
        Token::Dot => ".".to_owned(),
        Token::Pipe => "|".to_owned(),
        Token::Declare => ":=".to_owned(),
        Token::Assign => "=".to_owned(),
        Token::Comma => ",".to_owned(),
        Token::LeftParen => "(".to_owned(),
        Token::RightParen => ")".to_owned(),
    }
}
