//! Finds the final answer of a response: the last `\boxed{...}` or `\fbox{...}`.

use std::collections::HashMap;

/// What opens a box.
const OPENINGS: [&str; 2] = ["\\boxed{", "\\fbox{"];

/// The content of the last box, in one pass over the text.
///
/// - Where the text closes a `</think>`, only what follows the last one counts: an answer that appears in the thoughts
///   alone was not given.
/// - Braces are balanced; `\{` and `\}` do not count. Of nested boxes the outer one counts, and one that holds nothing
///   but another box is peeled off.
/// - A box that is opened last and never closed was cut off: there is no answer, even if an earlier box is complete,
///   since the earlier one was about to be replaced.
pub fn final_box(text: &str) -> Option<&str> {
    let text = text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..]);
    let boxes = Boxes::find(text);
    let (mut start, mut end) = boxes.last?;
    // Peels boxes that hold one complete box and white space.
    loop {
        let inside = text[start..end].trim_start();
        let inner = end - inside.len();
        let Some(opening) = OPENINGS.iter().find(|opening| inside.starts_with(*opening)) else { break };
        let inner_start = inner + opening.len();
        match boxes.closed.get(&inner_start) {
            Some(inner_end) if text[inner_end + 1..end].trim_start().is_empty() => {
                (start, end) = (inner_start, *inner_end)
            }
            _ => break,
        }
    }
    Some(&text[start..end])
}

/// The boxes of a text, by the byte positions of their contents.
struct Boxes {
    /// Start to end of every complete box.
    closed: HashMap<usize, usize>,
    /// The last complete box, unless a later one is open.
    last: Option<(usize, usize)>,
}

impl Boxes {
    fn find(text: &str) -> Boxes {
        let bytes = text.as_bytes();
        let mut depth = 0usize;
        // Boxes that are still open: where the content starts, and the depth outside.
        let mut open: Vec<(usize, usize)> = Vec::new();
        let mut closed = HashMap::new();
        let mut last = None;
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => {
                    let opening = OPENINGS.iter().find(|opening| bytes[at..].starts_with(opening.as_bytes()));
                    if let Some(opening) = opening {
                        at += opening.len();
                        open.push((at, depth));
                        depth += 1;
                    } else {
                        at += 2;
                    }
                    continue;
                }
                b'{' => depth += 1,
                b'}' => {
                    depth = depth.saturating_sub(1);
                    if let Some((start, _)) = open.pop_if(|(_, outside)| *outside == depth) {
                        closed.insert(start, at);
                        last = Some((start, at));
                    }
                }
                _ => {}
            }
            at += 1;
        }
        let cut_off = |(start, _): &(usize, usize)| open.last().is_some_and(|(opened, _)| opened > start);
        Boxes { closed, last: last.filter(|last| !cut_off(last)) }
    }
}

#[cfg(test)]
mod tests {
    use super::final_box;

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
        check("<think> \\boxed{1} and", Some("1"));
    }
}
