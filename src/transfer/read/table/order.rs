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

/// The column whose values order the rows of a trajectory.
pub(super) struct Order {
    pub(super) name: String,
    /// Whether that is certain: the user named it, or it is called `step`. If not, its values are
    /// compared too, but some may be missing, and times may repeat.
    pub(super) is_stated: bool,
    /// Whether the rows are sorted by it; `None` if they are not sorted at all.
    pub(super) sorts: Option<bool>,
}

/// Names of columns of integers of which no two steps of a trajectory have the same value.
const COUNTERS: &[&str] = &["timestep", "t", "frame_index"];

/// The step numbers of a batch, which may be times.
pub(super) struct Numbers {
    pub(super) name: String,
    /// Whether that they order the steps is certain.
    pub(super) is_stated: bool,
    /// What to do about rows in another order.
    pub(super) remedy: String,
    /// Whether two steps may have the same.
    pub(super) may_repeat: bool,
    column: ArrayRef,
    /// The numbers as float64; null if they are times.
    floats: ArrayRef,
    pub(super) keys: Rows,
}

impl Numbers {
    pub(super) fn new(order: &Order, column: &ArrayRef) -> Result<Numbers> {
        let Order {
            name,
            is_stated,
            sorts,
        } = order;
        let remedy = match sorts {
            Some(_) => format!("sort the rows of each environment by it with `--step {name}`"),
            None => SORT.to_owned(),
        };
        let counts = column.data_type().is_integer() && COUNTERS.contains(&name.as_str());
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
            name: name.clone(),
            is_stated: *is_stated,
            remedy,
            may_repeat: !is_stated && !counts,
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

    /// Returns whether the numbers of `rows` count from `first`. Times do not.
    pub(super) fn count_from(&self, first: usize, rows: Range<usize>) -> bool {
        let numbers = self.floats.as_primitive::<Float64Type>();
        let counted = |(row, wanted): (usize, usize)| {
            numbers.is_valid(row) && numbers.value(row) == wanted as f64
        };
        rows.zip(first..).all(counted)
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
