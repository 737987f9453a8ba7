//! Endless repetition: one unit over and over, exactly, with a counter, or nearly.
//!
//! A *loop* is a stretch in which every byte equals the one `period` bytes before. All loops are found in one pass: a
//! table holds where each group of [`GRAM`] bytes was seen last, which proposes a period, and from there on bytes are
//! compared directly. A second pass over the text with every number replaced by `0` finds loops with a counter.
//!
//! What a loop must be to count as endless depends on what mathematics really writes. Sentences return two or three
//! times in a proof; digits, dots and matrix entries go on for long without any collapse, so a unit without letters must
//! fill more than one with letters; a loop that the text has left again may have been a table.

/// Bytes in a group: longer than what recurs by chance, shorter than the shortest loop that matters.
const GRAM: usize = 16;
/// Entries of the table, as a power of two, at most: twice the longest text of a usual token budget.
const TABLE_BITS: u32 = 16;

/// Least bytes of a loop of white space at the end.
const SPACE_BYTES: usize = 48;

/// Least bytes of a loop with letters at the end of the text, and where it is at least half of the whole text.
const WORD_BYTES: usize = 120;
const WORD_BYTES_IF_MOST: usize = 60;
/// The same for signs that are neither letters nor digits.
const SIGN_BYTES: usize = 200;
const SIGN_BYTES_IF_MOST: usize = 64;
/// The same for units with digits and no letter: decimal expansions, rows of zeros, `1 + 1 + 1`.
const NUMBER_BYTES: usize = 400;
const NUMBER_BYTES_IF_MOST: usize = 300;

/// Least bytes of a loop with letters that the text has left again: where it is at least half of the text, or anywhere.
const LEFT_BYTES_IF_MOST: usize = 600;
const LEFT_BYTES: usize = 1200;
/// Least repetitions of a loop that the text has left again.
const LEFT_REPEATS: usize = 8;

/// A loop with a counter: least repetitions, bytes and letters per unit, where at most two numbers in a unit change ...
const COUNTER_REPEATS: usize = 16;
const COUNTER_BYTES: usize = 600;
const COUNTER_LETTERS: usize = 20;
/// ... and where more do, which may be a long calculation by cases.
const CALCULATION_REPEATS: usize = 64;

/// A near loop: least bytes of the end that is looked at, and most; share of it that is copied from at most half
/// its length before, in pieces of at least so many bytes.
const NEAR_BYTES: usize = 1024;
const NEAR_BYTES_MOST: usize = 4096;
const NEAR_COPIED_FRAC: f64 = 0.97;
const NEAR_PIECE: usize = 24;
/// Least share of letters in a near loop: tables of numbers copy themselves too.
const NEAR_LETTER_FRAC: f64 = 0.3;

/// Least repetitions of a loop at the end of the text: short units must return more often than long ones, of which a
/// copy is already too much to be meant.
fn repeats_at_end(period: usize) -> usize {
    match period {
        0..=15 => 8,
        16..=99 => 5,
        100..=299 => 4,
        _ => 3,
    }
}

/// Whether the text is caught in a loop.
pub(super) fn is_endless(text: &str) -> bool {
    let body = text.trim_end();
    if is_endless_space(&text[body.len()..]) {
        return true;
    }
    let body = body.as_bytes();
    if body.len() < WORD_BYTES_IF_MOST {
        return false;
    }
    let mut near = NearLoop::new(body.len());
    let mut is_found = false;
    each_loop(body, |found| {
        near.add(&found);
        is_found |= is_endless_loop(body, &found);
    });
    is_found || near.is_found(body) || (body.len() >= COUNTER_BYTES && has_endless_counter(body))
}

/// Whether the text ends in a loop with letters that would make it endless even if the text left it again.
pub(super) fn is_in_long_loop(text: &str) -> bool {
    let body = text.trim_end().as_bytes();
    if body.len() < LEFT_BYTES_IF_MOST {
        return false;
    }
    let mut is_found = false;
    each_loop(body, |found| is_found |= found.end == body.len() && is_long_loop(body, &found));
    is_found
}

/// White space at the end repeats if it is long, whatever its order.
fn is_endless_space(space: &str) -> bool {
    space.len() >= SPACE_BYTES
}

/// Every byte of `start + period..end` equals the one `period` before.
struct Loop {
    start: usize,
    end: usize,
    period: usize,
}

impl Loop {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn repeats(&self) -> usize {
        self.len() / self.period
    }
}

/// What a unit consists of.
enum Kind {
    Words,
    Numbers,
    Signs,
}

fn kind_of(unit: &[u8]) -> Kind {
    if letters_in(unit) > 0 {
        Kind::Words
    } else if unit.iter().any(u8::is_ascii_digit) {
        Kind::Numbers
    } else {
        Kind::Signs
    }
}

fn is_endless_loop(text: &[u8], found: &Loop) -> bool {
    // First, since it bounds the period by what was compared: otherwise reading the units would not be linear.
    if found.repeats() < repeats_at_end(found.period) {
        return false;
    }
    if found.end < text.len() {
        return is_long_loop(text, found);
    }
    let kind = kind_of(&text[found.start..found.start + found.period]);
    let is_most = found.len() * 2 >= text.len();
    let (least, least_if_most) = match kind {
        Kind::Words => (WORD_BYTES, WORD_BYTES_IF_MOST),
        Kind::Signs => (SIGN_BYTES, SIGN_BYTES_IF_MOST),
        Kind::Numbers => (NUMBER_BYTES, NUMBER_BYTES_IF_MOST),
    };
    found.len() >= if is_most { least_if_most } else { least }
}

fn is_long_loop(text: &[u8], found: &Loop) -> bool {
    // The order bounds the period as above.
    found.repeats() >= LEFT_REPEATS
        && found.len() >= if found.len() * 2 >= text.len() { LEFT_BYTES_IF_MOST } else { LEFT_BYTES }
        && matches!(kind_of(&text[found.start..found.start + found.period]), Kind::Words)
}

/// Calls `report` with the loops of the text that are longer than their period by a group.
///
/// Two are followed at a time, since a sentence that returns within a paragraph that returns is a loop in a loop: the
/// outer one is followed until it breaks, and the inner one takes its place if it lasts longer.
fn each_loop(text: &[u8], mut report: impl FnMut(Loop)) {
    if text.len() < GRAM {
        return;
    }
    // Position after the group, 0 for none. Of a text of 4 GiB and more, loops beyond would be missed.
    let bits = (text.len().ilog2() + 2).min(TABLE_BITS);
    let mut table = vec![0_u32; 1 << bits];
    let mut hash = RollingHash::new(&text[..GRAM]);
    let (mut outer, mut inner): (Option<Loop>, Option<Loop>) = (None, None);
    for end in GRAM..=text.len() {
        if end > GRAM {
            hash.advance(text[end - 1], text[end - 1 - GRAM]);
        }
        for followed in [&mut outer, &mut inner] {
            match followed {
                Some(found) if text[end - 1] == text[end - 1 - found.period] => found.end = end,
                Some(_) => followed.take().into_iter().for_each(&mut report),
                None => {}
            }
        }
        if outer.is_none() {
            outer = inner.take();
        }
        let slot = &mut table[hash.slot(bits)];
        let before = std::mem::replace(slot, end as u32) as usize;
        // The table knows the latest place, hence the shortest period.
        let period = end - before;
        let is_new = inner.is_none() && outer.as_ref().is_none_or(|found| period < found.period);
        if before != 0 && is_new && text[before - GRAM..before] == text[end - GRAM..end] {
            let found = Loop { start: end - GRAM - period, end, period };
            if outer.is_none() { outer = Some(found) } else { inner = Some(found) }
        }
    }
    outer.into_iter().chain(inner).for_each(report);
}

/// A polynomial of the last [`GRAM`] bytes, moved on by one byte.
struct RollingHash(u64);

impl RollingHash {
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    /// What the byte that leaves contributes.
    const LEAVING: u64 = Self::BASE.wrapping_pow(GRAM as u32);

    fn new(gram: &[u8]) -> RollingHash {
        RollingHash(gram.iter().fold(0, |sum: u64, &byte| sum.wrapping_mul(Self::BASE).wrapping_add(u64::from(byte))))
    }

    fn advance(&mut self, entering: u8, leaving: u8) {
        let grown = self.0.wrapping_mul(Self::BASE).wrapping_add(u64::from(entering));
        self.0 = grown.wrapping_sub(Self::LEAVING.wrapping_mul(u64::from(leaving)));
    }

    fn slot(&self, bits: u32) -> usize {
        ((self.0 ^ self.0 >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> (u64::BITS - bits)) as usize
    }
}

/// How much of the end of a text is copied from shortly before.
struct NearLoop {
    window_start: usize,
    is_copied: Vec<bool>,
}

impl NearLoop {
    fn new(len: usize) -> NearLoop {
        let window = (len / 4 * 3).min(NEAR_BYTES_MOST);
        NearLoop { window_start: len - window, is_copied: vec![false; window] }
    }

    fn add(&mut self, found: &Loop) {
        let start = found.start + found.period;
        if found.end > self.window_start && found.period <= self.is_copied.len() / 2 && found.end - start >= NEAR_PIECE
        {
            self.is_copied[start.saturating_sub(self.window_start)..found.end - self.window_start].fill(true);
        }
    }

    fn is_found(&self, text: &[u8]) -> bool {
        let window = &text[self.window_start..];
        let copied = self.is_copied.iter().filter(|&&is_copied| is_copied).count();
        window.len() >= NEAR_BYTES
            && copied as f64 >= NEAR_COPIED_FRAC * window.len() as f64
            && letters_in(window) as f64 >= NEAR_LETTER_FRAC * window.len() as f64
    }
}

/// Bytes of letters; all that is not ASCII counts.
fn letters_in(text: &[u8]) -> usize {
    text.iter().filter(|byte| byte.is_ascii_alphabetic() || !byte.is_ascii()).count()
}

/// Whether the text ends in a loop once every number is the same.
fn has_endless_counter(text: &[u8]) -> bool {
    let mut same = Vec::with_capacity(text.len());
    for &byte in text {
        if !byte.is_ascii_digit() {
            same.push(byte);
        } else if same.last() != Some(&b'0') {
            same.push(b'0');
        }
    }
    if same.len() == text.len() {
        return false;
    }
    let mut is_found = false;
    each_loop(&same, |found| {
        if found.repeats() < COUNTER_REPEATS {
            return;
        }
        let unit = &same[found.start..found.start + found.period];
        let numbers = unit.iter().filter(|&&byte| byte == b'0').count();
        let repeats = if numbers <= 2 { COUNTER_REPEATS } else { CALCULATION_REPEATS };
        is_found |= found.end == same.len()
            && found.repeats() >= repeats
            && found.len() >= COUNTER_BYTES.max(same.len() / 2)
            && letters_in(unit) >= COUNTER_LETTERS;
    });
    is_found
}
