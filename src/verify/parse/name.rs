//! Names: symbols with their subscripts, functions with their arguments, commands that make expressions.

use super::super::answer::Answer;
use super::super::expr::{Expr, Function};
use super::super::latex::{Token, canonical};
use super::bracket::expression;
use super::expression::{number, times};
use super::{INFINITY, Parser};

/// The function of a command.
fn known(name: &str) -> Option<Function> {
    Some(match name {
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tan" => Function::Tan,
        "cot" => Function::Cot,
        "sec" => Function::Sec,
        "csc" => Function::Csc,
        "arcsin" => Function::Arcsin,
        "arccos" => Function::Arccos,
        "arctan" => Function::Arctan,
        "sinh" => Function::Sinh,
        "cosh" => Function::Cosh,
        "tanh" => Function::Tanh,
        "ln" | "log" => Function::Ln,
        "gcd" => Function::Gcd,
        "lcm" => Function::Lcm,
        "max" => Function::Max,
        "min" => Function::Min,
        _ => return None,
    })
}

/// Operators of unknown meaning whose argument is what is multiplied behind them.
pub(super) fn is_operator(name: &str) -> bool {
    matches!(
        name,
        "sum"
            | "prod"
            | "int"
            | "iint"
            | "oint"
            | "lim"
            | "det"
            | "dim"
            | "ker"
            | "deg"
            | "sup"
            | "inf"
            | "Re"
            | "Im"
            | "arg"
            | "rank"
    )
}

/// Accents and alphabets, which make another name of the one they stand on.
fn is_accent(name: &str) -> bool {
    matches!(
        name,
        "hat"
            | "bar"
            | "vec"
            | "tilde"
            | "overline"
            | "dot"
            | "ddot"
            | "widehat"
            | "widetilde"
            | "underline"
            | "mathcal"
            | "mathbb"
            | "mathfrak"
            | "mathscr"
            | "overrightarrow"
    )
}

/// Greek letters and other commands that are symbols.
fn is_letter(name: &str) -> bool {
    matches!(
        name,
        "alpha"
            | "beta"
            | "gamma"
            | "delta"
            | "epsilon"
            | "zeta"
            | "eta"
            | "theta"
            | "iota"
            | "kappa"
            | "lambda"
            | "mu"
            | "nu"
            | "xi"
            | "rho"
            | "sigma"
            | "tau"
            | "upsilon"
            | "phi"
            | "chi"
            | "psi"
            | "omega"
            | "Gamma"
            | "Delta"
            | "Theta"
            | "Lambda"
            | "Xi"
            | "Pi"
            | "Sigma"
            | "Upsilon"
            | "Phi"
            | "Psi"
            | "Omega"
            | "pi"
            | "aleph"
            | "ell"
            | "hbar"
            | "partial"
            | "nabla"
            | "odot"
    )
}

/// Letters before a bracket that are names of functions rather than factors.
pub(super) fn is_often_called(letter: char) -> bool {
    "fghFGHOoWLPQEIJKNMVTXYDBuvywpq".contains(letter)
}

/// Commands that begin a factor.
pub(super) fn is_factor(name: &str) -> bool {
    known(name).is_some()
        || is_operator(name)
        || is_accent(name)
        || is_letter(name)
        || matches!(name, "frac" | "sqrt" | "binom" | "infty" | "exp" | "lfloor" | "lceil" | "langle")
}

impl<'a> Parser<'a> {
    pub(super) fn command(&mut self, name: &'a str) -> Option<Expr> {
        if let Some(function) = known(name) {
            return self.function(name, function);
        }
        if name == "det" && matches!(self.next(), Some(Token::Begin(_))) {
            return self.deeper(Self::determinant);
        }
        if is_operator(name) {
            let mut full = format!("\\{name}");
            self.scripts(&mut full)?;
            // `\lim = 3`
            let has_body = match self.next() {
                Some(Token::Char(c)) => c.is_alphanumeric() || matches!(c, '(' | '[' | '{' | '|'),
                Some(Token::Command(name)) => name != "}" && (is_factor(name) || name == "|"),
                _ => false,
            };
            if !has_body {
                return Some(Expr::Symbol(full));
            }
            let body = self.following()?;
            return Some(Expr::Call(Function::Named(full), vec![body]));
        }
        if is_accent(name) {
            let inside = self.script_text()?;
            let full = format!("\\{name}{{{inside}}}");
            if full == "\\mathfrak{c}" {
                return Some(continuum());
            }
            return self.named(full.clone(), Expr::Symbol(full), false);
        }
        match name {
            "frac" => self.fraction(),
            "sqrt" => self.root(),
            "binom" => {
                let from = self.argument()?;
                let many = self.argument()?;
                Some(Expr::Call(Function::Binomial, vec![from, many]))
            }
            "pi" if !self.peek_is('_') => Some(Expr::Pi),
            "infty" => Some(Expr::Symbol(INFINITY.into())),
            "exp" => {
                let exponent = self.following()?;
                Some(Expr::Power(Box::new(Expr::Euler), Box::new(exponent)))
            }
            "lfloor" => self.enclosed("rfloor").map(|inside| Expr::Call(Function::Floor, vec![inside])),
            "lceil" => self.enclosed("rceil").map(|inside| Expr::Call(Function::Ceiling, vec![inside])),
            "|" => {
                self.norms += 1;
                let inside = self.enclosed("|")?;
                self.norms -= 1;
                let mut full = "\\|".to_string();
                self.subscript(&mut full)?;
                Some(Expr::Call(Function::Named(full), vec![inside]))
            }
            name if is_letter(name) => {
                let full = format!("\\{name}");
                self.named(full.clone(), Expr::Symbol(full), true)
            }
            _ => None,
        }
    }

    fn peek_is(&self, wanted: char) -> bool {
        self.peek() == Some(&Token::Char(wanted))
    }

    fn enclosed(&mut self, close: &str) -> Option<Expr> {
        let inside = self.sum()?;
        self.take_command(close).then_some(inside)
    }

    /// A name with its subscript and primes, and its arguments if it is called. `plain` is what it is without them.
    pub(super) fn named(&mut self, name: String, plain: Expr, is_often_called: bool) -> Option<Expr> {
        let mut full = name;
        let bare = full.len();
        self.subscript(&mut full)?;
        while self.take('\'') {
            full.push('\'');
        }
        let symbol = if full.len() == bare { plain } else { Expr::Symbol(full.clone()) };
        if !self.next_is('(') && !self.next_is('[') || !matches!(symbol, Expr::Symbol(_)) {
            // `f^{-1}(x)` is read as a power times a bracket, the same on both sides.
            return Some(symbol);
        }
        let has_members = self.bracket_has_comma();
        // `\phi(0)` is no product with nothing.
        let is_certain = has_members || self.bracket_is_one(is_often_called);
        if !is_certain {
            self.has_letter_call = true;
            if !(self.reading.letters_call && is_often_called) {
                return Some(symbol);
            }
        }
        // `t(0, 4]` is no call.
        let (Answer::Tuple { open: '(', close: ')', items } | Answer::Tuple { open: '[', close: ']', items }) =
            self.bracket()?
        else {
            return None;
        };
        let arguments = items.into_iter().map(expression).collect::<Option<Vec<_>>>()?;
        Some(Expr::Call(Function::Named(full), arguments))
    }

    /// `_x` or `_{...}` as part of a name.
    pub(super) fn subscript(&mut self, name: &mut String) -> Option<()> {
        if !self.next_is('_') {
            return Some(());
        }
        self.at += 1;
        let text = self.script_text()?;
        name.push_str("_{");
        name.push_str(&text);
        name.push('}');
        Some(())
    }

    /// Both scripts as parts of a name, lower first.
    pub(super) fn scripts(&mut self, name: &mut String) -> Option<()> {
        self.subscript(name)?;
        if self.take('^') {
            let text = self.script_text()?;
            name.push_str("^{");
            name.push_str(&text);
            name.push('}');
            self.subscript(name)?;
        }
        Some(())
    }

    /// A group or a single token as text.
    pub(super) fn script_text(&mut self) -> Option<String> {
        let token = self.next()?;
        if *token != Token::Char('{') {
            self.at += 1;
            return Some(canonical(std::slice::from_ref(token)));
        }
        let end = self.closing()?;
        let inside = &self.list[self.at + 1..end];
        self.at = end + 1;
        Some(canonical(inside))
    }

    /// A function with its power and argument: `\sin^2 x`, `\log_2 8`.
    pub(super) fn function(&mut self, name: &str, function: Function) -> Option<Expr> {
        let mut function = function;
        let mut base = None;
        if self.take('_') {
            let argument = self.deeper(Self::argument)?;
            if name != "log" {
                return None;
            }
            function = Function::Log;
            base = Some(argument);
        }
        if name == "log" && base.is_none() {
            self.has_bare_log = true;
            if self.reading.log_is_decimal {
                function = Function::Log;
                base = Some(number(10));
            }
        }
        let mut exponent = None;
        if self.take('^') {
            let raised = self.deeper(Self::argument)?;
            if raised == number(-1) {
                function = match function {
                    Function::Sin => Function::Arcsin,
                    Function::Cos => Function::Arccos,
                    Function::Tan => Function::Arctan,
                    _ => return None,
                };
            } else {
                exponent = Some(raised);
            }
        }
        let several = matches!(function, Function::Gcd | Function::Lcm | Function::Max | Function::Min);
        let mut arguments: Vec<Expr> = base.into_iter().collect();
        if several || self.bracket_has_comma() {
            let open = self.next_is('(') || self.next_is_command("{");
            let items = if open { self.bracket()? } else { return None };
            let (Answer::Tuple { items, .. } | Answer::Set(items)) = items else { return None };
            arguments.extend(items.into_iter().map(expression).collect::<Option<Vec<_>>>()?);
            if !several {
                return None;
            }
        } else {
            arguments.push(self.following()?);
        }
        let call = Expr::Call(function, arguments);
        Some(match exponent {
            Some(exponent) => Expr::Power(Box::new(call), Box::new(exponent)),
            None => call,
        })
    }

    /// The argument of a function without a sign between: a bracket, or the factors up to the next function.
    pub(super) fn following(&mut self) -> Option<Expr> {
        match self.next()? {
            Token::Char('(') => return self.deeper(Self::atom),
            Token::Char('[') => return self.deeper(Self::atom),
            Token::Char('{') => return self.deeper(Self::braces),
            _ => {}
        }
        let is_function = |parser: &mut Self| match parser.next() {
            Some(Token::Command(name)) => known(name).is_some() || is_operator(name) || name == "exp",
            _ => false,
        };
        self.deeper(|parser| {
            let is_nested = is_function(parser);
            let mut total = parser.power()?;
            if is_nested {
                return Some(total);
            }
            loop {
                if parser.take('/') {
                    let divisor = parser.power()?;
                    total = Expr::Quotient(Box::new(total), Box::new(divisor));
                } else if parser.starts_factor() && !is_function(parser) && !parser.next_is('(') && !parser.next_is('[')
                {
                    let factor = parser.power()?;
                    total = times(total, factor);
                } else {
                    return Some(total);
                }
            }
        })
    }

    pub(super) fn fraction(&mut self) -> Option<Expr> {
        let start = self.at;
        // `\frac{dy}{dx}`: the letters d do not cancel.
        let is_derivative = self.starts_differential() && {
            self.script_text();
            self.starts_differential()
        };
        self.at = start;
        let numerator = self.deeper(Self::argument)?;
        let denominator = self.deeper(Self::argument)?;
        if is_derivative {
            return Some(Expr::Call(Function::Named("d/d".into()), vec![numerator, denominator]));
        }
        Some(Expr::Quotient(Box::new(numerator), Box::new(denominator)))
    }

    fn starts_differential(&mut self) -> bool {
        let start = self.at;
        let is_next = self.take('{') && (self.take('d') || self.take_command("partial"));
        self.at = start;
        is_next
    }

    pub(super) fn root(&mut self) -> Option<Expr> {
        let mut degree = 2;
        if self.next_is('[') {
            self.at += 1;
            let Expr::Number(value) = self.literal()? else { return None };
            degree = u32::try_from(value.to_integer())
                .ok()
                .filter(|degree| value.is_integer() && (2..=64).contains(degree))?;
            self.take(']').then_some(())?;
        }
        let inside = match self.next()? {
            // `sqrt(2)` and `\sqrt(2)`
            Token::Char('(') => self.deeper(Self::atom)?,
            _ => self.deeper(Self::argument)?,
        };
        Some(Expr::Root(degree, Box::new(inside)))
    }
}

/// The number of real numbers.
pub(super) fn continuum() -> Expr {
    Expr::Power(Box::new(number(2)), Box::new(Expr::Symbol("\\aleph_{0}".into())))
}

/// What a letter alone means.
pub(super) fn letter(c: char) -> Expr {
    match c {
        'e' => Expr::Euler,
        'i' => Expr::Imaginary,
        c => Expr::Symbol(c.to_string()),
    }
}
