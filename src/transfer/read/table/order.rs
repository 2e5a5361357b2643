//! The ids and step numbers of rows, which say what trajectory a row belongs to, and where in it.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::row::{RowConverter, Rows, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Error, Result};

/// The hint about rows that are not in the order of trajectories and steps.
pub(super) const SORT: &str = "sort the rows by trajectory and step with `--sort` (in a pipeline, \
     `sort: true` under `source`)";

/// Returns the error about a trajectory or environment, as `what` says, whose rows are scattered.
pub(super) fn scattered(what: &str, key: &str, ids: &[(String, ArrayRef)], place: &str) -> Error {
    let names: Vec<&str> = ids.iter().map(|(name, _)| name.as_str()).collect();
    let columns = if names.len() == 1 {
        "column"
    } else {
        "columns"
    };
    Error::failed(format!(
        "the rows of {what} `{key}` ({columns} `{}`) are not together: it continues at {place}, \
         after rows of others",
        names.join("`, `")
    ))
    .hint(SORT)
}

/// Returns the ranges of rows with the same ids, each with the ids as text; `place` names a row in
/// messages.
///
/// # Errors
/// Returns an error if an id is null.
pub(super) fn together(
    ids: &[(String, ArrayRef)],
    place: &dyn Fn(usize) -> String,
) -> Result<Vec<(Range<usize>, String)>> {
    let mut columns = Vec::with_capacity(ids.len());
    for (name, ids) in ids {
        if let Some(row) = (0..ids.len()).find(|row| ids.is_null(*row)) {
            return Err(Error::failed(format!(
                "column `{name}` is null at {}, so the row belongs to no trajectory",
                place(row)
            ))
            .hint("drop the row, or give it the id of its trajectory"));
        }
        columns.push(match ids.data_type() {
            DataType::Dictionary(_, values) => cast(ids, values)?,
            _ => ArrayRef::clone(ids),
        });
    }
    let options = FormatOptions::new();
    let formatters = columns
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let text = |row: usize| {
        let parts = formatters.iter().map(|text| text.value(row).to_string());
        parts.collect::<Vec<_>>().join("/")
    };
    let ranges = arrow::compute::partition(&columns)?.ranges();
    Ok(ranges
        .into_iter()
        .map(|rows| (rows.clone(), text(rows.start)))
        .collect())
}

/// The step numbers of a batch, which may be times.
pub(super) struct Numbers {
    pub(super) name: String,
    column: ArrayRef,
    /// The numbers as float64; null if they are times.
    floats: ArrayRef,
    pub(super) keys: Rows,
}

impl Numbers {
    pub(super) fn new(name: String, column: &ArrayRef) -> Result<Numbers> {
        let column = match column.data_type() {
            DataType::Dictionary(_, values) => cast(column, values)?,
            _ => ArrayRef::clone(column),
        };
        let field = SortField::new(column.data_type().clone());
        let converter = RowConverter::new(vec![field])?;
        let floats = match column.data_type().is_numeric() {
            true => cast(&column, &DataType::Float64)?,
            false => new_null_array(&DataType::Float64, column.len()),
        };
        Ok(Numbers {
            name,
            floats,
            keys: converter.convert_columns(&[ArrayRef::clone(&column)])?,
            column,
        })
    }

    /// Returns the number in `row` as text.
    pub(super) fn text(&self, row: usize) -> Result<String> {
        let options = FormatOptions::new();
        Ok(ArrayFormatter::try_new(&self.column, &options)?
            .value(row)
            .to_string())
    }

    /// Whether the number in `row` is `wanted`.
    pub(super) fn counts(&self, row: usize, wanted: usize) -> bool {
        let numbers = self.floats.as_primitive::<Float64Type>();
        numbers.is_valid(row) && numbers.value(row) == wanted as f64
    }

    /// Returns what is in `row` instead of a number; `None` if there is a number.
    pub(super) fn missing(&self, row: usize) -> Option<&'static str> {
        let is_nan = || match self.column.data_type() {
            DataType::Float64 => self
                .column
                .as_primitive::<Float64Type>()
                .value(row)
                .is_nan(),
            DataType::Float32 => self
                .column
                .as_primitive::<Float32Type>()
                .value(row)
                .is_nan(),
            _ => false,
        };
        if self.column.is_null(row) {
            Some("null")
        } else {
            is_nan().then_some("NaN")
        }
    }
}
