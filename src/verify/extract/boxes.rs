//! Boxes: `\boxed{...}` and `\fbox{...}`.

/// A complete box, by byte positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where its backslash stands.
    pub command: usize,
    /// Where its content starts.
    pub start: usize,
    /// Where its content ends: its closing brace.
    pub end: usize,
}

impl Span {
    /// The content.
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start..self.end]
    }
}

/// The boxes of a text.
#[derive(Debug, Default)]
pub struct Boxes {
    /// The complete ones, in the order in which they close.
    pub closed: Vec<Span>,
    /// Whether the last one opened was never closed, so that the text was cut off in it.
    pub cut_off: bool,
}

impl Boxes {
    /// All boxes of `text`, in one pass. Braces are balanced; `\{` and `\}` do not count. White space may stand between
    /// the command and its brace, and the backslash may be doubled, as it is in text that was escaped once too often.
    pub fn find(text: &str) -> Boxes {
        let bytes = text.as_bytes();
        let mut depth = 0usize;
        // Boxes that are still open: the command, where the content starts, and the depth outside.
        let mut open: Vec<(usize, usize, usize)> = Vec::new();
        let mut closed: Vec<Span> = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => {
                    let run = bytes[at..].iter().take_while(|byte| **byte == b'\\').count();
                    let last = at + run - 1;
                    if let Some(start) = opening(bytes, last) {
                        open.push((last, start, depth));
                        depth += 1;
                        at = start;
                    } else {
                        // The character that an odd run escapes is passed over.
                        at += run + run % 2;
                    }
                    continue;
                }
                b'{' => depth += 1,
                b'}' => {
                    depth = depth.saturating_sub(1);
                    if let Some((command, start, _)) = open.pop_if(|(_, _, outside)| *outside == depth) {
                        closed.push(Span { command, start, end: at });
                    }
                }
                _ => {}
            }
            at += 1;
        }
        let last_closed = closed.last().map_or(0, |span| span.start);
        let cut_off = open.last().is_some_and(|(_, start, _)| *start > last_closed);
        Boxes { closed, cut_off }
    }

    /// The last box, unless the text was cut off in a later one. Boxes that hold nothing but another one are peeled off.
    pub fn last(&self, text: &str) -> Option<Span> {
        if self.cut_off {
            return None;
        }
        self.peeled(text, self.closed.len().checked_sub(1)?)
    }

    /// The last box and those before it that stand `together` with the next one, from left to right, each peeled.
    /// `together` is told the content of a box, that of the next one, and what stands between.
    pub fn last_group(&self, text: &str, together: impl Fn(&str, &str, &str) -> bool) -> Vec<Span> {
        let mut group: Vec<Span> = Vec::new();
        if self.cut_off {
            return group;
        }
        let mut next: Option<Span> = None;
        for index in (0..self.closed.len()).rev() {
            let outer = self.closed[index];
            if let Some(next) = next {
                if outer.end > next.command {
                    continue; // inside the next one
                }
                if !together(outer.of(text).trim(), next.of(text).trim(), &text[outer.end + 1..next.command]) {
                    break;
                }
            }
            next = Some(outer);
            group.extend(self.peeled(text, index));
        }
        group.reverse();
        group
    }

    fn peeled(&self, text: &str, mut index: usize) -> Option<Span> {
        let mut span = *self.closed.get(index)?;
        while let Some(inner) = index.checked_sub(1).and_then(|index| self.closed.get(index)) {
            let is_all = inner.command >= span.start
                && text[span.start..inner.command].trim_start_matches('\\').trim().is_empty()
                && text[inner.end + 1..span.end].trim().is_empty();
            if !is_all {
                break;
            }
            (span, index) = (*inner, index - 1);
        }
        Some(span)
    }
}

/// Where the content starts of the box whose backslash stands at `at`, if one does.
fn opening(bytes: &[u8], at: usize) -> Option<usize> {
    let after = bytes.get(at + 1..)?;
    let name = [&b"boxed"[..], b"fbox"].into_iter().find(|name| after.starts_with(name))?;
    let space = after[name.len()..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    (after.get(name.len() + space) == Some(&b'{')).then_some(at + 1 + name.len() + space + 1)
}
