//! Answers without a box: after a phrase, or the last number of a text.

use super::number;
use crate::config::Fallback;

/// Phrases that announce an answer, in lower case.
const PHRASES: [&str; 6] = ["answer is", "answer:", "answer:**", "answer**:", "answer =", "####"];

/// Pairs of marks of a formula.
const FORMULAS: [(&str, &str); 4] = [("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")];

/// What `fallback` finds in `text`.
pub fn find(text: &str, fallback: Fallback) -> Option<&str> {
    match fallback {
        Fallback::Phrase => phrase(text),
        Fallback::LastNumber => last_number(text),
    }
}

/// What follows the last "answer is", "answer:" or "####": a formula if one follows at once, else the rest of the
/// sentence. Marks of formulas and of emphasis are taken off.
fn phrase(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let starts = |at: usize, phrase: &str| {
        bytes.get(at..at + phrase.len()).is_some_and(|here| here.eq_ignore_ascii_case(phrase.as_bytes()))
    };
    let end = (0..bytes.len()).rev().find_map(|at| {
        // Of phrases that start in the same place the longest.
        PHRASES.into_iter().filter(|phrase| starts(at, phrase)).map(|phrase| at + phrase.len()).max()
    })?;
    let rest = text[end..].trim_start_matches([' ', '\t', '\r', '\n', ':', '*', '=']);
    for (open, close) in FORMULAS {
        if let Some(inside) = rest.strip_prefix(open)
            && let Some(length) = inside.find(close)
        {
            return non_empty(&inside[..length]);
        }
    }
    let sentence = &rest[..sentence_end(rest)];
    let sentence = sentence.trim().trim_matches('*').trim_end_matches(['.', '!', ',', ';']).trim();
    non_empty(sentence)
}

/// Where the first sentence of `text` ends: at a line break, or at a full stop that is not a decimal point.
fn sentence_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let ends = |at: usize| match bytes[at] {
        b'\n' | b'\r' => true,
        b'.' | b'!' => bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace),
        _ => false,
    };
    (0..bytes.len()).find(|at| ends(*at)).unwrap_or(bytes.len())
}

/// The last number, with its sign, separators of thousands, decimals and percent sign, or the last fraction of two numbers,
/// `a/b` or `\frac{a}{b}`. A number that is part of a word, such as `x2`, is none.
fn last_number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        let before = text[..at].chars().next_back();
        let stands_alone = !before.is_some_and(|character| character.is_alphanumeric() || "_^.\\".contains(character));
        let found = if stands_alone { fraction(text, at).or_else(|| plain(text, at)) } else { None };
        if let Some(end) = found {
            // The sign of `5-3` is an operator.
            let start = if bytes[at] == b'-' && before == Some(')') { at + 1 } else { at };
            last = Some((start, end));
            at = end;
        } else {
            at += 1;
            while !text.is_char_boundary(at) {
                at += 1;
            }
        }
    }
    last.and_then(|(start, end)| non_empty(&text[start..end]))
}

/// The end of `\frac{a}{b}` with numbers `a` and `b` and perhaps a sign.
pub(super) fn fraction(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..];
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let rest = ["\\frac", "\\dfrac", "\\tfrac", "\\cfrac"].into_iter().find_map(|name| rest.strip_prefix(name))?;
    let argument = |rest: &str| {
        let inside = rest.strip_prefix('{')?;
        let found = number::number(inside, 0)?;
        inside[found.value_end..].strip_prefix('}').map(str::len)
    };
    let left = argument(rest)?;
    let left = argument(&rest[rest.len() - left..])?;
    Some(text.len() - left)
}

/// The end of a number, or of two with a slash between.
fn plain(text: &str, at: usize) -> Option<usize> {
    let first = number::number(text, at)?;
    // What a comma and a space, or a space alone, would join are two numbers in prose.
    let first_end = text[at..first.value_end].find(' ').map_or(first.value_end, |space| at + space);
    let runs_on = |end: usize| text[end..].starts_with(|character: char| character.is_ascii_digit());
    let whole = &text[at..first_end];
    if whole.contains(',') && !is_grouped(whole) {
        return whole.find(',').map(|comma| at + comma);
    }
    if first_end < first.value_end {
        return Some(first_end);
    }
    if let Some(below) = text[first_end..].strip_prefix('/').and_then(|rest| number::number(rest, 0))
        && !runs_on(first_end + 1 + below.value_end)
    {
        return Some(first_end + 1 + below.value_end);
    }
    Some(first.end)
}

/// Whether every comma stands before three digits.
fn is_grouped(number: &str) -> bool {
    let whole = number.split('.').next().unwrap_or_default();
    whole.split(',').skip(1).all(|group| group.len() == 3)
}

fn non_empty(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::find;
    use crate::config::Fallback;

    #[track_caller]
    fn phrase(text: &str, expected: &str) {
        assert_eq!(find(text, Fallback::Phrase).unwrap_or_default(), expected, "{text}");
    }

    #[track_caller]
    fn number(text: &str, expected: &str) {
        assert_eq!(find(text, Fallback::LastNumber).unwrap_or_default(), expected, "{text}");
    }

    #[test]
    fn phrases() {
        phrase("The answer is 5. I hope so.", "5");
        phrase("So the final answer is $\\frac{1}{2}$, as said.", "\\frac{1}{2}");
        phrase("**Final Answer:** 3.5.", "3.5");
        phrase("**Answer**: \\(x + 1\\)", "x + 1");
        phrase("the answer is 4. No, the answer is: 6", "6");
        phrase("so 3 + 4 = 7\n#### 1,234\n", "1,234");
        phrase("Answer:\n\n42\nThanks", "42");
        phrase("the answer is", "");
        phrase("it is 5", "");
    }

    #[test]
    fn last_numbers() {
        number("from 3 to 4.", "4");
        number("it costs $1,234.50 in all", "1,234.50");
        number("so -7 it is", "-7");
        number("it is 1/3", "1/3");
        number("it is \\frac{1}{3} of x2", "\\frac{1}{3}");
        number("about 15% of it", "15%");
        number("1, 2, 3", "3");
        number("5 12", "12");
        number("5,12", "12");
        number("no number", "");
        number("100 200 apples", "200");
    }
}
