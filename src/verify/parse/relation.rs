//! Relations and operations on sets: the signs between operands.

use super::super::answer::{Answer, SetOperation, Sign};
use super::super::latex::Token;
use super::Parser;

impl Parser<'_> {
    /// `a`, `a = b`, `a < b < c`.
    pub(super) fn relation(&mut self) -> Option<Answer> {
        let first = match self.sign() {
            // `\approx 27`, `= 3`, `\le k`
            Some(Sign::About | Sign::Equal) => return self.side(),
            Some(sign) => {
                let side = self.side()?;
                return Some(Answer::Relation(Box::new(Answer::Words(String::new())), vec![(sign, side)]));
            }
            None => self.side()?,
        };
        let mut rest = Vec::new();
        while let Some(sign) = self.sign() {
            let side = self.side()?;
            rest.push((sign, side));
        }
        Some(if rest.is_empty() { first } else { Answer::Relation(Box::new(first), rest) })
    }

    /// One side of a relation: sets joined by operations, or an expression, each with its unit.
    fn side(&mut self) -> Option<Answer> {
        let first = self.operand()?;
        let mut operands = vec![first];
        let mut operation = None;
        while let Some(next) = self.set_operation() {
            // Mixed operations depend on brackets that nobody writes.
            if *operation.get_or_insert(next) != next {
                return None;
            }
            let operand = self.operand()?;
            operands.push(operand);
        }
        match operation {
            Some(operation) => Some(Answer::Combined(operation, operands)),
            None => operands.pop(),
        }
    }

    fn set_operation(&mut self) -> Option<SetOperation> {
        let operation = match self.next()? {
            Token::Command(name) => match name.as_str() {
                "cup" => SetOperation::Union,
                "cap" => SetOperation::Intersection,
                "setminus" | "backslash" => SetOperation::Difference,
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        Some(operation)
    }

    fn sign(&mut self) -> Option<Sign> {
        let sign = match self.next()? {
            Token::Char('=') => Sign::Equal,
            Token::Char('<') => Sign::Less,
            Token::Char('>') => Sign::Greater,
            Token::Char(':') if self.brackets > 0 => Sign::Ratio,
            Token::Command(name) => match name.as_str() {
                "le" => Sign::LessOrEqual,
                "ge" => Sign::GreaterOrEqual,
                "ne" => Sign::NotEqual,
                "approx" => Sign::About,
                "in" => Sign::In,
                "not" => {
                    self.at += 1;
                    return Some(match self.sign()? {
                        Sign::Equal => Sign::NotEqual,
                        Sign::NotEqual => Sign::Equal,
                        sign => Sign::Other(format!("not {sign:?}")),
                    });
                }
                "sim" | "cong" | "equiv" | "subset" | "subseteq" | "supset" | "supseteq" | "notin" | "to"
                | "mapsto" | "implies" | "iff" | "mid" | "nmid" | "propto" | "perp" | "parallel" | "ll" | "gg"
                | "simeq" | "triangleq" | "leftrightarrow" | "lesssim" | "gtrsim" => Sign::Other(name.clone()),
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        // `<=` and `>=`
        if matches!(self.peek(), Some(Token::Char('='))) {
            let joined = match sign {
                Sign::Less => Some(Sign::LessOrEqual),
                Sign::Greater => Some(Sign::GreaterOrEqual),
                _ => None,
            };
            if let Some(joined) = joined {
                self.at += 1;
                return Some(joined);
            }
        }
        Some(sign)
    }
}
