//! What is known of generators: which are numbers, and which sums of them cannot be zero.

use super::form::{Base, Form, Forms, Generator};
use super::poly::{GeneratorId, Monomial, Poly};
use crate::verify::expr::{Expr, Function};

impl Forms<'_> {
    /// Whether no symbol and no function of unknown meaning occurs, at any depth.
    pub(super) fn is_number(&self, poly: &Poly) -> bool {
        poly.0.iter().flat_map(|(monomial, _)| monomial).all(|(id, _)| self.is_number_generator(*id))
    }

    fn is_number_generator(&self, id: GeneratorId) -> bool {
        match &self.generators[id as usize] {
            Generator::Symbol(_) | Generator::Call(Function::Named(_), _) => false,
            Generator::Radical(radicand) => self.is_number(radicand),
            Generator::Power(base, exponent) => {
                let base = match base {
                    Base::MinusOne => true,
                    Base::Generator(id) => self.is_number_generator(*id),
                    Base::Poly(poly) => self.is_number(poly),
                };
                base && self.is_number_form(exponent)
            }
            Generator::Call(_, arguments) => arguments.iter().all(|argument| self.is_number_form(argument)),
            _ => true,
        }
    }

    pub(super) fn is_number_form(&self, form: &Form) -> bool {
        self.is_number(&form.num) && self.is_number(&form.den)
    }

    /// Whether a polynomial is certain not to be zero, neither as a number nor as a function: taken as a polynomial in its
    /// symbols, one of its coefficients is certain not to be. False for what is not known.
    ///
    /// The coefficients of monomials in symbols and functions of unknown meaning must be numbers.
    pub(super) fn is_nonzero(&self, poly: &Poly) -> bool {
        let mut parts: Vec<(Monomial, &Monomial)> = Vec::with_capacity(poly.0.len());
        for (monomial, _) in &poly.0 {
            let mut symbols = Monomial::new();
            for (id, exponent) in monomial {
                match &self.generators[*id as usize] {
                    Generator::Symbol(_) | Generator::Call(Function::Named(_), _) => symbols.push((*id, *exponent)),
                    _ if self.is_number_generator(*id) => {}
                    _ => return false,
                }
            }
            parts.push((symbols, monomial));
        }
        parts.sort_unstable();
        parts.chunk_by(|one, other| one.0 == other.0).any(|group| self.is_nonzero_number(group))
    }

    /// Whether a sum of monomials with rational coefficients is certain not to be zero; generators that are not numbers are
    /// passed over.
    ///
    /// `i`, roots of primes, and at most one of pi, e and one `ln p` (each transcendental; of two together nothing is
    /// proven) are independent over the rationals. A single monomial is zero only if a generator is.
    fn is_nonzero_number(&self, group: &[(Monomial, &Monomial)]) -> bool {
        let mut transcendental = None;
        for (id, _) in group.iter().flat_map(|(_, monomial)| monomial.iter()) {
            let is_logarithm = |arguments: &[Form]| arguments.first().and_then(Form::as_rational).is_some();
            match &self.generators[*id as usize] {
                Generator::Symbol(_) | Generator::Call(Function::Named(_), _) => {}
                Generator::Imaginary | Generator::Prime(_, true) => {}
                _ if group.len() == 1 && self.is_nonzero_generator(*id) => {}
                Generator::Pi | Generator::Euler if *transcendental.get_or_insert(*id) == *id => {}
                Generator::Call(Function::Ln, arguments)
                    if is_logarithm(arguments) && *transcendental.get_or_insert(*id) == *id => {}
                _ => return false,
            }
        }
        true
    }

    fn is_nonzero_generator(&self, id: GeneratorId) -> bool {
        match &self.generators[id as usize] {
            Generator::Pi | Generator::Euler | Generator::Imaginary | Generator::Prime(..) => true,
            // Radicands that are numbers are positive, and so are logarithms of primes.
            Generator::Radical(_) => true,
            Generator::Power(Base::MinusOne | Base::Generator(_), _) => true,
            Generator::Call(Function::Ln, arguments) => arguments.first().and_then(Form::as_rational).is_some(),
            Generator::Opaque(expr) => {
                matches!(expr, Expr::Power(..) | Expr::Call(Function::Factorial | Function::Binomial, _))
            }
            _ => false,
        }
    }
}
