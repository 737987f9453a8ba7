//! What an answer can be: an expression, or one of the structures around expressions.

use super::expr::Expr;

/// A final answer or a reference, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A number or a function of symbols.
    Expr(Expr),
    /// An expression with what it counts.
    Quantity(Expr, Unit),
    /// Positive or, if `true`, negative infinity.
    Infinity(bool),
    /// `(a, b)`, `[a, b)`, `\langle a, b \rangle`: the order counts, and with two members so do the brackets.
    Tuple {
        /// `(`, `[` or `<`.
        open: char,
        /// `)`, `]` or `>`.
        close: char,
        /// At least one; one alone only in brackets that are no grouping.
        items: Vec<Answer>,
    },
    /// `1, 2` without brackets, `1 \text{ or } 2`, `\pm 1`: several values; at least two.
    List(Vec<Answer>),
    /// `1 \text{ or } 2`: one of several values, of which each is an answer; at least two.
    Either(Vec<Answer>),
    /// `\{1, 2\}`; the empty set too.
    Set(Vec<Answer>),
    /// The rows of a matrix; a single column is a [`Answer::Tuple`].
    Matrix(Vec<Vec<Answer>>),
    /// `A \cup B`, and other operations on sets.
    Combined(SetOperation, Vec<Answer>),
    /// `a = b`, `a < b \le c`: the first side, then each sign with the side behind it; at least one.
    Relation(Box<Answer>, Vec<(Sign, Answer)>),
    /// `\ldots` in the place of members.
    Dots,
    /// Words, in lower case, with single spaces.
    Words(String),
    /// Yes and true, or no and false.
    Truth(bool),
    /// What the parser cannot read: its canonical text.
    Opaque(String),
    /// A certain nonsense: `?`, `--5`, two numbers side by side. Equal to nothing but its own text.
    Nonsense,
}

/// What a number counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `\%`
    Percent,
    /// `^\circ`
    Degree,
    /// Words behind the number, in lower case.
    Words(String),
}

/// Operations on sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOperation {
    /// `\cup`
    Union,
    /// `\cap`
    Intersection,
    /// `\setminus`; the first less all others.
    Difference,
}

/// A sign between two sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// `=`
    Equal,
    /// `\ne`
    NotEqual,
    /// `<`
    Less,
    /// `\le`
    LessOrEqual,
    /// `>`
    Greater,
    /// `\ge`
    GreaterOrEqual,
    /// `\approx`
    About,
    /// `\in`
    In,
    /// `a : b`
    Ratio,
    /// Any other, by its name.
    Other(String),
}
