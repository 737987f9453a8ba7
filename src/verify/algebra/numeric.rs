//! The value of an expression as balls: real, or a real and an imaginary part.

use num_bigint::BigInt;
use num_traits::{One, Signed, ToPrimitive};

use super::ball::{Ball, Trouble};
use super::convert::DEPTH_MAX;
use super::elementary;
use super::rational::Rational;
use crate::verify::budget::{Budget, Exhausted};
use crate::verify::expr::Expr;

/// Bits that a part of an expression tells beyond the length of its numbers: there are fewer than sixteen kinds in use at
/// any place.
const PART_BITS: u64 = 4;

/// Roots of higher degrees are taken through logarithms: they would need the digits of the power.
const ROOT_DEGREE_MAX: u32 = 4;

impl From<Exhausted> for Trouble {
    fn from(_: Exhausted) -> Trouble {
        Trouble::Exhausted
    }
}

impl From<super::Stop> for Trouble {
    fn from(stop: super::Stop) -> Trouble {
        match stop {
            super::Stop::Exhausted => Trouble::Exhausted,
            super::Stop::DivisionByZero => Trouble::DivisionByZero,
            super::Stop::Unsure => Trouble::Unsure,
        }
    }
}

/// A number: real where there is no imaginary part.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) re: Ball,
    pub(super) im: Option<Ball>,
}

impl Value {
    pub(super) fn real(re: Ball) -> Value {
        Value { re, im: None }
    }

    /// The real number; refused for others.
    pub(super) fn into_real(self) -> Result<Ball, Trouble> {
        if self.im.is_none() { Ok(self.re) } else { Err(Trouble::Unsure) }
    }

    pub(super) fn imaginary(&self) -> Ball {
        self.im.clone().unwrap_or_else(Ball::zero)
    }

    /// Whether no number is in both.
    pub(super) fn is_apart(&self, other: &Value, bits: u64) -> bool {
        self.re.is_apart(&other.re, bits)
            || ((self.im.is_some() || other.im.is_some()) && self.imaginary().is_apart(&other.imaginary(), bits))
    }

    /// Whether both parts are known to `digits` bits.
    pub(super) fn is_narrow(&self, digits: i64) -> bool {
        self.re.is_narrow(digits) && self.im.as_ref().is_none_or(|im| im.is_narrow(digits))
    }
}

/// One evaluation at one precision.
pub(super) struct Evaluation<'a> {
    /// Bits of midpoints.
    pub(super) bits: u64,
    /// Values of symbols, sorted by their names.
    pub(super) symbols: &'a [(String, Ball)],
    /// Refuse even roots, powers and logarithms of negative numbers: symbols are real, and so are their functions.
    pub(super) real_only: bool,
    /// Whether every number met had a magnitude between `2^-tame_bits` and `2^tame_bits`.
    pub(super) is_tame: bool,
    /// See `is_tame`.
    pub(super) tame_bits: i64,
    /// About how many bits it takes to write the expression.
    pub(super) written_bits: u64,
    /// What is left to spend.
    pub(super) budget: &'a mut Budget,
    depth: u32,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(bits: u64, symbols: &'a [(String, Ball)], budget: &'a mut Budget) -> Evaluation<'a> {
        let real_only = !symbols.is_empty();
        Evaluation { bits, symbols, real_only, is_tame: true, tame_bits: 64, written_bits: 0, budget, depth: 0 }
    }

    /// Encloses the value.
    pub(super) fn value(&mut self, expr: &Expr) -> Result<Value, Trouble> {
        self.budget.spend(4 + self.bits / 64)?;
        if self.depth >= DEPTH_MAX {
            return Err(Trouble::Unsure);
        }
        self.depth += 1;
        self.written_bits += PART_BITS;
        // Numbers among functions have their principal values.
        let real_only = self.real_only;
        if real_only && matches!(expr, Expr::Power(..) | Expr::Root(..) | Expr::Call(..)) && super::is_constant(expr) {
            self.real_only = false;
        }
        let value = self.inner(expr);
        self.real_only = real_only;
        self.depth -= 1;
        if let Ok(value) = &value {
            for part in std::iter::once(&value.re).chain(&value.im) {
                let magnitude = part.magnitude();
                let tiny = !part.contains_zero() && magnitude < -self.tame_bits;
                self.is_tame &= magnitude <= self.tame_bits + 2 && !tiny;
            }
        }
        value
    }

    /// Encloses a real value.
    pub(super) fn real(&mut self, expr: &Expr) -> Result<Ball, Trouble> {
        self.value(expr)?.into_real()
    }

    /// Pays for an elementary function: dozens of multiplications, more and longer ones the more bits.
    pub(super) fn pay(&mut self) -> Result<(), Trouble> {
        Ok(self.budget.spend(80 + self.bits)?)
    }

    fn inner(&mut self, expr: &Expr) -> Result<Value, Trouble> {
        let bits = self.bits;
        match expr {
            Expr::Number(value) => {
                let length = value.numer().bits() + value.denom().bits();
                self.written_bits = self.written_bits.saturating_add(length);
                self.budget.spend(length / 64)?;
                Ok(Value::real(Ball::rational(&Rational::from_ref(value), bits)?))
            }
            Expr::Pi => Ok(Value::real(elementary::pi(bits)?)),
            Expr::Euler => self.exp(&Value::real(self.one())),
            Expr::Imaginary => Ok(Value { re: Ball::zero(), im: Some(self.one()) }),
            Expr::Symbol(name) => match self.symbols.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(index) => Ok(Value::real(self.symbols[index].1.clone())),
                Err(_) => Err(Trouble::Unsure),
            },
            Expr::Sum(terms) => {
                let mut sum = Value::real(Ball::zero());
                for term in terms {
                    let term = self.value(term)?;
                    sum = self.add(&sum, &term)?;
                }
                Ok(sum)
            }
            Expr::Product(factors) => {
                let mut product = Value::real(self.one());
                for factor in factors {
                    let factor = self.value(factor)?;
                    product = self.mul(&product, &factor)?;
                }
                Ok(product)
            }
            Expr::Quotient(over, under) => {
                let (over, under) = (self.value(over)?, self.value(under)?);
                self.div(&over, &under)
            }
            Expr::Power(base, exponent) => self.power(base, exponent),
            Expr::Root(degree, radicand) => {
                self.written_bits += PART_BITS + u64::from(u32::BITS - degree.leading_zeros());
                let radicand = self.value(radicand)?;
                self.root(&radicand, *degree, true)
            }
            Expr::Call(function, arguments) => self.call(function, arguments),
        }
    }

    pub(super) fn one(&self) -> Ball {
        Ball { mid: BigInt::one(), radius: 0, scale: 0 }
    }

    pub(super) fn add(&self, one: &Value, other: &Value) -> Result<Value, Trouble> {
        let im = match (&one.im, &other.im) {
            (None, None) => None,
            (Some(im), None) | (None, Some(im)) => Some(im.clone()),
            (Some(a), Some(b)) => Some(a.add(b, self.bits)?),
        };
        Ok(Value { re: one.re.add(&other.re, self.bits)?, im: im.filter(|im| !im.is_exact_zero()) })
    }

    pub(super) fn neg(value: &Value) -> Value {
        Value { re: value.re.neg(), im: value.im.as_ref().map(Ball::neg) }
    }

    pub(super) fn mul(&self, one: &Value, other: &Value) -> Result<Value, Trouble> {
        let bits = self.bits;
        let re = one.re.mul(&other.re, bits)?;
        let im = match (&one.im, &other.im) {
            (None, None) => return Ok(Value::real(re)),
            (Some(im), None) => im.mul(&other.re, bits)?,
            (None, Some(im)) => im.mul(&one.re, bits)?,
            (Some(a), Some(b)) => {
                let re = re.sub(&a.mul(b, bits)?, bits)?;
                let im = a.mul(&other.re, bits)?.add(&b.mul(&one.re, bits)?, bits)?;
                return Ok(Value { re, im: Some(im).filter(|im| !im.is_exact_zero()) });
            }
        };
        Ok(Value { re, im: Some(im).filter(|im| !im.is_exact_zero()) })
    }

    pub(super) fn div(&self, one: &Value, other: &Value) -> Result<Value, Trouble> {
        let bits = self.bits;
        let Some(im) = &other.im else {
            let re = one.re.div(&other.re, bits)?;
            let im = one.im.as_ref().map(|im| im.div(&other.re, bits)).transpose()?;
            return Ok(Value { re, im });
        };
        let size = other.re.mul(&other.re, bits)?.add(&im.mul(im, bits)?, bits)?;
        let product = self.mul(one, &Value { re: other.re.clone(), im: Some(im.neg()) })?;
        let im = product.im.as_ref().map(|im| im.div(&size, bits)).transpose()?;
        Ok(Value { re: product.re.div(&size, bits)?, im })
    }

    pub(super) fn exp(&mut self, x: &Value) -> Result<Value, Trouble> {
        self.pay()?;
        let size = elementary::exp(&x.re, self.bits)?;
        let Some(im) = &x.im else { return Ok(Value::real(size)) };
        self.pay()?;
        let (cos, sin) = elementary::cos_sin(im, self.bits)?;
        Ok(Value { re: size.mul(&cos, self.bits)?, im: Some(size.mul(&sin, self.bits)?) })
    }

    /// The principal logarithm.
    pub(super) fn ln(&mut self, x: &Value) -> Result<Value, Trouble> {
        self.pay()?;
        let Some(im) = &x.im else {
            return match x.re.sign() {
                Some(std::cmp::Ordering::Greater) => Ok(Value::real(elementary::ln(&x.re, self.bits)?)),
                Some(std::cmp::Ordering::Less) if !self.real_only => {
                    let re = elementary::ln(&x.re.neg(), self.bits)?;
                    Ok(Value { re, im: Some(elementary::pi(self.bits)?) })
                }
                _ => Err(Trouble::Unsure),
            };
        };
        if self.real_only {
            return Err(Trouble::Unsure);
        }
        self.pay()?;
        let bits = self.bits;
        let size = x.re.mul(&x.re, bits)?.add(&im.mul(im, bits)?, bits)?;
        // The angle: from the real axis where the number is to the right of it, else from the imaginary one.
        let angle = if x.re.sign() == Some(std::cmp::Ordering::Greater) {
            elementary::atan(&im.div(&x.re, bits)?, bits)?
        } else {
            let right = elementary::pi(bits)?.shifted(-1);
            let right = match im.sign() {
                Some(std::cmp::Ordering::Greater) => right,
                Some(std::cmp::Ordering::Less) => right.neg(),
                _ => return Err(Trouble::Unsure),
            };
            right.sub(&elementary::atan(&x.re.div(im, bits)?, bits)?, bits)?
        };
        Ok(Value { re: elementary::ln(&size, bits)?.shifted(-1), im: Some(angle) })
    }

    pub(super) fn root(&mut self, x: &Value, degree: u32, real: bool) -> Result<Value, Trouble> {
        let degree = degree.max(1);
        let length = self.bits * u64::from(degree.min(ROOT_DEGREE_MAX));
        self.budget.spend(10 + length * length / 8192)?;
        if x.im.is_none() {
            if x.re.is_exact_zero() {
                return Ok(Value::real(Ball::zero()));
            }
            match x.re.sign() {
                Some(std::cmp::Ordering::Greater) if degree <= ROOT_DEGREE_MAX => {
                    return Ok(Value::real(x.re.root(degree, self.bits)?));
                }
                Some(std::cmp::Ordering::Less) if degree % 2 == 1 => {
                    // A cube root that is not written as a root may be meant as the complex one.
                    let root =
                        if real { self.root(&Self::neg(x), degree, true)? } else { return Err(Trouble::Unsure) };
                    return Ok(Self::neg(&root));
                }
                Some(std::cmp::Ordering::Less) if degree == 2 && !self.real_only => {
                    return Ok(Value { re: Ball::zero(), im: Some(x.re.neg().root(2, self.bits)?) });
                }
                _ => {}
            }
        }
        let ln = self.ln(x)?;
        let share = Ball::rational(&Rational::new(1, degree.into()), self.bits)?;
        let exponent = self.mul(&ln, &Value::real(share))?;
        self.exp(&exponent)
    }

    fn power(&mut self, base: &Expr, exponent: &Expr) -> Result<Value, Trouble> {
        if *base == Expr::Euler {
            let exponent = self.value(exponent)?;
            return self.exp(&exponent);
        }
        let fraction = match exponent {
            Expr::Number(value) if !value.is_integer() => {
                value.numer().to_i64().zip(value.denom().to_u32().filter(|denominator| *denominator <= 16))
            }
            _ => None,
        };
        let base = self.value(base)?;
        if let Some((over, under)) = fraction {
            let root = self.root(&base, under, false)?;
            return self.integer_power(&root, over);
        }
        let exponent = self.value(exponent)?;
        // A power with a tiny exponent is close to 1 whatever the base.
        self.is_tame &= exponent.re.contains_zero() || exponent.re.magnitude() >= -8;
        if exponent.im.is_none()
            && let Some(whole) = exponent.re.as_i64()
        {
            return self.integer_power(&base, whole);
        }
        if base.im.is_none() && base.re.is_exact_zero() {
            let positive = exponent.im.is_none() && exponent.re.sign() == Some(std::cmp::Ordering::Greater);
            return if positive { Ok(Value::real(Ball::zero())) } else { Err(Trouble::Unsure) };
        }
        if base.im.is_none() && base.re.mid.is_negative() && exponent.im.is_none() {
            return Err(Trouble::Unsure);
        }
        let ln = self.ln(&base)?;
        let product = self.mul(&exponent, &ln)?;
        self.exp(&product)
    }

    fn integer_power(&mut self, base: &Value, exponent: i64) -> Result<Value, Trouble> {
        let size = exponent.unsigned_abs();
        let words = 1 + self.bits / 64;
        self.budget.spend(u64::from(64 - size.leading_zeros()) * 4 * words)?;
        let is_zero = base.im.is_none() && base.re.is_exact_zero();
        if size == 0 {
            return if is_zero { Err(Trouble::Unsure) } else { Ok(Value::real(self.one())) };
        }
        let power = if base.im.is_none() {
            Value::real(base.re.pow(size, self.bits)?)
        } else {
            let mut power = Value::real(self.one());
            let (mut square, mut left) = (base.clone(), size);
            while left > 0 {
                if left & 1 == 1 {
                    power = self.mul(&power, &square)?;
                }
                left >>= 1;
                if left > 0 {
                    square = self.mul(&square, &square)?;
                }
            }
            power
        };
        if exponent > 0 { Ok(power) } else { self.div(&Value::real(self.one()), &power) }
    }
}
