//! The unit of a table's old timestamps, which [`int96`](crate::container::int96) describes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit, TimestampNanosecondType, TimestampSecondType};

use crate::container::int96::Units;
use crate::container::record_batches::{TableFile, damaged};
use crate::error::{Error, Result};

/// The first second after 1677 that nanoseconds hold, and the last one before 2262.
const NANOSECONDS: std::ops::RangeInclusive<i64> = -9_223_372_036..=9_223_372_035;

/// The same for microseconds.
const MICROSECONDS: std::ops::RangeInclusive<i64> = -9_223_372_036_854..=9_223_372_036_853;

/// What the values of a column need, with the first place of each need.
#[derive(Default)]
struct Needs {
    /// A date that nanoseconds do not reach.
    range: Option<String>,
    /// A time with a part of a microsecond.
    precision: Option<String>,
}

/// Returns the units for the columns `names` of the files, each of which has some of them.
///
/// # Errors
/// Returns an error if a file cannot be read, or if no unit holds the values of a column.
pub(crate) fn units(files: &[(&Path, Vec<String>)]) -> Result<Units> {
    let mut needs: BTreeMap<String, Needs> = BTreeMap::new();
    for (path, names) in files.iter().filter(|(_, names)| !names.is_empty()) {
        let all =
            |unit: TimeUnit| -> Units { names.iter().map(|name| (name.clone(), unit)).collect() };
        let batches = |unit| TableFile::Parquet.batches(path, 8192, Some(names), &all(unit));
        // Seconds hold every date. Their rest in nanoseconds is right even where those overflow.
        let (seconds, nanoseconds) = (batches(TimeUnit::Second)?, batches(TimeUnit::Nanosecond)?);
        let mut row = 0;
        for (seconds, nanoseconds) in seconds.zip(nanoseconds) {
            let seconds = seconds.map_err(|error| damaged(path, error))?;
            let nanoseconds = nanoseconds.map_err(|error| damaged(path, error))?;
            for name in names {
                let needs = needs.entry(name.clone()).or_default();
                needs.add(name, [&seconds, &nanoseconds], row, path)?;
            }
            row += seconds.num_rows();
        }
    }
    let unit = |(name, needs): (String, Needs)| match (needs.range, needs.precision) {
        (Some(range), Some(precision)) => Err(Error::failed(format!(
            "column `{name}` holds {range}, which timestamps in nanoseconds do not reach, and \
             {precision}, which timestamps in microseconds do not hold"
        ))
        .hint("round the times to microseconds in the source")),
        (Some(_), None) => Ok((name, TimeUnit::Microsecond)),
        (None, _) => Ok((name, TimeUnit::Nanosecond)),
    };
    needs.into_iter().map(unit).collect()
}

impl Needs {
    /// Adds the needs of the column `name` in a batch, which was read in seconds and in
    /// nanoseconds, and whose first row is `first` in the file at `path`.
    fn add(
        &mut self,
        name: &str,
        batches: [&RecordBatch; 2],
        first: usize,
        path: &Path,
    ) -> Result<()> {
        let column = |batch: &RecordBatch| -> Vec<ArrayRef> {
            batch.column_by_name(name).map(leaves).unwrap_or_default()
        };
        let [seconds, nanoseconds] = batches.map(column);
        for (seconds, nanoseconds) in seconds.iter().zip(&nanoseconds) {
            let (Some(seconds), Some(nanoseconds)) = (
                seconds.as_primitive_opt::<TimestampSecondType>(),
                nanoseconds.as_primitive_opt::<TimestampNanosecondType>(),
            ) else {
                continue;
            };
            // In a list or a struct, the position of a value is not its row.
            let place = |at: usize| match seconds.len() == batches[0].num_rows() {
                true => format!("row {} of {}", first + at, path.display()),
                false => path.display().to_string(),
            };
            for at in (0..seconds.len()).filter(|at| seconds.is_valid(*at)) {
                let second = seconds.value(at);
                if !NANOSECONDS.contains(&second) {
                    let date = || {
                        seconds
                            .value_as_datetime(at)
                            .map_or_else(|| format!("{second} s"), |date| date.to_string())
                    };
                    if !MICROSECONDS.contains(&second) {
                        return Err(Error::failed(format!(
                            "column `{name}` holds {} at {}, which no timestamp reaches",
                            date(),
                            place(at)
                        ))
                        .hint("correct the date in the source"));
                    }
                    self.range
                        .get_or_insert_with(|| format!("{} at {}", date(), place(at)));
                }
                let rest = nanoseconds
                    .value(at)
                    .wrapping_sub(second.wrapping_mul(1_000_000_000));
                if rest % 1000 != 0 {
                    self.precision
                        .get_or_insert_with(|| format!("{rest} ns at {}", place(at)));
                }
            }
        }
        Ok(())
    }
}

/// Returns the columns of timestamps that `column` consists of.
fn leaves(column: &ArrayRef) -> Vec<ArrayRef> {
    match column.data_type() {
        DataType::List(_) => leaves(column.as_list::<i32>().values()),
        DataType::LargeList(_) => leaves(column.as_list::<i64>().values()),
        DataType::FixedSizeList(..) => leaves(column.as_fixed_size_list().values()),
        DataType::Map(..) => column
            .as_map()
            .entries()
            .columns()
            .iter()
            .flat_map(leaves)
            .collect(),
        DataType::Struct(_) => column
            .as_struct()
            .columns()
            .iter()
            .flat_map(leaves)
            .collect(),
        DataType::Timestamp(..) => vec![Arc::clone(column)],
        _ => Vec::new(),
    }
}
