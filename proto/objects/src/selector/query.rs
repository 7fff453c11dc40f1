//! The query form of label selectors: a few tokens and a parser that looks one ahead.

use super::{Operator, Requirement};
use std::iter::Peekable;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// A key, a value, or the words `in` and `notin`, which are values where a value is due.
    Word(&'a str),
    /// One of `= == != ! > < ( ) ,`.
    Symbol(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Word(text) | Self::Symbol(text) => text,
        }
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ">", "<", "(", ")", ","];

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if self.rest.is_empty() {
            return None;
        }
        let symbol = SYMBOLS.iter().find(|symbol| self.rest.starts_with(**symbol));
        let length = match symbol {
            Some(symbol) => symbol.len(),
            None => {
                self.rest.find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<']).unwrap_or(self.rest.len())
            }
        };
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(if symbol.is_some() { Token::Symbol(text) } else { Token::Word(text) })
    }
}

struct Parser<'a> {
    tokens: Peekable<Tokens<'a>>,
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> &'a str {
        self.tokens.peek().map_or("", |token| token.text())
    }

    fn at_symbol(&mut self, symbol: &str) -> bool {
        self.tokens.peek() == Some(&Token::Symbol(symbol))
    }

    fn skip(&mut self, symbol: &str) -> bool {
        let there = self.at_symbol(symbol);
        if there {
            self.tokens.next();
        }
        there
    }

    fn word(&mut self) -> Option<&'a str> {
        match self.tokens.peek() {
            Some(Token::Word(text)) => {
                let text = *text;
                self.tokens.next();
                Some(text)
            }
            _ => None,
        }
    }

    fn at_end_of_requirement(&mut self) -> bool {
        self.tokens.peek().is_none() || self.at_symbol(",")
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.skip("!");
        let key = self.word().ok_or_else(|| format!("found '{}', expected: identifier", self.peek()))?;
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if self.at_end_of_requirement() {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let (operator, set) = match self.tokens.next().map_or("", Token::text) {
            "=" | "==" => (Operator::In, false),
            "!=" => (Operator::NotIn, false),
            ">" => (Operator::GreaterThan, false),
            "<" => (Operator::LessThan, false),
            "in" => (Operator::In, true),
            "notin" => (Operator::NotIn, true),
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = if set { self.set()? } else { vec![self.value()?.to_owned()] };
        Requirement::new(key, operator, values)
    }

    /// A value after `=`; nothing there means the empty value.
    fn value(&mut self) -> Result<&'a str, String> {
        if self.at_end_of_requirement() {
            return Ok("");
        }
        self.word().ok_or_else(|| format!("found '{}', expected: identifier", self.peek()))
    }

    /// `(a,b,)`: a missing value between commas is the empty value.
    fn set(&mut self) -> Result<Vec<String>, String> {
        if !self.skip("(") {
            return Err(format!("found '{}', expected: '('", self.peek()));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.word().unwrap_or_default().to_owned());
            if self.skip(")") {
                return Ok(values);
            }
            if !self.skip(",") {
                return Err(format!("found '{}', expected: ',' or ')'", self.peek()));
            }
        }
    }
}

/// All requirements of a selector such as `a=b,c in (d,e),!f`; the error is Kubernetes' text.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: Tokens { rest: text }.peekable() };
    let mut requirements = Vec::new();
    if parser.tokens.peek().is_none() {
        return Ok(requirements);
    }
    loop {
        requirements.push(parser.requirement()?);
        match parser.tokens.next() {
            None => return Ok(requirements),
            Some(Token::Symbol(",")) => {}
            Some(other) => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
        }
        if parser.tokens.peek().is_none() {
            return Err("found '', expected: identifier after ','".to_owned());
        }
    }
}
