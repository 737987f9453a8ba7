//! Functions whose values or simplifications are known: the rest stay as generators.

use std::cmp::Ordering;

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::Ratio;
use num_traits::{One, Signed, Zero};

use super::Stop;
use super::constant;
use super::form::{Form, Forms, Generator};
use super::integer;
use super::poly::Poly;
use super::rational::Rational;
use crate::verify::expr::{Expr, Function};

/// Largest whole number that is split off the argument of a factorial: `(n + 3)! = (n + 3)(n + 2)(n + 1) n!`.
const SHIFT_MAX: i64 = 12;

impl Forms<'_> {
    /// A function of expressions; `whole` is the call as written.
    pub(super) fn function(&mut self, function: &Function, arguments: &[Expr], whole: &Expr) -> Result<Form, Stop> {
        if let (Function::Mod, [dividend, divisor]) = (function, arguments) {
            return self.remainder(dividend, divisor);
        }
        let mut forms = Vec::with_capacity(arguments.len());
        for argument in arguments {
            forms.push(self.form(argument)?);
        }
        if let Function::Named(_) = function {
            return self.call(function.clone(), forms);
        }
        match (function, forms.as_slice()) {
            (Function::Sin, [x]) => self.sin(x),
            (Function::Cos, [x]) => self.cos(x),
            (Function::Tan, [x]) => self.tan(x),
            (Function::Cot, [x]) => {
                let (sin, cos) = (self.sin(x)?, self.cos(x)?);
                self.div(&cos, &sin)
            }
            (Function::Sec, [x]) => {
                let cos = self.cos(x)?;
                self.div(&Form::integer(1), &cos)
            }
            (Function::Csc, [x]) => {
                let sin = self.sin(x)?;
                self.div(&Form::integer(1), &sin)
            }
            (Function::Arcsin, [x]) => self.arcsin(x),
            (Function::Arccos, [x]) => {
                let arcsin = self.arcsin(x)?;
                let right = self.multiple_of_pi(&Rational::new(1, 2))?;
                self.sub(&right, &arcsin)
            }
            (Function::Arctan, [x]) => self.arctan(x),
            (Function::Sinh | Function::Cosh | Function::Tanh, [x]) => self.hyperbolic(function, x),
            (Function::Ln, [x]) => self.ln(x),
            (Function::Log, [base, x]) => {
                let (over, under) = (self.ln(x)?, self.ln(base)?);
                self.div(&over, &under)
            }
            (Function::Abs, [x]) => self.absolute(x),
            (Function::Floor, [x]) => self.floor(x),
            (Function::Ceiling, [x]) => Ok(self.floor(&x.neg())?.neg()),
            (Function::Factorial, [x]) => self.factorial(x, whole),
            (Function::Binomial, [n, k]) => self.binomial(n, k, whole),
            (Function::Determinant, [_, ..]) => self.determinant(&forms),
            (Function::Gcd | Function::Lcm, [_, ..]) => self.divisors(function, forms),
            (Function::Max | Function::Min, [_, ..]) => self.extreme(function, forms),
            _ => Err(Stop::Unsure),
        }
    }

    /// The natural logarithm: of a number its principal value, of anything else the real one.
    fn ln(&mut self, x: &Form) -> Result<Form, Stop> {
        // There is no logarithm of nothing, as there is no quotient by it.
        if x.is_zero() {
            return Err(Stop::DivisionByZero);
        }
        let mut argument = x.clone();
        let mut sum = Form::integer(0);
        if self.is_number_form(x) && x.as_rational().is_none_or(|value| value.is_negative()) {
            match constant::sign_of(&self.form_expr(x), self.budget) {
                Some(Ordering::Greater) => {}
                Some(Ordering::Less) => {
                    let i = self.atom(Generator::Imaginary)?;
                    let pi = self.atom(Generator::Pi)?;
                    sum = self.mul(&i, &pi)?;
                    argument = argument.neg();
                }
                _ => return Err(Stop::Unsure),
            }
        }
        let over = self.ln_poly(&argument.num)?;
        sum = self.add(&sum, &over)?;
        if !argument.den.is_one() {
            let under = self.ln_poly(&argument.den)?;
            sum = self.sub(&sum, &under)?;
        }
        Ok(sum)
    }

    fn ln_poly(&mut self, x: &Poly) -> Result<Form, Stop> {
        let [(monomial, value)] = x.0.as_slice() else {
            let number = self.is_number(x);
            self.spend(2 * x.cost())?;
            let content = x.content();
            let mut primitive = x.scale(&content.recip().ok_or(Stop::Unsure)?);
            if number && constant::sign_of(&self.poly_expr(&primitive), self.budget) == Some(Ordering::Less) {
                // Numerator and denominator of a positive number: both are negative.
                primitive = primitive.neg();
            }
            let outside = self.ln_rational(&content)?;
            let inside = self.call(Function::Ln, vec![Form::from_poly(primitive)])?;
            return self.add(&outside, &inside);
        };
        if value.is_negative() {
            // The logarithm of -x is real for negative x.
            return self.call(Function::Ln, vec![Form::from_poly(x.clone())]);
        }
        let mut sum = self.ln_rational(value)?;
        for (id, exponent) in monomial {
            let factor = Rational::new(*exponent.numer(), *exponent.denom());
            let each = match self.generators[*id as usize].clone() {
                Generator::Euler => Form::integer(1),
                Generator::Power(super::form::Base::Generator(base), inner) if self.is_real_exponent(&inner) => {
                    let base = self.atom_of(base, Ratio::one());
                    let ln = self.ln(&base)?;
                    self.mul(&inner, &ln)?
                }
                Generator::Imaginary | Generator::Power(..) | Generator::Opaque(_) => return Err(Stop::Unsure),
                _ => {
                    let base = self.atom_of(*id, Ratio::one());
                    self.call(Function::Ln, vec![base])?
                }
            };
            sum = self.add(&sum, &each.scale(&factor))?;
        }
        Ok(sum)
    }

    fn is_real_exponent(&self, form: &Form) -> bool {
        let plain = |poly: &Poly| {
            poly.0.iter().flat_map(|(monomial, _)| monomial).all(|(id, _)| {
                matches!(
                    self.generators[*id as usize],
                    Generator::Symbol(_) | Generator::Pi | Generator::Euler | Generator::Prime(..)
                )
            })
        };
        plain(&form.num) && plain(&form.den)
    }

    /// `ln` of a positive rational number, as logarithms of primes.
    fn ln_rational(&mut self, value: &Rational) -> Result<Form, Stop> {
        let (over, under) = value.parts();
        let mut sum = Form::integer(0);
        for (part, sign) in [(over, 1), (under, -1)] {
            if part.is_one() {
                continue;
            }
            for (prime, times, _) in integer::factors(&part, self.budget)? {
                let prime = Form::constant(Rational::integer(prime));
                let ln = self.call(Function::Ln, vec![prime])?;
                sum = self.add(&sum, &ln.scale(&Rational::new(sign * i64::from(times), 1)))?;
            }
        }
        Ok(sum)
    }

    /// The absolute value.
    pub(super) fn absolute(&mut self, x: &Form) -> Result<Form, Stop> {
        if let Some(value) = x.as_rational() {
            return Ok(Form::constant(value.abs()));
        }
        if self.is_number_form(x) {
            match constant::sign_of(&self.form_expr(x), self.budget) {
                Some(Ordering::Less) => return Ok(x.neg()),
                Some(_) => return Ok(x.clone()),
                None => return self.modulus(x),
            }
        }
        if let Some((monomial, value)) = x.as_term() {
            let mut product = Form::constant(value.abs());
            for (id, exponent) in monomial.clone() {
                let atom = self.atom_of(id, Ratio::one());
                let positive = matches!(
                    self.generators[id as usize],
                    Generator::Pi | Generator::Euler | Generator::Prime(..) | Generator::Radical(_)
                );
                let factor = if positive || exponent.denom() % 2 == 0 {
                    self.atom_of(id, exponent)
                } else if self.generators[id as usize] == Generator::Imaginary {
                    continue;
                } else if matches!(self.generators[id as usize], Generator::Power(..)) {
                    return self.call(Function::Abs, vec![x.clone()]);
                } else {
                    let size = self.call(Function::Abs, vec![atom])?;
                    self.rational_power(&size, exponent, true)?
                };
                product = self.mul(&product, &factor)?;
            }
            return Ok(product);
        }
        let argument = if Forms::is_led_by_minus(x) { x.neg() } else { x.clone() };
        self.call(Function::Abs, vec![argument])
    }

    /// The absolute value of a complex number `a + b i` whose parts are visible.
    fn modulus(&mut self, x: &Form) -> Result<Form, Stop> {
        let i = self.generator(Generator::Imaginary)?;
        let mut square = Form::integer(1);
        for (part, power) in [(&x.num, 1), (&x.den, -1)] {
            let (mut re, mut im) = (Poly::default(), Poly::default());
            for (monomial, value) in &part.0 {
                let mut monomial = monomial.clone();
                let imaginary = monomial.iter().position(|(id, _)| *id == i);
                let side = if let Some(position) = imaginary {
                    monomial.remove(position);
                    &mut im
                } else {
                    &mut re
                };
                side.0.push((monomial, value.clone()));
            }
            let (re, im) = (Poly::collect(re.0)?, Poly::collect(im.0)?);
            for side in [&re, &im] {
                // The parts must be real themselves.
                if constant::sign_of(&self.poly_expr(side), self.budget).is_none() {
                    return Err(Stop::Unsure);
                }
            }
            let (re, im) = (self.mul_poly(&re, &re)?, self.mul_poly(&im, &im)?);
            let sum = Form::from_poly(self.add_poly(&re, &im)?);
            let sum = self.pow(&sum, power)?;
            square = self.mul(&square, &sum)?;
        }
        self.rational_power(&square, Ratio::new(1, 2), true)
    }

    fn floor(&mut self, x: &Form) -> Result<Form, Stop> {
        if let Some(value) = x.as_rational() {
            return Ok(Form::constant(value.floor()));
        }
        if self.is_number_form(x) {
            let value = constant::floor_of(&self.form_expr(x), self.budget).ok_or(Stop::Unsure)?;
            return Ok(Form::constant(Rational::integer(value)));
        }
        let whole = match x.num.0.first() {
            Some((monomial, value)) if monomial.is_empty() && x.den.is_one() => value.floor(),
            _ => Rational::ZERO,
        };
        let whole = Form::constant(whole);
        let rest = self.sub(x, &whole)?;
        let floor = self.call(Function::Floor, vec![rest])?;
        self.add(&floor, &whole)
    }

    fn factorial(&mut self, x: &Form, whole: &Expr) -> Result<Form, Stop> {
        if let Some(value) = x.as_rational() {
            if value.is_negative() || !value.is_integer() {
                return Err(Stop::Unsure);
            }
            return match Forms::small_integer(x) {
                Some(n) if n <= 525 => Ok(Form::constant(Rational::integer(integer::factorial(n, self.budget)?))),
                _ => self.atom(Generator::Opaque(whole.clone())),
            };
        }
        let shift = match x.num.0.first() {
            Some((monomial, value)) if monomial.is_empty() && x.den.is_one() => value.as_i64().unwrap_or(0),
            _ => 0,
        };
        if shift == 0 || shift.abs() > SHIFT_MAX {
            return self.call(Function::Factorial, vec![x.clone()]);
        }
        let base = self.sub(x, &Form::integer(shift))?;
        let mut value = self.call(Function::Factorial, vec![base.clone()])?;
        for step in 0..shift.abs() {
            let factor = if shift > 0 { step + 1 } else { -step };
            let factor = self.add(&base, &Form::integer(factor))?;
            value = if shift > 0 { self.mul(&value, &factor)? } else { self.div(&value, &factor)? };
        }
        Ok(value)
    }

    fn binomial(&mut self, n: &Form, k: &Form, whole: &Expr) -> Result<Form, Stop> {
        if let (Some(n), Some(k)) = (n.as_rational(), k.as_rational()) {
            if !n.is_integer() || !k.is_integer() {
                return Err(Stop::Unsure);
            }
            return match integer::binomial(&n.parts().0, &k.parts().0, self.budget) {
                Ok(value) => Ok(Form::constant(Rational::integer(value))),
                Err(Stop::Unsure) if !n.is_negative() => self.atom(Generator::Opaque(whole.clone())),
                Err(stop) => Err(stop),
            };
        }
        if let Some(few) = Forms::small_integer(k).filter(|few| *few <= 16) {
            let mut value = Form::integer(1);
            for index in 0..i64::from(few) {
                let factor = self.sub(n, &Form::integer(index))?;
                value = self.mul(&value, &factor.scale(&Rational::new(1, index + 1)))?;
            }
            return Ok(value);
        }
        let rest = self.sub(n, k)?;
        let over = self.factorial(n, whole)?;
        let (left, right) = (self.factorial(k, whole)?, self.factorial(&rest, whole)?);
        let under = self.mul(&left, &right)?;
        self.div(&over, &under)
    }

    fn divisors(&mut self, function: &Function, forms: Vec<Form>) -> Result<Form, Stop> {
        let mut numbers = Vec::with_capacity(forms.len());
        for form in &forms {
            match form.as_rational() {
                Some(value) if value.is_integer() => numbers.push(value),
                Some(_) => return Err(Stop::Unsure),
                None => return self.call(function.clone(), sorted(forms)),
            }
        }
        let mut result: Option<BigInt> = None;
        for value in numbers {
            self.spend(value.words() * value.words())?;
            let value = value.parts().0.abs();
            result = Some(match result {
                None => value,
                Some(known) if *function == Function::Gcd => known.gcd(&value),
                Some(known) => known.lcm(&value),
            });
            if result.as_ref().is_some_and(|value| value.bits() > super::poly::BITS_MAX) {
                return Err(Stop::Unsure);
            }
        }
        Ok(Form::constant(Rational::integer(result.ok_or(Stop::Unsure)?)))
    }

    fn extreme(&mut self, function: &Function, forms: Vec<Form>) -> Result<Form, Stop> {
        if !forms.iter().all(|form| self.is_number_form(form)) {
            return self.call(function.clone(), sorted(forms));
        }
        let mut forms = forms.into_iter();
        let mut best = forms.next().ok_or(Stop::Unsure)?;
        for form in forms {
            let difference = self.sub(&form, &best)?;
            let order = match difference.as_rational() {
                Some(value) => value.compare(&Rational::ZERO),
                None => constant::sign_of(&self.form_expr(&difference), self.budget).ok_or(Stop::Unsure)?,
            };
            let wanted = if *function == Function::Max { Ordering::Greater } else { Ordering::Less };
            if order == wanted {
                best = form;
            }
        }
        Ok(best)
    }

    fn remainder(&mut self, dividend: &Expr, divisor: &Expr) -> Result<Form, Stop> {
        let modulus = self.form(divisor)?;
        if let Some(value) = modulus.as_rational().filter(|value| value.is_integer()) {
            let modulus = value.parts().0;
            if !modulus.is_positive() {
                return if modulus.is_zero() { Err(Stop::DivisionByZero) } else { Err(Stop::Unsure) };
            }
            if let Some(rest) = self.residue(dividend, &modulus)? {
                return Ok(Form::constant(Rational::integer(rest)));
            }
        }
        let dividend = self.form(dividend)?;
        self.call(Function::Mod, vec![dividend, modulus])
    }

    /// The remainder of an expression of integers, without its value; `None` where it is not one.
    fn residue(&mut self, expr: &Expr, modulus: &BigInt) -> Result<Option<BigInt>, Stop> {
        self.spend(2 + modulus.bits() / 64)?;
        match expr {
            Expr::Number(value) if value.is_integer() => Ok(Some(value.numer().mod_floor(modulus))),
            Expr::Sum(terms) | Expr::Product(terms) => {
                let is_sum = matches!(expr, Expr::Sum(_));
                let mut total = if is_sum { BigInt::zero() } else { BigInt::one() };
                for term in terms {
                    let Some(rest) = self.residue(term, modulus)? else { return Ok(None) };
                    total = if is_sum { total + rest } else { total * rest }.mod_floor(modulus);
                }
                Ok(Some(total.mod_floor(modulus)))
            }
            Expr::Power(base, exponent) => {
                let Some(base) = self.residue(base, modulus)? else { return Ok(None) };
                let exponent = self.form(exponent)?.as_rational();
                match exponent {
                    Some(exponent) if exponent.is_integer() && !exponent.is_negative() && !exponent.is_zero() => {
                        Ok(Some(integer::power_mod(&base, &exponent.parts().0, modulus, self.budget)?))
                    }
                    _ => Ok(None),
                }
            }
            Expr::Call(Function::Factorial | Function::Binomial, _) => {
                let value = self.form(expr)?.as_rational();
                Ok(value.map(|value| value.parts().0.mod_floor(modulus)))
            }
            _ => Ok(None),
        }
    }
}

/// Arguments whose order does not matter, in an order that depends on them alone.
fn sorted(mut forms: Vec<Form>) -> Vec<Form> {
    forms.sort_by(|one, other| {
        let terms = |one: &Poly, other: &Poly| {
            let by_term = one.0.iter().zip(&other.0).map(|(a, b)| a.0.cmp(&b.0).then(a.1.compare(&b.1)));
            by_term.fold(one.0.len().cmp(&other.0.len()), Ordering::then)
        };
        terms(&one.num, &other.num).then(terms(&one.den, &other.den))
    });
    forms
}
