//! Option letters: a reference that is one of the first letters of the alphabet is one.

use super::super::latex::{Token, canonical};

/// Letters that name options.
const OPTIONS: std::ops::RangeInclusive<char> = 'A'..='H';

/// Whether the answer names the option of the reference; `None` where the two are not of that kind.
pub(super) fn compare(answer: &[Token], reference: &[Token]) -> Option<bool> {
    let reference = letter(&canonical(reference)).filter(|letter| OPTIONS.contains(letter))?;
    letter(&canonical(answer)).map(|answer| answer.to_ascii_uppercase() == reference)
}

/// The letter of `A`, `(A)`, `A.`, `Option A`, `(A) 5`.
fn letter(text: &str) -> Option<char> {
    let mut text = text.trim();
    let lower = text.to_ascii_lowercase();
    for word in ["the answer is", "option", "choice", "answer", "the correct option is"] {
        if lower.starts_with(word) && text.is_char_boundary(word.len()) {
            text = text[word.len()..].trim_start_matches([':', ' ']);
            break;
        }
    }
    let is_open = text.starts_with('(');
    let mut chars = text.trim_start_matches('(').chars();
    let letter = chars.next().filter(char::is_ascii_alphabetic)?;
    let rest = chars.as_str();
    if rest.trim_matches([')', '.', ':', ' ']).is_empty() {
        return Some(letter);
    }
    // `(A) 5` and `A) 5`: what stands behind is the option's value, not more to say.
    let rest = rest.strip_prefix(')').filter(|_| is_open || letter.is_ascii_uppercase())?;
    (letter.is_ascii_uppercase() && rest.starts_with([' ', '.', ':']) && is_formula(rest)).then_some(letter)
}

/// Whether a text has no letters but those of commands.
fn is_formula(text: &str) -> bool {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\\' {
            while chars.next_if(char::is_ascii_alphabetic).is_some() {}
        } else if c.is_alphabetic() {
            return false;
        }
    }
    true
}
