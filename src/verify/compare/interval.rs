//! Sets of real numbers: intervals, points, their unions, and what is left of them without points.

use std::cmp::Ordering;

use num_rational::BigRational;

use super::super::algebra;
use super::super::answer::{Answer, SetOperation};
use super::super::budget::Budget;
use super::super::expr::Expr;
use super::Match;

/// Parts of one set; more are not looked at.
const MOST_PARTS: usize = 64;

/// An end of an interval.
#[derive(Clone, Debug)]
enum End {
    Below,
    At(Expr),
    Above,
}

/// All numbers between two ends.
#[derive(Clone, Debug)]
struct Interval {
    low: End,
    has_low: bool,
    high: End,
    has_high: bool,
}

/// Compares two sets of numbers; `None` where one of them is none, or ends cannot be ordered.
pub(super) fn compare(one: &Answer, other: &Answer, budget: &mut Budget) -> Option<Match> {
    let one = normal(parts(one, budget)?, budget)?;
    let other = normal(parts(other, budget)?, budget)?;
    let mut is_same = one.len() == other.len();
    for (one, other) in one.iter().zip(&other) {
        is_same = is_same
            && (one.has_low, one.has_high) == (other.has_low, other.has_high)
            && order(&one.low, &other.low, budget)? == Ordering::Equal
            && order(&one.high, &other.high, budget)? == Ordering::Equal;
    }
    Some(Match::of(is_same))
}

fn parts(answer: &Answer, budget: &mut Budget) -> Option<Vec<Interval>> {
    match answer {
        Answer::Tuple { open, close, items } => {
            let [low, high] = items.as_slice() else { return None };
            let interval = Interval {
                low: end(low, budget)?,
                has_low: *open == '[',
                high: end(high, budget)?,
                has_high: *close == ']',
            };
            Some(vec![interval])
        }
        Answer::Set(items) => items.iter().map(|item| Some(point(constant(item, budget)?))).collect(),
        Answer::Expr(Expr::Symbol(name)) if name == "\\mathbb{R}" => {
            Some(vec![Interval { low: End::Below, has_low: false, high: End::Above, has_high: false }])
        }
        Answer::Combined(SetOperation::Union, sets) => {
            let mut all = Vec::new();
            for set in sets {
                all.extend(parts(set, budget)?);
            }
            (all.len() <= MOST_PARTS).then_some(all)
        }
        Answer::Combined(SetOperation::Intersection, sets) => {
            let mut sets = sets.iter();
            let mut all = parts(sets.next()?, budget)?;
            for set in sets {
                let other = parts(set, budget)?;
                let mut both = Vec::new();
                for one in &all {
                    for other in &other {
                        both.push(overlap(one, other, budget)?);
                    }
                }
                all = both;
                if all.len() > MOST_PARTS {
                    return None;
                }
            }
            Some(all)
        }
        Answer::Combined(SetOperation::Difference, sets) => {
            let (first, rest) = sets.split_first()?;
            let mut all = parts(first, budget)?;
            for set in rest {
                let Answer::Set(points) = set else { return None };
                for item in points {
                    all = without(all, constant(item, budget)?, budget)?;
                }
            }
            (all.len() <= MOST_PARTS).then_some(all)
        }
        _ => None,
    }
}

/// What two intervals have in common, which may be nothing.
fn overlap(one: &Interval, other: &Interval, budget: &mut Budget) -> Option<Interval> {
    let (low, has_low) = match order(&one.low, &other.low, budget)? {
        Ordering::Less => (&other.low, other.has_low),
        Ordering::Greater => (&one.low, one.has_low),
        Ordering::Equal => (&one.low, one.has_low && other.has_low),
    };
    let (high, has_high) = match order(&one.high, &other.high, budget)? {
        Ordering::Less => (&one.high, one.has_high),
        Ordering::Greater => (&other.high, other.has_high),
        Ordering::Equal => (&one.high, one.has_high && other.has_high),
    };
    Some(Interval { low: low.clone(), has_low, high: high.clone(), has_high })
}

fn point(at: Expr) -> Interval {
    Interval { low: End::At(at.clone()), has_low: true, high: End::At(at), has_high: true }
}

/// A number that is certain to be real.
fn constant(answer: &Answer, budget: &mut Budget) -> Option<Expr> {
    match answer {
        Answer::Expr(expr @ Expr::Number(_)) => Some(expr.clone()),
        Answer::Expr(expr) if algebra::is_constant(expr) => algebra::sign(expr, budget).map(|_| expr.clone()),
        _ => None,
    }
}

fn end(answer: &Answer, budget: &mut Budget) -> Option<End> {
    match answer {
        Answer::Infinity(is_negative) => Some(if *is_negative { End::Below } else { End::Above }),
        answer => constant(answer, budget).map(End::At),
    }
}

fn order(one: &End, other: &End, budget: &mut Budget) -> Option<Ordering> {
    match (one, other) {
        (End::Below, End::Below) | (End::Above, End::Above) => Some(Ordering::Equal),
        (End::Below, _) | (_, End::Above) => Some(Ordering::Less),
        (_, End::Below) | (End::Above, _) => Some(Ordering::Greater),
        (End::At(Expr::Number(one)), End::At(Expr::Number(other))) => Some(one.cmp(other)),
        (End::At(one), End::At(other)) => {
            let minus = Expr::Product(vec![Expr::Number(BigRational::from_integer((-1).into())), other.clone()]);
            algebra::sign(&Expr::Sum(vec![one.clone(), minus]), budget)
        }
    }
}

/// In order, without empty ones, and joined where nothing lies between.
fn normal(parts: Vec<Interval>, budget: &mut Budget) -> Option<Vec<Interval>> {
    let mut sorted: Vec<Interval> = Vec::new();
    for part in parts {
        match order(&part.low, &part.high, budget)? {
            Ordering::Less => {}
            Ordering::Equal if part.has_low && part.has_high => {}
            _ => continue,
        }
        let mut place = sorted.len();
        while place > 0 {
            let ordering = order(&part.low, &sorted[place - 1].low, budget)?;
            if ordering == Ordering::Greater || ordering == Ordering::Equal && !part.has_low {
                break;
            }
            place -= 1;
        }
        sorted.insert(place, part);
    }
    let mut joined: Vec<Interval> = Vec::new();
    for part in sorted {
        let Some(last) = joined.last_mut() else {
            joined.push(part);
            continue;
        };
        match order(&part.low, &last.high, budget)? {
            Ordering::Greater => joined.push(part),
            Ordering::Equal if !part.has_low && !last.has_high => joined.push(part),
            _ => match order(&part.high, &last.high, budget)? {
                Ordering::Greater => (last.high, last.has_high) = (part.high, part.has_high),
                Ordering::Equal => last.has_high |= part.has_high,
                Ordering::Less => {}
            },
        }
    }
    Some(joined)
}

/// The parts without one point.
fn without(parts: Vec<Interval>, at: Expr, budget: &mut Budget) -> Option<Vec<Interval>> {
    let at = End::At(at);
    let mut left = Vec::new();
    for part in parts {
        let (low, high) = (order(&part.low, &at, budget)?, order(&at, &part.high, budget)?);
        match (low, high) {
            (Ordering::Less, Ordering::Less) => {
                left.push(Interval { high: at.clone(), has_high: false, ..part.clone() });
                left.push(Interval { low: at.clone(), has_low: false, ..part });
            }
            (Ordering::Equal, _) => left.push(Interval { has_low: false, ..part }),
            (_, Ordering::Equal) => left.push(Interval { has_high: false, ..part }),
            _ => left.push(part),
        }
    }
    Some(left)
}
