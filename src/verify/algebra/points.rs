//! Comparison of functions by their values at fixed points.

use super::ball::{Ball, Trouble};
use super::numeric::Evaluation;
use super::{Comparison, Method, Relation};
use crate::verify::budget::Budget;
use crate::verify::expr::{Expr, Function};

/// Precisions at each point: the first finds nearly every difference.
const PRECISIONS: [u64; 2] = [64, 160];

/// Values at a point that agree to this many bits count as agreeing there.
const AGREEMENT_BITS: i64 = 110;

/// They do if no part of the functions has a magnitude outside `2^-TAME_BITS..2^TAME_BITS` there: a part that small next to
/// one that large would not be seen otherwise.
const TAME_BITS: i64 = 48;

/// Points at which functions must agree to be taken as equal, without a single one where they differ.
const AGREEING_POINTS: u32 = 4;

/// Points at which functions must differ, without a single one where they agree, if they have even roots or are piecewise.
const DIFFERING_POINTS: u32 = 4;

/// Points: the power of two that values of the point start at, and which symbols are negative there. Domains such as
/// `x < 1` and `x > 5` have some each.
const POINTS: [(i64, Signs); 11] = [
    (0, Signs::Positive),
    (12, Signs::Positive),
    (-2, Signs::Positive),
    (0, Signs::Negative),
    (3, Signs::Positive),
    (-1, Signs::Positive),
    (6, Signs::Positive),
    (-2, Signs::Mixed(0)),
    (0, Signs::Mixed(1)),
    (2, Signs::Mixed(2)),
    (1, Signs::Negative),
];

#[derive(Clone, Copy)]
enum Signs {
    Positive,
    Negative,
    /// Sizes differ between symbols, and signs by a bit of their position.
    Mixed(u32),
}

/// What the expressions are made of, as far as it decides what their values at points can prove.
#[derive(Default)]
struct Traits {
    /// Sorted, as are the integers.
    symbols: Vec<String>,
    /// Symbols that stand where only integers make sense.
    integers: Vec<String>,
    /// Even roots and absolute values of something with symbols: its sign conventions depend on their domain.
    has_even_root: bool,
    /// Absolute values, greatest integers and the like: agreement at points proves nothing elsewhere.
    is_piecewise: bool,
}

/// Compares two functions of their symbols, real ones.
///
/// Values that are certain to differ at every point tried (two at least) prove that the functions do. Values that agree
/// to 110 bits at four points or more (where every part is of ordinary size), and differ nowhere, count as equal unless something is piecewise. Where both
/// happens, functions without even roots differ; with them the domain matters, which is not known.
pub(super) fn compare(one: &Expr, other: &Expr, budget: &mut Budget) -> Comparison {
    let traits = Traits::of(&[one, other]);
    let (mut agreeing, mut differing) = (0, 0);
    let plain = !traits.has_even_root && !traits.is_piecewise;
    for (index, (size, signs)) in POINTS.iter().enumerate() {
        if budget.spend(2 * traits.symbols.len() as u64).is_err() {
            return found(Relation::Unknown);
        }
        let point = traits.point(index as u64, *size, *signs);
        // Where they have agreed once, they most likely agree again.
        match at(one, other, &point, &PRECISIONS[usize::from(agreeing > 0)..], budget) {
            Ok(Some(true)) => agreeing += 1,
            Ok(Some(false)) => differing += 1,
            Ok(None) => {}
            Err(Trouble::Exhausted) => return found(Relation::Unknown),
            Err(_) => {}
        }
        if plain && differing == 0 && agreeing >= AGREEING_POINTS {
            return found(Relation::Equal);
        }
        let enough = if agreeing > 0 { !traits.has_even_root } else { plain || differing >= DIFFERING_POINTS };
        if differing >= 2 && enough {
            return found(Relation::Different);
        }
    }
    if differing >= 2 && agreeing == 0 {
        return found(Relation::Different);
    }
    if differing == 0 && agreeing >= AGREEING_POINTS && !traits.is_piecewise {
        return found(Relation::Equal);
    }
    found(Relation::Unknown)
}

/// Whether a number is defined, however large, or a function at a point.
pub(super) fn has_value(expr: &Expr, budget: &mut Budget) -> bool {
    let traits = Traits::of(&[expr]);
    let point = traits.point(0, 0, Signs::Positive);
    matches!(Evaluation::new(PRECISIONS[0], &point, budget).value(expr), Ok(_) | Err(Trouble::Huge))
}

fn found(relation: Relation) -> Comparison {
    Comparison { relation, method: Method::Interval }
}

/// Whether the values at a point agree (`true`) or differ; `None` where a value is not known well enough.
fn at(
    one: &Expr,
    other: &Expr,
    point: &[(String, Ball)],
    precisions: &[u64],
    budget: &mut Budget,
) -> Result<Option<bool>, Trouble> {
    for bits in precisions {
        let mut is_tame = true;
        let mut value = |expr: &Expr| {
            let mut evaluation = Evaluation::new(*bits, point, budget);
            evaluation.tame_bits = TAME_BITS;
            let value = evaluation.value(expr);
            is_tame &= evaluation.is_tame;
            value
        };
        let (left, right) = (value(one)?, value(other)?);
        if left.is_apart(&right, *bits) {
            return Ok(Some(false));
        }
        if is_tame && left.is_narrow(AGREEMENT_BITS) && right.is_narrow(AGREEMENT_BITS) {
            return Ok(Some(true));
        }
    }
    Ok(None)
}

impl Traits {
    fn of(expressions: &[&Expr]) -> Traits {
        let mut traits = Traits::default();
        expressions.iter().for_each(|expr| traits.collect(expr, false));
        for names in [&mut traits.symbols, &mut traits.integers] {
            names.sort_unstable();
            names.dedup();
        }
        traits
    }

    fn collect(&mut self, expr: &Expr, is_whole: bool) {
        match expr {
            Expr::Symbol(name) => {
                self.symbols.push(name.clone());
                if is_whole {
                    self.integers.push(name.clone());
                }
            }
            Expr::Number(_) | Expr::Pi | Expr::Euler | Expr::Imaginary => {}
            Expr::Sum(parts) | Expr::Product(parts) => parts.iter().for_each(|part| self.collect(part, is_whole)),
            Expr::Quotient(over, under) => {
                self.collect(over, is_whole);
                self.collect(under, is_whole);
            }
            Expr::Power(base, exponent) => {
                let is_turning = **base == Expr::Imaginary || is_negative(base);
                self.collect(base, is_whole);
                self.collect(exponent, is_turning);
                if let Expr::Number(value) = &**exponent
                    && value.denom().bit(0)
                {
                    return;
                }
                self.has_even_root |= !super::is_constant(base) && super::is_constant(exponent);
            }
            Expr::Root(degree, radicand) => {
                self.collect(radicand, false);
                self.has_even_root |= degree % 2 == 0 && !super::is_constant(radicand);
            }
            Expr::Call(function, arguments) => {
                let symbolic = !arguments.iter().all(super::is_constant);
                let whole = match function {
                    Function::Factorial | Function::Binomial => true,
                    Function::Gcd | Function::Lcm | Function::Mod => {
                        self.is_piecewise |= symbolic;
                        true
                    }
                    Function::Floor | Function::Ceiling => {
                        self.is_piecewise |= symbolic;
                        self.collect_counts(arguments);
                        false
                    }
                    Function::Abs | Function::Max | Function::Min => {
                        self.is_piecewise |= symbolic;
                        self.has_even_root |= symbolic;
                        false
                    }
                    Function::Sin | Function::Cos | Function::Tan | Function::Cot | Function::Sec | Function::Csc => {
                        self.collect_counts(arguments);
                        false
                    }
                    _ => false,
                };
                arguments.iter().for_each(|argument| self.collect(argument, whole));
            }
        }
    }

    /// Symbols that usually are integers, where a greatest integer or a multiple of an angle is taken of them.
    fn collect_counts(&mut self, arguments: &[Expr]) {
        let mut inside = Traits::default();
        arguments.iter().for_each(|argument| inside.collect(argument, false));
        for name in inside.symbols {
            if name.starts_with(['n', 'm', 'k', 'N', 'M', 'K', 'j', 'l', 'p', 'q']) {
                self.integers.push(name);
            }
        }
    }

    /// Values that depend on names alone: integers, or odd multiples of `2^-12` times the size of the point.
    fn point(&self, index: u64, size: i64, signs: Signs) -> Vec<(String, Ball)> {
        let value = |position: usize, name: &String| {
            let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ index, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let hash = hash ^ (hash >> 29);
            if self.integers.binary_search(name).is_ok() {
                return Ball { mid: (2 + 3 * index + hash % 5).into(), radius: 0, scale: 0 };
            }
            let negative = match signs {
                Signs::Positive => false,
                Signs::Negative => true,
                Signs::Mixed(bit) => (position >> bit) & 1 == 1,
            };
            let mid = ((4096 + hash % 4096) | 1).cast_signed();
            let size = if matches!(signs, Signs::Mixed(_)) { size + ((hash >> 23) % 4).cast_signed() } else { size };
            Ball { mid: if negative { -mid } else { mid }.into(), radius: 0, scale: size - 12 }
        };
        self.symbols.iter().enumerate().map(|(position, name)| (name.clone(), value(position, name))).collect()
    }
}

/// Whether an expression is visibly a negative number.
fn is_negative(expr: &Expr) -> bool {
    match expr {
        Expr::Number(value) => *value.numer() < 0.into(),
        Expr::Product(parts) => {
            parts.iter().all(|part| matches!(part, Expr::Number(_)))
                && parts.iter().filter(|part| is_negative(part)).count() % 2 == 1
        }
        _ => false,
    }
}
