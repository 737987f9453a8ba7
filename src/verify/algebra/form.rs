//! The normal form: a quotient of two polynomials in generators, each kept free of the relations it satisfies.
//!
//! Two forms are equal if the difference of their cross products is the empty sum. Relations that are used: `i² = -1`,
//! prime powers below exponent one, radicals below exponent one, `(-1)^n` to even exponents. Exponents may be negative,
//! so that a denominator of one term is folded into the numerator.

use std::collections::HashMap;

use num_bigint::BigInt;
use num_rational::Ratio;
use num_traits::{One, ToPrimitive, Zero};

use super::Stop;
use super::poly::{self, BITS_MAX, Exponent, GeneratorId, Monomial, Poly};
use super::rational::Rational;
use crate::verify::budget::Budget;
use crate::verify::expr::{Expr, Function};

/// What monomials are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Generator {
    Imaginary,
    Pi,
    Euler,
    /// An integer above one under a radical, and whether it is proven to be prime.
    Prime(BigInt, bool),
    Symbol(String),
    /// A sum; exponents are in `0..1`.
    Radical(Poly),
    /// A power whose exponent is not rational.
    Power(Base, Form),
    /// A function without a known value at these arguments.
    Call(Function, Vec<Form>),
    /// A power of integers that is too long to be evaluated, or a large factorial: equal to itself only.
    Opaque(Expr),
}

/// Bases of powers whose exponent is not rational.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    MinusOne,
    Generator(GeneratorId),
    Poly(Poly),
}

/// Numerator and denominator; the denominator is not zero, and one if it has a single term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) num: Poly,
    pub(super) den: Poly,
}

impl Form {
    pub(super) fn from_poly(num: Poly) -> Form {
        Form { num, den: Poly::one() }
    }

    pub(super) fn constant(value: Rational) -> Form {
        Form::from_poly(Poly::constant(value))
    }

    pub(super) fn integer(value: i64) -> Form {
        Form::constant(Rational::new(value, 1))
    }

    pub(super) fn is_zero(&self) -> bool {
        self.num.is_zero()
    }

    /// The value, if it is visibly rational.
    pub(super) fn as_rational(&self) -> Option<Rational> {
        if self.den.is_one() { self.num.as_rational() } else { None }
    }

    pub(super) fn neg(&self) -> Form {
        Form { num: self.num.neg(), den: self.den.clone() }
    }

    pub(super) fn scale(&self, factor: &Rational) -> Form {
        if factor.is_zero() {
            return Form::integer(0);
        }
        Form { num: self.num.scale(factor), den: self.den.clone() }
    }

    /// The only term, if the form is one term.
    pub(super) fn as_term(&self) -> Option<(&Monomial, &Rational)> {
        match self.num.0.as_slice() {
            [(monomial, value)] if self.den.is_one() => Some((monomial, value)),
            _ => None,
        }
    }
}

/// The generators of one comparison, and the budget that all work on its forms is paid from.
#[derive(Debug)]
pub(super) struct Forms<'b> {
    pub(super) generators: Vec<Generator>,
    symbols: HashMap<String, GeneratorId>,
    pub(super) budget: &'b mut Budget,
    pub(super) depth: u32,
}

impl<'b> Forms<'b> {
    pub(super) fn new(budget: &'b mut Budget) -> Forms<'b> {
        Forms { generators: Vec::new(), symbols: HashMap::new(), budget, depth: 0 }
    }

    /// Pays for work before it is done.
    pub(super) fn spend(&mut self, steps: u64) -> Result<(), Stop> {
        self.budget.spend(steps).map_err(Stop::from)
    }

    /// The generator, known or new. Those that hold forms are compared by [`Forms::call`] and its like.
    pub(super) fn generator(&mut self, generator: Generator) -> Result<GeneratorId, Stop> {
        self.spend(1 + self.generators.len() as u64 / 16)?;
        if let Some(index) = self.generators.iter().position(|known| *known == generator) {
            return Ok(index as GeneratorId);
        }
        self.generators.push(generator);
        Ok((self.generators.len() - 1) as GeneratorId)
    }

    /// A symbol as a form.
    pub(super) fn symbol(&mut self, name: &str) -> Result<Form, Stop> {
        self.spend(2)?;
        if let Some(id) = self.symbols.get(name) {
            return Ok(self.atom_of(*id, Exponent::one()));
        }
        let id = self.generators.len() as GeneratorId;
        self.generators.push(Generator::Symbol(name.to_string()));
        self.symbols.insert(name.to_string(), id);
        Ok(self.atom_of(id, Exponent::one()))
    }

    /// The generator as a form.
    pub(super) fn atom(&mut self, generator: Generator) -> Result<Form, Stop> {
        let id = self.generator(generator)?;
        Ok(Form::from_poly(Poly::term(vec![(id, Exponent::one())], Rational::ONE)))
    }

    /// A function of forms that stays as it is: the generator of equal arguments where there is one.
    pub(super) fn call(&mut self, function: Function, arguments: Vec<Form>) -> Result<Form, Stop> {
        for index in 0..self.generators.len() {
            let known = match &self.generators[index] {
                Generator::Call(known, others) if *known == function && others.len() == arguments.len() => {
                    others.clone()
                }
                _ => continue,
            };
            if self.all_equal(&known, &arguments)? {
                return Ok(self.atom_of(index as GeneratorId, Exponent::one()));
            }
        }
        self.atom(Generator::Call(function, arguments))
    }

    fn all_equal(&mut self, one: &[Form], other: &[Form]) -> Result<bool, Stop> {
        for (one, other) in one.iter().zip(other) {
            if !self.equal(one, other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A known generator with an exponent that needs no reduction.
    pub(super) fn atom_of(&self, id: GeneratorId, exponent: Exponent) -> Form {
        if let Generator::Prime(value, _) = &self.generators[id as usize]
            && exponent.is_one()
        {
            return Form::constant(Rational::integer(value.clone()));
        }
        Form::from_poly(Poly::term(vec![(id, exponent)], Rational::ONE))
    }

    /// Whether the forms are equal as quotients of polynomials.
    pub(super) fn equal(&mut self, one: &Form, other: &Form) -> Result<bool, Stop> {
        self.spend(one.num.0.len() as u64 + 1)?;
        if one.den == other.den {
            return Ok(one.num == other.num);
        }
        Ok(self.difference(one, other)?.is_zero())
    }

    /// `P1 Q2 - P2 Q1`: zero exactly where the forms are equal.
    pub(super) fn difference(&mut self, one: &Form, other: &Form) -> Result<Poly, Stop> {
        if one.den == other.den {
            return self.add_poly(&one.num, &other.num.neg());
        }
        let left = self.mul_poly(&one.num, &other.den)?;
        let right = self.mul_poly(&other.num, &one.den)?;
        self.add_poly(&left, &right.neg())
    }

    pub(super) fn add_poly(&mut self, one: &Poly, other: &Poly) -> Result<Poly, Stop> {
        self.spend(one.cost() + other.cost())?;
        let mut terms = Vec::with_capacity(one.0.len() + other.0.len());
        terms.extend(one.0.iter().cloned());
        terms.extend(other.0.iter().cloned());
        Poly::collect(terms)
    }

    pub(super) fn mul_poly(&mut self, one: &Poly, other: &Poly) -> Result<Poly, Stop> {
        let (left, right) = (one.0.len() as u64, other.0.len() as u64);
        self.spend(left.saturating_mul(other.cost()).saturating_add(right.saturating_mul(one.cost())))?;
        if let Some(factor) = one.as_rational() {
            return bounded(if factor.is_zero() { Poly::default() } else { other.scale(&factor) });
        }
        if let Some(factor) = other.as_rational() {
            return bounded(if factor.is_zero() { Poly::default() } else { one.scale(&factor) });
        }
        let mut terms = Vec::with_capacity(one.0.len() * other.0.len());
        let mut rest = Poly::default();
        for (left, a) in &one.0 {
            for (right, b) in &other.0 {
                let product = a.mul(b);
                let (monomial, factor, extra) = self.reduce(poly::merge(left, right)?)?;
                let product = if factor.is_one() { product } else { product.mul(&factor) };
                if extra.is_empty() {
                    terms.push((monomial, product));
                } else {
                    let mut expanded = Poly::term(monomial, product);
                    for (radicand, power) in extra {
                        let power = u32::try_from(power).map_err(|_| Stop::Unsure)?;
                        let radicand = self.pow_poly(&radicand, power)?;
                        expanded = self.mul_poly(&expanded, &radicand)?;
                    }
                    rest = self.add_poly(&rest, &expanded)?;
                }
            }
        }
        let product = Poly::collect(terms)?;
        if rest.is_zero() { Ok(product) } else { self.add_poly(&product, &rest) }
    }

    /// Applies the relations of generators: the reduced monomial, a rational factor, and radicands with whole powers
    /// (negative ones only where a monomial had negative exponents).
    #[allow(clippy::type_complexity, reason = "read in two places, next to this one")]
    pub(super) fn reduce(&self, mut monomial: Monomial) -> Result<(Monomial, Rational, Vec<(Poly, i64)>), Stop> {
        let mut factor = Rational::ONE;
        let mut extra = Vec::new();
        let mut changed = false;
        for (id, exponent) in &mut monomial {
            match &self.generators[*id as usize] {
                Generator::Imaginary => {
                    // Exponents of i are whole: roots of it are taken elsewhere.
                    let power = exponent.to_integer().rem_euclid(4);
                    if power >= 2 {
                        factor = factor.neg();
                    }
                    *exponent = Ratio::from_integer(power % 2);
                    changed |= power != 1;
                }
                Generator::Prime(value, _) => {
                    let whole = exponent.floor();
                    if !whole.is_zero() {
                        *exponent -= whole;
                        changed = true;
                        factor = factor.mul(&integer_power(&Rational::integer(value.clone()), whole.to_integer())?);
                    }
                }
                Generator::Radical(radicand) => {
                    let whole = exponent.floor();
                    if !whole.is_zero() {
                        *exponent -= whole;
                        changed = true;
                        extra.push((radicand.clone(), whole.to_integer()));
                    }
                }
                Generator::Power(Base::MinusOne, _) if exponent.is_integer() => {
                    let power = exponent.to_integer().rem_euclid(2);
                    changed |= power != exponent.to_integer();
                    *exponent = Ratio::from_integer(power);
                }
                _ => {}
            }
        }
        if changed {
            monomial.retain(|(_, exponent)| !exponent.is_zero());
        }
        Ok((monomial, factor, extra))
    }

    /// The form of a monomial whose exponents are outside the ranges of its generators.
    pub(super) fn monomial_form(&mut self, monomial: Monomial, coefficient: &Rational) -> Result<Form, Stop> {
        let (monomial, factor, extra) = self.reduce(monomial)?;
        let mut num = bounded(Poly::term(monomial, coefficient.mul(&factor)))?;
        let mut den = Poly::one();
        for (radicand, power) in extra {
            let size = u32::try_from(power.unsigned_abs()).map_err(|_| Stop::Unsure)?;
            let radicand = self.pow_poly(&radicand, size)?;
            let side = if power > 0 { &mut num } else { &mut den };
            *side = self.mul_poly(side, &radicand)?;
        }
        self.quotient(num, den)
    }

    /// A natural power. Paid for term by term as it grows, never beyond the budget.
    pub(super) fn pow_poly(&mut self, base: &Poly, exponent: u32) -> Result<Poly, Stop> {
        if let Some(value) = base.as_rational() {
            return Ok(Poly::constant(integer_power(&value, i64::from(exponent))?));
        }
        // A sum of two terms or more to the n-th power has at least n + 1 terms, unless relations shorten it; its
        // coefficients then grow all the same.
        if base.0.len() > 1 && u64::from(exponent) > BITS_MAX {
            return Err(Stop::Unsure);
        }
        if exponent > 1 {
            // Powers of integers need no common divisors.
            self.spend(base.cost())?;
            let content = base.content();
            if !content.is_one() {
                let outside = integer_power(&content, i64::from(exponent))?;
                let primitive = base.scale(&content.recip().ok_or(Stop::Unsure)?);
                let inside = self.pow_poly(&primitive, exponent)?;
                return self.mul_poly(&Poly::constant(outside), &inside);
            }
        }
        let mut power = Poly::one();
        let mut square = base.clone();
        let mut left = exponent;
        while left > 0 {
            if left & 1 == 1 {
                power = self.mul_poly(&power, &square)?;
            }
            left >>= 1;
            if left > 0 {
                square = self.mul_poly(&square, &square)?;
            }
        }
        Ok(power)
    }

    /// Numerator over denominator, simplified where that is cheap. The denominator is not the empty sum.
    pub(super) fn quotient(&mut self, num: Poly, den: Poly) -> Result<Form, Stop> {
        if den.is_one() {
            return Ok(Form { num, den });
        }
        if num.is_zero() {
            return Ok(Form::integer(0));
        }
        self.spend(num.cost() + den.cost())?;
        if let [(monomial, value)] = den.0.as_slice() {
            let inverse = monomial.iter().map(|(id, exponent)| (*id, -exponent)).collect();
            let value = value.recip().ok_or(Stop::DivisionByZero)?;
            let inverse = self.monomial_form(inverse, &value)?;
            let num = self.mul_poly(&num, &inverse.num)?;
            return Ok(Form { num, den: inverse.den });
        }
        if let Some(value) = num.ratio(&den) {
            return Ok(Form::constant(value));
        }
        if let Some(form) = self.rationalised(&num, &den)? {
            return Ok(form);
        }
        let Some(lead) = den.0.last().and_then(|(_, value)| value.recip()) else { return Err(Stop::DivisionByZero) };
        Ok(Form { num: bounded(num.scale(&lead))?, den: bounded(den.scale(&lead))? })
    }

    /// The quotient with a rational denominator, where the denominator is a sum of square roots of integers and `i`:
    /// both are multiplied by its conjugates, one generator after the other.
    fn rationalised(&mut self, num: &Poly, den: &Poly) -> Result<Option<Form>, Stop> {
        let half = Ratio::new(1, 2);
        let mut roots: Vec<GeneratorId> = Vec::new();
        for (id, exponent) in den.0.iter().flat_map(|(monomial, _)| monomial) {
            match &self.generators[*id as usize] {
                Generator::Imaginary => {}
                Generator::Prime(_, true) if *exponent == half => {}
                _ => return Ok(None),
            }
            if !roots.contains(id) {
                roots.push(*id);
            }
        }
        if roots.len() > 3 {
            return Ok(None);
        }
        let (mut num, mut den) = (num.clone(), den.clone());
        for root in roots {
            let mut conjugate = den.clone();
            for (monomial, value) in &mut conjugate.0 {
                if monomial.iter().any(|(id, _)| *id == root) {
                    *value = value.neg();
                }
            }
            if conjugate == den {
                continue;
            }
            num = self.mul_poly(&num, &conjugate)?;
            den = self.mul_poly(&den, &conjugate)?;
        }
        let Some(value) = den.as_rational().and_then(|value| value.recip()) else { return Ok(None) };
        Ok(Some(Form::from_poly(bounded(num.scale(&value))?)))
    }

    pub(super) fn add(&mut self, one: &Form, other: &Form) -> Result<Form, Stop> {
        if one.den == other.den {
            let num = self.add_poly(&one.num, &other.num)?;
            return self.quotient(num, one.den.clone());
        }
        let left = self.mul_poly(&one.num, &other.den)?;
        let right = self.mul_poly(&other.num, &one.den)?;
        let num = self.add_poly(&left, &right)?;
        let den = self.mul_poly(&one.den, &other.den)?;
        self.quotient(num, den)
    }

    pub(super) fn sub(&mut self, one: &Form, other: &Form) -> Result<Form, Stop> {
        self.add(one, &other.neg())
    }

    pub(super) fn mul(&mut self, one: &Form, other: &Form) -> Result<Form, Stop> {
        let num = self.mul_poly(&one.num, &other.num)?;
        let den = self.mul_poly(&one.den, &other.den)?;
        self.quotient(num, den)
    }

    pub(super) fn div(&mut self, one: &Form, other: &Form) -> Result<Form, Stop> {
        if other.num.is_zero() {
            return Err(Stop::DivisionByZero);
        }
        self.check_divisor(&other.num)?;
        let num = self.mul_poly(&one.num, &other.den)?;
        let den = self.mul_poly(&one.den, &other.num)?;
        if den.is_zero() { Err(Stop::Unsure) } else { self.quotient(num, den) }
    }

    /// A whole power.
    pub(super) fn pow(&mut self, base: &Form, exponent: i64) -> Result<Form, Stop> {
        if exponent == 0 {
            // 0^0 has no agreed value.
            return if base.is_zero() { Err(Stop::Unsure) } else { Ok(Form::integer(1)) };
        }
        if let Some((monomial, value)) = base.as_term() {
            let factor = integer_power(value, exponent)?;
            let exponent = poly::exponent(&Rational::new(exponent, 1))?;
            let mut power = Monomial::with_capacity(monomial.len());
            for (id, each) in monomial {
                power.push((*id, poly::mul_exponents(*each, exponent)?));
            }
            return self.monomial_form(power, &factor);
        }
        let size = u32::try_from(exponent.unsigned_abs()).map_err(|_| Stop::Unsure)?;
        let num = self.pow_poly(&base.num, size)?;
        let den = self.pow_poly(&base.den, size)?;
        if exponent > 0 {
            return self.quotient(num, den);
        }
        if num.is_zero() {
            return Err(Stop::DivisionByZero);
        }
        self.check_divisor(&num)?;
        self.quotient(den, num)
    }

    /// Fails unless a sum is certain not to be zero. Sums with relations that the normal form does not know could be.
    fn check_divisor(&mut self, divisor: &Poly) -> Result<(), Stop> {
        if divisor.0.len() == 1 || !self.is_number(divisor) || self.is_nonzero(divisor) {
            return Ok(());
        }
        let expr = self.poly_expr(divisor);
        if super::constant::is_nonzero(&expr, self.budget) { Ok(()) } else { Err(Stop::Unsure) }
    }
}

/// The polynomial if its coefficients are of bounded length.
pub(super) fn bounded(poly: Poly) -> Result<Poly, Stop> {
    if poly.0.iter().all(|(_, value)| value.bits() <= BITS_MAX) { Ok(poly) } else { Err(Stop::Unsure) }
}

/// A whole power of a rational of bounded length.
pub(super) fn integer_power(base: &Rational, exponent: i64) -> Result<Rational, Stop> {
    if base.is_zero() {
        return match exponent {
            0 => Err(Stop::Unsure),
            1.. => Ok(Rational::ZERO),
            _ => Err(Stop::DivisionByZero),
        };
    }
    if base.abs().is_one() {
        return Ok(if exponent % 2 == 0 { Rational::ONE } else { base.clone() });
    }
    let size = exponent.unsigned_abs();
    // One bit less than the length is the least that each factor adds.
    if base.bits().saturating_sub(1).max(1).saturating_mul(size) > BITS_MAX {
        return Err(Stop::Unsure);
    }
    let power = base.pow(size.to_u32().ok_or(Stop::Unsure)?);
    if exponent < 0 { power.recip().ok_or(Stop::DivisionByZero) } else { Ok(power) }
}
