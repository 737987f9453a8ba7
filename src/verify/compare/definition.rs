//! Definitions of functions, `f(x) = 2x`: the argument is bound, so that its name says nothing.

use super::super::algebra;
use super::super::answer::{Answer, Sign};
use super::super::expr::{Expr, Function};
use super::rewrite::{any, minus, symbols, with};
use super::{Comparer, Match};

/// The name of the argument in what is compared; no symbol that is written has such a name.
const BOUND: &str = "\u{1}t";

struct Definition<'a> {
    name: &'a str,
    /// The argument, and a letter of a subscript, which may be meant as one.
    bound: Vec<String>,
    body: &'a Expr,
}

impl Comparer<'_> {
    /// Two definitions, or a definition and an equation that may say the same of two variables.
    pub(super) fn definitions(&mut self, answer: &Answer, reference: &Answer) -> Match {
        match (definition(answer), definition(reference)) {
            (Some(one), Some(other)) => self.both_defined(&one, &other),
            (Some(one), None) => self.against_equation(&one, reference),
            (None, Some(other)) => self.against_equation(&other, answer),
            (None, None) => Match::Unknown,
        }
    }

    /// The same for some choice of arguments, or different for all.
    fn both_defined(&mut self, one: &Definition<'_>, other: &Definition<'_>) -> Match {
        let mut found = Match::Different;
        for bound in &one.bound {
            for other_bound in &other.bound {
                let variable = Expr::Symbol(BOUND.into());
                let body = with(one.body, bound, &variable);
                let other_body = with(other.body, other_bound, &variable);
                let again = self.bodies(&body, &other_body);
                found = found.or(|| again);
            }
        }
        // `f(n) = n` of integers is not `f(z) = z` of complex numbers.
        let counts = |bound: &[String]| bound.iter().any(|name| name.starts_with(['n', 'm', 'k', 'N', 'M', 'K', 'j']));
        let is_plain = one.bound.len() == 1
            && other.bound.len() == 1
            && one.name == other.name
            && counts(&one.bound) == counts(&other.bound);
        if found == Match::Same && !is_plain { Match::Unknown } else { found }
    }

    fn bodies(&mut self, one: &Expr, other: &Expr) -> Match {
        let found = self.expressions(one, other);
        let mut parameters = (symbols(one), symbols(other));
        parameters.0.remove(BOUND);
        parameters.1.remove(BOUND);
        match found {
            // Constants may have other names, and be any.
            Match::Different if !parameters.0.is_empty() && !parameters.1.is_empty() => Match::Unknown,
            Match::Different if parameters.0.iter().chain(&parameters.1).any(|name| is_arbitrary(name)) => {
                Match::Unknown
            }
            found => found,
        }
    }

    /// An equation of exactly two variables that the definition solves has no other value than zero on its graph.
    fn against_equation(&mut self, definition: &Definition<'_>, other: &Answer) -> Match {
        let Answer::Relation(left, rest) = other else { return Match::Unknown };
        let (Answer::Expr(left), [(Sign::Equal, Answer::Expr(right))]) = (&**left, rest.as_slice()) else {
            return Match::Unknown;
        };
        let value = minus(left, right);
        let names: Vec<String> = symbols(&value).into_iter().collect();
        let is_opaque = |part: &Expr| matches!(part, Expr::Call(Function::Named(_), _));
        let parameters = symbols(definition.body).into_iter().any(|name| !definition.bound.contains(&name));
        let [first, second] = names.as_slice() else { return Match::Unknown };
        if parameters
            || definition.bound.len() != 1
            || any(&value, &is_opaque)
            || any(definition.body, &is_opaque)
            || names.iter().any(|name| is_arbitrary(name) || name.contains(['_', '^', '{']))
        {
            return Match::Unknown;
        }
        let variable = Expr::Symbol(BOUND.into());
        let body = definition.bound.iter().fold(definition.body.clone(), |body, name| with(&body, name, &variable));
        let zero = super::rewrite::integer(0);
        let is_apart = [(first, second), (second, first)].into_iter().all(|(argument, image)| {
            let on_graph = with(&with(&value, argument, &variable), image, &body);
            let comparison = algebra::compare(&on_graph, &zero, &mut self.budget);
            self.used_interval |= comparison.method == algebra::Method::Interval;
            comparison.relation == algebra::Relation::Different
        });
        self.used_algebra = true;
        if is_apart { Match::Different } else { Match::Unknown }
    }
}

/// Names that usually stand for a constant of integration or the like.
pub(super) fn is_arbitrary(name: &str) -> bool {
    let base = name.split(['_', '^', '\'']).next().unwrap_or(name);
    matches!(base, "C" | "c" | "K")
}

fn definition(answer: &Answer) -> Option<Definition<'_>> {
    let Answer::Relation(left, rest) = answer else { return None };
    let (Answer::Expr(Expr::Call(Function::Named(name), arguments)), [(Sign::Equal, Answer::Expr(body))]) =
        (&**left, rest.as_slice())
    else {
        return None;
    };
    let [Expr::Symbol(argument)] = arguments.as_slice() else { return None };
    // `f_n(x)`, not `\dim V` or `\overline{f}(x)`.
    let (letter, script) = name
        .split_once("_{")
        .map_or((name.as_str(), None), |(letter, rest)| (letter, Some(rest.trim_end_matches('}').to_string())));
    let is_letter = |text: &str| text.chars().count() == 1 && text.chars().all(char::is_alphabetic);
    let is_name = is_letter(letter) || matches!(letter, "\\phi" | "\\psi" | "\\Phi" | "\\Psi");
    // `f(x) = f(-x)` and what holds for operators and sums is no definition by a value.
    let is_closed = !any(body, &|part| match part {
        Expr::Call(Function::Named(other), _) => other == name || other.starts_with('\\') || other == "d/d",
        Expr::Symbol(other) => other == name || other.starts_with("\\mathbb"),
        _ => false,
    });
    let mut bound = vec![argument.clone()];
    match script {
        Some(script) if is_letter(&script) => bound.push(script),
        Some(script) if !script.bytes().all(|byte| byte.is_ascii_digit()) => return None,
        _ => {}
    }
    (is_name && is_closed).then_some(Definition { name, bound, body })
}
