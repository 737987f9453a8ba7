//! Brackets and environments: sets, tuples, intervals, matrices, systems.

use super::super::answer::Answer;
use super::super::expr::{Expr, Function};
use super::super::latex::Token;
use super::Parser;
use super::expression::{number, times};
use super::name::is_operator;

impl<'a> Parser<'a> {
    /// The token that closes the bracket or environment at the current place.
    pub(super) fn closing(&mut self) -> Option<usize> {
        self.skip_space();
        let mut depth = 0usize;
        for (offset, token) in self.list[self.at..].iter().enumerate() {
            if opens(token) {
                depth += 1;
            } else if closes(token) {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    self.work += offset as u64 / 8;
                    return Some(self.at + offset);
                }
            }
        }
        None
    }

    /// Whether the bracket at the current place holds several members.
    pub(super) fn bracket_has_comma(&mut self) -> bool {
        if !matches!(self.next(), Some(token) if opens(token)) {
            return false;
        }
        let Some(end) = self.closing() else { return false };
        let mut depth = 0usize;
        self.list[self.at + 1..end].iter().any(|token| {
            if opens(token) {
                depth += 1;
            } else if closes(token) {
                depth = depth.saturating_sub(1);
            }
            depth == 0 && matches!(token, Token::Char(',' | ';'))
        })
    }

    /// Whether the bracket at the current place holds one number, or one letter if those count.
    pub(super) fn bracket_is_one(&mut self, letters_count: bool) -> bool {
        let Some(end) = self.closing() else { return false };
        let inside =
            self.list[self.at + 1..end].iter().filter(|token| !matches!(token, Token::Space | Token::ThinSpace));
        let mut inside = inside.peekable();
        let of_digits = inside.clone().all(|token| matches!(token, Token::Char('0'..='9' | '.')));
        let first = inside.next();
        let is_letter =
            matches!(first, Some(Token::Char(c)) if c.is_alphabetic()) || matches!(first, Some(Token::Command(_)));
        of_digits || letters_count && is_letter && inside.next().is_none()
    }

    /// A set, tuple, interval, matrix or system; `Some(None)` where a bracket only groups, or there is none.
    pub(super) fn bracketed(&mut self) -> Option<Option<Answer>> {
        match self.next() {
            Some(Token::Begin(name)) if name == "vmatrix" => return Some(None),
            Some(Token::Begin(_)) => return self.environment().map(Some),
            Some(Token::Command(name)) if name == "{" || name == "langle" => return self.bracket().map(Some),
            Some(Token::Command(name)) if name == "emptyset" => {
                self.at += 1;
                return Some(Some(Answer::Set(Vec::new())));
            }
            Some(Token::Char('(' | '[')) => {}
            _ => return Some(None),
        }
        let is_round = self.next_is('(');
        let Some(end) = self.closing() else { return Some(None) };
        let is_matched = self.list[end] == Token::Char(if is_round { ')' } else { ']' });
        let is_alone = match self.list[end + 1..].iter().find(|token| !matches!(token, Token::Space | Token::ThinSpace))
        {
            None => true,
            Some(Token::Char(c)) => matches!(c, ',' | ';' | '=' | '<' | '>' | ':'),
            Some(Token::Command(name)) => matches!(
                name.as_str(),
                "cup"
                    | "cap"
                    | "setminus"
                    | "in"
                    | "}"
                    | "\\"
                    | "ne"
                    | "approx"
                    | "lor"
                    | "land"
                    | "rangle"
                    | "sim"
                    | "cong"
            ),
            Some(Token::Text(_)) => true,
            _ => false,
        };
        if self.bracket_has_comma() || !is_matched || !is_round && is_alone {
            return self.bracket().map(Some);
        }
        Some(None)
    }

    /// A bracket with its members.
    pub(super) fn bracket(&mut self) -> Option<Answer> {
        let end = self.closing()?;
        let (open, close) = (&self.list[self.at], &self.list[end]);
        let inside = &self.list[self.at + 1..end];
        self.at = end + 1;
        let is_set = *open == Token::Command("{".into());
        if is_set != (*close == Token::Command("}".into())) {
            return None;
        }
        let is_blank = inside.iter().all(|token| matches!(token, Token::Space | Token::ThinSpace));
        let items = if is_blank && is_set {
            Vec::new()
        } else {
            self.brackets += 1;
            let bars = std::mem::replace(&mut self.bars, 0);
            let items = self.within(inside, |parser| {
                let joined = parser.items(is_set)?;
                (parser.next().is_none() && !joined.by_or).then_some(joined.items)
            });
            self.bars = bars;
            self.brackets -= 1;
            items?
        };
        if is_set {
            return Some(Answer::Set(items));
        }
        let side = |token: &Token| match token {
            Token::Char(c @ ('(' | ')' | '[' | ']')) => Some(*c),
            Token::Command(name) if name == "langle" || name == "rangle" => Some('<'),
            _ => None,
        };
        Some(Answer::Tuple { open: side(open)?, close: side(close)?, items })
    }

    /// A matrix or a vector behind a factor: every entry is multiplied.
    pub(super) fn scaled_matrix(&mut self) -> Option<Answer> {
        let start = self.at;
        let scaled = self.factor_and_matrix();
        if scaled.is_none() {
            self.at = start;
        }
        scaled
    }

    fn factor_and_matrix(&mut self) -> Option<Answer> {
        let length = self.list[self.at..].iter().position(|token| matches!(token, Token::Begin(_)))?;
        if is_determinant(self.list.get(self.at + length)) {
            return None;
        }
        let factor = &self.list[self.at..self.at + length];
        // `\det` is no factor.
        if factor.iter().any(|token| matches!(token, Token::Command(name) if is_operator(name))) {
            return None;
        }
        let factor = match factor {
            [Token::Char('-')] | [Token::Char('-'), Token::Space] => number(-1),
            list => self.within(list, |parser| {
                let factor = parser.sum()?;
                parser.next().is_none().then_some(factor)
            })?,
        };
        self.at += length;
        let entry = |answer: Answer| match answer {
            Answer::Expr(expr) => Some(Answer::Expr(times(factor.clone(), expr))),
            _ => None,
        };
        Some(match self.environment()? {
            Answer::Tuple { open, close, items } => {
                Answer::Tuple { open, close, items: items.into_iter().map(entry).collect::<Option<Vec<_>>>()? }
            }
            Answer::Matrix(rows) => {
                let rows = rows.into_iter().map(|row| row.into_iter().map(entry).collect::<Option<Vec<_>>>());
                Answer::Matrix(rows.collect::<Option<Vec<_>>>()?)
            }
            _ => return None,
        })
    }

    /// The cells of an environment, row by row.
    fn rows(&mut self, inside: &'a [Token]) -> Option<Vec<Vec<Answer>>> {
        let cell = |parser: &mut Self| {
            let answer = parser.members(false)?;
            parser.next().is_none().then_some(answer)
        };
        let is_blank = |row: &&[Token]| row.iter().all(|token| matches!(token, Token::Space | Token::ThinSpace));
        let rows = split(inside, &Token::Command("\\".into())).into_iter().filter(|row| !is_blank(row));
        rows.map(|row| split(row, &Token::Char('&')).into_iter().map(|list| self.within(list, cell)).collect())
            .collect()
    }

    /// The determinant of the square matrix that begins here, of expressions.
    pub(super) fn determinant(&mut self) -> Option<Expr> {
        let Some(Token::Begin(name)) = self.next() else { return None };
        if !matches!(name.as_str(), "vmatrix" | "matrix" | "pmatrix" | "bmatrix" | "smallmatrix") {
            return None;
        }
        let end = self.closing()?;
        let inside = &self.list[self.at + 1..end];
        self.at = end + 1;
        self.brackets += 1;
        let bars = std::mem::replace(&mut self.bars, 0);
        let rows = self.rows(inside);
        self.bars = bars;
        self.brackets -= 1;
        let rows = rows?;
        let is_square = !rows.is_empty() && rows.iter().all(|row| row.len() == rows.len());
        let entries = rows.into_iter().flatten().map(expression).collect::<Option<Vec<_>>>()?;
        is_square.then_some(Expr::Call(Function::Determinant, entries))
    }

    /// A matrix, a column, a system of equations.
    fn environment(&mut self) -> Option<Answer> {
        let Some(Token::Begin(name)) = self.next() else { return None };
        let end = self.closing()?;
        let inside = &self.list[self.at + 1..end];
        self.at = end + 1;
        self.brackets += 1;
        let rows = self.rows(inside);
        self.brackets -= 1;
        let rows = rows?;
        match name.as_str() {
            "cases" if rows.iter().all(|row| row.len() == 1) => {
                Some(Answer::List(rows.into_iter().flatten().collect()))
            }
            "matrix" | "pmatrix" | "bmatrix" | "array" | "smallmatrix" | "Bmatrix" => {
                if rows.is_empty() {
                    return None;
                }
                // Marked as a row or a column: the two differ, but a plain tuple may be either.
                Some(if rows.len() == 1 {
                    Answer::Tuple { open: 'r', close: 'r', items: rows.into_iter().flatten().collect() }
                } else if rows.iter().all(|row| row.len() == 1) {
                    Answer::Tuple { open: 'c', close: 'c', items: rows.into_iter().flatten().collect() }
                } else {
                    Answer::Matrix(rows)
                })
            }
            _ => None,
        }
    }
}

pub(super) fn expression(answer: Answer) -> Option<Expr> {
    match answer {
        Answer::Expr(expr) => Some(expr),
        _ => None,
    }
}

/// Whether a matrix in bars begins here.
pub(super) fn is_determinant(token: Option<&Token>) -> bool {
    matches!(token, Some(Token::Begin(name)) if name == "vmatrix")
}

/// Whether every bracket closes, by one of any kind.
pub(super) fn is_balanced(list: &[Token]) -> bool {
    let depth = list.iter().try_fold(0usize, |depth, token| match token {
        token if opens(token) => Some(depth + 1),
        token if closes(token) => depth.checked_sub(1),
        _ => Some(depth),
    });
    depth == Some(0)
}

fn opens(token: &Token) -> bool {
    match token {
        Token::Char('(' | '[' | '{') | Token::Begin(_) => true,
        Token::Command(name) => matches!(name.as_str(), "{" | "langle" | "lfloor" | "lceil"),
        _ => false,
    }
}

pub(super) fn closes(token: &Token) -> bool {
    match token {
        Token::Char(')' | ']' | '}') | Token::End(_) => true,
        Token::Command(name) => matches!(name.as_str(), "}" | "rangle" | "rfloor" | "rceil"),
        _ => false,
    }
}
/// Parts at `mark` outside all brackets.
fn split<'a>(list: &'a [Token], mark: &Token) -> Vec<&'a [Token]> {
    let mut depth = 0usize;
    list.split(|token| {
        if opens(token) {
            depth += 1;
        } else if closes(token) {
            depth = depth.saturating_sub(1);
        }
        depth == 0 && token == mark
    })
    .collect()
}
