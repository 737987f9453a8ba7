//! What is equal, and how that is known.

use super::*;

#[test]
fn numbers() {
    let golden = div(add(&[n(1), sqrt(n(5))]), n(2));
    check(&[
        (add(&[n(1), n(2)]), n(3), Equal, Exact),
        (add(&[n(1), n(2)]), n(4), Different, Exact),
        (sqrt(n(12)), mul(&[n(2), sqrt(n(3))]), Equal, Exact),
        (mul(&[sqrt(n(2)), sqrt(n(3))]), sqrt(n(6)), Equal, Exact),
        (div(n(1), sqrt(n(2))), div(sqrt(n(2)), n(2)), Equal, Exact),
        (sqrt(n(-4)), mul(&[n(2), Expr::Imaginary]), Equal, Exact),
        (div(n(1), add(&[n(1), sqrt(n(2))])), sub(sqrt(n(2)), n(1)), Equal, Exact),
        (pow(golden.clone(), n(2)), add(&[golden.clone(), n(1)]), Equal, Exact),
        (sqrt(add(&[n(3), mul(&[n(2), sqrt(n(2))])])), add(&[n(1), sqrt(n(2))]), Equal, Interval),
        (add(&[mul(&[n(2), sqrt(n(3))]), Expr::Pi]), add(&[Expr::Pi, sqrt(n(12))]), Equal, Exact),
        (add(&[mul(&[n(2), sqrt(n(3))]), Expr::Pi]), add(&[Expr::Pi, sqrt(n(13))]), Different, Exact),
        (Expr::Pi, q(355, 113), Different, Exact),
        (add(&[Expr::Pi, Expr::Euler]), q(586, 100), Different, Interval),
        (pow(n(8), q(2, 3)), n(4), Equal, Exact),
        (sqrt(Expr::Imaginary), div(add(&[n(1), Expr::Imaginary]), sqrt(n(2))), Equal, Exact),
        (sqrt(mul(&[n(-9), Expr::Imaginary])), div(mul(&[n(3), sub(n(1), Expr::Imaginary)]), sqrt(n(2))), Equal, Exact),
        (mul(&[n(2), Expr::Pi, call(Function::Ln, &[n(2)])]), mul(&[n(3), sqrt(n(2)), s("x")]), Different, Exact),
        (Expr::Root(3, Box::new(n(-8))), n(-2), Equal, Exact),
        (pow(n(-8), q(1, 3)), n(-2), Unknown, Exact),
        (pow(Expr::Imaginary, n(6)), n(-1), Equal, Exact),
        (pow(Expr::Euler, mul(&[Expr::Imaginary, Expr::Pi])), n(-1), Equal, Exact),
        (pow(Expr::Imaginary, Expr::Imaginary), pow(Expr::Euler, mul(&[q(-1, 2), Expr::Pi])), Equal, Interval),
        (mul(&[sqrt(n(1_000_003)), sqrt(n(1_000_003))]), n(1_000_003), Equal, Exact),
        (pow(n(4), n(16)), pow(n(2), n(32)), Equal, Exact),
        (pow(n(10), q(61, 10)), mul(&[pow(n(10), n(6)), pow(n(10), q(1, 10))]), Equal, Exact),
    ]);
}

#[test]
fn functions_of_numbers() {
    use Function::*;
    let ln = |x: Expr| call(Ln, &[x]);
    let turn = |over, under| mul(&[q(over, under), Expr::Pi]);
    check(&[
        (ln(n(6)), add(&[ln(n(2)), ln(n(3))]), Equal, Exact),
        (ln(q(1, 2)), mul(&[n(-1), ln(n(2))]), Equal, Exact),
        (ln(Expr::Euler), n(1), Equal, Exact),
        (ln(sqrt(n(8))), mul(&[q(3, 2), ln(n(2))]), Equal, Exact),
        (call(Log, &[n(2), n(8)]), n(3), Equal, Exact),
        (call(Log, &[n(6), n(36)]), n(2), Equal, Exact),
        (div(ln(n(9)), ln(n(3))), n(2), Equal, Exact),
        (ln(n(2)), q(693_147, 1_000_000), Different, Exact),
        (div(ln(n(2)), ln(n(3))), q(63, 100), Different, Interval),
        (call(Sin, &[turn(1, 6)]), q(1, 2), Equal, Exact),
        (call(Cos, &[turn(7, 4)]), div(sqrt(n(2)), n(2)), Equal, Exact),
        (call(Tan, &[turn(2, 3)]), mul(&[n(-1), sqrt(n(3))]), Equal, Exact),
        (call(Cos, &[turn(1, 5)]), div(add(&[n(1), sqrt(n(5))]), n(4)), Equal, Exact),
        (call(Sin, &[turn(1, 10)]), div(sub(sqrt(n(5)), n(1)), n(4)), Equal, Exact),
        (call(Cos, &[turn(1, 7)]), call(Sin, &[turn(5, 14)]), Equal, Exact),
        (call(Tan, &[turn(1, 2)]), n(5), Different, Exact),
        (call(Sec, &[turn(1, 3)]), n(2), Equal, Exact),
        (call(Arctan, &[n(1)]), turn(1, 4), Equal, Exact),
        (call(Arcsin, &[div(sqrt(n(3)), n(2))]), turn(1, 3), Equal, Exact),
        (call(Arccos, &[q(-1, 2)]), turn(2, 3), Equal, Exact),
        (add(&[call(Arctan, &[q(1, 2)]), call(Arctan, &[q(1, 3)])]), turn(1, 4), Equal, Interval),
        (call(Abs, &[sub(n(1), sqrt(n(2)))]), sub(sqrt(n(2)), n(1)), Equal, Exact),
        (call(Abs, &[add(&[n(3), mul(&[n(4), Expr::Imaginary])])]), n(5), Equal, Exact),
        (call(Floor, &[mul(&[n(100), Expr::Pi])]), n(314), Equal, Exact),
        (call(Ceiling, &[q(-7, 2)]), n(-3), Equal, Exact),
        (call(Factorial, &[n(5)]), n(120), Equal, Exact),
        (call(Binomial, &[n(10), n(3)]), n(120), Equal, Exact),
        (call(Gcd, &[n(12), n(18)]), n(6), Equal, Exact),
        (call(Lcm, &[n(4), n(6)]), n(12), Equal, Exact),
        (call(Max, &[sqrt(n(2)), n(1)]), sqrt(n(2)), Equal, Exact),
        (call(Mod, &[pow(n(2), n(100_000)), n(7)]), n(2), Equal, Exact),
        (call(Mod, &[n(-7), n(3)]), n(2), Equal, Exact),
        (call(Sinh, &[ln(n(2))]), q(3, 4), Equal, Exact),
        (call(Cosh, &[n(0)]), n(1), Equal, Exact),
        (mul(&[call(Cos, &[turn(1, 30)]), call(Sin, &[turn(1, 15)])]), q(1, 5), Different, Interval),
    ]);
}

#[test]
fn functions_of_symbols() {
    use Function::*;
    let (x, y, k) = (s("x"), s("y"), s("n"));
    let f = |x: Expr| call(Named("f".to_string()), &[x]);
    let g = |x: Expr| call(Named("g".to_string()), &[x]);
    let square = |x: Expr| pow(x, n(2));
    check(&[
        (sub(square(x.clone()), n(1)), mul(&[sub(x.clone(), n(1)), add(&[x.clone(), n(1)])]), Equal, Exact),
        (sub(square(x.clone()), n(1)), sub(square(x.clone()), n(2)), Different, Exact),
        (x.clone(), y.clone(), Different, Exact),
        (x.clone(), n(3), Different, Exact),
        (div(sub(square(x.clone()), n(1)), sub(x.clone(), n(1))), add(&[x.clone(), n(1)]), Equal, Exact),
        (pow(n(2), add(&[k.clone(), n(1)])), mul(&[n(2), pow(n(2), k.clone())]), Equal, Exact),
        (pow(n(4), k.clone()), pow(n(2), mul(&[n(2), k.clone()])), Equal, Exact),
        (pow(n(6), k.clone()), mul(&[pow(n(2), k.clone()), pow(n(3), k.clone())]), Equal, Exact),
        (pow(n(2), k.clone()), pow(n(3), k.clone()), Different, Interval),
        (
            pow(x.clone(), add(&[k.clone(), y.clone()])),
            mul(&[pow(x.clone(), k.clone()), pow(x.clone(), y.clone())]),
            Equal,
            Exact,
        ),
        (pow(n(-1), add(&[k.clone(), n(1)])), pow(n(-1), sub(k.clone(), n(1))), Equal, Exact),
        (pow(n(-1), k.clone()), pow(n(-1), add(&[k.clone(), n(1)])), Different, Interval),
        (sqrt(mul(&[x.clone(), y.clone()])), mul(&[sqrt(x.clone()), sqrt(y.clone())]), Equal, Exact),
        (sqrt(square(x.clone())), call(Abs, &[x.clone()]), Equal, Exact),
        (sqrt(square(x.clone())), x.clone(), Unknown, Interval),
        (call(Abs, &[x.clone()]), x.clone(), Unknown, Interval),
        (call(Abs, &[sub(x.clone(), n(5))]), sub(n(5), x.clone()), Unknown, Interval),
        (call(Abs, &[sub(x.clone(), y.clone())]), call(Abs, &[sub(y.clone(), x.clone())]), Equal, Exact),
        (sqrt(square(sub(x.clone(), n(5)))), sub(n(5), x.clone()), Unknown, Interval),
        (
            div(n(1), sqrt(add(&[n(1), square(x.clone())]))),
            div(sqrt(add(&[n(1), square(x.clone())])), add(&[n(1), square(x.clone())])),
            Equal,
            Exact,
        ),
        (add(&[square(call(Sin, &[x.clone()])), square(call(Cos, &[x.clone()]))]), n(1), Equal, Interval),
        (call(Sin, &[mul(&[n(-1), x.clone()])]), mul(&[n(-1), call(Sin, &[x.clone()])]), Equal, Exact),
        (call(Sin, &[add(&[x.clone(), Expr::Pi])]), mul(&[n(-1), call(Sin, &[x.clone()])]), Equal, Exact),
        (call(Cos, &[sub(x.clone(), mul(&[q(1, 2), Expr::Pi]))]), call(Sin, &[x.clone()]), Equal, Exact),
        (
            call(Sin, &[add(&[mul(&[n(-1), x.clone()]), mul(&[q(1, 2), Expr::Pi])])]),
            call(Cos, &[x.clone()]),
            Equal,
            Exact,
        ),
        (
            call(Sin, &[mul(&[n(2), x.clone()])]),
            mul(&[n(2), call(Sin, &[x.clone()]), call(Cos, &[x.clone()])]),
            Equal,
            Interval,
        ),
        (call(Tan, &[x.clone()]), div(call(Sin, &[x.clone()]), call(Cos, &[x.clone()])), Equal, Exact),
        (call(Sinh, &[x.clone()]), call(Cosh, &[x.clone()]), Different, Interval),
        (call(Ln, &[pow(Expr::Euler, x.clone())]), x.clone(), Equal, Exact),
        (pow(Expr::Euler, mul(&[n(2), call(Ln, &[x.clone()])])), square(x.clone()), Equal, Exact),
        (call(Ln, &[mul(&[n(2), x.clone()])]), add(&[call(Ln, &[n(2)]), call(Ln, &[x.clone()])]), Equal, Exact),
        (
            call(Factorial, &[add(&[k.clone(), n(1)])]),
            mul(&[add(&[k.clone(), n(1)]), call(Factorial, &[k.clone()])]),
            Equal,
            Exact,
        ),
        (call(Binomial, &[k.clone(), n(2)]), div(mul(&[k.clone(), sub(k.clone(), n(1))]), n(2)), Equal, Exact),
        (call(Binomial, &[k.clone(), sub(k.clone(), n(1))]), k.clone(), Equal, Exact),
        (call(Ceiling, &[div(k.clone(), n(2))]), mul(&[n(-1), call(Floor, &[div(k.clone(), n(-2))])]), Equal, Exact),
        (call(Floor, &[div(k.clone(), n(2))]), div(k.clone(), n(2)), Different, Interval),
        (call(Cos, &[mul(&[k.clone(), Expr::Pi])]), pow(n(-1), k.clone()), Equal, Interval),
        (pow(Expr::Imaginary, mul(&[n(2), k.clone()])), pow(n(-1), k.clone()), Equal, Interval),
        (sqrt(mul(&[square(x.clone()), square(y.clone())])), mul(&[x.clone(), y.clone()]), Unknown, Interval),
        (pow(Expr::Imaginary, Expr::Imaginary), add(&[x.clone(), n(1)]), Different, Interval),
        (call(Max, &[x.clone(), y.clone()]), call(Max, &[y.clone(), x.clone()]), Equal, Exact),
        (add(&[f(add(&[x.clone(), x.clone()])), n(1)]), add(&[n(1), f(mul(&[n(2), x.clone()]))]), Equal, Exact),
        (f(x.clone()), mul(&[n(2), f(x.clone())]), Different, Exact),
        (f(x.clone()), g(x.clone()), Unknown, Exact),
        (f(x.clone()), x.clone(), Unknown, Exact),
        (call(Sin, &[f(x.clone())]), call(Cos, &[f(x.clone())]), Different, Interval),
        (call(Sin, &[f(x.clone())]), call(Cos, &[g(x.clone())]), Unknown, Interval),
    ]);
}
