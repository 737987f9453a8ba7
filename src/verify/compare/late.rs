//! What is tried last, where structure, algebra and letters have left two answers undecided: proofs that they differ.

use num_traits::Signed;

use super::super::algebra;
use super::super::answer::{Answer, SetOperation, Sign};
use super::super::expr::{Expr, Function};
use super::rewrite::any;
use super::{Comparer, Match};

impl Comparer<'_> {
    /// Two whole answers under one reading.
    pub(super) fn late(&mut self, answer: &Answer, reference: &Answer) -> Match {
        let found = self.kinds(answer, reference).or_else(|| self.kinds(reference, answer));
        if let Some(found) = found {
            return found;
        }
        for rule in
            [Self::by_values, Self::said_of_words, Self::definitions, Self::by_witness, Self::renamed, Self::by_count]
        {
            let found = rule(self, answer, reference);
            if found != Match::Unknown {
                return found;
            }
        }
        Match::Unknown
    }

    /// `yax = a` and `yax = b`: of what is told in the same words.
    fn said_of_words(&mut self, answer: &Answer, reference: &Answer) -> Match {
        let (Answer::Relation(left, rest), Answer::Relation(other_left, others)) = (answer, reference) else {
            return Match::Unknown;
        };
        let is_said = matches!(&**left, Answer::Words(words) if !words.is_empty()) && left == other_left;
        match (rest.as_slice(), others.as_slice()) {
            ([(Sign::Equal, one @ Answer::Expr(_))], [(Sign::Equal, other @ Answer::Expr(_))]) if is_said => {
                self.answers(one, other)
            }
            _ => Match::Unknown,
        }
    }

    /// Kinds that have nothing in common; `None` where that is not certain.
    fn kinds(&mut self, one: &Answer, other: &Answer) -> Option<Match> {
        let is_apart = match (one, other) {
            // Dots may stand for nothing, the members beside them do not.
            (Answer::Set(none), Answer::Set(members)) if none.is_empty() => members.iter().any(is_number),
            (Answer::Tuple { open: '(' | '[', close: ')' | ']', items }, numbers) => {
                items.len() == 2 && items.iter().all(is_number) && has_no_bound(numbers)
            }
            (whole, Answer::Expr(value)) if is_integer(whole) && algebra::is_constant(value) => {
                self.used_algebra = true;
                self.used_interval = true;
                algebra::is_between_integers(value, &mut self.budget)
            }
            _ => false,
        };
        is_apart.then_some(Match::Different)
    }

    /// `8 : 7 : 3` and `16 : 14 : 6`, neither in lowest terms nor scaled.
    pub(super) fn proportional(&mut self, items: &[Answer], others: &[Answer]) -> Match {
        let parts = |list: &[Answer]| -> Option<Vec<Expr>> {
            list.iter()
                .map(|item| match item {
                    Answer::Expr(expr) => Some(expr.clone()),
                    _ => None,
                })
                .collect()
        };
        let (Some(one), Some(other)) = (parts(items), parts(others)) else { return Match::Different };
        let (Some((first, rest)), Some((other_first, other_rest))) = (one.split_first(), other.split_first()) else {
            return Match::Different;
        };
        // With nothing in the first place all products would agree.
        for first in [first, other_first] {
            if algebra::sign(first, &mut self.budget) != Some(std::cmp::Ordering::Greater) {
                return Match::Different;
            }
        }
        rest.iter().zip(other_rest).fold(Match::Same, |found, (part, other_part)| {
            found.and(|| {
                let left = Expr::Product(vec![part.clone(), other_first.clone()]);
                let right = Expr::Product(vec![other_part.clone(), first.clone()]);
                self.expressions(&left, &right)
            })
        })
    }
}

fn is_number(answer: &Answer) -> bool {
    matches!(answer, Answer::Expr(value) if algebra::is_constant(value))
}

/// A set of numbers that goes on for ever.
fn has_no_bound(answer: &Answer) -> bool {
    match answer {
        Answer::Expr(Expr::Symbol(name)) => {
            matches!(name.as_str(), "\\mathbb{N}" | "\\mathbb{Z}" | "\\mathbb{Q}" | "\\mathbb{R}")
        }
        Answer::Combined(SetOperation::Union, items) => items.iter().any(has_no_bound),
        _ => false,
    }
}

/// Factorials, of factorials too: integers, whatever their size, and however several marks in a row are read.
fn is_integer(answer: &Answer) -> bool {
    match answer {
        Answer::Opaque(text) => {
            let figures = text.trim_end_matches('!');
            figures.len() < text.len() && !figures.is_empty() && figures.bytes().all(|byte| byte.is_ascii_digit())
        }
        Answer::Expr(expr) => is_factorial(expr),
        _ => false,
    }
}

fn is_factorial(expr: &Expr) -> bool {
    let Expr::Call(Function::Factorial, list) = expr else { return false };
    let is_natural = |part: &Expr| matches!(part, Expr::Number(value) if value.is_integer() && !value.is_negative());
    list.iter().all(|part| is_natural(part) || is_factorial(part))
        && !any(expr, &|part| matches!(part, Expr::Symbol(_)))
}
