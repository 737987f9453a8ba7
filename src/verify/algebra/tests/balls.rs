//! Balls against floating point, and against themselves at a higher precision.

use num_traits::ToPrimitive;
use proptest::prelude::*;

use super::random::{random, show};
use super::*;
use crate::verify::algebra::ball::Ball;
use crate::verify::algebra::elementary;
use crate::verify::algebra::numeric::Evaluation;

fn exact(value: f64) -> Ball {
    let value = BigRational::from_float(value).unwrap();
    Ball::rational(&rational::Rational::from_ref(&value), 512).unwrap()
}

/// Midpoint as floating point.
fn float(ball: &Ball) -> f64 {
    let bits = ball.mid.bits().saturating_sub(60);
    let scale = i32::try_from(ball.scale + bits.cast_signed()).unwrap();
    (&ball.mid >> bits).to_i64().unwrap() as f64 * 2f64.powi(scale)
}

#[track_caller]
fn near(ball: &Ball, value: f64) {
    assert!((float(ball) - value).abs() <= 1e-9 * value.abs().max(1.0), "{ball:?} is {}, not {value}", float(ball));
}

/// Values of the two precisions that share no number disprove a bound.
#[track_caller]
fn meet(one: &Ball, other: &Ball) {
    assert!(!one.is_apart(other, 700), "{one:?} and {other:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("ALGEBRA_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
    ))]

    #[test]
    fn elementary_functions(x in -30.0..30.0_f64, size in -20..8_i32) {
        let x = x * 2f64.powi(size);
        let ball = exact(x);
        let (cos, sin) = elementary::cos_sin(&ball, 64).unwrap();
        near(&cos, x.cos());
        near(&sin, x.sin());
        near(&elementary::atan(&ball, 64).unwrap(), x.atan());
        let positive = exact(x.abs() + 1e-9);
        near(&elementary::ln(&positive, 64).unwrap(), (x.abs() + 1e-9).ln());
        if x < 300.0 {
            near(&elementary::exp(&ball, 64).unwrap(), x.exp());
        }
        for bits in [64, 100, 256] {
            let (low_cos, low_sin) = elementary::cos_sin(&ball, bits).unwrap();
            let (high_cos, high_sin) = elementary::cos_sin(&ball, 512).unwrap();
            meet(&low_cos, &high_cos);
            meet(&low_sin, &high_sin);
            meet(&elementary::atan(&ball, bits).unwrap(), &elementary::atan(&ball, 512).unwrap());
            meet(&elementary::ln(&positive, bits).unwrap(), &elementary::ln(&positive, 512).unwrap());
            meet(&elementary::exp(&ball, bits).unwrap(), &elementary::exp(&ball, 512).unwrap());
            // Inverse functions, and the circle.
            let exp = elementary::exp(&ball, bits).unwrap();
            meet(&elementary::ln(&exp, bits).unwrap(), &ball);
            let one = low_cos.mul(&low_cos, bits).unwrap().add(&low_sin.mul(&low_sin, bits).unwrap(), bits).unwrap();
            meet(&one, &exact(1.0));
            assert!(one.is_narrow(bits.cast_signed() - 8));
            let root = positive.root(3, bits).unwrap();
            meet(&root.pow(3, bits).unwrap(), &positive);
            meet(&root.div(&positive, bits).unwrap().mul(&positive, bits).unwrap(), &root);
        }
    }

    /// A wide ball holds the value at any number inside.
    #[test]
    fn balls_hold_what_is_inside(x in -5.0..5.0_f64, y in 0.1..5.0_f64, radius in 0_u64..1 << 20, part in -1.0..1.0_f64) {
        let unit = 2f64.powi(-30);
        let wide = |value: f64| Ball { mid: ((value / unit) as i64).into(), radius, scale: -30 };
        let inside = |value: f64| exact((((value / unit) as i64) as f64 + (radius as f64 * part).trunc()) * unit);
        let (a, b, inner_a, inner_b) = (wide(x), wide(y), inside(x), inside(y));
        let holds = |wide: Result<Ball, ball::Trouble>, inner: Result<Ball, ball::Trouble>| {
            if let (Ok(wide), Ok(inner)) = (wide, inner) {
                meet(&wide, &inner);
            }
        };
        holds(a.mul(&b, 64), inner_a.mul(&inner_b, 512));
        holds(a.div(&b, 64), inner_a.div(&inner_b, 512));
        holds(a.add(&b, 64), inner_a.add(&inner_b, 512));
        holds(b.root(2, 64), inner_b.root(2, 512));
        holds(b.root(5, 64), inner_b.root(5, 512));
        holds(elementary::exp(&a, 64), elementary::exp(&inner_a, 512));
        holds(elementary::ln(&b, 64), elementary::ln(&inner_b, 512));
        holds(elementary::atan(&a, 64), elementary::atan(&inner_a, 512));
        let (cos, sin) = elementary::cos_sin(&a, 64).unwrap();
        let (inner_cos, inner_sin) = elementary::cos_sin(&inner_a, 512).unwrap();
        meet(&cos, &inner_cos);
        meet(&sin, &inner_sin);
    }

    #[test]
    fn values_agree_with_floating_point(expr in random(4, false)) {
        let Some(value) = approximate(&expr) else { return Ok(()) };
        if let Ok(ball) = Evaluation::new(128, &[], &mut Budget::new(1_000_000)).real(&expr)
            && ball.is_narrow(40)
            && ball.magnitude() < 500
        {
            let exact = float(&ball);
            prop_assert!((exact - value).abs() <= 1e-6 * value.abs().max(1.0), "{} is {exact}, not {value}", show(&expr));
        }
    }

    #[test]
    fn what_is_equal_agrees_in_floating_point(one in random(3, false), other in random(3, false)) {
        let relation = compare(&one, &other, &mut Budget::new(20_000)).relation;
        if let (Equal, Some(left), Some(right)) = (relation, approximate(&one), approximate(&other)) {
            prop_assert!((left - right).abs() <= 1e-6 * left.abs().max(1.0), "{} and {}", show(&one), show(&other));
        }
    }
}

/// The real value in floating point, where every part is real and far enough from where it would jump.
fn approximate(expr: &Expr) -> Option<f64> {
    let all = |parts: &[Expr]| parts.iter().map(approximate).collect::<Option<Vec<f64>>>();
    let value = match expr {
        Expr::Number(value) => value.to_f64()?,
        Expr::Pi => std::f64::consts::PI,
        Expr::Euler => std::f64::consts::E,
        Expr::Imaginary | Expr::Symbol(_) => return None,
        Expr::Sum(parts) => {
            let parts = all(parts)?;
            let sum: f64 = parts.iter().sum();
            let size = parts.iter().fold(0.0, |size: f64, part| size.max(part.abs()));
            // What cancels is lost.
            if sum.abs() < 1e-3 * size {
                return None;
            }
            sum
        }
        Expr::Product(parts) => all(parts)?.iter().product(),
        Expr::Quotient(one, other) => approximate(one)? / approximate(other)?,
        Expr::Power(one, other) => {
            let (one, other) = (approximate(one)?, approximate(other)?);
            if one == 0.0 && other == 0.0 {
                return None;
            }
            one.powf(other)
        }
        Expr::Root(degree, inside) => {
            let inside = approximate(inside)?;
            if degree % 2 == 1 {
                inside.abs().powf(1.0 / f64::from(*degree)).copysign(inside)
            } else {
                inside.powf(1.0 / f64::from(*degree))
            }
        }
        Expr::Call(function, parts) => {
            let parts = all(parts)?;
            let x = *parts.first()?;
            match function {
                Function::Sin | Function::Cos | Function::Tan | Function::Cot if x.abs() > 1e6 => return None,
                Function::Sin => x.sin(),
                Function::Cos => x.cos(),
                Function::Tan => x.tan(),
                Function::Cot => 1.0 / x.tan(),
                Function::Arcsin => x.asin(),
                Function::Arccos => x.acos(),
                Function::Arctan => x.atan(),
                Function::Sinh => x.sinh(),
                Function::Tanh => x.tanh(),
                Function::Ln => x.ln(),
                Function::Abs => x.abs(),
                Function::Floor | Function::Ceiling if (x - x.round()).abs() < 1e-6 => return None,
                Function::Floor => x.floor(),
                Function::Ceiling => x.ceil(),
                Function::Max => parts.iter().copied().fold(f64::MIN, f64::max),
                _ => return None,
            }
        }
    };
    // Results that are nearly zero or very large have lost their digits on the way.
    (value.is_finite() && value.abs() < 1e12 && (value == 0.0 || value.abs() > 1e-3)).then_some(value)
}
