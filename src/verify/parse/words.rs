//! Words in and around an answer: lead-ins, units, truth values.

use super::super::answer::{Answer, Unit};
use super::super::latex::Token;
use super::{Parser, is_conjunction};

/// Units and things counted that do not end in s.
const UNITS: &[&str] = &[
    "m",
    "g",
    "s",
    "h",
    "l",
    "n",
    "j",
    "w",
    "v",
    "a",
    "c",
    "cm",
    "mm",
    "km",
    "kg",
    "mg",
    "ml",
    "ft",
    "in",
    "mi",
    "hr",
    "min",
    "sec",
    "mph",
    "kph",
    "hz",
    "ev",
    "kj",
    "mol",
    "pa",
    "kpa",
    "meter",
    "metre",
    "foot",
    "feet",
    "inch",
    "mile",
    "gram",
    "liter",
    "litre",
    "hour",
    "day",
    "week",
    "month",
    "year",
    "minute",
    "second",
    "unit",
    "square",
    "cubic",
    "dollar",
    "cent",
    "euro",
    "pound",
    "yuan",
    "yen",
    "rupee",
    "usd",
    "people",
    "children",
    "men",
    "women",
    "person",
    "rad",
    "radian",
    "way",
    "apple",
    "degree",
    "mice",
    "fish",
    "sheep",
    "deer",
    "dozen",
    "percentage",
    "joule",
    "newton",
    "watt",
    "volt",
    "kelvin",
    "pair",
];

/// Words that are powers of ten.
const SCALES: &[(&str, u32)] = &[("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)];

/// What stands behind a number: a power of ten, and what is counted.
pub(super) struct Count {
    /// Exponent of ten; 0 where no such word stands there.
    pub(super) scale: u32,
    /// What is counted.
    pub(super) unit: Option<Unit>,
}

/// Words behind a number that say more than what is counted, or may.
const NOT_UNITS: &[&str] = &[
    "perhaps",
    "always",
    "besides",
    "towards",
    "upwards",
    "downwards",
    "afterwards",
    "remainders",
    "remainder",
    "cubes",
    "squares",
    "triple",
    "double",
    "trillionths",
    "trillionth",
    "billionths",
    "billionth",
    "millionths",
    "millionth",
    "gross",
    "crores",
    "crore",
    "lakhs",
    "lakh",
    "most",
    "least",
    "minimum",
    "maximum",
    "fold",
    "tripled",
    "thrice",
    "twice",
    "doubled",
    "positive",
    "negative",
    "below",
    "above",
    "about",
    "almost",
    "and",
    "approximately",
    "around",
    "billion",
    "billions",
    "but",
    "couple",
    "couples",
    "cubed",
    "dozen",
    "dozens",
    "eighth",
    "eighths",
    "except",
    "factorial",
    "false",
    "fifth",
    "fifths",
    "fourth",
    "fourths",
    "half",
    "halves",
    "hundred",
    "hundreds",
    "hundredth",
    "hundredths",
    "if",
    "incorrect",
    "infinite",
    "infinity",
    "less",
    "maybe",
    "million",
    "millions",
    "minus",
    "mod",
    "more",
    "nearly",
    "ninth",
    "ninths",
    "no",
    "not",
    "only",
    "or",
    "over",
    "pair",
    "pairs",
    "plus",
    "quarter",
    "quarters",
    "root",
    "roughly",
    "score",
    "scores",
    "seventh",
    "sevenths",
    "sixth",
    "sixths",
    "sqrt",
    "squared",
    "ten",
    "tens",
    "tenth",
    "tenths",
    "than",
    "third",
    "thirds",
    "thousand",
    "thousands",
    "thousandth",
    "thousandths",
    "times",
    "to",
    "trillion",
    "trillions",
    "unless",
    "when",
    "where",
    "wrong",
];

/// Words that end what leads to an answer.
const LEADS: &[&str] = &[
    "is",
    "are",
    "answer",
    "answer:",
    "equals",
    "equal",
    "thus",
    "therefore",
    "so",
    "hence",
    "exactly",
    "be",
    "was",
    "approximately",
    "about",
    "option",
    "choice",
    "value",
    "only",
    "namely",
    "have",
    "get",
    "are:",
    "is:",
    "either",
    "both",
];

/// Sentences that lead to words.
const LEAD_INS: &[&str] = &["answer is ", "final answer is ", "correct answer is ", "answer: "];

/// Words that begin a yes or a no.
const TRUTHS: &[(&str, bool)] = &[("yes", true), ("true", true), ("no", false), ("false", false)];

impl Parser<'_> {
    /// Words up to the end of the member, if there is nothing else.
    pub(super) fn only_words(&mut self) -> Option<Answer> {
        self.skip_space();
        let start = self.at;
        let mut words = String::new();
        while let Some(token) = self.peek() {
            match token {
                Token::Text(text) if is_conjunction(text) => break,
                Token::Text(text) => {
                    if !words.is_empty() {
                        words.push(' ');
                    }
                    words.push_str(text);
                }
                Token::Space | Token::ThinSpace => {}
                Token::Char(',' | ';' | '=') => break,
                _ => {
                    words.clear();
                    break;
                }
            }
            self.at += 1;
        }
        if words.is_empty() {
            self.at = start;
            return None;
        }
        Some(meaning(&words))
    }

    /// Takes a currency in front of a value.
    pub(super) fn currency(&mut self) -> Option<Unit> {
        let Some(Token::Text(words)) = self.next() else { return None };
        let is_currency = matches!(words.as_str(), "dollars" | "euros" | "pounds");
        let before_value = matches!(
            self.list.get(self.at + 1..),
            Some([Token::Char('0'..='9' | '.' | '-'), ..] | [Token::Command(_), ..] | [Token::Space, ..])
        );
        (is_currency && before_value).then(|| {
            self.at += 1;
            Unit::Words(words.clone())
        })
    }

    /// Skips `The answer is` and the like.
    pub(super) fn lead_in(&mut self) {
        let start = self.at;
        let mut last = None;
        while let Some(Token::Text(words)) = self.next() {
            last = Some(words);
            self.at += 1;
        }
        if let Some(words) = last {
            let words = words.trim_end_matches(':').trim_end().to_ascii_lowercase();
            let is_lead = words.split_whitespace().next_back().is_some_and(|word| LEADS.contains(&word));
            let says_no = words.split_whitespace().any(|word| matches!(word, "not" | "no" | "never" | "isn't"));
            if !is_lead || says_no {
                self.at = start;
                return;
            }
            self.take(':');
        }
    }

    /// The unit behind a value; `None` where the words say more than a unit.
    pub(super) fn count(&mut self) -> Option<Count> {
        let none = Count { scale: 0, unit: None };
        let Some(Token::Text(first)) = self.next() else { return Some(none) };
        if is_conjunction(first) {
            return Some(none);
        }
        let mut words = String::new();
        loop {
            match self.peek() {
                Some(Token::Text(text)) if is_conjunction(text) => break,
                Some(Token::Text(text)) => {
                    if !words.is_empty() && !words.ends_with(['/', ' ']) {
                        words.push(' ');
                    }
                    words.push_str(text);
                }
                Some(Token::Char('/')) => words.push('/'),
                Some(Token::Char('^')) => {
                    self.at += 1;
                    let power = self.unit_power()?;
                    words.push('^');
                    words.push_str(&power);
                    continue;
                }
                Some(Token::Command(name)) if name == "cdot" => words.push(' '),
                Some(Token::Space | Token::ThinSpace) => {}
                _ => break,
            }
            self.at += 1;
        }
        let words = normal_words(&words);
        let words = words.trim_matches(['(', ')', ' ']);
        let (first, behind) = words.split_once(' ').unwrap_or((words, ""));
        let scale = SCALES.iter().find(|(name, _)| *name == first.strip_suffix('s').unwrap_or(first));
        let (scale, words) = scale.map_or((0, words), |(_, scale)| (*scale, behind));
        match words {
            "" => return Some(Count { scale, unit: None }),
            "percent" | "pct" | "per cent" => return Some(Count { scale, unit: Some(Unit::Percent) }),
            "degree" | "degrees" | "deg" => return Some(Count { scale, unit: Some(Unit::Degree) }),
            _ => {}
        }
        let mut each = words.split([' ', '/', ',', '-', '^']).filter(|word| !word.is_empty());
        let says_more = each.clone().any(|word| NOT_UNITS.contains(&word));
        // A plural, or a unit that has none: `doubled`, `lakh` and `twice` say something of the number.
        let counts = |word: &str| {
            let stem = word.strip_suffix('s').unwrap_or(word);
            let is_plural =
                word.len() > 3 && word.ends_with('s') && !["ss", "us", "is"].iter().any(|end| word.ends_with(end));
            is_plural || UNITS.contains(&word) || UNITS.contains(&stem)
        };
        let is_counted = each.all(|word| {
            counts(word) || matches!(word, "per" | "of" | "total" | "different") || word.parse::<i32>().is_ok()
        });
        let is_unit =
            is_counted && words.chars().all(|c| c.is_alphabetic() || " /^-,.'()".contains(c) || c.is_ascii_digit());
        (is_unit && !says_more).then(|| Count { scale, unit: Some(Unit::Words(words.to_string())) })
    }

    /// `2` or `{-2}` behind a unit.
    fn unit_power(&mut self) -> Option<String> {
        let mut power = String::new();
        let is_braced = self.take('{');
        while let Some(Token::Char(c @ ('0'..='9' | '-'))) = self.peek() {
            power.push(*c);
            self.at += 1;
            if !is_braced {
                break;
            }
        }
        (!power.is_empty() && (!is_braced || self.take('}'))).then_some(power)
    }
}

/// Lower case, single spaces, without marks at the end and articles at the start.
pub fn normal_words(words: &str) -> String {
    let words = words.to_lowercase();
    let words = words.trim().trim_end_matches(['.', '!', ',', ';', ':']).trim_end();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    ["the ", "a ", "an "].iter().find_map(|article| words.strip_prefix(article)).unwrap_or(&words).to_string()
}

/// Whether words behind a yes or no only repeat the question.
pub fn says_no_more(words: &str) -> bool {
    let words = words.split([',', '.', ';', ':', ' ', '!']).filter(|word| !word.is_empty());
    words.into_iter().all(|word| {
        matches!(
            word,
            "it" | "this"
                | "that"
                | "they"
                | "there"
                | "the"
                | "does"
                | "do"
                | "is"
                | "are"
                | "can"
                | "will"
                | "holds"
                | "exists"
                | "exist"
                | "indeed"
        )
    })
}

/// What words alone mean.
fn meaning(words: &str) -> Answer {
    let words = normal_words(words);
    let words = LEAD_INS.iter().find_map(|lead| words.strip_prefix(lead)).map_or(words.clone(), normal_words);
    match words.as_str() {
        "infinity" | "positive infinity" | "plus infinity" => return Answer::Infinity(false),
        "negative infinity" | "minus infinity" => return Answer::Infinity(true),
        "empty set" | "null set" => return Answer::Set(Vec::new()),
        _ => {}
    }
    for (word, truth) in TRUTHS {
        if let Some(rest) = words.strip_prefix(word) {
            // `yes, it does`, but not `no solution` or `yes and no`.
            if rest.is_empty() || rest.starts_with([',', '.', ';', ':']) && says_no_more(rest) {
                return Answer::Truth(*truth);
            }
        }
    }
    Answer::Words(words)
}
