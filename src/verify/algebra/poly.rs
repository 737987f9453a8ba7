//! Sums of monomials with rational coefficients. A monomial is a product of generators with rational exponents.

use num_rational::Ratio;
use num_traits::{CheckedAdd, CheckedMul, Signed, Zero};

use super::Stop;
use super::rational::Rational;

/// Index of a generator in its [`super::form::Forms`].
pub(super) type GeneratorId = u32;

/// An exponent of a generator. Kept within [`EXPONENT_MAX`], so that sums and products of two never overflow.
pub(super) type Exponent = Ratio<i64>;

/// Largest numerator and denominator of an exponent.
const EXPONENT_MAX: i64 = 1 << 30;

/// Most bits in a numerator or denominator. Answers have fewer; more is undecided.
pub(super) const BITS_MAX: u64 = 4096;

/// Sorted by generator, no exponent is zero.
pub(super) type Monomial = Vec<(GeneratorId, Exponent)>;

/// Sorted by monomial, no coefficient is zero. The empty sum is zero.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Poly(pub(super) Vec<(Monomial, Rational)>);

/// The exponent if it is in range.
pub(super) fn in_range(exponent: Exponent) -> Result<Exponent, Stop> {
    if exponent.numer().abs() <= EXPONENT_MAX && *exponent.denom() <= EXPONENT_MAX {
        Ok(exponent)
    } else {
        Err(Stop::Unsure)
    }
}

/// A sum of exponents.
pub(super) fn add_exponents(one: Exponent, other: Exponent) -> Result<Exponent, Stop> {
    in_range(one.checked_add(&other).ok_or(Stop::Unsure)?)
}

/// A product of exponents.
pub(super) fn mul_exponents(one: Exponent, other: Exponent) -> Result<Exponent, Stop> {
    in_range(one.checked_mul(&other).ok_or(Stop::Unsure)?)
}

/// The rational as an exponent, if it is in range.
pub(super) fn exponent(value: &Rational) -> Result<Exponent, Stop> {
    match value {
        Rational::Small(n, d) => in_range(Ratio::new_raw(*n, *d)),
        Rational::Big(_) => Err(Stop::Unsure),
    }
}

/// The product of two monomials, before generators with relations are reduced.
pub(super) fn merge(one: &Monomial, other: &Monomial) -> Result<Monomial, Stop> {
    if one.is_empty() {
        return Ok(other.clone());
    }
    if other.is_empty() {
        return Ok(one.clone());
    }
    let mut merged = Monomial::with_capacity(one.len() + other.len());
    let (mut left, mut right) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(&&(a, ea)), Some(&&(b, eb))) = (left.peek(), right.peek()) {
        if a < b {
            merged.push((a, ea));
            left.next();
        } else if b < a {
            merged.push((b, eb));
            right.next();
        } else {
            let sum = add_exponents(ea, eb)?;
            if !sum.is_zero() {
                merged.push((a, sum));
            }
            left.next();
            right.next();
        }
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

impl Poly {
    pub(super) fn constant(value: Rational) -> Poly {
        if value.is_zero() { Poly::default() } else { Poly(vec![(Monomial::new(), value)]) }
    }

    pub(super) fn one() -> Poly {
        Poly::constant(Rational::ONE)
    }

    pub(super) fn term(monomial: Monomial, coefficient: Rational) -> Poly {
        if coefficient.is_zero() { Poly::default() } else { Poly(vec![(monomial, coefficient)]) }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// The value, if no generator occurs.
    pub(super) fn as_rational(&self) -> Option<Rational> {
        match self.0.as_slice() {
            [] => Some(Rational::ZERO),
            [(monomial, value)] if monomial.is_empty() => Some(value.clone()),
            _ => None,
        }
    }

    pub(super) fn is_one(&self) -> bool {
        matches!(self.0.as_slice(), [(monomial, value)] if monomial.is_empty() && value.is_one())
    }

    /// Steps that an operation on every term costs.
    pub(super) fn cost(&self) -> u64 {
        self.0.iter().map(|(_, value)| value.words() + 2).sum()
    }

    pub(super) fn neg(&self) -> Poly {
        Poly(self.0.iter().map(|(monomial, value)| (monomial.clone(), value.neg())).collect())
    }

    pub(super) fn scale(&self, factor: &Rational) -> Poly {
        if factor.is_one() {
            return self.clone();
        }
        Poly(self.0.iter().map(|(monomial, value)| (monomial.clone(), value.mul(factor))).collect())
    }

    /// Sorts terms and adds those of one monomial.
    pub(super) fn collect(mut terms: Vec<(Monomial, Rational)>) -> Result<Poly, Stop> {
        if terms.len() > 1 {
            terms.sort_by(|one, other| one.0.cmp(&other.0));
        }
        let mut sorted: Vec<(Monomial, Rational)> = Vec::with_capacity(terms.len());
        for (monomial, value) in terms {
            match sorted.last_mut() {
                Some(last) if last.0 == monomial => last.1 = last.1.add(&value),
                _ => {
                    drop_zero(&mut sorted)?;
                    sorted.push((monomial, value));
                }
            }
        }
        drop_zero(&mut sorted)?;
        Ok(Poly(sorted))
    }

    /// The rational `k` with `self = k * other`; zero is one times zero.
    pub(super) fn ratio(&self, other: &Poly) -> Option<Rational> {
        if self.0.len() != other.0.len() {
            return None;
        }
        let Some(((_, a), (_, b))) = self.0.first().zip(other.0.first()) else { return Some(Rational::ONE) };
        let factor = a.mul(&b.recip()?);
        let same = |((m, a), (n, b)): (&(Monomial, Rational), &(Monomial, Rational))| m == n && *a == b.mul(&factor);
        self.0.iter().zip(&other.0).all(same).then_some(factor)
    }

    /// The positive rational content: the coefficients divided by it are coprime integers. One for zero.
    pub(super) fn content(&self) -> Rational {
        let Some((_, first)) = self.0.first() else { return Rational::ONE };
        self.0.iter().skip(1).fold(first.abs(), |content, (_, value)| content.content(value))
    }
}

/// Removes the last term if it has cancelled; refuses one that has grown too long.
fn drop_zero(terms: &mut Vec<(Monomial, Rational)>) -> Result<(), Stop> {
    let Some((_, value)) = terms.last() else { return Ok(()) };
    if value.is_zero() {
        terms.pop();
    } else if value.bits() > BITS_MAX {
        return Err(Stop::Unsure);
    }
    Ok(())
}
