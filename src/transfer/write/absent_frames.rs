//! Cameras that some trajectories do not have, in formats that have no nulls.

use std::collections::BTreeMap;

use arrow::array::Array;
use arrow::datatypes::{DataType, Field};

use crate::dataset::schema::axes;
use crate::error::Result;
use crate::transfer::write::{OutgoingDataset, Written};

/// Reports in `written` for each camera the trajectories that have no frame of it, which are
/// written as black frames.
///
/// # Errors
/// Returns an error if the dataset cannot be read.
pub(super) fn report(outgoing: &OutgoingDataset, written: &mut Written) -> Result<()> {
    let fields = outgoing.steps().fields().iter();
    let cameras = fields.filter(|field| field.is_nullable() && is_camera(field));
    let cameras: Vec<&str> = cameras.map(|field| field.name().as_str()).collect();
    if cameras.is_empty() {
        return Ok(());
    }
    // The number of trajectories without frames, and the first of them.
    let mut absent: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    for trajectory in outgoing.referring(Some(&cameras))? {
        let trajectory = trajectory?;
        for name in &cameras {
            let column = trajectory.column(name);
            if column
                .is_some_and(|frames| !frames.is_empty() && frames.null_count() == frames.len())
            {
                let first = || (0, trajectory.place());
                absent.entry(*name).or_insert_with(first).0 += 1;
            }
        }
    }
    let all = outgoing.trajectories();
    for (name, (count, first)) in absent {
        written.cannot_hold(
            format!("missing frames of `{name}` in {count} of {all} trajectories, such as {first}"),
            "black frames, which an array whose name ends in `_valid` marks",
        );
    }
    Ok(())
}

/// Whether a column holds frames as arrays: bytes of height × width × channels.
fn is_camera(field: &Field) -> bool {
    match field.data_type() {
        DataType::FixedSizeList(element, width) => {
            *element.data_type() == DataType::UInt8 && axes(field, *width).len() == 3
        }
        _ => false,
    }
}
