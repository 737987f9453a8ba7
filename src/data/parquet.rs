//! Parquet files: the rows of a table as objects. Only the columns that are asked for are decoded: nearly all of the
//! 2 GB of DeepMath-103K are solutions, which a problem does not need.

use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Number, Value};

use super::error::DataError;
use super::published::Record;

/// Gives every row of a file with its number from 1. `wanted` says which of the columns there are to read.
///
/// # Errors
/// [`DataError::Read`]; [`DataError::Parquet`]; [`DataError::Columns`] where nothing is to be read.
pub(super) fn each_record(
    path: &Path,
    wanted: impl Fn(&[&str]) -> Vec<String>,
    mut take: impl FnMut(usize, Record),
) -> Result<(), DataError> {
    let file = std::fs::File::open(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
    let broken = |source| DataError::Parquet { path: path.to_path_buf(), source };
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    let present: Vec<&str> = schema.get_fields().iter().map(|column| column.name()).collect();
    let wanted = wanted(&present);
    let columns: Vec<Arc<Type>> =
        schema.get_fields().iter().filter(|column| wanted.iter().any(|name| name == column.name())).cloned().collect();
    if columns.is_empty() {
        let found = present.iter().map(ToString::to_string).collect();
        return Err(DataError::Columns { path: path.to_path_buf(), found });
    }
    let projection = Type::group_type_builder(schema.name()).with_fields(columns).build().map_err(broken)?;
    for (index, row) in reader.get_row_iter(Some(projection)).map_err(broken)?.enumerate() {
        take(index + 1, record_of(&row.map_err(broken)?));
    }
    Ok(())
}

fn record_of(row: &Row) -> Record {
    row.get_column_iter().map(|(name, field)| (name.clone(), value_of(field))).collect()
}

/// A cell; what no problem set holds in a column that is read, such as dates, is null.
fn value_of(field: &Field) -> Value {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(number) => Value::from(*number),
        Field::Short(number) => Value::from(*number),
        Field::Int(number) => Value::from(*number),
        Field::Long(number) => Value::from(*number),
        Field::UByte(number) => Value::from(*number),
        Field::UShort(number) => Value::from(*number),
        Field::UInt(number) => Value::from(*number),
        Field::ULong(number) => Value::from(*number),
        // The digits that were meant, not those of the nearest binary fraction.
        Field::Float(number) => number.to_string().parse().map_or(Value::Null, float),
        Field::Double(number) => float(*number),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => Value::Object(record_of(row)),
        Field::ListInternal(list) => list.elements().iter().map(value_of).collect(),
        _ => Value::Null,
    }
}
