//! From expressions to forms and back.

use num_rational::Ratio;
use num_traits::{One, Zero};

use super::Stop;
use super::form::{Base, Form, Forms, Generator};
use super::poly::{Exponent, GeneratorId, Monomial, Poly};
use super::rational::Rational;
use crate::verify::expr::{Expr, Function};

/// Deepest expression that is followed. Parsers stop earlier; this guards the stack against anything else.
pub(super) const DEPTH_MAX: u32 = 200;

impl Forms<'_> {
    /// The normal form of an expression.
    ///
    /// # Errors
    /// [`Stop::DivisionByZero`] where a divisor is exactly zero, the others where nothing is known.
    pub(super) fn form(&mut self, expr: &Expr) -> Result<Form, Stop> {
        self.spend(2)?;
        if self.depth >= DEPTH_MAX {
            return Err(Stop::Unsure);
        }
        self.depth += 1;
        let form = self.form_inner(expr);
        self.depth -= 1;
        form
    }

    fn form_inner(&mut self, expr: &Expr) -> Result<Form, Stop> {
        match expr {
            Expr::Number(value) => {
                let value = Rational::from_ref(value);
                if value.bits() > super::poly::BITS_MAX {
                    return Err(Stop::Unsure);
                }
                Ok(Form::constant(value))
            }
            Expr::Pi => self.atom(Generator::Pi),
            Expr::Euler => self.atom(Generator::Euler),
            Expr::Imaginary => self.atom(Generator::Imaginary),
            Expr::Symbol(name) => self.symbol(name),
            Expr::Sum(terms) => {
                // Terms without a denominator are collected at once: one by one would be quadratic.
                let (mut whole, mut fractions) = (Vec::with_capacity(terms.len()), Vec::new());
                for term in terms {
                    let term = self.form(term)?;
                    if term.den.is_one() {
                        self.spend(term.num.cost())?;
                        whole.extend(term.num.0);
                    } else {
                        fractions.push(term);
                    }
                }
                let mut sum = Form::from_poly(Poly::collect(whole)?);
                for fraction in fractions {
                    sum = self.add(&sum, &fraction)?;
                }
                Ok(sum)
            }
            Expr::Product(factors) => {
                let mut product = Form::integer(1);
                for factor in factors {
                    let factor = self.form(factor)?;
                    product = self.mul(&product, &factor)?;
                }
                Ok(product)
            }
            Expr::Quotient(over, under) => {
                let (over, under) = (self.form(over)?, self.form(under)?);
                self.div(&over, &under)
            }
            Expr::Power(base, exponent) => {
                let exponent = self.form(exponent)?;
                self.power_of(base, &exponent, expr)
            }
            Expr::Root(degree, radicand) => {
                let radicand = self.form(radicand)?;
                self.rational_power(&radicand, Ratio::new(1, i64::from((*degree).max(1))), true)
            }
            Expr::Call(function, arguments) => self.function(function, arguments, expr),
        }
    }

    /// A polynomial as an expression, for its evaluation.
    pub(super) fn poly_expr(&self, poly: &Poly) -> Expr {
        let terms = poly.0.iter().map(|(monomial, value)| {
            let mut factors = vec![Expr::Number(value.to_big())];
            factors.extend(monomial.iter().map(|(id, exponent)| self.power_expr(*id, *exponent)));
            Expr::Product(factors)
        });
        let mut terms: Vec<Expr> = terms.collect();
        if terms.is_empty() {
            terms.push(Expr::Number(Zero::zero()));
        }
        Expr::Sum(terms)
    }

    /// A form as an expression, for its evaluation.
    pub(super) fn form_expr(&self, form: &Form) -> Expr {
        let over = self.poly_expr(&form.num);
        if form.den.is_one() { over } else { Expr::Quotient(Box::new(over), Box::new(self.poly_expr(&form.den))) }
    }

    fn power_expr(&self, id: GeneratorId, exponent: Exponent) -> Expr {
        let base = self.generator_expr(id);
        if exponent.is_one() {
            return base;
        }
        let exponent = Expr::Number(Rational::new(*exponent.numer(), *exponent.denom()).to_big());
        match base {
            // (b^m)^c stands for b^(c m), which differs where b^m is not positive.
            Expr::Power(base, inner) if matches!(self.generators[id as usize], Generator::Power(..)) => {
                Expr::Power(base, Box::new(Expr::Product(vec![exponent, *inner])))
            }
            base => Expr::Power(Box::new(base), Box::new(exponent)),
        }
    }

    fn generator_expr(&self, id: GeneratorId) -> Expr {
        match &self.generators[id as usize] {
            Generator::Imaginary => Expr::Imaginary,
            Generator::Pi => Expr::Pi,
            Generator::Euler => Expr::Euler,
            Generator::Prime(value, _) => Expr::Number(value.clone().into()),
            Generator::Symbol(name) => Expr::Symbol(name.clone()),
            Generator::Radical(radicand) => self.poly_expr(radicand),
            Generator::Power(base, exponent) => {
                let base = match base {
                    Base::MinusOne => Expr::Number(Rational::new(-1, 1).to_big()),
                    Base::Generator(id) => self.generator_expr(*id),
                    Base::Poly(poly) => self.poly_expr(poly),
                };
                Expr::Power(Box::new(base), Box::new(self.form_expr(exponent)))
            }
            Generator::Call(function, arguments) => {
                Expr::Call(function.clone(), arguments.iter().map(|argument| self.form_expr(argument)).collect())
            }
            Generator::Opaque(expr) => expr.clone(),
        }
    }

    /// Functions of unknown meaning in a form, at any depth, sorted.
    pub(super) fn named(&self, form: &Form) -> Vec<GeneratorId> {
        let mut found = Vec::new();
        self.add_named(&form.num, &mut found);
        self.add_named(&form.den, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    fn add_named(&self, poly: &Poly, found: &mut Vec<GeneratorId>) {
        for (id, _) in poly.0.iter().flat_map(|(monomial, _)| monomial) {
            if !found.contains(id) {
                self.add_named_of(*id, found);
            }
        }
    }

    fn add_named_of(&self, id: GeneratorId, found: &mut Vec<GeneratorId>) {
        let mut forms: Vec<&Form> = Vec::new();
        match &self.generators[id as usize] {
            Generator::Call(Function::Named(_), _) => found.push(id),
            Generator::Call(_, arguments) => forms.extend(arguments),
            Generator::Radical(radicand) => self.add_named(radicand, found),
            Generator::Power(base, exponent) => {
                forms.push(exponent);
                match base {
                    Base::MinusOne => {}
                    Base::Generator(base) => self.add_named_of(*base, found),
                    Base::Poly(poly) => self.add_named(poly, found),
                }
            }
            _ => {}
        }
        for form in forms {
            self.add_named(&form.num, found);
            self.add_named(&form.den, found);
        }
    }

    /// The expression with each function of unknown meaning replaced by a symbol of its generator.
    ///
    /// # Errors
    /// Where the arguments of one have no normal form.
    pub(super) fn without_named(&mut self, expr: &Expr, found: &mut Vec<GeneratorId>) -> Result<Expr, Stop> {
        self.spend(1)?;
        let all = |forms: &mut Self, parts: &[Expr], found: &mut Vec<GeneratorId>| {
            parts.iter().map(|part| forms.without_named(part, found)).collect::<Result<Vec<Expr>, Stop>>()
        };
        Ok(match expr {
            Expr::Call(Function::Named(_), _) => {
                let form = self.form(expr)?;
                let Some(([(id, _)], _)) = form.as_term().map(|(monomial, value)| (monomial.as_slice(), value)) else {
                    return Err(Stop::Unsure);
                };
                found.push(*id);
                // No symbol that is written has such a name.
                Expr::Symbol(format!("\u{1}{id}"))
            }
            Expr::Sum(parts) => Expr::Sum(all(self, parts, found)?),
            Expr::Product(parts) => Expr::Product(all(self, parts, found)?),
            Expr::Call(function, parts) => Expr::Call(function.clone(), all(self, parts, found)?),
            Expr::Quotient(over, under) => {
                let (over, under) = (self.without_named(over, found)?, self.without_named(under, found)?);
                Expr::Quotient(Box::new(over), Box::new(under))
            }
            Expr::Power(base, exponent) => {
                let (base, exponent) = (self.without_named(base, found)?, self.without_named(exponent, found)?);
                Expr::Power(Box::new(base), Box::new(exponent))
            }
            Expr::Root(degree, inside) => Expr::Root(*degree, Box::new(self.without_named(inside, found)?)),
            _ => expr.clone(),
        })
    }

    /// The monomial of one generator.
    pub(super) fn single(id: GeneratorId, exponent: Exponent) -> Monomial {
        if exponent.is_zero() { Monomial::new() } else { vec![(id, exponent)] }
    }
}
