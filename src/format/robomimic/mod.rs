//! robomimic's HDF5: a group per demonstration under `data`, `obs/*` and `next_obs/*` within, filters of demonstrations
//! under `mask`.
//!
//! `dones` means different things to those who write it, so it is kept as a column; a demonstration is terminated where
//! its last `dones` is 1, else cut off. Filters come as columns `mask_NAME` of trajectories. Written: loaders take actions
//! between -1 and 1 alone, so larger ones are divided by their dimension's greatest, which the attribute `action_scale` of
//! `data` says, and `actions_unscaled` has them as they were. They look for observations under `obs` alone, so columns that
//! are called as parts of the observation are written there: `observation.images.top` as `obs/images.top`.

mod read;
mod robosuite;
mod validate;
mod write;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};

use crate::container::hdf5;
use crate::error::Result;
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;
use crate::transfer::roundtrip::envelope;
use crate::transfer::write::Writer;

pub(crate) use robosuite::FORMAT as ROBOSUITE;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "robomimic",
    about: "robomimic HDF5: a group per demonstration under data, with obs and next_obs, and masks",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: |path| demonstrations(path) == Some(true),
    }),
    read: Some(Reader {
        takes: &[],
        open: |path, options| read::read(path, options, "obs"),
    }),
    write: Some(Writer {
        nulls: false,
        takes: &["env"],
        write: write::write,
        note: Some(note),
    }),
    validate: Some(validate::validate),
};

/// Where what no array of robomimic's holds is kept: the file's in arrays, a demonstration's in an attribute.
const PREFIX: &str = "trajmill/";
const OURS: &str = "trajmill";

/// Names that the reader gives a meaning.
const ACTIONS: &str = "actions";
const UNSCALED: &str = "actions_unscaled";

/// What the names of arrays begin with that are parts of the observation.
const PART: &str = "obs/";

/// Whether each action is a model's.
const PROXY: &str = "action_is_proxy";

/// Whether the file at `path` holds demonstrations, and if so whether they have observations.
fn demonstrations(path: &Path) -> Option<bool> {
    let file = hdf5::is_hdf5(path).then(|| hdf5::open(path).ok())??;
    let data = file.group("data").ok()?;
    let first = data
        .groups()
        .ok()?
        .into_iter()
        .find(|name| name.starts_with("demo_"))?;
    Some(
        data.group(&first)
            .ok()?
            .groups()
            .ok()?
            .iter()
            .any(|name| name == "obs"),
    )
}

fn note(path: &Path) -> Option<String> {
    envelope::note_of_hdf5(path, PREFIX)
}

/// Elements of vectors or numbers as float64, and how many a row has.
fn elements(column: &ArrayRef) -> Result<(Float64Array, usize)> {
    let (values, width) = match column.as_fixed_size_list_opt() {
        Some(vectors) => {
            let width = vectors.value_length() as usize;
            (
                vectors
                    .values()
                    .slice(vectors.value_offset(0) as usize, vectors.len() * width),
                width,
            )
        }
        None => (Arc::clone(column), 1),
    };
    let values = arrow::compute::cast(&values, &DataType::Float64)?;
    Ok((values.as_primitive::<Float64Type>().clone(), width.max(1)))
}
