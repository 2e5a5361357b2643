//! Columns of steps that are named as LeRobot's own numbers, such as `episode_index`, with other
//! values.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::features::{EpisodePlace, Generated, Origin};
use super::plan::Plan;
use super::source_infos::{declared, source_infos};
use crate::error::Result;
use crate::transfer::write::{OutgoingDataset, Written};

/// The difference of two times, in seconds, that LeRobot's loader tolerates.
const TOLERANCE: f64 = 1e-4;

/// Adds features to `plan` that keep the columns whose names LeRobot uses for its own numbers. The
/// numbers of a LeRobot dataset are not kept. Both is noted in `written`.
pub(crate) fn keep_numbers(
    outgoing: &OutgoingDataset,
    plan: &mut Plan,
    written: &mut Written,
) -> Result<()> {
    let infos = source_infos(&outgoing.manifest().lineage.source_metadata);
    for Renumbered { name, has_nulls } in renumbered(outgoing, plan)? {
        // The numbers of a LeRobot dataset say what those of the output say.
        if declared(&infos, name).next().is_some() {
            written.cannot_hold(
                format!("the values of `{name}`"),
                "computed anew, because LeRobot numbers what it holds",
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
}

/// Returns the columns of `outgoing` whose values differ from those that `plan` generates.
fn renumbered(outgoing: &OutgoingDataset, plan: &Plan) -> Result<Vec<Renumbered>> {
    let has = |name: &str| outgoing.steps().index_of(name).is_ok();
    let own: Vec<usize> = (0..plan.features.len())
        .filter(|at| {
            let feature = &plan.features[*at];
            matches!(feature.from, Origin::Place(_)) && has(&feature.name)
        })
        .collect();
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let names = own.iter().map(|at| plan.features[*at].name.as_str());
    let mut reads: Vec<&str> = names.collect();
    reads.extend(plan.reads(outgoing, own.iter().copied()));
    let mut tables = plan.indices.tables();
    let mut found = vec![(false, false); own.len()];
    let (mut episode, mut first) = (0, 0);
    for trajectory in outgoing.pass(Some(&reads))? {
        let trajectory = trajectory?;
        if trajectory.length == 0 {
            continue;
        }
        let place = EpisodePlace {
            episode,
            first,
            indices: plan.indices.indices(&trajectory, &mut tables)?,
        };
        for (at, (differs, has_nulls)) in own.iter().zip(&mut found) {
            let feature = &plan.features[*at];
            if let Some(column) = trajectory.column(&feature.name) {
                *has_nulls |= column.null_count() > 0;
                *differs |= !same(&column, &feature.values(&trajectory, &place, plan.fps)?);
            }
        }
        (episode, first) = (episode + 1, first + trajectory.length as u64);
    }
    let of = |name: &str| Generated::ALL.into_iter().find(|one| one.name() == name);
    let found = own.iter().zip(found).filter(|(_, (differs, _))| *differs);
    let found = found.filter_map(|(at, (_, has_nulls))| {
        let name = of(&plan.features[*at].name)?.name();
        Some(Renumbered { name, has_nulls })
    });
    Ok(found.collect())
}

/// Whether a column has the values of a generated feature.
fn same(column: &ArrayRef, generated: &ArrayRef) -> bool {
    let numbers = |column: &ArrayRef| cast(column, &DataType::Float64).ok();
    let is_number = column.data_type().is_numeric() && column.null_count() == 0;
    let Some((column, generated)) = numbers(column).zip(numbers(generated)) else {
        return false;
    };
    let [one, other] = [&column, &generated].map(|column| column.as_primitive::<Float64Type>());
    let mut pairs = one.values().iter().zip(other.values());
    is_number && pairs.all(|(one, other)| (one - other).abs() <= TOLERANCE)
}
