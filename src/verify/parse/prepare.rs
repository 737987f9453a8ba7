//! Makes words of letters that are words, and commands of functions that are written without a backslash.

use super::super::latex::{Token, canonical};

/// Names that mean a command, also without its backslash.
const COMMANDS: &[&str] = &[
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln", "log", "exp",
    "sqrt", "gcd", "lcm", "det", "max", "min", "pi", "alpha", "beta", "gamma", "theta", "lambda", "sigma", "omega",
    "infty", "binom", "lim", "deg", "dim", "ker", "rank", "arg",
];

/// Other spellings of functions.
const SPELLINGS: &[(&str, &str)] = &[
    ("asin", "arcsin"),
    ("acos", "arccos"),
    ("atan", "arctan"),
    ("inf", "infty"),
    ("oo", "infty"),
    ("floor", "lfloor"),
];

/// Functions that are written together with their argument.
const FUNCTIONS: &[&str] = &["arcsin", "arccos", "arctan", "sin", "cos", "tan", "cot", "ln", "log", "sqrt"];

/// Short words; other runs of two letters are products.
const SHORT_WORDS: &[&str] = &[
    "or", "and", "is", "are", "no", "not", "the", "of", "if", "yes", "cm", "km", "mm", "kg", "hr", "ft", "pct", "mph",
    "mi",
];

/// Letters that are units behind a number.
const LETTER_UNITS: &str = "mgshlLNJWVAC";

/// The tokens with words, functions and single letters told apart, and without what only arranges lines.
pub fn prepare(list: Vec<Token>) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::with_capacity(list.len());
    let mut environments = 0usize;
    let mut at = 0;
    while at < list.len() {
        match &list[at] {
            Token::Char(c) if c.is_ascii_alphabetic() => {
                let end = (at..list.len())
                    .find(|&place| !matches!(&list[place], Token::Char(c) if c.is_ascii_alphabetic()))
                    .unwrap_or(list.len());
                letters(&list, at, end, &mut out);
                at = end;
                continue;
            }
            Token::Text(words) => text(words, &mut out),
            Token::Begin(name) if arranges(name) => {}
            Token::End(name) if arranges(name) => {}
            Token::Begin(_) => {
                environments += 1;
                out.push(list[at].clone());
            }
            Token::End(_) => {
                environments = environments.saturating_sub(1);
                out.push(list[at].clone());
            }
            Token::Char('&') if environments == 0 => {}
            // A line that goes on with a sign.
            Token::Command(name) if name == "\\" && environments == 0 => {
                let next =
                    list[at + 1..].iter().find(|t| !matches!(t, Token::Space | Token::ThinSpace | Token::Char('&')));
                let goes_on = match next {
                    Some(Token::Char('=' | '<' | '>' | '+' | '-')) | None => true,
                    Some(Token::End(name)) => arranges(name),
                    Some(Token::Command(name)) => matches!(name.as_str(), "le" | "ge" | "approx"),
                    _ => false,
                };
                if !goes_on {
                    out.push(Token::Char(','));
                }
            }
            token => out.push(token.clone()),
        }
        at += 1;
    }
    out
}

/// Environments that only arrange lines.
fn arranges(name: &str) -> bool {
    matches!(
        name,
        "align" | "aligned" | "gather" | "gathered" | "equation" | "split" | "displaymath" | "math" | "alignedat"
    )
}

/// A run of letters: a word, a function, or a product of letters.
fn letters(list: &[Token], start: usize, end: usize, out: &mut Vec<Token>) {
    let run = canonical(&list[start..end]);
    let lower = run.to_ascii_lowercase();
    let command = COMMANDS.contains(&run.as_str()).then_some(run.as_str());
    let command = command.or_else(|| SPELLINGS.iter().find(|(name, _)| *name == run).map(|(_, command)| *command));
    let follows_number = out
        .iter()
        .rev()
        .find(|t| !matches!(t, Token::Space))
        .is_some_and(|token| matches!(token, Token::Char('0'..='9' | '}' | ')')))
        && matches!(out.last(), Some(Token::Space | Token::ThinSpace));
    if let Some(name) = command {
        // `5 min`
        let is_unit = follows_number && end == list.len() && matches!(name, "min" | "deg" | "sec");
        out.push(if is_unit { Token::Text(run) } else { Token::Command(name.to_string()) });
        return;
    }
    // `cosx`
    if let Some(name) = FUNCTIONS.iter().find(|name| run.starts_with(*name) && run.len() - name.len() <= 2) {
        out.push(Token::Command((*name).to_string()));
        out.extend(list[start + name.len()..end].iter().cloned());
        return;
    }
    let is_upper = run.chars().all(|c| c.is_ascii_uppercase());
    let has_vowel = lower.contains(['a', 'e', 'i', 'o', 'u', 'y']);
    let is_alone = stands_alone(list, end, out);
    let is_word = match run.len() {
        1 => false,
        2 | 3 if SHORT_WORDS.contains(&lower.as_str()) => true,
        2 => false,
        3 => has_vowel && !is_upper && (is_alone || near_words(list, start, end, out)),
        _ => has_vowel || is_upper,
    };
    if is_word {
        out.push(Token::Text(run));
    } else {
        out.extend(list[start..end].iter().cloned());
    }
}

/// Whether nothing else stands on this side of a sign.
fn stands_alone(list: &[Token], end: usize, out: &[Token]) -> bool {
    let is_space = |token: &&Token| matches!(token, Token::Space | Token::ThinSpace);
    let ends = |token: Option<&Token>| matches!(token, None | Some(Token::Char('=' | ',' | ';')));
    ends(out.iter().rev().find(|token| !is_space(token))) && ends(list[end..].iter().find(|token| !is_space(token)))
}

/// Whether words stand beside the run.
fn near_words(list: &[Token], start: usize, end: usize, out: &[Token]) -> bool {
    let is_space = |token: &&Token| matches!(token, Token::Space | Token::ThinSpace);
    let before = out.iter().rev().find(|token| !is_space(token));
    let after = list[end..].iter().find(|token| !is_space(token));
    let parted = start == 0 || matches!(list[start - 1], Token::Space | Token::ThinSpace);
    parted
        && (matches!(before, Some(Token::Text(_)))
            || matches!(after, Some(Token::Text(_)))
            || matches!(after, Some(Token::Char(c)) if c.is_ascii_alphabetic()))
}

/// `\text{...}`: a single letter is a symbol unless it is a unit; words stay.
fn text(words: &str, out: &mut Vec<Token>) {
    let bare = words.strip_prefix('(').and_then(|words| words.strip_suffix(')')).unwrap_or(words).trim();
    let mut chars = bare.chars();
    match (chars.next(), chars.next()) {
        (Some(letter), None) => {
            let previous = out.iter().rev().find(|token| !matches!(token, Token::Space | Token::ThinSpace));
            let counts = matches!(previous, Some(Token::Char('0'..='9' | '}' | ')')));
            let is_unit = counts && LETTER_UNITS.contains(letter);
            let after_unit = matches!(previous, Some(Token::Text(_) | Token::Char('/')));
            out.push(if is_unit || after_unit && LETTER_UNITS.contains(letter) {
                Token::Text(bare.to_string())
            } else {
                Token::Char(letter)
            });
        }
        _ if COMMANDS.contains(&bare) && bare != "deg" => out.push(Token::Command(bare.to_string())),
        _ => out.push(Token::Text(words.to_string())),
    }
}
