//! Sizes of numbers that no digits can hold: `9^(9^(9^9))`, `((5!)!)!`.
//!
//! A positive number is written as `exp(exp(...top))`. Bounds are kept as balls on `top`; what is too small to matter at
//! that height widens the ball by one.

use std::cmp::Ordering;

use num_bigint::BigInt;
use num_traits::One;

use super::Relation;
use super::ball::{Ball, Trouble};
use super::convert::DEPTH_MAX;
use super::elementary;
use super::numeric::Evaluation;
use crate::verify::budget::Budget;
use crate::verify::expr::{Expr, Function};

const BITS: u64 = 128;

/// Where `top` has fewer bits before the point than this, one exponential is evaluated.
const TOP_BITS: i64 = 40;

/// A real number that is not known to be zero.
#[derive(Clone, Debug)]
struct Tower {
    is_negative: bool,
    /// How many exponentials are above `top`. From one on, `top` is at least `2^(TOP_BITS - 2)`.
    level: u32,
    top: Ball,
}

/// Compares two numbers by size; never [`Relation::Equal`].
pub(super) fn compare(one: &Expr, other: &Expr, budget: &mut Budget) -> Relation {
    let (Ok(left), Ok(right)) = (bound(one, budget), bound(other, budget)) else { return Relation::Unknown };
    if left.level > 0 && right.level > 0 && left.is_negative != right.is_negative {
        return Relation::Different;
    }
    match order(&left, &right) {
        Some(Ordering::Less | Ordering::Greater) => Relation::Different,
        Some(Ordering::Equal) | None => Relation::Unknown,
    }
}

/// The size of a number; for one of ordinary size an upper bound is enough.
fn bound(expr: &Expr, budget: &mut Budget) -> Result<Tower, Trouble> {
    match Evaluation::new(64, &[], budget).value(expr) {
        Ok(value) => {
            let parts = std::iter::once(&value.re).chain(&value.im);
            let scale = parts.map(Ball::magnitude).max().unwrap_or(0) + 1;
            let top = Ball { mid: BigInt::one(), radius: 1, scale: scale - 1 };
            Ok(Tower { is_negative: false, level: 0, top })
        }
        Err(Trouble::Huge) => tower(expr, budget, 0),
        Err(trouble) => Err(trouble),
    }
}

/// Which size is certainly larger.
fn order(one: &Tower, other: &Tower) -> Option<Ordering> {
    if one.level < other.level {
        return order(other, one).map(Ordering::reverse);
    }
    let mut low = other.clone();
    while one.level > low.level {
        if low.top.magnitude() <= 1 {
            // At most two, below any top of this level.
            return Some(Ordering::Greater);
        }
        let upper = Ball { mid: &low.top.mid + low.top.radius, radius: 0, scale: low.top.scale };
        let logarithm = elementary::ln(&upper, BITS).ok()?;
        // Only the upper bound is kept; that is enough where it is below.
        low = Tower { level: low.level + 1, top: logarithm, is_negative: low.is_negative };
    }
    let certain = if one.level == other.level { None } else { Some(Ordering::Greater) };
    let sign = one.top.sub(&low.top, BITS).ok()?.sign()?;
    if certain.is_none_or(|certain| certain == sign) { Some(sign) } else { None }
}

fn tower(expr: &Expr, budget: &mut Budget, depth: u32) -> Result<Tower, Trouble> {
    budget.spend(200)?;
    if depth >= DEPTH_MAX {
        return Err(Trouble::Unsure);
    }
    match Evaluation::new(BITS, &[], budget).real(expr) {
        Ok(top) => {
            return match top.sign() {
                Some(Ordering::Greater) => Ok(Tower { is_negative: false, level: 0, top }),
                Some(Ordering::Less) => Ok(Tower { is_negative: true, level: 0, top: top.neg() }),
                _ => Err(Trouble::Unsure),
            };
        }
        Err(Trouble::Huge) => {}
        Err(trouble) => return Err(trouble),
    }
    match expr {
        Expr::Power(base, exponent) => {
            let (base, exponent) = (tower(base, budget, depth + 1)?, tower(exponent, budget, depth + 1)?);
            if base.is_negative || exponent.is_negative {
                return Err(Trouble::Unsure);
            }
            exponential(product(&exponent, &logarithm(&base)?)?)
        }
        Expr::Product(factors) => {
            let mut total = Tower { is_negative: false, level: 0, top: one() };
            for factor in factors {
                total = product(&total, &tower(factor, budget, depth + 1)?)?;
            }
            Ok(total)
        }
        Expr::Sum(terms) => {
            let mut terms = terms.iter();
            let mut total = tower(terms.next().ok_or(Trouble::Unsure)?, budget, depth + 1)?;
            for term in terms {
                total = sum(total, tower(term, budget, depth + 1)?)?;
            }
            Ok(total)
        }
        Expr::Quotient(over, under) => {
            let (over, under) = (tower(over, budget, depth + 1)?, tower(under, budget, depth + 1)?);
            if under.level > 0 {
                return Err(Trouble::Unsure);
            }
            product(&over, &Tower { top: one().div(&under.top, BITS)?, ..under })
        }
        Expr::Call(Function::Ln, arguments) => {
            let [x] = arguments.as_slice() else { return Err(Trouble::Unsure) };
            let x = tower(x, budget, depth + 1)?;
            if x.is_negative { Err(Trouble::Unsure) } else { logarithm(&x) }
        }
        Expr::Call(Function::Factorial, arguments) => {
            let [n] = arguments.as_slice() else { return Err(Trouble::Unsure) };
            let n = tower(n, budget, depth + 1)?;
            if n.is_negative || (n.level == 0 && n.top.magnitude() < 10) {
                return Err(Trouble::Unsure);
            }
            factorial(&n)
        }
        _ => Err(Trouble::Unsure),
    }
}

fn one() -> Ball {
    Ball { mid: BigInt::one(), radius: 0, scale: 0 }
}

/// The logarithm of a number above one.
fn logarithm(x: &Tower) -> Result<Tower, Trouble> {
    if x.level > 0 {
        return settled(Tower { is_negative: false, level: x.level - 1, top: x.top.clone() });
    }
    let top = elementary::ln(&x.top, BITS)?;
    if top.sign() == Some(Ordering::Greater) {
        Ok(Tower { is_negative: false, level: 0, top })
    } else {
        Err(Trouble::Unsure)
    }
}

fn exponential(x: Tower) -> Result<Tower, Trouble> {
    settled(Tower { level: x.level + 1, ..x })
}

/// Evaluates exponentials of small tops.
fn settled(mut x: Tower) -> Result<Tower, Trouble> {
    while x.level > 0 && x.top.magnitude() < TOP_BITS {
        x.top = elementary::exp(&x.top, BITS)?;
        x.level -= 1;
    }
    Ok(x)
}

fn product(one: &Tower, other: &Tower) -> Result<Tower, Trouble> {
    let is_negative = one.is_negative != other.is_negative;
    let (high, low) = if one.level >= other.level { (one, other) } else { (other, one) };
    if high.level == 0 {
        match one.top.mul(&other.top, BITS) {
            Ok(top) => return Ok(Tower { is_negative, level: 0, top }),
            Err(Trouble::Huge) => {}
            Err(trouble) => return Err(trouble),
        }
    }
    // A factor of ordinary size moves the logarithm a little, possibly down.
    let logarithms = if low.level == 0 {
        let top = elementary::ln(&low.top, BITS)?;
        let is_negative = top.sign() != Some(Ordering::Greater);
        let small = Tower { is_negative, level: 0, top: if is_negative { top.neg() } else { top } };
        let large = logarithm(high)?;
        if small.top.contains_zero() { large } else { sum(large, small)? }
    } else {
        sum(logarithm(high)?, logarithm(low)?)?
    };
    Ok(Tower { is_negative, ..exponential(logarithms)? })
}

/// A sum of which one term is certainly larger than twice the other, or both are of ordinary size.
fn sum(one: Tower, other: Tower) -> Result<Tower, Trouble> {
    if one.level == 0 && other.level == 0 {
        let signed = |x: &Tower| if x.is_negative { x.top.neg() } else { x.top.clone() };
        let top = signed(&one).add(&signed(&other), BITS)?;
        return match top.sign() {
            Some(Ordering::Greater) => Ok(Tower { is_negative: false, level: 0, top }),
            Some(Ordering::Less) => Ok(Tower { is_negative: true, level: 0, top: top.neg() }),
            _ => Err(Trouble::Unsure),
        };
    }
    // With one off the top, the smaller is at most half of the larger: e > 2.
    let smaller =
        |x: &Tower| -> Result<Tower, Trouble> { Ok(Tower { top: x.top.sub(&self::one(), BITS)?, ..x.clone() }) };
    let high = match order(&one, &other) {
        Some(Ordering::Greater) if order(&smaller(&one)?, &other) == Some(Ordering::Greater) => one,
        Some(Ordering::Less) if order(&smaller(&other)?, &one) == Some(Ordering::Greater) => other,
        _ => return Err(Trouble::Unsure),
    };
    // Between half and three halves of the larger: its logarithm moves by less than one, and so does any further one.
    if high.level == 0 {
        return Err(Trouble::Unsure);
    }
    Ok(Tower { top: high.top.widened(0, BITS)?, ..high })
}

/// `n (ln n - 1) < ln n! < n ln n`, for `n` above 500.
fn factorial(n: &Tower) -> Result<Tower, Trouble> {
    match n.level {
        0 => {
            let slope = elementary::ln(&n.top, BITS)?.widened(0, BITS)?;
            exponential(product(n, &Tower { is_negative: false, level: 0, top: slope })?)
        }
        // ln ln n! is between ln n and ln n + ln ln n: its top is t..t + ln t one exponential lower.
        1 => {
            let reach = elementary::ln(&n.top, BITS)?;
            let radius = Ball { mid: BigInt::from(0), radius: 1, scale: reach.magnitude() };
            settled(Tower { is_negative: false, level: 2, top: n.top.add(&radius, BITS)? })
        }
        // One level further up the second term is less than the first, so the top moves by less than one.
        level => Ok(Tower { is_negative: false, level: level + 1, top: n.top.widened(0, BITS)? }),
    }
}
