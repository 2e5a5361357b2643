//! robomimic's HDF5: a group per demonstration under `data`, each with `obs/*` and `next_obs/*`,
//! and filters of demonstrations under `mask`.
//!
//! Isaac Lab, mimicgen and LIBERO write the same layout. LIBERO has a file for each task: a folder
//! of files is one dataset.
//!
//! Writers of the format disagree about the meaning of `dones`, so the reader keeps it as a column.
//! A demonstration is terminated if its last `dones` is 1, and truncated if it is not. Attributes,
//! and arrays that say something once, become columns of trajectories, and filters become columns
//! `mask_NAME`. The instruction becomes the column `task`.
//!
//! Loaders accept only actions between -1 and 1. The writer divides each dimension with larger
//! actions by its maximum, which it stores in the attribute `action_scale` of `data`, and adds the
//! original actions as `actions_unscaled`. Loaders look for observations under `obs` only, so the
//! writer puts columns that are named as parts of the observation there: `observation.images.top`
//! becomes `obs/images.top`.

mod files;
mod read;
mod robosuite;
mod validate;
mod write;

use std::path::Path;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use serde_json::Value;

use crate::container::hdf5;
use crate::dataset::block::flattened;
use crate::error::Result;
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::{Reader, groups};
use crate::transfer::roundtrip::envelope;
use crate::transfer::write::{Writer, nulls};

pub(crate) use robosuite::FORMAT as ROBOSUITE;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "robomimic",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: |path| Ok(demonstrations(path)? == Some(true)),
    }),
    read: Some(Reader {
        takes: &["map"],
        open: |path, options| read::read(path, options, "obs"),
    }),
    write: Some(Writer {
        nulls: false,
        whole: Some(nulls::is_plain),
        text: false,
        takes: &["env"],
        write: write::write,
        note: Some(note),
    }),
    validate: Some(validate::validate),
};

/// The prefix of the arrays that hold what robomimic has no place for.
const PREFIX: &str = "trajmill/";

/// The attribute of a demonstration that holds what robomimic has no place for.
const OURS: &str = "trajmill";

/// The array of actions, all between -1 and 1.
const ACTIONS: &str = "actions";

/// The array of the original actions, if those of [`ACTIONS`] are scaled.
const UNSCALED: &str = "actions_unscaled";

/// The prefix of the arrays that are parts of the observation.
const PART: &str = "obs/";

/// The array that says of each action whether a model predicted it.
const PROXY: &str = "action_is_proxy";

/// Returns whether the demonstrations in the file at `path`, or in the first file of the folder at
/// `path`, have observations; `None` if there are no demonstrations.
fn demonstrations(path: &Path) -> Result<Option<bool>> {
    let (files, _) = groups::hdf5_files(path)?;
    let Some(path) = files.first() else {
        return Ok(None);
    };
    if !hdf5::is_hdf5(path)? {
        return Ok(None);
    }
    let file = hdf5::open(path)?;
    let has_observations = || -> Result<Option<bool>> {
        let Some(data) = hdf5::member(&file.root(), "data")? else {
            return Ok(None);
        };
        let groups = hdf5::groups(&data, &|_| false)?;
        let first = groups.iter().find(|(name, _)| name.starts_with("demo_"));
        first
            .map(|(_, demo)| Ok(hdf5::member(demo, "obs")?.is_some()))
            .transpose()
    };
    has_observations().map_err(|error| error.at(path.display()))
}

fn note(path: &Path) -> Result<Option<Value>> {
    envelope::note_of_hdf5(path, PREFIX)
}

/// Returns the elements of a column of vectors or numbers as float64, and the number of elements of
/// a row.
fn elements(column: &ArrayRef) -> Result<(Float64Array, usize)> {
    let (values, width) = flattened(column);
    let values = arrow::compute::cast(&values, &DataType::Float64)?;
    Ok((values.as_primitive::<Float64Type>().clone(), width.max(1)))
}
