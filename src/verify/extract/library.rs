//! Reads an answer where Math-Verify 0.9 looks for one, for data sets and scores that were made with it.
//!
//! In this order, and of several finds in one class the one that ends last: what "final answer is ... I hope" encloses;
//! the last boxes, or what follows "final answer ... is"; what follows "answer:"; what follows "answer"; any formula or
//! number of the text. Rules of our own: white space is allowed where that library wants none, a formula of prose is
//! passed over, and a box that was cut off ends the search.

use std::borrow::Cow;

use super::boxes::Boxes;
use super::{fallback, number};

/// Boxes so close together, in bytes, are one answer whatever stands between.
const CLOSE: usize = 10;
/// Boxes so close together, in bytes, are one answer if "and", "or", a comma or a semicolon stands between.
const NEAR: usize = 70;
/// How far after "answer" the answer may start, in bytes.
const AFTER_ANSWER: usize = 50;
/// How far after "final answer" the word "is" may stand, in bytes; and the last `=` after "answer".
const AFTER_FINAL: usize = 100;
/// Most formulas that are joined into one answer.
const MOST_JOINED: usize = 6;
/// Words in a row that make a formula prose.
const PROSE: usize = 4;

/// The answer of `text`; `None` where there is nothing to read.
pub fn answer(text: &str) -> Option<Cow<'_, str>> {
    let boxes = Boxes::find(text);
    if boxes.cut_off {
        return None;
    }
    let readings = formulas(text);
    let mut best: [Option<Reading>; 4] = Default::default();
    for anchor in anchors(text) {
        anchored(text, anchor, &readings, &mut best);
    }
    let [hoped, is, colon, word] = best;
    let boxed = boxed(text, &boxes);
    let anywhere = || {
        let number = number::last(text).map(|found| Reading::of_number(text, found));
        later(readings.last().cloned(), number)
    };
    let reading = hoped.or_else(|| later(boxed, is)).or(colon).or(word).or_else(anywhere)?;
    let read = reading.text(text);
    Some(if read.contains("!=") { Cow::Owned(read.replace("!=", "\\ne ")) } else { read })
}

/// Something to read, by byte positions.
#[derive(Clone, Debug)]
struct Reading {
    start: usize,
    end: usize,
    content: Content,
    /// Whether a percent sign or word follows.
    is_percent: bool,
}

#[derive(Clone, Debug)]
enum Content {
    /// Formulas, boxes or fractions: parts of one answer.
    Parts(Vec<(usize, usize)>),
    /// A number as read.
    Number(String),
}

impl Reading {
    fn of_number(text: &str, found: number::Found) -> Reading {
        let content = Content::Number(found.read(text).into_owned());
        Reading { start: found.start, end: found.end, content, is_percent: false }
    }

    fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let parts = match &self.content {
            Content::Number(number) => return Cow::Owned(number.clone()),
            Content::Parts(parts) => parts,
        };
        let mut read: Vec<&str> = Vec::new();
        for (start, end) in parts {
            let part = &text[*start..*end];
            // All boxes of a formula are its answer; the same twice counts once.
            let boxes = Boxes::find(part).last_group(part, |_, _, _| true);
            for span in &boxes {
                let inside = last_side(span.of(part).trim());
                if read.last() != Some(&inside) {
                    read.push(inside);
                }
            }
            if boxes.is_empty() {
                read.push(last_side(part.trim()));
            }
        }
        match (&read[..], self.is_percent) {
            ([one], false) => Cow::Borrowed(one),
            (parts, false) => Cow::Owned(parts.join(", ")),
            (parts, true) => Cow::Owned(parts.join(", ") + "\\%"),
        }
    }
}

/// The one of two that ends later; the first if they end together.
fn later(first: Option<Reading>, second: Option<Reading>) -> Option<Reading> {
    match (first, second) {
        (Some(first), Some(second)) => Some(if second.end > first.end { second } else { first }),
        (first, second) => first.or(second),
    }
}

/// The last boxes that stand close together.
fn boxed(text: &str, boxes: &Boxes) -> Option<Reading> {
    let group = boxes.last_group(text, |content, next, between| {
        between.len() < CLOSE || content != next && between.len() < NEAR && separates(between)
    });
    let (first, last) = (group.first()?, group.last()?);
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for span in &group {
        if parts.last().is_none_or(|(start, end)| text[*start..*end].trim() != span.of(text).trim()) {
            parts.push((span.start, span.end));
        }
    }
    // The brace of the outermost box is not the last one's where that one was peeled.
    let end = boxes.closed.last()?.end.max(last.end) + 1;
    let after = text[end..].trim_start_matches(['$', ' ']);
    let is_percent = number::percent(after) > 0;
    Some(Reading { start: first.command, end, content: Content::Parts(parts), is_percent })
}

/// Whether a text between two boxes joins them.
fn separates(between: &str) -> bool {
    between.contains([',', ';'])
        || between.split(|character: char| !character.is_alphanumeric()).any(|word| word == "and" || word == "or")
}

/// The formulas of a text in order, those joined by a comma, "and" or "or" as one reading.
fn formulas(text: &str) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    let mut scan = Scan { text, hopeless_until: [0; 4] };
    let mut at = 0;
    while at < text.len() {
        let Some(reading) = scan.formula(at) else {
            at += 1;
            continue;
        };
        at = reading.end;
        let Content::Parts(parts) = &reading.content else { continue };
        if parts.iter().any(|(start, end)| is_prose(&text[*start..*end])) {
            continue;
        }
        if let Some(previous) = readings.last_mut()
            && let Content::Parts(joined) = &mut previous.content
            && joined.len() < MOST_JOINED
            && joins(&text[previous.end..reading.start])
        {
            joined.extend(parts);
            previous.end = reading.end;
            previous.is_percent |= reading.is_percent;
        } else {
            readings.push(reading);
        }
    }
    readings
}

/// Whether two formulas with this text between are parts of one answer.
fn joins(between: &str) -> bool {
    matches!(between.trim(), "," | "and" | "or" | ",and" | ",or" | ", and" | ", or")
}

/// Looks for formulas; each failed search for a closing mark is remembered, so that all together take linear time.
struct Scan<'a> {
    text: &'a str,
    /// Per kind of formula: up to here there is no closing mark.
    hopeless_until: [usize; 4],
}

impl Scan<'_> {
    /// The formula that starts at `at`.
    fn formula(&mut self, at: usize) -> Option<Reading> {
        let bytes = self.text.as_bytes();
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let is_escaped = before == Some(b'\\');
        let (content, end) = match (bytes[at], bytes.get(at + 1)) {
            (b'$', Some(b'$')) if !is_escaped => self.delimited(at + 2, 0, b"$$", false)?,
            (b'$', _) if !is_escaped && !before.is_some_and(|byte| byte.is_ascii_digit()) => {
                self.delimited(at + 1, 1, b"$", true)?
            }
            (b'\\', Some(b'[')) if !is_escaped => self.delimited(at + 2, 2, b"\\]", false)?,
            (b'\\', Some(b'(')) if !is_escaped => self.delimited(at + 2, 3, b"\\)", true)?,
            // A display whose backslashes were lost: `[ x = 5 ]`.
            (b'[', Some(b' ')) if before.is_some_and(|byte| byte.is_ascii_whitespace()) => self.bare_bracket(at)?,
            (b'-' | b'\\', _) => {
                let end = fallback::fraction(self.text, at)?;
                ((at, end), end)
            }
            _ => return None,
        };
        let percent = number::percent(&self.text[end..]);
        let content = Content::Parts(vec![content]);
        Some(Reading { start: at, end: end + percent, content, is_percent: percent > 0 })
    }

    /// The content from `start` to the mark `close`, and where the mark ends. An `inline` formula has one line.
    fn delimited(&mut self, start: usize, kind: usize, close: &[u8], inline: bool) -> Option<((usize, usize), usize)> {
        if start < self.hopeless_until[kind] {
            return None;
        }
        let bytes = self.text.as_bytes();
        let mut at = start;
        while at < bytes.len() && !(inline && bytes[at] == b'\n') {
            if bytes[at..].starts_with(close) && bytes[at - 1] != b'\\' && at > start {
                return Some(((start, at), at + close.len()));
            }
            at += 1;
        }
        self.hopeless_until[kind] = at;
        None
    }

    fn bare_bracket(&self, at: usize) -> Option<((usize, usize), usize)> {
        let inside = &self.text[at + 1..];
        let length = inside.find(['[', ']', '\n'])?;
        let is_closed = inside[length..].starts_with(']') && inside[..length].ends_with(' ');
        let end = at + 1 + length;
        (is_closed && length > 1).then_some(((at + 1, end), end + 1))
    }
}

/// Whether a formula holds several plain words in a row: a price's dollar sign was taken for a formula's.
fn is_prose(formula: &str) -> bool {
    let mut words = 0;
    for word in formula.split_ascii_whitespace() {
        let letters = word.trim_end_matches([',', '.']);
        let is_word = letters.len() > 1 && letters.bytes().all(|byte| byte.is_ascii_alphabetic());
        words = if is_word { words + 1 } else { 0 };
        if words >= PROSE {
            return true;
        }
    }
    false
}

/// Where the word "answer" ends in a text, and whether "final" stands before it.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    end: usize,
    is_final: bool,
}

fn anchors(text: &str) -> impl Iterator<Item = Anchor> {
    let bytes = text.as_bytes();
    let is = |at: usize, word: &[u8]| bytes.get(at..at + word.len()).is_some_and(|b| b.eq_ignore_ascii_case(word));
    (0..bytes.len()).filter(move |at| is(*at, b"answer")).map(move |at| {
        let is_final = at.checked_sub("final ".len()).is_some_and(|at| is(at, b"final "));
        Anchor { end: at + "answer".len(), is_final }
    })
}

/// Adds what follows an anchor to the best of each class: enclosed by "is ... I hope", after "is", after a colon, after
/// the word.
fn anchored(text: &str, anchor: Anchor, readings: &[Reading], best: &mut [Option<Reading>; 4]) {
    let mut offer = |class: usize, reading: Option<Reading>| {
        let old = best[class].take();
        best[class] = later(old, reading);
    };
    if anchor.is_final {
        let hopes = |reading: &Reading| {
            let after = &text[reading.end..];
            after.strip_prefix('.').unwrap_or(after).trim_start().starts_with("I hope")
        };
        for end in verbs(text, anchor.end) {
            let from = skip_space(text, if text[end..].starts_with(':') { end + 1 } else { end });
            let formula =
                readings.iter().skip(index_from(readings, from)).take(1).find(|reading| reading.start == from);
            let number = number::at(text, from).map(|found| Reading::of_number(text, found));
            if let Some(reading) = later(formula.cloned(), number) {
                if end <= anchor.end + " is".len() && hopes(&reading) {
                    offer(0, Some(reading.clone()));
                }
                offer(1, Some(reading));
                break;
            }
        }
    }
    let (class, from) = if text[anchor.end..].starts_with(':') { (2, anchor.end + 1) } else { (3, anchor.end) };
    let formula = readings.get(index_from(readings, from)).filter(|reading| reading.start <= from + AFTER_ANSWER);
    offer(class, formula.cloned());
    let is_side = |found: &number::Found| text[found.end..].trim_start().starts_with('=');
    let reach = from..text.len().min(from + AFTER_FINAL);
    let equals = text.as_bytes()[reach].iter().rposition(|byte| *byte == b'=').map(|at| from + at + 1);
    let number = equals
        .and_then(|equals| number::at(text, skip_space(text, equals)))
        .filter(|found| !is_side(found))
        .or_else(|| number::first(text, from, from + AFTER_ANSWER).filter(|found| !is_side(found)));
    offer(class, number.map(|found| Reading::of_number(text, found)));
}

/// Where each word "is" ends that stands at most so far after `from`.
fn verbs(text: &str, from: usize) -> impl Iterator<Item = usize> {
    let bytes = text.as_bytes();
    (from..bytes.len().min(from + AFTER_FINAL)).filter_map(move |at| {
        let is_verb = bytes[at].is_ascii_whitespace() && bytes[at + 1..].starts_with(b"is");
        let ends = bytes.get(at + 3).is_none_or(|byte| !byte.is_ascii_alphanumeric());
        (is_verb && ends).then_some(at + 3)
    })
}

fn skip_space(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start().len()
}

/// The first reading that starts at or after `from`.
fn index_from(readings: &[Reading], from: usize) -> usize {
    readings.partition_point(|reading| reading.start < from)
}

/// What a chain of equations arrives at: `x = 2 + 3 = 5` at `5`, `x = 1/3 \approx 0.33` at `x = 1/3`. Lists of equations
/// stay as they are, and so does an equation that is an answer itself, since it has a name in it.
fn last_side(formula: &str) -> &str {
    let exact = match (formula.find('='), formula.find("\\approx")) {
        (Some(equals), Some(about)) if equals < about => formula[..about].trim_end(),
        _ => formula,
    };
    if exact.contains([',', ';', '&']) {
        return exact;
    }
    let bytes = exact.as_bytes();
    let mut depth = 0usize;
    let mut signs: Vec<usize> = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            // `\=` is an accent; `<=`, `>=`, `!=` and `:=` are other signs.
            b'=' if depth == 0 && !(at > 0 && b"\\<>!:".contains(&bytes[at - 1])) => signs.push(at),
            _ => {}
        }
    }
    let fractions = ["dfrac", "tfrac", "cfrac", "frac"];
    let has_name = |formula: &str| {
        let rest = fractions.iter().fold(formula.to_string(), |rest, name| rest.replace(name, ""));
        rest.contains(|character: char| character.is_alphabetic())
    };
    match signs[..] {
        [.., last] if signs.len() > 1 => exact[last + 1..].trim_start(),
        [only] if !has_name(exact) => exact[only + 1..].trim_start(),
        _ => exact,
    }
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(answer(text).unwrap_or_default(), expected, "{text}");
    }

    #[test]
    fn boxes_close_together_are_one_answer() {
        check("\\boxed{1} and \\boxed{2} and \\boxed{3}", "1, 2, 3");
        check("$$\\boxed{(2, 2)} \\quad \\text{and} \\quad \\boxed{(6, 2)}$$", "(2, 2), (6, 2)");
        check("\\boxed{1} papers and \\boxed{2} bins", "1, 2");
        check("\\boxed{1} no no no no no \\boxed{2}", "2");
        check("\\boxed{5}. So it is, and so we have \\boxed{5}", "5");
        check("$\\boxed{28}$ pct", "28\\%");
        check("$\\boxed{\\boxed{5}}$", "5");
        check("so \\boxed{5} and \\boxed{6", "");
    }

    #[test]
    fn formulas_and_numbers() {
        check("Answer \\[ \n 9 \n \\]", "9");
        check("It is $x$ or $y$.", "x, y");
        check("$21,16$ or $11$", "21,16, 11");
        check("$x=1/3\\approx1.3$", "x=1/3");
        check("$x = 5+5+1 = 1/3 \\approx 11$", "1/3");
        check("cost is $1.50 for each of the apples", "1.50");
        check("\\frac{10}{9}", "\\frac{10}{9}");
        check("so [ x = 5 ] it is", "x = 5");
        check("so $x != 3$", "x \\ne  3");
        check("nothing", "");
    }

    #[test]
    fn anchors_come_before_other_formulas() {
        check("Final Answer: The final answer is $7$. I hope it is correct. $8$", "7");
        check("Final Answer: The largest $n$ is 34.", "34");
        check("Final Answer: The volume of $ABCH$ is 120. I hope", "120");
        check("\\boxed{5} Final Answer: The final answer is 6.", "6");
        check("Answer: $5$, which is more than $4$ and also more than $3$, the latter being less than $2$.", "5");
    }
}
