//! TF-Agents' TFRecord files: one record per step, with values as raw bytes.
//!
//! The keys are `observation`, `action`, `reward`, `discount`, `step_type` and `next_step_type`, or
//! those of transitions, under `time_step/`, `action_step/` and `next_time_step/`. Types come from
//! the file `NAME.spec` beside the records; without it, values have 32 bits.
//!
//! A step type is 0 (first), 1 (middle) or 2 (last). A record of type 2 is normally a boundary: it
//! holds the final observation, and what the reset after it gave, which is an action of zeros, or
//! no reward and a discount of 1. Some writers put the last step itself there, which has an action,
//! and a reward or an end.

mod read;
mod spec;
mod values;

use std::path::{Path, PathBuf};

use crate::dataset::files;
use crate::error::{Error, Result};
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "tfagents",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: |path| Ok(!record_files(path)?.is_empty()),
    }),
    read: Some(Reader {
        takes: &["map", "final_action"],
        open: read::read,
    }),
    write: None,
    validate: None,
};

/// Returns the TFRecord files of `path`; none if it is a TFDS directory.
fn record_files(path: &Path) -> Result<Vec<PathBuf>> {
    let named = |path: &Path| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        name.contains(".tfrecord") && !name.ends_with(".spec")
    };
    if !files::is_dir(path)? {
        return Ok(if named(path) && files::is_file(path)? {
            vec![path.to_owned()]
        } else {
            Vec::new()
        });
    }
    if files::exists(&path.join("features.json"))? {
        return Ok(Vec::new());
    }
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot list {}: {error}", path.display()));
    let mut found = files::list(path).map_err(failed)?;
    found.retain(|path| named(path));
    found.sort();
    Ok(found)
}
