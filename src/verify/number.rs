//! Numbers in LaTeX as exact fractions, within fixed bounds: hostile input costs no more than an honest one.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

use super::latex::Token;

/// Largest numerator or denominator.
const MOST_BITS: u64 = 20_000;
/// Nesting of brackets, fractions and powers.
const DEEPEST: usize = 40;
/// Largest exponent in scientific notation.
const MOST_DECIMAL_EXPONENT: u32 = 4_000;
/// Largest degree of a root.
const MOST_ROOT: u32 = 16;

/// The value of an arithmetic expression without variables: integers, decimals, fractions, mixed numbers, sums,
/// products, powers, roots that come out even. `None` where it is anything else, or beyond the bounds.
pub fn value(tokens: &[Token]) -> Option<BigRational> {
    let mut reader = Reader { tokens, at: 0, depth: 0, brackets: 0 };
    let value = reader.sum()?;
    reader.skip_space();
    (reader.at == tokens.len()).then_some(value)
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Round brackets around the current place: in there a bare comma parts members, `(1,500)` is a pair.
    brackets: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(Token::Space | Token::ThinSpace)) {
            self.at += 1;
        }
    }

    fn next_char(&mut self) -> Option<char> {
        self.skip_space();
        match self.peek() {
            Some(Token::Char(c)) => Some(*c),
            _ => None,
        }
    }

    fn next_command(&mut self) -> Option<&str> {
        self.skip_space();
        match self.peek() {
            Some(Token::Command(name)) => Some(name),
            _ => None,
        }
    }

    fn take(&mut self, wanted: char) -> Option<()> {
        (self.next_char() == Some(wanted)).then(|| self.at += 1)
    }

    /// Runs `inner` one level deeper.
    fn deeper(&mut self, inner: impl FnOnce(&mut Self) -> Option<BigRational>) -> Option<BigRational> {
        self.depth += 1;
        let value = if self.depth <= DEEPEST { inner(self) } else { None };
        self.depth -= 1;
        value
    }

    fn sum(&mut self) -> Option<BigRational> {
        let mut total = self.product()?;
        loop {
            match self.next_char() {
                Some('+') => {
                    self.at += 1;
                    total = bounded(total + self.product()?)?;
                }
                Some('-') => {
                    self.at += 1;
                    total = bounded(total - self.product()?)?;
                }
                _ => return Some(total),
            }
        }
    }

    fn product(&mut self) -> Option<BigRational> {
        let mut total = self.signed()?;
        loop {
            if matches!(self.next_char(), Some('*')) || matches!(self.next_command(), Some("times" | "cdot")) {
                self.at += 1;
                total = bounded(total * self.signed()?)?;
            } else if matches!(self.next_char(), Some('/')) || matches!(self.next_command(), Some("div")) {
                self.at += 1;
                total = quotient(total, self.signed()?)?;
            } else if matches!(self.next_char(), Some('(' | '{'))
                || matches!(self.next_command(), Some("frac" | "sqrt"))
            {
                // Written side by side. A digit does not count: `2 3` is no product.
                total = bounded(total * self.power()?)?;
            } else {
                return Some(total);
            }
        }
    }

    /// At most one sign: `--5` is a slip, not a number.
    fn signed(&mut self) -> Option<BigRational> {
        match self.next_char() {
            Some('-') => {
                self.at += 1;
                Some(-self.power()?)
            }
            Some('+') => {
                self.at += 1;
                self.power()
            }
            _ => self.power(),
        }
    }

    fn power(&mut self) -> Option<BigRational> {
        let base = self.atom()?;
        if self.take('^').is_none() {
            return Some(base);
        }
        let exponent = self.deeper(|reader| match reader.next_char() {
            Some('{') => reader.braces(),
            Some('0'..='9') => reader.decimal(),
            _ => None,
        })?;
        // `a^b^c` is not LaTeX.
        if self.next_char() == Some('^') {
            return None;
        }
        let degree = exponent.denom().to_u32().filter(|degree| *degree <= MOST_ROOT)?;
        integer_power(&root(&base, degree)?, exponent.numer())
    }

    fn atom(&mut self) -> Option<BigRational> {
        match self.next_char() {
            Some('(') => {
                self.at += 1;
                self.brackets += 1;
                let value = self.deeper(Self::sum)?;
                self.brackets -= 1;
                self.take(')')?;
                return Some(value);
            }
            Some('{') => return self.deeper(Self::braces),
            Some('0'..='9' | '.') => {
                let start = self.at;
                let number = self.decimal()?;
                let is_plain = self.tokens[start..self.at].iter().all(|t| matches!(t, Token::Char('0'..='9')));
                if is_plain && self.next_command() == Some("frac") {
                    return self.mixed(number);
                }
                return Some(number);
            }
            Some(_) => return None,
            None => {}
        }
        match self.next_command() {
            Some("frac") => {
                self.at += 1;
                self.fraction()
            }
            Some("sqrt") => {
                self.at += 1;
                self.square_root()
            }
            _ => None,
        }
    }

    /// `2\frac{1}{3}`: a mixed number where the fraction is a proper one of plain integers, else no number.
    fn mixed(&mut self, whole: BigRational) -> Option<BigRational> {
        self.at += 1;
        let start = self.at;
        let fraction = self.fraction()?;
        let plain =
            |token: &Token| matches!(token, Token::Char('0'..='9' | '{' | '}') | Token::Space | Token::ThinSpace);
        let is_proper = self.tokens[start..self.at].iter().all(plain) && fraction < BigRational::one();
        if is_proper { bounded(whole + fraction) } else { None }
    }

    fn fraction(&mut self) -> Option<BigRational> {
        let numerator = self.deeper(Self::argument)?;
        let denominator = self.deeper(Self::argument)?;
        quotient(numerator, denominator)
    }

    fn square_root(&mut self) -> Option<BigRational> {
        let mut degree = 2;
        if self.take('[').is_some() {
            degree = self.decimal()?.to_integer().to_u32().filter(|degree| (2..=MOST_ROOT).contains(degree))?;
            self.take(']')?;
        }
        let inside = self.deeper(Self::argument)?;
        root(&inside, degree)
    }

    /// The argument of a command: braces, or a single digit.
    fn argument(&mut self) -> Option<BigRational> {
        match self.next_char() {
            Some('{') => self.braces(),
            Some(digit @ '0'..='9') => {
                self.at += 1;
                Some(BigRational::from_integer(digit.to_digit(10)?.into()))
            }
            _ => None,
        }
    }

    /// `{...}`, in which `a \over b` is a fraction.
    fn braces(&mut self) -> Option<BigRational> {
        self.take('{')?;
        let mut value = self.deeper(Self::sum)?;
        if self.next_command() == Some("over") {
            self.at += 1;
            let denominator = self.deeper(Self::sum)?;
            value = quotient(value, denominator)?;
        }
        self.take('}')?;
        Some(value)
    }

    /// Digits with an optional fraction, thousands separators (`,`, `{,}` or a thin space between groups of three) and
    /// `e` notation.
    fn decimal(&mut self) -> Option<BigRational> {
        let mut digits = self.digits();
        let first_group = digits.len();
        while (1..=3).contains(&first_group) && !digits.starts_with('0') {
            let Some(group) = self.thousands_group() else { break };
            digits.push_str(&group);
        }
        let mut decimals = String::new();
        if self.peek() == Some(&Token::Char('.')) {
            self.at += 1;
            decimals = self.digits();
        }
        if digits.is_empty() && decimals.is_empty() {
            return None;
        }
        let scale = u32::try_from(decimals.len()).ok()?;
        digits.push_str(&decimals);
        let mantissa: BigInt = digits.parse().ok()?;
        let exponent = i64::from(self.decimal_exponent()?) - i64::from(scale);
        let power = BigInt::from(10).pow(u32::try_from(exponent.unsigned_abs()).ok()?);
        if exponent >= 0 { bounded((mantissa * power).into()) } else { bounded(BigRational::new(mantissa, power)) }
    }

    fn digits(&mut self) -> String {
        let mut digits = String::new();
        while let Some(Token::Char(digit @ '0'..='9')) = self.peek() {
            digits.push(*digit);
            self.at += 1;
        }
        digits
    }

    /// A separator and exactly three digits.
    fn thousands_group(&mut self) -> Option<String> {
        let start = self.at;
        let braced = [Token::Char('{'), Token::Char(','), Token::Char('}')];
        if self.tokens[start..].starts_with(&braced) {
            self.at += 3;
        } else if self.peek() == Some(&Token::ThinSpace) || self.brackets == 0 && self.peek() == Some(&Token::Char(','))
        {
            self.at += 1;
        }
        let group = if self.at > start { self.digits() } else { String::new() };
        if group.len() == 3 {
            return Some(group);
        }
        self.at = start;
        None
    }

    /// `e-5`; 0 where there is none. An `e` without digits is Euler's number, which is no fraction.
    fn decimal_exponent(&mut self) -> Option<i32> {
        if !matches!(self.peek(), Some(Token::Char('e' | 'E'))) {
            return Some(0);
        }
        self.at += 1;
        let is_negative = self.peek() == Some(&Token::Char('-'));
        if matches!(self.peek(), Some(Token::Char('+' | '-'))) {
            self.at += 1;
        }
        let exponent: u32 = self.digits().parse().ok().filter(|exponent| *exponent <= MOST_DECIMAL_EXPONENT)?;
        let exponent = i32::try_from(exponent).ok()?;
        Some(if is_negative { -exponent } else { exponent })
    }
}

/// The value, if it is within the bounds.
fn bounded(value: BigRational) -> Option<BigRational> {
    (value.numer().bits() <= MOST_BITS && value.denom().bits() <= MOST_BITS).then_some(value)
}

fn quotient(dividend: BigRational, divisor: BigRational) -> Option<BigRational> {
    if divisor.is_zero() { None } else { bounded(dividend / divisor) }
}

/// `base` to an integer power, refused before it is computed if the result would be too large.
fn integer_power(base: &BigRational, exponent: &BigInt) -> Option<BigRational> {
    let exponent = exponent.to_i32()?;
    if base.is_zero() {
        return (exponent > 0).then(BigRational::zero);
    }
    let bits = base.numer().bits().max(base.denom().bits());
    if bits > 1 && bits.saturating_mul(exponent.unsigned_abs().into()) > MOST_BITS {
        return None;
    }
    Some(Pow::pow(base, exponent))
}

/// The root, if it is rational.
fn root(value: &BigRational, degree: u32) -> Option<BigRational> {
    if degree == 1 {
        return Some(value.clone());
    }
    if value.is_negative() && degree.is_multiple_of(2) {
        return None;
    }
    let part = |part: &BigInt| {
        let root = part.nth_root(degree);
        (Pow::pow(&root, degree) == *part).then_some(root)
    };
    Some(BigRational::new(part(value.numer())?, part(value.denom())?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::latex::tokens;
    use super::*;

    fn read(text: &str) -> Option<BigRational> {
        value(&tokens(text))
    }

    #[test]
    fn numbers_in_their_many_forms() {
        for (text, numerator, denominator) in [
            ("42", 42, 1),
            ("-7", -7, 1),
            ("+7", 7, 1),
            ("007", 7, 1),
            ("1.", 1, 1),
            (".5", 1, 2),
            ("0.50", 1, 2),
            ("1,234,567", 1_234_567, 1),
            ("1{,}234", 1234, 1),
            ("1,\\!234", 1234, 1),
            ("10\\,000", 10_000, 1),
            ("1,234.5", 2469, 2),
            ("\\frac{3}{4}", 3, 4),
            ("\\dfrac34", 3, 4),
            ("\\frac{1}{-2}", -1, 2),
            ("-\\tfrac{6}{8}", -3, 4),
            ("3/4", 3, 4),
            ("{3 \\over 4}", 3, 4),
            ("3 \\div 4", 3, 4),
            ("2\\frac{1}{2}", 5, 2),
            ("-2 \\frac12", -5, 2),
            ("2 \\cdot 3^{-1}", 2, 3),
            ("2.5 \\times 10^{3}", 2500, 1),
            ("2.5e3", 2500, 1),
            ("6.5e-2", 13, 200),
            ("2^10", 1024, 1),
            ("-2^2", -4, 1),
            ("(-2)^2", 4, 1),
            ("\\sqrt{16}", 4, 1),
            ("\\sqrt[3]{\\frac{8}{27}}", 2, 3),
            ("4^{1/2}", 2, 1),
            ("1 + 2\\left(3 - 4\\right)", -1, 1),
            ("2(3)(4)", 24, 1),
            ("\\frac{\\frac{1}{2}}{3}", 1, 6),
        ] {
            assert_eq!(read(text), Some(BigRational::new(numerator.into(), denominator.into())), "{text}");
        }
    }

    #[test]
    fn what_is_no_number() {
        for text in [
            "",
            "x",
            "1 2",
            "1,2",
            "12,34",
            "1, 234",
            "0,123",
            "1,2345",
            "--5",
            "5-",
            "1/0",
            "0^0",
            "0^{-1}",
            "2e",
            "5!",
            "\\sqrt{2}",
            "(-4)^{1/2}",
            "2\\pi",
            "3x",
            "\\frac{1}{2",
            "(1",
            "1)",
            "1..2",
            "0.333...",
            "2\\frac{3}{2}",
            "2\\frac{x}{2}",
            "9^{9^{9}}",
            "10^{100000}",
            "1e99999",
            "2^3^4",
            "(2)3",
            "\\frac1",
            ".",
            "1.2.3",
            "\\pm 5",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        for (open, close) in [("(", ")"), ("{", "}"), ("\\sqrt{", "}"), ("\\frac{1}{", "}"), ("1^{", "}")] {
            let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(read(&nested(8)).is_some(), "{open}");
            assert_eq!(read(&nested(100_000)), None, "{open}");
        }
    }

    proptest! {
        #[test]
        fn arithmetic_is_exact(a: i64, b in 1..i64::MAX, c: i32, d in 0..9u32) {
            let (big_a, big_b, big_c) = (BigInt::from(a), BigInt::from(b), BigInt::from(c));
            let quotient = BigRational::new(big_a.clone(), big_b.clone());
            let text = format!("\\frac{{{a}}}{{{b}}}");
            prop_assert_eq!(read(&text), Some(quotient.clone()));
            prop_assert_eq!(read(&format!("{text} + ({c})")), Some(quotient.clone() + big_c.clone()));
            prop_assert_eq!(read(&format!("({c}) \\times {text}")), Some(quotient * big_c));
            let scale = BigInt::from(10).pow(d);
            prop_assert_eq!(read(&format!("{a} / 10^{{{d}}}")), Some(BigRational::new(big_a.clone(), scale)));
            prop_assert_eq!(read(&format!("{a}e{d}")), read(&format!("{a} \\cdot 10^{{{d}}}")));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "[0-9 ,.{}()+*/^e\\\\-]{0,40}|\\PC{0,40}") {
            let _ = read(&text);
        }
    }
}
