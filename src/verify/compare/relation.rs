//! Equations, inequalities and other relations: with each other, with what they assign, and with intervals.

use num_traits::Signed;

use super::super::algebra;
use super::super::answer::{Answer, SetOperation, Sign};
use super::super::expr::{Expr, Function};
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
                match interval(first, rest) {
                    Some(interval) => self.against_set(&interval, other, true),
                    None if bounds_size(first, rest) => Match::Unknown,
                    None if rest.iter().all(|(sign, _)| is_order(sign)) && matches!(other, Answer::Tuple { .. }) => {
                        Match::Unknown
                    }
                    None => mixed(other),
                }
            }
            (other, Answer::Relation(first, rest)) => {
                if let Some(value) = assigned_by_name(first, rest) {
                    return self.answers(other, &value);
                }
                match interval(first, rest) {
                    Some(interval) => self.against_set(&interval, other, false),
                    None if bounds_size(first, rest) => Match::Unknown,
                    None if rest.iter().all(|(sign, _)| is_order(sign)) && matches!(other, Answer::Tuple { .. }) => {
                        Match::Unknown
                    }
                    None => mixed(other),
                }
            }
            _ => Match::Unknown,
        }
    }

    /// What `x = 3` or `2 + 3 = 5` says: the last side, if all others that are no names are the same. In `4 = 3`, `x = 4 = 3`
    /// and `2x = 6` what stands behind the sign is no answer.
    fn assigned(&mut self, first: &Answer, rest: &[(Sign, Answer)]) -> Option<Answer> {
        if let [_] = rest
            && let Some(value) = assigned_by_name(first, rest)
        {
            return Some(value);
        }
        let (_, last) = rest.last()?;
        if rest.len() == 1 && is_name(first) {
            return None;
        }
        let mut sides = std::iter::once(first).chain(rest.iter().map(|(_, side)| side));
        let all_equal = rest.iter().all(|(sign, _)| *sign == Sign::Equal)
            && !is_name(last)
            && sides.all(|side| is_name(side) || self.answers(side, last) == Match::Same);
        all_equal.then(|| last.clone())
    }

    /// Answers of which at least one gives values to several names; `None` where none does.
    pub(super) fn assignments(&mut self, answer: &Answer, reference: &Answer) -> Option<Match> {
        match (named_values(answer), named_values(reference)) {
            (Some(answers), Some(references)) => {
                if answers.len() != references.len() {
                    return Some(Match::Unknown);
                }
                let mut found = Match::Same;
                for (name, value) in &references {
                    let Some((_, given)) = answers.iter().find(|(given, _)| given == name) else {
                        return Some(Match::Unknown);
                    };
                    found = found.and(|| self.answers(given, value));
                }
                Some(found)
            }
            (Some(answers), None) => {
                let items = plain_values(reference)?;
                Some(items.map_or(Match::Unknown, |items| self.in_usual_order(&answers, items)))
            }
            (None, Some(references)) => {
                // One of several, or an interval.
                if matches!(
                    answer,
                    Answer::Either(_)
                        | Answer::Tuple { open: '(', close: ']', .. }
                        | Answer::Tuple { open: '[', close: ')', .. }
                ) {
                    return Some(Match::Different);
                }
                let items = plain_values(answer)?;
                Some(items.map_or(Match::Unknown, |items| self.in_given_order(&references, items)))
            }
            (None, None) => None,
        }
    }

    /// Named values against a reference without names: those of the names in their usual order.
    fn in_usual_order(&mut self, named: &[(Answer, Answer)], references: &[Answer]) -> Match {
        if named.len() != references.len() || !is_usual(named) {
            return Match::Unknown;
        }
        let pairs = named.iter().zip(references);
        pairs.fold(Match::Same, |found, ((_, value), reference)| found.and(|| self.answers(value, reference)))
    }

    /// Values without names against a reference with names, in the order in which it gives them.
    fn in_given_order(&mut self, named: &[(Answer, Answer)], answers: &[Answer]) -> Match {
        if named.len() != answers.len() {
            return Match::Unknown;
        }
        let pairs = named.iter().zip(answers);
        match pairs.fold(Match::Same, |found, ((_, value), answer)| found.and(|| self.answers(answer, value))) {
            Match::Different if !is_usual(named) => Match::Unknown,
            found => found,
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

/// Signs of order.
fn is_order(sign: &Sign) -> bool {
    matches!(sign, Sign::Less | Sign::LessOrEqual | Sign::Greater | Sign::GreaterOrEqual)
}

/// Letters that usually are integers.
fn counts(name: &Answer) -> bool {
    matches!(name, Answer::Expr(Expr::Symbol(name)) if name.starts_with(['n', 'm', 'k', 'N', 'M', 'K', 'j', 'p', 'q']))
}

/// The interval of the same integers with closed ends.
fn whole(interval: &Answer) -> Answer {
    let Answer::Tuple { open, close, items } = interval else { return interval.clone() };
    let one = num_rational::BigRational::from_integer(1.into());
    let moved = |item: &Answer, is_low: bool, is_open: bool| match item {
        Answer::Expr(Expr::Number(value)) => {
            let inner = if is_low { value.ceil() } else { value.floor() };
            let is_outside = is_open && inner == *value;
            Answer::Expr(Expr::Number(match (is_outside, is_low) {
                (false, _) => inner,
                (true, true) => inner + &one,
                (true, false) => inner - &one,
            }))
        }
        item => item.clone(),
    };
    let [low, high] = items.as_slice() else { return interval.clone() };
    let closed =
        |item: &Answer, bracket: char, end: char| if matches!(item, Answer::Infinity(_)) { bracket } else { end };
    Answer::Tuple {
        open: closed(low, *open, '['),
        close: closed(high, *close, ']'),
        items: vec![moved(low, true, *open == '('), moved(high, false, *close == ')')],
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

/// A set that is told by relations or in words, as intervals and what is left of them.
pub(super) fn as_set(answer: &Answer) -> Option<Answer> {
    let reals = || Answer::Expr(Expr::Symbol("\\mathbb{R}".into()));
    match answer {
        Answer::Words(words) if is_all_reals(words) => Some(reals()),
        Answer::Relation(first, rest) => match rest.as_slice() {
            [(Sign::NotEqual, value)] if is_free(first) => {
                Some(Answer::Combined(SetOperation::Difference, vec![reals(), Answer::Set(vec![value.clone()])]))
            }
            [(Sign::In, set)] if is_free(first) => Some(set.clone()),
            rest => interval(first, rest),
        },
        Answer::Combined(operation, items) => {
            let mut names = items.iter().filter_map(|item| match item {
                Answer::Relation(first, rest) => Some(bounded(first, rest)),
                _ => None,
            });
            // Bounds of several names are no set of numbers.
            if let Some(first) = names.next()
                && (first.is_none() || names.any(|name| name != first))
            {
                return None;
            }
            Some(Answer::Combined(*operation, items.iter().map(|item| as_set(item).unwrap_or(item.clone())).collect()))
        }
        // `\{x \mid x > 1\}`
        Answer::Set(items) => match items.as_slice() {
            [Answer::Relation(_, rest)] => match rest.as_slice() {
                [(sign, first), rest @ ..] if !rest.is_empty() && is_such_that(sign) => {
                    as_set(&Answer::Relation(Box::new(first.clone()), rest.to_vec()))
                }
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// Words for the set of all real numbers.
pub(super) fn is_all_reals(words: &str) -> bool {
    matches!(words, "all real numbers" | "all reals" | "real numbers" | "reals")
}

fn is_such_that(sign: &Sign) -> bool {
    *sign == Sign::Ratio || matches!(sign, Sign::Other(name) if name == "mid")
}

/// The name that a relation bounds.
fn bounded<'a>(first: &'a Answer, rest: &'a [(Sign, Answer)]) -> Option<&'a Answer> {
    std::iter::once(first).chain(rest.iter().map(|(_, side)| side)).find(|side| is_free(side))
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

struct Chain {
    sides: Vec<Answer>,
    signs: Vec<Sign>,
}

fn chain(first: &Answer, rest: &[(Sign, Answer)]) -> Chain {
    let sides = std::iter::once(first.clone()).chain(rest.iter().map(|(_, side)| side.clone())).collect();
    Chain { sides, signs: rest.iter().map(|(sign, _)| sign.clone()).collect() }
}

/// The chain from its other end, if every sign can be turned round.
fn reversed(chain: &Chain) -> Option<Chain> {
    let turned = |sign: &Sign| {
        Some(match sign {
            Sign::Equal => Sign::Equal,
            Sign::NotEqual => Sign::NotEqual,
            Sign::About => Sign::About,
            Sign::Less => Sign::Greater,
            Sign::LessOrEqual => Sign::GreaterOrEqual,
            Sign::Greater => Sign::Less,
            Sign::GreaterOrEqual => Sign::LessOrEqual,
            _ => return None,
        })
    };
    let signs = chain.signs.iter().rev().map(turned).collect::<Option<Vec<_>>>()?;
    Some(Chain { sides: chain.sides.iter().rev().cloned().collect(), signs })
}

/// With `<` and `\le` only.
fn upright<'a>(left: &'a Answer, sign: &Sign, right: &'a Answer) -> (&'a Answer, Sign, &'a Answer) {
    match sign {
        Sign::Greater => (right, Sign::Less, left),
        Sign::GreaterOrEqual => (right, Sign::LessOrEqual, left),
        sign => (left, sign.clone(), right),
    }
}

fn difference(left: &Answer, right: &Answer) -> Option<Expr> {
    let (Answer::Expr(left), Answer::Expr(right)) = (left, right) else { return None };
    let minus = Expr::Number(num_rational::BigRational::from_integer((-1).into()));
    Some(Expr::Sum(vec![left.clone(), Expr::Product(vec![minus, right.clone()])]))
}

/// What a relation gives to a name: `x = 3`, `f(2) = y = 3`, `x \in (0, 1)`, `S : T = 7 : 32`.
fn assigned_by_name(first: &Answer, rest: &[(Sign, Answer)]) -> Option<Answer> {
    let (last, others) = rest.split_last()?;
    let gives = |sign: &Sign| matches!(sign, Sign::Equal | Sign::About);
    let only_gives =
        others.iter().all(|(sign, _)| gives(sign)) && (gives(&last.0) || last.0 == Sign::In && others.is_empty());
    (only_gives && is_name(first)).then(|| last.1.clone())
}

/// What a name is said to be, if that is a relation itself.
fn behind_name<'a>(first: &Answer, rest: &'a [(Sign, Answer)]) -> Option<(&'a Answer, &'a [(Sign, Answer)])> {
    let ((sign, side), others) = rest.split_first()?;
    (*sign == Sign::Equal && !others.is_empty() && is_name(first)).then_some((side, others))
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

/// A name that takes every value between its bounds. `|z|` is one of a number, but its bounds are not those of `z`.
fn is_free(answer: &Answer) -> bool {
    is_name(answer) && !matches!(answer, Answer::Expr(Expr::Call(Function::Abs, _)))
}

/// Whether names stand in the order in which everybody lists them.
fn is_usual(named: &[(Answer, Answer)]) -> bool {
    let names: Vec<String> = named.iter().map(|(name, _)| format!("{name:?}")).collect();
    names.is_sorted()
}

/// The values of a pair or a list without names; `None` within where their order is not certain to mean anything.
fn plain_values(answer: &Answer) -> Option<Option<&[Answer]>> {
    let items = match answer {
        Answer::Tuple { open: '(', close: ')', items } | Answer::List(items) => items,
        Answer::Tuple { open: 'c' | 'r' | '<', items, .. } => items,
        Answer::Tuple { open: '[', close: ']', items } if items.len() != 2 => items,
        Answer::Tuple { .. } | Answer::Set(_) => return Some(None),
        _ => return None,
    };
    let is_plain = !items.iter().any(|item| matches!(item, Answer::Relation(..)));
    Some(is_plain.then_some(items))
}

/// The values of several names: `x = 1, y = 2`, `(x, y) = (1, 2)`; not of one name, `x = 1, x = 2`.
fn named_values(answer: &Answer) -> Option<Vec<(Answer, Answer)>> {
    let pairs: Vec<(Answer, Answer)> = match answer {
        Answer::Relation(first, rest) => match (&**first, rest.as_slice()) {
            (Answer::Tuple { open: '(', items: names, .. }, [(Sign::Equal, Answer::Tuple { items, .. })])
                if names.len() == items.len() =>
            {
                names.iter().cloned().zip(items.iter().cloned()).collect()
            }
            _ => return None,
        },
        Answer::List(items) => {
            let pair = |item: &Answer| match item {
                Answer::Relation(first, rest) => match rest.as_slice() {
                    [(Sign::Equal, value)] => Some(((**first).clone(), value.clone())),
                    _ => None,
                },
                _ => None,
            };
            items.iter().map(pair).collect::<Option<_>>()?
        }
        _ => return None,
    };
    let (first, _) = pairs.first()?;
    let are_names = pairs.len() > 1 && pairs.iter().all(|(name, _)| is_name(name));
    (are_names && pairs.iter().any(|(name, _)| name != first)).then_some(pairs)
}

fn is_name(answer: &Answer) -> bool {
    match answer {
        Answer::Expr(expr) => is_named(expr),
        Answer::Words(words) => !words.is_empty(),
        Answer::Tuple { items, .. } => items.iter().all(is_name),
        _ => false,
    }
}

fn is_named(expr: &Expr) -> bool {
    let is_point = |factor: &Expr| matches!(factor, Expr::Symbol(name) if name.chars().all(|c| c.is_ascii_uppercase()));
    match expr {
        Expr::Symbol(name) => !["\\int", "\\sum", "\\prod"].iter().any(|operator| name.starts_with(operator)),
        Expr::Call(Function::Named(_), _) => true,
        // The length of a segment.
        Expr::Call(Function::Abs, inside) => inside.iter().all(|inside| match inside {
            Expr::Product(factors) => factors.iter().all(is_point),
            inside => is_point(inside),
        }),
        // `AB` is a segment, `\angle ABC` an angle.
        Expr::Product(factors) => factors.iter().all(is_point),
        Expr::Quotient(above, below) => [above, below].into_iter().all(|side| {
            matches!(side.as_ref(), Expr::Product(factors) if factors.iter().all(is_point)) || is_point(side)
        }),
        _ => false,
    }
}

/// The interval of a name between bounds: `x > 1`, `0 \le x < 1`.
fn interval(first: &Answer, rest: &[(Sign, Answer)]) -> Option<Answer> {
    let bound = |answer: &Answer| matches!(answer, Answer::Expr(_) | Answer::Infinity(_));
    match rest {
        [(sign, right)] => {
            let (low, sign, high) = upright(first, sign, right);
            let is_open = match sign {
                Sign::Less => true,
                Sign::LessOrEqual => false,
                _ => return None,
            };
            if is_free(low) && bound(high) {
                let close = if is_open { ')' } else { ']' };
                return Some(Answer::Tuple { open: '(', close, items: vec![Answer::Infinity(true), high.clone()] });
            }
            (bound(low) && is_free(high)).then(|| {
                let open = if is_open { '(' } else { '[' };
                Answer::Tuple { open, close: ')', items: vec![low.clone(), Answer::Infinity(false)] }
            })
        }
        [(_, middle), (_, _)] if is_free(middle) => {
            let mut parts = chain(first, rest);
            if matches!(parts.signs.first(), Some(Sign::Greater | Sign::GreaterOrEqual)) {
                parts = reversed(&parts)?;
            }
            let side = |sign: &Sign, open: char, closed: char| match sign {
                Sign::Less => Some(open),
                Sign::LessOrEqual => Some(closed),
                _ => None,
            };
            let [low, _, high] = parts.sides.as_slice() else { return None };
            let open = side(parts.signs.first()?, '(', '[')?;
            let close = side(parts.signs.get(1)?, ')', ']')?;
            Some(Answer::Tuple { open, close, items: vec![low.clone(), high.clone()] })
        }
        _ => None,
    }
}
