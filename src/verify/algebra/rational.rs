//! Exact fractions that stay in two machine words while they fit.

use std::cmp::Ordering;

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

/// A fraction in lowest terms, its denominator positive. `Small` whenever both parts fit, so that equality is derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rational {
    /// Numerator (never `i64::MIN`, so that sums of products fit in 127 bits) and denominator.
    Small(i64, i64),
    /// Anything larger.
    Big(Box<BigRational>),
}

impl Rational {
    pub(super) const ZERO: Rational = Rational::Small(0, 1);
    pub(super) const ONE: Rational = Rational::Small(1, 1);

    /// A fraction of small numbers; the denominator is not zero.
    pub(super) fn new(numerator: i64, denominator: i64) -> Rational {
        Rational::reduced(i128::from(numerator), i128::from(denominator))
    }

    fn reduced(numerator: i128, denominator: i128) -> Rational {
        let (mut n, mut d) = if denominator < 0 { (-numerator, -denominator) } else { (numerator, denominator) };
        if d != 1 {
            let divisor = gcd(n.unsigned_abs(), d.unsigned_abs());
            if divisor > 1 {
                // A divisor of `d` is not above it, so it fits.
                n /= divisor.cast_signed();
                d /= divisor.cast_signed();
            }
        }
        match (i64::try_from(n), i64::try_from(d)) {
            (Ok(n), Ok(d)) if n != i64::MIN => Rational::Small(n, d),
            _ => Rational::Big(Box::new(BigRational::new_raw(n.into(), d.into()))),
        }
    }

    /// The same value, small if it fits.
    pub(super) fn from_big(value: BigRational) -> Rational {
        match (value.numer().to_i64(), value.denom().to_i64()) {
            (Some(n), Some(d)) if n != i64::MIN && d > 0 => Rational::Small(n, d),
            _ => Rational::Big(Box::new(value)),
        }
    }

    /// The same value, borrowed.
    pub(super) fn from_ref(value: &BigRational) -> Rational {
        match (value.numer().to_i64(), value.denom().to_i64()) {
            (Some(n), Some(d)) if n != i64::MIN && d > 0 => Rational::Small(n, d),
            _ => Rational::Big(Box::new(value.clone())),
        }
    }

    /// An integer.
    pub(super) fn integer(value: BigInt) -> Rational {
        Rational::from_big(BigRational::from_integer(value))
    }

    /// The same value of any size.
    pub(super) fn to_big(&self) -> BigRational {
        match self {
            Rational::Small(n, d) => BigRational::new_raw((*n).into(), (*d).into()),
            Rational::Big(value) => (**value).clone(),
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        matches!(self, Rational::Small(0, _))
    }

    pub(super) fn is_one(&self) -> bool {
        matches!(self, Rational::Small(1, 1))
    }

    pub(super) fn is_negative(&self) -> bool {
        match self {
            Rational::Small(n, _) => *n < 0,
            Rational::Big(value) => value.is_negative(),
        }
    }

    pub(super) fn is_integer(&self) -> bool {
        match self {
            Rational::Small(_, d) => *d == 1,
            Rational::Big(value) => value.is_integer(),
        }
    }

    /// The value if it is an integer of one word.
    pub(super) fn as_i64(&self) -> Option<i64> {
        match self {
            Rational::Small(n, 1) => Some(*n),
            _ => None,
        }
    }

    /// Bits of the larger part.
    pub(super) fn bits(&self) -> u64 {
        match self {
            Rational::Small(n, d) => u64::from(64 - (n.unsigned_abs() | d.unsigned_abs()).leading_zeros()),
            Rational::Big(value) => value.numer().bits().max(value.denom().bits()),
        }
    }

    /// Steps that an operation with this value costs. Long fractions are reduced by a common divisor, which is quadratic in
    /// their length.
    pub(super) fn words(&self) -> u64 {
        match self {
            Rational::Small(..) => 1,
            Rational::Big(value) if value.is_integer() => 4 + self.bits() / 32,
            Rational::Big(_) => 20 + self.bits() * self.bits() / 512,
        }
    }

    pub(super) fn add(&self, other: &Rational) -> Rational {
        match (self, other) {
            (Rational::Small(a, 1), Rational::Small(b, 1)) => Rational::reduced(i128::from(*a) + i128::from(*b), 1),
            (Rational::Small(a, b), Rational::Small(c, d)) => {
                let (a, b, c, d) = (i128::from(*a), i128::from(*b), i128::from(*c), i128::from(*d));
                Rational::reduced(a * d + c * b, b * d)
            }
            _ if self.is_integer() && other.is_integer() => Rational::integer(self.parts().0 + other.parts().0),
            _ => Rational::from_big(self.to_big() + other.to_big()),
        }
    }

    pub(super) fn mul(&self, other: &Rational) -> Rational {
        match (self, other) {
            (Rational::Small(a, b), Rational::Small(c, d)) => {
                Rational::reduced(i128::from(*a) * i128::from(*c), i128::from(*b) * i128::from(*d))
            }
            _ if self.is_integer() && other.is_integer() => Rational::integer(self.parts().0 * other.parts().0),
            _ => Rational::from_big(self.to_big() * other.to_big()),
        }
    }

    pub(super) fn neg(&self) -> Rational {
        match self {
            Rational::Small(n, d) => Rational::Small(-n, *d),
            Rational::Big(value) => Rational::Big(Box::new(-&**value)),
        }
    }

    pub(super) fn abs(&self) -> Rational {
        if self.is_negative() { self.neg() } else { self.clone() }
    }

    /// One over the value; `None` for zero.
    pub(super) fn recip(&self) -> Option<Rational> {
        match self {
            Rational::Small(0, _) => None,
            Rational::Small(n, d) => Some(Rational::reduced(i128::from(*d), i128::from(*n))),
            Rational::Big(value) => Some(Rational::from_big(value.recip())),
        }
    }

    /// A power with a natural exponent. The caller has bounded the size of the result.
    pub(super) fn pow(&self, exponent: u32) -> Rational {
        if let Rational::Small(n, d) = self
            && let (Some(n), Some(d)) = (n.checked_pow(exponent), d.checked_pow(exponent))
            && n != i64::MIN
        {
            return Rational::Small(n, d);
        }
        let value = self.to_big();
        Rational::from_big(BigRational::new_raw(value.numer().pow(exponent), value.denom().pow(exponent)))
    }

    /// The greatest integer that is not above the value.
    pub(super) fn floor(&self) -> Rational {
        match self {
            Rational::Small(n, d) => Rational::Small(n.div_euclid(*d), 1),
            Rational::Big(value) => Rational::from_big(value.floor()),
        }
    }

    pub(super) fn compare(&self, other: &Rational) -> Ordering {
        match (self, other) {
            (Rational::Small(a, b), Rational::Small(c, d)) => {
                (i128::from(*a) * i128::from(*d)).cmp(&(i128::from(*c) * i128::from(*b)))
            }
            _ => self.to_big().cmp(&other.to_big()),
        }
    }

    /// Numerator and denominator.
    pub(super) fn parts(&self) -> (BigInt, BigInt) {
        match self {
            Rational::Small(n, d) => ((*n).into(), (*d).into()),
            Rational::Big(value) => (value.numer().clone(), value.denom().clone()),
        }
    }

    /// The positive rational that divides both into coprime integers.
    pub(super) fn content(&self, other: &Rational) -> Rational {
        if let (Rational::Small(a, 1), Rational::Small(b, 1)) = (self, other) {
            return Rational::reduced(gcd(a.unsigned_abs().into(), b.unsigned_abs().into()).cast_signed(), 1);
        }
        if self.is_one() && other.is_integer() || other.is_one() && self.is_integer() {
            return Rational::ONE;
        }
        let ((a, b), (c, d)) = (self.parts(), other.parts());
        let (numerator, denominator) = (a.gcd(&c), b.lcm(&d));
        if numerator.is_zero() {
            return Rational::ZERO;
        }
        debug_assert!(numerator.gcd(&denominator).is_one());
        Rational::from_big(BigRational::new(numerator, denominator))
    }
}

/// In one word where possible: division of two words is slow.
fn gcd(a: u128, b: u128) -> u128 {
    match (u64::try_from(a), u64::try_from(b)) {
        (Ok(a), Ok(b)) => a.gcd(&b).into(),
        _ => a.gcd(&b),
    }
}
