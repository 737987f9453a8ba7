//! Relations of one variable each, under other names.

use std::cmp::Ordering;

use super::super::algebra;
use super::super::answer::{Answer, Sign};
use super::super::expr::{Expr, Function};
use super::bounds::{is_order, upright};
use super::rewrite::{any, symbols, with};
use super::witness::may_count;
use super::{Comparer, Match};

/// What a bound is put on.
struct Bound<'a> {
    /// The bounded thing is below the number.
    is_above: bool,
    number: &'a Expr,
    may_count: bool,
    is_size: bool,
}

impl Comparer<'_> {
    /// Different if no renaming makes them the same: each has one variable, and with one name for both they differ.
    pub(super) fn renamed(&mut self, answer: &Answer, reference: &Answer) -> Match {
        if let (Some(one), Some(other)) = (single_name(answer), single_name(reference)) {
            if one == other {
                return Match::Unknown;
            }
            // A name that may stand for an integer does so in both.
            let (from, to) = if may_count(&other) { (one, other) } else { (other, one) };
            let moved = |answer: &Answer| renamed(answer, &from, &to);
            let found = self.answers(&moved(answer), &moved(reference));
            return if found == Match::Different { found } else { Match::Unknown };
        }
        match (bound(answer), bound(reference)) {
            (Some(one), Some(other)) => self.bounds_of_values(&one, &other),
            _ => Match::Unknown,
        }
    }

    /// Bounds of a name, a determinant or a norm by numbers.
    fn bounds_of_values(&mut self, one: &Bound<'_>, other: &Bound<'_>) -> Match {
        for bound in [one, other] {
            // `\|x\| > -1` says nothing.
            let says_nothing = bound.is_size
                && !bound.is_above
                && algebra::sign(bound.number, &mut self.budget) != Some(Ordering::Greater);
            if says_nothing {
                return Match::Unknown;
            }
        }
        if one.is_above != other.is_above {
            return Match::Different;
        }
        let may_agree = one.may_count || other.may_count;
        match self.expressions(one.number, other.number) {
            Match::Different if !may_agree => Match::Different,
            _ => Match::Unknown,
        }
    }
}

/// The only symbol of a relation in which nothing else depends on anything.
fn single_name(answer: &Answer) -> Option<String> {
    let Answer::Relation(first, rest) = answer else { return None };
    let mut names = std::collections::BTreeSet::new();
    for side in std::iter::once(&**first).chain(rest.iter().map(|(_, side)| side)) {
        let Answer::Expr(expr) = side else { return None };
        if any(expr, &|part| matches!(part, Expr::Call(Function::Named(_), _))) {
            return None;
        }
        names.extend(symbols(expr));
    }
    let is_plain = |name: &String| !name.starts_with("\\mathbb") && !name.contains('^');
    let are_numbers = rest.iter().all(|(sign, _)| is_order(sign));
    let mut names = names.into_iter();
    names.next().filter(|name| are_numbers && is_plain(name) && names.next().is_none())
}

fn renamed(answer: &Answer, from: &str, to: &str) -> Answer {
    let to = Expr::Symbol(to.into());
    let side = |answer: &Answer| match answer {
        Answer::Expr(expr) => Answer::Expr(with(expr, from, &to)),
        answer => answer.clone(),
    };
    match answer {
        Answer::Relation(first, rest) => Answer::Relation(
            Box::new(side(first)),
            rest.iter().map(|(sign, other)| (sign.clone(), side(other))).collect(),
        ),
        answer => answer.clone(),
    }
}

fn bound(answer: &Answer) -> Option<Bound<'_>> {
    let Answer::Relation(left, rest) = answer else { return None };
    let [(sign, right)] = rest.as_slice() else { return None };
    let (left, sign, right) = upright(left, sign, right);
    if !matches!(sign, Sign::Less | Sign::LessOrEqual) {
        return None;
    }
    let (Answer::Expr(left), Answer::Expr(right)) = (left, right) else { return None };
    let (thing, number, is_above) = match (algebra::is_constant(left), algebra::is_constant(right)) {
        (false, true) => (left, right, true),
        (true, false) => (right, left, false),
        _ => return None,
    };
    match thing {
        Expr::Symbol(name) => Some(Bound { is_above, number, may_count: may_count(name), is_size: false }),
        Expr::Call(Function::Named(name), list) if matches!(list.as_slice(), [Expr::Symbol(_)]) => {
            let may_count = matches!(name.as_str(), "\\dim" | "\\deg" | "\\rank");
            let is_size = name.starts_with("\\|");
            (may_count || is_size || name == "\\det").then_some(Bound { is_above, number, may_count, is_size })
        }
        _ => None,
    }
}
