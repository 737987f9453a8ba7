//! A mathematical expression as a tree: what the parser makes and the algebra compares.

use num_rational::BigRational;

/// An expression. Its depth is bounded by the parser, so that recursion over it is too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// An exact rational number.
    Number(BigRational),
    /// The ratio of a circle's circumference to its diameter.
    Pi,
    /// Euler's number.
    Euler,
    /// The imaginary unit.
    Imaginary,
    /// A variable or a constant without a known value, by its canonical name: `x`, `x_{1}`, `\alpha`, `x'`.
    Symbol(String),
    /// The sum of its terms; at least one.
    Sum(Vec<Expr>),
    /// The product of its factors; at least one.
    Product(Vec<Expr>),
    /// Numerator and denominator.
    Quotient(Box<Expr>, Box<Expr>),
    /// Base and exponent.
    Power(Box<Expr>, Box<Expr>),
    /// The real root of a degree of at least 2 (negative radicands have odd roots), otherwise the principal one.
    Root(u32, Box<Expr>),
    /// A function of arguments.
    Call(Function, Vec<Expr>),
}

/// Functions of an expression. One argument unless stated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are those of mathematics")]
pub enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    /// Natural; `\log` without a base too.
    Ln,
    /// Base, then the number.
    Log,
    Abs,
    Floor,
    Ceiling,
    Factorial,
    /// From how many, how many.
    Binomial,
    /// At least one argument.
    Gcd,
    /// At least one argument.
    Lcm,
    /// At least one argument.
    Max,
    /// At least one argument.
    Min,
    /// Dividend, divisor: the remainder in `0..divisor`.
    Mod,
    /// The entries of a square matrix, row by row; their number is a square.
    Determinant,
    /// Anything else, by its canonical name: equal only to itself of equal arguments. Any number of arguments.
    Named(String),
}
