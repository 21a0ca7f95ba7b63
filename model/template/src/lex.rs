//! Template text to lexemes, by the rules of Go's `text/template`: what stands
//! outside actions is text, trim markers and comments are gone afterwards, and
//! each lexeme knows whether space came before it, as `.A.B` and `.A .B` differ.

use serde_json::Value;

use crate::{TemplateError, number};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    Dot,
    Field(String),
    Variable(String),
    Word(String),
    Literal(Value),
    Pipe,
    Declare,
    Assign,
    Comma,
    LeftParen,
    RightParen,
}

#[derive(Debug, Clone)]
pub(crate) struct Lexeme {
    pub(crate) token: Token,
    pub(crate) at: usize,
    pub(crate) spaced: bool,
}

pub(crate) fn lex(source: &str) -> Result<Vec<Lexeme>, TemplateError> {
    let mut lexer = Lexer { source, at: 0, lexemes: Vec::new() };
    let mut trim_start = false;
    while lexer.at < source.len() {
        trim_start = lexer.text(trim_start)?;
    }
    Ok(lexer.lexemes)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    lexemes: Vec<Lexeme>,
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn error<T>(&self, at: usize, text: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::new(self.source, at, text))
    }

    fn push(&mut self, token: Token, length: usize, spaced: bool) {
        self.lexemes.push(Lexeme { token, at: self.at, spaced });
        self.at += length;
    }

    /// Text up to the next action, and that action. Answers whether the text
    /// after it loses its leading space.
    fn text(&mut self, trim_start: bool) -> Result<bool, TemplateError> {
        let rest = self.rest();
        let length = rest.find("{{").unwrap_or(rest.len());
        let inside = rest.get(length + 2..).unwrap_or("");
        let trims_end = inside.starts_with('-') && inside[1..].starts_with(SPACES);
        let mut text = &rest[..length];
        if trim_start {
            text = text.trim_start_matches(SPACES);
        }
        if trims_end {
            text = text.trim_end_matches(SPACES);
        }
        if !text.is_empty() {
            self.push(Token::Text(text.to_owned()), 0, false);
        }
        self.at += length;
        if self.rest().is_empty() {
            return Ok(false);
        }
        let open = self.at;
        let inside_at = if trims_end { 4 } else { 2 };
        if self.rest()[inside_at..].starts_with("/*") {
            return self.comment(open);
        }
        self.push(Token::Open, if trims_end { 3 } else { 2 }, false);
        self.action(open)
    }

    /// A comment fills its action, but for trim markers.
    fn comment(&mut self, open: usize) -> Result<bool, TemplateError> {
        let Some(length) = self.rest().find("*/") else {
            return self.error(open, "unclosed comment");
        };
        self.at += length + 2;
        let after = self.rest().trim_start_matches(SPACES);
        let spaced = after.len() < self.rest().len();
        if self.rest().starts_with("}}") {
            self.at += 2;
            return Ok(false);
        }
        if spaced && after.starts_with("-}}") {
            self.at = self.source.len() - after.len() + 3;
            return Ok(true);
        }
        self.error(open, "comment ends before closing delimiter")
    }

    /// The inside of an action, up to and with its closing delimiter.
    fn action(&mut self, open: usize) -> Result<bool, TemplateError> {
        let mut n_parens = 0_usize;
        loop {
            let before = self.at;
            self.at = self.source.len() - self.rest().trim_start_matches(SPACES).len();
            let spaced = self.at > before;
            let trims = spaced && self.rest().starts_with("-}}");
            if trims || self.rest().starts_with("}}") {
                if n_parens > 0 {
                    return self.error(self.at, "unclosed left paren");
                }
                self.push(Token::Close, if trims { 3 } else { 2 }, spaced);
                return Ok(trims);
            }
            let Some(first) = self.rest().chars().next() else {
                return self.error(open, "unclosed action");
            };
            match first {
                '(' => n_parens += 1,
                ')' if n_parens == 0 => return self.error(self.at, "unexpected right paren"),
                ')' => n_parens -= 1,
                _ => {}
            }
            self.lexeme(first, spaced)?;
        }
    }

    fn lexeme(&mut self, first: char, spaced: bool) -> Result<(), TemplateError> {
        let rest = self.rest();
        let second = rest[first.len_utf8()..].chars().next().unwrap_or(' ');
        match first {
            '(' => self.push(Token::LeftParen, 1, spaced),
            ')' => self.push(Token::RightParen, 1, spaced),
            '|' => self.push(Token::Pipe, 1, spaced),
            ',' => self.push(Token::Comma, 1, spaced),
            ':' if second == '=' => self.push(Token::Declare, 2, spaced),
            ':' => return self.error(self.at, "expected :="),
            '=' => self.push(Token::Assign, 1, spaced),
            '"' => return self.quoted(spaced),
            '`' => {
                let Some(length) = rest[1..].find('`') else {
                    return self.error(self.at, "unterminated raw quoted string");
                };
                let text = rest[1..=length].replace('\r', "");
                self.push(Token::Literal(Value::String(text)), length + 2, spaced);
            }
            '\'' => return self.character(spaced),
            '.' if !second.is_ascii_digit() => {
                let name = word_at(&rest[1..]);
                let token = if name.is_empty() { Token::Dot } else { Token::Field(name.to_owned()) };
                self.push(token, 1 + name.len(), spaced);
                return self.terminator();
            }
            '$' => {
                let length = 1 + word_at(&rest[1..]).len();
                self.push(Token::Variable(rest[..length].to_owned()), length, spaced);
                return self.terminator();
            }
            '+' | '-' | '.' | '0'..='9' => return self.number(spaced),
            _ if is_word(first) => {
                let word = word_at(rest);
                self.push(Token::Word(word.to_owned()), word.len(), spaced);
                return self.terminator();
            }
            _ => return self.error(self.at, format!("unexpected {first:?} in action")),
        }
        Ok(())
    }

    /// After a name only these may follow without a space.
    fn terminator(&self) -> Result<(), TemplateError> {
        match self.rest().chars().next() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | '=' | '(' | ')') => Ok(()),
            Some(_) if self.rest().starts_with("}}") => Ok(()),
            Some(c) => self.error(self.at, format!("bad character U+{:04X} {c:?}", u32::from(c))),
        }
    }

    fn number(&mut self, spaced: bool) -> Result<(), TemplateError> {
        let rest = self.rest();
        let hex = rest.trim_start_matches(['+', '-']).get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
        let mut previous = ' ';
        let length = rest
            .find(|c: char| {
                let sign = matches!(c, '+' | '-') && (previous == ' ' || !hex && matches!(previous, 'e' | 'E'));
                previous = c;
                !(sign || c == '.' || is_word(c))
            })
            .unwrap_or(rest.len());
        match number::parse(&rest[..length]) {
            Some(number) => self.push(Token::Literal(Value::Number(number)), length, spaced),
            None => return self.error(self.at, format!("bad number syntax: {:?}", &rest[..length])),
        }
        Ok(())
    }

    fn quoted(&mut self, spaced: bool) -> Result<(), TemplateError> {
        match unquote(&self.rest()[1..], '"') {
            Unquoted::Done(bytes, length) => match String::from_utf8(bytes) {
                Ok(text) => self.push(Token::Literal(Value::String(text)), length + 2, spaced),
                Err(_) => return self.error(self.at, "quoted string is not UTF-8"),
            },
            Unquoted::Unterminated => return self.error(self.at, "unterminated quoted string"),
            Unquoted::Invalid => return self.error(self.at, "invalid syntax in quoted string"),
        }
        Ok(())
    }

    fn character(&mut self, spaced: bool) -> Result<(), TemplateError> {
        let Unquoted::Done(bytes, length) = unquote(&self.rest()[1..], '\'') else {
            return self.error(self.at, "unterminated character constant");
        };
        let text = String::from_utf8(bytes).unwrap_or_default();
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => self.push(Token::Literal(Value::from(u32::from(c))), length + 2, spaced),
            _ => return self.error(self.at, "malformed character constant"),
        }
        Ok(())
    }
}

fn word_at(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

enum Unquoted {
    /// The bytes, and how many bytes of text they took, quotes not counted.
    Done(Vec<u8>, usize),
    Unterminated,
    Invalid,
}

/// Go's escapes, up to the closing quote.
fn unquote(text: &str, quote: char) -> Unquoted {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Unquoted::Done(bytes, at),
            '\n' => return Unquoted::Unterminated,
            '\\' => {
                let Some((at, escape)) = chars.next() else {
                    return Unquoted::Unterminated;
                };
                let digits = match escape {
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    '0'..='7' => 3,
                    _ => 0,
                };
                if digits == 0 {
                    match simple_escape(escape, quote) {
                        Some(byte) => bytes.push(byte),
                        None => return Unquoted::Invalid,
                    }
                    continue;
                }
                let octal = digits == 3;
                let start = if octal { at } else { at + 1 };
                if !push_code(&mut bytes, text.get(start..start + digits), digits) {
                    return Unquoted::Invalid;
                }
                for _ in 0..digits - usize::from(octal) {
                    chars.next();
                }
            }
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Unquoted::Unterminated
}

fn simple_escape(escape: char, quote: char) -> Option<u8> {
    Some(match escape {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '\'' | '"' if escape == quote => u8::try_from(quote).ok()?,
        _ => return None,
    })
}

/// A byte for two hexadecimal or three octal digits, else a code point.
fn push_code(bytes: &mut Vec<u8>, digits: Option<&str>, n_digits: usize) -> bool {
    let radix = if n_digits == 3 { 8 } else { 16 };
    let Some(code) = digits
        .filter(|digits| digits.chars().all(|c| c.is_digit(radix)))
        .and_then(|digits| u32::from_str_radix(digits, radix).ok())
    else {
        return false;
    };
    if n_digits <= 3 {
        return u8::try_from(code).is_ok_and(|byte| {
            bytes.push(byte);
            true
        });
    }
    char::from_u32(code).is_some_and(|c| {
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        true
    })
}
