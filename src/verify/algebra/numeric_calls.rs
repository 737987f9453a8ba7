//! Values of functions as balls.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{Signed, Zero};

use super::Stop;
use super::ball::{Ball, Trouble};
use super::elementary;
use super::integer;
use super::numeric::{Evaluation, Value};
use crate::verify::expr::{Expr, Function};

/// Arguments of hyperbolic and complex functions beyond `2^STEEP_BITS` are not of ordinary size.
const STEEP_BITS: i64 = 5;

impl Evaluation<'_> {
    /// A function of expressions.
    pub(super) fn call(&mut self, function: &Function, arguments: &[Expr]) -> Result<Value, Trouble> {
        let mut values = Vec::with_capacity(arguments.len());
        if matches!(function, Function::Named(_)) {
            return Err(Trouble::Unsure);
        }
        for argument in arguments {
            values.push(self.value(argument)?);
        }
        // Functions that close in on a limit, or run off, so fast that agreement says nothing.
        let is_steep = matches!(function, Function::Sinh | Function::Cosh | Function::Tanh)
            || values.iter().any(|value| value.im.is_some());
        if is_steep {
            let mut parts = values.iter().flat_map(|value| std::iter::once(&value.re).chain(&value.im));
            self.is_tame &= parts.all(|part| part.magnitude() <= STEEP_BITS);
        }
        let half = |value: Value| Value { re: value.re.shifted(-1), im: value.im.map(|im| im.shifted(-1)) };
        match (function, values.as_slice()) {
            (Function::Sin, [x]) => Ok(self.cos_sin(x)?.1),
            (Function::Cos, [x]) => Ok(self.cos_sin(x)?.0),
            (Function::Tan, [x]) => {
                let (cos, sin) = self.cos_sin(x)?;
                self.div(&sin, &cos)
            }
            (Function::Cot, [x]) => {
                let (cos, sin) = self.cos_sin(x)?;
                self.div(&cos, &sin)
            }
            (Function::Sec, [x]) => {
                let cos = self.cos_sin(x)?.0;
                self.div(&Value::real(self.one()), &cos)
            }
            (Function::Csc, [x]) => {
                let sin = self.cos_sin(x)?.1;
                self.div(&Value::real(self.one()), &sin)
            }
            (Function::Sinh | Function::Cosh | Function::Tanh, [x]) => {
                let (up, down) = (self.exp(x)?, self.exp(&Self::neg(x))?);
                let (sum, difference) = (self.add(&up, &down)?, self.add(&up, &Self::neg(&down))?);
                match function {
                    Function::Sinh => Ok(half(difference)),
                    Function::Cosh => Ok(half(sum)),
                    _ => self.div(&difference, &sum),
                }
            }
            (Function::Ln, [x]) => self.ln(x),
            (Function::Log, [base, x]) => {
                let (over, under) = (self.ln(x)?, self.ln(base)?);
                self.div(&over, &under)
            }
            (Function::Abs, [x]) => self.absolute(x),
            (Function::Determinant, entries) => self.determinant(entries),
            _ => {
                let reals: Result<Vec<Ball>, Trouble> = values.into_iter().map(Value::into_real).collect();
                Ok(Value::real(self.real_call(function, &reals?)?))
            }
        }
    }

    fn cos_sin(&mut self, x: &Value) -> Result<(Value, Value), Trouble> {
        self.pay()?;
        let bits = self.bits;
        let (cos, sin) = elementary::cos_sin(&x.re, bits)?;
        let Some(im) = &x.im else { return Ok((Value::real(cos), Value::real(sin))) };
        // cos(a + bi) = cos a cosh b - i sin a sinh b, sin(a + bi) = sin a cosh b + i cos a sinh b.
        self.pay()?;
        self.pay()?;
        let (up, down) = (elementary::exp(im, bits)?, elementary::exp(&im.neg(), bits)?);
        let (cosh, sinh) = (up.add(&down, bits)?.shifted(-1), up.sub(&down, bits)?.shifted(-1));
        let part = |re: Ball, im: Ball| Value { re, im: Some(im).filter(|im| !im.is_exact_zero()) };
        Ok((
            part(cos.mul(&cosh, bits)?, sin.mul(&sinh, bits)?.neg()),
            part(sin.mul(&cosh, bits)?, cos.mul(&sinh, bits)?),
        ))
    }

    fn absolute(&mut self, x: &Value) -> Result<Value, Trouble> {
        match (&x.im, x.re.sign()) {
            (Some(im), _) => {
                let size = x.re.mul(&x.re, self.bits)?.add(&im.mul(im, self.bits)?, self.bits)?;
                self.root(&Value::real(size), 2, true)
            }
            (None, Some(std::cmp::Ordering::Less)) => Ok(Self::neg(x)),
            (None, Some(_)) => Ok(x.clone()),
            // Around zero: no further from it than the ball reaches.
            (None, None) => {
                let radius = &x.re.mid.magnitude().clone() + x.re.radius;
                Ok(Value::real(Ball::rounded(BigInt::zero(), radius.into(), x.re.scale, self.bits)?))
            }
        }
    }

    /// Functions of real numbers only.
    fn real_call(&mut self, function: &Function, values: &[Ball]) -> Result<Ball, Trouble> {
        let bits = self.bits;
        match (function, values) {
            (Function::Arctan, [x]) => {
                self.pay()?;
                self.pay()?;
                elementary::atan(x, bits)
            }
            (Function::Arcsin, [x]) => self.arcsin(x),
            (Function::Arccos, [x]) => elementary::pi(bits)?.shifted(-1).sub(&self.arcsin(x)?, bits),
            (Function::Floor, [x]) => Ball::integer(x.floor().ok_or(Trouble::Unsure)?, bits),
            (Function::Ceiling, [x]) => Ball::integer(-x.neg().floor().ok_or(Trouble::Unsure)?, bits),
            (Function::Factorial, [x]) => self.factorial(x),
            (Function::Binomial, [n, k]) => {
                let (n, k) = n.as_i64().zip(k.as_i64()).ok_or(Trouble::Unsure)?;
                match integer::binomial(&n.into(), &k.into(), self.budget) {
                    Ok(value) => Ball::integer(value, bits),
                    Err(Stop::Exhausted) => Err(Trouble::Exhausted),
                    Err(_) if n < 0 => Err(Trouble::Unsure),
                    Err(_) => {
                        let mut value = self.factorial(&Ball::integer(n.into(), bits)?)?;
                        for part in [k, n - k] {
                            let part = self.factorial(&Ball::integer(part.into(), bits)?)?;
                            value = value.div(&part, bits)?;
                        }
                        Ok(value)
                    }
                }
            }
            (Function::Gcd | Function::Lcm, [_, ..]) => {
                let mut result = BigInt::zero();
                for (index, value) in values.iter().enumerate() {
                    let value = BigInt::from(value.as_i64().ok_or(Trouble::Unsure)?).abs();
                    result = match (index, function) {
                        (0, _) => value,
                        (_, Function::Gcd) => result.gcd(&value),
                        _ => result.lcm(&value),
                    };
                    self.budget.spend(4 + result.bits() / 16)?;
                }
                Ball::integer(result, bits)
            }
            (Function::Max | Function::Min, [first, rest @ ..]) => {
                let mut best = first.clone();
                for value in rest {
                    let order = value.sub(&best, bits)?.sign().ok_or(Trouble::Unsure)?;
                    let wanted =
                        if *function == Function::Max { std::cmp::Ordering::Greater } else { std::cmp::Ordering::Less };
                    if order == wanted {
                        best = value.clone();
                    }
                }
                Ok(best)
            }
            (Function::Mod, [a, b]) => {
                if b.sign() != Some(std::cmp::Ordering::Greater) {
                    return Err(Trouble::Unsure);
                }
                let whole = Ball::integer(a.div(b, bits)?.floor().ok_or(Trouble::Unsure)?, bits)?;
                a.sub(&whole.mul(b, bits)?, bits)
            }
            _ => Err(Trouble::Unsure),
        }
    }

    fn arcsin(&mut self, x: &Ball) -> Result<Ball, Trouble> {
        let bits = self.bits;
        self.pay()?;
        self.pay()?;
        let rest = self.one().sub(&x.mul(x, bits)?, bits)?;
        match rest.sign() {
            Some(std::cmp::Ordering::Greater) => elementary::atan(&x.div(&rest.root(2, bits)?, bits)?, bits),
            Some(std::cmp::Ordering::Equal) => {
                let right = elementary::pi(bits)?.shifted(-1);
                Ok(if x.mid.is_negative() { right.neg() } else { right })
            }
            _ => Err(Trouble::Unsure),
        }
    }

    /// The factorial of a natural number: exact, or from Stirling's series
    /// `ln n! = n ln n - n + ln(2 pi n)/2 + 1/(12 n) - 1/(360 n^3) + 1/(1260 n^5) - ...`, which is wrong by less than the
    /// first term left out, `1/(1680 n^7) < 2^-74` here.
    fn factorial(&mut self, x: &Ball) -> Result<Ball, Trouble> {
        let bits = self.bits;
        let n = match x.as_i64() {
            Some(n) if n < 0 => return Err(Trouble::Unsure),
            Some(n) => n,
            None if x.magnitude() > 62 && !x.mid.is_negative() => return Err(Trouble::Huge),
            None => return Err(Trouble::Unsure),
        };
        if n <= 525 {
            let value = integer::factorial(n.unsigned_abs() as u32, self.budget)?;
            return Ball::integer(value, bits);
        }
        self.pay()?;
        self.pay()?;
        self.pay()?;
        let wide = bits + 64;
        let ln = elementary::ln(x, wide)?;
        let mut sum = ln.sub(&self.one(), wide)?.mul(x, wide)?;
        let inside = elementary::pi(wide)?.shifted(1).mul(x, wide)?;
        sum = sum.add(&elementary::ln(&inside, wide)?.shifted(-1), wide)?;
        let mut power = x.clone();
        for divisor in [12, -360, 1260] {
            let under = Ball::integer(BigInt::from(divisor), wide)?.mul(&power, wide)?;
            sum = sum.add(&self.one().div(&under, wide)?, wide)?;
            power = power.mul(x, wide)?.mul(x, wide)?;
        }
        elementary::exp(&sum.widened(-74, wide)?, bits)
    }
}
