//! robosuite's raw demonstrations: as robomimic's, with simulator states where that has observations.

use super::{Format, Opener, robomimic};

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "robosuite",
    about: "robosuite's raw demonstrations: HDF5, states and actions of each demonstration; only read",
    detect: |path| robomimic::demonstrations(path) == Some(false),
    read: Some(Opener {
        takes: &[],
        open: |path, options| robomimic::read(path, options, "states"),
    }),
    write: None,
    validate: None,
};
