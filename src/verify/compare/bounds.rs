//! What relations allow: bounds of a name as an interval, relations as sets of numbers.

use num_rational::BigRational;

use super::super::answer::{Answer, SetOperation, Sign};
use super::super::expr::{Expr, Function};
use super::assignment::is_name;

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
pub(super) fn bounded<'a>(first: &'a Answer, rest: &'a [(Sign, Answer)]) -> Option<&'a Answer> {
    std::iter::once(first).chain(rest.iter().map(|(_, side)| side)).find(|side| is_free(side))
}

/// A name that takes every value between its bounds. `|z|` is one of a number, but its bounds are not those of `z`.
pub(super) fn is_free(answer: &Answer) -> bool {
    is_name(answer) && !matches!(answer, Answer::Expr(Expr::Call(Function::Abs, _)))
}

/// The interval of a name between bounds: `x > 1`, `0 \le x < 1`.
pub(super) fn interval(first: &Answer, rest: &[(Sign, Answer)]) -> Option<Answer> {
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

/// Letters that usually are integers.
pub(super) fn counts(name: &Answer) -> bool {
    matches!(name, Answer::Expr(Expr::Symbol(name)) if name.starts_with(['n', 'm', 'k', 'N', 'M', 'K', 'j', 'p', 'q']))
}

/// The interval of the same integers with closed ends.
pub(super) fn whole(interval: &Answer) -> Answer {
    let Answer::Tuple { open, close, items } = interval else { return interval.clone() };
    let one = BigRational::from_integer(1.into());
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

/// Signs of order.
pub(super) fn is_order(sign: &Sign) -> bool {
    matches!(sign, Sign::Less | Sign::LessOrEqual | Sign::Greater | Sign::GreaterOrEqual)
}

/// With `<` and `\le` only.
pub(super) fn upright<'a>(left: &'a Answer, sign: &Sign, right: &'a Answer) -> (&'a Answer, Sign, &'a Answer) {
    match sign {
        Sign::Greater => (right, Sign::Less, left),
        Sign::GreaterOrEqual => (right, Sign::LessOrEqual, left),
        sign => (left, sign.clone(), right),
    }
}

pub(super) struct Chain {
    pub(super) sides: Vec<Answer>,
    pub(super) signs: Vec<Sign>,
}

pub(super) fn chain(first: &Answer, rest: &[(Sign, Answer)]) -> Chain {
    let sides = std::iter::once(first.clone()).chain(rest.iter().map(|(_, side)| side.clone())).collect();
    Chain { sides, signs: rest.iter().map(|(sign, _)| sign.clone()).collect() }
}

/// The chain from its other end, if every sign can be turned round.
pub(super) fn reversed(chain: &Chain) -> Option<Chain> {
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
