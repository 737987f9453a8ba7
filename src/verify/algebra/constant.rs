//! Signs, whole parts and comparison of numbers by balls.

use std::cmp::Ordering;

use num_bigint::BigInt;

use super::ball::{Ball, Trouble};
use super::numeric::{Evaluation, Value};
use super::rational::Rational;
use super::{Comparison, Enclosure, Method, Relation};
use crate::verify::budget::Budget;
use crate::verify::expr::Expr;

/// Precisions that are tried in turn. The first is enough for nearly all pairs that differ.
pub(super) const PRECISIONS: [u64; 2] = [64, 512];

/// Numbers that agree to this many bits (absolutely, and relative to numbers above one) may count as equal.
const AGREEMENT_BITS: i64 = 440;

/// They do if fewer bits than this are enough to write both: of the numbers that can be written so, two different ones
/// would have to be closer than chance brings any pair of them, by a factor of `2^64`.
const WRITTEN_BITS_MAX: u64 = 376;

/// The sign of a real number; `None` where it is not known.
pub(super) fn sign_of(expr: &Expr, budget: &mut Budget) -> Option<Ordering> {
    if let Expr::Number(value) = expr {
        return Some(value.numer().sign().cmp(&num_bigint::Sign::NoSign));
    }
    PRECISIONS.iter().find_map(|bits| Evaluation::new(*bits, &[], budget).real(expr).ok()?.sign())
}

/// Whether a number is certain not to be zero.
pub(super) fn is_nonzero(expr: &Expr, budget: &mut Budget) -> bool {
    let nonzero = |ball: &Ball| !ball.contains_zero();
    PRECISIONS.iter().any(|bits| {
        let value = Evaluation::new(*bits, &[], budget).value(expr);
        value.is_ok_and(|value| nonzero(&value.re) || value.im.as_ref().is_some_and(nonzero))
    })
}

/// The greatest integer that is not above a real number.
pub(super) fn floor_of(expr: &Expr, budget: &mut Budget) -> Option<BigInt> {
    PRECISIONS.iter().find_map(|bits| Evaluation::new(*bits, &[], budget).real(expr).ok()?.floor())
}

/// See [`super::is_apart_within`].
pub(super) fn is_apart_within(
    one: &Expr,
    other: &Expr,
    enclosures: &[Enclosure],
    budget: &mut Budget,
) -> Result<bool, Trouble> {
    let bits = PRECISIONS[0];
    let mut symbols = Vec::with_capacity(enclosures.len());
    for Enclosure { symbol, middle, radius_bits } in enclosures {
        let ball = Ball::rational(&Rational::from_ref(middle), bits)?.widened(*radius_bits, bits)?;
        symbols.push((symbol.clone(), ball));
    }
    symbols.sort_by(|one, other| one.0.cmp(&other.0));
    let left = Evaluation::new(bits, &symbols, budget).real(one)?;
    let right = Evaluation::new(bits, &symbols, budget).real(other)?.widened(-6, bits)?;
    Ok(left.is_apart(&right, bits))
}

/// Compares two numbers.
pub(super) fn compare(one: &Expr, other: &Expr, budget: &mut Budget) -> Comparison {
    let interval = |relation| Comparison { relation, method: Method::Interval };
    for bits in PRECISIONS {
        let (left, left_bits) = evaluate(one, bits, budget);
        let (right, right_bits) = evaluate(other, bits, budget);
        let (left, right) = match (left, right) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(Trouble::Huge), Ok(_) | Err(Trouble::Huge)) | (Ok(_), Err(Trouble::Huge)) => {
                return interval(super::tower::compare(one, other, budget));
            }
            (Err(Trouble::DivisionByZero), Ok(_)) | (Ok(_), Err(Trouble::DivisionByZero)) => {
                return interval(Relation::Different);
            }
            (Err(Trouble::Exhausted), _) | (_, Err(Trouble::Exhausted)) => break,
            _ => continue,
        };
        if left.is_apart(&right, bits) {
            return interval(Relation::Different);
        }
        let narrow = left.is_narrow(AGREEMENT_BITS) && right.is_narrow(AGREEMENT_BITS);
        let written = left_bits.zip(right_bits).map(|(left, right)| left.saturating_add(right));
        if narrow && written.is_some_and(|written| written <= WRITTEN_BITS_MAX) {
            return interval(Relation::Equal);
        }
    }
    interval(Relation::Unknown)
}

/// The value, and the bits that it takes to write the expression if every part of it is of ordinary size.
fn evaluate(expr: &Expr, bits: u64, budget: &mut Budget) -> (Result<Value, Trouble>, Option<u64>) {
    let mut evaluation = Evaluation::new(bits, &[], budget);
    let value = evaluation.value(expr);
    let written = evaluation.is_tame.then_some(evaluation.written_bits);
    (value, written)
}
