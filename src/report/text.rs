//! Foreign text made harmless for a terminal, and cut to a width.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `text` on one line: line breaks become `⏎`, other control characters their pictures (`␛`), and characters that
/// reorder or hide text `�`. Nothing is dropped, so that a reader sees what the model wrote.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '⏎' } else { visible(c) }).collect()
}

/// As [`one_line`], but line breaks stay.
pub fn lines(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { visible(c) }).collect()
}

/// The first `width` columns of `text`, ending in `…` if there was more.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut columns = 0;
    for c in text.chars() {
        let next = columns + c.width().unwrap_or(0);
        if next + 1 > width {
            break;
        }
        kept.push(c);
        columns = next;
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// Columns that `text` takes in a terminal.
pub fn columns(text: &str) -> usize {
    text.width()
}

fn visible(c: char) -> char {
    match c {
        // Unicode has a picture for each ASCII control character.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '␡',
        // C1 controls, among them the one-character form of `ESC [`.
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        // Invisible, or changing the direction or the order of what is shown: Unicode TR 36, section 2.
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => '\u{fffd}',
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => '\u{fffd}',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_loses_its_power_but_stays_readable() {
        assert_eq!(one_line("a\nb\t\x1b[31mred\x07\x7f"), "a⏎b␉␛[31mred␇␡");
        assert_eq!(one_line("\u{9b}2J \u{202e}evil\u{feff}"), "\u{fffd}2J \u{fffd}evil\u{fffd}");
        assert_eq!(lines("a\r\nb\x1b]0;title\x07"), "a␍\nb␛]0;title␇");
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            assert!(!one_line(&c.to_string()).chars().any(char::is_control), "{c:?}");
        }
    }

    #[test]
    fn text_is_cut_by_columns_not_by_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("漢字漢字", 4), "漢…");
        assert_eq!(cut("abc", 0), "");
    }
}
