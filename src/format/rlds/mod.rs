//! RLDS: TFDS directories of TFRecord files, one record an episode, its steps in lists under `steps/…`.
//!
//! A step is (o_t, a_t, r_t). By the format's own rules the last step holds only the final observation and filler beside it;
//! most published sets have a true last action instead. `final_action` says which; `auto` takes an action of zeros on a step
//! with `is_last` for filler. Logs of dm_env hold (a_t, r_t) one step later: `alignment: rsa` shifts them.

mod episode;
mod features;
mod read;
mod shards;
mod write;

use std::path::{Path, PathBuf};

use crate::dataset::files;
use crate::error::Result;
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;
use crate::transfer::write::Writer;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "rlds",
    about: "RLDS: a TFDS directory with features.json and TFRecord files, one record an episode",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: |path| Ok(root(path)?.is_some()),
    }),
    read: Some(Reader {
        takes: &["map", "final_action", "alignment"],
        open: read::read,
    }),
    write: Some(Writer {
        nulls: true,
        takes: &["name"],
        write: write::write,
        note: None,
    }),
    validate: None,
};

/// Ends the name of a flag that says where a feature's value is one: records have no null.
const VALID: &str = "_valid";

/// The directory with `features.json` that `path` is or holds: below the name come a configuration and a version.
fn root(path: &Path) -> Result<Option<PathBuf>> {
    fn search(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
        if files::is_file(&path.join("features.json"))? {
            found.push(path.to_owned());
        } else if depth > 0 {
            for entry in files::list(path).map_err(|error| files::unreadable(path, &error))? {
                if files::is_dir(&entry)? {
                    search(&entry, depth - 1, found)?;
                }
            }
        }
        Ok(())
    }
    if !files::is_dir(path)? {
        return Ok(None);
    }
    let mut found = Vec::new();
    search(path, 2, &mut found)?;
    match found.as_slice() {
        [one] => Ok(Some(one.clone())),
        _ => Ok(None),
    }
}
