//! Columns of steps with the names of LeRobot's own numbers, such as `episode_index`, and with other
//! values.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::features::{EpisodePlace, Generated, Origin};
use super::plan::Plan;
use crate::error::Result;
use crate::transfer::write::OutgoingDataset;

/// The difference of two times, in seconds, that LeRobot's loader tolerates.
const TOLERANCE: f64 = 1e-4;

/// A column whose values differ from those of the generated feature of its name.
pub(crate) struct Renumbered {
    pub(crate) name: &'static str,
    pub(crate) has_nulls: bool,
}

/// Returns the columns of `outgoing` whose values differ from those that `plan` generates.
pub(crate) fn renumbered(outgoing: &OutgoingDataset, plan: &Plan) -> Result<Vec<Renumbered>> {
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
