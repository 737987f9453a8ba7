//! What the letters of two answers tell where neither structure nor algebra does: an expression that depends on a variable
//! is not equal to one that does not mention it.

use std::collections::BTreeSet;

use super::super::answer::Answer;
use super::super::expr::{Expr, Function};
use super::rewrite::any;

/// Letters and commands of an answer.
#[derive(Debug, Default)]
struct Letters {
    /// Every name, and every letter of a name: `\lambda`, and `x` and `1` of `x_{1}`.
    mentioned: BTreeSet<String>,
    /// Names that stand for themselves: not functions, not subscripts.
    variables: BTreeSet<String>,
    /// Functions of unknown meaning are met, and all are such that nothing is known of them: `f(1)` is not `f(2)`.
    only_free_functions: bool,
    /// Something of unknown meaning is there.
    is_opaque: bool,
    /// A sum, an integral or the like: its variable is its own.
    has_bound: bool,
}

/// Whether the letters tell that two answers differ.
pub(super) fn tell_apart(one: &Answer, other: &Answer) -> bool {
    let (Some(one), Some(other)) = (letters(one), letters(other)) else { return false };
    if one.has_bound || other.has_bound {
        return false;
    }
    if one.only_free_functions && other.only_free_functions {
        return true;
    }
    // Without functions of unknown meaning the algebra had everything to find out.
    if !one.is_opaque && !other.is_opaque {
        return false;
    }
    let lacks = |one: &Letters, other: &Letters| one.variables.iter().any(|name| !other.mentioned.contains(name));
    lacks(&one, &other) || lacks(&other, &one)
}

/// Whether an expression may be the letters of a short word, multiplied.
pub(super) fn may_spell(answer: &Answer, word: &str) -> bool {
    let Some(found) = letters(answer) else { return false };
    let spelled: BTreeSet<String> = word.chars().map(|c| c.to_string()).collect();
    let lower: BTreeSet<String> = found.variables.iter().map(|name| name.to_lowercase()).collect();
    word.chars().count() <= 4 && !lower.is_empty() && lower.is_subset(&spelled)
}

fn letters(answer: &Answer) -> Option<Letters> {
    let mut found = Letters::default();
    match answer {
        Answer::Expr(expr) | Answer::Quantity(expr, _) => {
            found.only_free_functions = true;
            found.expr(expr);
            found.only_free_functions &= found.mentioned.iter().any(|name| is_free(name));
        }
        Answer::Opaque(text) => found.text(text),
        _ => return None,
    }
    Some(found)
}

impl Letters {
    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Number(_) | Expr::Pi | Expr::Euler | Expr::Imaginary => {}
            Expr::Symbol(name) => {
                self.name(name);
                // `H_n` may be the name of a sum of n terms.
                match name.split_once("_{").map(|(_, script)| script.trim_end_matches('}')) {
                    None if !name.contains('^') => {
                        self.variables.insert(name.clone());
                    }
                    // `r_n` depends on n.
                    Some(script) if script.len() == 1 && script.starts_with(|c: char| c.is_ascii_lowercase()) => {
                        self.variables.insert(script.to_string());
                    }
                    _ => {}
                }
            }
            Expr::Sum(list) | Expr::Product(list) => list.iter().for_each(|expr| self.expr(expr)),
            Expr::Quotient(one, other) | Expr::Power(one, other) => {
                self.expr(one);
                self.expr(other);
            }
            Expr::Root(_, inside) => self.expr(inside),
            Expr::Call(Function::Named(name), list) if is_measure(name, list) => {
                self.is_opaque = true;
                self.only_free_functions = false;
                self.mentioned.insert(name.clone());
                list.iter().for_each(|expr| self.expr(expr));
            }
            Expr::Call(function, list) => {
                // Constant, though of symbols: `\gcd(n, n + 1)`, `d/dx(7x)`.
                self.has_bound |= match function {
                    Function::Gcd | Function::Lcm | Function::Max | Function::Min | Function::Mod => true,
                    Function::Floor | Function::Ceiling => true,
                    // `|e^{ix}|` is constant, the size of a value of a free function is not.
                    Function::Abs => !list.iter().all(is_own_value),
                    Function::Named(name) => name == "d/d" || name == "sgn",
                    _ => false,
                };
                if let Function::Named(name) = function {
                    self.is_opaque = true;
                    self.name(name);
                    // `\zeta(2)` has a value.
                    if is_free(name) {
                        self.variables.insert(name.clone());
                    } else {
                        self.only_free_functions = false;
                    }
                } else {
                    self.only_free_functions = false;
                }
                list.iter().for_each(|expr| self.expr(expr));
            }
        }
    }

    /// A name and its letters.
    fn name(&mut self, name: &str) {
        self.mentioned.insert(name.to_string());
        let mut chars = name.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\\' {
                let mut command = "\\".to_string();
                while let Some(letter) = chars.next_if(char::is_ascii_alphabetic) {
                    command.push(letter);
                }
                self.has_bound |= is_binding(&command);
                self.mentioned.insert(command);
            } else if c.is_alphabetic() {
                self.mentioned.insert(c.to_string());
            }
        }
    }

    /// A text in which every letter may be a variable.
    fn text(&mut self, text: &str) {
        // Environments, and what is taken between limits.
        let limits = ["\\begin", "|", "]_", "]^", ")_"];
        self.has_bound |= limits.iter().any(|mark| text.contains(mark));
        self.is_opaque = true;
        self.name(text);
        self.mentioned.remove(text);
        let is_variable = |name: &&String| {
            let is_letter = name.chars().count() == 1;
            is_letter && !matches!(name.as_str(), "e" | "i" | "d")
        };
        // Words are not made of variables.
        let mut run = 0;
        for c in text.chars() {
            run = if c.is_alphabetic() { run + 1 } else { 0 };
            self.has_bound |= run >= 3 && !text.contains('\\');
        }
        self.variables = self.mentioned.iter().filter(is_variable).cloned().collect();
    }
}

/// A dimension, a degree and the like of something that the question has introduced. Those of `\mathbb{R}^n`, `P_2`,
/// `SO(3)`, an identity matrix or a polynomial that is written down are known.
fn is_measure(name: &str, arguments: &[Expr]) -> bool {
    let is_letter = |known: &[char]| match arguments {
        [Expr::Symbol(letter)] => letter.chars().count() == 1 && !letter.starts_with(known),
        _ => false,
    };
    match name {
        "\\dim" | "\\ker" | "\\rank" => is_letter(&['I', 'E', 'J', 'O']),
        "\\det" => is_letter(&['I', 'E', 'J', 'O']) || matches!(arguments, [argument] if is_derivative(argument)),
        "\\deg" => is_letter(&['x', 'y', 'z', 't', 'X', 'T']),
        _ => false,
    }
}

/// Whether one is a letter, or a multiple of one, and the other a dimension, a sum or the like that it may stand for.
pub(super) fn may_name(letter: &Expr, other: &Expr) -> bool {
    let is_letter = match letter {
        Expr::Symbol(_) => true,
        Expr::Product(factors) => matches!(factors.as_slice(), [Expr::Number(_), Expr::Symbol(_)]),
        _ => false,
    };
    let is_written_out = |part: &Expr| match part {
        Expr::Call(Function::Named(name), _) => is_binding(name.split(['_', '^']).next().unwrap_or(name)),
        _ => false,
    };
    is_letter && any(other, &is_written_out)
}

/// A value of a free function, or its derivative `Df(a, b)`.
fn is_derivative(expr: &Expr) -> bool {
    match expr {
        Expr::Call(Function::Named(name), _) => is_free(name),
        Expr::Product(factors) => match factors.as_slice() {
            [Expr::Symbol(name), call] => matches!(name.as_str(), "D" | "J") && is_derivative(call),
            _ => false,
        },
        _ => false,
    }
}

fn is_own_value(expr: &Expr) -> bool {
    match expr {
        Expr::Call(Function::Named(name), list) => is_free(name) || is_measure(name, list),
        _ => false,
    }
}

/// Whether an answer does not mention one of the names.
pub(super) fn lacks_any(answer: &Answer, names: &[String]) -> bool {
    letters(answer).is_some_and(|found| names.iter().any(|name| is_plain(name) && !found.mentioned.contains(name)))
}

/// A letter or a command alone.
fn is_plain(name: &str) -> bool {
    let letters = name.strip_prefix('\\').unwrap_or(name);
    letters.chars().all(char::is_alphabetic) && (letters.len() < name.len() || letters.chars().count() == 1)
}

/// Functions of everybody's own choice.
fn is_free(name: &str) -> bool {
    matches!(name, "f" | "g" | "h")
}

/// Commands whose variable means nothing outside, or whose value may be a constant.
fn is_binding(command: &str) -> bool {
    matches!(
        command,
        "\\sum"
            | "\\prod"
            | "\\int"
            | "\\iint"
            | "\\iiint"
            | "\\oint"
            | "\\lim"
            | "\\limsup"
            | "\\liminf"
            | "\\sup"
            | "\\inf"
            | "\\max"
            | "\\min"
            | "\\det"
            | "\\dim"
            | "\\deg"
            | "\\ker"
            | "\\arg"
            | "\\rank"
            | "\\sgn"
            | "\\Re"
            | "\\Im"
            | "\\ldots"
            | "\\forall"
            | "\\exists"
    )
}
