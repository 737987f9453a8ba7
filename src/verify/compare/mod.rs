//! When two answers are the same.
//!
//! Texts that agree are the same; everything else is read ([`parse`](super::parse)) and compared by structure, down to
//! expressions, which the [`algebra`] compares. Where neither finds out, the answer is undecided: never
//! wrong by default.

mod assignment;
mod bounds;
mod choice;
mod count;
mod definition;
mod interval;
mod late;
mod letters;
mod relation;
mod renaming;
mod rewrite;
mod structure;
mod unit;
mod values;
mod witness;

use num_rational::BigRational;
use num_traits::Pow;

use super::DecidedBy;
use super::algebra::{self, Method, Relation as Outcome};
use super::answer::Answer;
use super::budget::{Budget, Exhausted};
use super::expr::{Expr, Function};
use super::latex::{LONGEST_ANSWER_BYTES, Token, canonical, tokens};
use super::parse::{Parsed, Reading, loose, parse, prepare};
use crate::config::{PercentRule, VerifyConfig};
use crate::types::Verdict;

/// What is known of two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    /// They are the same.
    Same,
    /// They are not.
    Different,
    /// Nothing.
    Unknown,
}

impl Match {
    fn of(holds: bool) -> Match {
        if holds { Match::Same } else { Match::Different }
    }

    /// Both hold.
    fn and(self, other: impl FnOnce() -> Match) -> Match {
        match self {
            Match::Same => other(),
            Match::Different => Match::Different,
            Match::Unknown => match other() {
                Match::Different => Match::Different,
                _ => Match::Unknown,
            },
        }
    }

    /// At least one holds.
    fn or(self, other: impl FnOnce() -> Match) -> Match {
        match self {
            Match::Same => Match::Same,
            Match::Different => other(),
            Match::Unknown => match other() {
                Match::Same => Match::Same,
                _ => Match::Unknown,
            },
        }
    }
}

/// Whether `answer` is right where `reference` is. Both are bare: no box around them.
pub fn compare(answer: &str, reference: &str, config: &VerifyConfig) -> (Verdict, DecidedBy) {
    if answer.trim() == reference.trim() {
        return (Verdict::Correct, DecidedBy::Text);
    }
    if answer.len() > LONGEST_ANSWER_BYTES || reference.len() > LONGEST_ANSWER_BYTES {
        return (Verdict::Undecided, DecidedBy::Nothing);
    }
    let mut comparer =
        Comparer { config, budget: Budget::new(config.budget_steps), used_algebra: false, used_interval: false };
    let found = comparer.texts(answer, reference);
    let decided_by = match found {
        Ok(Match::Unknown) | Err(Exhausted) => return (Verdict::Undecided, DecidedBy::Nothing),
        _ if comparer.used_interval => DecidedBy::Interval,
        _ if comparer.used_algebra => DecidedBy::Exact,
        _ => DecidedBy::Text,
    };
    (if found == Ok(Match::Same) { Verdict::Correct } else { Verdict::Incorrect }, decided_by)
}

struct Comparer<'a> {
    config: &'a VerifyConfig,
    budget: Budget,
    used_algebra: bool,
    used_interval: bool,
}

impl Comparer<'_> {
    fn texts(&mut self, answer: &str, reference: &str) -> Result<Match, Exhausted> {
        let (answer, reference) = (tokens(answer), tokens(reference));
        if reference.is_empty() {
            return Ok(Match::Unknown);
        }
        // `{}` is a box that was left empty.
        let is_blank = |token: &Token| matches!(token, Token::Space | Token::ThinSpace | Token::Char('{' | '}'));
        if answer.iter().all(is_blank) {
            return Ok(Match::Different);
        }
        self.budget.spend((answer.len() + reference.len()) as u64)?;
        if canonical(&answer) == canonical(&reference) {
            return Ok(Match::Same);
        }
        if let Some(is_same) = choice::compare(&answer, &reference) {
            return Ok(Match::of(is_same));
        }
        let (answer, reference) = (prepare(answer), prepare(reference));
        let mut found = self.readings(&answer, &reference)?;
        if found == Match::Unknown {
            found = self.late_readings(&answer, &reference)?;
        }
        // What cannot be read may still be seen to be multiplied.
        let is_multiple =
            found == Match::Unknown && structure::is_multiple(&loose::text(&answer), &loose::text(&reference));
        Ok(if is_multiple { Match::Different } else { found })
    }

    /// Compares under every reading that makes a difference: the same under one is the same.
    fn readings(&mut self, answer: &[Token], reference: &[Token]) -> Result<Match, Exhausted> {
        let usual = Reading { commas_group: true, letters_call: true, decimal_comma: false, log_is_decimal: false };
        let (one, other) = (self.read(answer, usual)?, self.read(reference, usual)?);
        let mut found = self.answers(&one.answer, &other.answer);
        let mut others = Vec::new();
        if one.has_letter_call || other.has_letter_call {
            let products = Reading { letters_call: false, ..usual };
            others.push((products, products));
        }
        // `1,234` may be a list in one of the two and a number in the other.
        let lists = Reading { commas_group: false, ..usual };
        if one.has_grouping_comma {
            others.push((lists, usual));
        }
        if other.has_grouping_comma {
            others.push((usual, lists));
        }
        if one.has_grouping_comma && other.has_grouping_comma {
            others.push((lists, lists));
        }
        if self.config.decimal_comma && one.has_decimal_comma {
            others.push((Reading { decimal_comma: true, ..usual }, usual));
        }
        for (of_answer, of_reference) in others {
            if found == Match::Same {
                break;
            }
            let (one, other) = (self.read(answer, of_answer)?, self.read(reference, of_reference)?);
            let again = self.answers(&one.answer, &other.answer);
            found = found.or(|| again);
        }
        // Some write `\log` for the decimal logarithm.
        if found == Match::Different && (one.has_bare_log || other.has_bare_log) {
            let decimal = Reading { log_is_decimal: true, ..usual };
            let (one, other) = (self.read(answer, decimal)?, self.read(reference, decimal)?);
            if self.answers(&one.answer, &other.answer) != Match::Different {
                found = Match::Unknown;
            }
        }
        Ok(found)
    }

    /// What is tried last, under every reading: only what all agree on is decided.
    fn late_readings(&mut self, answer: &[Token], reference: &[Token]) -> Result<Match, Exhausted> {
        let usual = Reading { commas_group: true, letters_call: true, decimal_comma: false, log_is_decimal: false };
        let (one, other) = (self.read(answer, usual)?, self.read(reference, usual)?);
        if one.has_grouping_comma || other.has_grouping_comma || one.has_decimal_comma || other.has_decimal_comma {
            return Ok(Match::Unknown);
        }
        let found = self.late(&one.answer, &other.answer);
        let mut others = Vec::new();
        if one.has_letter_call || other.has_letter_call {
            others.push(Reading { letters_call: false, ..usual });
        }
        if one.has_bare_log || other.has_bare_log {
            others.push(Reading { log_is_decimal: true, ..usual });
        }
        for reading in others {
            if found == Match::Unknown {
                break;
            }
            let (one, other) = (self.read(answer, reading)?, self.read(reference, reading)?);
            let again = match self.answers(&one.answer, &other.answer) {
                Match::Unknown => self.late(&one.answer, &other.answer),
                again => again,
            };
            if again != found {
                return Ok(Match::Unknown);
            }
        }
        Ok(found)
    }

    fn read(&mut self, list: &[Token], reading: Reading) -> Result<Parsed, Exhausted> {
        let mut parsed = parse(list, reading, &mut self.budget)?;
        if matches!(parsed.answer, Answer::Opaque(_)) && is_nonsense(list) {
            parsed.answer = Answer::Nonsense;
        }
        Ok(parsed)
    }

    /// Two expressions.
    fn expressions(&mut self, answer: &Expr, reference: &Expr) -> Match {
        if answer == reference {
            return Match::Same;
        }
        // Figures in another base are a claim about the base, too.
        let in_a_base = |expr: &Expr| matches!(expr, Expr::Call(Function::Named(name), _) if name.starts_with('_'));
        if in_a_base(answer) || in_a_base(reference) {
            return Match::Different;
        }
        let comparison = algebra::compare(answer, reference, &mut self.budget);
        self.used_algebra = true;
        self.used_interval |= comparison.method == Method::Interval;
        match comparison.relation {
            Outcome::Equal => Match::Same,
            Outcome::Different => self.rounded(answer, reference).or(|| self.rounded(reference, answer)),
            Outcome::Unknown if self.budget.left() > 0 => {
                let sides = (Answer::Expr(answer.clone()), Answer::Expr(reference.clone()));
                // A letter alone may have been given to what the other writes out: `n` and `\dim V`.
                let is_named = letters::may_name(answer, reference) || letters::may_name(reference, answer);
                let is_apart = letters::tell_apart(&sides.0, &sides.1)
                    || self.depends(answer, &sides.1)
                    || self.depends(reference, &sides.0);
                if is_apart && !is_named { Match::Different } else { Match::Unknown }
            }
            Outcome::Unknown => Match::Unknown,
        }
    }

    /// Whether an expression is a polynomial that depends on a name which the other does not mention: whatever that is,
    /// and however large, it is not the same.
    fn depends(&mut self, expr: &Expr, other: &Answer) -> bool {
        let names = algebra::polynomial_symbols(expr, &mut self.budget);
        names.is_some_and(|names| letters::lacks_any(other, &names))
    }

    /// Whether a decimal is the reference, rounded to its places.
    fn rounded(&mut self, answer: &Expr, reference: &Expr) -> Match {
        let least = self.config.rounded_places;
        let Expr::Number(value) = answer else { return Match::Different };
        // Of two decimals both are exact, unless rounding is asked for.
        let is_decimal = |number: &BigRational| (number * ten_to(MOST_PLACES)).is_integer();
        if value.is_integer() || matches!(reference, Expr::Number(number) if least == 0 && is_decimal(number)) {
            return Match::Different;
        }
        // A power of ten of so many places has at most so many bits.
        if value.denom().bits() > u64::from(MOST_PLACES) * 4 {
            return Match::Different;
        }
        let Some(places) = (1..=MOST_PLACES).find(|&places| (value * ten_to(places)).is_integer()) else {
            return Match::Different;
        };
        let figures = (value * ten_to(places)).to_integer().magnitude().to_string().len();
        if figures < CERTAIN_FIGURES && (least == 0 || places < least) {
            return Match::Different;
        }
        let half = BigRational::from_integer(1.into()) / (ten_to(places) * num_bigint::BigInt::from(2));
        let mut within = |bound: BigRational| {
            let difference = Expr::Sum(vec![
                Expr::Number(bound),
                Expr::Product(vec![Expr::Number(BigRational::from_integer((-1).into())), reference.clone()]),
            ]);
            algebra::sign(&difference, &mut self.budget)
        };
        use std::cmp::Ordering::{Equal, Greater, Less};
        match (within(value - &half), within(value + &half)) {
            (Some(Less | Equal), Some(Greater | Equal)) => Match::Same,
            (Some(_), Some(_)) => Match::Different,
            _ => Match::Unknown,
        }
    }

    fn takes_percent_as_unit(&self) -> bool {
        self.config.percent == PercentRule::Either
    }
}

/// So many figures of a decimal are not met by chance.
const CERTAIN_FIGURES: usize = 12;
/// Longer decimals are not looked at.
const MOST_PLACES: u32 = 40;

fn ten_to(places: u32) -> num_bigint::BigInt {
    Pow::pow(num_bigint::BigInt::from(10), places)
}

/// Figures and signs that make no expression, or nothing but marks: certainly no answer.
fn is_nonsense(list: &[Token]) -> bool {
    let of_figures = |token: &Token| match token {
        Token::Space | Token::ThinSpace => true,
        Token::Char(c) => c.is_ascii_digit() || "+-*/.,=?_".contains(*c),
        _ => false,
    };
    // `0.333...` and `1 + 2 + ...` mean something.
    let has_dots = list.windows(2).any(|pair| pair[0] == Token::Char('.') && pair[1] == Token::Char('.'));
    list.iter().all(of_figures) && !has_dots
}
