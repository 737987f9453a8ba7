//! When two answers are the same.

use num_rational::BigRational;

use super::latex::{LONGEST_ANSWER_BYTES, Token, canonical, tokens, trim};
use super::number::value;

/// Words behind a number that say more than what is counted, or may.
const NOT_UNITS: &[&str] = &[
    "about",
    "almost",
    "alpha",
    "and",
    "approx",
    "approximately",
    "around",
    "beta",
    "billion",
    "billions",
    "couple",
    "couples",
    "cubed",
    "delta",
    "dozen",
    "dozens",
    "eighth",
    "eighths",
    "epsilon",
    "except",
    "factorial",
    "fifth",
    "fifths",
    "fourth",
    "fourths",
    "gamma",
    "half",
    "halves",
    "hundred",
    "hundreds",
    "hundredth",
    "hundredths",
    "id",
    "if",
    "infinite",
    "infinity",
    "iota",
    "kappa",
    "lambda",
    "maybe",
    "million",
    "millions",
    "minus",
    "mod",
    "nearly",
    "ninth",
    "ninths",
    "not",
    "omega",
    "only",
    "or",
    "over",
    "pair",
    "pairs",
    "phi",
    "pi",
    "plus",
    "psi",
    "quarter",
    "quarters",
    "root",
    "roughly",
    "score",
    "scores",
    "seventh",
    "sevenths",
    "sigma",
    "sixth",
    "sixths",
    "sqrt",
    "squared",
    "tau",
    "ten",
    "tens",
    "tenth",
    "tenths",
    "theta",
    "third",
    "thirds",
    "thousand",
    "thousands",
    "thousandth",
    "thousandths",
    "times",
    "to",
    "trillion",
    "trillions",
    "unless",
    "wrong",
    "zeta",
];

/// Units of one letter; any other letter may be a variable or a constant.
const LETTER_UNITS: [&str; 13] = ["m", "g", "s", "h", "l", "L", "N", "J", "W", "V", "A", "K", "C"];

/// Short words whose case means nothing.
const TRUTHS: [&str; 4] = ["yes", "no", "true", "false"];

/// Whether `answer` is the same as `reference`. Both are bare: no box around them.
pub fn same(answer: &str, reference: &str) -> bool {
    if answer.trim() == reference.trim() {
        return true;
    }
    if answer.len() > LONGEST_ANSWER_BYTES || reference.len() > LONGEST_ANSWER_BYTES {
        return false;
    }
    let (answer, reference) = (tokens(answer), tokens(reference));
    if same_side(&answer, &reference) {
        return true;
    }
    // `x = 3` answers a reference `3`; what stands before the sign may not be a number of its own.
    match (assigned(&answer), assigned(&reference)) {
        (Some(answer), None) => same_side(&answer, &reference),
        (None, Some(reference)) => value(&reference).is_some() && same_side(&answer, &reference),
        _ => false,
    }
}

/// Comparison without regard to `name =`.
fn same_side(answer: &[Token], reference: &[Token]) -> bool {
    if answer.is_empty() {
        return false;
    }
    match (quantity(answer), quantity(reference)) {
        (Some(answer), Some(reference)) => answer.agrees_with(&reference),
        _ => same_text(answer, reference) || same_list(answer, reference),
    }
}

fn same_text(answer: &[Token], reference: &[Token]) -> bool {
    let (answer, reference) = (plain(answer), plain(reference));
    answer == reference || {
        let (answer, reference) = (answer.to_lowercase(), reference.to_lowercase());
        // Case carries meaning in symbols (`n` and `N`), not in words.
        let is_word = reference.chars().count() >= 4 && reference.chars().all(|c| c.is_alphabetic() || c == ' ');
        answer == reference && (is_word || TRUTHS.contains(&reference.as_str()))
    }
}

/// The canonical text, without brackets around a single word or letter and without superfluous braces.
fn plain(list: &[Token]) -> String {
    let list = match list {
        [Token::Char('('), inside @ .., Token::Char(')')] if canonical(inside).chars().all(char::is_alphabetic) => {
            inside
        }
        // `\text{(C)}` keeps its brackets inside the words.
        [Token::Text(words)] => {
            let inside = words.strip_prefix('(').and_then(|words| words.strip_suffix(')'));
            return inside.unwrap_or(words).to_string();
        }
        list => list,
    };
    without_braces(list)
}

/// Braces around one character, behind `^` or `_`, change nothing; nor do a fraction's, which are added if missing.
fn without_braces(list: &[Token]) -> String {
    let list: Vec<Token> = list.iter().filter(|t| !matches!(t, Token::ThinSpace)).cloned().collect();
    let mut out: Vec<Token> = Vec::with_capacity(list.len());
    let mut at = 0;
    while at < list.len() {
        let behind_mark = matches!(out.last(), Some(Token::Char('^' | '_')));
        match &list[at..] {
            [Token::Char('{'), one, Token::Char('}'), ..] if behind_mark && !matches!(one, Token::Char('{' | '}')) => {
                out.push(one.clone());
                at += 3;
            }
            [frac @ Token::Command(name), rest @ ..] if name == "frac" => {
                out.push(frac.clone());
                at += 1;
                // `\frac12`
                let digits = rest.iter().take(2).filter(|t| matches!(t, Token::Char(c) if c.is_alphanumeric())).count();
                if digits == 2 {
                    for digit in &rest[..2] {
                        out.extend([Token::Char('{'), digit.clone(), Token::Char('}')]);
                    }
                    at += 2;
                }
            }
            [token, ..] => {
                out.push(token.clone());
                at += 1;
            }
            [] => break,
        }
    }
    canonical(&out)
}

/// Lists, tuples and intervals with the same brackets, member by member in order.
fn same_list(answer: &[Token], reference: &[Token]) -> bool {
    let (answer, reference) = (members(answer), members(reference));
    let same_shape = answer.brackets == reference.brackets && answer.parts.len() == reference.parts.len();
    let same_member = |(answer, reference): (&Vec<Token>, &Vec<Token>)| {
        same_text(answer, reference)
            || matches!((quantity(answer), quantity(reference)), (Some(a), Some(r)) if a.agrees_with(&r))
    };
    same_shape && reference.parts.len() > 1 && answer.parts.iter().zip(&reference.parts).all(same_member)
}

struct Members {
    /// Outer brackets; empty for a bare list.
    brackets: Vec<Token>,
    parts: Vec<Vec<Token>>,
}

/// Splits at the commas that stand in no brackets but the outer ones.
fn members(list: &[Token]) -> Members {
    let opens = |t: &Token| matches!(t, Token::Char('(' | '[' | '{')) || *t == Token::Command("{".into());
    let closes = |t: &Token| matches!(t, Token::Char(')' | ']' | '}')) || *t == Token::Command("}".into());
    let (brackets, inside) = match list {
        [first, inside @ .., last] if opens(first) && closes(last) && spans(inside, opens, closes) => {
            (vec![first.clone(), last.clone()], inside)
        }
        list => (Vec::new(), list),
    };
    let mut parts = vec![Vec::new()];
    let mut depth = 0usize;
    for token in inside {
        if opens(token) {
            depth += 1;
        } else if closes(token) {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && *token == Token::Char(',') {
            parts.push(Vec::new());
            continue;
        }
        if let Some(part) = parts.last_mut() {
            part.push(token.clone());
        }
    }
    parts.iter_mut().for_each(trim);
    Members { brackets, parts }
}

/// Whether every bracket inside closes inside, so that the outer two belong together.
fn spans(inside: &[Token], opens: impl Fn(&Token) -> bool, closes: impl Fn(&Token) -> bool) -> bool {
    let mut depth = 0usize;
    for token in inside {
        if opens(token) {
            depth += 1;
        } else if closes(token) {
            match depth.checked_sub(1) {
                Some(outer) => depth = outer,
                None => return false,
            }
        }
    }
    depth == 0
}

/// What stands behind the only `=`, if what stands before it is a name and not a number.
fn assigned(list: &[Token]) -> Option<Vec<Token>> {
    let sign = Token::Char('=');
    let at = list.iter().position(|token| *token == sign)?;
    let (mut name, mut rest) = (list[..at].to_vec(), list[at + 1..].to_vec());
    trim(&mut name);
    trim(&mut rest);
    let has_letter = name.iter().any(|t| match t {
        Token::Char(c) => c.is_alphabetic(),
        Token::Text(_) | Token::Command(_) => true,
        _ => false,
    });
    let is_single = !rest.contains(&sign) && !name.is_empty() && value(&name).is_none();
    // In `x + y = 3` and `2x = 6` what stands there is not the answer.
    let is_name = !name.iter().any(|t| matches!(t, Token::Char('+' | '-' | '*' | '/' | '<' | '>' | '!')))
        && !matches!(name.first(), Some(Token::Char('0'..='9')));
    (is_single && has_letter && is_name).then_some(rest)
}

/// What a number counts.
#[derive(Debug, PartialEq, Eq)]
enum Unit {
    None,
    Percent,
    Degree,
    Named(String),
}

/// A number with its unit.
#[derive(Debug)]
struct Quantity {
    value: BigRational,
    unit: Unit,
}

impl Quantity {
    /// A unit may be left out or added, except for percent, which changes the value by one reading of it.
    fn agrees_with(&self, reference: &Quantity) -> bool {
        let units = match (&self.unit, &reference.unit) {
            (answer, reference) if answer == reference => true,
            (Unit::Percent, _) | (_, Unit::Percent) => false,
            (Unit::None, _) | (_, Unit::None) => true,
            _ => false,
        };
        units && self.value == reference.value
    }
}

fn quantity(list: &[Token]) -> Option<Quantity> {
    let mut number = list.to_vec();
    let unit = take_unit(&mut number)?;
    trim(&mut number);
    Some(Quantity { value: value(&number)?, unit })
}

/// Removes a unit at the end. `None` if the words there are no unit.
fn take_unit(list: &mut Vec<Token>) -> Option<Unit> {
    if list.last() == Some(&Token::Char('%')) {
        list.pop();
        return Some(Unit::Percent);
    }
    let circle = Token::Command("circ".into());
    for degree in
        [vec![Token::Char('^'), circle.clone()], vec![Token::Char('^'), Token::Char('{'), circle, Token::Char('}')]]
    {
        if list.ends_with(&degree) {
            list.truncate(list.len() - degree.len());
            return Some(Unit::Degree);
        }
    }
    // `\text{cm}^2`
    let has_power = |mark: &[Token]| match mark {
        [Token::Text(_), Token::Char('^'), Token::Char('2' | '3')] => 2,
        [Token::Text(_), Token::Char('^'), Token::Char('{'), Token::Char('2' | '3'), Token::Char('}')] => 4,
        _ => 0,
    };
    let power = [3, 5].into_iter().filter_map(|n| Some(has_power(&list[list.len().checked_sub(n)?..]))).max();
    let power: Vec<Token> = list.split_off(list.len() - power.unwrap_or(0));
    if let Some(Token::Text(words)) = list.last() {
        let unit = named_unit(&format!("{words}{}", canonical(&power)))?;
        list.pop();
        return Some(unit);
    }
    list.extend(power);
    // A bare plural: `7 apples`. Other words may be variables or functions (`3 cosx`).
    let letters = list.iter().rev().take_while(|t| matches!(t, Token::Char('a'..='z'))).count();
    let is_plural = letters >= 4 && list.last() == Some(&Token::Char('s'));
    if is_plural && list.len() > letters && list[list.len() - letters - 1] == Token::Space {
        let word = list.split_off(list.len() - letters);
        return named_unit(&canonical(&word));
    }
    Some(Unit::None)
}

fn named_unit(words: &str) -> Option<Unit> {
    let words = words.trim_matches(['(', ')', '.', ' ']);
    if words.chars().count() == 1 {
        return LETTER_UNITS.contains(&words).then(|| Unit::Named(words.to_string()));
    }
    let words = words.to_lowercase();
    match words.as_str() {
        "percent" => return Some(Unit::Percent),
        "degree" | "degrees" => return Some(Unit::Degree),
        "" => return None,
        _ => {}
    }
    let is_unit = words.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | '/' | '^' | '2' | '3' | '{' | '}'));
    let says_more = words.split([' ', '/']).any(|word| NOT_UNITS.contains(&word));
    (is_unit && !says_more).then_some(Unit::Named(words))
}
