//! Columns of steps that have the names of LeRobot's own numbers, such as `episode_index`, and
//! other values.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::episode_pass::EpisodePass;
use super::features::Origin;
use super::plan::Plan;
use super::source_infos::{declared, source_infos};
use crate::error::Result;
use crate::transfer::write::{OutgoingDataset, Written};

/// The difference of two times, in seconds, that LeRobot's loader tolerates.
const TOLERANCE: f64 = 1e-4;

/// Adds features to `plan` that keep the columns whose names LeRobot uses for its own numbers. The
/// numbers of a LeRobot dataset are not kept. Both are noted in `written`.
pub(crate) fn keep_numbers(
    outgoing: &OutgoingDataset,
    plan: &mut Plan,
    written: &mut Written,
) -> Result<()> {
    let infos = source_infos(&outgoing.manifest().lineage.source_metadata);
    for Renumbered {
        name,
        has_nulls,
        difference,
    } in renumbered(outgoing, plan)?
    {
        if difference <= TOLERANCE {
            written.cannot_hold(
                format!("the exact values of `{name}`"),
                format!("computed anew from `fps`, which changes them by up to {difference:.0e} s"),
            );
            continue;
        }
        // The numbers of a LeRobot dataset say what those of the output say.
        if declared(&infos, name).next().is_some() {
            written.cannot_hold(
                format!("the values of `{name}`"),
                "computed anew, because they are places in the dataset that is written",
            );
            continue;
        }
        let feature = format!("source_{name}");
        written.cannot_hold(
            format!("the column `{name}`, a name of LeRobot's own numbers"),
            format!("`{feature}`"),
        );
        let field = outgoing.steps().field_with_name(name)?;
        plan.column(&feature, field, name, None, written);
        if has_nulls {
            let valid = format!("{feature}_valid");
            plan.add(valid, "bool", vec![1], Origin::Valid(name.to_owned()));
        }
    }
    plan.verify_names()
}

/// A column whose values differ from those of the generated feature of its name.
struct Renumbered {
    name: &'static str,
    has_nulls: bool,
    /// The largest difference; infinite if a value is no number.
    difference: f64,
}

/// Returns the columns of `outgoing` whose values differ from those that `plan` generates.
fn renumbered(outgoing: &OutgoingDataset, plan: &Plan) -> Result<Vec<Renumbered>> {
    let has = |name: &str| outgoing.steps().index_of(name).is_ok();
    let own = (0..plan.features.len()).filter_map(|at| match plan.features[at].from {
        Origin::Place(place) if has(place.name()) => Some((at, place.name())),
        _ => None,
    });
    let own: Vec<(usize, &'static str)> = own.collect();
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let mut reads: Vec<&str> = own.iter().map(|(_, name)| *name).collect();
    reads.extend(plan.reads(outgoing, own.iter().map(|(at, _)| *at)));
    let mut tables = plan.indices.tables();
    let mut found: Vec<Renumbered> = own
        .iter()
        .map(|(_, name)| Renumbered {
            name,
            has_nulls: false,
            difference: 0.0,
        })
        .collect();
    let mut pass = EpisodePass::start(outgoing, plan, Some(&reads), &mut tables)?;
    while let Some((trajectory, place)) = pass.next()? {
        for ((at, name), found) in own.iter().zip(&mut found) {
            if let Some(column) = trajectory.column(name) {
                let generated = plan.features[*at].values(&trajectory, &place, plan.fps)?;
                found.has_nulls |= column.null_count() > 0;
                found.difference = found.difference.max(difference(&column, &generated));
            }
        }
    }
    found.retain(|found| found.difference > 0.0);
    Ok(found)
}

/// Returns the largest difference between the values of a column and those of a generated feature
/// that is more than the rounding of float32; infinite if a value is no number.
fn difference(column: &ArrayRef, generated: &ArrayRef) -> f64 {
    let numbers = |column: &ArrayRef| cast(column, &DataType::Float64).ok();
    let is_number = column.data_type().is_numeric() && column.null_count() == 0;
    let Some((column, generated)) = numbers(column)
        .zip(numbers(generated))
        .filter(|_| is_number)
    else {
        return f64::INFINITY;
    };
    let [one, other] = [&column, &generated].map(|column| column.as_primitive::<Float64Type>());
    let pairs = one.values().iter().zip(other.values());
    let differences = pairs.map(|(one, other)| match (one - other).abs() {
        small if small <= (2.0 * f64::from(f32::EPSILON) * other.abs()).min(TOLERANCE) => 0.0,
        difference if difference.is_nan() => f64::INFINITY,
        difference => difference,
    });
    differences.fold(0.0, f64::max)
}
