//! What expressions are made of in tests, and how they are checked.
#![allow(clippy::cloned_ref_to_slice_refs, reason = "tables of expressions read better so")]

mod balls;
mod hazards;
mod identities;
mod random;

use super::*;
use Relation::{Different, Equal, Unknown};

fn n(value: i64) -> Expr {
    Expr::Number(BigRational::from_integer(value.into()))
}

fn q(over: i64, under: i64) -> Expr {
    Expr::Number(BigRational::new(over.into(), under.into()))
}

fn s(name: &str) -> Expr {
    Expr::Symbol(name.to_string())
}

fn add(parts: &[Expr]) -> Expr {
    Expr::Sum(parts.to_vec())
}

fn mul(parts: &[Expr]) -> Expr {
    Expr::Product(parts.to_vec())
}

fn sub(one: Expr, other: Expr) -> Expr {
    Expr::Sum(vec![one, mul(&[n(-1), other])])
}

fn div(one: Expr, other: Expr) -> Expr {
    Expr::Quotient(Box::new(one), Box::new(other))
}

fn pow(one: Expr, other: Expr) -> Expr {
    Expr::Power(Box::new(one), Box::new(other))
}

fn sqrt(one: Expr) -> Expr {
    Expr::Root(2, Box::new(one))
}

fn call(function: Function, parts: &[Expr]) -> Expr {
    Expr::Call(function, parts.to_vec())
}

fn found(one: &Expr, other: &Expr) -> (Relation, Method) {
    let there = compare(one, other, &mut Budget::new(20_000));
    let back = compare(other, one, &mut Budget::new(20_000));
    assert_eq!(there, back, "{one:?} and {other:?}");
    (there.relation, there.method)
}

#[track_caller]
fn check(rows: &[(Expr, Expr, Relation, Method)]) {
    for (one, other, relation, method) in rows {
        let there = found(one, other);
        if *relation == Unknown {
            assert_eq!(there.0, Unknown, "{one:?} and {other:?}");
        } else {
            assert_eq!(there, (*relation, *method), "{one:?} and {other:?}");
        }
    }
}

use Method::{Exact, Interval};
