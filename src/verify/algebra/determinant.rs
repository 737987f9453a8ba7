//! Determinants, by minors of the first rows: without divisions, so that nothing has to be known not to be zero.

use super::Stop;
use super::ball::Trouble;
use super::form::{Form, Forms};
use super::numeric::{Evaluation, Value};

/// Larger ones are not evaluated: the work doubles with every row.
const MOST_ROWS: usize = 8;

/// Larger ones of anything but rational numbers are not expanded: they have up to `n!` terms.
const MOST_SYMBOLIC_ROWS: usize = 4;

/// What a determinant is made of.
trait Ring {
    type Element: Clone;
    type Trouble;

    fn multiply(&mut self, one: &Self::Element, other: &Self::Element) -> Result<Self::Element, Self::Trouble>;
    fn add(&mut self, one: &Self::Element, other: &Self::Element) -> Result<Self::Element, Self::Trouble>;
    fn negate(one: &Self::Element) -> Self::Element;
    /// What there is where nothing is.
    fn none(&self) -> Result<Self::Element, Self::Trouble>;
}

impl Ring for Forms<'_> {
    type Element = Form;
    type Trouble = Stop;

    fn multiply(&mut self, one: &Form, other: &Form) -> Result<Form, Stop> {
        self.spend(1)?;
        self.mul(one, other)
    }

    fn add(&mut self, one: &Form, other: &Form) -> Result<Form, Stop> {
        Forms::add(self, one, other)
    }

    fn negate(one: &Form) -> Form {
        one.neg()
    }

    fn none(&self) -> Result<Form, Stop> {
        Err(Stop::Unsure)
    }
}

impl Ring for Evaluation<'_> {
    type Element = Value;
    type Trouble = Trouble;

    fn multiply(&mut self, one: &Value, other: &Value) -> Result<Value, Trouble> {
        self.budget.spend(4 + self.bits / 64)?;
        self.mul(one, other)
    }

    fn add(&mut self, one: &Value, other: &Value) -> Result<Value, Trouble> {
        Evaluation::add(self, one, other)
    }

    fn negate(one: &Value) -> Value {
        Evaluation::neg(one)
    }

    fn none(&self) -> Result<Value, Trouble> {
        Err(Trouble::Unsure)
    }
}

/// The determinant of `rows` by `rows` entries: the minor of the first rows and any set of as many columns, from those of
/// one row less.
fn expand<R: Ring>(ring: &mut R, entries: &[R::Element], rows: usize) -> Result<R::Element, R::Trouble> {
    let mut minors: Vec<Option<R::Element>> = vec![None; 1 << rows];
    for columns in 1..minors.len() {
        let row = columns.count_ones() as usize - 1;
        let mut minor: Option<R::Element> = None;
        for column in (0..rows).filter(|column| columns >> column & 1 == 1) {
            let Some(entry) = entries.get(row * rows + column) else { return ring.none() };
            let mut term = match minors.get(columns & !(1 << column)).cloned().flatten() {
                Some(smaller) => ring.multiply(entry, &smaller)?,
                None => entry.clone(),
            };
            // As many signs as there are columns to the right.
            if (columns >> (column + 1)).count_ones() % 2 == 1 {
                term = R::negate(&term);
            }
            minor = Some(match minor {
                Some(sum) => ring.add(&sum, &term)?,
                None => term,
            });
        }
        minors[columns] = minor;
    }
    match minors.pop().flatten() {
        Some(determinant) => Ok(determinant),
        None => ring.none(),
    }
}

impl Forms<'_> {
    /// The determinant of a square matrix of forms, row by row.
    pub(super) fn determinant(&mut self, entries: &[Form]) -> Result<Form, Stop> {
        let rows = entries.len().isqrt();
        let most =
            if entries.iter().all(|entry| entry.as_rational().is_some()) { MOST_ROWS } else { MOST_SYMBOLIC_ROWS };
        if rows * rows != entries.len() || rows > most {
            return Err(Stop::Unsure);
        }
        expand(self, entries, rows)
    }
}

impl Evaluation<'_> {
    /// The determinant of a square matrix of numbers, row by row.
    pub(super) fn determinant(&mut self, entries: &[Value]) -> Result<Value, Trouble> {
        let rows = entries.len().isqrt();
        if rows * rows != entries.len() || rows > MOST_ROWS {
            return Err(Trouble::Unsure);
        }
        expand(self, entries, rows)
    }
}
