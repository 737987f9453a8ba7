//! The text of what cannot be read, without what certainly changes nothing.

use super::super::latex::{Token, canonical};

/// The canonical text without a name in front of `=`, brackets around everything, and braces around one token.
pub fn text(list: &[Token]) -> String {
    let mut rest = trimmed(list);
    if let Some(at) = rest.iter().position(|token| *token == Token::Char('='))
        && is_name(trimmed(&rest[..at]))
        && !rest[at + 1..].contains(&Token::Char('='))
    {
        rest = trimmed(&rest[at + 1..]);
    }
    while let [Token::Char('('), inside @ .., Token::Char(')')] = rest {
        if !closes_inside(inside) {
            break;
        }
        rest = trimmed(inside);
    }
    let mut out: Vec<Token> = Vec::with_capacity(rest.len());
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [Token::Space | Token::ThinSpace, ..] => out.push(Token::Space),
            [Token::Char('{'), one, Token::Char('}'), ..] if !matches!(one, Token::Char('{' | '}')) => {
                out.push(one.clone());
                at += 2;
            }
            [token, ..] => out.push(token.clone()),
            [] => break,
        }
        at += 1;
    }
    canonical(&out)
}

fn trimmed(list: &[Token]) -> &[Token] {
    let is_text = |token: &Token| !matches!(token, Token::Space | Token::ThinSpace);
    let Some(start) = list.iter().position(is_text) else { return &[] };
    let end = list.iter().rposition(is_text).map_or(start, |end| end + 1);
    &list[start..end]
}

/// A letter or a Greek one, with a subscript at most.
fn is_name(list: &[Token]) -> bool {
    match list {
        [Token::Char(c), rest @ ..] if c.is_alphabetic() => rest.is_empty() || rest[0] == Token::Char('_'),
        [Token::Command(_), rest @ ..] => rest.is_empty() || rest[0] == Token::Char('_'),
        _ => false,
    }
}

/// Whether every round bracket inside closes inside.
fn closes_inside(inside: &[Token]) -> bool {
    let mut depth = 0usize;
    for token in inside {
        match token {
            Token::Char('(') => depth += 1,
            Token::Char(')') => match depth.checked_sub(1) {
                Some(outer) => depth = outer,
                None => return false,
            },
            _ => {}
        }
    }
    depth == 0
}
