//! Expressions with parts replaced, and what stands in them.

use std::collections::BTreeSet;

use num_rational::BigRational;

use super::super::expr::Expr;

/// The expression with every part for which `by` has another in its place. What is put in is not looked into again.
pub(super) fn replaced(expr: &Expr, by: &dyn Fn(&Expr) -> Option<Expr>) -> Expr {
    if let Some(other) = by(expr) {
        return other;
    }
    let all = |parts: &[Expr]| parts.iter().map(|part| replaced(part, by)).collect();
    let boxed = |part: &Expr| Box::new(replaced(part, by));
    match expr {
        Expr::Number(_) | Expr::Pi | Expr::Euler | Expr::Imaginary | Expr::Symbol(_) => expr.clone(),
        Expr::Sum(parts) => Expr::Sum(all(parts)),
        Expr::Product(parts) => Expr::Product(all(parts)),
        Expr::Quotient(over, under) => Expr::Quotient(boxed(over), boxed(under)),
        Expr::Power(base, exponent) => Expr::Power(boxed(base), boxed(exponent)),
        Expr::Root(degree, inside) => Expr::Root(*degree, boxed(inside)),
        Expr::Call(function, parts) => Expr::Call(function.clone(), all(parts)),
    }
}

/// The expression with another expression for a symbol.
pub(super) fn with(expr: &Expr, name: &str, value: &Expr) -> Expr {
    replaced(expr, &|part| matches!(part, Expr::Symbol(known) if known == name).then(|| value.clone()))
}

/// The symbols of an expression.
pub(super) fn symbols(expr: &Expr) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(expr, &mut |part| {
        if let Expr::Symbol(name) = part {
            found.insert(name.clone());
        }
    });
    found
}

/// Whether a part of the expression, or all of it, is such.
pub(super) fn any(expr: &Expr, is_such: &dyn Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    visit(expr, &mut |part| found |= is_such(part));
    found
}

fn visit(expr: &Expr, each: &mut dyn FnMut(&Expr)) {
    each(expr);
    match expr {
        Expr::Number(_) | Expr::Pi | Expr::Euler | Expr::Imaginary | Expr::Symbol(_) => {}
        Expr::Sum(parts) | Expr::Product(parts) | Expr::Call(_, parts) => {
            parts.iter().for_each(|part| visit(part, each));
        }
        Expr::Quotient(one, other) | Expr::Power(one, other) => {
            visit(one, each);
            visit(other, each);
        }
        Expr::Root(_, inside) => visit(inside, each),
    }
}

/// `one - other`
pub(super) fn minus(one: &Expr, other: &Expr) -> Expr {
    Expr::Sum(vec![one.clone(), Expr::Product(vec![integer(-1), other.clone()])])
}

/// A number.
pub(super) fn integer(value: i64) -> Expr {
    Expr::Number(BigRational::from_integer(value.into()))
}
