//! Degrees and percents, which are numbers inside an expression and units behind one.

use num_rational::BigRational;
use num_traits::One;

use super::super::expr::Expr;
use super::INFINITY;
use super::expression::number;

/// Stands for a degree of arc until it is known whether it is a unit.
pub(super) const DEGREE: &str = "\\degree";
/// Stands for a hundredth until it is known whether it is a unit.
pub(super) const PERCENT: &str = "\\percent";

/// Takes the only factor `mark` out of a product.
pub(super) fn without(expr: &Expr, mark: &str) -> Option<Expr> {
    match expr {
        Expr::Symbol(name) if name == mark => Some(number(1)),
        Expr::Product(factors) => {
            let found = factors.iter().enumerate().find_map(|(place, factor)| Some((place, without(factor, mark)?)));
            let (place, rest) = found?;
            let mut factors = factors.clone();
            if rest == number(1) {
                factors.remove(place);
            } else {
                factors[place] = rest;
            }
            Some(if factors.len() == 1 { factors.pop()? } else { Expr::Product(factors) })
        }
        Expr::Quotient(numerator, denominator) => {
            Some(Expr::Quotient(Box::new(without(numerator, mark)?), denominator.clone()))
        }
        _ => None,
    }
}

/// Replaces degrees by radians and percents by hundredths. `None` if infinity stands among numbers.
pub(super) fn settle(expr: Expr) -> Option<Expr> {
    let all = |list: Vec<Expr>| list.into_iter().map(settle).collect::<Option<Vec<_>>>();
    Some(match expr {
        Expr::Symbol(name) => match name.as_str() {
            DEGREE => Expr::Quotient(Box::new(Expr::Pi), Box::new(number(180))),
            PERCENT => Expr::Number(BigRational::one() / BigRational::from_integer(100.into())),
            INFINITY => return None,
            _ => Expr::Symbol(name),
        },
        Expr::Sum(terms) => Expr::Sum(all(terms)?),
        Expr::Product(factors) => Expr::Product(all(factors)?),
        Expr::Quotient(one, other) => Expr::Quotient(Box::new(settle(*one)?), Box::new(settle(*other)?)),
        Expr::Power(one, other) => Expr::Power(Box::new(settle(*one)?), Box::new(settle(*other)?)),
        Expr::Root(degree, inside) => Expr::Root(degree, Box::new(settle(*inside)?)),
        Expr::Call(function, arguments) => Expr::Call(function, all(arguments)?),
        expr => expr,
    })
}

/// Whether infinity stands among numbers, outside of functions.
pub(super) fn is_undefined(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(name) => name == INFINITY,
        Expr::Sum(list) | Expr::Product(list) => list.iter().any(is_undefined),
        Expr::Quotient(one, other) | Expr::Power(one, other) => is_undefined(one) || is_undefined(other),
        Expr::Root(_, inside) => is_undefined(inside),
        _ => false,
    }
}
