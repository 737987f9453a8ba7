//! Elementary functions of [`Ball`]s: a series in fixed point at the midpoint, then a bound on the slope for the radius.
//!
//! Fixed point means an integer count of units of `2^-width`. Every shift and division rounds by less than one unit.

use std::sync::OnceLock;

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::ball::{Ball, Trouble};

/// Width of the stored constants. Arguments up to `2^TURN_BITS` are reduced with it at 512 bits.
const CONSTANT_WIDTH: u64 = 768;

/// Bits that are worked with beyond those asked for.
const GUARD: u64 = 40;

/// Larger arguments of exponentials are refused: the exponent would not fit.
const ARGUMENT_BITS: i64 = 62;

/// Larger arguments of circular functions are refused.
const TURN_BITS: i64 = 128;

/// Units by which a stored constant may be wrong: each has three series of fewer than 250 terms, each term is rounded
/// twice, and the series are weighted by at most 48 in all.
const CONSTANT_ERROR: u32 = 48 * 2 * 250;

/// `atan(1/n)` (alternating) or `atanh(1/n)` in fixed point.
fn inverse_series(n: u32, alternating: bool) -> BigInt {
    let square = n * n;
    let mut power = (BigInt::one() << CONSTANT_WIDTH) / n;
    let mut sum = power.clone();
    let mut index = 1_u32;
    while !power.is_zero() {
        power /= square;
        index += 2;
        let term = &power / index;
        if alternating && index % 4 == 3 {
            sum -= term;
        } else {
            sum += term;
        }
    }
    sum
}

/// Machin's formula: `pi = 16 atan(1/5) - 4 atan(1/239)`.
fn pi_constant() -> &'static BigInt {
    static PI: OnceLock<BigInt> = OnceLock::new();
    PI.get_or_init(|| inverse_series(5, true) * 16 - inverse_series(239, true) * 4)
}

/// `ln 2 = 18 atanh(1/26) - 2 atanh(1/4801) + 8 atanh(1/8749)`.
fn ln2_constant() -> &'static BigInt {
    static LN2: OnceLock<BigInt> = OnceLock::new();
    LN2.get_or_init(|| {
        inverse_series(26, false) * 18 - inverse_series(4801, false) * 2 + inverse_series(8749, false) * 8
    })
}

/// A stored constant in units of `2^-width`, wrong by at most two of them while `width` leaves sixteen bits.
fn constant(value: &BigInt, width: u64) -> Result<BigInt, Trouble> {
    let shift = CONSTANT_WIDTH.checked_sub(width).filter(|shift| *shift >= 16).ok_or(Trouble::Unsure)?;
    Ok(value >> shift)
}

/// Pi.
pub(super) fn pi(bits: u64) -> Result<Ball, Trouble> {
    Ball::rounded(pi_constant().clone(), CONSTANT_ERROR.into(), -CONSTANT_WIDTH.cast_signed(), bits)
}

/// The midpoint in units of `2^-width`, and the units that it may be wrong by, radius included.
fn fixed(x: &Ball, width: u64) -> Result<(BigInt, BigInt), Trouble> {
    let shift = x.scale + width.cast_signed();
    if x.magnitude() > TURN_BITS {
        return Err(Trouble::Huge);
    }
    if shift >= 0 {
        Ok((&x.mid << shift, BigInt::from(x.radius) << shift))
    } else {
        let shift = shift.unsigned_abs();
        Ok((&x.mid >> shift, (BigInt::from(x.radius) >> shift) + 2))
    }
}

/// Bits of the part before the point.
fn whole_bits(x: &Ball) -> u64 {
    x.magnitude().max(0).unsigned_abs()
}

/// `e^x`.
pub(super) fn exp(x: &Ball, bits: u64) -> Result<Ball, Trouble> {
    if x.is_exact_zero() {
        return Ok(Ball { mid: BigInt::one(), radius: 0, scale: 0 });
    }
    if x.magnitude() > ARGUMENT_BITS {
        return Err(Trouble::Huge);
    }
    let width = bits + GUARD + whole_bits(x);
    let (value, error) = fixed(x, width)?;
    let ln2 = constant(ln2_constant(), width)?;
    let twos = value.div_floor(&ln2);
    let rest = value - &twos * &ln2;
    let error = error + twos.abs() * 2_u32 + 2_u32;
    if error.bits() + 2 > width {
        return Err(Trouble::Unsure);
    }
    // e^rest = (e^(rest / 2^8))^(2^8).
    const HALVINGS: u32 = 8;
    let small = rest >> HALVINGS;
    let mut term = BigInt::one() << width;
    let mut sum = term.clone();
    let mut count = 0_u32;
    while !term.is_zero() {
        count += 1;
        term = ((term * &small) >> width) / count;
        sum += &term;
    }
    // A term is wrong by less than three units (two roundings, and the last one's error over 256), so is the rest of the
    // series; the argument was cut by less than one.
    let mut wrong = BigInt::from(3 * count + 8);
    for _ in 0..HALVINGS {
        // The value is below 2.1 throughout: 2 * 2.1 * wrong + wrong^2 + 1, and wrong is far below one.
        sum = (&sum * &sum) >> width;
        wrong = wrong * 5 + 2;
    }
    // e^(rest + d) differs by at most 2 * 2.1 * |d| for |d| < 1.
    let radius = wrong + error * 5;
    Ball::rounded(sum, radius, twos.to_i64().ok_or(Trouble::Huge)? - width.cast_signed(), bits)
}

/// The natural logarithm of a positive number.
pub(super) fn ln(x: &Ball, bits: u64) -> Result<Ball, Trouble> {
    if x.contains_zero() || x.mid.is_negative() {
        return Err(Trouble::Unsure);
    }
    if x.radius == 0 && x.mid.is_one() && x.scale == 0 {
        return Ok(Ball::zero());
    }
    // x = y 2^(scale + shift) with y in 2/3..4/3.
    let mut shift = x.mid.bits();
    if (&x.mid * 3) < (BigInt::one() << (shift + 1)) {
        shift -= 1;
    }
    let twos = x.scale + shift.cast_signed();
    let width = bits + GUARD + u64::from(64 - twos.unsigned_abs().leading_zeros());
    let unit = BigInt::one() << shift;
    // ln y = 2 atanh z with z = (y - 1) / (y + 1), |z| <= 1/5.
    let z = ((&x.mid - &unit) << width) / (&x.mid + &unit);
    let negative = z.is_negative();
    let z = z.abs();
    let square = (&z * &z) >> width;
    let (mut power, mut sum, mut index) = (z.clone(), z, 1_u32);
    while !power.is_zero() {
        power = (power * &square) >> width;
        index += 2;
        sum += &power / index;
    }
    // A power is wrong by less than two units (one for the shift, 0.4 for the square, 1/25 of the last one's), a term by
    // less than two; the rest of the series is below one.
    let mut error = BigInt::from(2 * index + 6);
    let mut value: BigInt = sum * 2_u32;
    if negative {
        value = -value;
    }
    if twos != 0 {
        value += constant(ln2_constant(), width)? * twos;
        error += BigInt::from(twos.unsigned_abs()) * 2;
    }
    // |ln(m + d) - ln m| <= r / (m - r).
    if x.radius > 0 {
        error += (BigInt::from(x.radius) << width) / (&x.mid - x.radius) + 1;
    }
    Ball::rounded(value, error, -width.cast_signed(), bits)
}

/// Cosine and sine.
pub(super) fn cos_sin(x: &Ball, bits: u64) -> Result<(Ball, Ball), Trouble> {
    if x.magnitude() > TURN_BITS {
        return Err(Trouble::Unsure);
    }
    let width = bits + GUARD + whole_bits(x);
    let (value, error) = fixed(x, width)?;
    let pi = constant(pi_constant(), width)?;
    // The quarter that is nearest: the rest is within pi/4, which is below 0.8.
    let double: BigInt = &value * 2_u32 + (&pi >> 1_u32);
    let quarters = double.div_floor(&pi);
    let rest = (value * 2_u32 - &quarters * &pi) >> 1_u32;
    let error = error + quarters.abs() * 2_u32 + 2_u32;
    if error.bits() > width {
        return Err(Trouble::Unsure);
    }
    let negative = rest.is_negative();
    let rest = rest.abs();
    let square = (&rest * &rest) >> width;
    let series = |first: BigInt, mut index: u32| {
        let (mut sum, mut term, mut minus) = (first.clone(), first, true);
        while !term.is_zero() {
            term = ((term * &square) >> width) / ((index + 1) * (index + 2));
            if minus {
                sum -= &term;
            } else {
                sum += &term;
            }
            minus = !minus;
            index += 2;
        }
        // A term is wrong by less than three units (two roundings, that of the square, half the last one's error), and the
        // rest of the series by as much.
        (sum, BigInt::from(3 * index + 6))
    };
    let (cos, cos_error) = series(BigInt::one() << width, 0);
    let (sin, sin_error) = series(rest, 1);
    let sin = if negative { -sin } else { sin };
    let scale = -width.cast_signed();
    // Both have slopes of at most one.
    let cos = Ball::rounded(cos, cos_error + &error, scale, bits)?;
    let sin = Ball::rounded(sin, sin_error + error, scale, bits)?;
    Ok(match quarters.mod_floor(&BigInt::from(4)).to_u32() {
        Some(0) => (cos, sin),
        Some(1) => (sin.neg(), cos),
        Some(2) => (cos.neg(), sin.neg()),
        _ => (sin, cos.neg()),
    })
}

/// The arc tangent.
pub(super) fn atan(x: &Ball, bits: u64) -> Result<Ball, Trouble> {
    if x.is_exact_zero() {
        return Ok(Ball::zero());
    }
    let one = Ball { mid: BigInt::one(), radius: 0, scale: 0 };
    let bits_in = bits + GUARD;
    if x.mid.bits().cast_signed() + x.scale > 1 {
        // atan x = ±pi/2 - atan(1/x); the midpoint is at least one in size.
        let rest = atan(&one.div(x, bits_in)?, bits_in)?;
        let right = pi(bits_in)?.shifted(-1);
        let right = if x.mid.is_negative() { right.neg() } else { right };
        return right.sub(&rest, bits);
    }
    // atan x = 2 atan(x / (1 + sqrt(1 + x^2))), four times: from 2 to below 0.08.
    const HALVINGS: i64 = 4;
    let mut small = x.clone();
    for _ in 0..HALVINGS {
        let under = small.mul(&small, bits_in)?.add(&one, bits_in)?.root(2, bits_in)?.add(&one, bits_in)?;
        small = small.div(&under, bits_in)?;
    }
    let (value, error) = fixed(&small, bits_in)?;
    let negative = value.is_negative();
    let value = value.abs();
    let square = (&value * &value) >> bits_in;
    let (mut power, mut sum, mut index) = (value.clone(), value, 1_u32);
    while !power.is_zero() {
        power = (power * &square) >> bits_in;
        index += 2;
        let term = &power / index;
        if index % 4 == 3 {
            sum -= term;
        } else {
            sum += term;
        }
    }
    let sum = if negative { -sum } else { sum };
    // A power is wrong by less than two units, a term by less than two; the slope is at most one.
    let error = error + BigInt::from(2 * index + 6);
    Ball::rounded(sum, error, HALVINGS - bits_in.cast_signed(), bits)
}
