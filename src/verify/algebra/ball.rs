//! Real numbers as balls: a midpoint and a radius, so that the true value is certain to be inside.
//!
//! Every operation encloses the exact result for all values of its arguments; each bound is derived where it is used.

use num_bigint::{BigInt, Sign};
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::rational::Rational;

/// Exponents of two beyond this are refused: the number belongs to [`super::tower`].
const SCALE_MAX: i64 = 1 << 58;

/// Longest radius kept: digits of the midpoint below it mean nothing.
const RADIUS_BITS: u64 = 30;

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The budget is spent.
    Exhausted,
    /// A divisor is exactly zero.
    DivisionByZero,
    /// The ball is too wide to decide, or the function has no agreed value there.
    Unsure,
    /// The magnitude is out of range.
    Huge,
}

/// All numbers of `(mid ± radius) 2^scale`.
#[derive(Clone, Debug)]
pub(super) struct Ball {
    pub(super) mid: BigInt,
    pub(super) radius: u64,
    pub(super) scale: i64,
}

impl Ball {
    pub(super) fn zero() -> Ball {
        Ball { mid: BigInt::zero(), radius: 0, scale: 0 }
    }

    pub(super) fn integer(value: BigInt, bits: u64) -> Result<Ball, Trouble> {
        Ball::rounded(value, BigInt::zero(), 0, bits)
    }

    /// The nearest ball to a fraction, with midpoints of `bits` bits.
    pub(super) fn rational(value: &Rational, bits: u64) -> Result<Ball, Trouble> {
        let (over, under) = value.parts();
        if under.is_one() {
            return Ball::integer(over, bits);
        }
        // A denominator that is a power of two is exact.
        let twos = under.trailing_zeros().unwrap_or(0);
        if under.bits() == twos + 1 {
            return Ball::rounded(over, BigInt::zero(), -twos.cast_signed(), bits);
        }
        Ball::integer(over, bits)?.div(&Ball::integer(under, bits)?, bits)
    }

    /// The midpoint cut to `bits` bits. The shift rounds it by less than one unit, and the radius by less than one more.
    pub(super) fn rounded(mid: BigInt, radius: BigInt, scale: i64, bits: u64) -> Result<Ball, Trouble> {
        let shift = mid.bits().saturating_sub(bits).max(radius.bits().saturating_sub(RADIUS_BITS));
        let (mid, radius) = if shift > 0 { (mid >> shift, (radius >> shift) + 2) } else { (mid, radius) };
        let scale = scale.checked_add_unsigned(shift).ok_or(Trouble::Huge)?;
        if scale.abs() > SCALE_MAX {
            return Err(Trouble::Huge);
        }
        Ok(Ball { mid, radius: radius.to_u64().ok_or(Trouble::Unsure)?, scale })
    }

    pub(super) fn is_exact_zero(&self) -> bool {
        self.radius == 0 && self.mid.is_zero()
    }

    pub(super) fn contains_zero(&self) -> bool {
        self.mid.magnitude() <= &self.radius.into()
    }

    /// The sign of every number inside, if it is one sign (zero only for exact zero).
    pub(super) fn sign(&self) -> Option<std::cmp::Ordering> {
        if self.is_exact_zero() {
            return Some(std::cmp::Ordering::Equal);
        }
        if self.contains_zero() {
            return None;
        }
        Some(if self.mid.is_positive() { std::cmp::Ordering::Greater } else { std::cmp::Ordering::Less })
    }

    /// An exponent of two that is above the binary logarithm of every magnitude inside.
    pub(super) fn magnitude(&self) -> i64 {
        self.mid.bits().max(64 - u64::from(self.radius.leading_zeros())).cast_signed() + 1 + self.scale
    }

    /// The value, if it is exact, an integer, and fits in a word.
    pub(super) fn as_i64(&self) -> Option<i64> {
        if self.radius != 0 {
            return None;
        }
        if self.scale >= 0 {
            if self.mid.is_zero() {
                return Some(0);
            }
            if self.scale > 62 { None } else { (&self.mid << self.scale).to_i64() }
        } else {
            let twos = self.mid.trailing_zeros().unwrap_or(u64::MAX);
            if twos >= self.scale.unsigned_abs() { (&self.mid >> self.scale.unsigned_abs()).to_i64() } else { None }
        }
    }

    /// The greatest integer not above the value, if it is the same for the whole ball.
    pub(super) fn floor(&self) -> Option<BigInt> {
        let (low, high) = (&self.mid - self.radius, &self.mid + self.radius);
        if self.scale > 4096 {
            return None;
        }
        if self.scale >= 0 {
            return (self.radius == 0).then(|| low << self.scale);
        }
        let shift = self.scale.unsigned_abs();
        let (low, high) = (low >> shift, high >> shift);
        (low == high).then_some(low)
    }

    pub(super) fn neg(&self) -> Ball {
        Ball { mid: -&self.mid, radius: self.radius, scale: self.scale }
    }

    /// The number times a power of two.
    pub(super) fn shifted(&self, twos: i64) -> Ball {
        Ball { mid: self.mid.clone(), radius: self.radius, scale: self.scale + twos }
    }

    /// The ball with a radius that is larger by `2^twos`.
    pub(super) fn widened(&self, twos: i64, bits: u64) -> Result<Ball, Trouble> {
        self.add(&Ball { mid: BigInt::zero(), radius: 1, scale: twos }, bits)
    }

    pub(super) fn add(&self, other: &Ball, bits: u64) -> Result<Ball, Trouble> {
        if self.is_exact_zero() {
            return Ok(other.clone());
        }
        if other.is_exact_zero() {
            return Ok(self.clone());
        }
        let (high, low) = if self.scale >= other.scale { (self, other) } else { (other, self) };
        let distance = high.scale - low.scale;
        let room = high.scale - low.magnitude();
        if distance > 2 * bits.cast_signed() && room > 0 {
            // All of `low` is within one unit of the midpoint, after that has been given as many digits as it may have.
            let digits = room.min(bits.cast_signed());
            let radius = (BigInt::from(high.radius) << digits) + 1;
            return Ball::rounded(&high.mid << digits, radius, high.scale - digits, bits + bits);
        }
        let radius = (BigInt::from(high.radius) << distance) + low.radius;
        Ball::rounded((&high.mid << distance) + &low.mid, radius, low.scale, bits)
    }

    pub(super) fn sub(&self, other: &Ball, bits: u64) -> Result<Ball, Trouble> {
        self.add(&other.neg(), bits)
    }

    /// `|ab - a0 b0| <= |a0| rb + |b0| ra + ra rb`.
    pub(super) fn mul(&self, other: &Ball, bits: u64) -> Result<Ball, Trouble> {
        let mid = &self.mid * &other.mid;
        let radius = if self.radius == 0 && other.radius == 0 {
            BigInt::zero()
        } else {
            let cross = self.mid.magnitude() * other.radius + other.mid.magnitude() * self.radius;
            BigInt::from_biguint(Sign::Plus, cross + u128::from(self.radius) * u128::from(other.radius))
        };
        Ball::rounded(mid, radius, self.scale + other.scale, bits)
    }

    /// `|a/b - a0/b0| <= (ra |b0| + |a0| rb) / (|b0| (|b0| - rb))`; the quotient of integers is cut by less than one.
    pub(super) fn div(&self, other: &Ball, bits: u64) -> Result<Ball, Trouble> {
        if other.is_exact_zero() {
            return Err(Trouble::DivisionByZero);
        }
        if other.contains_zero() {
            return Err(Trouble::Unsure);
        }
        let shift = (bits + 2 + other.mid.bits()).saturating_sub(self.mid.bits());
        let quotient = (&self.mid << shift) / &other.mid;
        let radius = if self.radius == 0 && other.radius == 0 {
            BigInt::one()
        } else {
            let under = other.mid.magnitude();
            let error = under * self.radius + self.mid.magnitude() * other.radius;
            BigInt::from_biguint(Sign::Plus, (error << shift) / (under * (under - other.radius)) + 2_u32)
        };
        let exact = self.radius == 0 && other.radius == 0 && &quotient * &other.mid == &self.mid << shift;
        let radius = if exact { BigInt::zero() } else { radius };
        let twos = if exact { quotient.trailing_zeros().unwrap_or(0) } else { 0 };
        let scale = self.scale - other.scale - shift.cast_signed() + twos.cast_signed();
        Ball::rounded(quotient >> twos, radius, scale, bits)
    }

    /// The real root of a number that is not negative. By the mean value theorem it moves by at most
    /// `root * radius / (degree * (mid - radius))`.
    pub(super) fn root(&self, degree: u32, bits: u64) -> Result<Ball, Trouble> {
        if self.is_exact_zero() {
            return Ok(Ball::zero());
        }
        if self.contains_zero() || self.mid.is_negative() {
            return Err(Trouble::Unsure);
        }
        let degree_wide = i64::from(degree);
        let wanted = (bits + 2).checked_mul(degree.into()).filter(|wanted| *wanted < 1 << 14).ok_or(Trouble::Unsure)?;
        let least = wanted.saturating_sub(self.mid.bits()).cast_signed();
        let shift = least + (self.scale - least).rem_euclid(degree_wide);
        let root = (&self.mid << shift).nth_root(degree);
        let exact = self.radius == 0 && root.pow(degree) == &self.mid << shift;
        let error =
            if exact { BigInt::zero() } else { (&root + 1) * self.radius / ((&self.mid - self.radius) * degree) + 2 };
        let twos = if exact { root.trailing_zeros().unwrap_or(0) } else { 0 };
        Ball::rounded(root >> twos, error, (self.scale - shift) / degree_wide + twos.cast_signed(), bits)
    }

    /// A natural power.
    pub(super) fn pow(&self, exponent: u64, bits: u64) -> Result<Ball, Trouble> {
        let mut power = Ball { mid: BigInt::one(), radius: 0, scale: 0 };
        let mut square = self.clone();
        let mut left = exponent;
        while left > 0 {
            if left & 1 == 1 {
                power = power.mul(&square, bits)?;
            }
            left >>= 1;
            if left > 0 {
                square = square.mul(&square, bits)?;
            }
        }
        Ok(power)
    }

    /// Whether no number is in both.
    pub(super) fn is_apart(&self, other: &Ball, bits: u64) -> bool {
        self.sub(other, bits).is_ok_and(|difference| !difference.contains_zero())
    }

    /// Whether the radius is below `2^-digits` of the larger of one and the magnitude.
    pub(super) fn is_narrow(&self, digits: i64) -> bool {
        let radius = 64 - i64::from(self.radius.leading_zeros()) + self.scale;
        self.radius == 0 || radius <= self.magnitude().max(0) - digits
    }
}
