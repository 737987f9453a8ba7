//! Finds the final answer of a response.
//!
//! At the defaults it is the last box of the answer part ([`boxes`]), and a text without one has no answer. Options:
//! [`Fallback`](crate::config::Fallback)s for texts without a box, and the rules of Math-Verify ([`library`]). Every rule
//! takes linear time.

pub mod boxes;
pub mod fallback;
pub mod library;
pub mod number;

use std::borrow::Cow;

use boxes::Boxes;

use crate::config::{Extraction, VerifyConfig};

/// Tags around thoughts.
const THINK: (&str, &str) = ("<think>", "</think>");

/// The final answer of `text`, a whole response; `None` where there is none, and an empty text where its box is empty.
pub fn final_answer<'a>(text: &'a str, config: &VerifyConfig) -> Option<Cow<'a, str>> {
    let text = answer_part(text)?;
    match config.extraction {
        Extraction::MathVerify => library::answer(text),
        Extraction::LastBox => {
            let boxes = Boxes::find(text);
            if let Some(span) = boxes.last(text) {
                return Some(unescaped(span.of(text)));
            }
            // A box that was cut off is an answer that was not given, not an answer in another place.
            let rest = if boxes.cut_off { &[][..] } else { &config.fallbacks[..] };
            rest.iter().find_map(|rule| fallback::find(text, *rule)).map(Cow::Borrowed)
        }
    }
}

/// The right answer that a reference holds. A bare one, as most data sets have it, is taken as it is. A worked solution,
/// which has boxes or says "final answer is", holds what is in its last boxes, those close together being one answer, or
/// what is said. Under [`Extraction::MathVerify`] every reference is read as a response is.
pub fn reference<'a>(text: &'a str, config: &VerifyConfig) -> Cow<'a, str> {
    let has_box = text.contains("\\boxed") || text.contains("\\fbox");
    let is_solution = || text.contains('$') && text.to_ascii_lowercase().contains("final answer is");
    let is_read = config.extraction == Extraction::MathVerify || has_box || is_solution();
    let read = if is_read { library::answer(text) } else { None };
    read.map_or_else(
        || unescaped(text),
        |read| match read {
            Cow::Borrowed(read) => unescaped(read),
            Cow::Owned(read) => Cow::Owned(unescaped(&read).into_owned()),
        },
    )
}

/// The content of the last box of the answer part.
///
/// - Braces are balanced; `\{` and `\}` do not count. Of nested boxes the outer one counts, and one that holds nothing
///   but another box is peeled off.
/// - A box that is opened last and never closed was cut off: there is no answer, even if an earlier box is complete,
///   since the earlier one was about to be replaced.
pub fn final_box(text: &str) -> Option<&str> {
    let text = answer_part(text)?;
    Boxes::find(text).last(text).map(|span| span.of(text))
}

/// What follows the thoughts: an answer that appears in the thoughts alone was not given. Thoughts that never end are
/// followed by nothing: if their boxes counted, not to end them would pay.
fn answer_part(text: &str) -> Option<&str> {
    let (open, close) = THINK;
    let part = text.rfind(close).map_or(text, |at| &text[at + close.len()..]);
    (!part.contains(open)).then_some(part)
}

/// The text with single backslashes, where it has doubled ones throughout: it was escaped once too often.
fn unescaped(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut doubled = false;
    while let Some(found) = text[at..].find('\\') {
        at += found;
        let run = bytes[at..].iter().take_while(|byte| **byte == b'\\').count();
        at += run;
        let is_command = bytes.get(at).is_some_and(|byte| byte.is_ascii_alphabetic() || b"{}%$,!;".contains(byte));
        if run != 2 || !is_command {
            return Cow::Borrowed(text);
        }
        doubled = true;
    }
    if doubled { Cow::Owned(text.replace("\\\\", "\\")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::{final_answer, final_box, reference};
    use crate::config::{Fallback, VerifyConfig};

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(final_box(text), expected, "{text}");
    }

    #[test]
    fn the_last_box() {
        check("so \\boxed{5}.", Some("5"));
        check("\\boxed{1} then \\fbox{2}", Some("2"));
        check("\\boxed{\\frac{1}{2}} and more", Some("\\frac{1}{2}"));
        check("\\boxed{\\{1, 2\\}}", Some("\\{1, 2\\}"));
        check("\\boxed{a \\} b}", Some("a \\} b"));
        check("\\boxed{}", Some(""));
        check("\\boxed{über}", Some("über"));
        check("\\boxed {5}", Some("5"));
        check("\\boxed\n {5}", Some("5"));
        check("\\\\boxed{5}", Some("5"));
        check("\\\\\\boxed{\\\\{5\\\\}}", Some("\\\\{5\\\\}"));
        check("\\boxed 5", None);
        check("\\boxed{4} \\boxed 5", Some("4"));
        check("no box", None);
        check("in \\boxed, please", None);
        check("", None);
    }

    #[test]
    fn nested_boxes() {
        check("\\boxed{\\boxed{5}}", Some("5"));
        check("\\boxed{ \\fbox{\\boxed{5} } }", Some("5"));
        check("\\boxed{x = \\boxed{5}}", Some("x = \\boxed{5}"));
        check("\\boxed{\\boxed{5}\\boxed{6}}", Some("\\boxed{5}\\boxed{6}"));
    }

    #[test]
    fn boxes_that_are_cut_off() {
        check("\\boxed{5", None);
        check("\\boxed{", None);
        check("\\boxed{\\left(", None);
        check("\\boxed{3} no, \\boxed{4", None);
        // An earlier slip of braces does not hide a complete box.
        check("\\boxed{3 so \\boxed{4}", Some("4"));
        check("{ \\boxed{4}", Some("4"));
        check("} } \\boxed{4} }", Some("4"));
        check("\\boxed{4\\", None);
    }

    #[test]
    fn answers_follow_the_thoughts() {
        check("<think>\\boxed{1}</think> \\boxed{2}", Some("2"));
        check("<think>\\boxed{1}</think> it is 1", None);
        check("\\boxed{1} </think> a </think> \\boxed{3}", Some("3"));
        check("<think> \\boxed{1} and", None);
        check("\\boxed{1} <think> \\boxed{2}", None);
        check("a</think> \\boxed{1} <think> or", None);
    }

    #[test]
    fn fallbacks_are_for_texts_without_a_box() {
        let config = |fallbacks: &[Fallback]| VerifyConfig { fallbacks: fallbacks.to_vec(), ..VerifyConfig::default() };
        let check = |text: &str, fallbacks: &[Fallback], expected: Option<&str>| {
            assert_eq!(final_answer(text, &config(fallbacks)).as_deref(), expected, "{text}");
        };
        let both = [Fallback::Phrase, Fallback::LastNumber];
        check("the answer is 5, not 6", &[], None);
        check("the answer is 5", &both, Some("5"));
        check("so it is 5, all 6 times", &both, Some("6"));
        check("\\boxed{4}, so the answer is 5", &both, Some("4"));
        check("the answer is 5 \\boxed{", &both, None);
        check("<think>the answer is 5</think>", &both, None);
    }

    #[test]
    fn references_with_boxes_are_read() {
        let check = |text: &str, expected: &str| assert_eq!(reference(text, &VerifyConfig::default()), expected);
        check("5", "5");
        check("$5$", "$5$");
        check("so the answer is: \\[ \\boxed{5} \\]", "5");
        check("It is $8 - 3$. Final Answer: The final answer is $5$. I hope it is correct.", "5");
        check("\\boxed{1} papers and \\boxed{2} bins", "1, 2");
        check("$\\\\frac{1}{2}$", "$\\frac{1}{2}$");
        check("\\begin{matrix} 1 \\\\ a \\end{matrix}", "\\begin{matrix} 1 \\\\ a \\end{matrix}");
    }
}
