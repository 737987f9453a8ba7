//! Is an answer bad data? What a language model writes when it collapses: loops, noise, broken characters.
//!
//! Training on such text leads to more of it (paper, section 3.4), so it is recorded and left out of the update. The
//! judgement is of form only: a wrong answer in plain sentences has no defect. It is pure, takes time linear in the text
//! whatever the text is, and a fixed amount of memory.
//!
//! In doubt a text is clean. A loop that is missed costs a little of one update; a right answer that is thrown away
//! because it contains a table costs the very signal that the search was paid for.

mod garbled;
mod repetition;

use crate::types::Defect;

/// Characters that decoding puts at the end of a text whose last character was cut: one for its incomplete bytes, or one
/// for each of them (at most three) where the tokenizer decodes byte by byte.
const CUT_REPLACEMENTS: usize = 3;

/// The defect of `text`, the decoded response of a model; `None` if it is clean. `is_cut` says that the token budget
/// ended it, perhaps within a character.
///
/// [`Defect::InvalidUtf8`] comes first since it is a fact, then [`Defect::Repetition`], then [`Defect::Garbled`]. The
/// thresholds are the constants of the two submodules.
pub fn defect(text: &str, is_cut: bool) -> Option<Defect> {
    let text = if is_cut { without_cut_character(text) } else { text };
    if text.contains(char::REPLACEMENT_CHARACTER) {
        Some(Defect::InvalidUtf8)
    } else if repetition::is_endless(text) {
        Some(Defect::Repetition)
    } else if garbled::is_garbled(text) {
        Some(Defect::Garbled)
    } else {
        None
    }
}

/// Bytes below which too little is known of a text that goes on to call it garbled.
const LOST_GARBLED_BYTES: usize = 512;

/// The defect of a text that is still being written, where no continuation is worth waiting for.
///
/// It asks for more than [`defect`] does. A loop must be so long that it would count even if the text left it again: a
/// matrix that is half written ends in a loop too. Garbled text must be long enough for its shares to mean something. A
/// character that is no UTF-8 is a fact, but the answer behind it may be right, so it is no reason to stop. Whatever is
/// lost has a defect too.
pub fn lost(text: &str) -> Option<Defect> {
    let text = without_cut_character(text);
    if repetition::is_in_long_loop(text) {
        Some(Defect::Repetition)
    } else if text.len() >= LOST_GARBLED_BYTES && garbled::is_garbled(text) {
        Some(Defect::Garbled)
    } else {
        None
    }
}

fn without_cut_character(text: &str) -> &str {
    let rest = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let is_one_character = (text.len() - rest.len()) / char::REPLACEMENT_CHARACTER.len_utf8() <= CUT_REPLACEMENTS;
    // A text of nothing else is no text with its end missing.
    if is_one_character && !rest.trim().is_empty() { rest } else { text }
}
