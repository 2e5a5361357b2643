//! The rate of a dataset's rows, which is not that of its source if a stage left out steps.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use crate::error::{Error, Result};
use crate::format::lerobot::stated_rate::other_rate;
use crate::transfer::write::OutgoingDataset;
use crate::video::refers;

/// The column of the rows' times, in seconds.
const TIMESTAMP: &str = "timestamp";

/// The most by which a rate is rounded, relative to it: times are rounded in files.
const ROUNDED: f64 = 1e-3;

/// Rows per second, as their times state them.
#[derive(Debug, PartialEq)]
pub(crate) enum RowRate {
    /// The rate of the source, or no other: a few rows tell none.
    Source,
    /// Another rate, which all trajectories have.
    Other(f64),
    /// Different rates, each with a trajectory that has it.
    Mixed([(String, f64); 2]),
}

/// Returns the rate of the rows of `outgoing`, the sources of which have `fps` rows per second.
///
/// # Errors
/// Returns an error if the times cannot be read.
pub(crate) fn row_rate(outgoing: &OutgoingDataset, fps: f64) -> Result<RowRate> {
    let fields = outgoing.steps().fields();
    let times = fields
        .iter()
        .find(|field| field.name() == TIMESTAMP && field.data_type().is_numeric())
        .or_else(|| fields.iter().find(|field| refers(field)));
    let Some(column) = times.map(|field| field.name().as_str()) else {
        return Ok(RowRate::Source);
    };
    let mut found: Option<(String, f64)> = None;
    for trajectory in outgoing.referring(Some(&[column]))? {
        let trajectory = trajectory?;
        let times = trajectory.column(column).map(|column| seconds(&column));
        let Some(times) = times.transpose()?.flatten().filter(|times| times.len() > 2) else {
            continue;
        };
        let rows: Vec<f64> = (0..times.len()).map(|row| row as f64).collect();
        let rate = other_rate(&times, &rows, fps).map_or(fps, |rate| rounded(rate, fps));
        match &found {
            None => found = Some((trajectory.place(), rate)),
            Some((_, first)) if (rate / first - 1.0).abs() <= ROUNDED => {}
            Some(first) => {
                return Ok(RowRate::Mixed([first.clone(), (trajectory.place(), rate)]));
            }
        }
    }
    Ok(match found {
        Some((_, rate)) if rate != fps => RowRate::Other(rate),
        _ => RowRate::Source,
    })
}

/// Returns the error that trajectories have different rates.
pub(crate) fn mixed([(one, rate), (other, other_rate)]: &[(String, f64); 2]) -> Error {
    Error::failed(format!(
        "the times of the rows state {rate} steps per second in {one} and {other_rate} in {other}, \
         but a LeRobot dataset has a single `fps`"
    ))
    .hint("write them to datasets of their own, or set `fps` for all of them")
}

/// Returns times in seconds: those of rows, or of the frames they refer to. `None` if some are
/// null.
fn seconds(column: &ArrayRef) -> Result<Option<Vec<f64>>> {
    let times = match column.as_struct_opt() {
        Some(references) => references.column_by_name(TIMESTAMP),
        None => Some(column),
    };
    let Some(times) = times.filter(|times| times.null_count() + column.null_count() == 0) else {
        return Ok(None);
    };
    let times = cast(times, &DataType::Float64)?;
    Ok(Some(times.as_primitive::<Float64Type>().values().to_vec()))
}

/// Returns `fps` divided by a whole number if that is about `rate`, and else `rate` with three
/// decimals.
fn rounded(rate: f64, fps: f64) -> f64 {
    let every = (fps / rate).round();
    if every >= 1.0 && (fps / every / rate - 1.0).abs() <= ROUNDED {
        return fps / every;
    }
    (rate * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_every_second_step_is_exact() {
        assert_eq!(rounded(15.000_001, 30.0), 15.0);
        assert_eq!(rounded(14.985, 29.97), 29.97 / 2.0);
        assert_eq!(rounded(20.000_4, 30.0), 20.0);
        assert_eq!(rounded(59.999_99, 30.0), 60.0);
    }
}
