//! The column that numbers the steps of a trajectory, or has their times.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::row::{RowConverter, Rows, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::Result;

/// The step numbers of a batch, which may be times.
pub(super) struct Numbers {
    pub(super) name: String,
    column: ArrayRef,
    /// The numbers, which can be compared.
    pub(super) keys: Rows,
}

impl Numbers {
    /// Reads the numbers of the column `name`.
    ///
    /// # Errors
    /// Returns an error if the values of the column cannot be compared.
    pub(super) fn new(name: String, column: &ArrayRef) -> Result<Numbers> {
        let column = match column.data_type() {
            DataType::Dictionary(_, values) => cast(column, values)?,
            _ => ArrayRef::clone(column),
        };
        let field = SortField::new(column.data_type().clone());
        let converter = RowConverter::new(vec![field])?;
        Ok(Numbers {
            name,
            keys: converter.convert_columns(&[ArrayRef::clone(&column)])?,
            column,
        })
    }

    /// Returns whether the numbers of `rows` count from `first`. Times do not.
    pub(super) fn count_from(&self, first: usize, rows: Range<usize>) -> bool {
        let column = self.column.slice(rows.start, rows.len());
        let Ok(numbers) = cast(&column, &DataType::Float64) else {
            return false;
        };
        let numbers = numbers.as_primitive::<Float64Type>();
        let mut counted = numbers.iter().zip(first..);
        counted.all(|(number, wanted)| number == Some(wanted as f64))
    }

    /// Returns the number in `row` as text.
    ///
    /// # Errors
    /// Returns an error if it cannot be formatted.
    pub(super) fn text(&self, row: usize) -> Result<String> {
        let options = FormatOptions::new();
        Ok(ArrayFormatter::try_new(&self.column, &options)?
            .value(row)
            .to_string())
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
