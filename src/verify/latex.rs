//! LaTeX as a flat list of tokens, with everything removed that does not change the meaning of an answer.

/// Longer answers are compared as they stand: no reference is that long.
pub const LONGEST_ANSWER_BYTES: usize = 4096;

/// Nesting of `\text{...}` that is still unwrapped.
const DEEPEST_WRAPPER: usize = 8;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// One character, Unicode variants mapped to ASCII.
    Char(char),
    /// `\name`, without the backslash.
    Command(String),
    /// The trimmed words of `\text{...}` and its like.
    Text(String),
    /// `\begin{name}`
    Begin(String),
    /// `\end{name}`
    End(String),
    /// White space, any amount.
    Space,
    /// A thin space, which may part thousands.
    ThinSpace,
}

/// Reads an answer. Removed: sizes (`\left`), styles, Markdown's bold, dollar signs, math delimiters, negative space, one
/// full stop or comma at the end, outer white space. Unified: kinds of fraction, relations, spaces, minus signs, digits.
pub fn tokens(text: &str) -> Vec<Token> {
    let text = text.trim();
    let text = text.strip_prefix("**").and_then(|text| text.strip_suffix("**")).unwrap_or(text);
    let mut list = Vec::new();
    read(text, 0, &mut list);
    trim(&mut list);
    if matches!(list.last(), Some(Token::Char('.' | ','))) && list.len() > 1 {
        list.pop();
        trim(&mut list);
    }
    list
}

/// Removes white space at both ends.
pub fn trim(list: &mut Vec<Token>) {
    let blank = |token: &Token| matches!(token, Token::Space | Token::ThinSpace);
    while list.last().is_some_and(blank) {
        list.pop();
    }
    let leading = list.iter().take_while(|token| blank(token)).count();
    list.drain(..leading);
}

/// The tokens as one text: spaces only where they part words.
pub fn canonical(list: &[Token]) -> String {
    let mut text = String::new();
    let mut gap = false;
    let mut after_command = false;
    for token in list {
        let is_command = matches!(token, Token::Command(_));
        let piece = match token {
            Token::Space | Token::ThinSpace => {
                gap = true;
                continue;
            }
            Token::Char(c) => c.to_string(),
            Token::Command(name) => format!("\\{name}"),
            Token::Text(words) => words.clone(),
            Token::Begin(name) => format!("\\begin{{{name}}}"),
            Token::End(name) => format!("\\end{{{name}}}"),
        };
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let parts_words = is_word(text.chars().next_back()) && is_word(piece.chars().next());
        if parts_words && (gap || after_command) {
            text.push(' ');
        }
        text.push_str(&piece);
        gap = false;
        after_command = is_command;
    }
    text
}

fn read(text: &str, wrappers: usize, list: &mut Vec<Token>) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            rest = read_command(&rest[1..], wrappers, list);
            continue;
        }
        rest = &rest[first.len_utf8()..];
        match first {
            '$' => {}
            '\u{2009}' | '\u{202f}' | '\u{200a}' => list.push(Token::ThinSpace),
            '\u{200b}' | '\u{feff}' | '\u{2060}' => {}
            '~' => list.push(Token::Space),
            c if c.is_whitespace() => list.push(Token::Space),
            '\u{2212}' | '\u{2013}' | '\u{fe63}' | '\u{ff0d}' => list.push(Token::Char('-')),
            '\u{ff01}'..='\u{ff5e}' => {
                let ascii = char::from_u32(first as u32 - 0xfee0).unwrap_or(first);
                list.push(Token::Char(ascii));
            }
            '×' => list.push(Token::Command("times".into())),
            '·' | '⋅' => list.push(Token::Command("cdot".into())),
            '÷' => list.push(Token::Command("div".into())),
            'π' => list.push(Token::Command("pi".into())),
            '∞' => list.push(Token::Command("infty".into())),
            '√' => list.push(Token::Command("sqrt".into())),
            '≤' => list.push(Token::Command("le".into())),
            '≥' => list.push(Token::Command("ge".into())),
            '≠' => list.push(Token::Command("ne".into())),
            'ℤ' | 'ℝ' | 'ℚ' | 'ℕ' | 'ℂ' => {
                let letter = match first {
                    'ℤ' => 'Z',
                    'ℝ' => 'R',
                    'ℚ' => 'Q',
                    'ℕ' => 'N',
                    _ => 'C',
                };
                list.push(Token::Command("mathbb".into()));
                list.extend(['{', letter, '}'].map(Token::Char));
            }
            '≈' => list.push(Token::Command("approx".into())),
            '∈' => list.push(Token::Command("in".into())),
            '∪' => list.push(Token::Command("cup".into())),
            '∩' => list.push(Token::Command("cap".into())),
            '∅' => list.push(Token::Command("emptyset".into())),
            '±' => list.push(Token::Command("pm".into())),
            '²' => list.extend([Token::Char('^'), Token::Char('2')]),
            '³' => list.extend([Token::Char('^'), Token::Char('3')]),
            '⟨' => list.push(Token::Command("langle".into())),
            '⟩' => list.push(Token::Command("rangle".into())),
            '£' => list.push(Token::Text("pounds".into())),
            '€' => list.push(Token::Text("euros".into())),
            'α'..='ω' | 'Γ' | 'Δ' | 'Θ' | 'Λ' | 'Σ' | 'Φ' | 'Ψ' | 'Ω' => match greek(first) {
                Some(name) => list.push(Token::Command(name.into())),
                None => list.push(Token::Char(first)),
            },
            '°' => list.extend([Token::Char('^'), Token::Command("circ".into())]),
            c => list.push(Token::Char(c)),
        }
    }
}

/// The command of a Greek letter.
fn greek(letter: char) -> Option<&'static str> {
    Some(match letter {
        'α' => "alpha",
        'β' => "beta",
        'γ' => "gamma",
        'δ' => "delta",
        'ε' => "epsilon",
        'θ' => "theta",
        'λ' => "lambda",
        'μ' => "mu",
        'ρ' => "rho",
        'σ' => "sigma",
        'τ' => "tau",
        'φ' => "phi",
        'ψ' => "psi",
        'ω' => "omega",
        'Γ' => "Gamma",
        'Δ' => "Delta",
        'Θ' => "Theta",
        'Λ' => "Lambda",
        'Σ' => "Sigma",
        'Φ' => "Phi",
        'Ψ' => "Psi",
        'Ω' => "Omega",
        _ => return None,
    })
}

/// Reads what follows a backslash and returns the rest.
fn read_command<'a>(text: &'a str, wrappers: usize, list: &mut Vec<Token>) -> &'a str {
    let letters = text.bytes().take_while(u8::is_ascii_alphabetic).count();
    if letters == 0 {
        let Some(symbol) = text.chars().next() else { return text };
        match symbol {
            '(' | ')' | '[' | ']' => {}
            '$' => list.push(Token::Text("dollars".into())),
            ',' | '!' => list.push(Token::ThinSpace),
            ' ' | ';' | ':' | '\n' => list.push(Token::Space),
            '%' | '&' | '#' | '_' => list.push(Token::Char(symbol)),
            _ => list.push(Token::Command(symbol.to_string())),
        }
        return &text[symbol.len_utf8()..];
    }
    let (name, rest) = text.split_at(letters);
    match name {
        "left" | "right" | "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr" => {
            // `\left.` draws nothing.
            rest.strip_prefix('.').unwrap_or(rest)
        }
        "displaystyle" | "textstyle" | "scriptstyle" | "limits" | "nolimits" | "bf" | "rm" | "it" | "mathstrut"
        | "middle" | "hline" => rest,
        "quad" | "qquad" | "space" | "enspace" => push(list, Token::Space, rest),
        "thinspace" => push(list, Token::ThinSpace, rest),
        "dfrac" | "tfrac" | "cfrac" => push(list, Token::Command("frac".into()), rest),
        "leq" | "leqslant" => push(list, Token::Command("le".into()), rest),
        "geq" | "geqslant" => push(list, Token::Command("ge".into()), rest),
        "neq" => push(list, Token::Command("ne".into()), rest),
        "lt" => push(list, Token::Char('<'), rest),
        "gt" => push(list, Token::Char('>'), rest),
        "colon" => push(list, Token::Char(':'), rest),
        "ldots" | "dots" | "dotsc" | "cdots" | "dotsb" => push(list, Token::Command("ldots".into()), rest),
        "varnothing" => push(list, Token::Command("emptyset".into()), rest),
        "varepsilon" => push(list, Token::Command("epsilon".into()), rest),
        "varphi" => push(list, Token::Command("phi".into()), rest),
        "lvert" | "rvert" | "vert" => push(list, Token::Char('|'), rest),
        "lVert" | "rVert" | "Vert" => push(list, Token::Command("|".into()), rest),
        "dbinom" | "tbinom" => push(list, Token::Command("binom".into()), rest),
        "to" | "rightarrow" => push(list, Token::Command("to".into()), rest),
        "Longrightarrow" | "Rightarrow" | "implies" => push(list, Token::Command("implies".into()), rest),
        "iff" | "Leftrightarrow" => push(list, Token::Command("iff".into()), rest),
        "begin" | "end" => match short_group(rest) {
            Some((environment, rest)) => {
                let environment = environment.trim().trim_end_matches('*').to_string();
                // The column specification of an array means nothing.
                let rest = if environment == "array" && name == "begin" {
                    short_group(rest).map_or(rest, |(_, rest)| rest)
                } else {
                    rest
                };
                list.push(if name == "begin" { Token::Begin(environment) } else { Token::End(environment) });
                rest
            }
            None => push(list, Token::Command(name.to_string()), rest),
        },
        // Nothing is seen of it.
        "phantom" | "hphantom" | "vphantom" => group(rest).map_or(rest, |(_, rest)| rest),
        "color" => short_group(rest).map_or(rest, |(_, rest)| rest),
        "textcolor" | "colorbox" => {
            let rest = short_group(rest).map_or(rest, |(_, rest)| rest);
            unwrap(name, rest, wrappers, list, read)
        }
        "pounds" => push(list, Token::Text("pounds".into()), rest),
        "euro" => push(list, Token::Text("euros".into()), rest),
        // `\operatorname{lcm}` is `\lcm`.
        "operatorname" => match short_group(rest.trim_start_matches('*')) {
            Some((inside, rest)) if inside.chars().all(|c| c.is_ascii_alphabetic()) => {
                push(list, Token::Command(inside.to_string()), rest)
            }
            _ => push(list, Token::Command(name.to_string()), rest),
        },
        "lbrace" => push(list, Token::Command("{".into()), rest),
        "rbrace" => push(list, Token::Command("}".into()), rest),
        "degree" => {
            list.push(Token::Char('^'));
            push(list, Token::Command("circ".into()), rest)
        }
        "text" | "textbf" | "textit" | "textrm" | "textsf" | "texttt" | "textnormal" | "mbox" | "mathrm" | "textup"
        | "hbox" => unwrap(name, rest, wrappers, list, read_words),
        // Bold letters are variables, not words.
        "mathbf" | "mathit" | "mathsf" | "boldsymbol" | "bm" | "pmb" | "boxed" | "fbox" | "mathop" => {
            unwrap(name, rest, wrappers, list, read)
        }
        _ => push(list, Token::Command(name.to_string()), rest),
    }
}

fn push<'a>(list: &mut Vec<Token>, token: Token, rest: &'a str) -> &'a str {
    list.push(token);
    rest
}

/// Reads the group behind a wrapper in place of the wrapper.
fn unwrap<'a>(
    name: &str,
    rest: &'a str,
    wrappers: usize,
    list: &mut Vec<Token>,
    read: fn(&str, usize, &mut Vec<Token>),
) -> &'a str {
    match group(rest) {
        Some((inside, rest)) if wrappers < DEEPEST_WRAPPER => {
            read(inside, wrappers + 1, list);
            rest
        }
        _ => push(list, Token::Command(name.to_string()), rest),
    }
}

/// Words stay together; anything with mathematics in it is read as such.
fn read_words(inside: &str, wrappers: usize, list: &mut Vec<Token>) {
    let words = inside.trim_matches(|c: char| c.is_whitespace() || c == '~');
    let has_letters = words.chars().any(char::is_alphabetic);
    if !has_letters || words.contains(|c: char| c.is_ascii_digit() || "\\${}=".contains(c)) {
        return read(inside, wrappers, list);
    }
    // A space inside the braces parts words from what stands around them.
    if inside.starts_with(char::is_whitespace) {
        list.push(Token::Space);
    }
    let words = words.strip_suffix('.').unwrap_or(words);
    list.push(Token::Text(words.split_whitespace().collect::<Vec<_>>().join(" ")));
    if inside.ends_with(char::is_whitespace) {
        list.push(Token::Space);
    }
}

/// The name in a leading `{...}` and what follows it.
fn short_group(text: &str) -> Option<(&str, &str)> {
    let inside = text.trim_start().strip_prefix('{')?;
    let end = inside.bytes().take(32).position(|byte| byte == b'}')?;
    Some((&inside[..end], &inside[end + 1..]))
}

/// The content of a leading `{...}` and what follows it.
fn group(text: &str) -> Option<(&str, &str)> {
    let inside = text.trim_start().strip_prefix('{')?;
    let mut depth = 1usize;
    let mut escaped = false;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some((&inside[..at], &inside[at + 1..]));
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{canonical, tokens};

    #[test]
    fn what_means_the_same_reads_the_same() {
        for (one, other) in [
            ("\\left( 1,\\, 2 \\right)", "(1,2)"),
            ("$\\dfrac{1}{2}$", "\\frac{1}{2}"),
            ("\\displaystyle x+1.", "x + 1"),
            ("\\text{Yes}", "Yes"),
            ("\\mathbf{x}", "x"),
            ("x \\leq −3", "x\\le-3"),
            ("\\text{ no  solution }", "no solution"),
            ("\\alpha x", "\\alpha  x"),
            ("\\text{a $x$}", "a x"),
        ] {
            assert_eq!(canonical(&tokens(one)), canonical(&tokens(other)), "{one} and {other}");
        }
    }

    #[test]
    fn what_differs_stays_different() {
        for (one, other) in
            [("1 2", "12"), ("\\alpha x", "\\alphax"), ("(1,2)", "(1,2]"), ("A", "a"), ("x_1 2", "x_12")]
        {
            assert_ne!(canonical(&tokens(one)), canonical(&tokens(other)), "{one} and {other}");
        }
    }
}
