//! Whether two expressions are the same number or the same function: exact algebra first, rigorous intervals where that
//! does not decide.

mod ball;
mod calls;
mod circular;
mod constant;
mod convert;
mod determinant;
mod elementary;
mod form;
mod integer;
mod known;
mod numeric;
mod numeric_calls;
mod points;
mod poly;
mod power;
mod rational;
#[cfg(test)]
mod tests;
mod tower;

use std::cmp::Ordering;

use num_rational::BigRational;

use self::form::Forms;
use self::rational::Rational;
use super::budget::{Budget, Exhausted};
use super::expr::{Expr, Function};

/// What is known of two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// They are the same.
    Equal,
    /// They are not.
    Different,
    /// Neither is known.
    Unknown,
}

/// What reached a [`Relation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Exact algebra.
    Exact,
    /// Interval arithmetic.
    Interval,
}

/// A relation and how it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// What is known.
    pub relation: Relation,
    /// How.
    pub method: Method,
}

/// Why there is no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The budget is spent.
    Exhausted,
    /// A divisor is exactly zero.
    DivisionByZero,
    /// The value is too large, has no agreed meaning, or is not found by this algebra.
    Unsure,
}

impl From<Exhausted> for Stop {
    fn from(_: Exhausted) -> Stop {
        Stop::Exhausted
    }
}

const UNKNOWN: Comparison = Comparison { relation: Relation::Unknown, method: Method::Exact };

fn exact(relation: Relation) -> Comparison {
    Comparison { relation, method: Method::Exact }
}

/// Whether two expressions are the same number or the same function of their symbols.
///
/// Exact: the difference of the normal forms is zero, or is a sum of generators that are known to be independent. An
/// expression with a division by exactly zero differs from one that has a value.
///
/// By intervals: enclosures that do not meet differ, of numbers as of functions at points. Numbers whose enclosures agree
/// to 440 bits (absolutely, and relative to numbers above one) are equal if every part has a magnitude between `2^-64` and
/// `2^64`, and both expressions together take at most 376 bits to write (four for each part, and the numbers in them).
/// That is not a proof; different numbers that close would be a coincidence of one in `2^64`. Functions are equal if they
/// agree to 110 bits at four points at least, and differ at none of ten.
///
/// Symbols are real; roots of them are taken where they are real: `√(xy)` is `√x √y`, `√(x²)` is `|x|`. Whether that is `x`
/// depends on a domain that is not known, so it stays unknown. Functions of unknown meaning are equal only to themselves,
/// and differences between them are not known either.
pub fn compare(one: &Expr, other: &Expr, budget: &mut Budget) -> Comparison {
    if let (Expr::Number(one), Expr::Number(other)) = (one, other) {
        return exact(if one == other { Relation::Equal } else { Relation::Different });
    }
    if let (Some(one), Some(other)) = (plain(one, budget), plain(other, budget)) {
        return exact(if one == other { Relation::Equal } else { Relation::Different });
    }
    // What the exact part leaves is enough for the intervals.
    let half = budget.left() / 2;
    let mut share = Budget::new(half);
    let mut forms = Forms::new(&mut share);
    let known = compare_forms(one, other, &mut forms);
    let replaced = match known {
        Err(Some(relation)) => Err(exact(relation)),
        Err(None) => opaque_pair(one, other, &mut forms).ok_or(UNKNOWN),
        Ok(()) => Err(UNKNOWN),
    };
    let spent = half - share.left();
    if budget.spend(spent).is_err() {
        return UNKNOWN;
    }
    let (one, other, is_same_set) = match replaced {
        Ok(pair) => pair,
        Err(comparison) => return comparison,
    };
    let found = if is_constant(&one) && is_constant(&other) {
        constant::compare(&one, &other, budget)
    } else {
        points::compare(&one, &other, budget)
    };
    if found.relation == Relation::Different && !is_same_set { UNKNOWN } else { found }
}

/// The value of an expression of short fractions, which most answers are: no normal form is needed.
fn plain(expr: &Expr, budget: &mut Budget) -> Option<Rational> {
    budget.spend(1).ok()?;
    let value = match expr {
        Expr::Number(value) => Rational::from_ref(value),
        Expr::Sum(parts) => parts.iter().try_fold(Rational::ZERO, |sum, part| Some(sum.add(&plain(part, budget)?)))?,
        Expr::Product(parts) => {
            parts.iter().try_fold(Rational::ONE, |product, part| Some(product.mul(&plain(part, budget)?)))?
        }
        Expr::Quotient(over, under) => plain(over, budget)?.mul(&plain(under, budget)?.recip()?),
        _ => return None,
    };
    matches!(value, Rational::Small(..)).then_some(value)
}

/// Compares by normal forms. `Err(Some)`: decided. `Err(None)`: intervals may decide. `Ok`: nothing can.
fn compare_forms(one: &Expr, other: &Expr, forms: &mut Forms<'_>) -> Result<(), Option<Relation>> {
    let left = forms.form(one);
    if one == other {
        return match left {
            Ok(_) => Err(Some(Relation::Equal)),
            Err(Stop::DivisionByZero) => Ok(()),
            // Equal to itself if it has a value at all, however large.
            Err(_) if is_constant(one) && !points::has_value(one, forms.budget) => Ok(()),
            Err(_) => Err(Some(Relation::Equal)),
        };
    }
    let (left, right) = match (left, forms.form(other)) {
        (Ok(left), Ok(right)) => (left, right),
        (Err(Stop::DivisionByZero), Ok(_)) => return undefined_against(other, forms),
        (Ok(_), Err(Stop::DivisionByZero)) => return undefined_against(one, forms),
        (Err(Stop::DivisionByZero), _) | (_, Err(Stop::DivisionByZero)) => return Ok(()),
        _ => return Err(None),
    };
    let difference = forms.difference(&left, &right).map_err(|_| None)?;
    if difference.is_zero() {
        return Err(Some(Relation::Equal));
    }
    if !forms.is_nonzero(&difference) {
        return Err(None);
    }
    // Functions of unknown meaning may take any value: those on one side only could make up the difference.
    if forms.named(&left) == forms.named(&right) { Err(Some(Relation::Different)) } else { Ok(()) }
}

/// An expression without a value differs from one that certainly has one.
fn undefined_against(other: &Expr, forms: &mut Forms<'_>) -> Result<(), Option<Relation>> {
    let other = forms.without_named(other, &mut Vec::new()).map_err(|_| None)?;
    if points::has_value(&other, forms.budget) { Err(Some(Relation::Different)) } else { Ok(()) }
}

/// The expressions with functions of unknown meaning replaced by symbols, equal ones by the same, and whether the same
/// ones are in both.
fn opaque_pair(one: &Expr, other: &Expr, forms: &mut Forms<'_>) -> Option<(Expr, Expr, bool)> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let one = forms.without_named(one, &mut left).ok()?;
    let other = forms.without_named(other, &mut right).ok()?;
    left.sort_unstable();
    left.dedup();
    right.sort_unstable();
    right.dedup();
    Some((one, other, left == right))
}

/// The rational `k` (not zero) with `one = k * other`, if exact algebra finds one: `2x - 4` is twice `x - 2`.
/// `None`: none is known.
pub fn proportion(one: &Expr, other: &Expr, budget: &mut Budget) -> Option<BigRational> {
    let mut forms = Forms::new(budget);
    let (left, right) = (forms.form(one).ok()?, forms.form(other).ok()?);
    let ratio = if left.den == right.den {
        left.num.ratio(&right.num)?
    } else {
        let one = forms.mul_poly(&left.num, &right.den).ok()?;
        let other = forms.mul_poly(&right.num, &left.den).ok()?;
        one.ratio(&other)?
    };
    Some(ratio.to_big())
}

/// The exact value of an expression that is a rational number; `None` where it is not known to be one.
pub fn rational(expr: &Expr, budget: &mut Budget) -> Option<BigRational> {
    if let Expr::Number(value) = expr {
        return Some(value.clone());
    }
    Some(Forms::new(budget).form(expr).ok()?.as_rational()?.to_big())
}

/// The sign of an expression that is a real number: exact, or by intervals. `None` where it is not known.
pub fn sign(expr: &Expr, budget: &mut Budget) -> Option<Ordering> {
    let half = budget.left() / 2;
    let mut share = Budget::new(half);
    let form = Forms::new(&mut share).form(expr);
    budget.spend(half - share.left()).ok()?;
    match form.map(|form| form.as_rational()) {
        Ok(Some(value)) => Some(value.compare(&Rational::ZERO)),
        Err(Stop::DivisionByZero) => None,
        _ => constant::sign_of(expr, budget),
    }
}

/// A symbol with a value between `middle - 2^radius_bits` and `middle + 2^radius_bits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enclosure {
    /// Its name.
    pub symbol: String,
    /// The middle.
    pub middle: BigRational,
    /// Binary logarithm of the radius.
    pub radius_bits: i64,
}

/// Whether two expressions of symbols with enclosed values are real numbers further apart than `2^-6`: more than any
/// rounding of one to the figures of the other.
pub fn is_apart_within(one: &Expr, other: &Expr, enclosures: &[Enclosure], budget: &mut Budget) -> bool {
    constant::is_apart_within(one, other, enclosures, budget).unwrap_or(false)
}

/// Whether a number is certain to lie strictly between two neighbouring integers.
pub fn is_between_integers(expr: &Expr, budget: &mut Budget) -> bool {
    if let Some(value) = rational(expr, budget) {
        return !value.is_integer();
    }
    let Some(below) = constant::floor_of(expr, budget) else { return false };
    let rest = Expr::Sum(vec![expr.clone(), Expr::Number(BigRational::from_integer(-below))]);
    sign(&rest, budget) == Some(Ordering::Greater)
}

/// The symbols that a polynomial with coefficients of numbers depends on; `None` for anything else.
pub fn polynomial_symbols(expr: &Expr, budget: &mut Budget) -> Option<Vec<String>> {
    let mut forms = Forms::new(budget);
    let form = forms.form(expr).ok()?;
    let mut names = Vec::new();
    if !form.den.is_one() {
        return None;
    }
    for (id, exponent) in form.num.0.iter().flat_map(|(monomial, _)| monomial) {
        match &forms.generators[*id as usize] {
            form::Generator::Symbol(name) if exponent.is_integer() && *exponent > 0.into() => names.push(name.clone()),
            form::Generator::Prime(..) | form::Generator::Pi | form::Generator::Euler | form::Generator::Imaginary => {}
            _ => return None,
        }
    }
    Some(names)
}

/// Whether the expression is a number: no symbols, and no functions of unknown meaning.
pub fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) | Expr::Call(Function::Named(_), _) => false,
        Expr::Number(_) | Expr::Pi | Expr::Euler | Expr::Imaginary => true,
        Expr::Sum(parts) | Expr::Product(parts) | Expr::Call(_, parts) => parts.iter().all(is_constant),
        Expr::Quotient(one, other) | Expr::Power(one, other) => is_constant(one) && is_constant(other),
        Expr::Root(_, inside) => is_constant(inside),
    }
}
