//! Tokens to an [`Answer`]: the structure around expressions. `expression` reads what stands in them.
//!
//! The notation is ambiguous in a few places. A [`Reading`] fixes them, and answers are compared under every reading that
//! makes a difference.

mod bracket;
mod expression;
pub mod loose;
mod mark;
mod name;
mod number;
mod prepare;
mod relation;
#[cfg(test)]
mod tests;
mod words;

use super::answer::{Answer, SetOperation, Sign, Unit};
use super::budget::{Budget, Exhausted};
use super::expr::Expr;
use super::latex::{Token, canonical};

pub use prepare::prepare;
use words::Count;
pub use words::{normal_words, says_no_more};

/// Deepest nesting that is read.
const DEEPEST: usize = 40;

/// Fixes what the notation leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `1,234` is a number, not a list.
    pub commas_group: bool,
    /// `f(x)` is a function of x, not a product.
    pub letters_call: bool,
    /// `3,5` is a decimal.
    pub decimal_comma: bool,
    /// `\log` has the base 10.
    pub log_is_decimal: bool,
}

/// What was read, and which parts of the reading mattered.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The answer.
    pub answer: Answer,
    /// A comma stood between groups of digits.
    pub has_grouping_comma: bool,
    /// A letter stood before a bracket.
    pub has_letter_call: bool,
    /// A comma stood between other digits.
    pub has_decimal_comma: bool,
    /// There was a `\log` without a base.
    pub has_bare_log: bool,
}

/// Reads an answer. Never fails: what cannot be read is [`Answer::Opaque`].
///
/// # Errors
/// [`Exhausted`] where reading takes more than the budget.
pub fn parse(list: &[Token], reading: Reading, budget: &mut Budget) -> Result<Parsed, Exhausted> {
    budget.spend(list.len() as u64)?;
    let mut parser = Parser::new(list, reading);
    parser.most_work = budget.left();
    // A bracket that does not close would be tried in several ways at every level.
    let answer = if bracket::is_balanced(list) { parser.whole() } else { None };
    budget.spend(parser.work)?;
    let answer = answer.unwrap_or_else(|| match parser.is_too_deep || parser.is_undefined {
        true => Answer::Nonsense,
        false => Answer::Opaque(loose::text(list)),
    });
    Ok(Parsed {
        answer,
        has_grouping_comma: parser.has_grouping_comma,
        has_letter_call: parser.has_letter_call,
        has_decimal_comma: parser.has_decimal_comma,
        has_bare_log: parser.has_bare_log,
    })
}

/// Reads a list of tokens from left to right. `None` from a method: this cannot be read.
struct Parser<'a> {
    list: &'a [Token],
    at: usize,
    reading: Reading,
    depth: usize,
    /// Brackets in which a comma parts members.
    brackets: usize,
    /// How many `|` are open: the next one closes.
    bars: usize,
    /// The same of `\|`.
    norms: usize,
    /// The sign that `\pm` stands for at present, and whether it was met.
    pm_is_minus: bool,
    saw_pm: bool,
    /// Levels entered, and tokens read again for the other sign: what is tried in several ways costs that often.
    work: u64,
    /// When to give up.
    most_work: u64,
    has_grouping_comma: bool,
    has_letter_call: bool,
    has_decimal_comma: bool,
    has_bare_log: bool,
    is_too_deep: bool,
    /// Infinity stood among numbers.
    is_undefined: bool,
}

impl<'a> Parser<'a> {
    fn new(list: &'a [Token], reading: Reading) -> Parser<'a> {
        Parser {
            list,
            at: 0,
            reading,
            depth: 0,
            brackets: 0,
            bars: 0,
            norms: 0,
            pm_is_minus: false,
            saw_pm: false,
            work: 0,
            most_work: u64::MAX,
            has_grouping_comma: false,
            has_letter_call: false,
            has_decimal_comma: false,
            has_bare_log: false,
            is_too_deep: false,
            is_undefined: false,
        }
    }

    fn peek(&self) -> Option<&'a Token> {
        self.list.get(self.at)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(Token::Space | Token::ThinSpace)) {
            self.at += 1;
        }
    }

    /// The next token that is no space.
    fn next(&mut self) -> Option<&'a Token> {
        self.skip_space();
        self.peek()
    }

    fn next_is(&mut self, wanted: char) -> bool {
        matches!(self.next(), Some(Token::Char(c)) if *c == wanted)
    }

    fn next_is_command(&mut self, wanted: &str) -> bool {
        matches!(self.next(), Some(Token::Command(name)) if name == wanted)
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_next = self.next_is(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    fn take_command(&mut self, wanted: &str) -> bool {
        let is_next = self.next_is_command(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    /// Runs `inner` one level deeper.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        self.work += 1;
        self.is_too_deep |= self.depth > DEEPEST;
        let value = if self.depth <= DEEPEST && self.work <= self.most_work { inner(self) } else { None };
        self.depth -= 1;
        value
    }

    /// Runs `inner` on a part of the list as if it stood alone.
    fn within<T>(&mut self, list: &'a [Token], inner: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let outer = (self.list, self.at);
        (self.list, self.at) = (list, 0);
        let value = self.deeper(inner);
        (self.list, self.at) = outer;
        value
    }

    fn whole(&mut self) -> Option<Answer> {
        let answer = self.members(true)?;
        (self.next().is_none()).then_some(answer)
    }

    /// Members with what parts them; one alone is itself. Bounds joined by "or" are a union, by anything else an
    /// intersection.
    fn members(&mut self, is_outer: bool) -> Option<Answer> {
        let joined = self.items(is_outer)?;
        let mut items = joined.items;
        if items.len() == 1 {
            return items.pop();
        }
        if items.iter().all(is_bound) {
            let operation = if joined.by_or { SetOperation::Union } else { SetOperation::Intersection };
            return (!joined.is_mixed).then_some(Answer::Combined(operation, items));
        }
        Some(if joined.by_or { Answer::Either(items) } else { Answer::List(items) })
    }

    /// At least one member. `is_outer`: a member with `\pm` is two.
    fn items(&mut self, is_outer: bool) -> Option<Joined> {
        let mut joined = Joined { items: Vec::new(), by_or: false, is_mixed: false };
        let mut by_and = false;
        loop {
            self.item(is_outer, &mut joined.items)?;
            let mut is_parted = false;
            while let Some(by_or) = self.separator(joined.items.last().is_some_and(is_bound)) {
                is_parted = true;
                joined.by_or |= by_or == Some(true);
                by_and |= by_or == Some(false);
            }
            joined.is_mixed = joined.by_or && by_and;
            // A separator at the end is a slip.
            if !is_parted || self.next().is_none() {
                return Some(joined);
            }
        }
    }

    fn item(&mut self, is_outer: bool, items: &mut Vec<Answer>) -> Option<()> {
        let (start, saw_before) = (self.at, self.saw_pm);
        self.saw_pm = false;
        let one = self.relation()?;
        if is_outer && self.saw_pm {
            let end = self.at;
            self.at = start;
            self.work += (end - start) as u64;
            self.pm_is_minus = true;
            let other = self.relation();
            self.pm_is_minus = false;
            let other = other?;
            // `a \pm b` is one member with two values; what was parted inside stays together.
            items.push(one);
            items.push(other);
            self.saw_pm = saw_before;
        } else {
            items.push(one);
            self.saw_pm |= saw_before;
        }
        Some(())
    }

    /// Takes what parts two members: `Some(Some(true))` for "or", `Some(Some(false))` for "and", `Some(None)` for a mark.
    fn separator(&mut self, after_bound: bool) -> Option<Option<bool>> {
        let kind = match self.next()? {
            Token::Char(',' | ';') => None,
            Token::Text(words) if is_conjunction(words) => {
                let words = words.to_ascii_lowercase();
                if words.contains("or") {
                    Some(true)
                } else if words.contains("and") {
                    Some(false)
                } else {
                    None
                }
            }
            Token::Command(name) => match name.as_str() {
                "lor" | "vee" if after_bound => Some(true),
                "land" | "wedge" if after_bound => Some(false),
                // Rows of `aligned` and `cases` that stand outside their environment.
                "\\" => None,
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        Some(kind)
    }

    /// An expression or a set, with a unit behind it. `a : b` binds closer than any sign.
    fn operand(&mut self) -> Option<Answer> {
        let first = self.measured()?;
        if self.brackets > 0 || !self.take(':') {
            return Some(first);
        }
        // `6:05 PM`
        if matches!(self.list.get(self.at..self.at + 2), Some([Token::Char('0'), Token::Char('0'..='9')])) {
            return None;
        }
        let mut items = vec![first];
        loop {
            items.push(self.measured()?);
            if !self.take(':') {
                return Some(Answer::Tuple { open: ':', close: ':', items });
            }
        }
    }

    fn measured(&mut self) -> Option<Answer> {
        if let Some(words) = self.only_words() {
            return Some(words);
        }
        // `1, 2, \ldots, n`
        if self.take_command("ldots") {
            return Some(Answer::Dots);
        }
        let start = self.at;
        let currency = self.currency();
        self.lead_in();
        // `\text{not } 5`
        if matches!(self.next(), Some(Token::Text(_))) {
            return Some(self.said(start));
        }
        let answer = self.value()?;
        let Some(count) = self.count() else { return Some(self.said(start)) };
        let count = Count { unit: count.unit.or(currency), ..count };
        match (answer, count) {
            (answer, Count { scale: 0, unit: None }) => Some(answer),
            (Answer::Expr(value), Count { scale, unit }) => {
                let value = if scale == 0 { value } else { expression::scaled(value, scale) };
                Some(unit.map_or_else(|| Answer::Expr(value.clone()), |unit| Answer::Quantity(value.clone(), unit)))
            }
            // `(1, 2) \text{ cm}`: what the words are for is not known.
            _ => None,
        }
    }

    /// A member from `start` on that says something in words of its own: it is no number, whatever numbers stand in it.
    fn said(&mut self, start: usize) -> Answer {
        let ends = |token: &Token| match token {
            Token::Char(',' | ';') => true,
            Token::Text(words) => is_conjunction(words),
            _ => false,
        };
        self.at += self.list[self.at..].iter().position(ends).unwrap_or(self.list.len() - self.at);
        Answer::Words(normal_words(&canonical(&self.list[start..self.at])))
    }

    /// An expression, which may be a set or a tuple where nothing else stands around it.
    fn value(&mut self) -> Option<Answer> {
        self.deeper(|parser| {
            if let Some(set) = parser.bracketed()? {
                return Some(set);
            }
            if let Some(scaled) = parser.scaled_matrix() {
                return Some(scaled);
            }
            let expr = parser.sum()?;
            parser.is_undefined |= mark::is_undefined(&expr) && infinity(&expr).is_none();
            if let Some(is_negative) = infinity(&expr) {
                return Some(Answer::Infinity(is_negative));
            }
            for (mark, unit) in [(mark::DEGREE, Unit::Degree), (mark::PERCENT, Unit::Percent)] {
                if let Some(value) = mark::without(&expr, mark) {
                    return Some(Answer::Quantity(mark::settle(value)?, unit));
                }
            }
            mark::settle(expr).map(Answer::Expr)
        })
    }
}

/// Words between values that are all meant.
fn is_conjunction(words: &str) -> bool {
    let words = words.trim_matches([',', ';', ' ']);
    words.is_empty() || ["and", "or", "and/or"].iter().any(|known| words.eq_ignore_ascii_case(known))
}

/// The name under which infinity stands in expressions; no symbol can have it.
const INFINITY: &str = "\\infty";

/// Whether the expression is infinity alone, and then whether it is negative.
fn infinity(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Symbol(name) if name == INFINITY => Some(false),
        Expr::Product(factors) => match factors.as_slice() {
            [Expr::Number(sign), rest] if *sign == -num_rational::BigRational::from_integer(1.into()) => {
                infinity(rest).map(|is_negative| !is_negative)
            }
            [one] => infinity(one),
            _ => None,
        },
        Expr::Sum(terms) => match terms.as_slice() {
            [one] => infinity(one),
            _ => None,
        },
        _ => None,
    }
}

/// Members and what joined them.
struct Joined {
    items: Vec<Answer>,
    by_or: bool,
    /// Both "or" and "and".
    is_mixed: bool,
}

/// A relation of order or membership.
fn is_bound(answer: &Answer) -> bool {
    let is_bound = |sign: &Sign| {
        matches!(
            sign,
            Sign::Less | Sign::LessOrEqual | Sign::Greater | Sign::GreaterOrEqual | Sign::NotEqual | Sign::In
        )
    };
    matches!(answer, Answer::Relation(_, rest) if rest.iter().all(|(sign, _)| is_bound(sign)))
}
