//! Columns that fit a terminal: less important ones are left out, the text column takes what room is left.

use std::borrow::Cow;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::text;

/// Room between two columns.
const GAP: usize = 2;

/// A text column narrower than this says nothing.
const LEAST_TEXT: usize = 12;

/// One column of a [`listing`].
pub struct Column {
    name: Cow<'static, str>,
    /// The column with the largest rank goes first when there is no room; 0 always stays.
    rank: u8,
    kind: Kind,
    cells: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Word,
    Text,
}

impl Column {
    /// Numbers: to the right. `rank` 0 always stays; the largest goes first when there is no room.
    pub fn number(name: impl Into<Cow<'static, str>>, rank: u8, cells: impl IntoIterator<Item = String>) -> Column {
        Column { name: name.into(), rank, kind: Kind::Number, cells: cells.into_iter().collect() }
    }

    /// Words, shown whole. They must be harmless already ([`text::one_line`]).
    pub fn word(name: impl Into<Cow<'static, str>>, rank: u8, cells: impl IntoIterator<Item = String>) -> Column {
        Column { name: name.into(), rank, kind: Kind::Word, cells: cells.into_iter().collect() }
    }

    /// Text that is cut to the room that is left.
    pub fn text<'a>(name: &'static str, rank: u8, cells: impl IntoIterator<Item = &'a str>) -> Column {
        Column { name: name.into(), rank, kind: Kind::Text, cells: cells.into_iter().map(text::one_line).collect() }
    }

    fn natural_width(&self) -> usize {
        self.cells.iter().map(|cell| text::columns(cell)).max().unwrap_or(0).max(self.name.len())
    }

    fn least_width(&self) -> usize {
        match self.kind {
            Kind::Text => self.natural_width().min(LEAST_TEXT),
            _ => self.natural_width(),
        }
    }
}

/// A table without borders for a terminal of `width` columns; every column has a cell per row. Empty without rows.
pub fn listing(mut columns: Vec<Column>, width: usize) -> String {
    while room(&columns, Column::least_width) > width {
        let last = columns.iter().enumerate().max_by_key(|(index, column)| (column.rank, *index));
        match last {
            Some((index, column)) if column.rank > 0 => drop(columns.remove(index)),
            _ => break,
        }
    }
    let spare = width.saturating_sub(room(&columns, Column::least_width));
    let mut table = Table::new();
    // The terminal is asked nothing: the caller says how wide it is, and no colour is used.
    table.force_no_tty().load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for column in columns.iter_mut().filter(|column| column.kind == Kind::Text) {
        let width = column.natural_width().min(column.least_width() + spare);
        column.cells.iter_mut().for_each(|cell| *cell = text::cut(cell, width));
    }
    table.set_header(columns.iter().map(|column| column.name.as_ref()));
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    if rows == 0 {
        return String::new();
    }
    for row in 0..rows {
        table.add_row(columns.iter().map(|column| column.cells.get(row).map_or("", String::as_str)));
    }
    for (index, column) in columns.iter().enumerate() {
        if let Some(shown) = table.column_mut(index) {
            shown.set_padding((0, GAP as u16));
            if column.kind == Kind::Number {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn room(columns: &[Column], width: fn(&Column) -> usize) -> usize {
    columns.iter().map(|column| width(column) + GAP).sum::<usize>().saturating_sub(GAP)
}
