//! Numbers and sums of numbers as they stand in prose.

use std::borrow::Cow;

/// Longest expression of digits and operators that is read, in bytes. Longer ones are no answers.
const LONGEST_EXPRESSION: usize = 200;

/// Currency signs that may stand before a number.
const CURRENCY: [char; 8] = ['$', '€', '£', '¥', '₹', '₽', '₩', '₪'];

/// A number or an expression of numbers in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it starts: at its sign or first digit.
    pub start: usize,
    /// Where it ends, a percent sign or word included.
    pub end: usize,
    /// Where it ends without one.
    pub value_end: usize,
    /// Whether it has operators.
    pub is_expression: bool,
}

impl Found {
    /// The number, without separators of thousands, with a decimal point, and with `\%` if it is a percentage.
    pub fn read<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let written = &text[self.start..self.value_end];
        let percent = if self.end > self.value_end { "\\%" } else { "" };
        if self.is_expression || !written.contains([',', ' ']) && percent.is_empty() {
            return Cow::Borrowed(written);
        }
        // A comma before three digits separates thousands unless the number starts with a zero; any other is a decimal's.
        let bytes = written.as_bytes();
        let (whole, decimals) = match grouped(bytes) {
            0 => written.split_once([',', '.']).map_or((written, None), |(whole, decimals)| (whole, Some(decimals))),
            end => (&written[..end], written[end..].strip_prefix('.')),
        };
        let mut number: String = whole.chars().filter(|character| !matches!(character, ',' | ' ')).collect();
        if let Some(decimals) = decimals {
            number.push('.');
            number.push_str(decimals);
        }
        number.push_str(percent);
        Cow::Owned(number)
    }
}

/// The number or expression that starts at `at`, where white space, `=` or the start of the text stands before, perhaps
/// with `**` or a currency sign.
pub fn at(text: &str, at: usize) -> Option<Found> {
    let before = text[..at].chars().next_back();
    if !(before.is_none_or(|character| character.is_whitespace() || character == '=')) {
        return None;
    }
    let start = at + if text[at..].starts_with("**") { 2 } else { 0 };
    expression(text, start).or_else(|| {
        let start =
            start + text[start..].chars().next().filter(|sign| CURRENCY.contains(sign)).map_or(0, char::len_utf8);
        number(text, start)
    })
}

/// The first number or expression that starts in `from..to`.
pub fn first(text: &str, from: usize, to: usize) -> Option<Found> {
    (from..=to.min(text.len())).filter(|start| text.is_char_boundary(*start)).find_map(|start| at(text, start))
}

/// The number or expression of `text` that ends last, the longest of these.
pub fn last(text: &str) -> Option<Found> {
    let starts = |from: usize, to: usize| (from..to).rev().filter(|start| text.is_char_boundary(*start));
    let found = starts(0, text.len()).find_map(|start| at(text, start))?;
    // It may be the end of a longer expression, whose last operand alone was found.
    let from = found.start.saturating_sub(LONGEST_EXPRESSION);
    let longer = starts(from, found.start)
        .take_while(|start| is_expression_byte(text.as_bytes()[*start]))
        .filter_map(|start| at(text, start))
        .filter(|longer| longer.end >= found.end)
        .last();
    Some(longer.unwrap_or(found))
}

/// A number with its sign, separators of thousands, decimals and percent sign; nothing is asked of what stands around it.
pub fn number(text: &str, start: usize) -> Option<Found> {
    let bytes = text.as_bytes().get(start..)?;
    let digits = |from: usize| bytes.get(from..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit()).count();
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let whole = match grouped(bytes) {
        0 => sign + digits(sign),
        end => end,
    };
    let has_groups = grouped(bytes) > 0;
    let has_mark = match bytes.get(whole) {
        Some(b'.') => true,
        Some(b',') => !has_groups && whole > sign,
        _ => false,
    };
    let decimals = if has_mark { digits(whole + 1) } else { 0 };
    let length = if decimals > 0 { whole + 1 + decimals } else { whole };
    if whole == sign && (decimals == 0 || sign == 1) {
        return None;
    }
    let value_end = start + length;
    Some(Found { start, end: value_end + percent(&text[value_end..]), value_end, is_expression: false })
}

/// The length of a percent sign or word at the start of `text`, with white space before it; 0 if there is none.
pub fn percent(text: &str) -> usize {
    let mark = text.trim_start_matches([' ', '\t']);
    let length = ["\\%", "%", "percentage", "percent", "Percentage", "Percent", "pct", "Pct"]
        .into_iter()
        .find(|name| mark.starts_with(name))
        .map(str::len);
    length.map_or(0, |length| text.len() - mark.len() + length)
}

/// The length of a whole number at the start of `bytes` whose thousands are separated by commas or spaces; 0 if there is
/// none.
fn grouped(bytes: &[u8]) -> usize {
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let head = bytes[sign..].iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    if head == 0 || head > 3 || bytes[sign] == b'0' {
        return 0;
    }
    let is_group = |group: &[u8]| matches!(group[0], b',' | b' ') && group[1..].iter().all(u8::is_ascii_digit);
    let groups = bytes[sign + head..].chunks_exact(4).take_while(|group| is_group(group)).count();
    let end = sign + head + 4 * groups;
    // `1,2345` is no grouping, and neither is the `234` of it.
    let runs_on = bytes.get(end).is_some_and(u8::is_ascii_digit);
    if groups == 0 || runs_on { 0 } else { end }
}

fn is_expression_byte(byte: u8) -> bool {
    // Bytes from 128 on: `×` and `÷`, and others that end an expression.
    byte.is_ascii_digit() || byte.is_ascii_whitespace() || b".+-*/^()".contains(&byte) || !byte.is_ascii()
}

/// Digits and operators: at least one operator between two operands.
fn expression(text: &str, start: usize) -> Option<Found> {
    let mut reach = text.len().min(start + LONGEST_EXPRESSION + 1);
    while !text.is_char_boundary(reach) {
        reach -= 1;
    }
    let rest = &text[start..reach];
    let head = rest.strip_prefix('-').unwrap_or(rest);
    let head = head.strip_prefix('(').unwrap_or(head);
    if !head.strip_prefix('-').unwrap_or(head).starts_with(|character: char| character.is_ascii_digit()) {
        return None;
    }
    let is_operator = |character: char| "+-*/^()×÷".contains(character);
    let belongs = |character: char| {
        character.is_ascii_digit() || character.is_ascii_whitespace() || character == '.' || is_operator(character)
    };
    let mut run = rest.find(|character: char| !belongs(character)).unwrap_or(rest.len());
    // What ends in the middle of a word, such as the 3 of `5 + 3m`, is cut back to the word.
    if rest[run..].starts_with(|character: char| !matches!(character, ',' | ':' | '$')) {
        run = rest[..run]
            .rfind([' ', '\n', '\t', ')', '.'])
            .map_or(0, |end| end + usize::from(rest[end..].starts_with(')')));
    }
    let value = rest[..run].trim_end_matches(|character: char| character.is_ascii_whitespace() || character == '.');
    let is_complete = value.ends_with(|character: char| character.is_ascii_digit() || character == ')');
    let operator =
        value.char_indices().skip(1).any(|(_, character)| is_operator(character) && !"()".contains(character));
    let wrapped = value.starts_with('(') && value.ends_with(')');
    let balanced = value.matches('(').count() == value.matches(')').count();
    // Numbers beside each other without an operator are no expression: `2. 3-1`.
    if !(is_complete && balanced && (operator || wrapped)) {
        return None;
    }
    let value_end = start + value.len();
    Some(Found { start, end: value_end, value_end, is_expression: true })
}

#[cfg(test)]
mod tests {
    use super::{last, number};

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(last(text).map(|found| found.read(text).into_owned()).unwrap_or_default(), expected, "{text}");
    }

    #[test]
    fn numbers_in_prose() {
        check("the number is 1,000.99€", "1000.99");
        check("1 000", "1000");
        check("7,425,000", "7425000");
        check("1000,99", "1000.99");
        check("1,22", "1.22");
        check(".4", ".4");
        check("-5", "-5");
        check("1,000.99m²", "1000.99");
        check("AZYUK2A", "");
        check("increases by 100%.", "100\\%");
        check("it is **12**.", "12");
        check("so x =3 or so", "3");
        check("1,2345", "1.2345");
    }

    #[test]
    fn expressions_in_prose() {
        check("10/9", "10/9");
        check("it is 5 + 3 apples", "5 + 3");
        check("it is (9+1).", "(9+1)");
        check("2 + 3m", "3");
        check("12 + x", "12");
    }

    #[test]
    fn a_number_needs_a_digit() {
        assert_eq!(number("-.", 0), None);
        assert_eq!(number("", 0), None);
        assert_eq!(number("x", 0), None);
    }
}
