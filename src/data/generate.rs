//! Made-up arithmetic and word problems, so that nothing need be downloaded.
//!
//! Training and held-out problems never share numbers: the split is a property of the operation and its operands, not
//! of the seed or the wording, so any two files of different splits are disjoint.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;

use super::chain::{Asked, Chain};
use super::draw::below;
use super::error::DataError;
use super::problem::Problem;
use super::worked::{Worked, solution};
use crate::rng::{Purpose, seed as stream_seed, stream};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// a + b
    Sum,
    /// a - b, never below 0
    Difference,
    /// a * b
    Product,
    /// a * b + c
    ProductSum,
    /// a + b + c
    SumOfThree,
    /// Somebody has a things and buys b more.
    Shopping,
    /// a boxes of b pens each, c taken out, never below 0
    Boxes,
    /// Several operations with one digit each, from left to right.
    Chain,
    /// The same backwards: a linear equation in x.
    Equation,
    /// Somebody has some things, buys some and gives some away, several times.
    Story,
}

impl ProblemKind {
    /// All kinds.
    pub const ALL: [ProblemKind; 10] = [
        ProblemKind::Sum,
        ProblemKind::Difference,
        ProblemKind::Product,
        ProblemKind::ProductSum,
        ProblemKind::SumOfThree,
        ProblemKind::Shopping,
        ProblemKind::Boxes,
        ProblemKind::Chain,
        ProblemKind::Equation,
        ProblemKind::Story,
    ];

    /// The name on the command line and in `topic`.
    pub fn as_str(self) -> &'static str {
        match self {
            ProblemKind::Sum => "sum",
            ProblemKind::Difference => "difference",
            ProblemKind::Product => "product",
            ProblemKind::ProductSum => "product_sum",
            ProblemKind::SumOfThree => "sum_of_three",
            ProblemKind::Shopping => "shopping",
            ProblemKind::Boxes => "boxes",
            ProblemKind::Chain => "chain",
            ProblemKind::Equation => "equation",
            ProblemKind::Story => "story",
        }
    }

    /// Whether a problem is a chain of operations, so that the number behind `@` is how many, and not of digits.
    pub fn is_chain(self) -> bool {
        matches!(self, ProblemKind::Chain | ProblemKind::Equation | ProblemKind::Story)
    }
}

/// A part of the mix: `kind`, `kind=weight`, `kind@digits` or `kind@digits=weight`. Of chains the number is that of their
/// operations, as in `chain@5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// What is asked.
    pub kind: ProblemKind,
    /// Digits of each operand, 1 to 4; of a chain its operations, 1 to 9.
    pub digits: u32,
    /// Problems of this share are drawn with this weight.
    pub weight: u32,
}

impl FromStr for Share {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Share, DataError> {
        let unknown = || DataError::UnknownKind { text: text.to_string() };
        let (rest, weight) = text.trim().split_once('=').unwrap_or((text.trim(), "1"));
        let (name, digits) = rest.split_once('@').unwrap_or((rest, "1"));
        let kind = ProblemKind::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(unknown)?;
        let most = if kind.is_chain() { 9 } else { 4 };
        let digits = digits.parse().ok().filter(|digits| (1..=most).contains(digits)).ok_or_else(unknown)?;
        let weight = weight.parse().ok().filter(|weight| *weight >= 1).ok_or_else(unknown)?;
        Ok(Share { kind, digits, weight })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}={}", self.kind.as_str(), self.digits, self.weight)
    }
}

/// Which of the two disjoint halves of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Four fifths of the operands.
    Train,
    /// The other fifth.
    HeldOut,
}

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateSpec {
    /// Seed of every draw.
    pub seed: u64,
    /// Number of problems.
    pub count: usize,
    /// What to mix; never empty.
    pub mix: Vec<Share>,
    /// Which numbers may occur.
    pub split: Split,
}

impl GenerateSpec {
    /// The kinds that a model of 135 M parameters can sometimes solve: one-digit sums, products, products with a sum,
    /// and shopping.
    pub fn easy(seed: u64, count: usize, split: Split) -> GenerateSpec {
        let kinds = [ProblemKind::Sum, ProblemKind::Product, ProblemKind::ProductSum, ProblemKind::Shopping];
        let mix = kinds.into_iter().map(|kind| Share { kind, digits: 1, weight: 1 }).collect();
        GenerateSpec { seed, count, mix, split }
    }
}

/// Draws in a row that bring nothing new before the numbers are taken to be used up.
const MOST_IDLE_DRAWS: usize = 10_000;

const PEOPLE: [&str; 16] = [
    "Mia", "Tom", "Anna", "Ben", "Lena", "Omar", "Yuki", "Ivan", "Sara", "Leo", "Nina", "Raj", "Eva", "Paul", "Zoe",
    "Sam",
];

const THINGS: [&str; 12] = [
    "apples", "pens", "books", "marbles", "stickers", "cookies", "oranges", "coins", "shells", "stamps", "cards",
    "buttons",
];

/// Makes `spec.count` problems, all different in their text. The same specification gives the same problems. A kind
/// whose numbers are used up (one-digit sums after about 60) leaves its place to the others.
///
/// # Errors
/// [`DataError::Exhausted`] if all are used up; [`DataError::UnknownKind`] for an empty mix.
pub fn generate(spec: &GenerateSpec) -> Result<Vec<Problem>, DataError> {
    Ok(generate_worked(spec)?.into_iter().map(|worked| worked.problem).collect())
}

/// The same problems with their solutions.
///
/// # Errors
/// As [`generate`].
pub fn generate_worked(spec: &GenerateSpec) -> Result<Vec<Worked>, DataError> {
    let split = match spec.split {
        Split::Train => "train",
        Split::HeldOut => "heldout",
    };
    let mut rng = stream(spec.seed, Purpose::Problems, &[u64::from(spec.split == Split::HeldOut)]);
    let mut mix = spec.mix.clone();
    let mut texts = HashSet::new();
    let mut problems = Vec::with_capacity(spec.count.min(MOST_IDLE_DRAWS));
    while problems.len() < spec.count {
        let share = draw_share(&mut rng, &mix)?;
        let Some(Drawn { text, answer, way }) = draw_new(&mut rng, share, spec.split, &mut texts) else {
            mix.retain(|other| *other != share);
            if mix.is_empty() {
                let (kind, digits, made) = (share.kind.as_str(), share.digits, problems.len());
                return Err(DataError::Exhausted { kind, digits, made });
            }
            continue;
        };
        let problem = Problem {
            name: format!("{split}-{}-{}", spec.seed, problems.len()),
            problem: text,
            answer: answer.to_string(),
            level: Some(share.digits.into()),
            topic: Some(share.kind.as_str().to_string()),
            source: "generated".to_string(),
        };
        let (solution, chain) = match way {
            Way::Operands(operands) => (solution(share.kind, operands), None),
            Way::Chain(chain) => (chain.solution(), Some(chain)),
        };
        problems.push(Worked { problem, solution, chain });
    }
    Ok(problems)
}

/// A problem as it was drawn.
struct Drawn {
    text: String,
    answer: u64,
    way: Way,
}

/// What its solution is made of.
enum Way {
    Operands([u64; 3]),
    Chain(Chain),
}

/// A problem whose text is not yet in `texts`; nothing after [`MOST_IDLE_DRAWS`].
fn draw_new(rng: &mut ChaCha8Rng, share: Share, split: Split, texts: &mut HashSet<String>) -> Option<Drawn> {
    for _ in 0..MOST_IDLE_DRAWS {
        if let Some(drawn) = draw_problem(rng, share, split)
            && texts.insert(drawn.text.clone())
        {
            return Some(drawn);
        }
    }
    None
}

fn draw_share(rng: &mut ChaCha8Rng, mix: &[Share]) -> Result<Share, DataError> {
    let total = mix.iter().map(|share| u64::from(share.weight)).sum();
    let mut left = below(rng, total);
    for share in mix {
        match left.checked_sub(share.weight.into()) {
            Some(rest) => left = rest,
            None => return Ok(*share),
        }
    }
    Err(DataError::UnknownKind { text: String::new() })
}

/// One draw, or nothing where the numbers do not suit the kind or the split.
fn draw_problem(rng: &mut ChaCha8Rng, share: Share, split: Split) -> Option<Drawn> {
    if share.kind.is_chain() {
        return draw_chain(rng, share, split);
    }
    let (least, most) = (10u64.pow(share.digits - 1), 10u64.pow(share.digits) - 1);
    let mut operand = || least + below(rng, most - least + 1);
    let (a, b, c) = (operand(), operand(), operand());
    // Same operation, same operands in whatever order: same split, however it is worded.
    let (operation, operands) = match share.kind {
        ProblemKind::Sum | ProblemKind::Shopping => (0, vec![a.min(b), a.max(b)]),
        ProblemKind::Difference => (1, vec![a, b]),
        ProblemKind::Product => (2, vec![a.min(b), a.max(b)]),
        ProblemKind::ProductSum => (3, vec![a.min(b), a.max(b), c]),
        ProblemKind::SumOfThree => {
            let mut sorted = vec![a, b, c];
            sorted.sort_unstable();
            (4, sorted)
        }
        ProblemKind::Boxes => (5, vec![a.min(b), a.max(b), c]),
        ProblemKind::Chain | ProblemKind::Equation | ProblemKind::Story => return None,
    };
    let mut identity = vec![operation];
    identity.extend(operands);
    if !is_in(split, &identity) {
        return None;
    }
    // "1 pens" is not English.
    let counted: &[u64] = match share.kind {
        ProblemKind::Shopping => &[a],
        ProblemKind::Boxes => &[a, b, c],
        _ => &[],
    };
    if counted.contains(&1) {
        return None;
    }
    let (text, answer) = match share.kind {
        ProblemKind::Sum => (format!("What is {a} + {b}?"), a + b),
        ProblemKind::Difference => (format!("What is {a} - {b}?"), a.checked_sub(b)?),
        ProblemKind::Product => (format!("What is {a} times {b}?"), a * b),
        ProblemKind::ProductSum => (format!("What is {a} * {b} + {c}?"), a * b + c),
        ProblemKind::SumOfThree => (format!("What is {a} + {b} + {c}?"), a + b + c),
        ProblemKind::Shopping => {
            let who = PEOPLE[below(rng, PEOPLE.len() as u64) as usize];
            let what = THINGS[below(rng, THINGS.len() as u64) as usize];
            let text = format!("{who} has {a} {what} and buys {b} more. How many {what} does {who} have now?");
            (text, a + b)
        }
        ProblemKind::Boxes => (
            format!("There are {a} boxes with {b} pens each. Then {c} pens are taken out. How many pens are left?"),
            (a * b).checked_sub(c)?,
        ),
        ProblemKind::Chain | ProblemKind::Equation | ProblemKind::Story => return None,
    };
    Some(Drawn { text, answer, way: Way::Operands([a, b, c]) })
}

/// A chain, or nothing where its numbers do not suit the split.
fn draw_chain(rng: &mut ChaCha8Rng, share: Share, split: Split) -> Option<Drawn> {
    let asked = match share.kind {
        ProblemKind::Equation => Asked::Backward,
        ProblemKind::Story => {
            let who = PEOPLE[below(rng, PEOPLE.len() as u64) as usize];
            let what = THINGS[below(rng, THINGS.len() as u64) as usize];
            Asked::Story { who, what }
        }
        _ => Asked::Forward,
    };
    let chain = Chain::draw(rng, share.digits, asked);
    is_in(split, &chain.identity()).then(|| Drawn {
        text: chain.text(),
        answer: chain.answer(),
        way: Way::Chain(chain),
    })
}

/// Whether an operation with its operands belongs to the split.
fn is_in(split: Split, identity: &[u64]) -> bool {
    let is_held_out = stream_seed(0, Purpose::Eval, identity).is_multiple_of(5);
    is_held_out == (split == Split::HeldOut)
}
