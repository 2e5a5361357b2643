//! robosuite's raw demonstrations: the layout of robomimic, with simulator states instead of
//! observations.

use super::demonstrations;
use super::read::read;
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "robosuite",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: |path| Ok(demonstrations(path)? == Some(false)),
    }),
    read: Some(Reader {
        takes: &["map"],
        open: |path, options| read(path, options, "states"),
    }),
    write: None,
    validate: None,
};
