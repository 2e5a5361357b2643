//! robosuite's raw demonstrations: those of robomimic, with simulator states in the place of observations.

use super::{demonstrations, read};
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "robosuite",
    about: "robosuite's raw demonstrations: HDF5, states and actions of each demonstration; only read",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: |path| Ok(demonstrations(path)? == Some(false)),
    }),
    read: Some(Reader {
        takes: &[],
        open: |path, options| read(path, options, "states"),
    }),
    write: None,
    validate: None,
};
