//! Numbers as they are written: thousands, decimals, repeating decimals, `e` notation, mixed numbers.

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::One;

use super::super::expr::{Expr, Function};
use super::super::latex::Token;
use super::Parser;

/// Largest decimal exponent that is computed: `1e999999999` stays a power.
const MOST_DECIMAL_EXPONENT: u32 = 1000;

impl Parser<'_> {
    /// A number without a sign.
    pub(super) fn literal(&mut self) -> Option<Expr> {
        self.skip_space();
        let start = self.at;
        let mut digits = self.digits();
        let first_group = digits.len();
        let may_group =
            (1..=3).contains(&first_group) && (!digits.starts_with('0') || first_group == 1 && digits != "0");
        let mut is_grouped = false;
        if may_group {
            while let Some(group) = self.thousands_group() {
                is_grouped = true;
                digits.push_str(&group);
            }
        }
        let is_integer = self.at - start == digits.len();
        let mut decimals = String::new();
        if self.peek_char('.') {
            self.at += 1;
            decimals = self.digits();
        } else if !is_grouped {
            decimals = self.decimal_comma().unwrap_or_default();
        }
        if digits.is_empty() && decimals.is_empty() {
            return None;
        }
        // `0.333...` is no exact number.
        if self.peek_char('.') {
            return None;
        }
        let is_plain = is_integer && decimals.is_empty();
        let mut value = fixed(&digits, &decimals)?;
        if let Some(repeating) = self.repeating() {
            let scale = BigInt::from(10).pow(u32::try_from(decimals.len()).ok()?);
            let nines = BigInt::from(10).pow(u32::try_from(repeating.len()).ok()?) - BigInt::one();
            value += BigRational::new(repeating.parse().ok()?, scale * nines);
        }
        if let Some(exponent) = self.decimal_exponent()? {
            return Some(scaled(value, exponent));
        }
        if is_plain && let Some(fraction) = self.proper_fraction() {
            value += fraction;
        }
        // `204_5`: figures in another base.
        if self.peek_char('_') && is_plain {
            let mut base = String::new();
            self.subscript(&mut base)?;
            return Some(Expr::Call(Function::Named(base), vec![Expr::Number(value)]));
        }
        Some(Expr::Number(value))
    }

    fn peek_char(&self, wanted: char) -> bool {
        self.peek() == Some(&Token::Char(wanted))
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
        let mut is_comma = false;
        if self.list[start..].starts_with(&braced) {
            self.at += 3;
        } else if self.peek() == Some(&Token::ThinSpace) {
            self.at += 1;
        } else if self.brackets == 0 && self.peek_char(',') {
            is_comma = true;
            self.at += 1;
            // `1,\!234` and `1,\! 234`
            if self.peek() == Some(&Token::ThinSpace) {
                is_comma = false;
                self.skip_space();
            }
        }
        let has_separator = self.at > start;
        let group = if has_separator { self.digits() } else { String::new() };
        if group.len() == 3 {
            self.has_grouping_comma |= is_comma;
            if !is_comma || self.reading.commas_group {
                return Some(group);
            }
        }
        self.at = start;
        None
    }

    /// The decimals of `3,5`, where that is how a decimal is written.
    fn decimal_comma(&mut self) -> Option<String> {
        if !self.peek_char(',') || self.brackets > 0 {
            return None;
        }
        let start = self.at;
        self.at += 1;
        let decimals = self.digits();
        if !decimals.is_empty() && !self.peek_char(',') {
            self.has_decimal_comma = true;
            if self.reading.decimal_comma {
                return Some(decimals);
            }
        }
        self.at = start;
        None
    }

    /// `\overline{3}` behind the decimals.
    fn repeating(&mut self) -> Option<String> {
        let start = self.at;
        if self.peek() == Some(&Token::Command("overline".into())) {
            self.at += 1;
            if self.peek_char('{') {
                self.at += 1;
                let digits = self.digits();
                if !digits.is_empty() && self.peek_char('}') {
                    self.at += 1;
                    return Some(digits);
                }
            }
        }
        self.at = start;
        None
    }

    /// `e-5`; `Some(None)` where there is none. An `e` without digits is Euler's number.
    fn decimal_exponent(&mut self) -> Option<Option<i64>> {
        let start = self.at;
        if !matches!(self.peek(), Some(Token::Char('e' | 'E'))) {
            return Some(None);
        }
        self.at += 1;
        let is_negative = self.peek_char('-');
        if matches!(self.peek(), Some(Token::Char('+' | '-'))) {
            self.at += 1;
        }
        let digits = self.digits();
        if digits.is_empty() {
            self.at = start;
            return Some(None);
        }
        let exponent: i64 = digits.parse().ok()?;
        Some(Some(if is_negative { -exponent } else { exponent }))
    }

    /// The fraction of a mixed number behind its whole part: `2\frac{1}{3}`, `2 1/3`.
    fn proper_fraction(&mut self) -> Option<BigRational> {
        let start = self.at;
        let fraction = self.plain_fraction();
        match fraction.filter(|fraction| *fraction < BigRational::one()) {
            Some(fraction) => Some(fraction),
            None => {
                self.at = start;
                None
            }
        }
    }

    fn plain_fraction(&mut self) -> Option<BigRational> {
        let has_space = self.peek() == Some(&Token::Space);
        self.skip_space();
        let (numerator, denominator) = if self.take_command("frac") {
            (self.plain_argument()?, self.plain_argument()?)
        } else if has_space {
            let numerator: BigInt = self.digits().parse().ok()?;
            if !self.peek_char('/') {
                return None;
            }
            self.at += 1;
            (numerator, self.digits().parse().ok()?)
        } else {
            return None;
        };
        (denominator > BigInt::from(0)).then(|| BigRational::new(numerator, denominator))
    }

    /// A digit, or digits in braces.
    fn plain_argument(&mut self) -> Option<BigInt> {
        self.skip_space();
        if let Some(Token::Char(digit @ '0'..='9')) = self.peek() {
            self.at += 1;
            return digit.to_digit(10).map(BigInt::from);
        }
        self.take('{').then_some(())?;
        self.skip_space();
        let digits = self.digits();
        self.take('}').then_some(())?;
        digits.parse().ok()
    }
}

/// The exact value of digits before and behind the point.
fn fixed(digits: &str, decimals: &str) -> Option<BigRational> {
    let together: BigInt =
        if decimals.is_empty() { digits.parse().ok()? } else { format!("{digits}{decimals}").parse().ok()? };
    if decimals.is_empty() {
        return Some(BigRational::from_integer(together));
    }
    let scale = BigInt::from(10).pow(u32::try_from(decimals.len()).ok()?);
    // Only twos and fives can be in common.
    let common = together.gcd(&scale);
    Some(BigRational::new_raw(&together / &common, scale / common))
}

fn scaled(value: BigRational, exponent: i64) -> Expr {
    let ten = || BigInt::from(10);
    match u32::try_from(exponent.unsigned_abs()) {
        Ok(size) if size <= MOST_DECIMAL_EXPONENT => {
            let power = BigRational::from_integer(ten().pow(size));
            Expr::Number(if exponent < 0 { value / power } else { value * power })
        }
        _ => Expr::Product(vec![
            Expr::Number(value),
            Expr::Power(
                Box::new(Expr::Number(BigRational::from_integer(ten()))),
                Box::new(Expr::Number(BigRational::from_integer(exponent.into()))),
            ),
        ]),
    }
}
