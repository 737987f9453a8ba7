//! Sums, products, powers, and what they are made of.

use num_rational::BigRational;

use super::super::expr::{Expr, Function};
use super::super::latex::{Token, canonical};
use super::Parser;
use super::bracket::{closes, is_determinant};
use super::mark::{DEGREE, PERCENT};
use super::name::{continuum, is_factor, is_often_called, letter};

/// `value` times a power of ten.
pub(super) fn scaled(value: Expr, exponent: u32) -> Expr {
    times(Expr::Number(BigRational::from_integer(num_bigint::BigInt::from(10).pow(exponent))), value)
}

pub(super) fn number(value: i64) -> Expr {
    Expr::Number(BigRational::from_integer(value.into()))
}

/// The product, flattened.
pub(super) fn times(one: Expr, other: Expr) -> Expr {
    match one {
        Expr::Product(mut factors) => {
            factors.push(other);
            Expr::Product(factors)
        }
        one => Expr::Product(vec![one, other]),
    }
}

fn negated(expr: Expr) -> Expr {
    match expr {
        Expr::Number(value) => Expr::Number(-value),
        expr => Expr::Product(vec![number(-1), expr]),
    }
}

impl<'a> Parser<'a> {
    /// A sum of products.
    pub(super) fn sum(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let first = parser.term(true)?;
            let mut terms = vec![first];
            while let Some(is_negative) = parser.plus_or_minus() {
                let term = parser.term(false)?;
                terms.push(if is_negative { negated(term) } else { term });
            }
            if terms.len() == 1 { terms.pop() } else { Some(Expr::Sum(terms)) }
        })
    }

    /// Takes a sign between terms; whether it is negative.
    fn plus_or_minus(&mut self) -> Option<bool> {
        let is_negative = match self.next()? {
            Token::Char('+') => false,
            Token::Char('-') => true,
            Token::Command(name) if name == "pm" || name == "mp" => {
                self.saw_pm = true;
                self.pm_is_minus == (name == "pm")
            }
            _ => return None,
        };
        self.at += 1;
        Some(is_negative)
    }

    /// A product with at most one sign in front: `--5` is a slip, not a number.
    fn term(&mut self, may_be_signed: bool) -> Option<Expr> {
        let sign = if may_be_signed { self.plus_or_minus() } else { None };
        // `\pm\pm 3`, `-+3`
        if sign.is_some() && self.plus_or_minus().is_some() {
            self.is_undefined = true;
            return None;
        }
        let is_negative = sign.unwrap_or(false);
        let product = self.product()?;
        Some(if is_negative { negated(product) } else { product })
    }

    fn product(&mut self) -> Option<Expr> {
        let mut total = self.power()?;
        loop {
            if is_vector(&total) && self.next_is_command("times") {
                // The vector product is no scalar one, and its order counts.
                self.at += 1;
                let factor = self.power()?;
                total = Expr::Call(Function::Named("\\times".into()), vec![total, factor]);
            } else if self.take('*')
                || self.take_command("times")
                || self.take_command("cdot")
                || self.take_command("ast")
            {
                let is_negative = self.take('-');
                let factor = self.power()?;
                total = times(total, if is_negative { negated(factor) } else { factor });
            } else if self.take('/') || self.take_command("div") {
                let divisor = self.power()?;
                total = Expr::Quotient(Box::new(total), Box::new(divisor));
            } else if self.take_command("bmod") || self.take_command("mod") {
                let divisor = self.power()?;
                total = Expr::Call(Function::Mod, vec![total, divisor]);
            } else if let Some(name) = self.take_pairing() {
                let mut name = format!("\\{name}");
                self.subscript(&mut name)?;
                let factor = self.power()?;
                total = Expr::Call(Function::Named(name), vec![total, factor]);
            } else if self.take_command("pmod") {
                let modulus = self.deeper(Self::argument)?;
                total = Expr::Call(Function::Named("\\pmod".into()), vec![total, modulus]);
            } else if self.starts_factor() {
                let factor = self.power()?;
                total = times(total, factor);
            } else {
                return Some(total);
            }
        }
    }

    /// Products in which the order may count.
    fn take_pairing(&mut self) -> Option<&'a str> {
        let Some(Token::Command(name)) = self.next() else { return None };
        let is_pairing = matches!(
            name.as_str(),
            "land" | "lor" | "wedge" | "vee" | "otimes" | "oplus" | "rtimes" | "ltimes" | "circ" | "odot"
        );
        self.at += usize::from(is_pairing);
        is_pairing.then_some(name)
    }

    /// Whether what follows is multiplied without a sign. A digit is not: `2 3` is no product.
    pub(super) fn starts_factor(&mut self) -> bool {
        match self.next() {
            Some(Token::Char('|')) => self.bars == 0,
            // `(n - 2) 2^n`, but not `2 3`.
            Some(Token::Char('0'..='9')) => self.follows_bracket(),
            Some(Token::Command(name)) if name == "|" => self.norms == 0,
            token @ Some(Token::Begin(_)) => is_determinant(token),
            Some(Token::Char(c)) => c.is_alphabetic() || matches!(c, '(' | '{' | '['),
            Some(Token::Command(name)) => {
                !matches!(
                    name.as_str(),
                    "times"
                        | "cdot"
                        | "div"
                        | "pm"
                        | "mp"
                        | "}"
                        | "rangle"
                        | "rfloor"
                        | "rceil"
                        | "|"
                        | "over"
                        | "\\"
                        | "bmod"
                        | "mod"
                        | "pmod"
                        | "ldots"
                        | "cup"
                        | "cap"
                        | "setminus"
                        | "backslash"
                        | "not"
                        | "le"
                        | "ge"
                        | "ne"
                        | "approx"
                        | "in"
                        | "lor"
                        | "land"
                        | "wedge"
                        | "vee"
                        | "{"
                ) && is_factor(name)
            }
            _ => false,
        }
    }

    /// Whether the last token that is no space closed a bracket.
    fn follows_bracket(&self) -> bool {
        let before = self.list[..self.at].iter().rev().find(|token| !matches!(token, Token::Space | Token::ThinSpace));
        before.is_some_and(closes)
    }

    /// A base with exponents, factorials and marks.
    pub(super) fn power(&mut self) -> Option<Expr> {
        let base = self.atom()?;
        self.marked(base)
    }

    /// What may stand behind a base: `^2`, `!`, `'`, `^\circ`, `\%`.
    fn marked(&mut self, base: Expr) -> Option<Expr> {
        let mut base = base;
        let mut is_raised = false;
        loop {
            match self.next() {
                // `a^b^c` is not LaTeX.
                Some(Token::Char('^')) if !is_raised => {
                    self.at += 1;
                    if self.degree_sign() {
                        base = times(base, Expr::Symbol(DEGREE.into()));
                        continue;
                    }
                    is_raised = true;
                    base = self.exponent(base)?;
                }
                Some(Token::Char('!')) => {
                    self.at += 1;
                    if self.peek() == Some(&Token::Char('!')) {
                        return None;
                    }
                    base = Expr::Call(Function::Factorial, vec![base]);
                }
                Some(Token::Char('%')) => {
                    self.at += 1;
                    base = times(base, Expr::Symbol(PERCENT.into()));
                }
                _ => return Some(base),
            }
        }
    }

    fn degree_sign(&mut self) -> bool {
        let start = self.at;
        if self.take_command("circ") || self.take_command("degree") {
            return true;
        }
        if self.take('{') && self.take_command("circ") && self.take('}') {
            return true;
        }
        self.at = start;
        false
    }

    fn exponent(&mut self, base: Expr) -> Option<Expr> {
        if let Some(mark) = self.mark() {
            return Some(match base {
                Expr::Symbol(name) => Expr::Symbol(format!("{name}^{mark}")),
                base => Expr::Call(Function::Named(format!("^{mark}")), vec![base]),
            });
        }
        let start = self.at;
        if let Some(exponent) = self.deeper(Self::argument) {
            return self.subscripted(base, exponent);
        }
        // `W^{1,2}_0`: part of the name.
        let Expr::Symbol(name) = base else { return None };
        self.at = start;
        let mut full = format!("{name}^{{{}}}", self.script_text()?);
        self.subscript(&mut full)?;
        self.named(full.clone(), Expr::Symbol(full), true)
    }

    /// `x^2_1` is `x_1^2`.
    fn subscripted(&mut self, base: Expr, exponent: Expr) -> Option<Expr> {
        let base = match base {
            Expr::Symbol(mut name) => {
                self.subscript(&mut name)?;
                Expr::Symbol(name)
            }
            base => base,
        };
        Some(Expr::Power(Box::new(base), Box::new(exponent)))
    }

    /// An exponent that is a mark and no number: `^*`, `^{\prime}`, `^\top`, `^{+}`.
    fn mark(&mut self) -> Option<String> {
        let start = self.at;
        let is_braced = self.take('{');
        let mut mark = String::new();
        while let Some(token) = self.next() {
            match token {
                Token::Char('*' | '+' | '-' | '\'') => {}
                Token::Command(name)
                    if matches!(
                        name.as_str(),
                        "prime" | "top" | "ast" | "star" | "dagger" | "perp" | "bot" | "times"
                    ) => {}
                _ => break,
            }
            mark.push_str(&canonical(std::slice::from_ref(token)));
            self.at += 1;
            if !is_braced {
                break;
            }
        }
        let is_mark = !mark.is_empty() && (!is_braced || self.take('}'));
        if !is_mark {
            self.at = start;
        }
        is_mark.then(|| mark.replace("\\prime", "'"))
    }

    /// The argument of a command: a group in braces, a digit, a letter or a command.
    pub(super) fn argument(&mut self) -> Option<Expr> {
        match self.next()? {
            Token::Char('{') => self.braces(),
            Token::Char(digit @ '0'..='9') => {
                self.at += 1;
                Some(number(i64::from(digit.to_digit(10)?)))
            }
            Token::Char(c) if c.is_alphabetic() => {
                self.at += 1;
                Some(letter(*c))
            }
            Token::Char('-') => {
                // `e^-x`: not LaTeX, but often written.
                self.at += 1;
                let argument = self.argument()?;
                Some(negated(argument))
            }
            Token::Char('(') => self.atom(),
            Token::Command(_) => self.atom(),
            _ => None,
        }
    }

    /// `{...}`, in which `a \over b` is a fraction.
    pub(super) fn braces(&mut self) -> Option<Expr> {
        self.take('{').then_some(())?;
        let bars = std::mem::replace(&mut self.bars, 0);
        let mut value = self.sum()?;
        if self.take_command("over") {
            let divisor = self.sum()?;
            value = Expr::Quotient(Box::new(value), Box::new(divisor));
        }
        self.bars = bars;
        self.take('}').then_some(value)
    }

    pub(super) fn atom(&mut self) -> Option<Expr> {
        match self.next()? {
            Token::Char('0'..='9' | '.') => self.literal(),
            Token::Char('(') => self.group('(', ')'),
            Token::Char('[') => self.group('[', ']'),
            Token::Char('{') => self.deeper(Self::braces),
            Token::Char('|') => {
                self.at += 1;
                let bars = self.bars;
                self.bars += 1;
                let inside = self.sum()?;
                // Not one less than now: a group inside that failed may have left its own count.
                self.bars = bars;
                // `|\mathbb{R}|`
                let is_continuum = inside == Expr::Symbol("\\mathbb{R}".into());
                let value = if is_continuum { continuum() } else { Expr::Call(Function::Abs, vec![inside]) };
                self.take('|').then_some(value)
            }
            Token::Char(c) if c.is_alphabetic() => {
                self.at += 1;
                self.named(c.to_string(), letter(*c), is_often_called(*c))
            }
            Token::Command(name) => {
                self.at += 1;
                self.deeper(|parser| parser.command(name))
            }
            token if is_determinant(Some(token)) => self.deeper(Self::determinant),
            _ => None,
        }
    }

    fn group(&mut self, open: char, close: char) -> Option<Expr> {
        self.take(open).then_some(())?;
        let bars = std::mem::replace(&mut self.bars, 0);
        let mut value = self.sum()?;
        // `-(1 : 2)`
        while self.take(':') {
            let divisor = self.sum()?;
            value = Expr::Quotient(Box::new(value), Box::new(divisor));
        }
        self.bars = bars;
        self.take(close).then_some(value)
    }
}

/// Whether a product ends in what is marked as a vector.
fn is_vector(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(name) => ["\\vec", "\\overrightarrow", "\\nabla"].iter().any(|mark| name.starts_with(mark)),
        Expr::Product(factors) => factors.last().is_some_and(is_vector),
        _ => false,
    }
}
