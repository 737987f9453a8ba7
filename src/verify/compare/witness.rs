//! Relations that differ at a point: a rational point that satisfies one of them and not the other is a proof.

use std::collections::BTreeSet;

use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

use super::super::algebra;
use super::super::answer::{Answer, Sign};
use super::super::expr::{Expr, Function};
use super::bounds::{is_order, upright};
use super::rewrite::{any, minus, replaced, symbols};
use super::{Comparer, Match};

/// Points that are tried for every variable.
const ROUNDS: i64 = 5;
/// Relations in more variables are not looked at.
const MOST_VARIABLES: usize = 6;

/// `value sign 0`, with `=`, `<` and `\le` only.
struct Condition {
    value: Expr,
    sign: Sign,
}

impl Comparer<'_> {
    /// Two relations of the same variables. Points are positive, so that roots, absolute values and denominators mean the
    /// same on both sides, and integers where a name may stand for one.
    pub(super) fn by_witness(&mut self, one: &Answer, other: &Answer) -> Match {
        let (Some(one), Some(other)) = (condition(one), condition(other)) else { return Match::Unknown };
        let names = symbols(&one.value);
        let are_equations = one.sign == Sign::Equal && other.sign == Sign::Equal;
        let are_orders = is_order(&one.sign) && is_order(&other.sign) && ![&one, &other].iter().any(|c| divides(c));
        if names != symbols(&other.value)
            || names.is_empty()
            || names.len() > MOST_VARIABLES
            || !(are_equations || are_orders)
        {
            return Match::Unknown;
        }
        self.used_algebra = true;
        for round in 0..ROUNDS {
            for name in &names {
                if self.differ_along(&one, &other, &names, name, round) {
                    return Match::Different;
                }
            }
        }
        Match::Unknown
    }

    /// Whether the conditions differ at a point of a line on which one variable runs.
    fn differ_along(
        &mut self,
        one: &Condition,
        other: &Condition,
        names: &BTreeSet<String>,
        running: &str,
        round: i64,
    ) -> bool {
        let at = |place: usize| match round {
            0 => 1,
            round => 1 + (place as i64 * 7 + round * 3) % 5,
        };
        let fixed = |expr: &Expr| {
            replaced(expr, &|part| match part {
                Expr::Symbol(name) if name != running => {
                    let place = names.iter().position(|known| known == name)?;
                    Some(super::rewrite::integer(at(place)))
                }
                _ => None,
            })
        };
        let lines = [fixed(&one.value), fixed(&other.value)];
        let mut candidates = vec![BigRational::from_integer((1 + round).into())];
        let roots: Vec<BigRational> = lines.iter().filter_map(|line| self.root(line, running)).collect();
        if let [one, other] = roots.as_slice() {
            candidates.push((one + other) / BigRational::from_integer(2.into()));
        }
        candidates.extend(roots);
        candidates.into_iter().any(|value| {
            if !value.is_positive() || may_count(running) && !value.is_integer() {
                return false;
            }
            let mut holds = |line: &Expr, sign: &Sign| {
                let value = self.value_at(line, running, &value)?;
                Some(match sign {
                    Sign::Equal => value.is_zero(),
                    Sign::Less => value.is_negative(),
                    _ => !value.is_positive(),
                })
            };
            let left = holds(&lines[0], &one.sign);
            left.is_some() && holds(&lines[1], &other.sign).is_some_and(|right| left != Some(right))
        })
    }

    /// Where a line through two values of an expression meets zero: its root if it is linear.
    fn root(&mut self, line: &Expr, name: &str) -> Option<BigRational> {
        let first = self.value_at(line, name, &BigRational::one())?;
        let second = self.value_at(line, name, &BigRational::from_integer(2.into()))?;
        let slope = second - &first;
        (!slope.is_zero()).then(|| BigRational::one() - first / slope)
    }

    fn value_at(&mut self, line: &Expr, name: &str, value: &BigRational) -> Option<BigRational> {
        let at = super::rewrite::with(line, name, &Expr::Number(value.clone()));
        algebra::rational(&at, &mut self.budget)
    }
}

/// Names that may stand for integers.
pub(super) fn may_count(name: &str) -> bool {
    name.starts_with(['n', 'm', 'k', 'N', 'M', 'K', 'i', 'j', 'l', 'p', 'q', 'r', 's', 'a', 'b', 'c', 'd'])
}

fn condition(answer: &Answer) -> Option<Condition> {
    let Answer::Relation(left, rest) = answer else { return None };
    let [(sign, right)] = rest.as_slice() else { return None };
    let (left, sign, right) = upright(left, sign, right);
    let (Answer::Expr(left), Answer::Expr(right)) = (left, right) else { return None };
    let value = minus(left, right);
    (!any(&value, &is_strange)).then_some(Condition { value, sign })
}

/// Parts whose meaning or domain is not that of rational functions, powers and sizes.
fn is_strange(part: &Expr) -> bool {
    match part {
        Expr::Symbol(name) => name.starts_with("\\mathbb") || name.contains('^'),
        Expr::Call(function, _) => *function != Function::Abs,
        Expr::Root(..) | Expr::Pi | Expr::Euler | Expr::Imaginary => true,
        _ => false,
    }
}

/// Whether something is divided by what may be negative though its variables are positive.
fn divides(condition: &Condition) -> bool {
    let has_sum = |expr: &Expr| any(expr, &|part| matches!(part, Expr::Sum(_)));
    any(&condition.value, &|part| match part {
        Expr::Quotient(_, under) => has_sum(under) && !algebra::is_constant(under),
        Expr::Power(base, exponent) => {
            has_sum(base) && !matches!(&**exponent, Expr::Number(value) if value.is_positive())
        }
        _ => false,
    })
}
