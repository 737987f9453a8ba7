//! Powers and roots of forms.
//!
//! Symbols stand for real numbers, and an even root is taken to have a radicand that is not negative:
//! `√(xy) = √x √y` wherever both are real. `√(x²)` is `|x|`.

use num_bigint::BigInt;
use num_rational::Ratio;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::Stop;
use super::form::{Base, Form, Forms, Generator, integer_power};
use super::integer;
use super::poly::{self, BITS_MAX, Exponent, GeneratorId, Monomial, Poly};
use super::rational::Rational;
use crate::verify::expr::{Expr, Function};

impl Forms<'_> {
    /// `base^exponent`; `whole` is the power as written, for those that are too long to be evaluated.
    pub(super) fn power_of(&mut self, base: &Expr, exponent: &Form, whole: &Expr) -> Result<Form, Stop> {
        let base = self.form(base)?;
        let Some(rational) = exponent.as_rational() else {
            return self.symbolic_power(&base, exponent);
        };
        if !rational.is_integer() {
            return self.rational_power(&base, poly::exponent(&rational)?, false);
        }
        if let Some(value) = base.as_rational()
            && !value.is_zero()
            && !value.abs().is_one()
        {
            let size = rational.as_i64().map_or(u64::MAX, i64::unsigned_abs);
            if value.bits().saturating_sub(1).max(1).saturating_mul(size) > BITS_MAX {
                return self.atom(Generator::Opaque(whole.clone()));
            }
        }
        match rational.as_i64() {
            Some(exponent) => self.pow(&base, exponent),
            None => {
                let even = (rational.parts().0 % 2_u8).is_zero();
                match base.as_rational().and_then(|value| value.as_i64()) {
                    Some(1) => Ok(Form::integer(1)),
                    Some(-1) => Ok(Form::integer(if even { 1 } else { -1 })),
                    Some(0) if rational.is_negative() => Err(Stop::DivisionByZero),
                    Some(0) => Ok(Form::integer(0)),
                    _ => Err(Stop::Unsure),
                }
            }
        }
    }

    /// A rational power. Odd roots of negative numbers are real if `real`, otherwise not known.
    pub(super) fn rational_power(&mut self, base: &Form, exponent: Exponent, real: bool) -> Result<Form, Stop> {
        if exponent.is_integer() {
            return self.pow(base, exponent.to_integer());
        }
        if base.is_zero() {
            return if exponent.is_positive() { Ok(Form::integer(0)) } else { Err(Stop::DivisionByZero) };
        }
        let number = self.is_number_form(base);
        if number && !self.is_real_form(base) {
            // A branch cut is in the way of taking anything else apart.
            return self.imaginary_power(base, exponent);
        }
        let num = self.root_poly(&base.num, exponent, real, number)?;
        if base.den.is_one() {
            return Ok(num);
        }
        let den = self.root_poly(&base.den, exponent, real, number)?;
        self.div(&num, &den)
    }

    /// The principal power of `c i`, for a real `c` made of rationals, roots, pi and e.
    fn imaginary_power(&mut self, base: &Form, exponent: Exponent) -> Result<Form, Stop> {
        let Some((monomial, value)) = base.as_term() else { return Err(Stop::Unsure) };
        let i = |id: GeneratorId| self.generators[id as usize] == Generator::Imaginary;
        let rest: Monomial = monomial.iter().copied().filter(|(id, _)| !i(*id)).collect();
        let positive = |id: GeneratorId| {
            matches!(self.generators[id as usize], Generator::Pi | Generator::Euler | Generator::Prime(..))
        };
        if rest.len() + 1 != monomial.len() || !rest.iter().all(|(id, _)| positive(*id)) {
            return Err(Stop::Unsure);
        }
        let quarter = exponent / 2;
        let angle = if value.is_negative() { -quarter } else { quarter };
        let size = Form::from_poly(Poly::term(rest, value.abs()));
        let size = self.rational_power(&size, exponent, true)?;
        let turn = self.turn(angle)?;
        self.mul(&size, &turn)
    }

    /// Whether a number is visibly real.
    fn is_real_form(&self, form: &Form) -> bool {
        let real = |poly: &Poly| {
            poly.0.iter().flat_map(|(monomial, _)| monomial).all(|(id, _)| match &self.generators[*id as usize] {
                Generator::Pi | Generator::Euler | Generator::Prime(..) | Generator::Radical(_) => true,
                Generator::Power(Base::Generator(_), exponent) => self.is_real_form(exponent),
                Generator::Call(_, arguments) => arguments.iter().all(|argument| self.is_real_form(argument)),
                _ => false,
            })
        };
        real(&form.num) && real(&form.den)
    }

    /// A power of a polynomial with an exponent that is not whole.
    fn root_poly(&mut self, base: &Poly, exponent: Exponent, real: bool, number: bool) -> Result<Form, Stop> {
        if let [(monomial, value)] = base.0.as_slice() {
            let mut power = self.number_power(value, exponent, real)?;
            for (id, each) in monomial {
                let factor = self.generator_power(*id, *each, exponent)?;
                power = self.mul(&power, &factor)?;
            }
            return Ok(power);
        }
        self.spend(2 * base.cost())?;
        let content = base.content();
        let mut primitive = base.scale(&content.recip().ok_or(Stop::Unsure)?);
        let mut content = content;
        if number {
            let expr = self.poly_expr(&primitive);
            match super::constant::sign_of(&expr, self.budget) {
                Some(std::cmp::Ordering::Greater) => {}
                Some(std::cmp::Ordering::Less) => {
                    primitive = primitive.neg();
                    content = content.neg();
                }
                _ => return Err(Stop::Unsure),
            }
        }
        let outside = self.number_power(&content, exponent, real)?;
        let id = self.generator(Generator::Radical(primitive))?;
        let inside = self.monomial_form(Forms::single(id, exponent), &Rational::ONE)?;
        self.mul(&outside, &inside)
    }

    /// A power of a rational number that is not zero, as roots of primes.
    pub(super) fn number_power(&mut self, value: &Rational, exponent: Exponent, real: bool) -> Result<Form, Stop> {
        let (over, under) = value.abs().parts();
        let mut power = Form::integer(1);
        for (part, exponent) in [(over, exponent), (under, -exponent)] {
            if part.is_one() {
                continue;
            }
            let mut factor = Rational::ONE;
            let mut monomial = Monomial::new();
            for (prime, times, proven) in integer::factors(&part, self.budget)? {
                let exponent = poly::mul_exponents(exponent, Ratio::from_integer(i64::from(times)))?;
                if exponent.is_integer() {
                    let whole = integer_power(&Rational::integer(prime), exponent.to_integer())?;
                    factor = factor.mul(&whole);
                } else {
                    monomial.push((self.generator(Generator::Prime(prime, proven))?, exponent));
                }
            }
            monomial.sort_unstable();
            let part = self.monomial_form(monomial, &factor)?;
            power = self.mul(&power, &part)?;
        }
        if value.is_negative() {
            let turn = match (exponent.denom() % 2 == 0, real) {
                (false, true) => Form::integer(if exponent.numer() % 2 == 0 { 1 } else { -1 }),
                // The principal value is complex, but a cube root of a negative number may well be meant as real.
                (false, false) => return Err(Stop::Unsure),
                (true, _) => self.turn(exponent)?,
            };
            power = self.mul(&power, &turn)?;
        }
        Ok(power)
    }

    /// `e^{i pi c}`.
    pub(super) fn turn(&mut self, c: Exponent) -> Result<Form, Stop> {
        let cos = self.cos_of_turn(c)?;
        let sin = self.cos_of_turn(poly::add_exponents(Ratio::new(1, 2), -c)?)?;
        let i = self.atom(Generator::Imaginary)?;
        let imaginary = self.mul(&i, &sin)?;
        self.add(&cos, &imaginary)
    }

    /// `(g^each)^exponent` of one generator.
    fn generator_power(&mut self, id: GeneratorId, each: Exponent, exponent: Exponent) -> Result<Form, Stop> {
        let product = poly::mul_exponents(each, exponent)?;
        // Powers that are not negative whatever the sign of the generator.
        let even = |value: &Exponent| value.numer() % 2 == 0 && value.denom() % 2 == 1;
        let loses_sign = even(&each) && exponent.denom() % 2 == 0 && !even(&product);
        match &self.generators[id as usize] {
            // (-1)^(1/4) and the like are met as numbers only.
            Generator::Imaginary | Generator::Opaque(_) | Generator::Power(Base::MinusOne, _) => {
                return Err(Stop::Unsure);
            }
            Generator::Radical(radicand) if loses_sign && !self.is_number(radicand) => return Err(Stop::Unsure),
            Generator::Symbol(_) | Generator::Call(..) if loses_sign => {
                let base = self.atom_of(id, Exponent::one());
                let size = self.absolute(&base)?;
                let Some((monomial, value)) = size.as_term() else { return Err(Stop::Unsure) };
                if !value.is_one() {
                    return Err(Stop::Unsure);
                }
                let mut power = Monomial::new();
                for (id, each) in monomial {
                    power.push((*id, poly::mul_exponents(*each, product)?));
                }
                return self.monomial_form(power, &Rational::ONE);
            }
            Generator::Call(..) => {
                // A number that may be negative, where taking the power apart could leave the principal branch.
                let expr = self.form_expr(&self.atom_of(id, Exponent::one()));
                if self.is_number_form(&self.atom_of(id, Exponent::one()))
                    && super::constant::sign_of(&expr, self.budget) != Some(std::cmp::Ordering::Greater)
                {
                    return Err(Stop::Unsure);
                }
            }
            _ => {}
        }
        self.monomial_form(Forms::single(id, product), &Rational::ONE)
    }

    /// A power whose exponent is not a rational number: `b^{s+t} = b^s b^t`, `b^{c m} = (b^m)^c` for a rational `c`.
    pub(super) fn symbolic_power(&mut self, base: &Form, exponent: &Form) -> Result<Form, Stop> {
        if base.is_zero() {
            return Err(Stop::Unsure);
        }
        if base.as_rational().is_some_and(|value| value.is_one()) {
            return Ok(Form::integer(1));
        }
        if !exponent.den.is_one() {
            self.spend(2 * exponent.num.cost())?;
            let content = exponent.num.content();
            let lead = exponent.num.0.last().is_some_and(|(_, value)| value.is_negative());
            let factor = if lead { content.neg() } else { content };
            let unit = exponent.scale(&factor.recip().ok_or(Stop::Unsure)?);
            return self.unit_power(base, &unit, &factor);
        }
        let mut power = Form::integer(1);
        for (monomial, factor) in &exponent.num.0 {
            let each = if monomial.is_empty() {
                let exponent = poly::exponent(factor)?;
                self.rational_power(base, exponent, false)?
            } else {
                let unit = Form::from_poly(Poly::term(monomial.clone(), Rational::ONE));
                self.unit_power(base, &unit, factor)?
            };
            power = self.mul(&power, &each)?;
        }
        Ok(power)
    }

    /// `(base^unit)^factor`.
    fn unit_power(&mut self, base: &Form, unit: &Form, factor: &Rational) -> Result<Form, Stop> {
        let over = self.unit_power_poly(&base.num, unit, factor)?;
        if base.den.is_one() {
            return Ok(over);
        }
        let under = self.unit_power_poly(&base.den, unit, factor)?;
        self.div(&over, &under)
    }

    fn unit_power_poly(&mut self, base: &Poly, unit: &Form, factor: &Rational) -> Result<Form, Stop> {
        let exponent = poly::exponent(factor)?;
        let [(monomial, value)] = base.0.as_slice() else {
            if self.is_number(base) {
                let expr = self.poly_expr(base);
                if super::constant::sign_of(&expr, self.budget) != Some(std::cmp::Ordering::Greater) {
                    return Err(Stop::Unsure);
                }
            }
            self.spend(2 * base.cost())?;
            let content = base.content();
            let outside = self.unit_power_poly(&Poly::constant(content.clone()), unit, factor)?;
            let primitive = base.scale(&content.recip().ok_or(Stop::Unsure)?);
            let inside = self.power_atom(Base::Poly(primitive), unit, exponent)?;
            return self.mul(&outside, &inside);
        };
        let mut power = Form::integer(1);
        if value.is_negative() {
            if self.is_number_form(unit) {
                return Err(Stop::Unsure);
            }
            power = self.power_atom(Base::MinusOne, unit, exponent)?;
        }
        let (over, under) = value.abs().parts();
        for (part, exponent) in [(over, exponent), (under, -exponent)] {
            for (prime, times, proven) in self.factors_of(&part)? {
                let id = self.generator(Generator::Prime(prime, proven))?;
                let exponent = poly::mul_exponents(exponent, Ratio::from_integer(i64::from(times)))?;
                let factor = self.power_atom(Base::Generator(id), unit, exponent)?;
                power = self.mul(&power, &factor)?;
            }
        }
        for (id, each) in monomial {
            let exponent = poly::mul_exponents(*each, exponent)?;
            let known = self.generators[*id as usize].clone();
            let each = match known {
                Generator::Imaginary | Generator::Opaque(_) => return Err(Stop::Unsure),
                Generator::Euler => self.exponential(unit, exponent)?,
                // (b^s)^t = b^{st} of a positive b and real s.
                Generator::Power(base, inner) if base != Base::MinusOne && self.may_multiply(&inner) => {
                    let product = self.mul(&inner, unit)?;
                    let product = product.scale(&Rational::new(*exponent.numer(), *exponent.denom()));
                    let base = match base {
                        Base::Generator(id) => self.atom_of(id, Exponent::one()),
                        Base::Poly(poly) => Form::from_poly(poly),
                        Base::MinusOne => return Err(Stop::Unsure),
                    };
                    self.symbolic_power(&base, &product)?
                }
                Generator::Power(..) => return Err(Stop::Unsure),
                Generator::Call(..) | Generator::Radical(_) => {
                    let base = self.atom_of(*id, Exponent::one());
                    if self.is_number_form(&base) {
                        let expr = self.form_expr(&base);
                        if super::constant::sign_of(&expr, self.budget) != Some(std::cmp::Ordering::Greater) {
                            return Err(Stop::Unsure);
                        }
                    }
                    self.power_atom(Base::Generator(*id), unit, exponent)?
                }
                _ => self.power_atom(Base::Generator(*id), unit, exponent)?,
            };
            power = self.mul(&power, &each)?;
        }
        Ok(power)
    }

    fn factors_of(&mut self, value: &BigInt) -> Result<Vec<integer::Factor>, Stop> {
        if value.is_one() { Ok(Vec::new()) } else { integer::factors(value, self.budget) }
    }

    /// Whether an exponent has no imaginary unit at any depth that is looked at.
    fn may_multiply(&self, exponent: &Form) -> bool {
        exponent.den.is_one()
            && exponent.num.0.iter().flat_map(|(monomial, _)| monomial).all(|(id, _)| {
                matches!(
                    self.generators[*id as usize],
                    Generator::Symbol(_) | Generator::Pi | Generator::Euler | Generator::Prime(..)
                )
            })
    }

    /// `(e^unit)^exponent`, where the exponent may be a logarithm or a rational multiple of `i pi`.
    fn exponential(&mut self, unit: &Form, exponent: Exponent) -> Result<Form, Stop> {
        if let Some((monomial, value)) = unit.as_term()
            && value.is_one()
        {
            if let [(a, ea), (b, eb)] = monomial.as_slice()
                && ea.is_one()
                && eb.is_one()
            {
                let pair = (&self.generators[*a as usize], &self.generators[*b as usize]);
                if matches!(pair, (Generator::Imaginary, Generator::Pi) | (Generator::Pi, Generator::Imaginary)) {
                    return self.turn(exponent);
                }
            }
            let logarithm = monomial.iter().position(|(id, each)| {
                each.is_one() && matches!(&self.generators[*id as usize], Generator::Call(Function::Ln, _))
            });
            if let Some(position) = logarithm {
                let (id, _) = monomial[position];
                let mut rest = monomial.clone();
                rest.remove(position);
                if let Generator::Call(_, arguments) = self.generators[id as usize].clone()
                    && let Some(inside) = arguments.into_iter().next()
                {
                    let factor = Rational::new(*exponent.numer(), *exponent.denom());
                    let exponent = Form::from_poly(Poly::term(rest, factor));
                    return match exponent.as_rational() {
                        Some(value) => self.rational_power(&inside, poly::exponent(&value)?, false),
                        None => self.symbolic_power(&inside, &exponent),
                    };
                }
            }
        }
        let id = self.generator(Generator::Euler)?;
        self.power_atom(Base::Generator(id), unit, exponent)
    }

    /// The generator `base^unit` with an exponent.
    fn power_atom(&mut self, base: Base, unit: &Form, exponent: Exponent) -> Result<Form, Stop> {
        let mut found = None;
        for index in 0..self.generators.len() {
            let known = match &self.generators[index] {
                Generator::Power(known, other) if *known == base => other.clone(),
                _ => continue,
            };
            if self.equal(&known, unit)? {
                found = Some(index as GeneratorId);
                break;
            }
        }
        let id = match found {
            Some(id) => id,
            None => self.generator(Generator::Power(base, unit.clone()))?,
        };
        self.monomial_form(Forms::single(id, exponent), &Rational::ONE)
    }

    /// `e` to the power of a form.
    pub(super) fn exp(&mut self, exponent: &Form) -> Result<Form, Stop> {
        let base = self.atom(Generator::Euler)?;
        match exponent.as_rational() {
            Some(value) if value.is_zero() => Ok(Form::integer(1)),
            Some(value) => {
                let exponent = poly::exponent(&value)?;
                let id = self.generator(Generator::Euler)?;
                self.monomial_form(Forms::single(id, exponent), &Rational::ONE)
            }
            None => self.symbolic_power(&base, exponent),
        }
    }

    /// The integer, if the form is one that fits in a word.
    pub(super) fn small_integer(form: &Form) -> Option<u32> {
        form.as_rational()?.as_i64()?.to_u32()
    }
}
