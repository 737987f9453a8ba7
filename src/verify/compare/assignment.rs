//! What relations give to names: `x = 3` answers 3, and `y = 4, x = 3` a pair.

use super::super::answer::{Answer, Sign};
use super::super::expr::{Expr, Function};
use super::{Comparer, Match};

impl Comparer<'_> {
    /// What `x = 3` or `2 + 3 = 5` says: the last side, if all others that are no names are the same. In `4 = 3`, `x = 4 = 3`
    /// and `2x = 6` what stands behind the sign is no answer.
    pub(super) fn assigned(&mut self, first: &Answer, rest: &[(Sign, Answer)]) -> Option<Answer> {
        if let [_] = rest
            && let Some(value) = assigned_by_name(first, rest)
        {
            return Some(value);
        }
        let (_, last) = rest.last()?;
        if rest.len() == 1 && is_name(first) {
            return None;
        }
        let mut sides = std::iter::once(first).chain(rest.iter().map(|(_, side)| side));
        let all_equal = rest.iter().all(|(sign, _)| *sign == Sign::Equal)
            && !is_name(last)
            && sides.all(|side| is_name(side) || self.answers(side, last) == Match::Same);
        all_equal.then(|| last.clone())
    }

    /// Answers of which at least one gives values to several names; `None` where none does.
    pub(super) fn assignments(&mut self, answer: &Answer, reference: &Answer) -> Option<Match> {
        match (named_values(answer), named_values(reference)) {
            (Some(answers), Some(references)) => {
                if answers.len() != references.len() {
                    return Some(Match::Unknown);
                }
                let mut found = Match::Same;
                for (name, value) in &references {
                    let Some((_, given)) = answers.iter().find(|(given, _)| given == name) else {
                        return Some(Match::Unknown);
                    };
                    found = found.and(|| self.answers(given, value));
                }
                Some(found)
            }
            (Some(answers), None) => {
                let items = plain_values(reference)?;
                Some(items.map_or(Match::Unknown, |items| self.in_usual_order(&answers, items)))
            }
            (None, Some(references)) => {
                // One of several, or an interval.
                if matches!(
                    answer,
                    Answer::Either(_)
                        | Answer::Tuple { open: '(', close: ']', .. }
                        | Answer::Tuple { open: '[', close: ')', .. }
                ) {
                    return Some(Match::Different);
                }
                let items = plain_values(answer)?;
                Some(items.map_or(Match::Unknown, |items| self.in_given_order(&references, items)))
            }
            (None, None) => None,
        }
    }

    /// Named values against a reference without names: those of the names in their usual order.
    fn in_usual_order(&mut self, named: &[(Answer, Answer)], references: &[Answer]) -> Match {
        if named.len() != references.len() || !is_usual(named) {
            return Match::Unknown;
        }
        let pairs = named.iter().zip(references);
        pairs.fold(Match::Same, |found, ((_, value), reference)| found.and(|| self.answers(value, reference)))
    }

    /// Values without names against a reference with names, in the order in which it gives them.
    fn in_given_order(&mut self, named: &[(Answer, Answer)], answers: &[Answer]) -> Match {
        if named.len() != answers.len() {
            return Match::Unknown;
        }
        let pairs = named.iter().zip(answers);
        match pairs.fold(Match::Same, |found, ((_, value), answer)| found.and(|| self.answers(answer, value))) {
            Match::Different if !is_usual(named) => Match::Unknown,
            found => found,
        }
    }
}

/// What a relation gives to a name: `x = 3`, `f(2) = y = 3`, `x \in (0, 1)`, `S : T = 7 : 32`.
pub(super) fn assigned_by_name(first: &Answer, rest: &[(Sign, Answer)]) -> Option<Answer> {
    let (last, others) = rest.split_last()?;
    let gives = |sign: &Sign| matches!(sign, Sign::Equal | Sign::About);
    let only_gives =
        others.iter().all(|(sign, _)| gives(sign)) && (gives(&last.0) || last.0 == Sign::In && others.is_empty());
    (only_gives && is_name(first)).then(|| last.1.clone())
}

/// What a name is said to be, if that is a relation itself.
pub(super) fn behind_name<'a>(
    first: &Answer,
    rest: &'a [(Sign, Answer)],
) -> Option<(&'a Answer, &'a [(Sign, Answer)])> {
    let ((sign, side), others) = rest.split_first()?;
    (*sign == Sign::Equal && !others.is_empty() && is_name(first)).then_some((side, others))
}

/// Whether names stand in the order in which everybody lists them.
fn is_usual(named: &[(Answer, Answer)]) -> bool {
    let names: Vec<String> = named.iter().map(|(name, _)| format!("{name:?}")).collect();
    names.is_sorted()
}

/// The values of a pair or a list without names; `None` within where their order is not certain to mean anything.
fn plain_values(answer: &Answer) -> Option<Option<&[Answer]>> {
    let items = match answer {
        Answer::Tuple { open: '(', close: ')', items } | Answer::List(items) => items,
        Answer::Tuple { open: 'c' | 'r' | '<', items, .. } => items,
        Answer::Tuple { open: '[', close: ']', items } if items.len() != 2 => items,
        Answer::Tuple { .. } | Answer::Set(_) => return Some(None),
        _ => return None,
    };
    let is_plain = !items.iter().any(|item| matches!(item, Answer::Relation(..)));
    Some(is_plain.then_some(items))
}

/// The values of several names: `x = 1, y = 2`, `(x, y) = (1, 2)`; not of one name, `x = 1, x = 2`.
fn named_values(answer: &Answer) -> Option<Vec<(Answer, Answer)>> {
    let pairs: Vec<(Answer, Answer)> = match answer {
        Answer::Relation(first, rest) => match (&**first, rest.as_slice()) {
            (Answer::Tuple { open: '(', items: names, .. }, [(Sign::Equal, Answer::Tuple { items, .. })])
                if names.len() == items.len() =>
            {
                names.iter().cloned().zip(items.iter().cloned()).collect()
            }
            _ => return None,
        },
        Answer::List(items) => {
            let pair = |item: &Answer| match item {
                Answer::Relation(first, rest) => match rest.as_slice() {
                    [(Sign::Equal, value)] => Some(((**first).clone(), value.clone())),
                    _ => None,
                },
                _ => None,
            };
            items.iter().map(pair).collect::<Option<_>>()?
        }
        _ => return None,
    };
    let (first, _) = pairs.first()?;
    let are_names = pairs.len() > 1 && pairs.iter().all(|(name, _)| is_name(name));
    (are_names && pairs.iter().any(|(name, _)| name != first)).then_some(pairs)
}

pub(super) fn is_name(answer: &Answer) -> bool {
    match answer {
        Answer::Expr(expr) => is_named(expr),
        Answer::Words(words) => !words.is_empty(),
        Answer::Tuple { items, .. } => items.iter().all(is_name),
        _ => false,
    }
}

fn is_named(expr: &Expr) -> bool {
    let is_point = |factor: &Expr| matches!(factor, Expr::Symbol(name) if name.chars().all(|c| c.is_ascii_uppercase()));
    match expr {
        Expr::Symbol(name) => !["\\int", "\\sum", "\\prod"].iter().any(|operator| name.starts_with(operator)),
        Expr::Call(Function::Named(_), _) => true,
        // The length of a segment.
        Expr::Call(Function::Abs, inside) => inside.iter().all(|inside| match inside {
            Expr::Product(factors) => factors.iter().all(is_point),
            inside => is_point(inside),
        }),
        // `AB` is a segment, `\angle ABC` an angle.
        Expr::Product(factors) => factors.iter().all(is_point),
        Expr::Quotient(above, below) => [above, below].into_iter().all(|side| {
            matches!(side.as_ref(), Expr::Product(factors) if factors.iter().all(is_point)) || is_point(side)
        }),
        _ => false,
    }
}
