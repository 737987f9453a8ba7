//! Answers by their structure.

use super::super::answer::{Answer, SetOperation};
use super::super::expr::Expr;
use super::super::parse::says_no_more;
use super::{Comparer, Match, bounds, interval, letters};

impl Comparer<'_> {
    /// Two answers of any kind.
    pub(super) fn answers(&mut self, answer: &Answer, reference: &Answer) -> Match {
        use Answer::{
            Combined, Either, Infinity, List, Matrix, Nonsense, Opaque, Quantity, Relation, Set, Truth, Tuple, Words,
        };
        if self.budget.spend(1).is_err() {
            return Match::Unknown;
        }
        if answer == reference {
            // Nonsense is not even itself: the texts differ, or there would be no comparison.
            return if *answer == Nonsense { Match::Different } else { Match::Same };
        }
        if let Some(found) = self.assignments(answer, reference) {
            return found;
        }
        if let (Some(one), Some(other)) = (measured(answer), measured(reference)) {
            return self.measured(one, other);
        }
        match (answer, reference) {
            (Nonsense, _) | (_, Nonsense) => Match::Different,
            (Combined(..), _) | (_, Combined(..)) => self.combined(answer, reference),
            (Relation(..), _) | (_, Relation(..)) => self.relations(answer, reference),
            (one, other) if (is_described(one) || is_described(other)) && is_set(one) && is_set(other) => {
                self.combined(answer, reference)
            }
            (Opaque(one), Opaque(other)) if one == other => Match::Same,
            // An expression of unknown meaning is no word.
            (Opaque(_), Truth(_)) | (Truth(_), Opaque(_)) => Match::Different,
            (Opaque(text), Words(_)) | (Words(_), Opaque(text)) => {
                if has_words(text) {
                    Match::Unknown
                } else {
                    Match::Different
                }
            }
            // A statement that cannot be read may give its value in other letters.
            (Opaque(text), _) | (_, Opaque(text)) if text.contains(['=', '<', '>']) || text.contains("\\le") => {
                Match::Unknown
            }
            (Opaque(_), _) | (_, Opaque(_)) if letters::tell_apart(answer, reference) => Match::Different,
            (Opaque(_), _) | (_, Opaque(_)) => Match::Unknown,
            (Words(one), Words(other)) => words(one, other),
            (Words(word), expr @ Answer::Expr(_)) | (expr @ Answer::Expr(_), Words(word)) => {
                word_and_expression(word, expr)
            }
            (Either(items), Either(others) | List(others) | Set(others))
            | (List(items) | Set(items), Either(others)) => self.in_any_order(items, others),
            // One of several is no pair, no interval.
            (Either(_), Tuple { .. }) | (Tuple { .. }, Either(_)) => Match::Different,
            (Either(items), one) => self.all_are(items, one),
            (Words(words), Truth(_)) | (Truth(_), Words(words)) if begins_with_truth(words) => Match::Unknown,
            (List(items), Truth(truth)) => reasoned(items, *truth),
            (Tuple { open: one, close: one_end, items }, Tuple { open: other, close: other_end, items: others }) => {
                if items.len() != others.len() || (*one == ':') != (*other == ':') {
                    return Match::Different;
                }
                if *one == ':' {
                    return self.in_order(items, others).or(|| self.proportional(items, others));
                }
                let brackets = brackets((*one, *one_end), (*other, *other_end), items.len());
                brackets.and(|| self.in_order(items, others))
            }
            (Tuple { open, close, items }, List(others)) | (List(others), Tuple { open, close, items }) => {
                // `1, 2` may be a pair, but it is no interval.
                let kind = match (open, close) {
                    (':', _) => Match::Different,
                    ('(', ')') => Match::Same,
                    _ if items.len() != 2 => Match::Same,
                    ('[', ']') => Match::Unknown,
                    ('[' | '(', _) => Match::Different,
                    _ => Match::Same,
                };
                if items.len() != others.len() {
                    return Match::Different;
                }
                let is_answer = matches!(answer, Tuple { .. });
                kind.and(|| if is_answer { self.in_order(items, others) } else { self.in_order(others, items) })
            }
            (Set(items), Words(words)) | (Words(words), Set(items)) if items.is_empty() && is_nothing(words) => {
                Match::Same
            }
            (Set(items), Set(others)) => self.covers(items, others).and(|| self.covers(others, items)),
            (Set(items) | List(items), Set(others) | List(others)) => self.in_any_order(items, others),
            (Matrix(rows), Matrix(others)) => self.matrices(rows, others),
            (Set(items), one) if items.len() == 1 => {
                items.first().map_or(Match::Different, |item| self.answers(item, one))
            }
            (one, Set(items)) if items.len() == 1 => {
                items.first().map_or(Match::Different, |item| self.answers(one, item))
            }
            (Tuple { items, open: '(', close: ')' } | Tuple { items, open: '[', close: ']' }, one)
                if items.len() == 1 =>
            {
                items.first().map_or(Match::Different, |item| self.answers(item, one))
            }
            (one, Tuple { items, open: '(', close: ')' } | Tuple { items, open: '[', close: ']' })
                if items.len() == 1 =>
            {
                items.first().map_or(Match::Different, |item| self.answers(one, item))
            }
            (Tuple { items, .. }, Matrix(_)) | (Matrix(_), Tuple { items, .. }) => {
                let has_rows = items.iter().any(|item| matches!(item, Tuple { .. } | Opaque(_)));
                if has_rows { Match::Unknown } else { Match::Different }
            }
            // All values of a list being one value: `\pm 0`.
            (List(items), one) => self.all_are(items, one),
            (Infinity(_), _)
            | (_, Infinity(_))
            | (Truth(_), _)
            | (_, Truth(_))
            | (Quantity(..), _)
            | (_, Quantity(..)) => Match::Different,
            (Tuple { open: ':', items, .. }, Answer::Expr(_)) => {
                ratio(items).map_or(Match::Unknown, |one| self.against_ratio(&one, reference, items.len()))
            }
            (Answer::Expr(_), Tuple { open: ':', items, .. }) => {
                ratio(items).map_or(Match::Unknown, |one| self.against_ratio(&one, answer, items.len()))
            }
            _ => Match::Different,
        }
    }

    /// The quotient of a ratio against one value. Three parts are no quotient; whoever divides them from left to right gets
    /// one all the same.
    fn against_ratio(&mut self, quotient: &Answer, value: &Answer, parts: usize) -> Match {
        match self.answers(value, quotient) {
            Match::Same if parts > 2 => Match::Unknown,
            found => found,
        }
    }

    fn in_order(&mut self, items: &[Answer], others: &[Answer]) -> Match {
        let pairs = items.iter().zip(others);
        pairs.fold(Match::Same, |found, (item, other)| found.and(|| self.answers(item, other)))
    }

    /// Every member of the reference has a member of the answer of its own, and the answer has no member besides, except
    /// for repetitions.
    pub(super) fn in_any_order(&mut self, answers: &[Answer], references: &[Answer]) -> Match {
        // What dots stand for is not known.
        let dots = |list: &[Answer]| list.contains(&Answer::Dots);
        if dots(answers) && dots(references) {
            return if answers == references { Match::Same } else { Match::Unknown };
        }
        let mut is_used = vec![false; answers.len()];
        let mut found = Match::Same;
        for reference in references {
            let mut best = Match::Different;
            for (place, answer) in answers.iter().enumerate() {
                if is_used[place] {
                    continue;
                }
                match self.answers(answer, reference) {
                    Match::Same => {
                        is_used[place] = true;
                        best = Match::Same;
                        break;
                    }
                    Match::Unknown => best = Match::Unknown,
                    Match::Different => {}
                }
            }
            found = found.and(|| best);
            if found == Match::Different {
                return found;
            }
        }
        for (answer, _) in answers.iter().zip(&is_used).filter(|(_, is_used)| !**is_used) {
            let any =
                references.iter().fold(Match::Different, |any, reference| any.or(|| self.answers(answer, reference)));
            found = found.and(|| any);
        }
        found
    }

    /// Whether every member of `references` is one of `answers`.
    fn covers(&mut self, answers: &[Answer], references: &[Answer]) -> Match {
        // What dots stand for is not known.
        let has_dots = answers.contains(&Answer::Dots) || references.contains(&Answer::Dots);
        let mut found = Match::Same;
        for reference in references {
            let any = answers.iter().fold(Match::Different, |any, answer| any.or(|| self.answers(answer, reference)));
            found = found.and(|| any);
        }
        if has_dots && found == Match::Different { Match::Unknown } else { found }
    }

    /// Several values where one is asked for: wrong, unless they all may be the one.
    fn all_are(&mut self, items: &[Answer], one: &Answer) -> Match {
        match items.iter().fold(Match::Same, |found, item| found.and(|| self.answers(item, one))) {
            Match::Different => Match::Different,
            _ => Match::Unknown,
        }
    }

    fn matrices(&mut self, rows: &[Vec<Answer>], others: &[Vec<Answer>]) -> Match {
        let same_shape =
            rows.len() == others.len() && rows.iter().zip(others).all(|(row, other)| row.len() == other.len());
        if !same_shape {
            return Match::Different;
        }
        rows.iter().zip(others).fold(Match::Same, |found, (row, other)| found.and(|| self.in_order(row, other)))
    }

    /// Two answers of which at least one is a union or the like.
    fn combined(&mut self, answer: &Answer, reference: &Answer) -> Match {
        let (one, other) = (bounds::as_set(answer), bounds::as_set(reference));
        let (one, other) = (one.as_ref().unwrap_or(answer), other.as_ref().unwrap_or(reference));
        if let Some(found) = interval::compare(one, other, &mut self.budget) {
            self.used_algebra = true;
            return found;
        }
        let (Answer::Combined(one, items), Answer::Combined(other, others)) = (answer, reference) else {
            let other = if matches!(answer, Answer::Combined(..)) { reference } else { answer };
            // A number or a word is no set; a letter may be the name of one.
            let is_no_set = match other {
                Answer::Expr(expr) => !matches!(expr, Expr::Symbol(_)),
                Answer::List(items) => !items.iter().any(|item| matches!(item, Answer::Relation(..))),
                Answer::Matrix(_)
                | Answer::Quantity(..)
                | Answer::Infinity(_)
                | Answer::Truth(_)
                | Answer::Words(_) => true,
                _ => false,
            };
            return if is_no_set { Match::Different } else { Match::Unknown };
        };
        let found = match (one, other) {
            (SetOperation::Difference, SetOperation::Difference) if items.len() == others.len() => {
                self.in_order(items, others)
            }
            (SetOperation::Union, SetOperation::Union) | (SetOperation::Intersection, SetOperation::Intersection) => {
                self.in_any_order(items, others)
            }
            _ => Match::Unknown,
        };
        // The same set can be put together in other ways.
        if found == Match::Different { Match::Unknown } else { found }
    }
}

/// The value and the unit of a number.
fn measured(answer: &Answer) -> Option<(&Expr, Option<&super::super::answer::Unit>)> {
    match answer {
        Answer::Expr(value) => Some((value, None)),
        Answer::Quantity(value, unit) => Some((value, Some(unit))),
        _ => None,
    }
}

/// What the brackets say of two tuples of the same length: with two members they tell a pair from an interval, and one
/// interval from another. Vectors written as columns, rows or in angles are marked.
fn brackets(one: (char, char), other: (char, char), length: usize) -> Match {
    const VECTORS: [char; 3] = ['<', 'c', 'r'];
    let is_vector = |brackets: (char, char)| VECTORS.contains(&brackets.0);
    match (one, other) {
        _ if one == other => Match::Same,
        // A column is no row.
        (('c', _), ('r', _)) | (('r', _), ('c', _)) => Match::Different,
        _ if is_vector(one) && is_vector(other) => Match::Same,
        (vector, ('(', ')')) | (('(', ')'), vector) if is_vector(vector) => Match::Same,
        (vector, ('[', ']')) | (('[', ']'), vector) if is_vector(vector) => {
            if vector.0 == 'c' {
                Match::Unknown
            } else {
                Match::Same
            }
        }
        _ if is_vector(one) || is_vector(other) => Match::Different,
        _ => Match::of(length != 2),
    }
}

/// Words for the empty set.
fn is_nothing(words: &str) -> bool {
    matches!(words, "none" | "no solution" | "no solutions" | "no real solution" | "no real solutions" | "empty")
}

/// A set that is not written as an interval or by its members: `\mathbb{R}`, `\{x \mid x > 1\}`, `x < 1 \text{ or } x > 2`.
fn is_described(answer: &Answer) -> bool {
    match answer {
        Answer::Expr(Expr::Symbol(name)) => name == "\\mathbb{R}",
        Answer::Words(words) => bounds::is_all_reals(words),
        Answer::Set(items) => items.iter().any(|item| matches!(item, Answer::Relation(..))),
        Answer::Combined(_, items) => items.iter().any(|item| matches!(item, Answer::Relation(..))),
        _ => false,
    }
}

fn is_set(answer: &Answer) -> bool {
    is_described(answer) || matches!(answer, Answer::Tuple { .. } | Answer::Set(_) | Answer::Combined(..))
}

/// Words that mean the same.
fn words(one: &str, other: &str) -> Match {
    let plain = |words: &str| words.replace(['-', '\'', '"'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let (one, other) = (plain(one), plain(other));
    const SAME: &[&[&str]] = &[
        &[
            "no solution",
            "no solutions",
            "there is no solution",
            "there are no solutions",
            "no real solution",
            "no real solutions",
        ],
        &["does not exist", "dne", "undefined"],
        &["none", "none of these", "none of above"],
    ];
    if one == other || SAME.iter().any(|group| group.contains(&one.as_str()) && group.contains(&other.as_str())) {
        return Match::Same;
    }
    // `on Monday` may be Monday, and `no solution` is no solution.
    let contains = |long: &str, short: &str| format!(" {long} ").contains(&format!(" {short} "));
    let says_more = |words: &str| words.split(' ').any(|word| matches!(word, "not" | "non" | "and" | "or" | "but"));
    let may_agree = (contains(&one, &other) || contains(&other, &one)) && says_more(&one) == says_more(&other);
    if may_agree { Match::Unknown } else { Match::Different }
}

/// Whether one text is the other in brackets, with a sign or figures in front.
pub(super) fn is_multiple(one: &str, other: &str) -> bool {
    let factor = |one: &str| {
        let front = one.strip_suffix(')')?.strip_suffix(other)?.strip_suffix('(')?;
        Some(front == "-" || front.len() < 4 && front.parse::<u32>().is_ok_and(|factor| factor != 1))
    };
    factor(one).unwrap_or(false)
}

/// `1 : 2` as a quotient, `a : b : c` divided from left to right.
fn ratio(items: &[Answer]) -> Option<Answer> {
    let mut parts = items.iter().map(|item| match item {
        Answer::Expr(expr) => Some(expr.clone()),
        _ => None,
    });
    let first = parts.next()??;
    let quotient = parts.try_fold(first, |total, part| Some(Expr::Quotient(Box::new(total), Box::new(part?))));
    quotient.map(Answer::Expr)
}

/// Whether words stand in a text, besides commands.
fn has_words(text: &str) -> bool {
    let is_command = |at: usize| text[..at].ends_with('\\');
    let starts = text.char_indices().filter(|(at, c)| c.is_alphabetic() && !text[..*at].ends_with(char::is_alphabetic));
    starts
        .filter(|(at, _)| !is_command(*at))
        .any(|(at, _)| text[at..].chars().take_while(|c| c.is_alphabetic()).count() >= 4)
}

/// `abc` may be a word or a product.
fn word_and_expression(word: &str, answer: &Answer) -> Match {
    if letters::may_spell(answer, word) { Match::Unknown } else { Match::Different }
}

/// `No, it does not`: the first word is the answer, words behind it repeat the question.
fn reasoned(items: &[Answer], truth: bool) -> Match {
    let repeats = |item: &Answer| matches!(item, Answer::Words(words) if says_no_more(words));
    if items.first() != Some(&Answer::Truth(truth)) {
        return Match::Different;
    }
    if items.iter().skip(1).all(repeats) { Match::Same } else { Match::Unknown }
}

/// Whether words begin with a yes or a no and say more.
fn begins_with_truth(words: &str) -> bool {
    let is_truth = |word: &&str| matches!(*word, "yes" | "no" | "true" | "false");
    let mut each = words.split([' ', ',', '.', ';', ':', '/']);
    // `yes and no` is neither.
    each.next().is_some_and(|first| is_truth(&first)) && !each.any(|word| is_truth(&word))
}
