//! Values with and without what they count.

use num_rational::BigRational;

use super::super::algebra;
use super::super::answer::Unit;
use super::super::expr::Expr;
use super::{Comparer, Match};

impl Comparer<'_> {
    /// Two values. A unit may be left out or added; of two units both count.
    pub(super) fn measured(
        &mut self,
        (answer, answer_unit): (&Expr, Option<&Unit>),
        (reference, reference_unit): (&Expr, Option<&Unit>),
    ) -> Match {
        match (answer_unit, reference_unit) {
            (None, None) => self.expressions(answer, reference),
            (Some(one), Some(other)) if one == other => self.expressions(answer, reference),
            (Some(Unit::Percent), None) | (None, Some(Unit::Percent)) => {
                let is_answer = answer_unit == Some(&Unit::Percent);
                let hundredth = |value: &Expr| {
                    Expr::Product(vec![Expr::Number(BigRational::new(1.into(), 100.into())), value.clone()])
                };
                let as_value = if is_answer {
                    self.expressions(&hundredth(answer), reference)
                } else {
                    self.expressions(answer, &hundredth(reference))
                };
                if self.takes_percent_as_unit() {
                    as_value.or(|| self.expressions(answer, reference))
                } else {
                    as_value
                }
            }
            (Some(Unit::Degree), None) => {
                let as_unit = self.degrees(answer, reference);
                as_unit.or(|| self.expressions(&radians(answer), reference))
            }
            (None, Some(Unit::Degree)) => {
                let as_unit = self.degrees(answer, reference);
                as_unit.or(|| self.expressions(answer, &radians(reference)))
            }
            (Some(Unit::Words(words)), Some(Unit::Degree)) if is_radian(words) => {
                self.expressions(answer, &radians(reference))
            }
            (Some(Unit::Degree), Some(Unit::Words(words))) if is_radian(words) => {
                self.expressions(&radians(answer), reference)
            }
            (Some(Unit::Words(_)), None) | (None, Some(Unit::Words(_))) => self.expressions(answer, reference),
            (Some(Unit::Words(one)), Some(Unit::Words(other))) if same_words(one, other) => {
                self.expressions(answer, reference)
            }
            // 5 m and 500 cm: units are not converted here, and not all of their names are known.
            (Some(Unit::Words(one)), Some(Unit::Words(other))) => match (known(one), known(other)) {
                (Some(one), Some(other)) if one == other => self.expressions(answer, reference),
                (Some(_), Some(_)) if self.expressions(answer, reference) == Match::Same => Match::Different,
                _ => Match::Unknown,
            },
            (Some(Unit::Percent | Unit::Words(_)), Some(Unit::Percent | Unit::Words(_))) => Match::Unknown,
            _ => Match::Different,
        }
    }

    /// A number of degrees without its sign: only rational ones are numbers of degrees.
    fn degrees(&mut self, answer: &Expr, reference: &Expr) -> Match {
        match algebra::rational(reference, &mut self.budget) {
            Some(_) => self.expressions(answer, reference),
            None => Match::Different,
        }
    }
}

fn radians(degrees: &Expr) -> Expr {
    Expr::Product(vec![Expr::Number(BigRational::new(1.into(), 180.into())), Expr::Pi, degrees.clone()])
}

fn is_radian(words: &str) -> bool {
    matches!(words, "rad" | "radian" | "radians")
}

/// The same words up to a plural and the article of a rate.
fn same_words(one: &str, other: &str) -> bool {
    let stem = |words: &str| {
        let words = words.replace(" per ", "/");
        words.split([' ', '/']).map(|word| word.strip_suffix('s').unwrap_or(word).to_string()).collect::<Vec<_>>()
    };
    stem(one) == stem(other)
}

/// The usual sign of a unit by one of its names.
fn known(words: &str) -> Option<&'static str> {
    const NAMES: &[(&str, &[&str])] = &[
        ("m", &["meter", "metre"]),
        ("cm", &["centimeter", "centimetre"]),
        ("mm", &["millimeter", "millimetre"]),
        ("km", &["kilometer", "kilometre"]),
        ("ft", &["foot", "feet"]),
        ("in", &["inch", "inches"]),
        ("mi", &["mile"]),
        ("s", &["sec", "second"]),
        ("min", &["minute"]),
        ("h", &["hr", "hour"]),
        ("g", &["gram"]),
        ("kg", &["kilogram"]),
        ("l", &["liter", "litre"]),
        ("dollar", &["usd"]),
        ("cent", &[]),
        ("euro", &["eur"]),
        ("pound", &[]),
        ("day", &[]),
        ("week", &[]),
        ("month", &[]),
        ("year", &[]),
    ];
    let stem = words.strip_suffix('s').filter(|stem| stem.len() > 1).unwrap_or(words);
    let is_name = |names: &[&str], sign: &str| [words, stem].iter().any(|word| *word == sign || names.contains(word));
    NAMES.iter().find(|(sign, names)| is_name(names, sign)).map(|(sign, _)| *sign)
}
