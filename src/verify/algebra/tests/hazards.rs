//! Expressions that are costly, undefined, or nearly equal.

use super::*;

#[test]
fn hazards() {
    use Function::*;
    let power = |parts: &[i64]| parts.iter().rev().map(|part| n(*part)).reduce(|top, base| pow(base, top)).unwrap();
    let factorial = |x: Expr| call(Factorial, &[x]);
    let huge = [
        power(&[9, 9, 9]),
        power(&[9, 9, 9, 9]),
        power(&[9, 8, 8, 9]),
        power(&[9, 9, 9, 9, 9]),
        power(&[7, 77, 777]),
        power(&[2, 2, 108]),
        factorial(n(100_000)),
        factorial(factorial(factorial(n(5)))),
        call(Binomial, &[n(1_000_000), n(500_000)]),
    ];
    for (index, one) in huge.iter().enumerate() {
        assert_eq!(found(one, one).0, Equal, "{one:?}");
        for small in [n(3), q(-1, 2), Expr::Pi, sqrt(n(2)), add(&[n(1), Expr::Imaginary]), n(0)] {
            assert_eq!(found(one, &small).0, Different, "{one:?}");
        }
        for other in &huge[index + 1..] {
            assert_eq!(found(one, other).0, Different, "{one:?} {other:?}");
        }
        assert_eq!(found(one, &add(&[one.clone(), n(1)])).0, Different, "{one:?}");
    }
    let long = Expr::Number(BigRational::from_integer(num_bigint::BigInt::from(10).pow(5000)));
    let zero = div(n(1), n(0));
    check(&[
        (pow(n(2), n(5001)), mul(&[n(2), pow(n(2), n(5000))]), Unknown, Interval),
        (pow(n(10), n(5000)), long.clone(), Unknown, Interval),
        (long, n(3), Different, Exact),
        (zero.clone(), n(3), Different, Exact),
        (zero.clone(), zero.clone(), Unknown, Exact),
        (pow(n(0), n(0)), n(1), Unknown, Exact),
        (pow(n(0), n(0)), pow(n(0), n(0)), Unknown, Exact),
        (pow(n(0), n(-1)), n(1), Different, Exact),
        (call(Ln, &[n(0)]), n(1), Different, Exact),
        (call(Ln, &[n(0)]), call(Ln, &[n(0)]), Unknown, Exact),
        (div(s("x"), sub(s("y"), s("y"))), s("x"), Different, Exact),
        (pow(add(&[n(1), s("x")]), n(10_000)), pow(add(&[n(1), s("x")]), n(10_001)), Different, Interval),
        (pow(add(&[n(1), s("x")]), n(1_000_000_000)), n(1), Different, Interval),
        // A divisor that is zero, but not visibly.
        (div(n(1), sub(sqrt(add(&[n(3), mul(&[n(2), sqrt(n(2))])])), add(&[n(1), sqrt(n(2))]))), n(1), Unknown, Exact),
        // Too close for sixty-four bits, and for taking agreement as equality.
        (add(&[Expr::Pi, pow(n(10), n(-200))]), Expr::Pi, Different, Exact),
        (call(Sin, &[add(&[n(1), pow(n(10), n(-200))])]), call(Sin, &[n(1)]), Unknown, Interval),
        (pow(Expr::Euler, mul(&[Expr::Pi, sqrt(n(163))])), n(262_537_412_640_768_744), Different, Interval),
    ]);
    let mut deep = n(1);
    for _ in 0..1000 {
        deep = sqrt(add(&[deep, n(1)]));
    }
    assert_eq!(found(&deep, &n(3)).0, Unknown);

    // pi + e as a continued fraction: close, but long.
    let mut fraction = n(1);
    for term in [5, 1, 6, 1, 1, 1, 4, 1, 12, 1, 2, 2, 3].repeat(9) {
        fraction = add(&[n(term), div(n(1), fraction)]);
    }
    assert_ne!(found(&fraction, &add(&[Expr::Pi, Expr::Euler])).0, Equal);
    // What is too small to be seen at a point.
    let sin = |x: Expr| call(Sin, &[x]);
    let small = mul(&[pow(n(10), n(-50)), sin(mul(&[n(2), s("x")]))]);
    assert_ne!(found(&add(&[sin(s("x")), small]), &sin(s("x"))).0, Equal);
}
