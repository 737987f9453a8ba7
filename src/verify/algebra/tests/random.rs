//! Random expressions.

use super::*;

/// A random expression of numbers, or of numbers and symbols.
pub(super) fn random(depth: u32, symbols: bool) -> impl proptest::strategy::Strategy<Value = Expr> {
    use proptest::prelude::*;
    let number = (-6_i64..12, 1_i64..7).prop_map(|(over, under)| q(over, under));
    let symbol = if symbols { prop_oneof![Just(s("x")), Just(s("n"))].boxed() } else { Just(Expr::Pi).boxed() };
    let leaf =
        prop_oneof![6 => number, 2 => symbol, 1 => Just(Expr::Pi), 1 => Just(Expr::Euler), 1 => Just(Expr::Imaginary)];
    let one = [
        Function::Sin,
        Function::Cos,
        Function::Tan,
        Function::Arctan,
        Function::Arcsin,
        Function::Arccos,
        Function::Ln,
        Function::Abs,
        Function::Floor,
        Function::Ceiling,
        Function::Sinh,
        Function::Tanh,
        Function::Cot,
    ];
    leaf.prop_recursive(depth, 24, 3, move |inner| {
        let exponent = prop_oneof![
            3 => (-3_i64..5).prop_map(n),
            2 => (-5_i64..6, 2_i64..5).prop_map(|(over, under)| q(over, under)),
            1 => inner.clone()
        ];
        prop_oneof![
            3 => proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| add(&parts)),
            3 => proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| mul(&parts)),
            2 => (inner.clone(), inner.clone()).prop_map(|(one, other)| div(one, other)),
            2 => (inner.clone(), exponent).prop_map(|(one, other)| pow(one, other)),
            2 => (2_u32..5, inner.clone()).prop_map(|(degree, inside)| Expr::Root(degree, Box::new(inside))),
            3 => (proptest::sample::select(one.to_vec()), inner.clone()).prop_map(|(function, inside)| call(function, &[inside])),
            1 => (inner.clone(), inner.clone()).prop_map(|(one, other)| call(Function::Max, &[one, other])),
            1 => (1_i64..5).prop_map(|value| mul(&[n(value), Expr::Pi])),
            1 => (-9_i64..9, 1_i64..13).prop_map(|(over, under)| mul(&[q(over, under), Expr::Pi])),
        ]
    })
}

/// The expression as short text.
pub(super) fn show(expr: &Expr) -> String {
    let all = |parts: &[Expr], between: &str| parts.iter().map(show).collect::<Vec<_>>().join(between);
    match expr {
        Expr::Number(value) => format!("{value}"),
        Expr::Symbol(name) => name.clone(),
        Expr::Sum(parts) => format!("({})", all(parts, " + ")),
        Expr::Product(parts) => format!("({})", all(parts, " * ")),
        Expr::Quotient(one, other) => format!("({}) / ({})", show(one), show(other)),
        Expr::Power(one, other) => format!("({})^({})", show(one), show(other)),
        Expr::Root(degree, inside) => format!("root{degree}({})", show(inside)),
        Expr::Call(function, parts) => format!("{function:?}({})", all(parts, ", ")),
        other => format!("{other:?}"),
    }
}

/// The normal form of an expression has the value of the expression, where both have one.
fn check_form(expr: &Expr) {
    let mut budget = Budget::new(200_000);
    let mut forms = Forms::new(&mut budget);
    let Ok(form) = forms.form(expr) else { return };
    let back = forms.form_expr(&form);
    let points: &[&[(i64, i64)]] = if is_constant(expr) { &[&[]] } else { &[&[(7, 2), (3, 2)], &[(5, 1), (1, 3)]] };
    for point in points {
        let values: Vec<(String, ball::Ball)> = point
            .iter()
            .zip(["n", "x"])
            .map(|((over, twos), name)| (name.to_string(), ball::Ball { mid: (*over).into(), radius: 0, scale: -twos }))
            .collect();
        let mut budget = Budget::new(1_000_000);
        let one = numeric::Evaluation::new(256, &values, &mut budget).value(expr);
        let other = numeric::Evaluation::new(256, &values, &mut budget).value(&back);
        if let (Ok(one), Ok(other)) = (one, other) {
            assert!(!one.is_apart(&other, 256), "{}\n became {}\n {one:?}\n {other:?}", show(expr), show(&back));
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(
        std::env::var("ALGEBRA_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
    ))]

    #[test]
    fn forms_keep_the_value(expr in random(4, false)) {
        check_form(&expr);
    }

    #[test]
    fn forms_keep_the_function(expr in random(4, true)) {
        check_form(&expr);
    }
}

/// The expression in another way: `way` picks one of several identities at each part.
fn rewritten(expr: &Expr, way: &mut u64) -> Expr {
    *way = way.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let choice = (*way >> 33) % 8;
    let mut all = |parts: &[Expr]| {
        let mut parts: Vec<Expr> = parts.iter().map(|part| rewritten(part, way)).collect();
        parts.reverse();
        parts
    };
    let inner = match expr {
        Expr::Sum(parts) => Expr::Sum(all(parts)),
        Expr::Product(parts) => Expr::Product(all(parts)),
        Expr::Quotient(one, other) => {
            let (one, other) = (rewritten(one, way), rewritten(other, way));
            if choice.is_multiple_of(2) { mul(&[one, pow(other, n(-1))]) } else { div(one, other) }
        }
        Expr::Power(one, other) => match &**other {
            Expr::Number(value) if *value == BigRational::from_integer(2.into()) => {
                mul(&[rewritten(one, way), (**one).clone()])
            }
            _ => pow(rewritten(one, way), (**other).clone()),
        },
        Expr::Root(degree, inside) => Expr::Root(*degree, Box::new(rewritten(inside, way))),
        Expr::Call(Function::Tan, parts) => div(call(Function::Sin, parts), call(Function::Cos, parts)),
        Expr::Call(function, parts) => {
            Expr::Call(function.clone(), parts.iter().map(|part| rewritten(part, way)).collect())
        }
        other => other.clone(),
    };
    match choice {
        0 => sub(add(&[inner, n(3)]), n(3)),
        1 => div(mul(&[inner, sqrt(n(2))]), sqrt(n(2))),
        2 => sub(mul(&[n(2), inner.clone()]), inner),
        3 => add(&[mul(&[q(1, 3), inner.clone()]), div(mul(&[n(2), inner]), n(3))]),
        4 => div(mul(&[inner, add(&[n(1), sqrt(n(5))])]), add(&[sqrt(n(5)), n(1)])),
        _ => inner,
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(
        std::env::var("ALGEBRA_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
    ))]

    #[test]
    fn what_is_rewritten_is_never_different(expr in random(4, true), mut way in proptest::num::u64::ANY) {
        let other = rewritten(&expr, &mut way);
        let relation = compare(&expr, &other, &mut Budget::new(200_000)).relation;
        assert_ne!(relation, Different, "{}\n as {}", show(&expr), show(&other));
    }

    #[test]
    fn what_is_shifted_is_never_equal(expr in random(4, true), mut way in proptest::num::u64::ANY, by in 1_i64..9) {
        let other = add(&[rewritten(&expr, &mut way), q(by, 7)]);
        let relation = compare(&expr, &other, &mut Budget::new(200_000)).relation;
        assert_ne!(relation, Equal, "{}\n as {}", show(&expr), show(&other));
    }
}

/// Coefficients, lowest first, of the product of `x - root`.
fn expanded(roots: &[i64]) -> Vec<i64> {
    roots.iter().fold(vec![1], |known, root| {
        let mut next = vec![0; known.len() + 1];
        for (power, value) in known.iter().enumerate() {
            next[power + 1] += value;
            next[power] -= value * root;
        }
        next
    })
}

fn polynomial(coefficients: &[i64], x: &Expr) -> Expr {
    let term = |(power, value): (usize, &i64)| mul(&[n(*value), pow(x.clone(), n(power as i64))]);
    add(&coefficients.iter().enumerate().map(term).collect::<Vec<_>>())
}

proptest::proptest! {
    #[test]
    fn factored_polynomials(roots in proptest::collection::vec(-9_i64..10, 1..7), place in 0_usize..7, by in 1_i64..5) {
        let (x, coefficients) = (s("x"), expanded(&roots));
        let factored = mul(&roots.iter().map(|root| sub(x.clone(), n(*root))).collect::<Vec<_>>());
        // With x as it is, as a root of an integer, and as something with a power of e.
        for inside in [x.clone(), add(&[sqrt(n(7)), s("y")]), pow(Expr::Euler, s("t"))] {
            let factored = mul(&roots.iter().map(|root| sub(inside.clone(), n(*root))).collect::<Vec<_>>());
            assert_eq!(found(&factored, &polynomial(&coefficients, &inside)), (Equal, Exact));
        }
        let mut other = coefficients.clone();
        other[place % coefficients.len()] += by;
        assert_eq!(found(&factored, &polynomial(&other, &x)), (Different, Exact));
        // A common factor over another, and a multiple of an equation.
        let shared = sub(x.clone(), n(17));
        let fraction = div(mul(&[factored.clone(), shared.clone()]), mul(&[shared, n(by)]));
        assert_eq!(found(&fraction, &div(polynomial(&coefficients, &x), n(by))), (Equal, Exact));
        let multiple = mul(&[q(-by, 3), polynomial(&coefficients, &x)]);
        let ratio = proportion(&multiple, &factored, &mut Budget::new(20_000));
        assert_eq!(ratio, Some(BigRational::new((-by).into(), 3.into())));
    }

    #[test]
    fn partial_fractions(a in 1_i64..9, b in -9_i64..0, r in -5_i64..5, t in 6_i64..9) {
        let x = s("x");
        let under = |root: i64| sub(x.clone(), n(root));
        let split = add(&[div(n(a), under(r)), div(n(b), under(t))]);
        let over = add(&[mul(&[n(a + b), x.clone()]), n(-(a * t + b * r))]);
        assert_eq!(found(&split, &div(over.clone(), mul(&[under(r), under(t)]))), (Equal, Exact));
        assert_eq!(found(&split, &div(add(&[over, n(1)]), mul(&[under(r), under(t)]))), (Different, Exact));
    }

    #[test]
    fn quadratic_numbers(a in -9_i64..9, b in 1_i64..9, c in 2_i64..50, d in -9_i64..9) {
        let number = |a: i64, b: i64| add(&[n(a), mul(&[n(b), sqrt(n(c))])]);
        let product = mul(&[number(a, b), number(d, -b)]);
        let expanded = number(a * d - b * b * c, b * d - a * b);
        assert_eq!(found(&product, &expanded), (Equal, Exact));
        let value = (a as f64) + (b as f64) * (c as f64).sqrt();
        if value.abs() > 1e-9 {
            let sign = sign(&number(a, b), &mut Budget::new(20_000));
            assert_eq!(sign, value.partial_cmp(&0.0));
            let inverse = div(number(a, -b), n(a * a - b * b * c));
            if a * a != b * b * c {
                assert_eq!(found(&div(n(1), number(a, b)), &inverse), (Equal, Exact));
            }
        }
        let norm = rational(&mul(&[number(a, b), number(a, -b)]), &mut Budget::new(20_000));
        assert_eq!(norm, Some(BigRational::from_integer((a * a - b * b * c).into())));
    }
}
