//! Functions with known values that other things are called by, too: Riemann's `\zeta`, the normal distribution `\Phi`
//! and its density `\phi`, Euler's `\phi`. Only what holds under every reading is decided.

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

use super::super::algebra::{self, Enclosure};
use super::super::answer::Answer;
use super::super::expr::{Expr, Function};
use super::rewrite::{any, integer, replaced};
use super::{Comparer, Match};

/// Fixed-point numbers here count so many binary places.
const PLACES: usize = 100;
/// Expressions with more such values are not looked at.
const MOST_CALLS: usize = 2;
/// The largest argument of Euler's function: it is factored by trial.
const MOST_TOTIENT: u64 = 1 << 20;

/// What a call may be: an expression, and what is known of a symbol in it.
struct Meaning {
    value: Expr,
    enclosure: Option<Enclosure>,
}

impl Comparer<'_> {
    /// Two numbers with such values in one of them.
    pub(super) fn by_values(&mut self, answer: &Answer, reference: &Answer) -> Match {
        let (Answer::Expr(one), Answer::Expr(other)) = (answer, reference) else { return Match::Unknown };
        let mut calls: Vec<&Expr> = Vec::new();
        collect(one, &mut calls);
        let of_one = calls.len();
        collect(other, &mut calls);
        // A function in both may be anybody's own.
        let is_shared = calls[..of_one].iter().any(|call| calls[of_one..].contains(call));
        calls.dedup();
        if calls.is_empty() || calls.len() > MOST_CALLS || is_shared {
            return Match::Unknown;
        }
        let meanings: Vec<Vec<Meaning>> = calls.iter().enumerate().map(|(place, call)| meanings(call, place)).collect();
        let choices = meanings.iter().map(Vec::len).product();
        let mut found = None;
        for choice in 0..choices {
            let mut left = choice;
            let chosen: Vec<&Meaning> = meanings
                .iter()
                .filter_map(|each| {
                    let meaning = each.get(left % each.len());
                    left /= each.len();
                    meaning
                })
                .collect();
            let again = self.with_meanings(one, other, &calls, &chosen);
            if again == Match::Unknown || found.is_some_and(|found| found != again) {
                return Match::Unknown;
            }
            found = Some(again);
        }
        found.unwrap_or(Match::Unknown)
    }

    fn with_meanings(&mut self, one: &Expr, other: &Expr, calls: &[&Expr], chosen: &[&Meaning]) -> Match {
        let put = |expr: &Expr| {
            replaced(expr, &|part| {
                let place = calls.iter().position(|call| *call == part)?;
                chosen.get(place).map(|meaning| meaning.value.clone())
            })
        };
        let (one, other) = (put(one), put(other));
        let enclosures: Vec<Enclosure> = chosen.iter().filter_map(|meaning| meaning.enclosure.clone()).collect();
        if enclosures.is_empty() {
            let are_numbers = algebra::is_constant(&one) && algebra::is_constant(&other);
            return if are_numbers { self.expressions(&one, &other) } else { Match::Unknown };
        }
        self.used_algebra = true;
        self.used_interval = true;
        let is_apart = algebra::is_apart_within(&one, &other, &enclosures, &mut self.budget);
        if is_apart { Match::Different } else { Match::Unknown }
    }
}

/// Calls of the functions that are known here, at rational numbers.
fn collect<'a>(expr: &'a Expr, found: &mut Vec<&'a Expr>) {
    match expr {
        Expr::Number(_) | Expr::Pi | Expr::Euler | Expr::Imaginary | Expr::Symbol(_) => {}
        Expr::Sum(parts) | Expr::Product(parts) => parts.iter().for_each(|part| collect(part, found)),
        Expr::Quotient(one, other) | Expr::Power(one, other) => {
            collect(one, found);
            collect(other, found);
        }
        Expr::Root(_, inside) => collect(inside, found),
        Expr::Call(Function::Named(name), list) => {
            let is_known = matches!(name.as_str(), "\\zeta" | "\\Phi" | "\\phi" | "\\varphi");
            if is_known && matches!(list.as_slice(), [_]) && !any(expr, &|part| matches!(part, Expr::Symbol(_))) {
                found.push(expr);
            }
        }
        Expr::Call(_, list) => list.iter().for_each(|part| collect(part, found)),
    }
}

fn meanings(call: &Expr, place: usize) -> Vec<Meaning> {
    let Expr::Call(Function::Named(name), list) = call else { return Vec::new() };
    let value = match list.as_slice() {
        [Expr::Number(value)] => value.clone(),
        [Expr::Product(factors)] => match factors.as_slice() {
            [Expr::Number(one), Expr::Number(other)] => one * other,
            _ => return Vec::new(),
        },
        [Expr::Quotient(over, under)] => match (&**over, &**under) {
            (Expr::Number(over), Expr::Number(under)) if !under.is_zero() => over / under,
            _ => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    // No symbol that is written has such a name.
    let symbol = format!("\u{2}{place}");
    if name == "\\zeta" {
        return zeta(&value, symbol).into_iter().collect();
    }
    let known = |value: Expr| Meaning { value, enclosure: None };
    // `\phi 2`, twice the golden ratio.
    let golden = Expr::Sum(vec![integer(1), Expr::Root(2, Box::new(integer(5)))]);
    let golden = Expr::Product(vec![golden, Expr::Number(value.clone() / BigInt::from(2))]);
    let mut found = vec![known(golden)];
    if name == "\\Phi" {
        match distribution(&value, symbol) {
            Some(meaning) => found.push(meaning),
            None => return Vec::new(),
        }
    } else {
        found.push(known(density(&value)));
        match totient(&value) {
            Some(Some(count)) => found.push(known(integer(count))),
            Some(None) => {}
            None => return Vec::new(),
        }
    }
    found
}

/// `\zeta(s)` of an integer above one: `\sum_{k < N} k^{-s}` and what is between the integrals of `x^{-s}` from `N` and
/// from `N - 1` on.
fn zeta(s: &BigRational, symbol: String) -> Option<Meaning> {
    const CLOSED: [(u32, i64); 5] = [(2, 6), (4, 90), (6, 945), (8, 9450), (10, 93_555)];
    const TERMS: u32 = 64;
    /// Powers beyond are nothing in the places that count.
    const MOST: u32 = 200;
    let s = s.is_integer().then(|| s.to_integer().to_u32())?.filter(|s| *s >= 2)?;
    if let Some((_, divisor)) = CLOSED.iter().find(|(even, _)| *even == s) {
        let power = Expr::Power(Box::new(Expr::Pi), Box::new(integer(s.into())));
        let value = Expr::Quotient(Box::new(power), Box::new(integer(*divisor)));
        return Some(Meaning { value, enclosure: None });
    }
    let exponent = s.min(MOST);
    let one = BigInt::one() << PLACES;
    let mut sum = BigInt::zero();
    for k in 1..=TERMS {
        sum += &one / Pow::pow(BigInt::from(k), exponent);
    }
    // Half of the difference of the integrals is below 64^-3 for s = 3, and less for larger s.
    let tail = |from: u32| &one / (Pow::pow(BigInt::from(from), exponent - 1) * (exponent - 1));
    sum += (tail(TERMS) + tail(TERMS + 1)) / 2;
    let middle = BigRational::new(sum, one);
    Some(Meaning {
        value: Expr::Symbol(symbol.clone()),
        enclosure: Some(Enclosure { symbol, middle, radius_bits: -17 }),
    })
}

/// `\Phi(x) = 1/2 + \phi(x) (x + x^3/3 + x^5/(3 \cdot 5) + \ldots)` for `|x| \le 6`.
fn distribution(x: &BigRational, symbol: String) -> Option<Meaning> {
    const TERMS: u32 = 200;
    if x.abs() > BigRational::from_integer(6.into()) || x.denom().bits() > 32 {
        return None;
    }
    let square = x * x;
    let (over, under) = (square.numer(), square.denom());
    let mut term: BigInt = (x.numer() << PLACES).div_floor(x.denom());
    let mut sum = BigInt::zero();
    for index in 0..TERMS {
        sum += &term;
        // Rounded by less than one unit each time, which grows by less than e^18 < 2^26.
        term = (term * over).div_floor(&(under * BigInt::from(2 * index + 3)));
    }
    let middle = BigRational::new(sum, BigInt::one() << PLACES);
    let product = Expr::Product(vec![Expr::Symbol(symbol.clone()), density(x)]);
    let half = Expr::Number(BigRational::new(1.into(), 2.into()));
    let enclosure = Enclosure { symbol, middle, radius_bits: -60 };
    Some(Meaning { value: Expr::Sum(vec![half, product]), enclosure: Some(enclosure) })
}

/// `e^{-x^2/2} / \sqrt{2 \pi}`
fn density(x: &BigRational) -> Expr {
    let exponent = Expr::Number(-(x * x) / BigInt::from(2));
    let power = Expr::Power(Box::new(Expr::Euler), Box::new(exponent));
    let root = Expr::Root(2, Box::new(Expr::Product(vec![integer(2), Expr::Pi])));
    Expr::Quotient(Box::new(power), Box::new(root))
}

/// Euler's function of a natural number; `Some(None)` of anything else, `None` of a number that is too large.
fn totient(value: &BigRational) -> Option<Option<i64>> {
    if !value.is_integer() || !value.is_positive() {
        return Some(None);
    }
    let mut rest = value.to_integer().to_u64().filter(|value| *value <= MOST_TOTIENT)?;
    let mut count = rest;
    let mut prime = 2;
    while prime * prime <= rest {
        if rest.is_multiple_of(prime) {
            count -= count / prime;
            while rest.is_multiple_of(prime) {
                rest /= prime;
            }
        }
        prime += 1;
    }
    if rest > 1 {
        count -= count / rest;
    }
    Some(Some(count.cast_signed()))
}
