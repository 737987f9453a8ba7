//! Equations, inequalities and other relations: with each other, with what they assign, and with intervals.

use num_traits::Signed;

use super::super::algebra;
use super::super::answer::{Answer, Sign};
use super::super::expr::{Expr, Function};
use super::assignment::{assigned_by_name, behind_name, is_name};
use super::bounds::{Chain, bounded, chain, counts, interval, is_order, reversed, upright, whole};
use super::{Comparer, Match, interval as set};

impl Comparer<'_> {
    /// Two answers of which at least one is a relation.
    pub(super) fn relations(&mut self, answer: &Answer, reference: &Answer) -> Match {
        match (answer, reference) {
            // `x \in (1, 2)` against `1 < x < 2`
            (Answer::Relation(one, rest), Answer::Relation(_, others)) if is_member(rest) && !is_member(others) => {
                assigned_by_name(one, rest).map_or(Match::Unknown, |set| self.relations(&set, reference))
            }
            (Answer::Relation(_, rest), Answer::Relation(other, others)) if is_member(others) && !is_member(rest) => {
                assigned_by_name(other, others).map_or(Match::Unknown, |set| self.relations(answer, &set))
            }
            (Answer::Relation(one, rest), Answer::Relation(other, others)) => {
                self.related((one, rest), (other, others))
            }
            (Answer::Relation(first, rest), other) => {
                if let Some(value) = self.assigned(first, rest) {
                    return self.answers(&value, other);
                }
                // `2\sqrt{3} \approx 3.46`
                if matches!(rest.as_slice(), [(Sign::About, _)]) && self.answers(first, other) == Match::Same {
                    return Match::Same;
                }
                // `m + n = 12` may be what was asked for.
                let has_symbols = !matches!(&**first, Answer::Expr(expr) if algebra::is_constant(expr));
                if has_symbols
                    && rest.iter().all(|(sign, _)| *sign == Sign::Equal)
                    && rest.last().is_some_and(|(_, last)| self.answers(last, other) == Match::Same)
                {
                    return Match::Unknown;
                }
                self.bounds_against((first, rest), other, true)
            }
            (other, Answer::Relation(first, rest)) => {
                if let Some(value) = assigned_by_name(first, rest) {
                    return self.answers(other, &value);
                }
                self.bounds_against((first, rest), other, false)
            }
            _ => Match::Unknown,
        }
    }

    /// Bounds, those of the answer or of the reference, against what is no relation.
    fn bounds_against(
        &mut self,
        (first, rest): (&Answer, &[(Sign, Answer)]),
        other: &Answer,
        is_answer: bool,
    ) -> Match {
        match interval(first, rest) {
            Some(interval) => self.against_set(&interval, other, is_answer),
            None if bounds_size(first, rest) => Match::Unknown,
            None if rest.iter().all(|(sign, _)| is_order(sign)) && matches!(other, Answer::Tuple { .. }) => {
                Match::Unknown
            }
            None => mixed(other),
        }
    }

    fn against_set(&mut self, interval: &Answer, other: &Answer, is_answer: bool) -> Match {
        let is_set = match other {
            Answer::Set(items) => !items.contains(&Answer::Dots),
            other => matches!(other, Answer::Tuple { .. } | Answer::Combined(..)),
        };
        if !is_set {
            return mixed(other);
        }
        if is_answer { self.answers(interval, other) } else { self.answers(other, interval) }
    }

    fn related(&mut self, one: (&Answer, &[(Sign, Answer)]), other: (&Answer, &[(Sign, Answer)])) -> Match {
        if let Some(found) = self.by_bounds(one, other) {
            return found;
        }
        if let ([(sign, side)], [(other_sign, other_side)]) = (one.1, other.1) {
            return self.single((one.0, sign, side), (other.0, other_sign, other_side));
        }
        // `f = 4 \mid n`
        if let Some((first, rest)) = behind_name(one.0, one.1)
            && self.related((first, rest), other) == Match::Same
        {
            return Match::Same;
        }
        // A chain, which may be written from its other end.
        let forward = chain(one.0, one.1);
        let backward = reversed(&forward);
        let reference = chain(other.0, other.1);
        self.chains(&forward, &reference).or(|| match &backward {
            Some(backward) => self.chains(backward, &reference),
            None => Match::Different,
        })
    }

    fn chains(&mut self, one: &Chain, other: &Chain) -> Match {
        if one.signs != other.signs || one.sides.len() != other.sides.len() {
            // `x = a = b` against `x = b`: the last side counts, if the first agrees.
            let only_equal = |chain: &Chain| chain.signs.iter().all(|sign| *sign == Sign::Equal);
            if only_equal(one) && only_equal(other) {
                let ends = |chain: &Chain| Some((chain.sides.first()?.clone(), chain.sides.last()?.clone()));
                let (Some((first, last)), Some((other_first, other_last))) = (ends(one), ends(other)) else {
                    return Match::Unknown;
                };
                // `x = 4 = 3` says nothing that could be right.
                for chain in [one, other] {
                    let last_side = chain.sides.last();
                    let middle = chain.sides.iter().skip(1).filter(|side| !is_name(side));
                    for side in middle {
                        if last_side.is_some_and(|last| self.answers(side, last) == Match::Different) {
                            return Match::Different;
                        }
                    }
                }
                return match self.answers(&first, &other_first).and(|| self.answers(&last, &other_last)) {
                    Match::Different => Match::Unknown,
                    found => found,
                };
            }
            // `|x| < 1` is `-1 < x < 1`.
            return if one.sides.len() == other.sides.len() { Match::Different } else { Match::Unknown };
        }
        let pairs = one.sides.iter().zip(&other.sides);
        pairs.fold(Match::Same, |found, (side, other)| found.and(|| self.answers(side, other)))
    }

    fn single(
        &mut self,
        (left, sign, right): (&Answer, &Sign, &Answer),
        (other_left, other_sign, other_right): (&Answer, &Sign, &Answer),
    ) -> Match {
        let (left, sign, right) = upright(left, sign, right);
        let (other_left, other_sign, other_right) = upright(other_left, other_sign, other_right);
        let straight = self.answers(left, other_left).and(|| self.answers(right, other_right));
        let is_symmetric = matches!(sign, Sign::Equal | Sign::NotEqual | Sign::About)
            || matches!(&sign, Sign::Other(name) if matches!(name.as_str(), "cong" | "sim" | "equiv" | "iff" | "simeq"));
        let found = straight.or(|| match is_symmetric || sign != other_sign {
            true => self.answers(left, other_right).and(|| self.answers(right, other_left)),
            false => Match::Different,
        });
        if sign != other_sign {
            // `x < 3` is not `x \le 3`; `n > 2` may be `n \ge 3`.
            let may_agree = is_order(&sign) && is_order(&other_sign) && found != Match::Same;
            return if may_agree { Match::Unknown } else { Match::Different };
        }
        if found == Match::Same {
            return Match::Same;
        }
        match (difference(left, right), difference(other_left, other_right)) {
            (Some(one), Some(other)) if is_order(&sign) || matches!(sign, Sign::Equal | Sign::NotEqual) => {
                self.used_algebra = true;
                if let Some(factor) = algebra::proportion(&one, &other, &mut self.budget) {
                    return Match::of(factor.is_positive() || !is_order(&sign));
                }
                // One side agrees and the other does not: nothing makes up for that.
                let sides = (self.answers(left, other_left), self.answers(right, other_right));
                let is_size =
                    |side: &Answer| matches!(side, Answer::Expr(Expr::Call(Function::Abs, _))) && sign == Sign::Equal;
                let is_one_side = sides == (Match::Same, Match::Different) && (is_name(left) || is_size(left))
                    || sides == (Match::Different, Match::Same) && (is_name(right) || is_size(right));
                // Polynomials of the same degree have other zeros unless one is a multiple of the other.
                let degrees = (degree(&one), degree(&other));
                let are_polynomials = degrees.0.is_some() && degrees.0 == degrees.1;
                let is_certain = are_polynomials && (!is_order(&sign) || degrees.0 == Some(1));
                if is_one_side || is_certain { Match::Different } else { Match::Unknown }
            }
            _ => found,
        }
    }

    /// Two relations that bound the same name by numbers.
    fn by_bounds(&mut self, one: (&Answer, &[(Sign, Answer)]), other: (&Answer, &[(Sign, Answer)])) -> Option<Match> {
        let name = bounded(one.0, one.1)?;
        if Some(name) != bounded(other.0, other.1) {
            return None;
        }
        let (one, other) = (interval(one.0, one.1)?, interval(other.0, other.1)?);
        let found = set::compare(&one, &other, &mut self.budget)?;
        if found == Match::Different
            && counts(name)
            && set::compare(&whole(&one), &whole(&other), &mut self.budget) == Some(Match::Same)
        {
            return Some(Match::Unknown);
        }
        Some(found)
    }
}

/// The degree of a polynomial in its symbols; `None` for anything else.
fn degree(expr: &Expr) -> Option<u64> {
    match expr {
        Expr::Number(_) | Expr::Pi | Expr::Euler => Some(0),
        Expr::Symbol(_) => Some(1),
        Expr::Sum(terms) => terms.iter().map(degree).try_fold(0, |most, degree| Some(most.max(degree?))),
        Expr::Product(factors) => factors.iter().map(degree).try_fold(0, |sum: u64, degree| sum.checked_add(degree?)),
        Expr::Quotient(over, under) if degree(under) == Some(0) => degree(over),
        Expr::Power(base, exponent) => match &**exponent {
            Expr::Number(value) if value.is_integer() => degree(base)?.checked_mul(value.to_integer().try_into().ok()?),
            _ if degree(base) == Some(0) && degree(exponent) == Some(0) => Some(0),
            _ => None,
        },
        Expr::Root(_, inside) if degree(inside) == Some(0) => Some(0),
        Expr::Call(function, list) if !matches!(function, Function::Named(_)) => {
            list.iter().all(|one| degree(one) == Some(0)).then_some(0)
        }
        _ => None,
    }
}

/// A relation and something that is neither a relation nor an interval.
fn mixed(other: &Answer) -> Match {
    match other {
        Answer::List(items) if items.iter().all(|item| matches!(item, Answer::Expr(_) | Answer::Tuple { .. })) => {
            Match::Different
        }
        Answer::Set(items) if items.iter().any(|item| matches!(item, Answer::Dots | Answer::Relation(..))) => {
            Match::Unknown
        }
        Answer::Opaque(_) | Answer::List(_) => Match::Unknown,
        _ => Match::Different,
    }
}

fn difference(left: &Answer, right: &Answer) -> Option<Expr> {
    let (Answer::Expr(left), Answer::Expr(right)) = (left, right) else { return None };
    let minus = Expr::Number(num_rational::BigRational::from_integer((-1).into()));
    Some(Expr::Sum(vec![left.clone(), Expr::Product(vec![minus, right.clone()])]))
}

/// Whether a relation says that something is in a set.
fn is_member(rest: &[(Sign, Answer)]) -> bool {
    matches!(rest, [(Sign::In, _)])
}

/// Whether a side is the absolute value of something: a set may say the same.
fn bounds_size(first: &Answer, rest: &[(Sign, Answer)]) -> bool {
    let is_size = |side: &Answer| matches!(side, Answer::Expr(Expr::Call(Function::Abs, _)));
    rest.iter().all(|(sign, _)| is_order(sign)) && (is_size(first) || rest.iter().any(|(_, side)| is_size(side)))
}
