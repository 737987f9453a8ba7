//! Problems of several steps: a number goes through a chain of operations, each with one digit.
//!
//! The same chain is asked in three ways: from left to right, backwards as a linear equation, and as a story. Its
//! solution is one small step for each operation, so that a slip in any of them loses the answer: a policy that is
//! right in a step with chance p solves a chain of k with p to the k.

use rand_chacha::ChaCha8Rng;

use super::draw::below;

/// Largest number on the way.
const MOST: u64 = 99;
/// How far a slip lies from the right number at most.
const SLIP_DISTANCE: u64 = 3;
/// The number of a chain among the operations of made-up problems: what tells its split from that of a sum.
const CHAIN: u64 = 6;
/// The same of an equation.
const EQUATION: u64 = 7;

/// One operation with the number so far on its left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    Multiply,
}

impl Operation {
    fn sign(self) -> char {
        match self {
            Operation::Add => '+',
            Operation::Subtract => '-',
            Operation::Multiply => '*',
        }
    }

    /// Nothing where the result is not between 0 and [`MOST`].
    fn apply(self, value: u64, operand: u64) -> Option<u64> {
        let result = match self {
            Operation::Add => value.checked_add(operand)?,
            Operation::Subtract => value.checked_sub(operand)?,
            Operation::Multiply => value.checked_mul(operand)?,
        };
        (result <= MOST).then_some(result)
    }
}

/// In which words a chain is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// From left to right.
    Forward,
    /// The result is given, and what it began with is wanted.
    Backward,
    /// In words, with `who` and `what`; sums and differences only.
    Story {
        /// Whose things.
        who: &'static str,
        /// What they are.
        what: &'static str,
    },
}

/// A number and what happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    start: u64,
    steps: Vec<(Operation, u64)>,
    asked: Asked,
}

impl Chain {
    /// A chain of `count` operations with numbers from 2 to 9, no result of which is above 99.
    pub fn draw(rng: &mut ChaCha8Rng, count: u32, asked: Asked) -> Chain {
        let start = 2 + below(rng, 8);
        let mut value = start;
        let mut steps = Vec::with_capacity(count as usize);
        while steps.len() < count as usize {
            let kinds = if matches!(asked, Asked::Story { .. }) { 2 } else { 3 };
            let operation = match below(rng, kinds) {
                0 => Operation::Add,
                1 => Operation::Subtract,
                _ => Operation::Multiply,
            };
            let operand = 2 + below(rng, 8);
            // A difference can always be followed by a sum and the other way round, so this ends. A product with 0 says
            // nothing of what it began with.
            if let Some(result) = operation.apply(value, operand).filter(|&result| result > 0) {
                value = result;
                steps.push((operation, operand));
            }
        }
        Chain { start, steps, asked }
    }

    /// What decides the split: equal for the same numbers in the same order, however they are worded.
    pub fn identity(&self) -> Vec<u64> {
        let kind = if self.asked == Asked::Backward { EQUATION } else { CHAIN };
        let steps = self.steps.iter().flat_map(|&(operation, operand)| [operation as u64, operand]);
        [kind, self.start].into_iter().chain(steps).collect()
    }

    fn result(&self) -> u64 {
        let step = |value, &(operation, operand): &(Operation, u64)| operation.apply(value, operand);
        // `draw` lets only results within the bound through.
        self.steps.iter().try_fold(self.start, step).unwrap_or_default()
    }

    /// What is right.
    pub fn answer(&self) -> u64 {
        match self.asked {
            Asked::Backward => self.start,
            Asked::Forward | Asked::Story { .. } => self.result(),
        }
    }

    /// The question.
    pub fn text(&self) -> String {
        match self.asked {
            Asked::Forward => {
                let steps: String =
                    self.steps.iter().map(|(operation, operand)| format!(" {} {operand}", operation.sign())).collect();
                format!("From left to right, what is {}{steps}?", self.start)
            }
            Asked::Backward => format!("Solve {} = {}.", self.expression(), self.result()),
            Asked::Story { who, what } => {
                let mut text = format!("{who} has {} {what}.", self.start);
                for (operation, operand) in &self.steps {
                    text += &match operation {
                        Operation::Subtract => format!(" {who} gives {operand} away."),
                        Operation::Add | Operation::Multiply => format!(" {who} buys {operand} more."),
                    };
                }
                text + &format!(" How many {what} does {who} have now?")
            }
        }
    }

    /// The left side of the equation: a product has what is added before it in brackets.
    fn expression(&self) -> String {
        let (mut expression, mut is_sum) = ("x".to_owned(), false);
        for &(operation, operand) in &self.steps {
            let is_product = operation == Operation::Multiply;
            let before = if is_product && is_sum { format!("({expression})") } else { expression };
            expression = format!("{before} {} {operand}", operation.sign());
            is_sum = !is_product;
        }
        expression
    }

    /// The steps and the boxed answer. `slip` is asked once for each step and adds to what it makes.
    fn worked(&self, mut slip: impl FnMut(u64) -> u64) -> String {
        let mut text = String::new();
        let mut step = |value: u64, sign: char, operand: u64, right: u64| {
            let made = slip(right);
            text += &format!("{value} {sign} {operand} = {made}, ");
            made
        };
        let last = if self.asked == Asked::Backward {
            self.steps.iter().rev().fold(self.result(), |value, &(operation, operand)| match operation {
                Operation::Add => step(value, '-', operand, value.saturating_sub(operand)),
                Operation::Subtract => step(value, '+', operand, value + operand),
                Operation::Multiply => step(value, '/', operand, value / operand.max(1)),
            })
        } else {
            self.steps.iter().fold(self.start, |value, &(operation, operand)| {
                let right = match operation {
                    Operation::Add => value + operand,
                    Operation::Subtract => value.saturating_sub(operand),
                    Operation::Multiply => value * operand,
                };
                step(value, operation.sign(), operand, right)
            })
        };
        text + &format!("\\boxed{{{last}}}")
    }

    /// The solution.
    pub fn solution(&self) -> String {
        self.worked(|right| right)
    }

    /// The solution of somebody who slips: with chance `threshold` / `resolution` a step makes another number, at most 3
    /// from the right one, and the next goes on from there.
    pub fn slipped(&self, rng: &mut ChaCha8Rng, threshold: u64, resolution: u64) -> String {
        self.worked(|right| {
            let (place, draw) = (below(rng, resolution), below(rng, 2 * SLIP_DISTANCE));
            if place >= threshold {
                return right;
            }
            // 1 to 3 above or below; what would be below 0 is above instead.
            let distance = 1 + draw / 2;
            if draw % 2 == 0 { right.checked_sub(distance).unwrap_or(right + distance) } else { right + distance }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    fn chain(asked: Asked) -> Chain {
        let steps = vec![(Operation::Add, 8), (Operation::Multiply, 3), (Operation::Subtract, 6)];
        Chain { start: 7, steps, asked }
    }

    #[test]
    fn one_chain_in_three_ways() {
        let forward = chain(Asked::Forward);
        assert_eq!(forward.text(), "From left to right, what is 7 + 8 * 3 - 6?");
        assert_eq!(forward.solution(), "7 + 8 = 15, 15 * 3 = 45, 45 - 6 = 39, \\boxed{39}");
        let backward = chain(Asked::Backward);
        assert_eq!(backward.text(), "Solve (x + 8) * 3 - 6 = 39.");
        assert_eq!(backward.solution(), "39 + 6 = 45, 45 / 3 = 15, 15 - 8 = 7, \\boxed{7}");
        let asked = Asked::Story { who: "Mia", what: "pens" };
        let story = Chain { steps: vec![(Operation::Add, 8), (Operation::Subtract, 6)], ..chain(asked) };
        let text = "Mia has 7 pens. Mia buys 8 more. Mia gives 6 away. How many pens does Mia have now?";
        assert_eq!((story.text().as_str(), story.answer()), (text, 9));
        assert_eq!(story.identity(), Chain { asked: Asked::Forward, ..story.clone() }.identity());
        assert_ne!(forward.identity(), backward.identity());
    }

    #[test]
    fn a_slip_goes_on_to_the_answer() {
        let mut rng = stream(1, Purpose::Problems, &[9]);
        for asked in [Asked::Forward, Asked::Backward] {
            let chain = chain(asked);
            assert_eq!(chain.slipped(&mut rng, 0, 100), chain.solution());
            let solution = chain.slipped(&mut rng, 100, 100);
            let mut before: Option<u64> = None;
            let steps: Vec<&str> = solution.split(", ").collect();
            for step in &steps[..3] {
                let words: Vec<&str> = step.split(' ').collect();
                let (left, operand, made): (u64, u64, u64) =
                    (words[0].parse().unwrap(), words[2].parse().unwrap(), words[4].parse().unwrap());
                assert!(before.is_none_or(|before| before == left), "{solution}");
                let right = match words[1] {
                    "+" => left + operand,
                    "-" => left.saturating_sub(operand),
                    "*" => left * operand,
                    _ => left / operand,
                };
                assert!((1..=3).contains(&right.abs_diff(made)), "{solution}");
                before = Some(made);
            }
            assert_eq!(steps[3], format!("\\boxed{{{}}}", before.unwrap()));
        }
    }
}
