//! Texts and what they are read as.

use super::super::answer::{Answer, Sign, Unit};
use super::super::budget::Budget;
use super::super::expr::{Expr, Function};
use super::super::latex::tokens;
use super::{Reading, parse, prepare};

fn read(text: &str) -> Answer {
    let usual = Reading { commas_group: true, letters_call: true, decimal_comma: false, log_is_decimal: false };
    parse(&prepare(tokens(text)), usual, &mut Budget::new(1_000_000)).unwrap().answer
}

fn number(value: i64) -> Expr {
    super::expression::number(value)
}

fn symbol(name: &str) -> Expr {
    Expr::Symbol(name.to_string())
}

#[track_caller]
fn expr(text: &str, expected: Expr) {
    assert_eq!(read(text), Answer::Expr(expected), "{text}");
}

#[test]
fn figures() {
    for (text, numerator, denominator) in [
        ("042", 42, 1),
        ("1,234,567.5", 2_469_135, 2),
        ("1{,}234", 1234, 1),
        ("1,\\!234", 1234, 1),
        ("10\\,000", 10_000, 1),
        (".5", 1, 2),
        ("2.5e3", 2500, 1),
        ("6.5E-2", 13, 200),
        ("2\\frac{1}{2}", 5, 2),
        ("2 1/2", 5, 2),
        ("0.1\\overline{6}", 1, 6),
        ("0.\\overline{142857}", 1, 7),
    ] {
        let value = num_rational::BigRational::new(numerator.into(), denominator.into());
        expr(text, Expr::Number(value));
    }
    assert!(matches!(read("1, 234"), Answer::List(items) if items.len() == 2));
    assert!(matches!(read("(1,234)"), Answer::Tuple { items, .. } if items.len() == 2));
}

#[test]
fn products_and_calls() {
    expr("2x", Expr::Product(vec![number(2), symbol("x")]));
    expr("x_1", symbol("x_{1}"));
    expr("W^{1,2}_0", symbol("W^{1,2}_{0}"));
    let n_minus_1 = Expr::Sum(vec![symbol("n"), number(-1)]);
    expr("n(n-1)", Expr::Product(vec![symbol("n"), n_minus_1]));
    let called = |name: &str, argument: Expr| Expr::Call(Function::Named(name.into()), vec![argument]);
    expr("f(x)", called("f", symbol("x")));
    expr("\\phi(0)", called("\\phi", number(0)));
    let sine = |argument: Expr| Expr::Call(Function::Sin, vec![argument]);
    expr("\\sin 2x", sine(Expr::Product(vec![number(2), symbol("x")])));
    expr("\\sin^2 x", Expr::Power(Box::new(sine(symbol("x"))), Box::new(number(2))));
    let cosine = Expr::Call(Function::Cos, vec![symbol("a")]);
    expr("\\sin b \\cos a", Expr::Product(vec![sine(symbol("b")), cosine]));
    expr("\\log_2 8", Expr::Call(Function::Log, vec![number(2), number(8)]));
}

#[test]
fn structures() {
    let text = "\\left( -\\infty, 3 \\right]";
    let items = vec![Answer::Infinity(true), Answer::Expr(number(3))];
    assert_eq!(read(text), Answer::Tuple { open: '(', close: ']', items });
    assert_eq!(read("\\{\\}"), Answer::Set(Vec::new()));
    assert!(matches!(read("\\{1 \\pm \\sqrt{5}, -2\\}"), Answer::Set(items) if items.len() == 3));
    assert!(matches!(read("(2, \\pm 12)"), Answer::List(items) if items.len() == 2));
    assert!(matches!(read("2, 3 \\text{ and } 5"), Answer::List(items) if items.len() == 3));
    assert!(matches!(read("0 < x \\le 1"), Answer::Relation(_, rest) if rest[1].0 == Sign::LessOrEqual));
    let column = "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}";
    assert!(matches!(read(column), Answer::Tuple { items, .. } if items.len() == 2));
    assert!(
        matches!(read("\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}"), Answer::Matrix(rows) if rows.len() == 2)
    );
    assert!(matches!(read("(-1,0) \\cup (0,1)"), Answer::Combined(_, parts) if parts.len() == 2));
}

#[test]
fn words_and_units() {
    let seven = |words: &str| Answer::Quantity(number(7), Unit::Words(words.into()));
    assert_eq!(read("7 \\text{ apples}"), seven("apples"));
    assert_eq!(read("7 apples"), seven("apples"));
    assert_eq!(read("7\\,\\mathrm{m/s}^2"), seven("m/s^2"));
    assert_eq!(read("7\\%"), Answer::Quantity(number(7), Unit::Percent));
    assert_eq!(read("7^{\\circ}"), Answer::Quantity(number(7), Unit::Degree));
    assert_eq!(read("\\text{The answer is } 7"), Answer::Expr(number(7)));
    assert_eq!(read("\\text{not } 7"), Answer::Words("not 7".into()));
    assert_eq!(read("\\text{Yes, it does.}"), Answer::Truth(true));
    assert_eq!(read("\\text{yes and no}"), Answer::Words("yes and no".into()));
    assert_eq!(read("No solution"), Answer::Words("no solution".into()));
}

#[test]
fn what_cannot_be_read_is_kept_as_text() {
    for text in ["2 3", "(1", "\\frac{1}{2", "1 +", "a^b^c", "\\unknown{x}"] {
        assert!(matches!(read(text), Answer::Opaque(_)), "{text}: {:?}", read(text));
    }
    assert_eq!(read("\\infty - \\infty"), Answer::Nonsense);
    assert_eq!(read(&format!("{}1{}", "(".repeat(100), ")".repeat(100))), Answer::Nonsense);
    assert_eq!(read("L = \\unknown{x}_{1}"), read("(\\unknown x_1)"));
}
