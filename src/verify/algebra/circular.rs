//! Circular and hyperbolic functions of forms, and their inverses.

use num_rational::Ratio;
use num_traits::{One, Zero};

use super::Stop;
use super::form::{Form, Forms, Generator};
use super::poly::Monomial;
use super::rational::Rational;
use crate::verify::expr::Function;

impl Forms<'_> {
    pub(super) fn multiple_of_pi(&mut self, factor: &Rational) -> Result<Form, Stop> {
        Ok(self.atom(Generator::Pi)?.scale(factor))
    }

    /// `cos(c pi)`.
    pub(super) fn cos_of_turn(&mut self, c: Ratio<i64>) -> Result<Form, Stop> {
        let mut c = c - Ratio::from_integer(2 * (c / 2).floor().to_integer());
        if c > Ratio::one() {
            c = Ratio::from_integer(2) - c;
        }
        let negative = c > Ratio::new(1, 2);
        if negative {
            c = Ratio::one() - c;
        }
        let value = match (*c.numer(), *c.denom()) {
            (0, _) => Form::integer(1),
            (1, 2) => Form::integer(0),
            (1, 3) => Form::constant(Rational::new(1, 2)),
            (1, 4) => self.surds(&[(2, 1, 2)])?,
            (1, 6) => self.surds(&[(3, 1, 2)])?,
            (1, 5) => self.surds(&[(1, 1, 4), (5, 1, 4)])?,
            (2, 5) => self.surds(&[(1, -1, 4), (5, 1, 4)])?,
            (1, 12) => self.surds(&[(6, 1, 4), (2, 1, 4)])?,
            (5, 12) => self.surds(&[(6, 1, 4), (2, -1, 4)])?,
            (n @ (1 | 3), 8) => self.surd_of(&[(1, 1, 2), (2, if n == 1 { 1 } else { -1 }, 4)])?,
            (n @ (1 | 3), 10) => self.surd_of(&[(1, 5, 8), (5, if n == 1 { 1 } else { -1 }, 8)])?,
            (n, d) => {
                let angle = self.multiple_of_pi(&Rational::new(n, d))?;
                self.call(Function::Cos, vec![angle])?
            }
        };
        Ok(if negative { value.neg() } else { value })
    }

    /// The sum of `numerator / denominator * sqrt(radicand)`.
    fn surds(&mut self, terms: &[(i64, i64, i64)]) -> Result<Form, Stop> {
        let mut sum = Form::integer(0);
        for (radicand, numerator, denominator) in terms {
            let root = self.number_power(&Rational::new(*radicand, 1), Ratio::new(1, 2), true)?;
            sum = self.add(&sum, &root.scale(&Rational::new(*numerator, *denominator)))?;
        }
        Ok(sum)
    }

    fn surd_of(&mut self, terms: &[(i64, i64, i64)]) -> Result<Form, Stop> {
        let radicand = self.surds(terms)?;
        self.rational_power(&radicand, Ratio::new(1, 2), true)
    }

    /// The rational multiple of pi in a sum, and the rest.
    fn split_turn(&mut self, x: &Form) -> (Ratio<i64>, Form) {
        let none = (Ratio::zero(), x.clone());
        if !x.den.is_one() {
            return none;
        }
        let is_pi = |monomial: &Monomial| {
            matches!(monomial.as_slice(), [(id, exponent)]
                if exponent.is_one() && self.generators[*id as usize] == Generator::Pi)
        };
        let Some(position) = x.num.0.iter().position(|(monomial, _)| is_pi(monomial)) else { return none };
        let Ok(turn) = super::poly::exponent(&x.num.0[position].1) else { return none };
        let mut rest = x.num.clone();
        rest.0.remove(position);
        (turn, Form::from_poly(rest))
    }

    /// Whether the last term is negative: true of exactly one of `x` and `-x`.
    pub(super) fn is_led_by_minus(x: &Form) -> bool {
        x.num.0.last().is_some_and(|(_, value)| value.is_negative())
    }

    pub(super) fn cos(&mut self, x: &Form) -> Result<Form, Stop> {
        let (turn, rest) = self.split_turn(x);
        if rest.is_zero() {
            return self.cos_of_turn(turn);
        }
        self.shifted(turn, &rest, x, 0)
    }

    pub(super) fn sin(&mut self, x: &Form) -> Result<Form, Stop> {
        let (turn, rest) = self.split_turn(x);
        if rest.is_zero() {
            return self.cos_of_turn(super::poly::add_exponents(Ratio::new(1, 2), -turn)?);
        }
        self.shifted(turn, &rest, x, 3)
    }

    /// `cos(x + quarters * pi / 2)`, for `x = turn * pi + rest`.
    fn shifted(&mut self, turn: Ratio<i64>, rest: &Form, x: &Form, quarters: i64) -> Result<Form, Stop> {
        let double = turn * 2;
        let (inside, shift) = if double.is_integer() { (rest, double.to_integer()) } else { (x, 0) };
        let flipped = Forms::is_led_by_minus(inside);
        let argument = if flipped { inside.neg() } else { inside.clone() };
        let value = match (shift + quarters).rem_euclid(4) {
            0 => self.call(Function::Cos, vec![argument])?,
            2 => self.call(Function::Cos, vec![argument])?.neg(),
            quarter => {
                let sin = self.call(Function::Sin, vec![argument])?;
                if (quarter == 1) == flipped { sin } else { sin.neg() }
            }
        };
        Ok(value)
    }

    pub(super) fn tan(&mut self, x: &Form) -> Result<Form, Stop> {
        let (sin, cos) = (self.sin(x)?, self.cos(x)?);
        self.div(&sin, &cos)
    }

    /// The inverse of a function at a number, among `turns` of a half-turn; odd.
    fn inverse(
        &mut self,
        function: Function,
        x: &Form,
        turns: &[(i64, i64)],
        value_at: fn(&mut Self, &Form) -> Result<Form, Stop>,
    ) -> Result<Form, Stop> {
        if x.is_zero() {
            return Ok(Form::integer(0));
        }
        if self.is_number_form(x) {
            for (n, d) in turns {
                let angle = self.multiple_of_pi(&Rational::new(*n, *d))?;
                let value = value_at(self, &angle)?;
                for sign in [1, -1] {
                    let sign = Rational::new(sign, 1);
                    if self.equal(&value.scale(&sign), x)? {
                        return Ok(angle.scale(&sign));
                    }
                }
            }
        }
        if Forms::is_led_by_minus(x) {
            return Ok(self.call(function, vec![x.neg()])?.neg());
        }
        self.call(function, vec![x.clone()])
    }

    pub(super) fn arcsin(&mut self, x: &Form) -> Result<Form, Stop> {
        self.inverse(Function::Arcsin, x, &[(1, 2), (1, 6), (1, 4), (1, 3), (1, 12), (5, 12)], Forms::sin)
    }

    pub(super) fn arctan(&mut self, x: &Form) -> Result<Form, Stop> {
        self.inverse(Function::Arctan, x, &[(1, 4), (1, 6), (1, 3), (1, 12), (5, 12)], Forms::tan)
    }

    pub(super) fn hyperbolic(&mut self, function: &Function, x: &Form) -> Result<Form, Stop> {
        let (up, down) = (self.exp(x)?, self.exp(&x.neg())?);
        let half = Rational::new(1, 2);
        match function {
            Function::Sinh => Ok(self.sub(&up, &down)?.scale(&half)),
            Function::Cosh => Ok(self.add(&up, &down)?.scale(&half)),
            _ => {
                let (over, under) = (self.sub(&up, &down)?, self.add(&up, &down)?);
                self.div(&over, &under)
            }
        }
    }
}
