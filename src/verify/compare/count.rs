//! How many variables a relation has: relations with nothing in common but another number of them are not the same under
//! any names.

use std::collections::BTreeSet;

use num_traits::{One, Signed};

use super::super::answer::{Answer, Sign};
use super::super::expr::{Expr, Function};
use super::definition::is_arbitrary;
use super::rewrite::{replaced, symbols};
use super::{Comparer, Match};

/// The variables of a relation, counted in the least and in the most ways that the notation allows.
#[derive(Debug, Default)]
struct Variables {
    /// Letters that certainly are variables, without subscripts.
    least: BTreeSet<String>,
    /// All names, and all letters of subscripts, arguments and bodies of sums.
    most: BTreeSet<String>,
    /// Letters that may be units: `k = 5 m`.
    units: BTreeSet<String>,
    /// Every letter that is mentioned.
    letters: BTreeSet<String>,
    /// Constants of integration, vectors, sets: nothing is certain.
    is_unclear: bool,
}

impl Comparer<'_> {
    /// Two answers made of relations.
    pub(super) fn by_count(&mut self, answer: &Answer, reference: &Answer) -> Match {
        let (Some(one), Some(other)) = (variables(answer), variables(reference)) else { return Match::Unknown };
        if !one.letters.is_disjoint(&other.letters) || are_coordinates(&one, &other) || are_coordinates(&other, &one) {
            return Match::Unknown;
        }
        // `AB = 5` and `c = 5` say the same of a side.
        if let (Some(value), Some(other_value)) = (last(answer), last(reference))
            && self.answers(value, other_value) == Match::Same
        {
            return Match::Unknown;
        }
        if is_apart(&one, &other) {
            return Match::Different;
        }
        // With units taken for variables they are apart; without, each may have one.
        let counted = |variables: &Variables| variables.least.union(&variables.units).count();
        let with_units = (counted(&one)..=one.most.len(), counted(&other)..=other.most.len());
        let overlap = with_units.0.start() <= with_units.1.end() && with_units.1.start() <= with_units.0.end();
        if overlap {
            return Match::Unknown;
        }
        let stripped = (without_units(answer, &one.units), without_units(reference, &other.units));
        self.renamed(&stripped.0, &stripped.1)
    }
}

fn is_apart(one: &Variables, other: &Variables) -> bool {
    one.least.len() > other.most.len() || other.least.len() > one.most.len()
}

/// A curve in `x` and `y` may be told in polar coordinates or by a complex number.
fn are_coordinates(one: &Variables, other: &Variables) -> bool {
    const OTHERS: [&str; 9] = ["r", "R", "\\rho", "\\theta", "\\phi", "\\varphi", "z", "w", "P"];
    let plane = ["x", "y", "z"].iter().filter(|name| one.most.contains(**name)).count();
    plane >= 2 && OTHERS.iter().any(|name| other.most.contains(*name))
}

fn last(answer: &Answer) -> Option<&Answer> {
    match answer {
        Answer::Relation(_, rest) => rest.last().map(|(_, side)| side),
        _ => None,
    }
}

fn variables(answer: &Answer) -> Option<Variables> {
    let mut found = Variables::default();
    match answer {
        Answer::Relation(..) => found.answer(answer),
        Answer::List(items) | Answer::Either(items)
            if items.iter().all(|item| matches!(item, Answer::Relation(..))) =>
        {
            items.iter().for_each(|item| found.answer(item));
        }
        _ => return None,
    }
    found.least.retain(|name| !found.units.contains(name));
    (!found.is_unclear && !found.most.iter().any(|name| is_arbitrary(name))).then_some(found)
}

impl Variables {
    fn answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Expr(expr) => self.expr(expr, true),
            Answer::Combined(_, items) => items.iter().for_each(|item| self.answer(item)),
            Answer::Relation(first, rest) => {
                self.answer(first);
                for (sign, side) in rest {
                    self.is_unclear |= matches!(sign, Sign::In | Sign::Ratio | Sign::About | Sign::Other(_));
                    self.answer(side);
                }
            }
            _ => self.is_unclear = true,
        }
    }

    fn expr(&mut self, expr: &Expr, is_certain: bool) {
        if is_amount(expr) {
            self.units.extend(symbols(expr));
        }
        match expr {
            Expr::Number(_) => {}
            Expr::Pi => self.letter("\\pi"),
            Expr::Euler => self.letter("e"),
            Expr::Imaginary => self.letter("i"),
            Expr::Symbol(name) => self.name(name, is_certain),
            Expr::Sum(parts) => parts.iter().for_each(|part| self.expr(part, is_certain)),
            Expr::Product(parts) => self.product(parts, is_certain),
            Expr::Quotient(one, other) | Expr::Power(one, other) => {
                self.expr(one, is_certain);
                self.expr(other, is_certain);
            }
            Expr::Root(_, inside) => self.expr(inside, is_certain),
            Expr::Call(Function::Named(name), list) => self.call(name, list, is_certain),
            Expr::Call(_, list) => list.iter().for_each(|part| self.expr(part, is_certain)),
        }
    }

    fn product(&mut self, parts: &[Expr], is_certain: bool) {
        let letter = |part: &Expr| match part {
            Expr::Symbol(name) if name.chars().count() == 1 => Some(name.clone()),
            _ => None,
        };
        // `AB` may be one segment.
        let is_segment = parts.len() > 1
            && parts.iter().all(|part| letter(part).is_some_and(|name| name.starts_with(|c: char| c.is_uppercase())));
        if is_segment {
            parts.iter().for_each(|part| self.expr(part, false));
            if is_certain {
                self.least.extend(parts.first().and_then(letter));
            }
            return;
        }
        parts.iter().for_each(|part| self.expr(part, is_certain));
    }

    fn call(&mut self, name: &str, list: &[Expr], is_certain: bool) {
        let base = name.split('_').next().unwrap_or(name);
        match base {
            "d/d" => {
                self.letter("d");
                let was_there = self.least.contains("d");
                list.iter().for_each(|part| self.expr(part, is_certain));
                if !was_there {
                    self.least.remove("d");
                }
            }
            "\\int" | "\\iint" | "\\oint" => {
                self.scripts(name);
                let before = self.least.clone();
                list.iter().for_each(|part| self.expr(part, is_certain));
                // Variables of integration stand behind a d.
                let mut bound = BTreeSet::from(["d".to_string()]);
                list.iter().for_each(|part| differentials(part, &mut bound));
                self.least.retain(|name| before.contains(name) || !bound.contains(name));
            }
            "\\sum" | "\\prod" | "\\lim" | "\\sup" | "\\inf" | "\\arg" | "\\Re" | "\\Im" => {
                self.scripts(name);
                list.iter().for_each(|part| self.expr(part, false));
            }
            "\\det" | "\\dim" | "\\deg" | "\\rank" | "\\|" => {
                self.scripts(name.strip_prefix(base).unwrap_or_default());
                if is_certain {
                    self.least.insert(base.to_string());
                }
                list.iter().for_each(|part| self.expr(part, false));
            }
            _ if name.starts_with('^') => list.iter().for_each(|part| self.expr(part, is_certain)),
            _ if base.chars().count() == 1 && base.chars().all(char::is_alphabetic) => {
                self.name(name, is_certain);
                list.iter().for_each(|part| self.expr(part, false));
            }
            _ => self.is_unclear = true,
        }
    }

    /// A name with its subscripts and marks.
    fn name(&mut self, name: &str, is_certain: bool) {
        let is_set = ["\\mathbb", "\\vec", "\\overrightarrow", "\\int", "\\sum", "\\nabla", "\\aleph", "\\partial"];
        self.is_unclear |= is_set.iter().any(|front| name.starts_with(front));
        let end = name.find(['_', '^', '\'', '{']).unwrap_or(name.len());
        let (base, rest) = name.split_at(end);
        self.letters.insert(base.to_string());
        self.most.insert(name.to_string());
        if is_certain {
            self.least.insert(base.to_string());
        }
        self.scripts(rest);
    }

    /// A letter that may be a variable or a constant.
    fn letter(&mut self, name: &str) {
        self.most.insert(name.to_string());
        self.letters.insert(name.to_string());
    }

    /// Letters of a text, any of which may be a variable.
    fn scripts(&mut self, text: &str) {
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let mut name = c.to_string();
            while c == '\\'
                && let Some(letter) = chars.next_if(char::is_ascii_alphabetic)
            {
                name.push(letter);
            }
            if c.is_alphabetic() || name.len() > 1 && c == '\\' {
                self.letter(&name);
            }
        }
    }
}

/// A number other than one with letters behind it that all may be units: `5 m`, `3 m s^{-2}`, `4 m/s`.
fn is_amount(expr: &Expr) -> bool {
    match expr {
        Expr::Product(parts) => match parts.split_first() {
            Some((Expr::Number(value), units)) => !value.abs().is_one() && units.iter().all(is_unit),
            _ => false,
        },
        Expr::Quotient(over, under) => is_amount(over) && is_unit(under),
        _ => false,
    }
}

fn is_unit(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(name) => name.chars().count() == 1 && "msghlLNJWVAT".contains(name),
        Expr::Power(base, exponent) => is_unit(base) && matches!(&**exponent, Expr::Number(_)),
        Expr::Product(parts) => parts.iter().all(is_unit),
        _ => false,
    }
}

/// The letters behind a `d`.
fn differentials(expr: &Expr, found: &mut BTreeSet<String>) {
    match expr {
        Expr::Product(parts) => {
            for pair in parts.windows(2) {
                if let [Expr::Symbol(d), Expr::Symbol(name)] = pair
                    && d == "d"
                {
                    found.insert(name.clone());
                }
            }
            parts.iter().for_each(|part| differentials(part, found));
        }
        Expr::Sum(parts) | Expr::Call(_, parts) => parts.iter().for_each(|part| differentials(part, found)),
        Expr::Quotient(one, other) | Expr::Power(one, other) => {
            differentials(one, found);
            differentials(other, found);
        }
        Expr::Root(_, inside) => differentials(inside, found),
        _ => {}
    }
}

/// The relation without the letters that may be units.
fn without_units(answer: &Answer, units: &BTreeSet<String>) -> Answer {
    let stripped = |expr: &Expr| {
        replaced(expr, &|part| match part {
            Expr::Symbol(name) if units.contains(name) => Some(super::rewrite::integer(1)),
            _ => None,
        })
    };
    let side = |answer: &Answer| match answer {
        Answer::Expr(expr) => Answer::Expr(stripped(expr)),
        answer => answer.clone(),
    };
    match answer {
        Answer::Relation(first, rest) => Answer::Relation(
            Box::new(side(first)),
            rest.iter().map(|(sign, other)| (sign.clone(), side(other))).collect(),
        ),
        answer => answer.clone(),
    }
}
