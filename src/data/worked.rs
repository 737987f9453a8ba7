//! Made-up problems with the way to their answer: what a supervised warm start learns from.
//!
//! A solution is one line of steps, each small enough to be learnt as a fact, and ends in the boxed answer:
//! `3 * 4 = 12, 12 + 5 = 17, \boxed{17}`. Where both operands of a sum or a difference have several digits, it is taken
//! digit by digit from the right with its carry: `7 + 5 = 12, 4 + 8 + 1 = 13, \boxed{132}`.
//!
//! A warm start that is to leave something to reinforcement learning shows bad habits too: [`with_guesses`] and
//! [`with_slips`].

use serde::Serialize;

use super::chain::Chain;
use super::draw::below;
use super::generate::ProblemKind;
use super::problem::Problem;
use crate::rng::{Purpose, stream};

/// A problem and its solution in steps; one JSON object with the problem's keys and `solution`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Worked {
    /// The problem.
    #[serde(flatten)]
    pub problem: Problem,
    /// The steps and the boxed answer.
    pub solution: String,
    /// What the problem is made of, if it is a chain of operations.
    #[serde(skip)]
    pub(super) chain: Option<Chain>,
}

/// The solution of a problem of `kind` with the operands `a`, `b` and, where it has three, `c`. `a` is at least what is
/// taken from it.
pub(super) fn solution(kind: ProblemKind, [a, b, c]: [u64; 3]) -> String {
    let mut steps = Vec::new();
    let answer = match kind {
        ProblemKind::Sum | ProblemKind::Shopping => add(&mut steps, a, b),
        ProblemKind::Difference => subtract(&mut steps, a, b),
        ProblemKind::Product => multiply(&mut steps, a, b),
        ProblemKind::ProductSum => {
            let product = multiply(&mut steps, a, b);
            add(&mut steps, product, c)
        }
        ProblemKind::SumOfThree => {
            let sum = add(&mut steps, a, b);
            add(&mut steps, sum, c)
        }
        ProblemKind::Boxes => {
            let product = multiply(&mut steps, a, b);
            subtract(&mut steps, product, c)
        }
        // A chain tells its own steps.
        ProblemKind::Chain | ProblemKind::Equation | ProblemKind::Story => a,
    };
    steps.push(format!("\\boxed{{{answer}}}"));
    steps.join(", ")
}

/// How far a guess lies from the answer at most.
const GUESS_DISTANCE: u64 = 5;

/// Second id of the stream that guesses are drawn from; the problems themselves use 0 and 1.
const GUESSES: u64 = 2;
/// The same of slips.
const SLIPS: u64 = 3;
/// Finest share.
const RESOLUTION: u64 = 1 << 32;

/// Replaces the solutions of a share of the problems by a guess: no steps, only a boxed number at most
/// 5 from the answer, all of them as likely, the answer too. A model that has learnt the steps first and
/// sees such a file once knows how to do it right and seldom does. `share` is between 0 and 1; the seed decides which.
pub fn with_guesses(mut worked: Vec<Worked>, share: f64, seed: u64) -> Vec<Worked> {
    let threshold = (share.clamp(0.0, 1.0) * RESOLUTION as f64) as u64;
    let mut rng = stream(seed, Purpose::Problems, &[GUESSES]);
    for example in &mut worked {
        let (place, offset) = (below(&mut rng, RESOLUTION), below(&mut rng, 2 * GUESS_DISTANCE + 1));
        if place < threshold
            && let Ok(answer) = example.problem.answer.parse::<u64>()
        {
            let guess = (answer + offset).saturating_sub(GUESS_DISTANCE);
            example.solution = format!("\\boxed{{{guess}}}");
        }
    }
    worked
}

/// Has a share of the steps of every chain of operations make a wrong number, at most 3 from the right one, from which the
/// next step goes on. A model that has learnt the steps first and sees such a file once knows every step and errs in so many
/// of them, wherever they are, as a model that reasons in several steps does. Problems of other kinds stay as they are.
/// `share` is between 0 and 1; the seed decides which.
pub fn with_slips(mut worked: Vec<Worked>, share: f64, seed: u64) -> Vec<Worked> {
    let threshold = (share.clamp(0.0, 1.0) * RESOLUTION as f64) as u64;
    let mut rng = stream(seed, Purpose::Problems, &[SLIPS]);
    for example in &mut worked {
        if let Some(chain) = &example.chain {
            example.solution = chain.slipped(&mut rng, threshold, RESOLUTION);
        }
    }
    worked
}

/// Digits of a number, the last one first.
fn digits(mut number: u64) -> Vec<u64> {
    let mut digits = vec![number % 10];
    while number >= 10 {
        number /= 10;
        digits.push(number % 10);
    }
    digits
}

fn add(steps: &mut Vec<String>, a: u64, b: u64) -> u64 {
    let (left, right) = (digits(a), digits(b));
    if left.len() < 2 || right.len() < 2 {
        steps.push(format!("{a} + {b} = {}", a + b));
        return a + b;
    }
    let mut carry = 0;
    for place in 0..left.len().max(right.len()) {
        let digit = |digits: &[u64]| digits.get(place).copied().unwrap_or_default();
        let (x, y) = (digit(&left), digit(&right));
        let sum = x + y + carry;
        let carried = if carry == 1 { " + 1" } else { "" };
        steps.push(format!("{x} + {y}{carried} = {sum}"));
        carry = sum / 10;
    }
    a + b
}

fn subtract(steps: &mut Vec<String>, a: u64, b: u64) -> u64 {
    let (left, right) = (digits(a), digits(b));
    if left.len() < 2 || right.len() < 2 {
        steps.push(format!("{a} - {b} = {}", a.saturating_sub(b)));
        return a.saturating_sub(b);
    }
    let mut borrow = 0;
    for (place, &x) in left.iter().enumerate() {
        let y = right.get(place).copied().unwrap_or_default();
        let borrowed = if borrow == 1 { " - 1" } else { "" };
        borrow = u64::from(x < y + borrow);
        let top = x + 10 * borrow;
        let taken = y + u64::from(!borrowed.is_empty());
        steps.push(format!("{top} - {y}{borrowed} = {}", top - taken));
    }
    a.saturating_sub(b)
}

/// One partial product for each digit of `b` that is not 0, then their sum.
fn multiply(steps: &mut Vec<String>, a: u64, b: u64) -> u64 {
    let mut place = 1;
    let mut total: Option<u64> = None;
    for digit in digits(b) {
        if digit > 0 {
            let part = digit * place;
            steps.push(format!("{a} * {part} = {}", a * part));
            total = Some(total.map_or(a * part, |sum| add(steps, sum, a * part)));
        }
        place *= 10;
    }
    total.unwrap_or_else(|| {
        steps.push(format!("{a} * {b} = 0"));
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solutions_go_step_by_step() {
        let check = |kind, operands, expected: &str| assert_eq!(solution(kind, operands), expected);
        check(ProblemKind::Sum, [3, 4, 0], "3 + 4 = 7, \\boxed{7}");
        check(ProblemKind::Sum, [47, 85, 0], "7 + 5 = 12, 4 + 8 + 1 = 13, \\boxed{132}");
        check(ProblemKind::Shopping, [14, 21, 0], "4 + 1 = 5, 1 + 2 = 3, \\boxed{35}");
        check(ProblemKind::Difference, [9, 4, 0], "9 - 4 = 5, \\boxed{5}");
        check(ProblemKind::Difference, [352, 167, 0], "12 - 7 = 5, 15 - 6 - 1 = 8, 3 - 1 - 1 = 1, \\boxed{185}");
        check(ProblemKind::Difference, [100, 99, 0], "10 - 9 = 1, 10 - 9 - 1 = 0, 1 - 0 - 1 = 0, \\boxed{1}");
        check(ProblemKind::Product, [3, 4, 0], "3 * 4 = 12, \\boxed{12}");
        check(ProblemKind::Product, [12, 30, 0], "12 * 30 = 360, \\boxed{360}");
        let long = "12 * 4 = 48, 12 * 30 = 360, 8 + 0 = 8, 4 + 6 = 10, 0 + 3 + 1 = 4, \\boxed{408}";
        check(ProblemKind::Product, [12, 34, 0], long);
        check(ProblemKind::ProductSum, [3, 4, 5], "3 * 4 = 12, 12 + 5 = 17, \\boxed{17}");
        check(ProblemKind::SumOfThree, [1, 2, 3], "1 + 2 = 3, 3 + 3 = 6, \\boxed{6}");
        check(ProblemKind::Boxes, [6, 4, 9], "6 * 4 = 24, 24 - 9 = 15, \\boxed{15}");
    }
}
