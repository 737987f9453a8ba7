//! Text of no language: symbols, scripts or fragments at random.
//!
//! Only shares of the whole text are judged, so that a strange passage in a readable answer is forgiven. One pass counts
//! everything; each sign of collapse below has its own threshold, with the ordinary text that forbids a lower one.

/// Fewer characters than this, white space aside, are only garbled by characters that nobody can read.
const SHORT: usize = 40;

/// Share of control, private-use and unassigned characters. Ordinary text has none; a stray one is forgiven.
const UNREADABLE_FRAC: f64 = 0.04;
const UNREADABLE_COUNT: usize = 4;

/// Share of UTF-8 read as Latin-1 or of raw byte-level tokens. A text copied from a bad page has a few quotes of that kind.
const MOJIBAKE_FRAC: f64 = 0.02;
const MOJIBAKE_COUNT: usize = 4;

/// Share of signs among what is not white space; LaTeX and code stay below 0.55, a drawn table below 0.75.
const SIGN_FRAC: f64 = 0.8;
/// Share of pictures and other symbols outside ASCII; mathematics has letters and ASCII signs between them.
const SYMBOL_FRAC: f64 = 0.6;

/// Signs that mathematics and prose hardly use.
const RARE_SIGNS: [char; 7] = ['~', '`', '@', '#', '%', '?', '!'];
/// Share of them and how many different ones, where letters also stand in runs shorter than so many on average: noise
/// drawn from the keyboard has 0.07 and 2.2, prose 0.02 and 4, LaTeX 0.01 and 2. Code has one or two of them often.
const RARE_SIGN_FRAC: f64 = 0.05;
const RARE_SIGN_KINDS: u32 = 4;
const LETTER_RUN: f64 = 3.0;

/// Words that are written in two scripts at once, and their share.
const MIXED_WORD_COUNT: usize = 4;
const MIXED_WORD_FRAC: f64 = 0.08;
/// Share of words whose script is not that of the word before, and least scripts with several words. Latin names and
/// formulas in Chinese or Russian are two scripts.
const SCRIPT_CHANGE_FRAC: f64 = 0.3;
const SCRIPT_COUNT: usize = 3;

/// Share of Latin words of four letters and more without a vowel, and least of them. LaTeX commands (`\sqrt`) are no
/// words.
const VOWELLESS_FRAC: f64 = 0.4;
const VOWELLESS_COUNT: usize = 10;

/// Least characters of an encoded run (base64), and the share of the text that such runs make up. Hexadecimal numbers
/// have letters of one case only and are none.
const ENCODED_RUN: usize = 60;
const ENCODED_FRAC: f64 = 0.5;

/// Whether the text cannot be read.
pub(super) fn is_garbled(text: &str) -> bool {
    let count = Count::of(text);
    let visible = count.visible as f64;
    let share = |part: usize, threshold: f64| part as f64 >= threshold * visible;
    if count.visible == 0 {
        return false;
    }
    if count.unreadable * 2 > count.visible
        || (count.unreadable >= UNREADABLE_COUNT && share(count.unreadable, UNREADABLE_FRAC))
    {
        return true;
    }
    if count.visible < SHORT {
        return false;
    }
    let words = count.words as f64;
    (count.mojibake >= MOJIBAKE_COUNT && share(count.mojibake, MOJIBAKE_FRAC))
        || share(count.signs, SIGN_FRAC)
        || share(count.symbols, SYMBOL_FRAC)
        || (share(count.rare_signs, RARE_SIGN_FRAC)
            && count.rare_sign_kinds.count_ones() >= RARE_SIGN_KINDS
            && (count.letters as f64) < LETTER_RUN * count.letter_runs as f64)
        || (count.mixed_words >= MIXED_WORD_COUNT && count.mixed_words as f64 >= MIXED_WORD_FRAC * words)
        || (count.scripts_used() >= SCRIPT_COUNT && count.script_changes as f64 >= SCRIPT_CHANGE_FRAC * words)
        || (count.vowelless >= VOWELLESS_COUNT && count.vowelless as f64 >= VOWELLESS_FRAC * count.long_words as f64)
        || share(count.encoded, ENCODED_FRAC)
}

/// Scripts that are told apart. Greek counts as Latin: `2πr` and `Δx` are one word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Latin,
    Cyrillic,
    /// Arabic and Hebrew.
    RightToLeft,
    /// Devanagari to Thai, and what lies between.
    Indic,
    /// Chinese and Japanese.
    Han,
    Hangul,
    Other,
}

const SCRIPTS: usize = 7;

fn script_of(c: char) -> Option<Script> {
    if c.is_ascii() {
        return c.is_ascii_alphabetic().then_some(Script::Latin);
    }
    let script = match c {
        // Letterlike symbols and mathematical alphabets are letters of formulas.
        '\u{2100}'..='\u{214f}' | '\u{1d400}'..='\u{1d7ff}' => return None,
        '\u{aa}'..='\u{3ff}' | '\u{1e00}'..='\u{1fff}' => Script::Latin,
        '\u{400}'..='\u{52f}' => Script::Cyrillic,
        '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefe}' => Script::RightToLeft,
        '\u{900}'..='\u{109f}' => Script::Indic,
        '\u{1100}'..='\u{11ff}' | '\u{3130}'..='\u{318f}' | '\u{ac00}'..='\u{d7af}' => Script::Hangul,
        '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9f}' | '\u{20000}'..='\u{3ffff}' => {
            Script::Han
        }
        _ => Script::Other,
    };
    c.is_alphabetic().then_some(script)
}

/// Control characters other than line breaks and tabs, private use, and code points that are never characters.
fn is_unreadable(c: char) -> bool {
    match c {
        '\n' | '\t' | '\r' => false,
        '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{fff9}'..='\u{ffff}' | '\u{e0000}'.. => true,
        _ => c.is_control() || (u32::from(c) & 0xfffe) == 0xfffe,
    }
}

/// Whether `c` after `before` is one UTF-8 character read as Latin-1 or Windows-1252, or `c` a byte-level token's space or
/// line break (`Ġ`, `Ċ`).
fn is_mojibake(before: char, c: char) -> bool {
    let is_lead = matches!(before, '\u{c2}'..='\u{ef}');
    let is_continuation = matches!(c, '\u{80}'..='\u{bf}' | '€' | '™' | 'œ' | 'Œ' | 'š' | 'Š' | 'ž' | 'Ž' | 'Ÿ')
        || matches!(c, '‚' | 'ƒ' | '„' | '…' | '†' | '‡' | 'ˆ' | '‰' | '‹' | '›' | '˜');
    (is_lead && is_continuation) || matches!(c, 'Ġ' | 'Ċ')
}

/// What is counted of a text, in characters or words.
#[derive(Default)]
struct Count {
    visible: usize,
    unreadable: usize,
    mojibake: usize,
    /// How often the last character stands in a row.
    run_length: usize,
    signs: usize,
    rare_signs: usize,
    /// One bit for each of [`RARE_SIGNS`].
    rare_sign_kinds: u8,
    symbols: usize,
    letters: usize,
    letter_runs: usize,
    words: usize,
    words_of: [usize; SCRIPTS],
    script_changes: usize,
    mixed_words: usize,
    long_words: usize,
    vowelless: usize,
    encoded: usize,
}

impl Count {
    fn of(text: &str) -> Count {
        let mut count = Count::default();
        let (mut before, mut word, mut run) = ('\0', Word::default(), Encoded::default());
        let mut script_before = None;
        for c in text.chars() {
            count.character(before, c);
            match script_of(c) {
                Some(script) => {
                    word.is_command |= word.letters == 0 && before == '\\';
                    word.add(c, script);
                }
                // Marks that join letters into one word.
                None if matches!(c, '\u{300}'..='\u{36f}' | '\u{200c}' | '\u{200d}') => {}
                None => count.end_word(&mut word, &mut script_before),
            }
            if !run.add(c) {
                count.encoded += std::mem::take(&mut run).encoded_characters();
            }
            before = c;
        }
        count.end_word(&mut word, &mut script_before);
        count.encoded += run.encoded_characters();
        count
    }

    fn character(&mut self, before: char, c: char) {
        if is_unreadable(c) {
            self.unreadable += 1;
            self.visible += 1;
        } else if !c.is_whitespace() {
            self.visible += 1;
            // A ruler counts as two signs.
            self.run_length = if c == before { self.run_length + 1 } else { 1 };
            self.signs += usize::from(c.is_ascii_punctuation() && self.run_length <= 2);
            if let Some(kind) = RARE_SIGNS.iter().position(|&sign| sign == c) {
                self.rare_signs += 1;
                self.rare_sign_kinds |= 1 << kind;
            }
            self.symbols += usize::from(!c.is_ascii() && !c.is_alphanumeric() && !is_mark(c));
        }
        self.mojibake += usize::from(is_mojibake(before, c));
    }

    fn end_word(&mut self, word: &mut Word, script_before: &mut Option<Script>) {
        let word = std::mem::take(word);
        let Some(script) = word.last else { return };
        self.words += 1;
        self.letters += word.letters;
        self.letter_runs += 1;
        self.words_of[script as usize] += 1;
        self.mixed_words += usize::from(word.is_mixed);
        self.script_changes += usize::from(script_before.is_some_and(|before| before != script));
        *script_before = Some(script);
        if word.is_ascii() && word.letters >= 4 && !word.is_command {
            self.long_words += 1;
            self.vowelless += usize::from(!word.has_vowel);
        }
    }

    /// Scripts with at least three words.
    fn scripts_used(&self) -> usize {
        self.words_of.iter().filter(|&&words| words >= 3).count()
    }
}

/// Accents and vowel signs, which belong to the letter before, and punctuation of other scripts.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{900}'..='\u{dff}' | '\u{e30}'..='\u{ebc}' | '\u{590}'..='\u{6ff}')
        || matches!(c, '\u{2010}'..='\u{2027}' | '\u{3000}'..='\u{3020}' | '\u{ff00}'..='\u{ff65}')
}

/// The letters since the last character that is none.
#[derive(Default)]
struct Word {
    letters: usize,
    other_letters: usize,
    has_vowel: bool,
    is_mixed: bool,
    is_command: bool,
    last: Option<Script>,
}

impl Word {
    fn add(&mut self, c: char, script: Script) {
        self.letters += 1;
        self.other_letters += usize::from(!c.is_ascii());
        self.has_vowel |= matches!(c.to_ascii_lowercase(), 'a' | 'e' | 'i' | 'o' | 'u' | 'y');
        // Chinese, Japanese and Korean put Latin letters beside their own without a space.
        let is_free = |script| matches!(script, Script::Han | Script::Hangul | Script::Other);
        self.is_mixed |= self.last.is_some_and(|last| last != script && !(is_free(last) || is_free(script)));
        self.last = Some(script);
    }

    fn is_ascii(&self) -> bool {
        self.other_letters == 0
    }
}

/// The ASCII letters, digits and `+/=-_` since the last other character.
#[derive(Default)]
struct Encoded {
    len: usize,
    lower: usize,
    upper: usize,
    digits: usize,
    case_changes: usize,
    last: char,
}

impl Encoded {
    /// Whether `c` belongs to the run.
    fn add(&mut self, c: char) -> bool {
        if !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_')) {
            return false;
        }
        self.len += 1;
        self.lower += usize::from(c.is_ascii_lowercase());
        self.upper += usize::from(c.is_ascii_uppercase());
        self.digits += usize::from(c.is_ascii_digit());
        let is_change = (self.last.is_ascii_lowercase() && c.is_ascii_uppercase())
            || (self.last.is_ascii_uppercase() && c.is_ascii_lowercase());
        self.case_changes += usize::from(is_change);
        self.last = c;
        true
    }

    /// Its length if it is long and of all classes in quick change, else 0.
    fn encoded_characters(&self) -> usize {
        let is_part = |part: usize| part * 25 >= self.len;
        let is_encoded = self.len >= ENCODED_RUN
            && is_part(self.lower)
            && is_part(self.upper)
            && is_part(self.digits)
            && self.case_changes * 8 >= self.len;
        if is_encoded { self.len } else { 0 }
    }
}
